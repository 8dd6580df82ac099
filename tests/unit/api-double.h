/* A broker that consists of a list of devices, for tests of the API: its verbs succeed at once. The
 * devices come as JSON, with the names that the API gives their fields. Include after cmocka.h. */
#pragma once

#include "broker/api.h"

#define DOUBLE_MAX 1100

struct double_device {
	struct control_device view;
	json_t *json; /* holds the strings */
	char vm[64], chosen[64], driver[32];
	bool asks, skips;
};

struct double_broker {
	struct double_device devices[DOUBLE_MAX]; /* by kernel name */
	size_t n;
	unsigned plugged;
	bool is_stuck; /* what is to move is under way for ever */
	char refusal[64];
	json_t *query;       /* of the history, borrowed */
	unsigned history_us; /* that it takes */
	unsigned reloads;
};

static const char *double_text(const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text ? text : "";
}

static unsigned double_number(const json_t *json, const char *key)
{
	return (unsigned) json_integer_value(json_object_get(json, key));
}

static unsigned double_hex(const json_t *json, const char *key)
{
	return (unsigned) strtoul(double_text(json, key), NULL, 16);
}

static void double_fill_usb(struct control_device *v, const json_t *json)
{
	v->kind = DEVICE_USB;
	v->kernel_name = double_text(json, "sys_name");
	v->model_name = double_text(json, "product_name");
	v->vendor = double_hex(json, "vid");
	v->model = double_hex(json, "pid");
	v->class = double_number(json, "device_class");
	v->subclass = double_number(json, "device_subclass");
	v->protocol = double_number(json, "device_protocol");
	v->bus = double_number(json, "busnum");
	v->number = double_number(json, "devnum");
	v->port = double_number(json, "portnum");
}

static void double_fill_pci(struct control_device *v, const json_t *json)
{
	v->kind = DEVICE_PCI;
	v->kernel_name = double_text(json, "address");
	v->model_name = double_text(json, "device_name");
	v->vendor = double_number(json, "vendor_id");
	v->model = double_number(json, "device_id");
	v->class = double_number(json, "pci_class");
	v->subclass = double_number(json, "pci_subclass");
	v->protocol = double_number(json, "pci_prog_if");
	v->subsystem_vendor = double_hex(json, "pci_subsystem_vendor_id");
	v->subsystem = double_hex(json, "pci_subsystem_id");
}

static void double_update(struct double_device *d)
{
	d->view.asks = d->asks && !*d->vm && !*d->chosen && !d->view.is_detached;
	d->view.state = *d->vm ? "attached" : d->view.asks ? "choose" : "waiting";
}

static void double_set(struct double_device *d, const json_t *json)
{
	if (json_object_get(json, "vm"))
		snprintf(d->vm, sizeof(d->vm), "%s", double_text(json, "vm"));
	if (json_object_get(json, "detached"))
		d->view.is_detached = json_is_true(json_object_get(json, "detached"));
	if (json_object_get(json, "suspended"))
		d->view.is_suspended = json_is_true(json_object_get(json, "suspended"));
	if (json_object_get(json, "busy"))
		d->view.is_busy = json_is_true(json_object_get(json, "busy"));
	if (json_object_get(json, "driver"))
		snprintf(d->driver, sizeof(d->driver), "%s", double_text(json, "driver"));
	double_update(d);
}

static struct double_device *double_find(struct double_broker *broker, const char *name)
{
	for (size_t i = 0; i < broker->n; i++)
		if (streq(broker->devices[i].view.kernel_name, name) ||
		    streq(broker->devices[i].view.id, name))
			return &broker->devices[i];
	return NULL;
}

/* Strings point into the struct: it moves with care. */
static void double_link(struct double_device *d)
{
	d->view.vm = d->view.wanted_vm = d->vm;
	d->view.chosen = d->chosen;
	d->view.driver = d->driver;
}

static void double_plug(struct double_broker *broker, json_t *json)
{
	struct double_device d = {.json = json_incref(json)};
	size_t at = 0;

	if (json_object_get(json, "address"))
		double_fill_pci(&d.view, json);
	else
		double_fill_usb(&d.view, json);
	snprintf(d.view.id, sizeof(d.view.id), "%s@%u", d.view.kernel_name, ++broker->plugged);
	d.view.devpath = "/devices/x";
	d.view.node = double_text(json, "device_node");
	d.view.name = d.view.vendor_name = double_text(json, "vendor_name");
	d.view.serial = double_text(json, "serial");
	d.view.interfaces = double_text(json, "interfaces");
	d.view.tag = double_text(json, "tag");
	d.view.vms = double_text(json, "vms");
	d.view.rule = "usb/group/rule";
	d.view.reason = "";
	d.view.is_claimed = *d.view.vms;
	d.asks = json_is_true(json_object_get(json, "ask"));
	d.skips = json_is_true(json_object_get(json, "skip"));
	assert_true(broker->n < DOUBLE_MAX);
	while (at < broker->n &&
	       strcmp(broker->devices[at].view.kernel_name, d.view.kernel_name) < 0)
		at++;
	memmove(&broker->devices[at + 1], &broker->devices[at],
		(broker->n - at) * sizeof(*broker->devices));
	broker->devices[at] = d;
	broker->n++;
	for (size_t i = 0; i < broker->n; i++)
		double_link(&broker->devices[i]);
	double_set(&broker->devices[at], json);
}

