/* udev's properties become a device: see properties.h. Called by the edges. */
#include "broker/properties.h"

#include "broker/log.h"
#include "broker/look.h"
#include "broker/pci.h"
#include "conf/ini.h"
#include "conf/options.h"
#include "helper/root.h"
#include "helper/text.h"

/* A text attribute of the device; "" when it has none. */
static void read_attribute(const char *devpath, const char *attribute, char *ret, size_t size)
{
	if (root_read(ret, size, "/sys%s/%s", devpath, attribute) < 0)
		*ret = 0;
}

/* The device's own word under KEY, where blanks have become '_'; udev puts the id there when the
 * device has none, and then the hardware database's word is better. (The device's attributes in
 * sysfs can't be read here: reading them waits for the device.) */
static void own_words(property_fn property, void *from, const char *key, const char *id_key,
		      const char *database_key, char *ret, size_t size)
{
	const char *own = property(from, key), *id = property(from, id_key);
	const char *known = property(from, database_key);

	if (known && (!own || (id && streq(own, id))))
		own = known;
	snprintf(ret, size, "%s", own ? own : "");
	for (char *c = ret; own != known && *c; c++)
		if (*c == '_')
			*c = ' ';
}

/* What a person would call it: the device's own words, else those of the hardware database. */
static void read_usb_name(struct device *d, property_fn property, void *from)
{
	char vendor[128], model[128], name[300];

	own_words(property, from, "ID_VENDOR", "ID_VENDOR_ID", "ID_VENDOR_FROM_DATABASE", vendor,
		  sizeof(vendor));
	own_words(property, from, "ID_MODEL", "ID_MODEL_ID", "ID_MODEL_FROM_DATABASE", model,
		  sizeof(model));
	/* Many products begin with their maker's name. */
	bool says_vendor = *vendor && strncasecmp(model, vendor, strlen(vendor)) == 0;
	snprintf(name, sizeof(name), "%s%s%s", says_vendor ? "" : vendor,
		 says_vendor || !*vendor || !*model ? "" : " ", model);
	kept_clean(&d->id.name, DEVICE_NAME_SIZE, *name ? name : "USB device");
}

static void set_ids(struct device *d, unsigned vendor, unsigned model)
{
	char ids[sizeof("0000:0000")];

	snprintf(ids, sizeof(ids), "%04x:%04x", vendor & 0xffff, model & 0xffff);
	kept_set(&d->id.vid_pid, ids);
}

static void read_usb(struct device *d, property_fn property, void *from)
{
	const char *product = property(from, "PRODUCT");
	unsigned vendor = 0, model = 0;
	char speed[16];

	read_usb_name(d, property, from);
	/* The kernel's own: "46d/c52b/1211", hexadecimal without zeros in front. */
	if (product && sscanf(product, "%4x/%4x/", &vendor, &model) == 2)
		set_ids(d, vendor, model);
	read_attribute(d->id.devpath, "speed", speed, sizeof(speed));
	d->id.speed = (unsigned) strtoul(speed, NULL, 10);
}

static void read_pci(struct device *d)
{
	unsigned vendor = 0, model = 0;
	char name[300];

	if (pci_attribute(d->id.kernel_name, "vendor", &vendor) < 0 ||
	    pci_attribute(d->id.kernel_name, "device", &model) < 0)
		return;
	set_ids(d, vendor, model);
	pci_name(vendor, model, name, sizeof(name));
	kept_clean(&d->id.name, DEVICE_NAME_SIZE, *name ? name : "PCI device");
}

static void read_evdev(struct device *d)
{
	char name[DEVICE_NAME_SIZE], vendor[16], product[16], ids[sizeof("0000:0000")];

	read_attribute(d->id.devpath, "device/name", name, sizeof(name));
	read_attribute(d->id.devpath, "device/id/vendor", vendor, sizeof(vendor));
	read_attribute(d->id.devpath, "device/id/product", product, sizeof(product));
	kept_clean(&d->id.name, DEVICE_NAME_SIZE, *name ? name : "input device");
	snprintf(ids, sizeof(ids), "%.4s:%.4s", vendor, product);
	kept_set(&d->id.vid_pid, ids);
}

static bool is_usb_node(const char *node)
{
	unsigned bus, address;
	char rest;

	return node && sscanf(node, "/dev/bus/usb/%3u/%3u%c", &bus, &address, &rest) == 2;
}

static bool is_event_node(const char *node)
{
	unsigned number;
	char rest;

	return node && sscanf(node, "/dev/input/event%5u%c", &number, &rest) == 1;
}

int properties_kind(property_fn property, void *from)
{
	const char *subsystem = property(from, "SUBSYSTEM"), *type = property(from, "DEVTYPE");
	const char *node = property(from, "DEVNAME");

	if (!subsystem)
		return -1;
	if (streq(subsystem, "usb"))
		return type && streq(type, "usb_device") && is_usb_node(node) ? DEVICE_USB : -1;
	if (streq(subsystem, "pci"))
		return DEVICE_PCI;
	if (streq(subsystem, "input"))
		return is_event_node(node) ? DEVICE_EVDEV : -1;
	return -1;
}

/* VHOTPLUG_OPTIONS: "force,order=3,…". */
static void read_options(struct device *d, const char *text)
{
	char copy[256], *save = NULL;

	d->wish.options = 0;
	d->wish.order = 0;
	snprintf(copy, sizeof(copy), "%s", text ? text : "");
	for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		const char *order = startswith(word, "order=");

		if (order)
			d->wish.order = (unsigned) strtoul(order, NULL, 10);
		else
			d->wish.options |= option_from_word(word);
	}
}

