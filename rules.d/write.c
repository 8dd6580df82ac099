/* Prints the compiled rules as a udev rules file: the order of the groups, and what stands in front
 * of many of them. vhotplug-gen-rules calls it. */
#include "rules.d/write.h"

#include "conf/array.h"
#include "rules.d/sieve.h"
#include "rules.d/write-frame.h"
#include "rules.d/write-group.h"

/* The groups of a kind that can take something. */
struct plans {
	struct plan *list;
	size_t n;
};

static void plans_finish(struct plans *plans)
{
	for (size_t i = 0; i < plans->n; i++)
		plan_finish(&plans->list[i]);
	free(plans->list);
}

static int plans_init(struct writer *w, enum config_kind kind, struct plans *plans)
{
	for (size_t i = 0; i < w->config->n_groups; i++) {
		const struct config_group *group = &w->config->groups[i];
		struct plan *plan;

		if (group->kind != kind || !group_is_live(group))
			continue;
		plan = ARRAY_APPEND(plans->list, plans->n);
		if (!plan || plan_init(w, group, i, plan) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* Whether of each allow of the group something is known that it needs. */
static bool plan_can_be_sieved(const struct plan *plan)
{
	const struct batch *allows = &plan->steps.batches[STEP_ALLOW];

	for (size_t i = 0; i < allows->n; i++)
		if (!sieve_can_tell(&allows->compiled[i]))
			return false;
	return true;
}

/* How many groups from FIRST on can have a sieve in front of them. */
static size_t plans_stretch(const struct plans *plans, size_t first)
{
	size_t n = 0;

	while (first + n < plans->n && plan_can_be_sieved(&plans->list[first + n]))
		n++;
	return n;
}

static int plan_add_to(const struct plan *plan, struct sieve *sieve)
{
	const struct batch *allows = &plan->steps.batches[STEP_ALLOW];

	for (size_t i = 0; i < allows->n; i++)
		if (sieve_add(sieve, &allows->compiled[i]) < 0)
			return -ENOMEM;
	return 0;
}

#define SIEVE_RULES 8 /* from how many rules on it pays */

/* Prints the sieve in front of the N groups from FIRST on, when it pays. A device that no allow of
 * theirs can take jumps over them all. Returns 1 and the number of the label behind them, 0, or
 * -ENOMEM. */
static int write_sieve(struct writer *w, const struct plans *plans, size_t first, size_t n,
		       unsigned *ret_label)
{
	_cleanup_(sieve_finish) struct sieve sieve = {0};
	unsigned label = w->n_guards;
	char some[32];

	for (size_t i = first; i < first + n; i++)
		if (plan_add_to(&plans->list[i], &sieve) < 0)
			return -ENOMEM;
	if (sieve.n_rules < SIEVE_RULES)
		return 0;
	w->n_guards++;
	snprintf(some, sizeof(some), "vhp_some_%u", label);
	fprintf(w->out, "# can any rule as far as vhp_none_%u match?\n", label);
	if (sieve_write(&sieve, w->out, some) < 0)
		return -ENOMEM;
	fprintf(w->out, "GOTO=\"vhp_none_%u\"\nLABEL=\"%s\"\n", label, some);
	*ret_label = label;
	return 1;
}

/* Whether a live rule of KIND looks at MATCH. */
static bool kind_looks_at(const struct config *config, enum config_kind kind,
			  enum config_match match)
{
	for (size_t i = 0; i < config->n_groups; i++) {
		const struct config_group *group = &config->groups[i];

		for (size_t r = 0;
		     group->kind == kind && group_is_live(group) && r < group->n_rules; r++)
			if (!group->rules[r].disable && config_rule_field(&group->rules[r], match))
				return true;
	}
	return false;
}

/* Prints N groups from FIRST on. */
static int write_groups(struct writer *w, const struct plans *plans, size_t first, size_t n)
{
	struct target none = {0};

	for (size_t i = first; i < first + n; i++) {
		if ((i + 1) % RELAY_RULES == 0)
			write_relays(w, &w->hit, &none);
		if (plan_write(w, &plans->list[i]) < 0)
			return -ENOMEM;
	}
	return 0;
}

/* The same with a sieve in front of them, when it pays. */
static int write_stretch(struct writer *w, const struct plans *plans, size_t first, size_t n)
{
	unsigned label;
	int sieved = write_sieve(w, plans, first, n, &label);

	if (sieved < 0 || write_groups(w, plans, first, n) < 0)
		return -ENOMEM;
	if (sieved)
		fprintf(w->out, "LABEL=\"vhp_none_%u\"\n", label);
	return 0;
}

static int write_kind(struct writer *w, enum config_kind kind)
{
	_cleanup_(plans_finish) struct plans plans = {0};

	write_prologue(w, kind);
	if (kind == CONFIG_USB && kind_looks_at(w->config, kind, MATCH_PATH_TAG))
		fputs("# not every udev has asked for it\n"
		      "ENV{ID_PATH_TAG}==\"\", IMPORT{builtin}=\"path_id\"\n",
		      w->out);
	if (plans_init(w, kind, &plans) < 0)
		return -ENOMEM;
	for (size_t i = 0, n; i < plans.n; i += n) {
		n = plans_stretch(&plans, i);
		if ((n > 0 ? write_stretch(w, &plans, i, n) : write_groups(w, &plans, i, n = 1)) <
		    0)
			return -ENOMEM;
	}
	fputs("GOTO=\"vhp_child\"\n", w->out);
	return 0;
}

static void write_origin(struct writer *w, const char *config_path)
{
	fputs("# Made by vhotplug-gen-rules from ", w->out);
	for (const char *s = config_path; *s; s++)
		fputc((unsigned char) *s < ' ' || *s == 127 || *s == '\\' ? '_' : *s, w->out);
	fprintf(w->out,
		".\n# Change that file and run vhotplug-gen-rules again; changes here are lost.\n"
		"# Digest of the config: %s\n",
		w->config->digest);
}

int rules_write(const struct config *config, const char *config_path, FILE *out, FILE *notes)
{
	struct writer w = {
		.out = out, .notes = notes, .config = config, .hit = {.name = "vhp_hit"}};
	bool is_live[CONFIG_KINDS] = {0}, any = false;

	for (size_t i = 0; i < config->n_groups; i++)
		if (group_is_live(&config->groups[i]))
			any = is_live[config->groups[i].kind] = true;
	write_origin(&w, config_path);
	if (!any) {
		write_nothing(&w);
		return 0;
	}
	write_head(&w, is_live);
	for (unsigned kind = 0; kind < CONFIG_KINDS; kind++)
		if (is_live[kind] && write_kind(&w, (enum config_kind) kind) < 0)
			return -ENOMEM;
	write_tail(&w);
	return 0;
}
