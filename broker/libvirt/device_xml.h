/* Devices in libvirt's XML: what to hand over, and what a domain has of ours.
 *
 * Source: libvirt, "Domain XML format", hostdev and input elements, alias (user aliases start with
 * "ua-" and have letters, digits, '-' and '_').
 */
#pragma once

#include <stddef.h>

#include "helper/macro.h"

#define ALIAS_PREFIX "ua-vhp-"

/* Where a device is on the host. A USB device goes by bus and device number, so that a twin is
 * never taken for it, and by vendor and product besides, so that nothing else is that has this
 * number by the time that a saved domain is restored. */
struct device_xml {
	const char *kind;     /* usb, pci, evdev */
	const char *alias;    /* starts with ALIAS_PREFIX */
	unsigned bus, device; /* usb */
	const char *ids;      /* usb: 046d:c52b */
	const char *address;  /* pci: 0000:03:00.0; the domain may have more digits */
	const char *node;     /* evdev: the event node */
};

/* The element to attach; free it. NULL with errno: EINVAL when a member is missing, has characters
 * that don't belong there, or the kind is none; ENOMEM. */
char *device_xml_write(const struct device_xml *device) _must_check_;

/* The aliases in a domain's XML that start with ALIAS_PREFIX: *RET_ALIASES has *RET_N of them; free
 * each and the array. Returns 0 or -errno (-EBADMSG: it is no XML); nothing is touched then. */
int device_xml_aliases(const char *xml, char ***ret_aliases, size_t *ret_n) _must_check_;
/* Those of them that libvirt calls missing: it has found no such device on the host, and has asked
 * QEMU for one without saying which. */
int device_xml_missing(const char *xml, char ***ret_aliases, size_t *ret_n) _must_check_;
