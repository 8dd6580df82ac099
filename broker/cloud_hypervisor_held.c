/* Which of our devices a cloud-hypervisor holds on to: see cloud_hypervisor_held.h. Called by
 * vmm_cloud_hypervisor.c. */
#include "broker/cloud_hypervisor_held.h"

#include "broker/cloud_hypervisor_info.h"

static void note_listed(struct ch_held *held, const json_t *device)
{
	const char *path = json_string_value(json_object_get(device, "path"));
	struct ch_listed *listed = &held->listed[held->n_listed++];

	ch_address_in(path ? path : "", listed->address, sizeof(listed->address));
	listed->group = *listed->address ? vfio_group_of(listed->address) : -EINVAL;
}

int ch_held_read(struct ch_held *ret_held, pid_t pid, const json_t *info)
{
	const json_t *devices = ch_devices_of(info), *device;
	size_t i;

	if (json_array_size(devices) > CH_MAX_LISTED ||
	    json_object_size(json_object_get(info, "device_tree")) > CH_MAX_NODES)
		return -E2BIG;
	ret_held->info = info;
	ret_held->is_unseen = pid == 0;
	ret_held->n_listed = 0;
	vfio_groups_read(pid, &ret_held->open);
	json_array_foreach(devices, i, device)
	{
		note_listed(ret_held, device);
	}
	return 0;
}

/* Is the VM to have another function of GROUP than the one at ADDRESS? Then that the group is open
 * says nothing about that one. */
static bool is_shared(const struct ch_held *held, int group, const char *address)
{
	for (size_t i = 0; i < held->n_listed; i++)
		if (held->listed[i].group == group && !streq(held->listed[i].address, address))
			return true;
	return false;
}

int ch_held_has(const struct ch_held *held, const char *handle)
{
	char address[PCI_ADDRESS_SIZE];

	if (held->is_unseen || !ch_address_of(handle, address, sizeof(address)))
		return ch_find_registered(held->info, handle) != NULL;
	int group = vfio_group_of(address);
	if (group < 0)
		return group == -ENODEV ? 0 : group;
	int r = vfio_groups_have(&held->open, group);
	if (r > 0 && is_shared(held, group, address))
		return ch_find_registered(held->info, handle) != NULL;
	return r;
}

bool ch_held_has_leftover(const struct ch_held *held)
{
	return held->open.has_container && held->open.n == 0 && held->n_listed == 0;
}

void ch_held_explain(const struct ch_held *held, int r, const char *otherwise, char *ret_text,
		     size_t size)
{
	const char *state = json_string_value(json_object_get(held->info, "state"));

	if (r < 0)
		snprintf(ret_text, size, "can't tell whether its guest has let go of it: %.80s",
			 vfio_groups_explain(r));
	else
		snprintf(ret_text, size, "%s",
			 state && streq(state, "Paused") ? "the VM is paused" : otherwise);
}

static int add_handle(struct ch_handles *handles, const char *handle)
{
	for (size_t i = 0; i < handles->n; i++)
		if (streq(handles->items[i], handle))
			return 0;
	if (handles->n == CH_MAX_HANDLES)
		return -E2BIG;
	snprintf(handles->items[handles->n++], sizeof(handles->items[0]), "%s", handle);
	return 0;
}

/* NAME, if it is ours. That of a function which IS_LISTED in the config is the VM's anyway. */
static int add_name(struct ch_handles *handles, const struct ch_held *held, const char *name,
		    bool is_listed)
{
	char handle[sizeof(handles->items[0])];

	if (!name || !startswith(name, CH_PREFIX))
		return 0;
	ch_handle_of(name, handle, sizeof(handle));
	return is_listed || ch_held_has(held, handle) != 0 ? add_handle(handles, handle) : 0;
}

int ch_held_list(const struct ch_held *held, struct ch_handles *ret_handles)
{
	const json_t *devices = ch_devices_of(held->info), *device;
	json_t *tree = json_object_get(held->info, "device_tree"), *node;
	const char *name;
	size_t i;
	int r = 0;

	ret_handles->n = 0;
	json_array_foreach(devices, i, device)
	{
		name = json_string_value(json_object_get(device, "id"));
		if (r == 0)
			r = add_name(ret_handles, held, name, true);
	}
	ret_handles->n_listed = ret_handles->n;
	json_object_foreach(tree, name, node)
	{
		if (r == 0)
			r = add_name(ret_handles, held, name, false);
	}
	return r;
}

bool ch_handles_leave(const struct ch_handles *handles, const char *handle)
{
	for (size_t i = handles->n_listed; i < handles->n; i++)
		if (streq(handles->items[i], handle))
			return true;
	return false;
}
