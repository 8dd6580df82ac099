/* Turns the sections of an INI file into a struct config. The generator and the broker load their
 * config here; conf/keys.c knows the single keys, conf/digest.c what the whole means. */
#include "conf/load.h"

#include "conf/array.h"
#include "conf/digest.h"
#include "conf/ini.h"
#include "conf/keys.h"

_Static_assert(CONFIG_NAME_SIZE > INI_NAME_BYTES, "holds what is between the brackets");
_Static_assert(CONFIG_VALUE_SIZE > INI_LINE_BYTES, "holds what is behind the =");

struct loader {
	struct config *config;
	struct mistakes *mistakes;
	bool in_group; /* rules belong to the last group of the config */
};

/* The names of all keys of a section, for the message about one that is none. KINDS: which match
 * keys to list, 0 for a section that is no rule. */
static void list_keys(const struct key_setting *settings, unsigned kinds, char *list, size_t size)
{
	size_t n = 0;

	list[0] = '\0';
	for (size_t i = 0; kinds && i < MATCH_KEYS && n < size; i++)
		if (match_keys[i].kinds & kinds)
			n += (size_t) snprintf(list + n, size - n, " %s",
					       config_match_name((enum config_match) i));
	for (; settings->name && n < size; settings++)
		n += (size_t) snprintf(list + n, size - n, " %s", settings->name);
}

static void unknown_key(const struct loader *loader, const struct ini_section *section,
			const struct ini_key *key, const struct key_setting *settings,
			unsigned kinds)
{
	char list[1024];

	list_keys(settings, kinds, list, sizeof(list));
	mistakes_add(loader->mistakes, key->line, "%s is no key of [%s], allowed here:%s",
		     key->name, section->kind, list);
}

/* Whether KEY has a value. */
static bool check_key(const struct loader *loader, const struct ini_key *key)
{
	if (key->value[0] != '\0')
		return true;
	mistakes_add(loader->mistakes, key->line, "%s has no value, allowed here: %s = value",
		     key->name, key->name);
	return false;
}

/* Stores KEY at its place in TARGET if SETTINGS have it. Returns 1 if so, 0 if not, -ENOMEM. */
static int store_key(const struct loader *loader, const struct ini_key *key,
		     const struct key_setting *settings, void *target)
{
	const struct key_place place = {key, loader->mistakes};

	for (; settings->name; settings++) {
		if (!streq(settings->name, key->name))
			continue;
		if (!check_key(loader, key))
			return 1;
		int r = settings->store(&place, (char *) target + settings->offset);
		return r < 0 ? r : 1;
	}
	return 0;
}

/* Stores all keys of a section that is no rule. */
static int store_section(const struct loader *loader, const struct ini_section *section,
			 const struct key_setting *settings, void *target)
{
	for (size_t i = 0; i < section->n_keys; i++) {
		int r = store_key(loader, &section->keys[i], settings, target);

		if (r < 0)
			return r;
		if (r == 0)
			unknown_key(loader, section, &section->keys[i], settings, 0);
	}
	return 0;
}

static int read_general(struct loader *loader, const struct ini_section *section)
{
	_cleanup_free_ char *crosvm = TAKE_PTR(loader->config->general.crosvm);
	int r;

	if (section->name[0])
		mistakes_add(loader->mistakes, section->line,
			     "[general] with a name, allowed here: [general]");
	r = store_section(loader, section, general_settings, &loader->config->general);
	if (!loader->config->general.crosvm)
		loader->config->general.crosvm = TAKE_PTR(crosvm);
	return r;
}

static bool has_key(const struct ini_section *section, const char *name)
{
	for (size_t i = 0; i < section->n_keys; i++)
		if (streq(section->keys[i].name, name))
			return true;
	return false;
}

/* Keys that belong to another type of VM. */
static void check_type_keys(const struct loader *loader, const struct ini_section *section,
			    enum vm_type type)
{
	const struct config_vm_type *row = &config_vm_types[type];
	char allowed[256] = "type";

