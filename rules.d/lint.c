/* Compares rules with each other by their fields. Called by main.c. */
#include "rules.d/lint.h"

#include <stdarg.h>

struct lint {
	const struct config *config;
	const char *path;
	FILE *out;
	unsigned n;
};

static void print_warning(struct lint *lint, unsigned line, const char *format, ...) _printf_(3, 4);
static void print_warning(struct lint *lint, unsigned line, const char *format, ...)
{
	va_list args;

	lint->n++;
	fprintf(lint->out, "%s:%u: ", lint->path, line);
	va_start(args, format);
	vfprintf(lint->out, format, args);
	va_end(args);
	fputc('\n', lint->out);
}

/* Whether every device has one value of this, and a rule names it as it is. */
static bool is_exact(enum config_match match)
{
	switch (match) {
	case MATCH_VENDOR_ID:
	case MATCH_PRODUCT_ID:
	case MATCH_SERIAL:
	case MATCH_BUS:
	case MATCH_PORT:
	case MATCH_DEVICE_CLASS:
	case MATCH_DEVICE_SUBCLASS:
	case MATCH_DEVICE_PROTOCOL:
	case MATCH_ADDRESS:
	case MATCH_DEVICE_ID:
	case MATCH_SUBSYSTEM_VENDOR_ID:
	case MATCH_SUBSYSTEM_ID:
	case MATCH_DEVICE_PROG_IF:
		return true;
	case MATCH_VENDOR_NAME:
	case MATCH_PRODUCT_NAME:
	case MATCH_VENDOR_STRING:
	case MATCH_PRODUCT_STRING:
	case MATCH_PORT_PATH:
	case MATCH_DEVPATH:
	case MATCH_INTERFACE_CLASS:
	case MATCH_INTERFACE_SUBCLASS:
	case MATCH_INTERFACE_PROTOCOL:
	case MATCH_REMOVABLE:
	case MATCH_DRIVER_PATH:
	case MATCH_NAME:
	case MATCH_PATH_TAG:
	case MATCH_PROPERTY:
	case MATCH_VALUE:
	case MATCH_KEYS:
		break;
	}
	return false;
}

/* Whether PORT is the root port of every path in PORT_PATHS ("3-1.4|*-1.2"), or of none. */
static bool all_on_port(const char *port_paths, const char *port, bool on)
{
	size_t n = strlen(port);

	for (const char *dash = port_paths; (dash = strchr(dash, '-')); dash++) {
		const char *root = dash + 1;
		bool same = strncmp(root, port, n) == 0 && strchr(".|", root[n]);

		if (same != on)
			return false;
	}
	return true;
}

/* Whether no path that A names is one that B names. */
static bool paths_are_disjoint(const char *a, const char *b)
{
	_cleanup_free_ char *copy = strdup(a);
	char *rest = copy, *one;

	while (copy && (one = strsep(&rest, "|"))) {
		const char *chain = strchr(one, '-');

		for (const char *other = strstr(b, chain); other;
		     other = strstr(other + 1, chain)) {
			const char *bus = other;

			while (bus > b && bus[-1] != '|')
				bus--;
			if (!strchr("|", other[strlen(chain)]))
				continue;
			if (*one == '*' || *bus == '*' ||
			    strncmp(one, bus, (size_t) (chain - one) + 1) == 0)
				return false;
		}
	}
	return copy != NULL;
}

/* Whether a device that FIELD of SPECIAL matches is matched by GENERAL too. */
static bool field_is_implied(const struct config_rule *special, const struct config_field *general)
{
	const struct config_field *same = config_rule_field(special, general->match);
	const struct config_field *port_path = config_rule_field(special, MATCH_PORT_PATH);
	size_t n = strlen(general->value);

	if (same && streq(same->value, general->value))
		return true;
	/* Not every device is asked for its driverPath, and a value is no pattern. */
	if (streq(general->value, ".*") && general->match != MATCH_DRIVER_PATH &&
	    general->match != MATCH_VALUE)
		return true;
	if (same && general->match == MATCH_DEVPATH)
		return startswith(same->value, general->value) && same->value[n] == '/';
	if (port_path && general->match == MATCH_PORT)
		return all_on_port(port_path->value, general->value, true);
	return false;
}

