/* vhotplug's JSON. Inside one of its rules the fields are alternatives: ids together, or a name, or
 * bus and port together, or a class, or a driver; `removable` is a condition on all of them; a
 * class number 0 says nothing. Each alternative becomes a rule of ours, where all fields must
 * match. */
#include <ctype.h>

#include <jansson.h>

#include "conf/keys.h"
#include "conf/regex.h"
#include "rules.d/import-readers.h"

/* What a rule of theirs needs while its alternatives are printed. */
struct rule {
	struct importer *i;
	json_t *json;
	const char *verb; /* allow or deny */
	size_t first;     /* where the names of this group start */
	unsigned n;       /* alternatives printed */
};

static const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text && *text ? text : NULL;
}

static long number_of(json_t *object, const char *key)
{
	json_t *value = json_object_get(object, key);

	return json_is_integer(value) ? (long) json_integer_value(value) : 0;
}

static bool is_true(json_t *value)
{
	return json_is_true(value) || (json_is_integer(value) && json_integer_value(value) != 0);
}

/* "disable" counts before "enable". */
static bool is_disabled(json_t *object)
{
	json_t *disable = json_object_get(object, "disable");
	json_t *enable = json_object_get(object, "enable");

	return disable ? is_true(disable) : enable ? !is_true(enable) : false;
}

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

/* A regular expression as a value: blanks at its ends, and " ;", would not survive in the file. */
static bool print_pattern(struct importer *i, const char *key, const char *pattern)
{
	char value[512];
	size_t n = 0;

	for (const char *s = pattern; *s && n + 4 < sizeof(value); s++) {
		bool blank = *s == ' ' && (s == pattern || s[1] == '\0' || s[1] == ';');
		bool comment = *s == ';' && s == pattern;

		n += (size_t) sprintf(value + n, blank || comment ? "[%c]" : "%c", *s);
	}
	value[n] = '\0';
	fprintf(i->out, "%s = %s\n", key, value);
	return true;
}

/* Whether PATTERN can be a value of ours; notes it if not. */
static bool check_pattern(struct rule *rule, const char *key, const char *pattern)
{
	char error[128];
	pcre2_code *code = regex_compile(pattern, error, sizeof(error));
	const char *why = code ? NULL : error;

	pcre2_code_free(code);
	for (const char *s = pattern; *s; s++)
		if ((unsigned char) *s < ' ' || *s == 127)
			why = "a control character";
	if (strlen(pattern) > 160)
		why = "too long for a line";
	if (why)
		import_note(rule->i, "%s of \"%s\": %s", key, description_of(rule->json, "rule"),
			    why);
	return !why;
}

static void pattern_alternative(struct rule *rule, const char *key)
{
	const char *pattern = text_of(rule->json, key);

	if (!pattern || !check_pattern(rule, key, pattern))
		return;
	begin_rule(rule, key);
	print_pattern(rule->i, key, pattern);
}

/* Four hex digits into RET, also from 0x46d. False when the value names no id. */
static bool read_identity(json_t *object, const char *key, bool number, char ret[5])
{
	const char *text = text_of(object, key);
	char *end;
	unsigned long value = text ? strtoul(text, &end, 16) : 0;

	if (!text || *end || value > 0xffff || text[0] == '-')
		return false;
	/* For USB they compare the text, for PCI the number, where 0 says nothing. */
	if (number ? value == 0 : strlen(text) != 4)
		return false;
	snprintf(ret, 5, "%04lx", value);
	return true;
}

