/* Events: what has changed since those who want to know were told last. Nothing is noted while
 * nobody wants to know; whoever asks first is told of what changes from then on. Used by api.c. */
#include "broker/api_request.h"

#include "broker/control_view.h"

/* What has been told of one device. */
struct api_told {
	char id[CONTROL_ID_SIZE];
	enum device_kind kind;
	char vm[64];
	bool repeats; /* where it is has been asked for: it is told again */
	bool asks;    /* somebody has been asked to choose a VM */
	char state[24], reason[VMM_DETAIL_SIZE];
	uint64_t since;
	json_t *view;  /* as vhotplug has it */
	bool was_seen; /* in this pass */
};

static bool is_wanted(const struct api *api)
{
	for (struct control_client *c = control_clients(api->control); c; c = c->next)
		if (c->wants_events)
			return true;
	return false;
}

/* Takes over EVENT, for the clients of DIALECT. */
static void tell_clients(struct api *api, enum control_dialect dialect, json_t *event)
{
	struct control_client *next;

	for (struct control_client *c = control_clients(api->control); event && c; c = next) {
		next = c->next;
		if (c->wants_events && c->dialect == dialect)
			api_send_event(c, event);
	}
	json_decref(event);
}

/* vhotplug has no events for input devices. KIND, WHAT: usb, attached. */
static void tell_vhotplug(struct api *api, enum device_kind kind, const char *what, json_t *view,
			  const char *more, json_t *value)
{
	const char *name = kind == DEVICE_USB ? "usb" : "pci";
	json_t *event;

	if (kind == DEVICE_EVDEV) {
		json_decref(value);
		return;
	}
	event = json_pack("{s:o, s:O}", "event", json_sprintf("%s_%s", name, what),
			  kind == DEVICE_USB ? "usb_device" : "pci_device", view);
	if (value)
		json_object_set_new(event, more, value);
	tell_clients(api, CONTROL_VHOTPLUG, event);
}

/* When a device leaves, vhotplug says no more of it than where it was. */
static json_t *view_of_leaver(const struct api_told *told, bool has_gone)
{
	const char *key = told->kind == DEVICE_USB ? "device_node" : "address";

	if (told->kind == DEVICE_PCI && !has_gone)
		return json_incref(told->view);
	return json_pack("{s:O}", key, json_object_get(told->view, key));
}

static void tell_detached(struct api *api, struct api_told *told)
{
	json_t *view = view_of_leaver(told, false);

	if (*told->vm)
		tell_vhotplug(api, told->kind, "detached", view, "vm", json_string(told->vm));
	told->vm[0] = 0;
	json_decref(view);
}

static void tell_gone(struct api *api, struct api_told *told)
{
	json_t *view = view_of_leaver(told, true);

	tell_detached(api, told);
	tell_vhotplug(api, told->kind, "disconnected", view, NULL, NULL);
	tell_clients(api, CONTROL_OWN,
		     json_pack("{s:s, s:s}", "event", "gone", "device", told->id));
	json_decref(view);
}

static struct api_told *find_told(struct api *api, const char *id)
{
	for (size_t i = 0; i < api->n_told; i++)
		if (streq(api->told[i].id, id))
			return &api->told[i];
	return NULL;
}

static struct api_told *add_told(struct api *api, const struct control_device *device)
{
	struct api_told *bigger = reallocarray(api->told, api->n_told + 1, sizeof(*bigger)), *told;

	if (!bigger)
		return NULL;
	api->told = bigger;
	told = &bigger[api->n_told++];
	memset(told, 0, sizeof(*told));
	snprintf(told->id, sizeof(told->id), "%s", device->id);
	told->kind = device->kind;
	told->view = view_vhotplug(device);
	return told;
}

/* The same place in every state of a device: what it was, what it is. One that is on its way from
 * where it was is told again when it has arrived. */
static void tell_vm(struct api *api, struct api_told *told, const struct control_device *device)
{
	if (*told->vm && !streq(told->vm, device->vm))
		tell_detached(api, told);
	if (device->asks && !told->asks)
		tell_vhotplug(api, device->kind, "select_vm", told->view, "allowed_vms",
			      view_vms(device->vms));
	if (*device->vm && (!*told->vm || (told->repeats && !device->is_busy)))
		tell_vhotplug(api, device->kind, "attached", told->view, "vm",
			      json_string(device->vm));
}

static bool has_changed(const struct api_told *told, const struct control_device *device)
{
	return !streq(told->state, device->state) || !streq(told->reason, device->reason) ||
	       !streq(told->vm, device->vm) || told->since != device->since;
}

static void tell_state(struct api *api, struct api_told *told, const struct control_device *device)
{
	if (!has_changed(told, device))
		return;
	tell_clients(api, CONTROL_OWN,
		     json_pack("{s:s, s:o}", "event", "changed", "device", view_device(device)));
}

/* The host's driver is another one by now; and so is the node of one that was being reset when it
 * came (look.h). Once it has gone nobody can tell any more. */
static void renew_view(struct api_told *told, const struct control_device *device)
{
	if (!told->repeats && !has_changed(told, device))
		return;
	json_decref(told->view);
	told->view = view_vhotplug(device);
}

static void note_device(struct api_told *told, const struct control_device *device)
{
	snprintf(told->vm, sizeof(told->vm), "%s", device->vm);
	snprintf(told->state, sizeof(told->state), "%s", device->state);
	snprintf(told->reason, sizeof(told->reason), "%s", device->reason);
	told->asks = device->asks;
	told->repeats = told->repeats && device->is_busy;
	told->since = device->since;
}

static void compare_device(void *data, const struct control_device *device)
{
	struct api *api = data;
	struct api_told *told = find_told(api, device->id);
	bool is_new = !told;

	if (is_new)
		told = add_told(api, device);
	if (!told)
		return;
	if (api->has_told && is_new && !device->is_group_member)
		tell_vhotplug(api, device->kind, "connected", told->view, NULL, NULL);
	if (api->has_told) {
		renew_view(told, device);
		tell_vm(api, told, device);
		tell_state(api, told, device);
	}
	note_device(told, device);
}

static void mark_seen(void *data, const struct control_device *device)
{
	struct api_told *told = find_told(data, device->id);

	if (told)
		told->was_seen = true;
}

/* Who comes back at once comes back as another: the one before has gone first. */
static void drop_unseen(struct api *api)
{
	size_t kept = 0;

	for (size_t i = 0; i < api->n_told; i++) {
		struct api_told *told = &api->told[i];

		if (!told->was_seen) {
			tell_gone(api, told);
			json_decref(told->view);
			continue;
		}
		told->was_seen = false;
		api->told[kept++] = *told;
	}
	api->n_told = kept;
}

void api_events_pass(struct api *api)
{
	if (!is_wanted(api)) {
		api_events_forget(api);
		return;
	}
	api_each(api, CONTROL_CLAIMED, mark_seen, api);
	drop_unseen(api);
	api_each(api, CONTROL_CLAIMED, compare_device, api);
	api->has_told = true;
}

void api_events_repeat(struct api *api, const char *id)
{
	struct api_told *told = find_told(api, id);

	if (told)
		told->repeats = true;
}

void api_events_forget(struct api *api)
{
	for (size_t i = 0; i < api->n_told; i++)
		json_decref(api->told[i].view);
	free(api->told);
	api->told = NULL;
	api->n_told = 0;
	api->has_told = false;
}
