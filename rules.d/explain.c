/* Says with words what the rules say about a device. Called by main.c. */
#include "rules.d/explain.h"

#include <libudev.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "conf/array.h"
#include "helper/text.h"
#include "rules.d/evaluate.h"
#include "rules.d/udev.h"

/* What a device says of itself may steer a terminal. */
static void print_words(FILE *out, const char *name, const char *value)
{
	char clean[512];

	text_clean(clean, sizeof(clean), value);
	fprintf(out, " %s \"%s\"", name, clean);
}

/* What the device has where TOKEN looks. */
static void print_value(FILE *out, const struct subject *s, const struct token *token)
{
	_cleanup_free_ char *value = NULL;

	switch (token->key) {
	case TOKEN_KERNEL:
		print_words(out, "name", subject_name(s));
		break;
	case TOKEN_DEVPATH:
		print_words(out, "devpath", s->devpath);
		break;
	case TOKEN_ENV:
		print_words(out,
			    streq(token->name, VENDOR_NAME)      ? "vendor"
			    : streq(token->name, PRODUCT_NAME)   ? "product"
			    : streq(token->name, INTERFACES)     ? "interfaces"
			    : streq(token->name, ALL_INTERFACES) ? "interfaces"
								 : token->name,
			    subject_property(s, token->name));
		break;
	case TOKEN_ATTR:
		value = subject_attribute(s, token->name);
		if (value)
			print_words(out, token->name, value);
		else
			fprintf(out, " no %s", token->name);
		break;
	case TOKEN_PROGRAM:
		fprintf(out, " vhotplug-match looked");
		break;
	}
}

/* Prints what each different place is that COMPILED looks at. */
static void print_values(FILE *out, const struct subject *s, const struct compiled_rule *compiled)
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
				print_value(out, s, token);
			}
}

static int explain_field(FILE *out, const struct subject *s, const struct config_rule *rule,
			 const struct config_field *field)
{
	_cleanup_(compiled_finish) struct compiled_rule compiled = {0};
	int r = field_compile(rule, s->kind, field, &compiled);

	if (r < 0)
		return r;
	if (field->match == MATCH_PROPERTY)
		return 0; /* goes with value */
	fprintf(out, "      %-3s %s = %s; it has:", rule_matches(s, &compiled) ? "yes" : "no",
		config_match_name(field->match), field->value);
	if (compiled.n_stages == 0)
		fprintf(out, " anything");
	print_values(out, s, &compiled);
	fputc('\n', out);
	return 0;
}

/* Prints RULE. Returns whether it matches, or -errno. */
static int explain_rule(FILE *out, const struct subject *s, const struct config_rule *rule)
{
	_cleanup_(compiled_finish) struct compiled_rule compiled = {0};
	const char *kind = rule->deny ? "deny" : "allow";
	bool matches;
	int r = rule_compile(rule, s->kind, &compiled);

	if (r < 0)
		return r;
	if (rule->disable) {
		fprintf(out, "    [%s %s] is switched off\n", kind, rule->name);
		return false;
	}
	matches = rule_matches(s, &compiled);
	fprintf(out, "    [%s %s] (line %u) %s\n", kind, rule->name, rule->line,
		matches ? "matches" : "does not match");
	for (size_t i = 0; r == 0 && i < rule->n_fields; i++)
		r = explain_field(out, s, rule, &rule->fields[i]);
	return r < 0 ? r : matches;
}

/* Prints all rules of GROUP. Returns the rule that takes the device in *RET, NULL if none. */
static int explain_group(FILE *out, const struct subject *s, const struct config_group *group,
			 const struct config_rule **ret)
{
	const struct config_rule *taken = NULL, *denied = NULL;

	fprintf(out, "  [%s %s] (line %u)%s\n", config_kind_name(group->kind), group->name,
		group->line, group->disable ? " is switched off" : "");
	for (size_t i = 0; !group->disable && i < group->n_rules; i++) {
		int r = explain_rule(out, s, &group->rules[i]);

		if (r < 0)
			return r;
		if (r > 0 && group->rules[i].deny && !denied)
			denied = &group->rules[i];
		else if (r > 0 && !group->rules[i].deny && !taken)
			taken = &group->rules[i];
	}
	if (denied)
		fprintf(out, "    so this group leaves it alone, by [deny %s]\n", denied->name);
	*ret = denied ? NULL : taken;
	return 0;
}

static void print_decision(FILE *out, const struct subject *s, const struct config_group *group,
			   const struct config_rule *rule)
{
	const char *stored = subject_property(s, "VHOTPLUG_RULE");
	char clean[512];

	text_clean(clean, sizeof(clean), stored);
	if (rule) {
		fprintf(out, "Decision: [allow %s] of [%s %s] gives it to", rule->name,
			config_kind_name(group->kind), group->name);
		for (char **vm = group->vms; *vm; vm++)
			fprintf(out, "%s %s", vm == group->vms ? "" : " or", *vm);
		fputs(".\n", out);
	} else {
		fputs("Decision: it stays with the host.\n", out);
	}
	fprintf(out, "udev's database has: %s\n", *stored ? clean : "no decision");
}

static int explain_device(FILE *out, const struct config *config, const struct subject *s)
{
	const struct config_rule *taken = NULL;
	const struct config_group *group = NULL;
	const char *never = subject_never_taken(s);

	fprintf(out, "%s (%s)\n", s->devpath, config_kind_name(s->kind));
	if (never)
		fprintf(out, "  whatever the rules say: %s\n", never);
	for (size_t i = 0; !never && !taken && i < config->n_groups; i++) {
		group = &config->groups[i];
		if (group->kind != s->kind)
			continue;
		int r = explain_group(out, s, group, &taken);
		if (r < 0)
			return r;
	}
	print_decision(out, s, group, taken);
	return 0;
}

/* Explains one device, if rules are for it. Returns how many were explained, or -errno. */
static int explain_one(const struct config *config, struct udev_device *device, FILE *out)
{
	_cleanup_(subject_finish) struct subject s = {0};
	int r = device ? subject_from_udev(device, &s) : 0;

	if (r > 0)
		r = explain_device(out, config, &s) ?: 1;
	return r;
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