_Static_assert(DEVICE_LIST_SIZE > INI_LINE_BYTES, "holds the VMs that a line of the config has");
_Static_assert(DEVICE_LIST_SIZE > 2 * INI_NAME_BYTES + sizeof("usb//"),
	       "holds where a rule stands");

bool properties_read_wish(struct device *d, property_fn property, void *from)
{
	char rule[DEVICE_LIST_SIZE], vms[DEVICE_LIST_SIZE], config[DEVICE_CONFIG_SIZE];

	text_clean(config, sizeof(config), property(from, "VHOTPLUG_CONFIG"));
	bool is_new = d->wish.config[0] && !streq(config, d->wish.config);
	kept_set(&d->wish.config, config);
	kept_clean(&d->wish.family, DEVICE_WORD_SIZE, property(from, "VHOTPLUG_FAMILY"));
	text_clean(rule, sizeof(rule), property(from, "VHOTPLUG_RULE"));
	text_clean(vms, sizeof(vms), property(from, "VHOTPLUG_VM"));
	/* It was kept in the VM of its family against what its rule said, but not against another
	 * rule. What that was is not known after a restart. */
	if (d->wish.own_vms[0] ? !streq(vms, d->wish.own_vms) || !streq(rule, d->wish.rule)
			       : is_new)
		kept_drop(&d->wish.family_vm);
	kept_set(&d->wish.own_vms, d->wish.family[0] ? vms : "");
	if (d->wish.family_vm[0] && d->wish.family[0])
		snprintf(vms, sizeof(vms), "%s", d->wish.family_vm);
	read_options(d, property(from, "VHOTPLUG_OPTIONS"));
	const char *fence = property(from, "VHOTPLUG_FENCE");
	d->wish.fence = d->id.kind == DEVICE_USB && fence && streq(fence, "yes");
	d->wish.unfenced = d->id.kind != DEVICE_EVDEV && fence && streq(fence, "no");
	bool changed = !streq(rule, d->wish.rule) || !streq(vms, d->wish.vms);
	kept_set(&d->wish.rule, rule);
	kept_set(&d->wish.vms, vms);
	if (changed)
		kept_drop(&d->attempt.move.failed);
	return changed;
}

/* What the hardware database calls it, else what it calls itself. */
static void read_words(struct device *d, property_fn property, void *from)
{
	const char *vendor = property(from, "ID_VENDOR_FROM_DATABASE");
	const char *model = property(from, "ID_MODEL_FROM_DATABASE");

	kept_clean(&d->id.vendor_name, DEVICE_NAME_SIZE,
		   vendor ? vendor : property(from, "ID_VENDOR"));
	kept_clean(&d->id.model_name, DEVICE_NAME_SIZE, model ? model : property(from, "ID_MODEL"));
	kept_clean(&d->id.serial, DEVICE_NAME_SIZE, property(from, "ID_SERIAL_SHORT"));
	kept_clean(&d->id.interfaces, DEVICE_LIST_SIZE, property(from, "ID_USB_INTERFACES"));
}

static unsigned read_hex(const struct device *d, const char *attribute)
{
	char text[32];

	read_attribute(d->id.devpath, attribute, text, sizeof(text));
	return (unsigned) strtoul(text, NULL, 16);
}

/* TYPE is "CLASS/SUBCLASS/PROTOCOL", in decimal. Source: kernel, drivers/usb/core/driver.c,
 * usb_uevent. */
static bool parse_type(const char *type, unsigned *ret_class)
{
	unsigned class, subclass, protocol;
	int length = 0;

	if (!type || sscanf(type, "%3u/%3u/%3u%n", &class, &subclass, &protocol, &length) != 3 ||
	    type[length] || class > 0xff || subclass > 0xff || protocol > 0xff)
		return false;
	*ret_class = class << 16 | subclass << 8 | protocol;
	return true;
}

/* These attributes don't wait for the device. */
static void read_class(struct device *d, property_fn property, void *from)
{
	if (d->id.kind == DEVICE_USB && !parse_type(property(from, "TYPE"), &d->id.class))
		d->id.class = read_hex(d, "bDeviceClass") << 16 |
			      read_hex(d, "bDeviceSubClass") << 8 | read_hex(d, "bDeviceProtocol");
	else if (d->id.kind == DEVICE_PCI)
		d->id.class = read_hex(d, "class");
}

void properties_read_description(struct device *d, property_fn property, void *from)
{
	read_words(d, property, from);
	read_class(d, property, from);
}

static void read_node(struct device *d, const char *node)
{
	char whole[DEVICE_WORD_SIZE];

	if (text_path(whole, sizeof(whole), "%s", node) < 0)
		log_warning("%s: no device node of ours has so long a path: %s", d->id.kernel_name,
			    node);
	kept_set(&d->id.node, whole);
}

void properties_read_identity(struct device *d, property_fn property, void *from)
{
	const char *node = property(from, "DEVNAME");
	char kernel_name[DEVICE_WORD_SIZE];

	snprintf(kernel_name, sizeof(kernel_name), "%s", strrchr(d->id.devpath, '/') + 1);
	kept_set(&d->id.kernel_name, kernel_name);
	d->id.kind = (enum device_kind) properties_kind(property, from);
	if (node && d->id.kind != DEVICE_PCI)
		read_node(d, node);
	look_up_node(d);
	d->id.group = look_up_group(d);
	properties_read_description(d, property, from);
	switch (d->id.kind) {
	case DEVICE_USB:
		read_usb(d, property, from);
		break;
	case DEVICE_PCI:
		read_pci(d);
		break;
	case DEVICE_EVDEV:
		read_evdev(d);
		break;
	}
}
