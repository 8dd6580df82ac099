/* The lists of devices, VMs and families: see registry.h. */
#include "broker/registry.h"

#define FAMILY_MS 10000 /* a device that comes back so soon under another name is the same one */

static size_t chain_of(const char *devpath)
{
	return kept_hash(devpath) % REGISTRY_CHAINS;
}

struct device *registry_find_next(const struct registry *registry, const char *devpath,
				  const struct device *after)
{
	struct device *d = after ? after->next_in_path : registry->by_path[chain_of(devpath)];

	while (d && !streq(d->id.devpath, devpath))
		d = d->next_in_path;
	return d;
}

struct device *registry_find(const struct registry *registry, const char *devpath, uint64_t inode)
{
	for (struct device *d = NULL; (d = registry_find_next(registry, devpath, d));)
		if (d->id.inode == inode)
			return d;
	return NULL;
}

struct device *registry_find_unsettled(const struct registry *registry, const struct device *after)
{
	if (!after)
		return registry->touched ? registry->touched : registry->unsettled;
	return after->stir.next || !after->stir.is_touched ? after->stir.next : registry->unsettled;
}

struct device *registry_find_pci(const struct registry *registry, const char *address)
{
	for (struct device *d = registry->devices; d; d = d->next)
		if (d->id.kind == DEVICE_PCI && d->wish.present &&
		    streq(d->id.kernel_name, address))
			return d;
	return NULL;
}

struct device *registry_find_request(const struct registry *registry, uint64_t number)
{
	for (struct device *d = NULL; (d = registry_find_unsettled(registry, d));)
		if (d->attempt.request == number)
			return d;
	return NULL;
}

struct vm *registry_find_vm(const struct registry *registry, const char *name)
{
	for (struct vm *vm = registry->vms; vm; vm = vm->next)
		if (streq(vm->name, name))
			return vm;
	return NULL;
}

struct vm *registry_find_cold(const struct registry *registry, const struct device *device,
			      const struct cold **ret_cold)
{
	for (struct vm *vm = registry->vms; vm; vm = vm->next)
		for (size_t i = 0; i < vm->cold.n && vm->state == VM_UP; i++) {
			/* A VM says what it likes, and has no say over what is not for it. */
			if (!cold_is(&vm->cold.items[i], device) ||
			    !device_may_be_found_in(device, vm->name))
				continue;
			*ret_cold = &vm->cold.items[i];
			return vm;
		}
	return NULL;
}

void registry_add(struct registry *registry, struct device *device)
{
	struct device **path = &registry->by_path[chain_of(device->id.devpath)];

	device->at = registry->last ? registry->last : &registry->devices;
	*device->at = device;
	registry->last = &device->next;
	while (*path)
		path = &(*path)->next_in_path;
	*path = device;
	device->arrival = registry->n_arrivals++;
	device->attempt.node_fd = -1;
	device->stir.touched = &registry->touched;
	device_mark(device);
}

void registry_remove(struct registry *registry, struct device *device)
{
	struct device **path = &registry->by_path[chain_of(device->id.devpath)];

	*device->at = device->next;
	if (device->next)
		device->next->at = device->at;
	else
		registry->last = device->at;
	while (*path != device)
		path = &(*path)->next_in_path;
	*path = device->next_in_path;
	device_stir_to(device, NULL);
	loop_timer_stop(&device->again);
	device_finish(device);
	free(device);
}

void registry_settle(struct registry *registry)
{
	for (struct device *d = registry->touched, *next; d; d = next) {
		next = d->stir.next;
		/* Nothing is moved yet. */
		if (d->marked)
			continue;
		d->stir.is_touched = false;
		device_stir_to(d, device_is_at_rest(d) ? NULL : &registry->unsettled);
	}
}

void registry_mark_of_vm(struct registry *registry, const char *name)
{
	for (struct device *d = registry->devices; d; d = d->next)
		if ((d->place.vm && streq(d->place.vm->name, name)) || device_may_be_in(d, name))
			device_mark(d);
}

void registry_mark_pci(struct registry *registry, const struct device *except)
{
	for (struct device *d = registry->devices; d; d = d->next)
		if (d != except && d->id.kind == DEVICE_PCI)
			device_mark(d);
}

void registry_note_room(struct registry *registry, const struct vm *vm)
{
	for (struct device *d = NULL, *next = registry_find_unsettled(registry, NULL);
	     (d = next);) {
		struct device_move *move = &d->attempt.move;

		next = registry_find_unsettled(registry, d);
		if (streq(move->failed, vm->name) && move->was_full) {
			kept_drop(&move->failed);
			device_retry(d);
		} else if (!d->place.vm && device_may_be_in(d, vm->name) &&
			   d->record.state != DEVICE_REFUSED) {
			d->attempt.n_retries = 0;
			device_retry(d);
		}
	}
}

/* A stick in its boot loader, say: it leaves and comes back on the same port with other ids. */
void registry_remember_family(struct registry *registry, const struct device *device)
{
	struct family *family;

	enum device_state state = device->record.state;

	/* One that is to leave its VM, as somebody wants, does not come back to it. */
	if (!device->wish.family[0] || !device->place.vm || state == DEVICE_DETACHING ||
	    state == DEVICE_RELEASING)
		return;
	family = &registry->families[registry->next_family++ % REGISTRY_FAMILIES];
	snprintf(family->devpath, sizeof(family->devpath), "%s", device->id.devpath);
	snprintf(family->name, sizeof(family->name), "%s", device->wish.family);
	snprintf(family->vm, sizeof(family->vm), "%s", device->place.vm->name);
	family->left = now_monotonic_ms();
}

const struct family *registry_join_family(struct registry *registry, struct device *device)
{
	struct device_wish *wish = &device->wish;
	const struct family *joined = NULL;

	for (size_t i = 0; wish->family[0] && i < REGISTRY_FAMILIES; i++) {
		const struct family *family = &registry->families[i];

		if (streq(family->name, wish->family) &&
		    streq(family->devpath, device->id.devpath) &&
		    now_monotonic_ms() - family->left <= FAMILY_MS)
			joined = family;
	}
	if (joined) {
		kept_set(&wish->family_vm, joined->vm);
		kept_set(&wish->vms, joined->vm);
	}
	return joined;
}

void registry_follow(struct device *device, const struct device *leader)
{
	struct device_wish *wish = &device->wish;

	kept_set(&wish->leader, leader->id.devpath);
	kept_set(&wish->rule, leader->wish.rule);
	kept_set(&wish->vms, leader->wish.vms);
	kept_set(&wish->config, leader->wish.config);
	wish->options = leader->wish.options;
	wish->unfenced = leader->wish.unfenced;
	wish->order = leader->wish.order;
	wish->away = leader->wish.away;
	kept_set(&wish->chosen, leader->wish.chosen);
	kept_set(&wish->tag, leader->wish.tag);
	wish->skips_suspend = leader->wish.skips_suspend;
}
