/* vhotplug's JSON. Inside one of its rules the fields are alternatives: ids together, or a name, or
 * bus and port together, or a class, or a driver; `removable` is a condition on all of them; a
 * class number 0 says nothing. Each alternative becomes a rule of ours, where all fields must
 * match. */
#include <ctype.h>

#include "conf/keys.h"
#include "rules.d/import-json.h"
#include "rules.d/import-readers.h"
#include "rules.d/import-regex.h"

static const char hex_digits[] = "0123456789abcdefABCDEF";

/* What a rule of theirs needs while its alternatives are printed. */
struct rule {
	struct importer *i;
	json_t *json;
	const char *verb; /* allow or deny */
	size_t first;     /* where the names of this group start */
	unsigned n;       /* alternatives printed */
	bool lost;        /* some could not be */
};

static const char *description_of(json_t *object, const char *otherwise)
{
	return text_of(object, "description") ?: otherwise;
}

/* Prints "removable = …". False when the condition can never hold. */
static bool print_removable(struct rule *rule)
{
	json_t *list = json_object_get(rule->json, "removable"), *item;
	const char *comma = "removable = ";
	size_t index;
	bool any = false;

	if (!list)
		return true;
	json_array_foreach(list, index, item)
	{
		const char *word = json_string_value(item);

		if (!word ||
		    (strcasecmp(word, "fixed") != 0 && strcasecmp(word, "removable") != 0 &&
		     strcasecmp(word, "unknown") != 0))
			continue;
		fputs(comma, rule->i->out);
		for (; *word; word++)
			fputc(tolower((unsigned char) *word), rule->i->out);
		comma = ", ";
		any = true;
	}
	if (any)
		fputc('\n', rule->i->out);
	return any;
}

/* Whether the rule has more than one alternative, whose names must differ. */
static bool has_alternatives(json_t *rule)
{
	static const char *const keys[] = {"vendorId",   "vendorName",  "productName",
					   "port",       "deviceClass", "interfaceClass",
					   "driverPath", "address",     "name",
					   "pathTag",    "property"};
	unsigned n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		n += json_object_get(rule, keys[i]) != NULL;
	return n > 1;
}

/* Begins one alternative of the rule. */
static void begin_rule(struct rule *rule, const char *detail)
{
	import_header(rule->i, rule->first, rule->verb, description_of(rule->json, "rule"),
		      has_alternatives(rule->json) ? detail : "");
	rule->n++;
	if (is_disabled(rule->json))
		fputs("disable = yes\n", rule->i->out);
	print_removable(rule);
}

/* Says that KEY of the rule can't be carried over. A deny must not get lost by that. */
static void lose_key(struct rule *rule, const char *key, const char *why)
{
	import_note(rule->i, "%s of \"%s\": %s", key, description_of(rule->json, "rule"), why);
	rule->lost = true;
}

/* Does KEY say something that is no text? There it ends the search for the device's VM. */
static bool lose_no_text(struct rule *rule, const char *key)
{
	json_t *value = json_object_get(rule->json, key);

	if (!is_true(value) || json_is_string(value))
		return false;
	lose_key(rule, key, "no text");
	return true;
}

/* The number under KEY, 0 if there is none. False when what is there is no number, which is said.
 */
static bool take_number(struct rule *rule, const char *key, long *ret)
{
	if (read_number(rule->json, key, ret))
		return true;
	lose_key(rule, key, "no whole number, which never matches");
	return false;
}

static void pattern_alternative(struct rule *rule, const char *key)
{
	const char *pattern = text_of(rule->json, key), *why;
	char ours[256];

	if (!pattern) {
		lose_no_text(rule, key);
		return;
	}
	why = import_regex(pattern, ours, sizeof(ours));
	if (!why && strlen(ours) > 160)
		why = "too long for a line";
	if (why) {
		lose_key(rule, key, why);
		return;
	}
	begin_rule(rule, key);
	if (!import_value(rule->i, key, ours))
		lose_key(rule, key, "no value for a line");
}

