/* The host's devices without udev's library: all of them for those who ask over a socket, what no
 * rule claims, too. From sysfs attributes that don't wait for the device, and from what udev has
 * written down. */
#pragma once

#include "broker/device.h"

/* Calls FN for every device of KIND, in udev's order (by path in sysfs). The struct has its id set
 * and nothing else. */
void host_each_device(enum device_kind kind, void (*fn)(void *data, const struct device *device),
		      void *data);

/* Sets what properties_read_description does, of a DEVICE that is on record, or that has come
 * without udev's words; one that has gone stays as it is. */
void host_describe_device(struct device *device);
