/* The actions of our own sockets: what vhotplugctl asks. conf/control.schema.json says the same for
 * whoever writes a client. See api.h. */
#include "broker/api_request.h"

#include "broker/control_view.h"

/* The one device whose instance the request names. */
struct named {
	const char *id;
	bool was_found, is_in_vm;
	char vms[256];
	char name[64];
};

static void look_for(void *data, const struct control_device *device)
{
	struct named *named = data;

	if (!streq(device->id, named->id))
		return;
	named->was_found = true;
	named->is_in_vm = *device->vm;
	snprintf(named->vms, sizeof(named->vms), "%s", device->vms);
	snprintf(named->name, sizeof(named->name), "%s", device->kernel_name);
}

static int find_named(struct api_request *request, struct named *named)
{
	named->id = json_string_value(json_object_get(request->message, "device"));
	api_each(request->api, CONTROL_CLAIMED, look_for, named);
	if (named->was_found)
		return 0;
	return api_fail(request, -ENODEV,
			"no rule claims a device with the id \"%s\" (as \"list\" gives it)",
			named->id);
}

/* Is VM one of the device's? */
static int check_vm(struct api_request *request, const struct named *named, const char *vm)
{
	size_t n = strlen(vm);

	for (const char *s = named->vms; *s; s += strcspn(s, ","), s += *s == ',')
		if (strcspn(s, ",") == n && strncmp(s, vm, n) == 0)
			return 0;
	return api_fail(request, -EINVAL, "%s may not go to %s: its rule allows %s", named->name,
			vm, named->vms);
}

static int attach_to(struct api_request *request, const char *vm)
{
	struct api *api = request->api;
	struct named named = {0};
	int r = find_named(request, &named);

	if (r == 0 && vm)
		r = check_vm(request, &named, vm);
	if (r == 0)
		r = api->verbs->attach(api->data, named.id, vm, vm != NULL, request->error,
				       sizeof(request->error));
	if (r < 0)
		return r;
	api_events_repeat(api, named.id);
	return api_await(request, named.id, AWAIT_ARRIVAL, vm, false);
}

static int handle_attach(struct api_request *request)
{
	return attach_to(request, json_string_value(json_object_get(request->message, "vm")));
}

/* What is not in a VM may be kept out of it all the same. */
static int handle_detach(struct api_request *request)
{
	bool until_replug = json_is_true(json_object_get(request->message, "until_replug"));
	struct api *api = request->api;
	struct named named = {0};
	int r = find_named(request, &named);

	if (r == 0)
		r = api->verbs->detach(api->data, named.id, until_replug, request->error,
				       sizeof(request->error));
	return r < 0 ? r : api_await(request, named.id, AWAIT_LEAVE, NULL, false);
}

static int suspend_or_resume(struct api_request *request, bool resume)
{
	const char *vm = json_string_value(json_object_get(request->message, "vm"));

	if (vm && !request->api->verbs->has_vm(request->api->data, vm))
		return api_fail(request, -ENOENT, "there is no VM \"%s\" in the config", vm);
	return api_suspend(request, 1U << DEVICE_USB | 1U << DEVICE_PCI, resume);
}

static int handle_suspend(struct api_request *request)
{
	return suspend_or_resume(request, false);
}

static int handle_resume(struct api_request *request)
{
	return suspend_or_resume(request, true);
}

struct list {
	json_t *devices;
	bool is_brief;
};

static void add_device(struct list *list, const struct control_device *device)
{
	json_array_append_new(list->devices,
			      list->is_brief ? view_device_brief(device) : view_device(device));
}

static void list_one(void *data, const struct control_device *device)
{
	if (!device->is_group_member)
		add_device(data, device);
}

/* What a rule claims comes first; what only goes along with that is claimed by none itself. */
static void list_other(void *data, const struct control_device *device)
{
	if (!device->is_claimed || device->is_group_member)
		add_device(data, device);
}

static int handle_list(struct api_request *request)
{
	struct list list = {
		.devices = json_array(),
		.is_brief = json_is_true(json_object_get(request->message, "brief")),
	};

	json_object_set_new(request->answer, "devices", list.devices);
	api_each(request->api, CONTROL_CLAIMED, list_one, &list);
	if (json_is_true(json_object_get(request->message, "all"))) {
		api_each(request->api, CONTROL_USB, list_other, &list);
		api_each(request->api, CONTROL_PCI, list_other, &list);
		api_each(request->api, CONTROL_EVDEV, list_other, &list);
	}
	return 0;
}

static int handle_status(struct api_request *request)
{
	json_object_set_new(request->answer, "status",
			    request->api->verbs->status(request->api->data));
	return 0;
}

static int handle_history(struct api_request *request)
{
	struct api *api = request->api;
	json_t *rows = NULL;
	int r;

	if (!request->client->may_read_history)
		return api_fail(request, -EPERM,
				"not permitted: only root, and the groups in \"group\" and "
				"\"controlGroup\" of vhotplug.conf, may read the history");
	r = api->verbs->history(api->data, request->message, &rows, request->error,
				sizeof(request->error));
	if (r == 0)
		json_object_set_new(request->answer, "history", rows);
	return r;
}

static int handle_reload(struct api_request *request)
{
	return request->api->verbs->reload(request->api->data, request->error,
					   sizeof(request->error));
}

static int handle_watch(struct api_request *request)
{
	request->client->wants_events = true;
	return 0;
}

const struct api_action api_own_actions[] = {
	{"list", handle_list, false, "all:boolean brief:boolean"},
	{"status", handle_status, false, ""},
	{"history", handle_history, false,
	 "limit:integer after:integer since:integer device:string vm:string"},
	{"watch", handle_watch, false, ""},
	{"attach", handle_attach, true, "device:string! vm:string"},
	{"detach", handle_detach, true, "device:string! until_replug:boolean"},
	{"suspend", handle_suspend, true, "vm:string"},
	{"resume", handle_resume, true, "vm:string"},
	{"reload", handle_reload, true, ""},
	{NULL, NULL, false, NULL},
};