static bool is_ascii(const char *text)
{
	for (; *text; text++)
		if ((unsigned char) *text > 127)
			return false;
	return true;
}

/* Python knows digits, blanks, and upper and lower case, of all scripts. */
static bool lose_foreign_text(struct rule *rule, const char *key)
{
	const char *text = text_of(rule->json, key);

	if (!text || is_ascii(text))
		return false;
	lose_key(rule, key, "letters beyond ASCII, of which upper and lower case differ here");
	return true;
}

/* The number that Python's int(TEXT, 16) makes of a text of ASCII. 0 when it makes none, or one
 * that is no id. */
static unsigned long read_hex(const char *text)
{
	unsigned long value = 0;

	while (isspace((unsigned char) *text))
		text++;
	if (*text == '+')
		text++;
	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
		text += text[2] == '_' ? 3 : 2;
	while (isxdigit((unsigned char) *text)) {
		if (value <= 0xffff)
			value = value * 16 + strtoul((char[]){*text, '\0'}, NULL, 16);
		text += text[1] == '_' && isxdigit((unsigned char) text[2]) ? 2 : 1;
	}
	while (isspace((unsigned char) *text))
		text++;
	return *text || value > 0xffff ? 0 : value;
}

/* Four hex digits into RET. False when the value, a text of ASCII, names no id. */
static bool read_identity(json_t *object, const char *key, bool number, char ret[5])
{
	const char *text = text_of(object, key);
	unsigned long value = text ? read_hex(text) : 0;

	/* For USB they compare the text, for PCI the number, where 0 says nothing. */
	if (!text || (number ? value == 0 : strlen(text) != 4 || strspn(text, hex_digits) != 4))
		return false;
	snprintf(ret, 5, "%04lx", value);
	return true;
}

static void ids_alternative(struct rule *rule, const char *product, bool number)
{
	char vendor_id[5], product_id[5];

	if (!json_object_get(rule->json, "vendorId") && !json_object_get(rule->json, product))
		return;
	if (lose_no_text(rule, "vendorId") || lose_no_text(rule, product) ||
	    lose_foreign_text(rule, "vendorId") || lose_foreign_text(rule, product))
		return;
	if (!read_identity(rule->json, "vendorId", number, vendor_id) ||
	    !read_identity(rule->json, product, number, product_id)) {
		import_note(rule->i, "vendorId and %s of \"%s\": not two ids, which never match",
			    product, description_of(rule->json, "rule"));
		return;
	}
	begin_rule(rule, "ids");
	fprintf(rule->i->out, "vendorId = %s\n%s = %s\n", vendor_id, product, product_id);
}

static void class_alternative(struct rule *rule, const char *const keys[3], const char *detail)
{
	long numbers[3];

	for (size_t k = 0; k < 3; k++) {
		if (!take_number(rule, keys[k], &numbers[k]) || numbers[0] == 0)
			return;
		if (numbers[k] >= 0 && numbers[k] <= 255)
			continue;
		import_note(rule->i, "%s of \"%s\": no class", keys[k],
			    description_of(rule->json, "rule"));
		return;
	}
	begin_rule(rule, detail);
	for (size_t k = 0; k < 3; k++)
		if (numbers[k] != 0)
			fprintf(rule->i->out, "%s = %ld\n", keys[k], numbers[k]);
}

static void port_alternative(struct rule *rule)
{
	long bus, port;

	if (!take_number(rule, "bus", &bus) || bus == 0 || !take_number(rule, "port", &port) ||
	    bus < 1 || port < 1 || bus > 999 || port > 999)
		return;
	begin_rule(rule, "port");
	fprintf(rule->i->out, "bus = %ld\nport = %ld\n", bus, port);
}

