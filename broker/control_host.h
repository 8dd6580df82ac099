/* All devices of the host, for those who ask over a socket: what no rule claims, too. From sysfs
 * attributes that don't wait for the device, and from what udev has written down. */
#pragma once

#include "broker/device.h"

/* Calls FN for every device of KIND, in udev's order (by path in sysfs). The struct has its id set
 * and nothing else. */
void host_each_device(enum device_kind kind, void (*fn)(void *data, const struct device *device),
		      void *data);