static void ids_alternative(struct rule *rule, const char *product, bool number)
{
	char vendor_id[5], product_id[5];

	if (!json_object_get(rule->json, "vendorId") && !json_object_get(rule->json, product))
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
	long class = number_of(rule->json, keys[0]);

	if (class == 0)
		return;
	for (size_t k = 0; k < 3; k++) {
		long value = number_of(rule->json, keys[k]);

		if (value >= 0 && value <= 255)
			continue;
		import_note(rule->i, "%s of \"%s\": no class", keys[k],
			    description_of(rule->json, "rule"));
		return;
	}
	begin_rule(rule, detail);
	for (size_t k = 0; k < 3; k++)
		if (number_of(rule->json, keys[k]) != 0)
			fprintf(rule->i->out, "%s = %ld\n", keys[k],
				number_of(rule->json, keys[k]));
}

static void port_alternative(struct rule *rule)
{
	long bus = number_of(rule->json, "bus"), port = number_of(rule->json, "port");

	if (bus < 1 || port < 1 || bus > 999 || port > 999)
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

static void pci_rule(struct rule *rule)
{
	static const char *const class[] = {"deviceClass", "deviceSubclass", "deviceProgIf"};
	const char *address = text_of(rule->json, "address");

	if (address) {
		if (strlen(address) == 12 && address[4] == ':' && address[10] == '.') {
			begin_rule(rule, "address");
			fprintf(rule->i->out, "address = %s\n", address);
		} else {
			import_note(rule->i, "address %s: not like 0000:00:14.3", address);
		}
	}
	ids_alternative(rule, "deviceId", true);
	class_alternative(rule, class, "class");
}

static void evdev_rule(struct rule *rule)
{
	const char *property = text_of(rule->json, "property"),
		   *value = text_of(rule->json, "value");

	pattern_alternative(rule, "name");
	pattern_alternative(rule, "pathTag");
	if (!property || !value)
		return;
	begin_rule(rule, "property");
	fprintf(rule->i->out, "property = %s\nvalue = %s\n", property, value);
}

static void import_rules(struct importer *i, json_t *group, const char *verb, size_t first,
			 void (*print)(struct rule *))
{
	size_t index;
	json_t *item;

	json_array_foreach(json_object_get(group, verb), index, item)
	{
		struct rule rule = {.i = i, .json = item, .verb = verb, .first = first};

		print(&rule);
		if (rule.n == 0)
			import_note(i, "[%s %s]: nothing is left of it", verb,
				    description_of(item, "rule"));
	}
}

static bool vm_exists(json_t *root, const char *name)
{
	size_t index;
	json_t *vm;

	json_array_foreach(json_object_get(root, "vms"), index, vm)
	{
		const char *known = text_of(vm, "name"), *type = text_of(vm, "type");

		if (known && streq(known, name) && text_of(vm, "socket") && key_is_name(known) &&
		    type && (streq(type, "qemu") || streq(type, "crosvm")))
			return true;
	}
	return false;
}

/* Prints which VMs. False when none of them exists: the group is then no use. */
static bool print_target(struct importer *i, json_t *root, json_t *group, char *line, size_t size)
{
	const char *target = text_of(group, "targetVm"), *comma = "allowedVms = ";
	size_t index, n = 0;
	json_t *item;

	(void) i;
	line[0] = '\0';
	if (target) {
		snprintf(line, size, "targetVm = %s\n", target);
		return vm_exists(root, target);
	}
	json_array_foreach(json_object_get(group, "allowedVms"), index, item)
	{
		const char *name = json_string_value(item);

		if (!name || !vm_exists(root, name) || n + strlen(name) + 16 > size)
			continue;
		n += (size_t) snprintf(line + n, size - n, "%s%s", comma, name);
		comma = ", ";
	}
	if (n > 0)
		snprintf(line + n, size - n, "\n");
	return n > 0;
}

/* Keys that ours has no like of, or not yet. */
static void note_keys(struct importer *i, json_t *object, const char *what, const char *const *keys)
{
	for (; *keys; keys++) {
		json_t *value = json_object_get(object, *keys);

		if (value && !json_is_false(value) && !json_is_null(value) &&
		    !(json_is_object(value) && is_disabled(value)))
			import_note(i, "%s of %s", *keys, what);
	}
}

static void import_group(struct importer *i, json_t *root, json_t *group, const char *kind,
			 void (*print)(struct rule *))
{
	static const char *const left[] = {"skipOnSuspend", "autoOvmf", "qemuUseRootBus", NULL};
	static const char *const kept[] = {"pciIommuAddAll", "pciIommuSkipIfShared"};
	const char *name = description_of(group, "group"), *tag = text_of(group, "tag");
	char target[256];
	size_t first;

	if (!print_target(i, root, group, target, sizeof(target))) {
		import_note(i, "\"%s\": no VM of that name", name);
		return;
	}
	import_header(i, 0, kind, name, "");
	first = i->n_names;
	fputs(target, i->out);
	if (is_disabled(group))
		fputs("disable = yes\n", i->out);
	if (tag && key_is_name(tag) && strlen(tag) <= 40)
		fprintf(i->out, "tag = %s\n", tag);
	else if (tag)
		import_note(i, "tag %s of \"%s\"", tag, name);
	for (size_t k = 0; k < ARRAY_SIZE(kept); k++)
		if (is_true(json_object_get(group, kept[k])))
			fprintf(i->out, "%s = yes\n", kept[k]);
	note_keys(i, group, name, left);
	import_rules(i, group, "deny", first, print);
	import_rules(i, group, "allow", first, print);
	import_forget_names(i, first);
}

static void import_groups(struct importer *i, json_t *root, const char *key, const char *kind,
			  void (*print)(struct rule *))
{
	size_t index;
	json_t *group;

	json_array_foreach(json_object_get(root, key), index, group)
	{
		if (json_is_object(group))
			import_group(i, root, group, kind, print);
	}
}

/* The older form: an object that says which VM gets all input devices that are not on USB. */
static void import_old_evdev(struct importer *i, json_t *root, const char *vm, json_t *evdev)
{
	static const char *const kinds[] = {"MOUSE", "KEYBOARD", "TOUCHPAD", "TOUCHSCREEN",
					    "TABLET"};

	if (!json_is_object(evdev))
		return;
	if (!vm || !vm_exists(root, vm)) {
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
	const char *name = text_of(vm, "name");

	if (!name || !vm_exists(root, name)) {
		import_note(i, "VM \"%s\": its name, type or socket is none for us",
			    name ?: "without a name");
		return;
	}
	fprintf(i->out, "\n[vm %s]\ntype = %s\nsocket = %s\n", name, text_of(vm, "type"),
		text_of(vm, "socket"));
	import_old_evdev(i, root, name, json_object_get(vm, "evdevPassthrough"));
}

static void import_general(struct importer *i, json_t *root, bool attach_connected)
{
	static const char *const left[] = {"api",     "persistency", "statePath", "modprobe",
					   "modinfo", "ovmfCode",    "ovmfVars",  NULL};
	static const char *const parts[] = {"acpiPassthrough", "usbAuthorization", NULL};
	json_t *general = json_object_get(root, "general");
	const char *crosvm = text_of(general, "crosvm");

	fprintf(i->out, "[general]\nattachConnected = %s\n", attach_connected ? "yes" : "no");
	if (crosvm && crosvm[0] == '/')
		fprintf(i->out, "crosvm = %s\n", crosvm);
	else if (crosvm)
		import_note(i, "crosvm %s: no path from the root", crosvm);
	note_keys(i, general, "general", left);
	note_keys(i, root, "the config", parts);
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
	import_groups(i, root, "usbPassthrough", "usb", usb_rule);
	import_groups(i, root, "pciPassthrough", "pci", pci_rule);
	evdev = json_object_get(root, "evdevPassthrough");
	if (json_is_object(evdev))
		import_old_evdev(i, root, text_of(evdev, "targetVm"), evdev);
	else
		import_groups(i, root, "evdevPassthrough", "evdev", evdev_rule);
	json_decref(root);
	return 0;
}
