/* May a PCI device be given away, seen from its IOMMU group? Rules decide, before anything is
 * touched; what the host uses right now is the worker's question. */
#pragma once

#include "broker/manager.h"

/* Is every function of DEVICE's IOMMU group to go to VM as well? With pciIommuAddAll those that no
 * rule claims are added to the list of devices. Returns 0, or -EBUSY with the reason and what to do
 * in REASON. A device without a group is fine here; the worker says what to do about that. */
int claim_check_group(struct manager *manager, struct device *device, struct vm *vm, char *reason,
		      size_t size) _must_check_;

/* Is another device of DEVICE's IOMMU group still in a VM, or on its way? The group can't be given
 * back before. */
bool claim_group_in_use(struct manager *manager, const struct device *device);

/* Another device of DEVICE's IOMMU group that is in another VM than VM and is to go to VM too, or
 * NULL: a group can be in one VM at a time (kernel, Documentation/driver-api/vfio.rst). */
struct device *claim_elsewhere(struct manager *manager, const struct device *device,
			       const struct vm *vm);

/* The VM that another device of DEVICE's IOMMU group is in, or on its way to, or NULL. Borrowed. */
struct vm *claim_group_vm(struct manager *manager, const struct device *device);

/* Is another device of DEVICE's IOMMU group attached to DEVICE's VM, and stays there? Then that the
 * group is open says nothing about DEVICE. */
bool claim_group_stays(struct manager *manager, const struct device *device);

/* The PCI device that VM has been asked to let go of and has not yet, or NULL: crosvm forgets about
 * it when it gets another one meanwhile. Always NULL for a VMM that keeps a list. */
struct device *claim_leaving(struct manager *manager, const struct vm *vm);

/* The device that is just being prepared and that DEVICE has to wait for, or NULL: PCI devices are
 * attached to VM in the order of the rules, and one IOMMU group is taken once at a time. */
struct device *claim_earlier(struct manager *manager, const struct device *device,
			     const struct vm *vm);
