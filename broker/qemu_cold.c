/* Devices of the host that a QEMU has under names of somebody else's: from its command line, or
 * from another client of its monitor. What they are is in their QOM properties. See qemu.h.
 *
 * Source: QEMU, hw/usb/host-libusb.c, hw/vfio/pci.c, hw/input/virtio-input-host.c,
 * ui/input-linux.c; device_del takes a QOM path for what has no id (softmmu/qdev-monitor.c). */
#include "broker/qemu.h"

#include "helper/root.h"

static const struct {
	const char *name;
	unsigned kinds; /* 1 << enum device_kind */
} properties[QEMU_COLD_PROPERTIES] = {
	[QEMU_COLD_BUS] = {"hostbus", 1u << DEVICE_USB},
	[QEMU_COLD_ADDRESS] = {"hostaddr", 1u << DEVICE_USB},
	[QEMU_COLD_VENDOR] = {"vendorid", 1u << DEVICE_USB},
	[QEMU_COLD_PRODUCT] = {"productid", 1u << DEVICE_USB},
	[QEMU_COLD_ATTACHED] = {"attached", 1u << DEVICE_USB},
	[QEMU_COLD_PORT] = {"hostport", 1u << DEVICE_USB},
	[QEMU_COLD_NODE] = {"hostdevice", 1u << DEVICE_USB},
	[QEMU_COLD_HOST] = {"host", 1u << DEVICE_PCI},
	[QEMU_COLD_SYSFS] = {"sysfsdev", 1u << DEVICE_PCI},
	[QEMU_COLD_EVDEV] = {"evdev", 1u << DEVICE_EVDEV},
};

static const struct {
	const char *type;
	enum device_kind kind;
} types[] = {
	{"child<usb-host>", DEVICE_USB},
	{"child<vfio-pci>", DEVICE_PCI},
	{"child<vfio-pci-nohotplug>", DEVICE_PCI},
	{"child<virtio-input-host-pci>", DEVICE_EVDEV},
	{"child<virtio-input-host-pci-transitional>", DEVICE_EVDEV},
	{"child<virtio-input-host-pci-non-transitional>", DEVICE_EVDEV},
	{"child<virtio-input-host-device>", DEVICE_EVDEV},
	{"child<input-linux>", DEVICE_EVDEV},
};

static bool find_kind(const char *type, enum device_kind *ret_kind)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (streq(types[i].type, type)) {
			*ret_kind = types[i].kind;
			return true;
		}
	return false;
}

static void property_reply(void *data, const json_t *reply, const char *error_class,
			   const char *text)
{
	struct qemu_cold_ask *ask = data;
	struct qemu_cold *cold = ask->cold;

	if (qemu_op_reply(cold->op, reply, error_class, text)) {
		cold->numbers[ask->property] =
			json_is_true(reply) ? 1 : (long) json_integer_value(reply);
		if (json_is_string(reply))
			snprintf(cold->texts[ask->property], sizeof(cold->texts[0]), "%s",
				 json_string_value(reply));
	}
	qemu_op_continue(cold->op);
}

static void status_reply(void *data, const json_t *reply, const char *error_class, const char *text)
{
	struct qemu_op *op = data;

	if (qemu_op_reply(op, reply, error_class, text))
		op->qemu->is_paused = json_is_false(json_object_get(reply, "running"));
	qemu_op_continue(op);
}

/* Room for what is found next. NULL: no memory. */
static struct qemu_cold *next_found(struct qemu *qemu)
{
	struct qemu_cold **cold = &qemu->found_cold[qemu->n_found_cold];

	if (!*cold)
		*cold = calloc(1, sizeof(**cold));
	if (*cold)
		qemu->n_found_cold++;
	return *cold;
}

bool qemu_cold_ask(struct qemu_op *op, const char *parent, const char *name, const char *type)
{
	struct qemu *qemu = op->qemu;
	bool is_named = streq(parent, "/machine/peripheral");
	struct qemu_cold *cold;
	enum device_kind kind;
	char path[200];

	if (!find_kind(type, &kind))
		return false;
	if (qemu->n_found_cold >= QEMU_MAX_COLD ||
	    snprintf(path, sizeof(path), "%s/%s", parent, name) >= (int) sizeof(cold->handle))
		return true;
	if (kind == DEVICE_USB)
		qemu_op_command(op, "query-status", NULL, status_reply, op);
	cold = next_found(qemu);
	if (!cold) {
		op_set_result(&op->base, VMM_RETRY, strerror(ENOMEM));
		return true;
	}
	*cold = (struct qemu_cold){.op = op, .kind = kind};
	snprintf(cold->handle, sizeof(cold->handle), "%.95s", is_named ? name : path);
	for (unsigned i = 0; i < QEMU_COLD_PROPERTIES; i++) {
		if (!(properties[i].kinds & 1u << kind))
			continue;
		cold->asks[i] = (struct qemu_cold_ask){.cold = cold, .property = i};
		qemu_op_command(
			op, "qom-get",
			json_pack("{s:s, s:s}", "path", path, "property", properties[i].name),
			property_reply, &cold->asks[i]);
	}
	return true;
}

