/* The actions that clients of vhotplug know: what they send, what they get, and the words of its
 * errors. See api.h.
 *
 * Source: vhotplug's API.md, and what it was seen to answer. A member that is null, empty or zero
 * counts as missing. Where vhotplug hangs up or answers with the words of its interpreter there is
 * an error object here. */
#include "broker/api_request.h"

#include <ctype.h>
#include <stdarg.h>

#include "broker/control_view.h"

/* Selecting a device */

/* The first device that is meant. */
struct pick {
	enum control_scope scope;
	const char *node, *address; /* one of these, */
	const char *bus, *port;     /* these two, */
	char bus_digits[24], port_digits[24];
	int64_t vendor, model; /* or these two */

	bool was_found, is_claimed;
	char id[CONTROL_ID_SIZE];
	char name[512];
	char vms[256], vm[64];
};

/* Is NUMBER what TEXT says, in decimal? */
static bool is_number(const char *text, unsigned number)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	return isdigit((unsigned char) *text) && !*end && n == number;
}

static bool is_meant(const struct pick *pick, const struct control_device *device)
{
	if (pick->node)
		return streq(device->node, pick->node);
	if (pick->address)
		return streq(device->kernel_name, pick->address);
	if (pick->bus)
		return is_number(pick->bus, device->bus) && is_number(pick->port, device->port);
	return device->vendor == pick->vendor && device->model == pick->model;
}

static void look_for(void *data, const struct control_device *device)
{
	struct pick *pick = data;

	if (pick->was_found || !is_meant(pick, device))
		return;
	pick->was_found = true;
	pick->is_claimed = device->is_claimed && !device->is_group_member;
	snprintf(pick->id, sizeof(pick->id), "%s", device->id);
	snprintf(pick->vms, sizeof(pick->vms), "%s", device->vms);
	snprintf(pick->vm, sizeof(pick->vm), "%s", device->vm);
	view_vhotplug_name(device, pick->name, sizeof(pick->name));
}

static const char *text_of(struct api_request *request, const char *key)
{
	const char *text = json_string_value(json_object_get(request->message, key));

	return text && *text ? text : NULL;
}

/* "bus" and "port": the document says strings, clients send numbers. NULL for one that is missing;
 * BUFFER is where a number's digits go. */
static const char *number_of(struct api_request *request, const char *key, char buffer[24])
{
	const json_t *value = json_object_get(request->message, key);

	if (json_is_integer(value) && json_integer_value(value) != 0) {
		snprintf(buffer, 24, "%lld", (long long) json_integer_value(value));
		return buffer;
	}
	return text_of(request, key);
}

/* Refuses members of the wrong type by name. */
static int check_types(struct api_request *request)
{
	static const char *const texts[] = {"device_node", "address", "vid", "pid",
					    "did",         "vm",      "tag"};
	const char *ignored;
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(texts); i++)
		r = api_text(request, texts[i], &ignored);
	for (size_t i = 0; r == 0 && i < 2; i++) {
		const json_t *value = json_object_get(request->message, i == 0 ? "bus" : "port");

		if (value && !json_is_null(value) && !json_is_integer(value) &&
		    !json_is_string(value))
			r = api_fail(request, -EINVAL, "\"%s\" must be a number",
				     i == 0 ? "bus" : "port");
	}
	return r;
}

/* A hexadecimal number as vhotplug's interpreter takes one: 10ec, 0x10EC, with blanks around it. */
static int read_hex(struct api_request *request, const char *text, int64_t *ret)
{
	const char *s = text + strspn(text, " \t");
	char *end;

	*ret = strtoll(s, &end, 16);
	if (end == s || end[strspn(end, " \t")])
		return api_fail(request, -EINVAL, "invalid literal for int() with base 16: '%s'",
				text);
	return 0;
}

/* Ids of USB devices are compared as text there, so anything may be asked for. */
static int64_t usb_id(const char *text)
{
	return strlen(text) == 4 && strspn(text, "0123456789abcdefABCDEF") == 4
		       ? strtoll(text, NULL, 16)
		       : -1;
}

static int find_device(struct api_request *request, struct pick *pick, const char *format, ...)
	_printf_(3, 4);
static int find_device(struct api_request *request, struct pick *pick, const char *format, ...)
{
	va_list args;

	api_each(request->api, pick->scope, look_for, pick);
	if (pick->was_found)
		return 0;
	va_start(args, format);
	vsnprintf(request->error, sizeof(request->error), format, args);
	va_end(args);
	return -ENODEV;
}