static inline void double_unplug(struct double_broker *broker, const char *name)
{
	struct double_device *d = double_find(broker, name);
	size_t at = (size_t) (d - broker->devices);

	json_decref(d->json);
	broker->n--;
	memmove(d, d + 1, (broker->n - at) * sizeof(*d));
	for (size_t i = 0; i < broker->n; i++)
		double_link(&broker->devices[i]);
}

static void double_each(void *data, enum control_scope scope, control_device_fn fn, void *fn_data)
{
	struct double_broker *broker = data;

	for (size_t i = 0; i < broker->n; i++) {
		const struct control_device *view = &broker->devices[i].view;
		bool is_kind = scope == CONTROL_USB     ? view->kind == DEVICE_USB
			       : scope == CONTROL_PCI   ? view->kind == DEVICE_PCI
			       : scope == CONTROL_EVDEV ? false
							: view->is_claimed;
		if (is_kind)
			fn(fn_data, view);
	}
}

static int double_attach(void *data, const char *id, const char *vm, bool is_kept, char *error,
			 size_t size)
{
	struct double_broker *broker = data;
	struct double_device *d = double_find(broker, id);

	if (broker->refusal[0]) {
		snprintf(error, size, "%s", broker->refusal);
		return -EBUSY;
	}
	if (vm && is_kept)
		snprintf(d->chosen, sizeof(d->chosen), "%s", vm);
	d->view.is_detached = d->view.is_suspended = false;
	if (!broker->is_stuck)
		snprintf(d->vm, sizeof(d->vm), "%.*s", vm ? 63 : (int) strcspn(d->view.vms, ","),
			 vm           ? vm
			 : *d->chosen ? d->chosen
				      : d->view.vms);
	d->view.is_busy = broker->is_stuck;
	double_update(d);
	return 0;
}

static int double_detach(void *data, const char *id, bool until_replug, char *error, size_t size)
{
	struct double_device *d = double_find(data, id);

	(void) until_replug, (void) error, (void) size;
	d->vm[0] = 0;
	d->view.is_detached = true;
	double_update(d);
	return 0;
}

static void double_suspend(void *data, const char *vm, unsigned kinds)
{
	struct double_broker *broker = data;

	for (size_t i = 0; i < broker->n; i++) {
		struct double_device *d = &broker->devices[i];

		if (!*d->vm || d->skips || (vm && !streq(vm, d->vm)) ||
		    !(kinds & (1U << d->view.kind)))
			continue;
		/* Where it comes back to. */
		memcpy(d->chosen, d->vm, sizeof(d->chosen));
		d->vm[0] = 0;
		d->view.is_suspended = true;
		double_update(d);
	}
}

static void double_resume(void *data, const char *vm, unsigned kinds)
{
	struct double_broker *broker = data;

	for (size_t i = 0; i < broker->n; i++) {
		struct double_device *d = &broker->devices[i];

		if (!d->view.is_suspended || (vm && !streq(vm, d->chosen)) ||
		    !(kinds & (1U << d->view.kind)))
			continue;
		memcpy(d->vm, d->chosen, sizeof(d->vm));
		d->view.is_suspended = false;
		double_update(d);
	}
}

static bool double_has_vm(void *data, const char *vm)
{
	(void) data;
	return streq(vm, "vm1") || streq(vm, "vm2") || streq(vm, "left") || streq(vm, "right") ||
	       streq(vm, "win10");
}

static bool double_takes_args(void *data, const char *vm)
{
	(void) data;
	return !streq(vm, "win10");
}

static void double_prepare(void *data, const char *vm,
			   void (*await)(void *await_data, const char *id), void *await_data)
{
	struct double_device *card = double_find(data, "0000:00:07.0");

	if (card && streq(vm, "vm1"))
		await(await_data, card->view.id);
}

static json_t *double_args(void *data, const struct control_args *args)
{
	struct double_device *card = double_find(data, "0000:00:07.0");
	json_t *list = json_array();

	if (!card || !(streq(args->vm, "vm1") || streq(args->vm, "left")))
		return list;
	json_array_append_new(list, json_string("-device"));
	json_array_append_new(list, json_sprintf("vfio-pci,host=0000:00:07.0,multifunction=on,"
						 "id=vhp-pci-%u",
						 args->start));
	json_array_append_new(list, json_string("-device"));
	json_array_append_new(list, json_sprintf("virtio-input-host-pci,evdev=/dev/input/event3,"
						 "id=vhp-evdev-%u",
						 args->start));
	return list;
}

static json_t *double_status(void *data)
{
	(void) data;
	return json_pack("{s:s, s:[{s:s}, {s:s}, {s:s}, {s:s}]}", "version", "double", "vms",
			 "name", "vm1", "name", "vm2", "name", "left", "name", "right");
}

static int double_history(void *data, const json_t *query, json_t **ret_rows, char *error,
			  size_t size)
{
	struct double_broker *broker = data;

	(void) error, (void) size;
	usleep(broker->history_us);
	json_decref(broker->query);
	broker->query = json_deep_copy(query);
	*ret_rows = json_array();
	return 0;
}

static int double_reload(void *data, char *error, size_t size)
{
	struct double_broker *broker = data;

	(void) error, (void) size;
	broker->reloads++;
	return 0;
}

static const struct control_verbs double_verbs = {
	.each = double_each,
	.attach = double_attach,
	.detach = double_detach,
	.suspend = double_suspend,
	.resume = double_resume,
	.has_vm = double_has_vm,
	.takes_args = double_takes_args,
	.prepare = double_prepare,
	.vmm_args = double_args,
	.status = double_status,
	.history = double_history,
	.reload = double_reload,
};
