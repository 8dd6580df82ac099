/* IOMMU groups as a whole: see group.h. Called by decide and handover. */
#include "broker/group.h"

static bool is_same_group(const struct device *a, const struct device *b)
{
	return a != b && a->id.kind == DEVICE_PCI && b->id.kind == DEVICE_PCI && a->id.group >= 0 &&
	       a->id.group == b->id.group;
}

struct device *group_next_member(const struct registry *registry, const struct device *device,
				 const struct device *at)
{
	for (struct device *d = at ? at->next : registry->devices; d; d = d->next)
		if (is_same_group(device, d) && d->wish.present)
			return d;
	return NULL;
}

bool group_is_in_use(const struct registry *registry, const struct device *device)
{
	for (struct device *d = NULL; (d = group_next_member(registry, device, d));)
		if (d->place.vm)
			return true;
	return false;
}

bool group_is_awaited(const struct registry *registry, const struct device *device)
{
	for (struct device *d = NULL; (d = group_next_member(registry, device, d));)
		if (d->wish.prepare)
			return true;
	return false;
}

bool group_is_fenced(const struct registry *registry, const struct device *device)
{
	for (struct device *d = NULL; (d = group_next_member(registry, device, d));)
		if (d->wish.rule[0] && !d->wish.unfenced && !d->wish.held &&
		    d->record.state != DEVICE_REFUSED)
			return true;
	return false;
}

const struct device *group_keeper(const struct registry *registry, const struct device *device)
{
	struct device *d = NULL;

	/* One that is refused, or taken out by hand, does not get ready for its VM. */
	while ((d = group_next_member(registry, device, d)) && !d->place.vm &&
	       !(d->wish.prepare && d->wish.rule[0] && d->wish.away == AWAY_NOT &&
		 d->record.state != DEVICE_REFUSED))
		;
	return d;
}

struct vm *group_vm(const struct registry *registry, const struct device *device)
{
	for (struct device *d = NULL; (d = group_next_member(registry, device, d));)
		if (d->record.state == DEVICE_OPENING || d->record.state == DEVICE_ATTACHING ||
		    d->record.state == DEVICE_ATTACHED)
			return d->place.vm;
	return NULL;
}

bool group_is_with(const struct registry *registry, const struct device *device,
		   const struct vm *vm)
{
	for (struct device *d = NULL; (d = group_next_member(registry, device, d));)
		if (vm && d->place.vm == vm)
			return true;
	return false;
}

bool group_stays(const struct registry *registry, const struct device *device)
{
	for (struct device *d = NULL; (d = group_next_member(registry, device, d));)
		if (d->place.vm == device->place.vm && d->record.state == DEVICE_ATTACHED)
			return true;
	return false;
}

const struct device *group_elsewhere(const struct registry *registry, const struct device *device,
				     const struct vm *vm)
{
	for (struct device *d = NULL; (d = group_next_member(registry, device, d));)
		if (d->place.vm && d->place.vm != vm && device_may_be_in(d, vm->name))
			return d;
	return NULL;
}

const struct device *group_on_its_way_back(const struct registry *registry,
					   const struct device *device)
{
	struct device *d = NULL;

	while ((d = group_next_member(registry, device, d)) && !d->attempt.back.is_asked)
		;
	return d;
}

const struct device *group_earlier(const struct registry *registry, const struct device *device,
				   const struct vm *vm)
{
	for (struct device *d = registry->devices; d; d = d->next) {
		bool is_attaching = d->record.state == DEVICE_ATTACHING;
		bool is_opening = d->record.state == DEVICE_OPENING;

		if (d == device || d->id.kind != DEVICE_PCI || (!is_opening && !is_attaching))
			continue;
		if (d->place.vm == vm && d->wish.order < device->wish.order)
			return d;
		if (is_opening && is_same_group(device, d))
			return d;
	}
	return NULL;
}

/* The card that VM has had from us while it ran, other than DEVICE, or NULL. */
static const struct device *find_kept(const struct registry *registry, const struct device *device,
				      const struct vm *vm)
{
	for (const struct device *d = registry->devices; d; d = d->next)
		if (d != device && d->id.kind == DEVICE_PCI && d->place.vm == vm &&
		    !d->place.is_cold)
			return d;
	return NULL;
}

bool group_is_taken_by(const struct registry *registry, const struct device *device,
		       const struct vm *vm, char *reason, size_t size)
{
	if (!vm->vmm || !vm->vmm->keeps_one_card)
		return true;
	if (vm->vmm->takes_card && !vm->vmm->takes_card(vm, device, reason, size))
		return false;
	const struct device *kept = find_kept(registry, device, vm);
	if (!kept)
		return true;
	snprintf(reason, size,
		 "%s has %s, and takes one card while it runs; start it with --vfio for this one",
		 vm->name, kept->id.kernel_name);
	return false;
}

static void add_member(const struct device *member, char *names, size_t size)
{
	size_t length = strlen(names);

	snprintf(names + length, size - length, "%s%s (%.60s, for %.60s)", length ? ", " : "",
		 member->id.kernel_name, member->id.name,
		 member->wish.rule[0] ? member->wish.vms : "the host");
}

/* Another device of DEVICE's group that is held, and so the host's, or NULL. */
static const struct device *find_held(const struct registry *registry, const struct device *device)
{
	struct device *d = NULL;

	while ((d = group_next_member(registry, device, d)) && (!d->wish.held || d->place.vm))
		;
	return d;
}

bool group_may_go(const struct registry *registry, const struct device *device, const struct vm *vm,
		  char *reason, size_t size)
{
	const struct device *held = find_held(registry, device);

	if (held) {
		snprintf(reason, size,
			 "%s (%.60s) of its IOMMU group is the host's (attachConnected = no); "
			 "attach that one as well",
			 held->id.kernel_name, held->id.name);
		return false;
	}
	if (device->attempt.group.bridge[0]) {
		snprintf(reason, size,
			 "IOMMU group %d also holds the bridge %s, which is never given away; "
			 "unbind it from its driver",
			 device->id.group, device->attempt.group.bridge);
		return false;
	}
	bool goes_alone = device->wish.options & OPTION_IOMMU_SKIP_IF_SHARED;
	char others[GROUP_WORDS_SIZE];

	snprintf(others, sizeof(others), "%s", device->attempt.group.strangers);
	for (struct device *d = NULL; (d = group_next_member(registry, device, d));)
		if (goes_alone || !device_may_be_in(d, vm->name))
			add_member(d, others, sizeof(others));
	if (!others[0])
		return true;
	if (goes_alone)
		snprintf(reason, size,
			 "left alone (pciIommuSkipIfShared): it shares IOMMU group %d with %s",
			 device->id.group, others);
	else
		snprintf(reason, size,
			 "IOMMU group %d also holds %s; say pciIommuAddAll = yes or add rules",
			 device->id.group, others);
	return false;
}