static int find_by_ids(struct api_request *request, struct pick *pick, const char *vid,
		       const char *model_key)
{
	const char *model = text_of(request, model_key);
	bool is_usb = pick->scope == CONTROL_USB;
	int r = 0;

	if (!vid || !model)
		return api_fail(request, -EINVAL, "vid and %s must be set", model_key);
	if (is_usb) {
		pick->vendor = usb_id(vid);
		pick->model = usb_id(model);
	} else {
		r = read_hex(request, vid, &pick->vendor);
		if (r == 0)
			r = read_hex(request, model, &pick->model);
	}
	return r < 0 ? r
		     : find_device(request, pick, "%s device %s:%s not found in the system",
				   is_usb ? "USB" : "PCI", vid, model);
}

/* The one device that the request is about. */
static int pick_one(struct api_request *request, struct pick *pick)
{
	if (pick->scope == CONTROL_PCI) {
		pick->address = text_of(request, "address");
		if (pick->address)
			return find_device(request, pick, "PCI device %s not found in the system",
					   pick->address);
		return find_by_ids(request, pick, text_of(request, "vid"), "did");
	}
	pick->node = text_of(request, "device_node");
	if (pick->node)
		return find_device(request, pick, "USB device %s not found in the system",
				   pick->node);
	pick->bus = number_of(request, "bus", pick->bus_digits);
	pick->port = number_of(request, "port", pick->port_digits);
	if (pick->bus && pick->port)
		return find_device(request, pick,
				   "USB device with bus %s and port %s not found in the system",
				   pick->bus, pick->port);
	pick->bus = NULL;
	return find_by_ids(request, pick, text_of(request, "vid"), "pid");
}

/* The tag that the request goes by, or NULL when something else comes first. */
static const char *tag_of(struct api_request *request)
{
	char digits[24];

	if (text_of(request, "device_node") || text_of(request, "address") ||
	    (number_of(request, "bus", digits) && number_of(request, "port", digits)))
		return NULL;
	return text_of(request, "tag");
}

/* Attach, detach */

/* May VM have it? Our config does not keep apart a targetVm and an allowedVms of one. */
static int check_vm(struct api_request *request, const struct pick *pick, const char *vm)
{
	size_t n = strlen(vm);

	if (!strchr(pick->vms, ',')) {
		if (streq(vm, pick->vms))
			return 0;
		return api_fail(request, -EINVAL, "Selected VM %s but target VM is set to %s", vm,
				pick->vms);
	}
	for (const char *s = pick->vms; *s; s += strcspn(s, ","), s += *s == ',')
		if (strcspn(s, ",") == n && strncmp(s, vm, n) == 0)
			return 0;
	return api_fail(request, -EINVAL, "Selected VM %s is not allowed", vm);
}

static int attach_one(struct api_request *request, const struct pick *pick)
{
	struct api *api = request->api;
	const char *vm = text_of(request, "vm");
	int r = 0;

	if (!pick->is_claimed)
		return api_fail(request, -ENOENT, "No VM found for %s", pick->name);
	if (vm)
		r = check_vm(request, pick, vm);
	if (r == 0)
		r = api->verbs->attach(api->data, pick->id, vm, vm && strchr(pick->vms, ','),
				       request->error, sizeof(request->error));
	if (r < 0)
		return r;
	api_events_repeat(api, pick->id);
	return api_await(request, pick->id, AWAIT_ARRIVAL, vm, false);
}

static int detach_one(struct api_request *request, const struct pick *pick)
{
	struct api *api = request->api;
	int r;

	if (!*pick->vm)
		return api_fail(request, -ENOENT, "Device %s is not attached to any VM",
				pick->name);
	r = api->verbs->detach(api->data, pick->id, false, request->error, sizeof(request->error));
	return r < 0 ? r : api_await(request, pick->id, AWAIT_LEAVE, NULL, false);
}

/* All devices of a kind with a tag. */
struct tagged {
	struct api_request *request;
	enum device_kind kind;
	const char *tag;
	bool detach;
	char (*ids)[CONTROL_ID_SIZE];
	size_t n;
};

static void collect_tagged(void *data, const struct control_device *device)
{
	struct tagged *tagged = data;

	if (device->kind != tagged->kind || !streq(device->tag, tagged->tag) ||
	    device->is_group_member || (tagged->detach && !*device->vm))
		return;
	char(*ids)[CONTROL_ID_SIZE] = reallocarray(tagged->ids, tagged->n + 1, sizeof(*ids));
	if (!ids)
		return;
	tagged->ids = ids;
	memcpy(ids[tagged->n++], device->id, CONTROL_ID_SIZE);
}