static void usb_rule(struct rule *rule)
{
	static const char *const device[] = {"deviceClass", "deviceSubclass", "deviceProtocol"};
	static const char *const interface[] = {"interfaceClass", "interfaceSubclass",
						"interfaceProtocol"};
	json_t *removable = json_object_get(rule->json, "removable");
	FILE *out = rule->i->out;
	char *nothing = NULL;
	size_t size;

	/* Does the condition hold for anything? The answer is all that is wanted here. */
	rule->i->out = open_memstream(&nothing, &size);
	bool possible = rule->i->out && print_removable(rule);
	if (rule->i->out)
		fclose(rule->i->out);
	else
		rule->i->no_memory = true;
	free(nothing);
	rule->i->out = out;
	if (removable && !possible) {
		import_note(rule->i, "\"%s\": its removable never matches",
			    description_of(rule->json, "rule"));
		return;
	}
	ids_alternative(rule, "productId", false);
	pattern_alternative(rule, "vendorName");
	pattern_alternative(rule, "productName");
	port_alternative(rule);
	class_alternative(rule, device, "device class");
	class_alternative(rule, interface, "class");
	pattern_alternative(rule, "driverPath");
}

/* As in sysfs: nothing else ever matches there. */
static bool is_address(const char *text)
{
	static const char shape[] = ":xx:xx.o";
	size_t domain = strspn(text, hex_digits);

	if (domain < 4 || domain > 8 || (domain > 4 && text[0] == '0') ||
	    strlen(text) != domain + sizeof(shape) - 1)
		return false;
	for (size_t i = 0; shape[i]; i++) {
		char c = text[domain + i];

		if (shape[i] == 'x'   ? !strchr(hex_digits, c)
		    : shape[i] == 'o' ? c < '0' || c > '7'
				      : c != shape[i])
			return false;
	}
	return true;
}

static void pci_rule(struct rule *rule)
{
	static const char *const class[] = {"deviceClass", "deviceSubclass", "deviceProgIf"};
	const char *address = text_of(rule->json, "address");

	if (!lose_no_text(rule, "address") && !lose_foreign_text(rule, "address") && address) {
		if (is_address(address)) {
			begin_rule(rule, "address");
			fprintf(rule->i->out, "address = %s\n", address);
		} else {
			import_note(rule->i, "address %s: not like 0000:00:14.3", address);
		}
	}
	ids_alternative(rule, "deviceId", true);
	class_alternative(rule, class, "class");
}

/* A property's name in udev, which ours takes too. */
static bool is_property(const char *name)
{
	return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") ==
		       strlen(name) &&
	       strlen(name) <= 60 && !startswith(name, "VHOTPLUG_");
}

static void evdev_rule(struct rule *rule)
{
	const char *property = text_of(rule->json, "property"),
		   *value = text_of(rule->json, "value");

	pattern_alternative(rule, "name");
	pattern_alternative(rule, "pathTag");
	if (lose_no_text(rule, "property") || lose_no_text(rule, "value") || !property || !value)
		return;
	if (!is_property(property)) {
		lose_key(rule, "property", "no name of a property");
		return;
	}
	if (key_is_late_property(property)) {
		lose_key(rule, "property", "udev sets it only behind 66-vhotplug.rules");
		return;
	}
	begin_rule(rule, "property");
	fprintf(rule->i->out, "property = %s\n", property);
	if (!import_value(rule->i, "value", value)) {
		lose_key(rule, "value", "no value for a line");
		/* What no device has. */
		fputs("value = ?\n", rule->i->out);
	} else {
		lose_foreign_text(rule, "value");
	}
}

/* What the rules of one kind of device are read by. */
struct kind {
	const char *word;
	void (*print)(struct rule *);
	const char *known[16]; /* keys of a rule, besides those of all */
};

static const struct kind usb_kind = {"usb",
				     usb_rule,
				     {"vendorId", "productId", "vendorName", "productName", "bus",
				      "port", "deviceClass", "deviceSubclass", "deviceProtocol",
				      "interfaceClass", "interfaceSubclass", "interfaceProtocol",
				      "driverPath", "removable", NULL}};
static const struct kind pci_kind = {
	"pci",
	pci_rule,
	{"address", "vendorId", "deviceId", "deviceClass", "deviceSubclass", "deviceProgIf", NULL}};