/* It is the VM's word: no way to another place in the file system. */
static bool is_one_name(const char *text)
{
	return *text && !strchr(text, '/');
}

static bool has_ids(const char *device, const struct qemu_cold *found)
{
	char vendor[16], product[16];

	return root_read(vendor, sizeof(vendor), "/sys/bus/usb/devices/%s/idVendor", device) == 0 &&
	       root_read(product, sizeof(product), "/sys/bus/usb/devices/%s/idProduct", device) ==
		       0 &&
	       strtol(vendor, NULL, 16) == found->numbers[QEMU_COLD_VENDOR] &&
	       strtol(product, NULL, 16) == found->numbers[QEMU_COLD_PRODUCT];
}

/* Of two of the same make nobody can tell which one it has. */
static void find_by_ids(const struct qemu_cold *found, struct cold *cold)
{
	DIR *dir = root_opendir("/sys/bus/usb/devices");
	struct dirent *entry;
	unsigned n = 0;

	while (dir && (entry = readdir(dir)))
		if (!strchr(entry->d_name, ':') && has_ids(entry->d_name, found) && n++ == 0)
			snprintf(cold->kernel_name, sizeof(cold->kernel_name), "%.63s",
				 entry->d_name);
	if (dir)
		closedir(dir);
	if (n != 1)
		cold->kernel_name[0] = 0;
}

/* QEMU looks for the device of a usb-host itself, again and again, but only while its guest runs.
 * One that has none then is no word on what is plugged in; until then it means what is there. */
static bool will_be_taken(const struct qemu *qemu, const struct cold *cold)
{
	return qemu->is_paused && (!cold->node[0] || root_exists("%s", cold->node) == 0) &&
	       (!cold->kernel_name[0] ||
		root_exists("/sys/bus/usb/devices/%s", cold->kernel_name) == 0);
}

static void describe_usb(const struct qemu *qemu, const struct qemu_cold *found, struct cold *cold)
{
	long bus = found->numbers[QEMU_COLD_BUS];

	cold_set_node(cold, "/dev/bus/usb/", found->texts[QEMU_COLD_NODE]);
	if (bus && found->numbers[QEMU_COLD_ADDRESS])
		snprintf(cold->node, sizeof(cold->node), "/dev/bus/usb/%03ld/%03ld", bus,
			 found->numbers[QEMU_COLD_ADDRESS]);
	if (bus && is_one_name(found->texts[QEMU_COLD_PORT]))
		snprintf(cold->kernel_name, sizeof(cold->kernel_name), "%ld-%.50s", bus,
			 found->texts[QEMU_COLD_PORT]);
	if (!cold->node[0] && !cold->kernel_name[0])
		find_by_ids(found, cold);
	if (!found->numbers[QEMU_COLD_ATTACHED] && !will_be_taken(qemu, cold))
		cold->node[0] = cold->kernel_name[0] = 0;
}

static void describe_pci(const struct qemu_cold *found, struct cold *cold)
{
	const char *host = found->texts[QEMU_COLD_HOST], *path = found->texts[QEMU_COLD_SYSFS];
	const char *last = strrchr(path, '/');

	if (is_one_name(host) && strchr(host, ':') &&
	    root_exists("/sys/bus/pci/devices/%s", host) == 0)
		snprintf(cold->kernel_name, sizeof(cold->kernel_name), "%.63s", host);
	else if (last)
		snprintf(cold->kernel_name, sizeof(cold->kernel_name), "%.63s", last + 1);
}

void qemu_cold_note(struct qemu *qemu)
{
	struct cold_list *list = &qemu->vm->cold;

	cold_clear(list);
	for (size_t i = 0; i < qemu->n_found_cold; i++) {
		const struct qemu_cold *found = qemu->found_cold[i];
		struct cold cold = {.kind = found->kind};

		snprintf(cold.handle, sizeof(cold.handle), "%s", found->handle);
		switch (found->kind) {
		case DEVICE_USB:
			describe_usb(qemu, found, &cold);
			break;
		case DEVICE_PCI:
			describe_pci(found, &cold);
			break;
		case DEVICE_EVDEV:
			cold_set_node(&cold, "/dev/input/", found->texts[QEMU_COLD_EVDEV]);
			break;
		}
		cold_add(list, &cold);
	}
}
