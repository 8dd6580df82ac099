/* What udev says of a device, by event or in its database, becomes facts: parsed once, at the edge.
 */
#pragma once

#include "broker/device.h"
#include "broker/udev.h"

/* Which kind of device we can move this is (enum device_kind), or -1. */
int properties_kind(property_fn property, void *from);

/* Sets who the new DEVICE is, whose devpath and inode are set; also looks at sysfs. */
void properties_read_identity(struct device *device, property_fn property, void *from);
/* The part of it that is not on record: class, serial number, and how its maker and itself are
 * called. */
void properties_read_description(struct device *device, property_fn property, void *from);
/* Sets what is wanted of DEVICE. Returns whether the rule or its VMs have changed. */
bool properties_read_wish(struct device *device, property_fn property, void *from);
