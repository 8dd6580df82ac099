/* libudev, behind one file: what udev's database says of devices. The rules have put the decision
 * there; nothing is matched here. */
#pragma once

#include <stdint.h>

#include "helper/macro.h"

/* A property of a device, or NULL; borrowed. */
typedef const char *(*property_fn)(void *device, const char *key);

/* Called for each device; DEVICE is for PROPERTY and only during the call. */
typedef void (*udev_device_fn)(void *data, const char *devpath, property_fn property, void *device);

/* Lists the devices that a rule claims now: those with the tag vhotplug (which sticks) and the
 * property VHOTPLUG_RULE (which does not). Returns 0 or -errno. */
int udev_list_claimed(udev_device_fn fn, void *data) _must_check_;

enum udev_claim {
	UDEV_UNKNOWN, /* not in udev's database (after a synthetic remove), or it can't be read now
		       */
	UDEV_CLAIMED,
	UDEV_UNCLAIMED,
};
/* What udev's database says of the device at DEVPATH. */
enum udev_claim udev_get_claim(const char *devpath);
