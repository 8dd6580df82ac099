/* Which USB devices a VM has, or is about to have, in files that udev's rules can test: as long as
 * a device has one, its interfaces are not shut when they appear (a guest may choose another
 * configuration, which makes new ones). /run/vhotplug/given/NAME-DEVNUM, of which no two plugs of
 * one boot have the same.
 */
#pragma once

#include "helper/macro.h"

/* NAME: the device's kernel name, "1-2.3". NODE: its node, "/dev/bus/usb/BBB/DDD".
 * Return 0 or -errno. */
int grant_note(const char *name, const char *node) _must_check_;
int grant_forget(const char *name, const char *node);
