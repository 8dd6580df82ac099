/* Evaluates compiled rules against one device, with words. Called by main.c. */
#include "rules.d/explain.h"

#include <fnmatch.h>
#include <libudev.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "conf/array.h"
#include "helper/match.h"
#include "rules.d/compile.h"

struct subject {
	struct udev_device *device;
	enum config_kind kind;
	char interfaces[INTERFACES_MAX]; /* ID_USB_INTERFACES, also where udev lost it */
	FILE *out;
};

/* What PATTERN, with its alternatives, says about VALUE. */
static bool pattern_matches(const char *pattern, const char *value)
{
	_cleanup_free_ char *copy = strdup(pattern);
	char *rest = copy, *one;

	while (copy && (one = strsep(&rest, "|")))
		if (strpbrk(one, "*?[") ? fnmatch(one, value, 0) == 0 : streq(one, value))
			return true;
	return false;
}

static const char *name_of(const struct subject *s, const char *database, const char *own)
{
	const char *name = udev_device_get_property_value(s->device, database);

	/* For udev an empty property is a missing one. */
	if (!name || !*name)
		name = udev_device_get_property_value(s->device, own);
	return name ?: "";
}

static const char *find_property(const struct subject *s, const char *name)
{
	const char *value = udev_device_get_property_value(s->device, name) ?: "";

	if (streq(name, "ID_USB_INTERFACES"))
		return s->interfaces;
	if (streq(name, VENDOR_NAME))
		return name_of(s, "ID_VENDOR_FROM_DATABASE", "ID_VENDOR");
	if (streq(name, PRODUCT_NAME))
		return name_of(s, "ID_MODEL_FROM_DATABASE", "ID_MODEL");
	/* The fence changed these after the decision. */
	if ((streq(name, "ID_INPUT_KEY") || streq(name, "ID_INPUT_SWITCH")) && streq(value, "0") &&
	    udev_device_get_property_value(s->device, "VHOTPLUG_FENCED"))
		return "1";
	return value;
}

/* An attribute without blanks at its end, as a new string; NULL when there is none. */
static char *read_attribute(const struct subject *s, const char *name)
{
	const char *value = udev_device_get_sysattr_value(s->device, name);
	char *copy = value ? strdup(value) : NULL;
	size_t n = copy ? strlen(copy) : 0;

	while (n > 0 && strchr(" \t\r\n", copy[n - 1]))
		copy[--n] = '\0';
	return copy;
}

