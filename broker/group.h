/* Questions about IOMMU groups and the order of PCI devices, over what is known: nothing is looked
 * at on the host here. A group is in one VM at a time (kernel, Documentation/driver-api/vfio.rst).
 */
#pragma once

#include "broker/registry.h"

#define GROUP_WORDS_SIZE 400 /* who spoils a group, in words */

/* The next other member of DEVICE's group that is plugged in, after AT (NULL: the first), or NULL.
 */
struct device *group_next_member(const struct registry *registry, const struct device *device,
				 const struct device *at);
/* Is another device of DEVICE's group still in a VM, or on its way? The group can't be given back
 * before. */
bool group_is_in_use(const struct registry *registry, const struct device *device);
/* Is another device of DEVICE's group to be with vfio-pci, because its VM is about to be started?
 */
bool group_is_awaited(const struct registry *registry, const struct device *device);
/* Is another device of DEVICE's group kept from the host for its VM, also while that is down? It is
 * not given back with DEVICE. */
bool group_is_fenced(const struct registry *registry, const struct device *device);
/* A device of either kind that keeps DEVICE from being given back to the host, or NULL. */
const struct device *group_keeper(const struct registry *registry, const struct device *device);
/* The VM that another device of DEVICE's group is in, or on its way to, or NULL. */
struct vm *group_vm(const struct registry *registry, const struct device *device);
/* Is another device of DEVICE's group in VM, or on its way there or back? Then VM may have the
 * group open. */
bool group_is_with(const struct registry *registry, const struct device *device,
		   const struct vm *vm);
/* Is another device of DEVICE's group attached to DEVICE's VM, and stays there? Then that the group
 * is open says nothing about DEVICE. */
bool group_stays(const struct registry *registry, const struct device *device);

/* Another device of DEVICE's group that is in another VM than VM and is to go to VM too, or NULL.
 */
const struct device *group_elsewhere(const struct registry *registry, const struct device *device,
				     const struct vm *vm);
/* Another device of DEVICE's group that is just being given back to the host, or NULL: the worker
 * may take the whole group from vfio-pci for that. */
const struct device *group_on_its_way_back(const struct registry *registry,
					   const struct device *device);
/* The device that is just being prepared and that DEVICE has to wait for, or NULL: PCI devices are
 * attached to VM in the order of the rules, and one group is taken once at a time. */
const struct device *group_earlier(const struct registry *registry, const struct device *device,
				   const struct vm *vm);

/* Does VM's VMM take DEVICE while it runs? Returns true, or false with the reason and what to do in
 * REASON. */
bool group_is_taken_by(const struct registry *registry, const struct device *device,
		       const struct vm *vm, char *reason, size_t size);

/* May DEVICE's group go to VM? A member that no rule claims and that has a driver forbids it, a
 * bridge too unless it leads to another bus of PCI's, and so does one that goes elsewhere (and with
 * pciIommuSkipIfShared any other). Returns true, or false with the reason and what to do in REASON.
 * It must have been looked at (look.h). */
bool group_may_go(const struct registry *registry, const struct device *device, const struct vm *vm,
		  char *reason, size_t size);
