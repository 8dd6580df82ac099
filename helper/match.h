/* What vhotplug-match decides: whether one field of a rule matches the device that udevd is at.
 * The pattern comes on the command line, encoded; the device comes in the environment, by the
 * properties of the event, and from sysfs. */
#pragma once

#include "helper/macro.h"

/* Where to look; the defaults are the system's. */
struct match_places {
	const char *sysfs;   /* NULL: /sys */
	const char *modules; /* NULL: /lib/modules and the running kernel */
	const char *devpath; /* NULL: the environment's DEVPATH */
};

/* Whether the field KEY ("productName", …) with PATTERN matches. PROPERTY is the name of the
 * property for the key "value", else NULL. Both are plain text, not encoded. Returns 1 or 0, or
 * -errno with the reason in *RET_WHY, a constant text: -EINVAL for an unknown key or a bad pattern,
 * -ELOOP when the pattern needs too much work on this text, what reading sysfs says. */
int match_field(const struct match_places *places, const char *key, const char *property,
		const char *pattern, const char **ret_why) _must_check_;

#define INTERFACES_MAX 8192

/* Writes all different interfaces of the USB device, of every configuration and alternate setting,
 * as udev would in ID_USB_INTERFACES (":030102:080650:", ":" when there is none), from the
 * descriptors that the kernel has. udev's own list may lack some: what comes after the 72nd or
 * after 4096 bytes, a last one without an endpoint, and with 252 all of them when the manufacturer
 * is 64 characters that it escapes. Returns 0 or -errno; -E2BIG when they don't fit; -EBADMSG when
 * a descriptor contradicts itself. */
int match_interfaces(const struct match_places *places, char ret[INTERFACES_MAX]) _must_check_;
