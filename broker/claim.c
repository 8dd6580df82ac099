/* IOMMU groups as a whole, and the order of PCI devices: see claim.h. Called by reconcile. */
#include "broker/claim.h"

#include "broker/pci.h"
#include "broker/reconcile.h"

/* Is the function at ADDRESS to go to VM, or does it make no difference to the group? */
static bool goes_along(struct manager *manager, const char *address, const struct vm *vm)
{
	struct device *other = manager_find_pci(manager, address);
	char driver[64];

	if (other && device_may_be_in(other, vm->name))
		return true;
	/* Without a driver, or with vfio-pci, it does not spoil the group. */
	return !other &&
	       (!pci_driver(address, driver, sizeof(driver)) || streq(driver, "vfio-pci"));
}

static void name_member(const char *address, char *names, size_t size)
{
	unsigned vendor = 0, model = 0;
	char name[128] = "", driver[64] = "no driver";
	size_t length = strlen(names);

	if (pci_attribute(address, "vendor", &vendor) == 0 &&
	    pci_attribute(address, "device", &model) == 0)
		pci_name(vendor, model, name, sizeof(name));
	pci_driver(address, driver, sizeof(driver));
	snprintf(names + length, size - length, "%s%s (%.60s, %s)", length ? ", " : "", address,
		 *name ? name : "?", driver);
}

int claim_check_group(struct manager *manager, struct device *device, struct vm *vm, char *reason,
		      size_t size)
{
	struct pci_group group;
	char others[400] = "";
	size_t n_others = 0;

	if (pci_get_group(device->kernel_name, &group) < 0)
		return 0;
	for (size_t i = 0; i < group.n_members; i++) {
		const char *address = group.members[i];

		if (streq(address, device->kernel_name))
			continue;
		if (device->options & DEVICE_IOMMU_ADD_ALL && !manager_find_pci(manager, address))
			manager_add_follower(manager, device, address);
		if (!(device->options & DEVICE_IOMMU_SKIP_IF_SHARED) &&
		    goes_along(manager, address, vm))
			continue;
		name_member(address, others, sizeof(others));
		n_others++;
	}
	if (n_others == 0)
		return 0;
	if (device->options & DEVICE_IOMMU_SKIP_IF_SHARED)
		snprintf(reason, size,
			 "left alone (pciIommuSkipIfShared): it shares IOMMU group %d with %s",
			 group.number, others);
	else
		snprintf(reason, size,
			 "IOMMU group %d also holds %s; say pciIommuAddAll = yes or add rules",
			 group.number, others);
	return -EBUSY;
}

/* The other devices of a device's IOMMU group that are on our list, one by one. */
struct others {
	struct manager *manager;
	const struct device *device;
	struct pci_group group;
	size_t next;
};

static struct others others_of(struct manager *manager, const struct device *device)
{
	struct others others = {.manager = manager, .device = device};

	if (pci_get_group(device->kernel_name, &others.group) < 0)
		others.group.n_members = 0;
	return others;
}

/* NULL: no more. */
static struct device *others_next(struct others *others)
{
	while (others->next < others->group.n_members) {
		struct device *other =
			manager_find_pci(others->manager, others->group.members[others->next++]);

		if (other && other != others->device)
			return other;
	}
	return NULL;
}

bool claim_group_in_use(struct manager *manager, const struct device *device)
{
	struct others others = others_of(manager, device);

	for (struct device *other; (other = others_next(&others));)
		if (other->vm)
			return true;
	return false;
}

struct device *claim_elsewhere(struct manager *manager, const struct device *device,
			       const struct vm *vm)
{
	struct others others = others_of(manager, device);

	for (struct device *other; (other = others_next(&others));)
		if (other->vm && other->vm != vm && device_may_be_in(other, vm->name))
			return other;
	return NULL;
}

struct vm *claim_group_vm(struct manager *manager, const struct device *device)
{
	struct others others = others_of(manager, device);

	for (struct device *other; (other = others_next(&others));)
		if (other->state == DEVICE_OPENING || other->state == DEVICE_ATTACHING ||
		    other->state == DEVICE_ATTACHED)
			return other->vm;
	return NULL;
}

bool claim_group_stays(struct manager *manager, const struct device *device)
{
	struct others others = others_of(manager, device);

	for (struct device *other; (other = others_next(&others));)
		if (other->vm == device->vm && other->state == DEVICE_ATTACHED)
			return true;
	return false;
}

static bool same_group(const struct device *a, const struct device *b)
{
	struct pci_group group;

	if (pci_get_group(a->kernel_name, &group) < 0)
		return false;
	for (size_t i = 0; i < group.n_members; i++)
		if (streq(group.members[i], b->kernel_name))
			return true;
	return false;
}

struct device *claim_earlier(struct manager *manager, const struct device *device,
			     const struct vm *vm)
{
	for (struct device *d = manager->devices; d; d = d->next) {
		if (d == device || d->kind != DEVICE_PCI)
			continue;
		if (d->vm == vm && d->order < device->order &&
		    (d->state == DEVICE_OPENING || d->state == DEVICE_ATTACHING))
			return d;
		if (d->state == DEVICE_OPENING && same_group(device, d))
			return d;
	}
	return NULL;
}

struct device *claim_leaving(struct manager *manager, const struct vm *vm)
{
	for (struct device *d = manager->devices; vm->vmm->is_unlisted && d; d = d->next)
		if (d->kind == DEVICE_PCI && d->vm == vm &&
		    (d->state == DEVICE_DETACHING || d->state == DEVICE_RELEASING))
			return d;
	return NULL;
}
