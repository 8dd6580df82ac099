/* Devices as JSON: see control_view.h. Used by the sockets' two dialects. */
#include "broker/control_view.h"

#include <time.h>

/* "" is how we say that there is none; others say null. */
static json_t *text_or_null(const char *text)
{
	return *text ? json_string(text) : json_null();
}

static json_t *hex_text(unsigned number)
{
	return json_sprintf("%04x", number);
}

static json_t *upper_hex(unsigned number)
{
	return json_sprintf("%04X", number);
}

static json_t *view_usb(const struct control_device *d)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:i, s:i, s:i, s:o, s:o, s:s}",
			 "device_node", text_or_null(d->node), "vid", hex_text(d->vendor), "pid",
			 hex_text(d->model), "vendor_name", text_or_null(d->vendor_name),
			 "product_name", text_or_null(d->model_name), "interfaces",
			 text_or_null(d->interfaces), "device_class", (int) d->class,
			 "device_subclass", (int) d->subclass, "device_protocol", (int) d->protocol,
			 "busnum", (int) d->bus, "devnum", (int) d->number, "portnum",
			 d->port > 0 ? json_integer((int) d->port) : json_null(), "serial",
			 text_or_null(d->serial), "sys_name", d->kernel_name);
}

static json_t *view_pci(const struct control_device *d)
{
	return json_pack("{s:s, s:o, s:i, s:i, s:o, s:o, s:o, s:o, s:i, s:i, s:i, s:o, s:o}",
			 "address", d->kernel_name, "driver", text_or_null(d->driver), "vendor_id",
			 (int) d->vendor, "device_id", (int) d->model, "vid", upper_hex(d->vendor),
			 "did", upper_hex(d->model), "vendor_name", text_or_null(d->vendor_name),
			 "device_name", text_or_null(d->model_name), "pci_class", (int) d->class,
			 "pci_subclass", (int) d->subclass,
			 /* It takes four bits of the eight. */
			 "pci_prog_if", (int) (d->protocol & 0xf), "pci_subsystem_vendor_id",
			 upper_hex(d->subsystem_vendor), "pci_subsystem_id",
			 upper_hex(d->subsystem));
}

json_t *view_vhotplug(const struct control_device *device)
{
	return device->kind == DEVICE_PCI ? view_pci(device) : view_usb(device);
}

json_t *view_vms(const char *vms)
{
	json_t *array = json_array();

	while (array && *vms) {
		size_t n = strcspn(vms, ",");

		if (n > 0)
			json_array_append_new(array, json_stringn(vms, n));
		vms += n + (vms[n] == ',');
	}
	return array;
}

json_t *view_vhotplug_listed(const struct control_device *device)
{
	json_t *view = view_vhotplug(device);

	if (device->is_group_member)
		json_object_set_new(view, "iommu_member", json_true());
	json_object_set_new(view, "allowed_vms", view_vms(device->vms));
	json_object_set_new(view, "vm", text_or_null(device->vm));
	return view;
}

static const char *or_none(const char *text)
{
	return *text ? text : "None";
}

void view_vhotplug_name(const struct control_device *d, char *ret_name, size_t size)
{
	if (d->kind == DEVICE_PCI)
		snprintf(ret_name, size, "%s %04X:%04X (%s %s)", d->kernel_name, d->vendor,
			 d->model, or_none(d->vendor_name), or_none(d->model_name));
	else
		snprintf(ret_name, size, "%04x:%04x (%s %s)", d->vendor, d->model,
			 or_none(d->vendor_name), or_none(d->model_name));
}

json_t *view_time(uint64_t ms)
{
	time_t seconds = (time_t) (ms / 1000);
	struct tm tm;
	char text[32];

	if (ms == 0 || !gmtime_r(&seconds, &tm))
		return json_null();
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	return json_sprintf("%s.%03uZ", text, (unsigned) (ms % 1000));
}

static void add_identity(json_t *view, const struct control_device *d)
{
	json_object_set_new(view, "id", json_string(d->id));
	json_object_set_new(view, "kind", json_string(device_kind_name(d->kind)));
	json_object_set_new(view, "device", json_string(d->kernel_name));
	json_object_set_new(view, "devpath", json_string(d->devpath));
	json_object_set_new(view, "node", text_or_null(d->node));
	json_object_set_new(view, "name", json_string(d->name));
	json_object_set_new(view, "serial", text_or_null(d->serial));
	if (d->kind == DEVICE_EVDEV)
		return;
	json_object_set_new(view, "vid", hex_text(d->vendor));
	json_object_set_new(view, "pid", hex_text(d->model));
	json_object_set_new(view, "class",
			    json_sprintf("%02x/%02x/%02x", d->class, d->subclass, d->protocol));
	json_object_set_new(view, "interfaces", text_or_null(d->interfaces));
}

json_t *view_device(const struct control_device *d)
{
	json_t *view = json_object();

	add_identity(view, d);
	json_object_set_new(view, "claimed", json_boolean(d->is_claimed));
	if (!d->is_claimed)
		return view;
	json_object_set_new(view, "rule", text_or_null(d->rule));
	json_object_set_new(view, "tag", text_or_null(d->tag));
	json_object_set_new(view, "vms", view_vms(d->vms));
	json_object_set_new(view, "chosen", text_or_null(d->chosen));
	json_object_set_new(view, "detached", json_boolean(d->is_detached));
	json_object_set_new(view, "vm", text_or_null(d->vm));
	json_object_set_new(view, "wanted_vm", text_or_null(d->wanted_vm));
	json_object_set_new(view, "state", json_string(d->state));
	json_object_set_new(view, "reason", json_string(d->reason));
	json_object_set_new(view, "since", view_time(d->since));
	return view;
}

json_t *view_device_brief(const struct control_device *d)
{
	char ids[16] = "";
	const char *texts[] = {d->kernel_name,
			       d->name,
			       ids,
			       d->is_claimed ? d->wanted_vm : "",
			       d->is_claimed ? d->state : "",
			       d->is_claimed ? d->tag : ""};
	json_t *row = json_array();

	if (d->kind != DEVICE_EVDEV)
		snprintf(ids, sizeof(ids), "%04x:%04x", d->vendor, d->model);
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		json_array_append_new(row, json_string(texts[i]));
	json_array_append_new(row, json_integer((json_int_t) (d->is_claimed ? d->since : 0)));
	return row;
}
