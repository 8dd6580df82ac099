/* The properties of a decision: see outcome.h. Used by the rule writer and by vhotplug-mdev. */
#include "rules.d/outcome.h"

/* What the broker must know of RULE beyond the VM, "" for nothing. PCI devices are attached in the
 * order of their rules. Returns 0 or -ENOMEM. */
static int list_options(const struct config_group *group, const struct config_rule *rule,
			unsigned order, char **ret)
{
	size_t size;
	FILE *out = open_memstream(ret, &size);
	const char *comma = "";

	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < OPTIONS; i++)
		if (rule->options & option_table[i].bit) {
			fprintf(out, "%s%s", comma, option_table[i].word);
			comma = ",";
		}
	if (group->kind == CONFIG_PCI)
		fprintf(out, "%sorder=%u", comma, order);
	return fclose(out) == 0 ? 0 : -ENOMEM;
}

int outcome_of_rule(const struct config_group *group, const struct config_rule *rule,
		    unsigned order, outcome_fn fn, void *data)
{
	_cleanup_free_ char *group_name = config_safe_name(group->name);
	_cleanup_free_ char *rule_name = config_safe_name(rule->name);
	_cleanup_free_ char *options = NULL, *name = NULL;
	const char *family = rule->family ?: group->family;
	int r;

	if (!group_name || !rule_name || list_options(group, rule, order, &options) < 0)
		return -ENOMEM;
	if (asprintf(&name, "%s/%s/%s", config_kind_name(group->kind), group_name, rule_name) < 0) {
		name = NULL;
		return -ENOMEM;
	}
	r = fn(data, "VHOTPLUG_RULE", name);
	if (r == 0 && family)
		r = fn(data, "VHOTPLUG_FAMILY", family);
	if (r == 0 && *options)
		r = fn(data, "VHOTPLUG_OPTIONS", options);
	return r;
}

int outcome_of_group(const struct config_group *group, outcome_fn fn, void *data)
{
	_cleanup_free_ char *vms = NULL;
	size_t size;
	FILE *out = open_memstream(&vms, &size);
	int r;

	if (!out)
		return -ENOMEM;
	for (size_t i = 0; group->vms[i]; i++)
		fprintf(out, "%s%s", i > 0 ? "," : "", group->vms[i]);
	if (fclose(out) != 0)
		return -ENOMEM;
	r = fn(data, "VHOTPLUG_VM", vms);
	return r < 0 ? r : fn(data, "VHOTPLUG_FENCE", group->fence ? "yes" : "no");
}
