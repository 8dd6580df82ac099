/* The checks behind every key of the config, and the tables that say where each may stand.
 * load.c walks the tables; nothing here knows about sections or their order. */
#include "conf/keys.h"

#include <arpa/inet.h>

#include <sys/un.h>

#include "conf/regex.h"

_Static_assert(CONFIG_SOCKET_SIZE == sizeof(((struct sockaddr_un *) NULL)->sun_path),
	       "a socket's path fits into its address");

#define ALNUM "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

static void add_mistake(const struct key_place *place, const char *allowed)
{
	mistakes_add(place->mistakes, place->key->line, "%s = %s, allowed here: %s",
		     place->key->name, place->key->value, allowed);
}

bool key_is_name(const char *name)
{
	return *name && strspn(name, ALNUM "._-") == strlen(name);
}

static int store_bool(const struct key_place *place, void *target)
{
	const char *value = place->key->value;

	if (streq(value, "yes"))
		*(bool *) target = true;
	else if (streq(value, "no"))
		*(bool *) target = false;
	else
		add_mistake(place, "yes or no");
	return 0;
}

static int store_text(const struct key_place *place, void *target)
{
	char *copy = strdup(place->key->value);

	if (!copy)
		return -ENOMEM;
	free(*(char **) target); /* a section may come twice */
	*(char **) target = copy;
	return 0;
}

static int store_path(const struct key_place *place, void *target)
{
	if (place->key->value[0] == '/')
		return store_text(place, target);
	add_mistake(place, "a path from the root");
	return 0;
}

static int store_socket(const struct key_place *place, void *target)
{
	if (place->key->value[0] == '/' && strlen(place->key->value) < CONFIG_SOCKET_SIZE)
		return store_text(place, target);
	add_mistake(place, "the path of a socket from the root, at most 107 bytes");
	return 0;
}

/* A name or a number of the host's; ALLOWED says whose. */
static int store_account(const struct key_place *place, void *target, const char *allowed)
{
	const char *value = place->key->value;
	char *end;

	if (value[0] >= '0' && value[0] <= '9') {
		errno = 0;
		if (strtoul(value, &end, 10) < UINT32_MAX && *end == '\0' && errno == 0)
			return store_text(place, target);
	} else if (value[0] != '-' && key_is_name(value) && strlen(value) < CONFIG_USER_SIZE) {
		return store_text(place, target);
	}
	add_mistake(place, allowed);
	return 0;
}

static int store_user(const struct key_place *place, void *target)
{
	return store_account(place, target, "a user name of at most 63 bytes, or a uid");
}

static int store_group(const struct key_place *place, void *target)
{
	return store_account(place, target, "the name of a group, at most 63 bytes, or a gid");
}

/* libvirt takes nearly everything for a name; a slash it never does. */
static int store_domain(const struct key_place *place, void *target)
{
	if (!strchr(place->key->value, '/'))
		return store_text(place, target);
	add_mistake(place, "the name or UUID of a domain, as virsh list --all prints it");
	return 0;
}

/* The devices are this host's, and so is the libvirt that has them. */
static int store_uri(const struct key_place *place, void *target)
{
	const char *value = place->key->value, *path = strstr(value, ":///");

	if (path && startswith(value, "qemu") &&
	    (size_t) (path - value) == strspn(value, ALNUM "+"))
		return store_text(place, target);
	add_mistake(place, "a URI of libvirt on this host: qemu:///system");
	return 0;
}

/* Goes into a property of the device, on one line with everything else. */
static int store_short_name(const struct key_place *place, void *target)
{
	if (key_is_name(place->key->value) && strlen(place->key->value) < CONFIG_TAG_SIZE)
		return store_text(place, target);
	add_mistake(place, "a name of at most 40 letters, digits, . _ -");
	return 0;
}

static int store_delay(const struct key_place *place, void *target)
{
	const char *value = place->key->value;

	if (strspn(value, "0123456789") == strlen(value) && strlen(value) <= 4 &&
	    atoi(value) <= 3600)
		*(unsigned *) target = (unsigned) atoi(value);
	else
		add_mistake(place, "seconds, 0 to 3600");
	return 0;
}

static int store_choose(const struct key_place *place, void *target)
{
	const char *value = place->key->value;
	unsigned *options = target;

	if (streq(value, "ask"))
		*options |= OPTION_ASK;
	else if (!streq(value, "first"))
		add_mistake(place, "first or ask");
	return 0;
}

