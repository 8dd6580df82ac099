/* What udev's rules must know of a USB device, in files that they can test:
 * /run/vhotplug/given/NAME-DEVNUM and refused/NAME-DEVNUM. No two plugs of one boot have the same.
 * And what the next broker must know of a PCI device that was taken from the host: given/ADDRESS-0,
 * which goes with it; and of one of both kinds that the host needs: needed/….
 */
#pragma once

#include "helper/macro.h"

enum mark {
	MARK_GIVEN,   /* a VM has it, or is about to: its interfaces are not shut when they appear
		       * (a guest may choose another configuration, which makes new ones) */
	MARK_REFUSED, /* the host uses it: its disks are not fenced */
	MARK_NEEDED,  /* the host's only default route went through it when it was refused: for the
		       * next look */
};

/* NAME: the device's kernel name, "1-2.3". NODE: its node, "/dev/bus/usb/BBB/DDD"; "" for PCI.
 * Return 0 or -errno. */
int mark_set(enum mark mark, const char *name, const char *node) _must_check_;
int mark_clear(enum mark mark, const char *name, const char *node);
/* False also where that can't be told. */
bool mark_is_set(enum mark mark, const char *name, const char *node);