	for (const char *const *key = row->keys; *key; key++)
		snprintf(allowed + strlen(allowed), sizeof(allowed) - strlen(allowed), ", %s",
			 *key);
	for (size_t i = 0; i < section->n_keys; i++) {
		const char *name = section->keys[i].name;
		bool is_others = false;

		for (size_t other = 0; other < VM_TYPES; other++)
			is_others = is_others || config_vm_type_has((enum vm_type) other, name);
		if (!is_others || config_vm_type_has(type, name))
			continue;
		mistakes_add(loader->mistakes, section->keys[i].line,
			     "%s in the section of a %s, allowed here: %s", name, row->word,
			     allowed);
	}
}

/* How the VM is reached. */
static void check_way(const struct loader *loader, const struct ini_section *section,
		      enum vm_type type)
{
	unsigned n = 0;

	if (!config_vm_type_has(type, "socket"))
		return;
	for (size_t i = 0; i < section->n_keys; i++) {
		const struct ini_key *key = &section->keys[i];

		if (!streq(key->name, "socket") && !streq(key->name, "listen"))
			continue;
		if (n++ > 0 && config_vm_type_has(type, "listen"))
			mistakes_add(loader->mistakes, key->line,
				     "socket and listen, allowed here: one of them");
	}
	if (n > 0)
		return;
	mistakes_add(loader->mistakes, section->line,
		     "[vm %s] says no socket, allowed here: socket = /path%s", section->name,
		     config_vm_type_has(type, "listen") ? " or listen = /path" : "");
}

static int read_vm(struct loader *loader, const struct ini_section *section)
{
	const struct config_vm *first = config_find_vm(loader->config, section->name);
	struct config_vm *vm;

	if (!key_is_name(section->name))
		mistakes_add(loader->mistakes, section->line,
			     "\"%s\" is no name for a VM, allowed here: letters, digits, . _ -",
			     section->name);
	else if (first)
		mistakes_add(loader->mistakes, section->line,
			     "[vm %s] again (first in line %u), allowed here: each VM once",
			     section->name, first->line);
	vm = ARRAY_APPEND(loader->config->vms, loader->config->n_vms);
	if (!vm)
		return -ENOMEM;
	vm->line = section->line;
	vm->name = strdup(section->name);
	if (!vm->name)
		return -ENOMEM;
	int r = store_section(loader, section, vm_settings, vm);
	if (r == 0) {
		check_way(loader, section, vm->type);
		check_type_keys(loader, section, vm->type);
	}
	if (!has_key(section, "delay"))
		vm->delay = config_vm_types[vm->type].delay;
	return r;
}

/* Can VM take what GROUP has for it at all? */
static void check_group_kind(const struct loader *loader, const struct config_group *group,
			     const struct config_vm *vm)
{
	const struct config_vm_type *type = &config_vm_types[vm->type];
	char allowed[128];

	if (type->kinds & 1u << group->kind)
		return;
	key_list_vm_types(1u << group->kind, allowed, sizeof(allowed));
	mistakes_add(loader->mistakes, group->vms_line,
		     "%s is a %s, which takes no %s devices%s, allowed here: a VM of type %s",
		     vm->name, type->word, config_kind_name(group->kind),
		     group->kind == CONFIG_USB && type->kinds & 1u << CONFIG_PCI
			     ? " (but in a [pci] group the USB controller that they are at)"
			     : "",
		     allowed);
}

/* Adds what is wrong with the VMs that a group names; they may come later in the file, so this is
 * called at the end. */
static void check_group_vms(const struct loader *loader, const struct config_group *group)
{
	for (char **name = group->vms; name && *name; name++) {
		const struct config_vm *vm = config_find_vm(loader->config, *name);
		char list[512] = "";
		size_t n = 0;

		if (vm) {
			check_group_kind(loader, group, vm);
			continue;
		}
		for (size_t i = 0; i < loader->config->n_vms && n < sizeof(list); i++)
			n += (size_t) snprintf(list + n, sizeof(list) - n, " %s",
					       loader->config->vms[i].name);
		mistakes_add(loader->mistakes, group->vms_line,
			     "there is no VM %s, allowed here:%s", *name,
			     n ? list : " the name of a [vm] section (there is none)");
	}
}

