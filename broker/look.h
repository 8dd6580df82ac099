/* What the host's sysfs says right now about a device: the facts that change while it is here. The
 * steps look (handover.h), decide goes by what they have found.
 */
#pragma once

#include "broker/device.h"
#include "helper/macro.h"

/* The number of DEVICE's IOMMU group, or -1. */
int look_up_group(const struct device *device);

/* Sets the node of the USB device DEVICE anew if it is a wrong one. While the kernel resets a
 * device its number is 0, and so is the name of the node in an event that is made then. Source:
 * kernel, drivers/usb/core/hub.c, hub_set_address. */
void look_up_node(struct device *device);

/* Calls FN with the address of every other function of DEVICE's IOMMU group; bridges do not count.
 * Returns 0, also where there is no group; -errno: it can't be told now who is in it. */
int look_at_members(const struct device *device, void (*fn)(void *data, const char *address),
		    void *data) _must_check_;

/* Is there a bridge in DEVICE's IOMMU group whose driver keeps the group from VMs? Then NAMES gets
 * it, like look_describe. */
bool look_for_bridge(const struct device *device, char *names, size_t size);

/* Appends "ADDRESS (NAME, DRIVER)" to the list NAMES. */
void look_describe(const char *address, char *names, size_t size);

/* Would taking the function at ADDRESS take something from the host? Not without a driver, nor from
 * vfio-pci. */
bool look_host_uses(const char *address);

/* Notes the host driver that the PCI function DEVICE is to be taken from; "" when there is none. */
void look_at_pci_driver(struct device *device);