/* Whether GENERAL matches every device that SPECIAL matches. */
static bool rule_covers(const struct config_rule *general, const struct config_rule *special)
{
	for (size_t i = 0; i < general->n_fields; i++)
		if (!field_is_implied(special, &general->fields[i]))
			return false;
	return true;
}

/* Whether PATH is OTHER, or something that OTHER is behind. */
static bool path_is_above(const char *path, const char *other)
{
	const char *rest = startswith(other, path);

	return rest && strchr("/", *rest);
}

/* Whether no device can match both. */
static bool rules_are_disjoint(const struct config_rule *a, const struct config_rule *b)
{
	for (size_t i = 0; i < a->n_fields; i++) {
		const struct config_field *field = &a->fields[i];
		const struct config_field *other = config_rule_field(b, field->match);

		if (other && is_exact(field->match) && !streq(other->value, field->value))
			return true;
		if (other && field->match == MATCH_PORT_PATH &&
		    paths_are_disjoint(field->value, other->value))
			return true;
		if (other && field->match == MATCH_DEVPATH &&
		    !path_is_above(field->value, other->value) &&
		    !path_is_above(other->value, field->value))
			return true;
	}
	return false;
}

static void lint_fields(struct lint *lint, const struct config_rule *rule)
{
	const struct config_field *path = config_rule_field(rule, MATCH_PORT_PATH);
	const struct config_field *port = config_rule_field(rule, MATCH_PORT);

	if (path && port && all_on_port(path->value, port->value, false))
		print_warning(lint, rule->line,
			      "[%s %s] can never match: portPath = %s is not on port = %s",
			      rule->deny ? "deny" : "allow", rule->name, path->value, port->value);
}

static bool same_vms(const struct config_group *a, const struct config_group *b)
{
	size_t i = 0;

	while (a->vms[i] && b->vms[i] && streq(a->vms[i], b->vms[i]))
		i++;
	return !a->vms[i] && !b->vms[i];
}

/* What takes away from RULE, an allow of GROUP: a deny of its group, or an earlier rule. */
static void lint_allow(struct lint *lint, const struct config_group *group,
		       const struct config_rule *rule)
{
	for (size_t i = 0; i < group->n_rules; i++) {
		const struct config_rule *other = &group->rules[i];

		if (other->disable || !rule_covers(other, rule))
			continue;
		if (other->deny) {
			print_warning(lint, rule->line,
				      "[allow %s] never wins: [deny %s] in line %u denies all "
				      "that it matches",
				      rule->name, other->name, other->line);
			return;
		}
		if (other < rule) {
			print_warning(lint, rule->line,
				      "[allow %s] never decides: [allow %s] in line %u comes first",
				      rule->name, other->name, other->line);
			return;
		}
	}
}

static bool has_deny(const struct config_group *group)
{
	for (size_t i = 0; i < group->n_rules; i++)
		if (group->rules[i].deny && !group->rules[i].disable)
			return true;
	return false;
}

/* Whether nobody can tell if what FIELD asks for is something that OTHER lets through: texts are
 * not compared, nor is a place that is said in another way. */
static bool is_vague(const struct config_field *field, const struct config_rule *other)
{
	const struct config_field *same = config_rule_field(other, field->match);

	if (is_exact(field->match))
		return false;
	return !same || (field->match != MATCH_PORT_PATH && field->match != MATCH_DEVPATH &&
			 !streq(field->value, same->value));
}

/* Whether there may be no device that matches both: twins that A tells apart in its way, and B in
 * its own. */
static bool may_be_disjoint(const struct config_rule *a, const struct config_rule *b)
{
	if (rule_covers(b, a))
		return false;
	for (size_t i = 0; i < a->n_fields; i++)
		if (is_vague(&a->fields[i], b))
			return true;
	return false;
}

