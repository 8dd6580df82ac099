/* Evaluates compiled rules against one device, as udevd would. Called by explain.c and apply.c. */
#include "rules.d/evaluate.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <spawn.h>
#include <sys/wait.h>

#define ATTRIBUTE_MAX 4096

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

const char *subject_name(const struct subject *s)
{
	return strrchr(s->devpath, '/') + 1;
}

/* The property NAME, or NULL. */
static const char *find_property(const struct subject *s, const char *name)
{
	size_t n = strlen(name);

	for (char **p = s->properties; p && *p; p++)
		if (strncmp(*p, name, n) == 0 && (*p)[n] == '=')
			return *p + n + 1;
	return NULL;
}

static const char *name_of(const struct subject *s, const char *database, const char *own)
{
	const char *name = find_property(s, database);

	/* For udev an empty property is a missing one. */
	return (name && *name ? name : find_property(s, own)) ?: "";
}

const char *subject_property(const struct subject *s, const char *name)
{
	const char *value = find_property(s, name) ?: "";

	if (streq(name, INTERFACES))
		return s->interfaces;
	if (streq(name, ALL_INTERFACES))
		return s->all_interfaces;
	if (streq(name, VENDOR_NAME))
		return name_of(s, "ID_VENDOR_FROM_DATABASE", "ID_VENDOR");
	if (streq(name, PRODUCT_NAME))
		return name_of(s, "ID_MODEL_FROM_DATABASE", "ID_MODEL");
	/* The fence changed these after the decision. */
	if ((streq(name, "ID_INPUT_KEY") || streq(name, "ID_INPUT_SWITCH")) && streq(value, "0") &&
	    find_property(s, "VHOTPLUG_FENCED"))
		return "1";
	return value;
}

char *subject_attribute(const struct subject *s, const char *name)
{
	char path[PATH_MAX], value[ATTRIBUTE_MAX];
	_cleanup_close_ int fd = -1;
	ssize_t n;

	if ((size_t) snprintf(path, sizeof(path), "%s%s/%s", s->places.sysfs ?: "/sys", s->devpath,
			      name) >= sizeof(path))
		return NULL;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	n = fd < 0 ? -1 : read(fd, value, sizeof(value) - 1);
	if (n < 0)
		return NULL;
	while (n > 0 && strchr(" \t\r\n", value[n - 1]))
		n--;
	value[n] = '\0';
	return strdup(value);
}