#define VM_TYPE_ROW(id, name, word, kinds, delay, ...) \
	[VM_##id] = {word, kinds, delay, {__VA_ARGS__}},
const struct config_vm_type config_vm_types[VM_TYPES] = {VMM_TABLE(VM_TYPE_ROW)};

bool config_vm_type_has(enum vm_type type, const char *key)
{
	const char *const *name = config_vm_types[type].keys;

	while (*name && !streq(*name, key))
		name++;
	return *name != NULL;
}

void key_list_vm_types(unsigned kinds, char *ret_list, size_t size)
{
	size_t n = 0, n_left = 0;

	for (size_t i = 0; i < VM_TYPES; i++)
		n_left += (config_vm_types[i].kinds & kinds) != 0;
	ret_list[0] = 0;
	for (size_t i = 0; i < VM_TYPES && n < size; i++)
		if (config_vm_types[i].kinds & kinds)
			n += (size_t) snprintf(ret_list + n, size - n, "%s%s",
					       config_vm_types[i].word,
					       --n_left > 1  ? ", "
					       : n_left == 1 ? " or "
							     : "");
}

static int store_type(const struct key_place *place, void *target)
{
	const char *value = place->key->value;
	char allowed[128];

	for (size_t i = 0; i < VM_TYPES; i++)
		if (streq(value, config_vm_types[i].word)) {
			*(enum vm_type *) target = (enum vm_type) i;
			return 0;
		}
	key_list_vm_types(~0u, allowed, sizeof(allowed));
	add_mistake(place, allowed);
	return 0;
}

static void free_list(char **list)
{
	for (char **s = list; s && *s; s++)
		free(*s);
	free(list);
}

/* The text at S without blanks at its ends; S is changed. */
static char *trim_text(char *s)
{
	size_t n;

	s += strspn(s, " \t");
	for (n = strlen(s); n > 0 && strchr(" \t", s[n - 1]); n--)
		s[n - 1] = '\0';
	return s;
}

static bool in_list(char *const *list, const char *name)
{
	for (; *list; list++)
		if (streq(*list, name))
			return true;
	return false;
}

/* The items of VALUE between its commas as a new NULL-terminated array in *RET, or NULL there when
 * one is not GOOD or comes twice. Returns 0 or -ENOMEM. */
static int split_list(const char *value, bool (*good)(const char *item), char ***ret)
{
	_cleanup_free_ char *copy = strdup(value);
	char **list, *rest = copy, *item;
	size_t n = 0, most = 1;

	for (const char *s = value; *s; s++)
		most += *s == ',';
	list = calloc(most + 1, sizeof(*list));
	*ret = NULL;
	while (list && copy && (item = strsep(&rest, ","))) {
		item = trim_text(item);
		if (!good(item) || in_list(list, item)) {
			free_list(list);
			return 0;
		}
		list[n] = strdup(item);
		if (!list[n++])
			break;
	}
	if (!list || !copy || !list[n - 1]) {
		free_list(list);
		return -ENOMEM;
	}
	*ret = list;
	return 0;
}

static int store_names(const struct key_place *place, void *target)
{
	char **list;
	int r = split_list(place->key->value, key_is_name, &list);

	if (list)
		*(char ***) target = list;
	else if (r == 0)
		add_mistake(place, "names of letters, digits, . _ - with commas between them, "
				   "each once");
	return r;
}

/* A file that becomes a part of an argument: QEMU's options are separated by commas, and a shell's
 * words by blanks. */
bool key_is_argument(const char *path)
{
	return path[0] == '/' && !strpbrk(path, " \t,");
}

static int store_argument(const struct key_place *place, void *target)
{
	if (key_is_argument(place->key->value))
		return store_text(place, target);
	add_mistake(place, "a path from the root without blanks and commas");
	return 0;
}

static int store_arguments(const struct key_place *place, void *target)
{
	char **list;
	int r = split_list(place->key->value, key_is_argument, &list);

	if (list)
		*(char ***) target = list;
	else if (r == 0)
		add_mistake(place, "paths from the root without blanks, with commas between them, "
				   "each once");
	return r;
}

static int store_option(const struct key_place *place, void *target, enum config_option option)
{
	bool set = false;
	int r = store_bool(place, &set);

	if (set)
		*(unsigned *) target |= option;
	return r;
}

#define OPTION_STORE(name, key, word)                                        \
	static int store_##name(const struct key_place *place, void *target) \
	{                                                                    \
		return store_option(place, target, OPTION_##name);           \
	}
OPTION_LIST(OPTION_STORE)

#define OPTION_OF_GROUP(name, key, word) \
	{key, store_##name, offsetof(struct config_group, options)},
#define OPTION_OF_RULE(name, key, word) {key, store_##name, offsetof(struct config_rule, options)},

const struct key_setting general_settings[] = {
	{"attachConnected", store_bool, offsetof(struct config_general, attach_connected)},
	{"crosvm", store_path, offsetof(struct config_general, crosvm)},
	{"controlGroup", store_group, offsetof(struct config_general, control_group)},
	{"persistency", store_bool, offsetof(struct config_general, persistency)},
	{"group", store_group, offsetof(struct config_general, group)},
	{"ovmfCode", store_argument, offsetof(struct config_general, ovmf_code)},
	{"ovmfVars", store_argument, offsetof(struct config_general, ovmf_vars)},
	{NULL, NULL, 0},
};

const struct key_setting vm_settings[] = {
	{"type", store_type, offsetof(struct config_vm, type)},
	{"socket", store_socket, offsetof(struct config_vm, socket)},
	{"user", store_user, offsetof(struct config_vm, user)},
	{"usbBus", store_names, offsetof(struct config_vm, usb_bus)},
	{"listen", store_socket, offsetof(struct config_vm, listen)},
	{"delay", store_delay, offsetof(struct config_vm, delay)},
	{"pciBus", store_names, offsetof(struct config_vm, pci_bus)},
	{"qemuUseRootBus", store_bool, offsetof(struct config_vm, qemu_use_root_bus)},
	{"acpiTable", store_arguments, offsetof(struct config_vm, acpi_tables)},
	{"domain", store_domain, offsetof(struct config_vm, domain)},
	{"uri", store_uri, offsetof(struct config_vm, uri)},
	{NULL, NULL, 0},
};

/* Which ways lead in: unix, tcp, vsock. */
static int store_transports(const struct key_place *place, void *target)
{
	struct config_api *api = target;
	char **list = NULL;
	int r = store_names(place, &list);

	for (char **s = list; s && *s; s++) {
		if (streq(*s, "unix"))
			api->unix_socket = true;
		else if (streq(*s, "tcp"))
			api->tcp = true;
		else if (streq(*s, "vsock"))
			api->vsock = true;
		else
			add_mistake(place, "unix, tcp, vsock, with commas between them");
	}
	free_list(list);
	return r;
}

static int store_mode(const struct key_place *place, void *target)
{
	const char *value = place->key->value;
	unsigned mode = (unsigned) strtoul(value, NULL, 8);

	if (strspn(value, "01234567") == strlen(value) && strlen(value) <= 4 && mode > 0 &&
	    mode <= 0777)
		*(unsigned *) target = mode;
	else
		add_mistake(place, "a mode like 0660");
	return 0;
}

static int store_port(const struct key_place *place, void *target)
{
	const char *value = place->key->value;
	int port = atoi(value);

	if (strspn(value, "0123456789") == strlen(value) && strlen(value) <= 5 && port > 0 &&
	    port <= 65535)
		*(unsigned *) target = (unsigned) port;
	else
		add_mistake(place, "1 to 65535");
	return 0;
}

static int store_host(const struct key_place *place, void *target)
{
	unsigned char address[16];

	if (inet_pton(AF_INET, place->key->value, address) == 1 ||
	    inet_pton(AF_INET6, place->key->value, address) == 1)
		return store_text(place, target);
	add_mistake(place, "an address: 127.0.0.1, ::1");
	return 0;
}

/* Source: vsock(7): 0 to 2 are no guests; 2 is the host itself, which may well be a client. */
static int store_cids(const struct key_place *place, void *target)
{
	char **list = NULL;
	int r = store_names(place, &list);
	size_t n = 0;

	while (list && list[n])
		n++;
	unsigned *cids = calloc(n + 1, sizeof(*cids));
	for (size_t i = 0; cids && i < n; i++) {
		cids[i] = strspn(list[i], "0123456789") == strlen(list[i]) && strlen(list[i]) < 10
				  ? (unsigned) atoi(list[i])
				  : 0;
		if (cids[i] == 0)
			add_mistake(place, "CIDs of guests, with commas between them");
	}
	free_list(list);
	*(unsigned **) target = cids;
	return cids ? r : -ENOMEM;
}

const struct key_setting api_settings[] = {
	{"transports", store_transports, 0},
	{"unixSocket", store_socket, offsetof(struct config_api, path)},
	{"unixSocketUser", store_user, offsetof(struct config_api, user)},
	{"unixSocketGroup", store_group, offsetof(struct config_api, group)},
	{"unixSocketMode", store_mode, offsetof(struct config_api, mode)},
	{"host", store_host, offsetof(struct config_api, host)},
	{"port", store_port, offsetof(struct config_api, port)},
	{"allowedCids", store_cids, offsetof(struct config_api, cids)},
	{NULL, NULL, 0},
};

/* targetVm and allowedVms both fill vms; load.c sees to it that there is one of them. */
static const struct key_setting group_settings[] = {
	/* [pci] alone */
	{"autoOvmf", store_bool, offsetof(struct config_group, auto_ovmf)},
	{"qemuUseRootBus", store_bool, offsetof(struct config_group, qemu_use_root_bus)},
	{"crosvmUseRootBus", store_bool, offsetof(struct config_group, crosvm_use_root_bus)},
	/* all */
	{"targetVm", store_names, offsetof(struct config_group, vms)},
	{"allowedVms", store_names, offsetof(struct config_group, vms)},
	{"fence", store_bool, offsetof(struct config_group, fence)},
	{"choose", store_choose, offsetof(struct config_group, options)},
	{"skipOnSuspend", store_bool, offsetof(struct config_group, skip_on_suspend)},
	{"disable", store_bool, offsetof(struct config_group, disable)},
	{"description", store_text, offsetof(struct config_group, description)},
	{"tag", store_short_name, offsetof(struct config_group, tag)},
	{"family", store_short_name, offsetof(struct config_group, family)},
	OPTION_LIST(OPTION_OF_GROUP){NULL, NULL, 0},
};

const struct key_setting *key_group_settings(enum config_kind kind)
{
	return kind == CONFIG_PCI ? group_settings : group_settings + 3;
}

const struct key_setting rule_settings[] = {
	{"matchAll", store_bool, offsetof(struct config_rule, match_all)},
	{"disable", store_bool, offsetof(struct config_rule, disable)},
	{"description", store_text, offsetof(struct config_rule, description)},
	{"tag", store_short_name, offsetof(struct config_rule, tag)},
	{"family", store_short_name, offsetof(struct config_rule, family)},
	OPTION_LIST(OPTION_OF_RULE){NULL, NULL, 0},
};

/* A copy of the value, or a mistake when it is not GOOD. */
static int copy_if(const struct key_place *place, bool good, const char *allowed, char **ret)
{
	if (!good) {
		add_mistake(place, allowed);
		*ret = NULL;
		return 0;
	}
	*ret = strdup(place->key->value);
	return *ret ? 0 : -ENOMEM;
}

static void lower_text(char *s)
{
	for (; s && *s; s++)
		if (*s >= 'A' && *s <= 'Z')
			*s = (char) (*s - 'A' + 'a');
}

static int check_id(const struct key_place *place, char **ret)
{
	const char *value = place->key->value;
	bool good = strlen(value) == 4 && strspn(value, "0123456789abcdefABCDEF") == 4;
	int r = copy_if(place, good, "four hex digits", ret);

	lower_text(*ret);
	return r;
}

/* 0 to 255, decimal or with 0x, into two hex digits. */
static int check_class(const struct key_place *place, char **ret)
{
	const char *value = place->key->value, *hex = startswith(value, "0x");
	const char *digits = hex ?: value;
	size_t n = strlen(digits);
	bool good = n >= 1 && n <= (hex ? 2 : 3) &&
		    strspn(digits, hex ? "0123456789abcdefABCDEF" : "0123456789") == n &&
		    (hex || digits[0] != '0' || n == 1) &&
		    strtoul(digits, NULL, hex ? 16 : 10) <= 255;

	if (!good) {
		add_mistake(place, "0 to 255 without zeros in front, or 0x00 to 0xff");
		*ret = NULL;
		return 0;
	}
	if (asprintf(ret, "%02lx", strtoul(digits, NULL, hex ? 16 : 10)) < 0) {
		*ret = NULL;
		return -ENOMEM;
	}
	return 0;
}

static bool is_number(const char *s, size_t n)
{
	return n >= 1 && n <= 3 && s[0] != '0' && strspn(s, "0123456789") >= n;
}

static int check_number(const struct key_place *place, char **ret)
{
	const char *value = place->key->value;

	return copy_if(place, is_number(value, strlen(value)), "1 to 999", ret);
}

/* "1.4", the N bytes at S. */
static bool is_port_chain(const char *s, size_t n)
{
	for (;;) {
		size_t digits = strcspn(s, ".");

		if (digits >= n)
			return is_number(s, n);
		if (!is_number(s, digits))
			return false;
		s += digits + 1;
		n -= digits + 1;
	}
}

/* "3-1.4", or "1.4" on any bus. */
static bool is_port_path(const char *s)
{
	size_t bus = strcspn(s, "-");

	if (s[bus] == '\0')
		return is_port_chain(s, bus);
	return is_number(s, bus) && is_port_chain(s + bus + 1, strlen(s + bus + 1));
}

/* The port paths of LIST as a udev pattern, as a new string, or NULL when there is no memory. */
static char *port_pattern(char *const *list)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	for (char *const *s = list; *s; s++)
		fprintf(out, "%s%s%s", s == list ? "" : "|", strchr(*s, '-') ? "" : "*-", *s);
	if (fclose(out) == 0)
		return text;
	free(text);
	return NULL;
}

static int check_port_path(const struct key_place *place, char **ret)
{
	char **list;
	int r = split_list(place->key->value, is_port_path, &list);

	*ret = list ? port_pattern(list) : NULL;
	if (r == 0 && !list)
		add_mistake(place, "ports as the kernel writes them: 3-1.4, or 1.4 on any bus; "
				   "several with commas between them");
	else if (r == 0 && !*ret)
		r = -ENOMEM;
	free_list(list);
	return r;
}

static int check_devpath(const struct key_place *place, char **ret)
{
	const char *value = place->key->value;
	const char *route = startswith(value, "/devices/");
	size_t n = strlen(value);
	bool good = route && *route && value[n - 1] != '/' && !strstr(value, "//") &&
		    strspn(value, ALNUM "/._:+,@#=~-") == n;

	return copy_if(place, good, "a path below /devices/, as udevadm info -q path prints it",
		       ret);
}

/* Only what udev lets through into ID_SERIAL_SHORT: anything else could never match. */
static int check_serial(const struct key_place *place, char **ret)
{
	const char *value = place->key->value;
	bool good = true;

	for (const char *s = value; *s; s++)
		good = good && strchr(ALNUM "#+-.:=@_", *s);
	return copy_if(place, good,
		       "ID_SERIAL_SHORT as udevadm info prints it (letters, digits, #+-.:=@_)",
		       ret);
}

/* A list in the config, alternatives in udev's way of writing here. */
static int check_removable(const struct key_place *place, char **ret)
{
	static const char *const words[] = {"fixed", "removable", "unknown"};
	_cleanup_free_ char **list = NULL;
	char joined[64] = "";
	unsigned seen = 0;
	size_t n = 0, known = 0;
	int r = store_names(place, &list);

	*ret = NULL;
	if (r < 0 || !list)
		return r;
	for (char **s = list; *s; s++, n++)
		for (size_t i = 0; i < ARRAY_SIZE(words); i++)
			if (streq(*s, words[i])) {
				seen |= 1u << i;
				known++;
			}
	for (size_t i = 0; i < n; i++)
		free(list[i]);
	if (known != n) {
		add_mistake(place, "fixed, removable, unknown, with commas between them");
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (seen & 1u << i) {
			strcat(joined, joined[0] ? "|" : "");
			strcat(joined, words[i]);
		}
	*ret = strdup(joined);
	return *ret ? 0 : -ENOMEM;
}

/* The domain has four digits, or more without a zero in front: VMD's begin with 10000. */
static int check_address(const struct key_place *place, char **ret)
{
	static const char pattern[] = ":xx:xx.o", hex[] = "0123456789abcdefABCDEF";
	const char *value = place->key->value;
	size_t domain = strspn(value, hex);
	bool good = domain >= 4 && domain <= 8 && (domain == 4 || value[0] != '0') &&
		    strlen(value) == domain + sizeof(pattern) - 1;

	for (size_t i = 0; good && pattern[i]; i++) {
		char c = value[domain + i];

		good = pattern[i] == 'x'   ? strchr(hex, c) != NULL
		       : pattern[i] == 'o' ? c >= '0' && c <= '7'
					   : c == pattern[i];
	}

	int r = copy_if(place, good, "a PCI address: 0000:00:14.3", ret);
	lower_text(*ret);
	return r;
}

static int check_regex(const struct key_place *place, char **ret)
{
	char error[128];
	pcre2_code *code = regex_compile(place->key->value, error, sizeof(error));

	*ret = NULL;
	if (!code) {
		mistakes_add(place->mistakes, place->key->line,
			     "%s = %s: %s, allowed here: a regular expression (PCRE2)",
			     place->key->name, place->key->value, error);
		return 0;
	}
	pcre2_code_free(code);
	return copy_if(place, true, "", ret);
}

bool key_is_late_property(const char *name)
{
	static const char *const names[] = {
		"CURRENT_TAGS",
		"DEVLINKS",
		"ID_AUTOSEAT",
		"ID_FOR_SEAT",
		"ID_INPUT_3D_MOUSE",
		"ID_INPUT_JOYSTICK_INTEGRATION",
		"ID_INPUT_TOUCHPAD_INTEGRATION",
		"ID_INPUT_TRACKBALL",
		"ID_SEAT",
		"TAGS",
		"USEC_INITIALIZED",
	};
	static const char *const prefixes[] = {"LIBINPUT_", "MOUSE_", "POINTINGSTICK_", "SYSTEMD_"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (streq(name, names[i]))
			return true;
	for (size_t i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (startswith(name, prefixes[i]))
			return true;
	return false;
}

static int check_property(const struct key_place *place, char **ret)
{
	const char *value = place->key->value;
	bool good = strspn(value, ALNUM "_") == strlen(value) && strlen(value) <= 60 &&
		    !startswith(value, "VHOTPLUG_");

	if (good && key_is_late_property(value))
		return copy_if(
			place, false,
			"a property that udev sets before 66-vhotplug.rules; this one comes later",
			ret);
	return copy_if(place, good, "the name of a udev property, at most 60 bytes", ret);
}

static int check_text(const struct key_place *place, char **ret)
{
	return copy_if(place, true, "", ret);
}

#define USB (1u << CONFIG_USB)
#define PCI (1u << CONFIG_PCI)
#define EVDEV (1u << CONFIG_EVDEV)

const struct key_match match_keys[MATCH_KEYS] = {
	[MATCH_VENDOR_ID] = {check_id, USB | PCI},
	[MATCH_PRODUCT_ID] = {check_id, USB},
	[MATCH_VENDOR_NAME] = {check_regex, USB},
	[MATCH_PRODUCT_NAME] = {check_regex, USB},
	[MATCH_VENDOR_STRING] = {check_regex, USB},
	[MATCH_PRODUCT_STRING] = {check_regex, USB},
	[MATCH_SERIAL] = {check_serial, USB},
	[MATCH_BUS] = {check_number, USB},
	[MATCH_PORT] = {check_number, USB},
	[MATCH_PORT_PATH] = {check_port_path, USB},
	[MATCH_DEVPATH] = {check_devpath, USB},
	[MATCH_INTERFACE_CLASS] = {check_class, USB},
	[MATCH_INTERFACE_SUBCLASS] = {check_class, USB},
	[MATCH_INTERFACE_PROTOCOL] = {check_class, USB},
	[MATCH_DEVICE_CLASS] = {check_class, USB | PCI},
	[MATCH_DEVICE_SUBCLASS] = {check_class, USB | PCI},
	[MATCH_DEVICE_PROTOCOL] = {check_class, USB},
	[MATCH_REMOVABLE] = {check_removable, USB},
	[MATCH_DRIVER_PATH] = {check_regex, USB},
	[MATCH_ADDRESS] = {check_address, PCI},
	[MATCH_DEVICE_ID] = {check_id, PCI},
	[MATCH_SUBSYSTEM_VENDOR_ID] = {check_id, PCI},
	[MATCH_SUBSYSTEM_ID] = {check_id, PCI},
	[MATCH_DEVICE_PROG_IF] = {check_class, PCI},
	[MATCH_NAME] = {check_regex, EVDEV},
	[MATCH_PATH_TAG] = {check_regex, USB | EVDEV},
	[MATCH_PROPERTY] = {check_property, EVDEV},
	[MATCH_VALUE] = {check_text, EVDEV},
};