static const struct kind evdev_kind = {
	"evdev", evdev_rule, {"name", "pathTag", "property", "value", NULL}};

static void note_rule_keys(struct rule *rule, const struct kind *kind)
{
	const char *known[24] = {"description", "disable", "enable"};
	size_t n = 3;

	for (const char *const *k = kind->known; *k; k++)
		known[n++] = *k;
	import_note_others(rule->i, rule->json, description_of(rule->json, "rule"), known);
}

/* A deny that is not carried over whole would let devices through: it denies everything then. */
static void close_deny(struct importer *i, const char *name, size_t first)
{
	import_note(i,
		    "[deny %s] as it was: written so that its group takes nothing, until you say "
		    "what it denies",
		    name);
	import_header(i, first, "deny", name, "whole");
	fputs("matchAll = yes\n", i->out);
}

static void import_rule(struct importer *i, json_t *item, const char *verb, size_t first,
			const struct kind *kind)
{
	struct rule rule = {.i = i, .json = item, .verb = verb, .first = first};
	bool deny = streq(verb, "deny");

	if (json_is_object(item)) {
		note_rule_keys(&rule, kind);
		kind->print(&rule);
	} else {
		lose_key(&rule, "a rule", "no object");
	}
	if (deny && rule.lost && !is_disabled(item))
		close_deny(i, description_of(item, "rule"), first);
	else if (rule.n == 0)
		import_note(i, "[%s %s]: nothing is left of it", verb,
			    description_of(item, "rule"));
}

static void import_rules(struct importer *i, json_t *group, const char *verb, size_t first,
			 const struct kind *kind)
{
	json_t *list = json_object_get(group, verb), *item;
	size_t index;

	if (list && !json_is_array(list) && streq(verb, "deny"))
		close_deny(i, "rules", first);
	json_array_foreach(list, index, item)
	{
		import_rule(i, item, verb, first, kind);
	}
}

static bool type_is_known(const char *type)
{
	for (size_t i = 0; type && i < VM_TYPES; i++)
		if (streq(config_vm_types[i].word, type))
			return true;
	return false;
}

/* The VM of that name if it can be one of ours, or NULL. */
static json_t *find_vm(json_t *root, const char *name)
{
	size_t index;
	json_t *vm;

	json_array_foreach(json_object_get(root, "vms"), index, vm)
	{
		const char *known = text_of(vm, "name"), *socket = text_of(vm, "socket");

		if (known && streq(known, name) && key_is_name(known) && strlen(known) <= 40 &&
		    socket && socket[0] == '/' && strlen(socket) < CONFIG_SOCKET_SIZE &&
		    type_is_known(text_of(vm, "type")))
			return vm;
	}
	return NULL;
}

/* A VM that the groups name and that can't be carried over gets a section all the same: its devices
 * must wait for it, and not fall to the next group. RET: its name here. */
static void import_absent_vm(struct importer *i, json_t *root, const char *name, char ret[64])
{
	char full[80];

	snprintf(ret, 64, "%s%.40s", key_is_name(name) && !find_vm(root, name) ? "" : "absent-",
		 name);
	for (char *c = ret; *c; c++)
		if (!key_is_name((char[]){*c, '\0'}))
			*c = '_';
	import_note(i, "VM %s: it is not there, or none for us; its devices wait for it", name);
	snprintf(full, sizeof(full), "vm %s", ret);
	if (import_remember(i, full))
		fprintf(i->out, "\n[vm %s]\ntype = qemu\nsocket = /run/vhotplug/absent/%s.sock\n",
			ret, ret);
}

/* Which VMs a group is for. */
struct target {
	char line[CONFIG_VALUE_SIZE + 16];
	bool absent;
	bool takes; /* there the next group decides on what one without a VM matches */
};