/* Finds the one key that says which VMs, and checks that it is one. */
static void check_target(const struct loader *loader, const struct ini_section *section,
			 struct config_group *group)
{
	unsigned n = 0;

	for (size_t i = 0; i < section->n_keys; i++) {
		const struct ini_key *key = &section->keys[i];
		bool target = streq(key->name, "targetVm");

		if (!target && !streq(key->name, "allowedVms"))
			continue;
		group->vms_line = key->line;
		if (n++ > 0)
			mistakes_add(loader->mistakes, key->line,
				     "targetVm and allowedVms, allowed here: one of them");
		else if (target && strchr(key->value, ','))
			mistakes_add(loader->mistakes, key->line,
				     "targetVm = %s, allowed here: one VM", key->value);
	}
	if (n == 0)
		mistakes_add(loader->mistakes, section->line,
			     "[%s %s] says no VM, allowed here: targetVm = name", section->kind,
			     section->name);
}

/* What it is about two names that are one. */
static const char *explain_same(const char *a, const char *b)
{
	return streq(a, b) ? "" : "; / \" \\ $ % and what can't be seen are _ in both";
}

static void check_group_name(const struct loader *loader, const struct ini_section *section,
			     enum config_kind kind)
{
	if (!section->name[0])
		mistakes_add(loader->mistakes, section->line,
			     "[%s] without a description, allowed here: [%s Some words]",
			     section->kind, section->kind);
	for (size_t i = 0; i < loader->config->n_groups; i++) {
		const struct config_group *other = &loader->config->groups[i];

		if (other->kind == kind && config_same_name(other->name, section->name))
			mistakes_add(loader->mistakes, section->line,
				     "[%s %s] again (first in line %u%s), "
				     "allowed here: each group once",
				     section->kind, section->name, other->line,
				     explain_same(other->name, section->name));
	}
}

static int read_group(struct loader *loader, const struct ini_section *section,
		      enum config_kind kind)
{
	struct config_group *group;

	check_group_name(loader, section, kind);
	group = ARRAY_APPEND(loader->config->groups, loader->config->n_groups);
	if (!group)
		return -ENOMEM;
	loader->in_group = true;
	group->kind = kind;
	group->line = section->line;
	group->fence = group->crosvm_use_root_bus = true;
	group->name = strdup(section->name);
	if (!group->name)
		return -ENOMEM;
	check_target(loader, section, group);
	/* With both keys only the first counts, so that nothing is stored twice. */
	if (has_key(section, "targetVm") && has_key(section, "choose"))
		mistakes_add(loader->mistakes, section->line,
			     "choose with targetVm, allowed here: choose with allowedVms");
	return has_key(section, "targetVm") && has_key(section, "allowedVms")
		       ? 0
		       : store_section(loader, section, key_group_settings(kind), group);
}

/* Stores KEY as a field of RULE if it is a match key of KIND. Returns as store_key. */
static int store_field(const struct loader *loader, enum config_kind kind,
		       const struct ini_key *key, struct config_rule *rule)
{
	const struct key_place place = {key, loader->mistakes};
	char *value;
	int r;

	for (unsigned i = 0; i < MATCH_KEYS; i++) {
		if (!streq(config_match_name((enum config_match) i), key->name) ||
		    !(match_keys[i].kinds & 1u << kind))
			continue;
		if (!check_key(loader, key))
			return 1;
		r = match_keys[i].check(&place, &value);
		if (r < 0 || !value)
			return r < 0 ? r : 1;

		struct config_field *field = ARRAY_APPEND(rule->fields, rule->n_fields);
		if (!field) {
			free(value);
			return -ENOMEM;
		}
		*field = (struct config_field){(enum config_match) i, value, key->line};
		return 1;
	}
	return 0;
}