/* Runs vhotplug-match with the device's properties as its environment, as udevd does. */
static bool program_matches(const struct subject *s, const char *arguments)
{
	_cleanup_free_ char *copy = strdup(arguments);
	char *argv[8] = {(char[]){VHOTPLUG_LIBEXECDIR "/vhotplug-match"}}, *rest = copy;
	char **environment = NULL;
	struct udev_list_entry *entry;
	size_t n = 1, n_environment = 0;
	int status = -1;
	pid_t pid;

	while (n < ARRAY_SIZE(argv) - 1 && (argv[n] = strsep(&rest, " ")))
		n++;
	udev_list_entry_foreach(entry, udev_device_get_properties_list_entry(s->device))
	{
		char **slot = ARRAY_APPEND(environment, n_environment);

		if (slot && asprintf(slot, "%s=%s", udev_list_entry_get_name(entry),
				     udev_list_entry_get_value(entry)) < 0)
			*slot = NULL;
	}
	if (ARRAY_APPEND(environment, n_environment) &&
	    posix_spawn(&pid, argv[0], NULL, NULL, argv, environment) == 0)
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	for (size_t i = 0; i < n_environment; i++)
		free(environment[i]);
	free(environment);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool token_matches(const struct subject *s, const struct token *token)
{
	_cleanup_free_ char *value = NULL;
	bool matches = false;

	switch (token->key) {
	case TOKEN_KERNEL:
		matches = pattern_matches(token->pattern, udev_device_get_sysname(s->device));
		break;
	case TOKEN_DEVPATH:
		matches = pattern_matches(token->pattern, udev_device_get_devpath(s->device));
		break;
	case TOKEN_ENV:
		matches = pattern_matches(token->pattern, find_property(s, token->name));
		break;
	case TOKEN_ATTR:
		value = read_attribute(s, token->name);
		if (!value)
			return false;
		matches = pattern_matches(token->pattern, value);
		break;
	case TOKEN_PROGRAM:
		matches = program_matches(s, token->pattern);
		break;
	}
	return matches != token->negate;
}

static bool line_matches(const struct subject *s, const struct conjunction *line)
{
	for (size_t i = 0; i < line->n_tokens; i++)
		if (!token_matches(s, &line->tokens[i]))
			return false;
	return true;
}

static bool rule_matches(const struct subject *s, const struct compiled_rule *rule)
{
	for (size_t i = 0; i < rule->n_stages; i++) {
		const struct stage *stage = &rule->stages[i];
		bool any = false;

		for (size_t l = 0; !any && l < stage->n_lines; l++)
			any = line_matches(s, &stage->lines[l]);
		if (!any)
			return false;
	}
	return true;
}

/* What the device has where TOKEN looks. */
static void print_value(const struct subject *s, const struct token *token)
{
	_cleanup_free_ char *value = NULL;

	switch (token->key) {
	case TOKEN_KERNEL:
		fprintf(s->out, " name \"%s\"", udev_device_get_sysname(s->device));
		break;
	case TOKEN_DEVPATH:
		fprintf(s->out, " devpath \"%s\"", udev_device_get_devpath(s->device));
		break;
	case TOKEN_ENV:
		fprintf(s->out, " %s \"%s\"",
			streq(token->name, VENDOR_NAME)    ? "vendor"
			: streq(token->name, PRODUCT_NAME) ? "product"
							   : token->name,
			find_property(s, token->name));
		break;
	case TOKEN_ATTR:
		value = read_attribute(s, token->name);
		fprintf(s->out, value ? " %s \"%s\"" : " no %s", token->name, value);
		break;
	case TOKEN_PROGRAM:
		fprintf(s->out, " vhotplug-match looked");
		break;
	}
}

/* Prints what each different place is that COMPILED looks at. */
static void print_values(const struct subject *s, const struct compiled_rule *compiled)
{
	const struct token *seen[8];
	size_t n_seen = 0;

	for (size_t i = 0; i < compiled->n_stages; i++)
		for (size_t l = 0; l < compiled->stages[i].n_lines; l++)
			for (size_t t = 0; t < compiled->stages[i].lines[l].n_tokens; t++) {
				const struct token *token = &compiled->stages[i].lines[l].tokens[t];
				bool again = n_seen == ARRAY_SIZE(seen);

				for (size_t k = 0; !again && k < n_seen; k++)
					again = seen[k]->key == token->key &&
						(!token->name || streq(seen[k]->name, token->name));
				if (again)
					continue;
				seen[n_seen++] = token;
				print_value(s, token);
			}
}

static int explain_field(const struct subject *s, const struct config_rule *rule,
			 const struct config_field *field)
{
	_cleanup_(compiled_finish) struct compiled_rule compiled = {0};
	int r = field_compile(rule, s->kind, field, &compiled);

	if (r < 0)
		return r;
	if (field->match == MATCH_PROPERTY)
		return 0; /* goes with value */
	fprintf(s->out, "      %-3s %s = %s; it has:", rule_matches(s, &compiled) ? "yes" : "no",
		config_match_name(field->match), field->value);
	if (compiled.n_stages == 0)
		fprintf(s->out, " anything");
	print_values(s, &compiled);
	fputc('\n', s->out);
	return 0;
}

/* Prints RULE. Returns whether it matches, or -errno. */
static int explain_rule(const struct subject *s, const struct config_rule *rule)
{
	_cleanup_(compiled_finish) struct compiled_rule compiled = {0};
	const char *kind = rule->deny ? "deny" : "allow";
	bool matches;
	int r = rule_compile(rule, s->kind, &compiled);

	if (r < 0)
		return r;
	if (rule->disable) {
		fprintf(s->out, "    [%s %s] is switched off\n", kind, rule->name);
		return false;
	}
	matches = rule_matches(s, &compiled);
	fprintf(s->out, "    [%s %s] (line %u) %s\n", kind, rule->name, rule->line,
		matches ? "matches" : "does not match");
	for (size_t i = 0; r == 0 && i < rule->n_fields; i++)
		r = explain_field(s, rule, &rule->fields[i]);
	return r < 0 ? r : matches;
}

/* Prints all rules of GROUP. Returns the rule that takes the device in *RET, NULL if none. */
static int explain_group(const struct subject *s, const struct config_group *group,
			 const struct config_rule **ret)
{
	const struct config_rule *taken = NULL, *denied = NULL;

	fprintf(s->out, "  [%s %s] (line %u)%s\n", config_kind_name(group->kind), group->name,
		group->line, group->disable ? " is switched off" : "");
	for (size_t i = 0; !group->disable && i < group->n_rules; i++) {
		int r = explain_rule(s, &group->rules[i]);

		if (r < 0)
			return r;
		if (r > 0 && group->rules[i].deny && !denied)
			denied = &group->rules[i];
		else if (r > 0 && !group->rules[i].deny && !taken)
			taken = &group->rules[i];
	}
	if (denied)
		fprintf(s->out, "    so this group leaves it alone, by [deny %s]\n", denied->name);
	*ret = denied ? NULL : taken;
	return 0;
}

/* Why a device is out of the question whatever the rules say, or NULL. */
static const char *never_taken(const struct subject *s)
{
	_cleanup_free_ char *device_class =
		read_attribute(s, s->kind == CONFIG_USB ? "bDeviceClass" : "class");

	switch (s->kind) {
	case CONFIG_USB:
		if (s->interfaces[0] == '\0')
			return "its interfaces can't be read";
		if ((device_class && streq(device_class, "09")) ||
		    pattern_matches("*:09????:*", s->interfaces))
			return "hubs stay with the host";
		return NULL;
	case CONFIG_PCI:
		return device_class && startswith(device_class, "0x06")
			       ? "bridges stay with the host"
			       : NULL;
	case CONFIG_EVDEV:
		return udev_device_get_parent_with_subsystem_devtype(s->device, "usb", NULL)
			       ? "input devices on USB go with their USB device"
			       : NULL;
	case CONFIG_KINDS:
		break;
	}
	return NULL;
}

static void print_decision(const struct subject *s, const struct config_group *group,
			   const struct config_rule *rule)
{
	const char *stored = udev_device_get_property_value(s->device, "VHOTPLUG_RULE");

	if (rule) {
		fprintf(s->out, "Decision: [allow %s] of [%s %s] gives it to", rule->name,
			config_kind_name(group->kind), group->name);
		for (char **vm = group->vms; *vm; vm++)
			fprintf(s->out, "%s %s", vm == group->vms ? "" : " or", *vm);
		fputs(".\n", s->out);
	} else {
		fputs("Decision: it stays with the host.\n", s->out);
	}
	fprintf(s->out, "udev's database has: %s\n", stored ?: "no decision");
}

static int explain_device(const struct config *config, struct subject *s)
{
	const struct config_rule *taken = NULL;
	const struct config_group *group = NULL;
	const char *never = never_taken(s);

	fprintf(s->out, "%s (%s)\n", udev_device_get_devpath(s->device), config_kind_name(s->kind));
	if (never)
		fprintf(s->out, "  whatever the rules say: %s\n", never);
	for (size_t i = 0; !never && !taken && i < config->n_groups; i++) {
		group = &config->groups[i];
		if (group->kind != s->kind)
			continue;
		int r = explain_group(s, group, &taken);
		if (r < 0)
			return r;
	}
	print_decision(s, group, taken);
	return 0;
}

/* Fills SUBJECT for DEVICE. False when it is of no kind that rules are for. */
static bool subject_init(struct subject *s, struct udev_device *device, FILE *out)
{
	const char *subsystem = udev_device_get_subsystem(device) ?: "";
	const char *devtype = udev_device_get_devtype(device) ?: "";
	const struct match_places places = {0};

	*s = (struct subject){.device = device, .out = out};
	if (streq(subsystem, "usb") && streq(devtype, "usb_device")) {
		const char *known = udev_device_get_property_value(device, "ID_USB_INTERFACES");

		s->kind = CONFIG_USB;
		setenv("DEVPATH", udev_device_get_devpath(device), true);
		if (known && *known && strlen(known) < MANY_INTERFACES_BYTES)
			strcpy(s->interfaces, known);
		else if (match_interfaces(&places, s->interfaces) < 0)
			s->interfaces[0] = '\0';
		return true;
	}
	s->kind = streq(subsystem, "pci") ? CONFIG_PCI : CONFIG_EVDEV;
	return s->kind == CONFIG_PCI ||
	       (streq(subsystem, "input") && startswith(udev_device_get_sysname(device), "event"));
}

/* Explains one device, if rules are for it. Returns how many were explained, or -errno. */
static int explain_one(const struct config *config, struct udev_device *device, FILE *out)
{
	struct subject s;
	int r = 0;

	if (!device || !subject_init(&s, device, out))
		return 0;
	r = explain_device(config, &s);
	return r < 0 ? r : 1;
}

/* Explains the USB devices whose attributes A and B have these values. */
static int explain_usb(const struct config *config, struct udev *udev, const char *const a[2],
		       const char *const b[2], FILE *out)
{
	struct udev_enumerate *all = udev_enumerate_new(udev);
	struct udev_list_entry *entry;
	int n = 0, r = 0;

	if (!all)
		return -ENOMEM;
	udev_enumerate_add_match_subsystem(all, "usb");
	udev_enumerate_scan_devices(all);
	udev_list_entry_foreach(entry, udev_enumerate_get_list_entry(all))
	{
		struct udev_device *device =
			udev_device_new_from_syspath(udev, udev_list_entry_get_name(entry));
		const char *x = device ? udev_device_get_sysattr_value(device, a[0]) : NULL;
		const char *y = device ? udev_device_get_sysattr_value(device, b[0]) : NULL;

		if (r >= 0 && x && y && streq(x, a[1]) && streq(y, b[1])) {
			r = explain_one(config, device, out);
			n += r > 0;
		}
		udev_device_unref(device);
	}
	udev_enumerate_unref(all);
	return r < 0 ? r : n;
}

/* "1:5" or "046d:c52b". */
static int explain_pair(const struct config *config, struct udev *udev, const char *name, FILE *out)
{
	char left[5], right[5];

	if (sscanf(name, "%4[0-9a-f]:%4[0-9a-f]", left, right) != 2)
		return 0;
	if (strlen(left) == 4 && strlen(right) == 4)
		return explain_usb(config, udev, (const char *[]){"idVendor", left},
				   (const char *[]){"idProduct", right}, out);
	snprintf(left, sizeof(left), "%d", atoi(left) % 1000);
	snprintf(right, sizeof(right), "%d", atoi(right) % 1000);
	return explain_usb(config, udev, (const char *[]){"busnum", left},
			   (const char *[]){"devnum", right}, out);
}

static struct udev_device *device_by_path(struct udev *udev, const char *name)
{
	_cleanup_free_ char *path = NULL;
	struct stat st;

	if (startswith(name, "/dev/") && stat(name, &st) == 0)
		return udev_device_new_from_devnum(udev, S_ISBLK(st.st_mode) ? 'b' : 'c',
						   st.st_rdev);
	if (startswith(name, "/sys/"))
		return udev_device_new_from_syspath(udev, name);
	if (name[0] != '/')
		return udev_device_new_from_subsystem_sysname(udev, "pci", name);
	if (asprintf(&path, "/sys%s", name) < 0) {
		path = NULL;
		return NULL;
	}
	return udev_device_new_from_syspath(udev, path);
}

int rules_explain(const struct config *config, const char *name, FILE *out)
{
	struct udev *udev = udev_new();
	struct udev_device *device;
	int r;

	if (!udev)
		return -ENOMEM;
	device = device_by_path(udev, name);
	r = device ? explain_one(config, device, out) : explain_pair(config, udev, name, out);
	if (r == 0) {
		fprintf(stderr,
			"vhotplug-gen-rules: %s: no device that rules are for; give a "
			"devpath, a device node, bus:device, vid:pid or a PCI address\n",
			name);
		r = -ENODEV;
	}
	udev_device_unref(device);
	udev_unref(udev);
	return r < 0 ? r : 0;
}
