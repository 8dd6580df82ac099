/* The model: names, and how to find and free what is in it. conf/load.c fills it. */
#include "conf/config.h"

#include <ctype.h>

#include "helper/text.h"

static const char *const kind_names[CONFIG_KINDS] = {
	[CONFIG_USB] = "usb",
	[CONFIG_PCI] = "pci",
	[CONFIG_EVDEV] = "evdev",
};

static const char *const match_names[MATCH_KEYS] = {
	[MATCH_VENDOR_ID] = "vendorId",
	[MATCH_PRODUCT_ID] = "productId",
	[MATCH_VENDOR_NAME] = "vendorName",
	[MATCH_PRODUCT_NAME] = "productName",
	[MATCH_VENDOR_STRING] = "vendorString",
	[MATCH_PRODUCT_STRING] = "productString",
	[MATCH_SERIAL] = "serial",
	[MATCH_BUS] = "bus",
	[MATCH_PORT] = "port",
	[MATCH_PORT_PATH] = "portPath",
	[MATCH_DEVPATH] = "devpath",
	[MATCH_INTERFACE_CLASS] = "interfaceClass",
	[MATCH_INTERFACE_SUBCLASS] = "interfaceSubclass",
	[MATCH_INTERFACE_PROTOCOL] = "interfaceProtocol",
	[MATCH_DEVICE_CLASS] = "deviceClass",
	[MATCH_DEVICE_SUBCLASS] = "deviceSubclass",
	[MATCH_DEVICE_PROTOCOL] = "deviceProtocol",
	[MATCH_REMOVABLE] = "removable",
	[MATCH_DRIVER_PATH] = "driverPath",
	[MATCH_ADDRESS] = "address",
	[MATCH_DEVICE_ID] = "deviceId",
	[MATCH_SUBSYSTEM_VENDOR_ID] = "subsystemVendorId",
	[MATCH_SUBSYSTEM_ID] = "subsystemId",
	[MATCH_DEVICE_PROG_IF] = "deviceProgIf",
	[MATCH_NAME] = "name",
	[MATCH_PATH_TAG] = "pathTag",
	[MATCH_PROPERTY] = "property",
	[MATCH_VALUE] = "value",
};

const char *config_kind_name(enum config_kind kind)
{
	return kind_names[kind];
}

const char *config_match_name(enum config_match match)
{
	return match_names[match];
}

const struct config_vm *config_find_vm(const struct config *config, const char *name)
{
	for (size_t i = 0; i < config->n_vms; i++)
		if (streq(config->vms[i].name, name))
			return &config->vms[i];
	return NULL;
}

const struct config_field *config_rule_field(const struct config_rule *rule,
					     enum config_match match)
{
	for (size_t i = 0; i < rule->n_fields; i++)
		if (rule->fields[i].match == match)
			return &rule->fields[i];
	return NULL;
}

/* The length of the character at S, or 0 when each of its bytes becomes _. */
static size_t safe_length(const char *s)
{
	size_t n = text_plain(s);

	return n == 1 && strchr("\"\\$%/", *s) ? 0 : n;
}

char *config_safe_name(const char *name)
{
	char *safe = strdup(name);

	for (char *s = safe; s && *s;) {
		size_t n = safe_length(s);

		if (n == 0)
			*s++ = '_';
		else
			s += n;
	}
	return safe;
}

bool config_same_name(const char *a, const char *b)
{
	size_t same = 0;

	/* Most differ early, and by what is in a name anyway. */
	while (a[same] && a[same] == b[same])
		same++;
	if (a[same] == b[same])
		return true;
	if (isalnum((unsigned char) a[same]) && isalnum((unsigned char) b[same]))
		return false;
	_cleanup_free_ char *safe_a = config_safe_name(a), *safe_b = config_safe_name(b);
	return safe_a && safe_b && streq(safe_a, safe_b);
}

/* What is behind NAME and a slash at the beginning of TEXT; NULL when it begins otherwise. */
static const char *behind_name(const char *text, const char *name)
{
	_cleanup_free_ char *safe = config_safe_name(name);
	const char *rest = safe ? startswith(text, safe) : NULL;

	return rest && *rest == '/' ? rest + 1 : NULL;
}

static const struct config_rule *find_in_group(const struct config_group *group, const char *name)
{
	for (size_t i = 0; i < group->n_rules; i++) {
		_cleanup_free_ char *safe = config_safe_name(group->rules[i].name);

		if (safe && streq(safe, name))
			return &group->rules[i];
	}
	return NULL;
}

const struct config_group *config_find_rule(const struct config *config, const char *rule,
					    const struct config_rule **ret_rule)
{
	for (size_t i = 0; i < config->n_groups; i++) {
		const struct config_group *group = &config->groups[i];
		const char *name = behind_name(rule, config_kind_name(group->kind));

		name = name ? behind_name(name, group->name) : NULL;
		*ret_rule = name ? find_in_group(group, name) : NULL;
		if (*ret_rule)
			return group;
	}
	return NULL;
}

static void free_strings(char **list)
{
	for (char **s = list; s && *s; s++)
		free(*s);
	free(list);
}

static void finish_rule(struct config_rule *rule)
{
	for (size_t i = 0; i < rule->n_fields; i++)
		free(rule->fields[i].value);
	free(rule->fields);
	free(rule->name);
	free(rule->description);
	free(rule->tag);
	free(rule->family);
}

static void finish_group(struct config_group *group)
{
	for (size_t i = 0; i < group->n_rules; i++)
		finish_rule(&group->rules[i]);
	free(group->rules);
	free(group->name);
	free_strings(group->vms);
	free(group->description);
	free(group->tag);
	free(group->family);
}

static void finish_vm(struct config_vm *vm)
{
	free(vm->name);
	free(vm->socket);
	free(vm->user);
	free_strings(vm->usb_bus);
	free(vm->listen);
	free_strings(vm->pci_bus);
	free_strings(vm->acpi_tables);
	free(vm->domain);
	free(vm->uri);
}

void config_free(struct config *config)
{
	if (!config)
		return;
	for (size_t i = 0; i < config->n_vms; i++)
		finish_vm(&config->vms[i]);
	for (size_t i = 0; i < config->n_groups; i++)
		finish_group(&config->groups[i]);
	free(config->vms);
	free(config->groups);
	free(config->general.crosvm);
	free(config->general.control_group);
	free(config->general.ovmf_code);
	free(config->general.ovmf_vars);
	free(config->api.path);
	free(config->api.user);
	free(config->api.group);
	free(config->api.host);
	free(config->api.cids);
	free(config->general.group);
	free(config);
}