/* What can be wrong with a rule as a whole. N_KEYS: how many match keys its section has. */
static void check_rule(const struct loader *loader, const struct ini_section *section,
		       const struct config_rule *rule, size_t n_keys)
{
	if (rule->match_all && n_keys > 0)
		mistakes_add(loader->mistakes, rule->line,
			     "matchAll = yes with fields, allowed here: one or the other");
	if (!rule->match_all && n_keys == 0)
		mistakes_add(loader->mistakes, rule->line,
			     "[%s %s] has no field, allowed here: at least one, or matchAll = yes",
			     section->kind, section->name);
	if (has_key(section, "property") != has_key(section, "value"))
		mistakes_add(loader->mistakes, rule->line,
			     "property and value belong together, allowed here: both or neither");
}

static void check_rule_name(const struct loader *loader, const struct ini_section *section,
			    const struct config_group *group)
{
	if (!section->name[0])
		mistakes_add(loader->mistakes, section->line,
			     "[%s] without a description, allowed here: [%s Some words]",
			     section->kind, section->kind);
	for (size_t i = 0; i < group->n_rules; i++) {
		const struct config_rule *other = &group->rules[i];

		if (config_same_name(other->name, section->name))
			mistakes_add(loader->mistakes, section->line,
				     "a second rule \"%s\" in this group (first in line %u%s), "
				     "allowed here: a name of its own",
				     section->name, other->line,
				     explain_same(other->name, section->name));
	}
}

static int read_rule_keys(struct loader *loader, const struct ini_section *section,
			  enum config_kind kind, struct config_rule *rule)
{
	size_t n_keys = 0;

	for (size_t i = 0; i < section->n_keys; i++) {
		const struct ini_key *key = &section->keys[i];
		int r = store_key(loader, key, rule_settings, rule);

		if (r == 0) {
			r = store_field(loader, kind, key, rule);
			n_keys += r > 0;
		}
		if (r < 0)
			return r;
		if (r == 0) {
			unknown_key(loader, section, key, rule_settings, 1u << kind);
			n_keys++;
		}
	}
	check_rule(loader, section, rule, n_keys);
	return 0;
}

static int read_rule(struct loader *loader, const struct ini_section *section)
{
	struct config_group *group;
	struct config_rule *rule;

	if (!loader->in_group) {
		mistakes_add(loader->mistakes, section->line,
			     "[%s] before the first group, allowed here: [usb], [pci] or [evdev]",
			     section->kind);
		return 0;
	}
	group = &loader->config->groups[loader->config->n_groups - 1];
	check_rule_name(loader, section, group);
	rule = ARRAY_APPEND(group->rules, group->n_rules);
	if (!rule)
		return -ENOMEM;
	rule->line = section->line;
	rule->deny = streq(section->kind, "deny");
	rule->options = group->options;
	rule->name = strdup(section->name);
	if (!rule->name)
		return -ENOMEM;
	return read_rule_keys(loader, section, group->kind, rule);
}

/* Who is let in must be said where the kernel does not say who comes. */
static int read_api(struct loader *loader, const struct ini_section *section)
{
	struct config_api *api = &loader->config->api;
	int r;

	if (section->name[0] || api->line > 0)
		mistakes_add(loader->mistakes, section->line,
			     "[api] with a name or a second time, allowed here: one [api]");
	if (api->line > 0)
		return 0;
	api->line = section->line;
	r = store_section(loader, section, api_settings, api);
	if (!has_key(section, "transports"))
		mistakes_add(
			loader->mistakes, section->line,
			"[api] says no transports, allowed here: transports = unix, tcp, vsock");
	if (api->vsock && !api->cids)
		mistakes_add(loader->mistakes, section->line,
			     "vsock without allowedCids, allowed here: allowedCids = 3, 4");
	if (r == 0 && !api->path)
		api->path = strdup(VHOTPLUG_STATEDIR "/vhotplug.sock");
	if (r == 0 && !api->host)
		api->host = strdup("127.0.0.1");
	if (api->port == 0)
		api->port = 2000;
	return r < 0 || (api->path && api->host) ? r : -ENOMEM;
}

