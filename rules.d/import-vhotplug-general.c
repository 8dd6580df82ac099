/* What vhotplug's JSON says for all: [general], [api], firmware and ACPI tables. See import-json.h.
 * Whether a value is good for us is asked of the table that the config is read by. */
#include "conf/keys.h"
#include "rules.d/import-json.h"

void import_note_others(struct importer *i, json_t *object, const char *what,
			const char *const *known)
{
	const char *key;
	json_t *value;

	json_object_foreach(object, key, value)
	{
		bool carried = false;

		for (const char *const *k = known; *k; k++)
			carried = carried || streq(*k, key);
		if (!carried && !json_is_false(value) && !json_is_null(value) &&
		    !(json_is_object(value) && is_disabled(value)))
			import_note(i, "%s of %s", key, what);
	}
}

static bool is_good_for(const struct key_setting *settings, void *target, const char *name,
			const char *value)
{
	struct ini_key key = {.name = (char *) name, .value = (char *) value};
	struct mistakes mistakes = {0};
	const struct key_place place = {&key, &mistakes};
	bool good = false;

	for (; settings->name; settings++)
		if (streq(settings->name, name))
			good = settings->store(&place, (char *) target + settings->offset) == 0;
	good = good && mistakes.n == 0 && !mistakes.lost;
	mistakes_finish(&mistakes);
	return good;
}

/* Is VALUE one for NAME of [general] or, IS_API, of [api]? */
static bool is_good(bool is_api, const char *name, const char *value)
{
	struct config *scratch = calloc(1, sizeof(*scratch));
	bool good =
		scratch && is_good_for(is_api ? api_settings : general_settings,
				       is_api ? (void *) &scratch->api : (void *) &scratch->general,
				       name, value);

	config_free(scratch);
	return good;
}

/* VALUE as it would be written in our config: text, a number, a list of them. */
static void write_value(json_t *value, char *ret, size_t size)
{
	json_t *item;
	size_t index, n = 0;

	*ret = 0;
	if (json_is_string(value))
		snprintf(ret, size, "%s", json_string_value(value));
	else if (json_is_integer(value))
		snprintf(ret, size, "%lld", (long long) json_integer_value(value));
	json_array_foreach(value, index, item)
	{
		char text[64];

		if (json_is_array(item))
			continue;
		write_value(item, text, sizeof(text));
		if (n < size)
			n += (size_t) snprintf(ret + n, size - n, "%s%s", index ? ", " : "", text);
	}
}

/* Prints NAME of OBJECT, if it is there and good for us. */
static void print_setting(struct importer *i, json_t *object, bool is_api, const char *name)
{
	json_t *value = json_object_get(object, name);
	char text[CONFIG_VALUE_SIZE + 64];

	if (!value || json_is_null(value))
		return;
	write_value(value, text, sizeof(text));
	if (!is_good(is_api, name, text) || !import_value(i, name, text))
		import_note(i, "%s of %s: none for us", name, is_api ? "api" : "general");
}

static bool has_transport(json_t *api, const char *name)
{
	json_t *item;
	size_t index;

	json_array_foreach(json_object_get(api, "transports"), index, item)
	{
		if (json_is_string(item) && streq(json_string_value(item), name))
			return true;
	}
	return false;
}

/* Who is let in by vsock must be said here: the guests of none that are named would be all. */
static void print_transports(struct importer *i, json_t *api)
{
	static const char *const names[] = {"unix", "tcp", "vsock"};
	const char *comma = "transports = ";
	char cids[CONFIG_VALUE_SIZE];

	write_value(json_object_get(api, "allowedCids"), cids, sizeof(cids));
	for (size_t k = 0; k < ARRAY_SIZE(names); k++) {
		if (!has_transport(api, names[k]))
			continue;
		if (streq(names[k], "vsock") && !is_good(true, "allowedCids", cids))
			continue;
		fprintf(i->out, "%s%s", comma, names[k]);
		comma = ", ";
	}
	fputc('\n', i->out);
	if (has_transport(api, "vsock") && !is_good(true, "allowedCids", cids))
		import_note(i, "vsock of api: say allowedCids, which guests may come");
}