/* Adds the VM NAME to the line. False when there is no room. */
static bool add_vm(struct target *target, const char *key, const char *name)
{
	size_t n = strlen(target->line);

	if (n + strlen(key) + strlen(name) + 4 > CONFIG_VALUE_SIZE)
		return false;
	if (n == 0)
		sprintf(target->line, "%s = %s", key, name);
	else
		sprintf(target->line + n, ", %s", name);
	return true;
}

static void read_allowed_vms(struct importer *i, json_t *root, json_t *list, struct target *target)
{
	json_t *item;
	size_t index;

	json_array_foreach(list, index, item)
	{
		const char *name = json_string_value(item);

		if (!name || !find_vm(root, name) || !add_vm(target, "allowedVms", name))
			import_note(i, "VM %s of allowedVms", name ?: "without a name");
	}
}

/* Prints sections of VMs that are needed only for this. Only of a group for USB devices allowedVms
 * means something there. */
static void read_target(struct importer *i, json_t *root, json_t *group, const struct kind *kind,
			struct target *ret)
{
	const char *name = text_of(group, "targetVm");
	json_t *list = kind == &usb_kind ? json_object_get(group, "allowedVms") : NULL;
	char absent[64];

	name = name && *name ? name : NULL;
	*ret = (struct target){.takes = name || json_array_size(list) > 0};
	if (name && find_vm(root, name))
		(void) add_vm(ret, "targetVm", name);
	else if (!name)
		read_allowed_vms(i, root, list, ret);
	if (ret->line[0])
		return;
	ret->absent = true;
	import_absent_vm(i, root, name ?: json_string_value(json_array_get(list, 0)) ?: "nobody",
			 absent);
	(void) add_vm(ret, "targetVm", absent);
}

/* What a group says besides its VMs and rules. */
static void print_group_keys(struct importer *i, json_t *root, json_t *group,
			     const struct kind *kind, const char *name)
{
	static const char *const carried[] = {"description",
					      "targetVm",
					      "allowedVms",
					      "disable",
					      "enable",
					      "allow",
					      "deny",
					      "tag",
					      "pciIommuAddAll",
					      "pciIommuSkipIfShared",
					      "skipOnSuspend",
					      "autoOvmf",
					      "qemuUseRootBus",
					      "crosvmUseRootBus",
					      NULL};
	static const char *const options[] = {"pciIommuAddAll", "pciIommuSkipIfShared",
					      "skipOnSuspend"};
	static const char *const buses[] = {"qemuUseRootBus", "crosvmUseRootBus"};
	const char *tag = text_of(group, "tag");

	if (tag && key_is_name(tag) && strlen(tag) < CONFIG_TAG_SIZE)
		fprintf(i->out, "tag = %s\n", tag);
	else if (tag)
		import_note(i, "tag %s of \"%s\"", tag, name);
	for (size_t k = 0; k < ARRAY_SIZE(options); k++)
		if (is_true(json_object_get(group, options[k])))
			fprintf(i->out, "%s = yes\n", options[k]);
	for (size_t k = 0; k < ARRAY_SIZE(buses) && kind == &pci_kind; k++)
		if (is_true(json_object_get(group, buses[k])))
			fprintf(i->out, "%s = yes\n", buses[k]);
	if (kind == &pci_kind && is_true(json_object_get(group, "autoOvmf"))) {
		if (import_has_firmware(root))
			fputs("autoOvmf = yes\n", i->out);
		else
			import_note(i, "autoOvmf of \"%s\": general has no ovmfCode and ovmfVars",
				    name);
	}
	import_note_others(i, group, name, carried);
}

static void import_group(struct importer *i, json_t *root, json_t *group, const struct kind *kind)
{
	const char *name = description_of(group, "group");
	struct target target;
	size_t first;

	read_target(i, root, group, kind, &target);
	import_header(i, 0, kind->word, name, "");
	first = i->n_names;
	fprintf(i->out, "%s\n", target.line);
	if (is_disabled(group) || !target.takes)
		fputs("disable = yes\n", i->out);
	if (!target.takes)
		import_note(i, "\"%s\" takes nothing: it has no targetVm%s", name,
			    kind == &usb_kind ? " and no allowedVms" : "");
	if (target.absent)
		fputs("fence = no\n", i->out);
	/* There a person is asked which of them it is to be. */
	if (startswith(target.line, "allowedVms"))
		fputs("choose = ask\n", i->out);
	print_group_keys(i, root, group, kind, name);
	import_rules(i, group, "deny", first, kind);
	import_rules(i, group, "allow", first, kind);
	import_forget_names(i, first);
}