/* Runs vhotplug-match with the device's properties as its environment, as udevd does. */
static bool program_matches(const struct subject *s, const char *arguments)
{
	_cleanup_free_ char *copy = strdup(arguments);
	char *argv[8] = {(char[]){VHOTPLUG_LIBEXECDIR "/vhotplug-match"}}, *rest = copy;
	char *nothing[] = {NULL};
	size_t n = 1;
	int status = -1;
	pid_t pid;

	while (n < ARRAY_SIZE(argv) - 1 && (argv[n] = strsep(&rest, " ")))
		n++;
	if (posix_spawn(&pid, argv[0], NULL, NULL, argv, s->properties ?: nothing) == 0)
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool attribute_matches(const struct subject *s, const struct token *token)
{
	_cleanup_free_ char *value = subject_attribute(s, token->name);

	return value && pattern_matches(token->pattern, value) != token->negate;
}

static bool token_matches(const struct subject *s, const struct token *token)
{
	bool matches = false;

	switch (token->key) {
	case TOKEN_KERNEL:
		matches = pattern_matches(token->pattern, subject_name(s));
		break;
	case TOKEN_DEVPATH:
		matches = pattern_matches(token->pattern, s->devpath);
		break;
	case TOKEN_ENV:
		matches = pattern_matches(token->pattern, subject_property(s, token->name));
		break;
	case TOKEN_ATTR:
		return attribute_matches(s, token);
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

bool rule_matches(const struct subject *s, const struct compiled_rule *rule)
{
	if (s->all_interfaces[0] == '\0' && compiled_needs_interfaces(rule))
		return true;
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

/* Whether what S is plugged into is on USB, with no other bus between. */
static bool is_on_usb(const struct subject *s)
{
	char path[PATH_MAX], link[PATH_MAX], target[PATH_MAX];
	size_t root = (size_t) snprintf(path, sizeof(path), "%s", s->places.sysfs ?: "/sys");

	if (root + strlen(s->devpath) >= sizeof(path))
		return true;
	strcpy(path + root, s->devpath);
	for (char *slash; (slash = strrchr(path + root, '/')); *slash = '\0') {
		const char *subsystem;
		ssize_t n = -1;

		if ((size_t) snprintf(link, sizeof(link), "%s/subsystem", path) < sizeof(link))
			n = readlink(link, target, sizeof(target) - 1);
		if (n < 0)
			continue;
		target[n] = '\0';
		subsystem = strrchr(target, '/') ? strrchr(target, '/') + 1 : target;
		if (streq(subsystem, "usb"))
			return true;
		if (pattern_matches(BUSES_ON_USB, subsystem))
			return false;
	}
	return false;
}

const char *subject_never_taken(const struct subject *s)
{
	_cleanup_free_ char *device_class =
		subject_attribute(s, s->kind == CONFIG_USB ? "bDeviceClass" : "class");

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
		return is_on_usb(s) ? "input devices on USB go with their USB device" : NULL;
	case CONFIG_KINDS:
		break;
	}
	return NULL;
}

/* Whether RULE matches; -ENOMEM. */
static int subject_matches(const struct subject *s, const struct config_rule *rule)
{
	_cleanup_(compiled_finish) struct compiled_rule compiled = {0};
	int r = rule->disable ? 0 : rule_compile(rule, s->kind, &compiled);

	return r < 0 || rule->disable ? r : rule_matches(s, &compiled);
}

/* The first rule of GROUP, of those that deny or those that allow, which matches S. */
static int find_rule(const struct subject *s, const struct config_group *group, bool deny,
		     const struct config_rule **ret)
{
	*ret = NULL;
	for (size_t i = 0; i < group->n_rules; i++) {
		int r = group->rules[i].deny == deny ? subject_matches(s, &group->rules[i]) : 0;

		if (r == 0)
			continue;
		*ret = r > 0 ? &group->rules[i] : NULL;
		return r < 0 ? r : 0;
	}
	return 0;
}

int config_decide(const struct config *config, const struct subject *s,
		  bool (*is_out)(const struct config_group *group),
		  const struct config_group **ret_group, const struct config_rule **ret_rule)
{
	*ret_group = NULL;
	*ret_rule = NULL;
	if (subject_never_taken(s))
		return 0;
	for (size_t i = 0; i < config->n_groups; i++) {
		const struct config_group *group = &config->groups[i];
		const struct config_rule *denied = NULL, *taken = NULL;
		int r;

		if (group->kind != s->kind || group->disable || (is_out && is_out(group)))
			continue;
		/* Allows first: most groups end there, and a device is no less denied for it. */
		r = find_rule(s, group, false, &taken);
		if (r == 0 && taken)
			r = find_rule(s, group, true, &denied);
		if (r < 0)
			return r;
		if (taken && !denied) {
			*ret_group = group;
			*ret_rule = taken;
			return 0;
		}
	}
	return 0;
}

int subject_init(struct subject *s, const char *devpath, const char *subsystem, const char *devtype,
		 char **properties, const char *sysfs)
{
	const char *known;

	*s = (struct subject){.devpath = devpath, .properties = properties};
	s->places = (struct match_places){.sysfs = sysfs, .devpath = devpath};
	if (streq(subsystem, "usb") && streq(devtype, "usb_device")) {
		s->kind = CONFIG_USB;
		known = find_property(s, INTERFACES) ?: "";
		if (match_interfaces(&s->places, s->all_interfaces) < 0)
			s->all_interfaces[0] = '\0';
		strcpy(s->interfaces,
		       pattern_matches(LOST_INTERFACES, known) ? s->all_interfaces : known);
		return 1;
	}
	s->kind = streq(subsystem, "pci") ? CONFIG_PCI : CONFIG_EVDEV;
	return s->kind == CONFIG_PCI ||
	       (streq(subsystem, "input") && startswith(subject_name(s), "event"));
}

void subject_finish(struct subject *s)
{
	for (char **p = s->properties; p && *p; p++)
		free(*p);
	free(s->properties);
	s->properties = NULL;
}