static bool has_any_transport(json_t *api)
{
	char cids[CONFIG_VALUE_SIZE];

	write_value(json_object_get(api, "allowedCids"), cids, sizeof(cids));
	return has_transport(api, "unix") || has_transport(api, "tcp") ||
	       (has_transport(api, "vsock") && is_good(true, "allowedCids", cids));
}

static void import_api(struct importer *i, json_t *api)
{
	static const char *const settings[] = {
		"unixSocket", "unixSocketUser", "unixSocketGroup", "unixSocketMode",
		"host",       "port",           "allowedCids"};
	static const char *const carried[] = {"enable",
					      "disable",
					      "transports",
					      "unixSocket",
					      "unixSocketUser",
					      "unixSocketGroup",
					      "unixSocketMode",
					      "host",
					      "port",
					      "allowedCids",
					      NULL};

	if (!json_is_object(api) || is_disabled(api))
		return;
	if (!has_any_transport(api)) {
		if (json_array_size(json_object_get(api, "transports")) > 0)
			import_note(i, "api of general: none of its transports is one for us");
		return;
	}
	fputs("\n[api]\n", i->out);
	print_transports(i, api);
	for (size_t k = 0; k < ARRAY_SIZE(settings); k++)
		print_setting(i, api, true, settings[k]);
	import_note_others(i, api, "api", carried);
}

bool import_has_firmware(json_t *root)
{
	json_t *general = json_object_get(root, "general");
	const char *code = text_of(general, "ovmfCode"), *vars = text_of(general, "ovmfVars");

	return code && vars && is_good(false, "ovmfCode", code) && is_good(false, "ovmfVars", vars);
}

void import_general(struct importer *i, json_t *root, bool attach_connected)
{
	static const char *const carried[] = {"crosvm",   "persistency", "ovmfCode",
					      "ovmfVars", "api",         NULL};
	static const char *const parts[] = {
		"general",         "vms", "usbPassthrough", "pciPassthrough", "evdevPassthrough",
		"acpiPassthrough", NULL};
	json_t *general = json_object_get(root, "general");
	json_t *persistency = json_object_get(general, "persistency");
	const char *crosvm = text_of(general, "crosvm");

	fprintf(i->out, "[general]\nattachConnected = %s\n", attach_connected ? "yes" : "no");
	if (crosvm && !(crosvm[0] == '/' && import_value(i, "crosvm", crosvm)))
		import_note(i, "crosvm %s: no path from the root", crosvm);
	if (persistency && !is_true(persistency))
		fputs("persistency = no\n", i->out);
	print_setting(i, general, false, "ovmfCode");
	print_setting(i, general, false, "ovmfVars");
	import_note_others(i, general, "general", carried);
	import_note_others(i, root, "the config", parts);
	import_api(i, json_object_get(general, "api"));
}

/* Adds the file of ENTRY to LINE, a list with commas. */
static void add_table(struct importer *i, json_t *entry, char *line, size_t size)
{
	const char *path = text_of(entry, "acpiTable");
	size_t n = strlen(line);

	if (!path || is_disabled(entry))
		return;
	if (!key_is_argument(path) || n + strlen(path) + 3 > size || strstr(line, path)) {
		import_note(i, "acpiTable %s: none for us, or no room for it", path);
		return;
	}
	snprintf(line + n, size - n, "%s%s", n ? ", " : "", path);
	if (text_of(entry, "setUser") || text_of(entry, "setGroup"))
		import_note(i, "setUser and setGroup of acpiTable %s: QEMU must be let read it",
			    path);
}

void import_acpi(struct importer *i, json_t *root, const char *name)
{
	json_t *group, *entry;
	size_t g, e;
	char line[CONFIG_VALUE_SIZE - sizeof("acpiTable = ")] = "";

	json_array_foreach(json_object_get(root, "acpiPassthrough"), g, group)
	{
		const char *vm = text_of(group, "targetVm");

		if (!vm || !streq(vm, name) || is_disabled(group))
			continue;
		json_array_foreach(json_object_get(group, "allow"), e, entry)
			add_table(i, entry, line, sizeof(line));
	}
	if (*line && !import_value(i, "acpiTable", line))
		import_note(i, "acpiTable of VM %s: no value for a line", name);
}
