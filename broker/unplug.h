/* A device that a VM has is pulled out: seen in the kernel's own words, before udev has any.
 *
 * The worker opens the device's node once more, for reading only, apart from what the VMM has: so
 * it claims no interface and grabs no input. Nothing is read from it, and it costs nothing until it
 * hangs up, which neither a reset nor a suspend makes it do. Where there is no such descriptor
 * (PCI; a node that could not be opened) the remove event tells, as it does of every other device.
 * Sources: kernel, drivers/usb/core/devio.c, usbdev_poll; drivers/input/evdev.c, evdev_poll.
 *
 * PCI has nothing of the kind: the kernel itself asks the VMM to let go of a function that leaves,
 * and it is there until that has. Source: kernel, drivers/vfio/pci, VFIO_PCI_REQ_ERR_IRQ.
 */
#pragma once

#include "broker/registry.h"

/* DEVICE is not plugged in any more, as far as we know: a fact, and a mark. Twice is fine. */
void unplug_note(struct registry *registry, struct device *device);

/* Notes DEVICE's unplug when FD (taken over; -1: it could not be opened) hangs up. */
void unplug_watch(struct registry *registry, struct device *device, int fd);
/* Closes it. */
void unplug_ignore(struct device *device);
