/* Devices as JSON: as vhotplug's clients know them, and as vhotplugctl does. New references, or
 * NULL without memory. */
#pragma once

#include "broker/control_verbs.h"
#include "helper/macro.h"

/* What vhotplug calls its dictionary of a USB or PCI device. */
json_t *view_vhotplug(const struct control_device *device);
/* The same, with allowed_vms and vm, as in its lists. */
json_t *view_vhotplug_listed(const struct control_device *device);
/* The name it has in errors: "0627:0001 (Maker Product)". */
void view_vhotplug_name(const struct control_device *device, char *ret_name, size_t size);

/* All that is known, for our own sockets. */
json_t *view_device(const struct control_device *device);
/* Of that, what a table shows: an array of the device's place, its name, its ids, the VM it is for,
 * its state, its tag, each a text and perhaps empty, and since when (ms since 1970). For a list
 * that people wait for: it costs a third of the other one to read. */
json_t *view_device_brief(const struct control_device *device);

/* The VMs in the comma-separated VMS, as an array. */
json_t *view_vms(const char *vms);
/* MS since 1970 as ISO 8601 in UTC. */
json_t *view_time(uint64_t ms);