static int read_section(struct loader *loader, const struct ini_section *section)
{
	if (!section->kind)
		return 0;
	if (streq(section->kind, "general"))
		return read_general(loader, section);
	if (streq(section->kind, "api"))
		return read_api(loader, section);
	if (streq(section->kind, "vm"))
		return read_vm(loader, section);
	if (streq(section->kind, "allow") || streq(section->kind, "deny"))
		return read_rule(loader, section);
	for (unsigned kind = 0; kind < CONFIG_KINDS; kind++)
		if (streq(section->kind, config_kind_name((enum config_kind) kind)))
			return read_group(loader, section, (enum config_kind) kind);
	mistakes_add(loader->mistakes, section->line,
		     "[%s] is no section, allowed here: [general] [api] [vm] [usb] [pci] [evdev] "
		     "[allow] [deny]",
		     section->kind);
	return 0;
}

/* [general] may come later in the file. */
static void check_firmware(const struct loader *loader, const struct config_group *group)
{
	const struct config_general *general = &loader->config->general;

	if (group->auto_ovmf && (!general->ovmf_code || !general->ovmf_vars))
		mistakes_add(loader->mistakes, group->line,
			     "autoOvmf without firmware, allowed here: ovmfCode and ovmfVars in "
			     "[general]");
}

static int read_sections(struct loader *loader, const struct ini *ini)
{
	unsigned general_line = 0;

	for (size_t i = 0; i < ini->n_sections; i++) {
		const struct ini_section *section = &ini->sections[i];
		int r = read_section(loader, section);

		if (r < 0)
			return r;
		if (!section->kind || !streq(section->kind, "general"))
			continue;
		if (general_line > 0)
			mistakes_add(
				loader->mistakes, section->line,
				"[general] again (first in line %u), allowed here: one [general]",
				general_line);
		general_line = section->line;
	}
	for (size_t i = 0; i < loader->config->n_groups; i++) {
		check_group_vms(loader, &loader->config->groups[i]);
		check_firmware(loader, &loader->config->groups[i]);
	}
	return 0;
}

/* Fills CONFIG from FILE; what is wrong is in MISTAKES. */
static int read_config(FILE *file, struct config *config, struct mistakes *mistakes)
{
	struct loader loader = {.config = config, .mistakes = mistakes};
	struct ini ini = {0};
	int r;

	config->general.attach_connected = true;
	config->general.persistency = true;
	config->general.crosvm = strdup("/usr/bin/crosvm");
	if (!config->general.crosvm)
		return -ENOMEM;
	r = ini_read(file, &ini, mistakes);
	if (r >= 0)
		r = read_sections(&loader, &ini);
	ini_finish(&ini);
	return r;
}

int config_read(FILE *file, const char *path, FILE *errors, struct config **ret_config)
{
	_cleanup_(config_freep) struct config *config = calloc(1, sizeof(*config));
	struct mistakes mistakes = {.path = path};
	int r, said;

	if (!config)
		return -ENOMEM;
	r = read_config(file, config, &mistakes);
	said = mistakes_print(&mistakes, errors);
	mistakes_finish(&mistakes);
	if (r >= 0)
		r = said < 0 ? said : config_digest(config, config->digest);
	else
		fprintf(errors, "%s: %s\n", path, strerror(-r));
	if (r < 0)
		return r;
	*ret_config = TAKE_PTR(config);
	return 0;
}

int config_load(const char *path, FILE *errors, struct config **ret_config)
{
	_cleanup_fclose_ FILE *file = fopen(path, "re");

	if (!file) {
		int r = -errno;

		fprintf(errors, "%s: %s\n", path, strerror(-r));
		return r;
	}
	return config_read(file, path, errors, ret_config);
}