/* Whether both rules name the same vendor and product, and a device can match both. */
static bool same_ids(const struct config_rule *a, const struct config_rule *b,
		     enum config_match product)
{
	const struct config_field *fields[] = {
		config_rule_field(a, MATCH_VENDOR_ID), config_rule_field(b, MATCH_VENDOR_ID),
		config_rule_field(a, product), config_rule_field(b, product)};

	for (size_t i = 0; i < ARRAY_SIZE(fields); i += 2)
		if (!fields[i] || !fields[i + 1] || !streq(fields[i]->value, fields[i + 1]->value))
			return false;
	return !rules_are_disjoint(a, b) && !may_be_disjoint(a, b) && !may_be_disjoint(b, a);
}

/* What an earlier group of the same kind takes away from RULE of GROUP. */
static void lint_earlier_group(struct lint *lint, const struct config_group *group,
			       const struct config_rule *rule, const struct config_group *earlier)
{
	enum config_match product = group->kind == CONFIG_PCI ? MATCH_DEVICE_ID : MATCH_PRODUCT_ID;

	for (size_t i = 0; i < earlier->n_rules; i++) {
		const struct config_rule *other = &earlier->rules[i];

		if (other->deny || other->disable)
			continue;
		if (!has_deny(earlier) && rule_covers(other, rule)) {
			print_warning(
				lint, rule->line,
				"[allow %s] never wins: [allow %s] of the earlier group [%s %s] in "
				"line "
				"%u takes all that it matches",
				rule->name, other->name, config_kind_name(earlier->kind),
				earlier->name, other->line);
			return;
		}
		if (!has_deny(earlier) && same_ids(other, rule, product) &&
		    !same_vms(earlier, group)) {
			print_warning(lint, rule->line,
				      "[allow %s] wants for %s what [allow %s] in line %u wants "
				      "for %s; the "
				      "first group has it",
				      rule->name, group->vms[0], other->name, other->line,
				      earlier->vms[0]);
			return;
		}
	}
}

static void lint_deny(struct lint *lint, const struct config_group *group,
		      const struct config_rule *rule)
{
	for (size_t i = 0; i < group->n_rules; i++) {
		const struct config_rule *other = &group->rules[i];

		if (!other->deny && !other->disable && !rules_are_disjoint(rule, other))
			return;
	}
	print_warning(lint, rule->line,
		      "[deny %s] denies nothing: no allow of its group matches such a device",
		      rule->name);
}

static void lint_group(struct lint *lint, size_t index)
{
	const struct config_group *group = &lint->config->groups[index];
	size_t n_allow = 0;

	for (size_t i = 0; i < group->n_rules; i++) {
		const struct config_rule *rule = &group->rules[i];

		if (rule->disable)
			continue;
		lint_fields(lint, rule);
		if (rule->deny) {
			lint_deny(lint, group, rule);
			continue;
		}
		n_allow++;
		lint_allow(lint, group, rule);
		for (size_t g = 0; g < index; g++) {
			const struct config_group *earlier = &lint->config->groups[g];

			if (earlier->kind == group->kind && !earlier->disable)
				lint_earlier_group(lint, group, rule, earlier);
		}
	}
	if (n_allow == 0)
		print_warning(lint, group->line, "[%s %s] takes nothing: it has no [allow]",
			      config_kind_name(group->kind), group->name);
}

static bool vm_is_used(const struct config *config, const char *name)
{
	for (size_t i = 0; i < config->n_groups; i++)
		for (char **vm = config->groups[i].vms; *vm; vm++)
			if (streq(*vm, name))
				return true;
	return false;
}

unsigned config_lint(const struct config *config, const char *path, FILE *out)
{
	struct lint lint = {.config = config, .path = path, .out = out};

	for (size_t i = 0; i < config->n_vms; i++)
		if (!vm_is_used(config, config->vms[i].name))
			print_warning(&lint, config->vms[i].line,
				      "[vm %s] is in no group: it gets nothing",
				      config->vms[i].name);
	for (size_t i = 0; i < config->n_groups; i++)
		if (!config->groups[i].disable)
			lint_group(&lint, i);
	return lint.n;
}