/* What does not work out for one of them is not the caller's. */
static int move_tagged(struct tagged *tagged)
{
	struct api_request *request = tagged->request;
	struct api *api = request->api;
	char error[256];
	int r = 0;

	api_each(api, CONTROL_CLAIMED, collect_tagged, tagged);
	for (size_t i = 0; r == 0 && i < tagged->n; i++) {
		const char *id = tagged->ids[i];
		int moved = tagged->detach
				    ? api->verbs->detach(api->data, id, false, error, sizeof(error))
				    : api->verbs->attach(api->data, id, NULL, false, error,
							 sizeof(error));
		if (moved < 0)
			continue;
		if (!tagged->detach)
			api_events_repeat(api, id);
		r = api_await(request, id, tagged->detach ? AWAIT_LEAVE : AWAIT_ARRIVAL, NULL,
			      true);
	}
	free(tagged->ids);
	return r;
}

static int move_device(struct api_request *request, enum device_kind kind, bool detach)
{
	struct pick pick = {.scope = kind == DEVICE_USB ? CONTROL_USB : CONTROL_PCI};
	struct tagged tagged = {.request = request, .kind = kind, .detach = detach};
	int r = check_types(request);

	if (r < 0)
		return r;
	tagged.tag = tag_of(request);
	if (tagged.tag)
		return move_tagged(&tagged);
	r = pick_one(request, &pick);
	if (r < 0)
		return r;
	return detach ? detach_one(request, &pick) : attach_one(request, &pick);
}

static int usb_attach(struct api_request *request)
{
	return move_device(request, DEVICE_USB, false);
}

static int usb_detach(struct api_request *request)
{
	return move_device(request, DEVICE_USB, true);
}

static int pci_attach(struct api_request *request)
{
	return move_device(request, DEVICE_PCI, false);
}

static int pci_detach(struct api_request *request)
{
	return move_device(request, DEVICE_PCI, true);
}

/* Lists */

struct list {
	json_t *devices;
	enum device_kind kind;
	bool skips_detached, skips_others;
	const json_t *tag;
};

/* Anything but "", 0, false and null asks for a tag, and only text can be one. */
static bool asks_for_tag(const json_t *tag)
{
	if (json_is_string(tag))
		return *json_string_value(tag);
	return tag && !json_is_null(tag) && !json_is_false(tag) &&
	       !(json_is_number(tag) && json_number_value(tag) == 0);
}

static void list_one(void *data, const struct control_device *device)
{
	struct list *list = data;
	const char *tag = json_string_value(list->tag);

	if (device->kind != list->kind || !device->is_claimed)
		return;
	if (device->is_detached ? list->skips_detached : list->skips_others)
		return;
	if (asks_for_tag(list->tag) && (!tag || !streq(tag, device->tag)))
		return;
	json_array_append_new(list->devices, view_vhotplug_listed(device));
}

/* USB devices come in udev's order, PCI devices in that of the rules. */
static int list_devices(struct api_request *request, enum device_kind kind)
{
	const json_t *disconnected = json_object_get(request->message, "disconnected");
	struct list list = {
		.devices = json_array(),
		.kind = kind,
		.skips_detached = json_is_false(disconnected),
		.skips_others = json_is_true(disconnected),
		.tag = json_object_get(request->message, "tag"),
	};

	api_each(request->api, kind == DEVICE_USB ? CONTROL_USB : CONTROL_CLAIMED, list_one, &list);
	json_object_set_new(request->answer, kind == DEVICE_USB ? "usb_devices" : "pci_devices",
			    list.devices);
	return 0;
}

static int usb_list(struct api_request *request)
{
	return list_devices(request, DEVICE_USB);
}

static int pci_list(struct api_request *request)
{
	return list_devices(request, DEVICE_PCI);
}

/* The rest */

static int usb_suspend(struct api_request *request)
{
	return api_suspend(request, 1U << DEVICE_USB, false);
}

static int usb_resume(struct api_request *request)
{
	return api_suspend(request, 1U << DEVICE_USB, true);
}

static int pci_suspend(struct api_request *request)
{
	return api_suspend(request, 1U << DEVICE_PCI, false);
}

static int pci_resume(struct api_request *request)
{
	return api_suspend(request, 1U << DEVICE_PCI, true);
}

static int enable_notifications(struct api_request *request)
{
	request->client->wants_events = true;
	return 0;
}

const struct api_action api_vhotplug_actions[] = {
	{"enable_notifications", enable_notifications, false, NULL},
	{"usb_list", usb_list, false, NULL},
	{"usb_attach", usb_attach, true, NULL},
	{"usb_detach", usb_detach, true, NULL},
	{"usb_suspend", usb_suspend, true, NULL},
	{"usb_resume", usb_resume, true, NULL},
	{"pci_list", pci_list, false, NULL},
	{"pci_attach", pci_attach, true, NULL},
	{"pci_detach", pci_detach, true, NULL},
	{"pci_suspend", pci_suspend, true, NULL},
	{"pci_resume", pci_resume, true, NULL},
	{"vmm_args", api_vmm_args, true, NULL},
	{NULL, NULL, false, NULL},
};