static void import_groups(struct importer *i, json_t *root, const char *key,
			  const struct kind *kind)
{
	json_t *list = json_object_get(root, key), *group;
	size_t index;

	if (list && !json_is_array(list))
		import_note(i, "%s: no list", key);
	json_array_foreach(list, index, group)
	{
		if (json_is_object(group))
			import_group(i, root, group, kind);
		else
			import_note(i, "a group of %s: no object", key);
	}
}

/* The older form: an object that says which VM gets all input devices that are not on USB. */
static void import_old_evdev(struct importer *i, json_t *root, const char *vm, json_t *evdev)
{
	static const char *const kinds[] = {"MOUSE", "KEYBOARD", "TOUCHPAD", "TOUCHSCREEN",
					    "TABLET"};
	static const char *const carried[] = {"targetVm", "disable", "enable", "pcieBusPrefix",
					      NULL};

	if (!json_is_object(evdev))
		return;
	import_note_others(i, evdev, "evdevPassthrough", carried);
	if (!vm || !find_vm(root, vm)) {
		import_note(i, "evdevPassthrough: no VM of that name");
		return;
	}
	import_header(i, 0, "evdev", "Input devices of the older form", "");
	fprintf(i->out, "targetVm = %s\n%s", vm, is_disabled(evdev) ? "disable = yes\n" : "");
	if (json_object_get(evdev, "pcieBusPrefix"))
		import_note(i, "pcieBusPrefix: free ports are found");
	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++)
		fprintf(i->out, "\n[allow %s]\nproperty = ID_INPUT_%s\nvalue = 1\n", kinds[k],
			kinds[k]);
}

static void import_vm(struct importer *i, json_t *root, json_t *vm)
{
	static const char *const carried[] = {"name", "type", "socket", "evdevPassthrough", NULL};
	const char *name = text_of(vm, "name");

	if (!name || find_vm(root, name) != vm) {
		import_note(i, "VM \"%s\": its name, type or socket is none for us",
			    name ?: "without a name");
		return;
	}
	fprintf(i->out, "\n[vm %s]\ntype = %s\n", name, text_of(vm, "type"));
	if (!import_value(i, "socket", text_of(vm, "socket"))) {
		import_note(i, "socket of VM %s: no value for a line", name);
		fprintf(i->out, "socket = /run/vhotplug/absent/%s.sock\n", name);
	}
	if (streq(text_of(vm, "type"), "qemu"))
		import_acpi(i, root, name);
	import_note_others(i, vm, name, carried);
	import_old_evdev(i, root, name, json_object_get(vm, "evdevPassthrough"));
}

int import_vhotplug(struct importer *i, const char *text, bool attach_connected)
{
	json_error_t error;
	json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &error), *vm, *evdev;
	size_t index;

	if (!root || !json_is_object(root)) {
		fprintf(i->notes, "not JSON, line %d: %s\n", error.line, error.text);
		json_decref(root);
		return -EINVAL;
	}
	import_general(i, root, attach_connected);
	json_array_foreach(json_object_get(root, "vms"), index, vm)
	{
		import_vm(i, root, vm);
	}
	import_groups(i, root, "usbPassthrough", &usb_kind);
	import_groups(i, root, "pciPassthrough", &pci_kind);
	evdev = json_object_get(root, "evdevPassthrough");
	if (json_is_object(evdev))
		import_old_evdev(i, root, text_of(evdev, "targetVm"), evdev);
	else
		import_groups(i, root, "evdevPassthrough", &evdev_kind);
	json_decref(root);
	return 0;
}
