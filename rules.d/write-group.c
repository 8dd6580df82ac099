/* One group: its denies, its allows, and what a deny needs a program for: see write-group.h. What a
 * rule tests is decided in compile.c, here is only the order, the jumps and the quoting. */
#include "rules.d/write-group.h"

#include "helper/property.h"
#include "rules.d/outcome.h"
#include "rules.d/sieve.h"

static void write_token(FILE *out, const struct token *token)
{
	token_write_key(out, token);
	fputs(token->key == TOKEN_PROGRAM ? "\"" MATCHER " " : "\"", out);
	token_write_value(out, token->pattern);
	fputs("\", ", out);
}

static void write_tokens(FILE *out, const struct conjunction *line)
{
	for (size_t i = 0; i < line->n_tokens; i++)
		write_token(out, &line->tokens[i]);
}

static int write_assignment(void *data, const char *name, const char *value)
{
	const struct writer *w = data;

	fprintf(w->out, "ENV{%s}=\"%s\", ", name, value);
	return 0;
}

static int write_last_stage(struct writer *w, const struct config_group *group,
			    const struct config_rule *rule, const struct stage *stage,
			    struct target *target)
{
	for (size_t i = 0; i < stage->n_lines; i++) {
		write_tokens(w->out, &stage->lines[i]);
		if (!rule->deny &&
		    outcome_of_rule(group, rule, w->n_rules, write_assignment, w) < 0)
			return -ENOMEM;
		write_goto(w, target);
	}
	return 0;
}

/* Prints the lines of one rule; a device that matches goes to TARGET. */
static int write_stages(struct writer *w, const struct config_group *group,
			const struct config_rule *rule, const struct compiled_rule *compiled,
			struct target *target)
{
	static struct conjunction nothing;
	const struct stage everything = {&nothing, 1};
	unsigned label = w->n_rules++;
	size_t n = compiled->n_stages;

	if (n == 0)
		return write_last_stage(w, group, rule, &everything, target);
	for (size_t s = 0; s + 1 < n; s++) {
		const struct stage *stage = &compiled->stages[s];

		for (size_t i = 0; i < stage->n_lines; i++) {
			write_tokens(w->out, &stage->lines[i]);
			fprintf(w->out, "GOTO=\"vhp_r%u_%zu\"\n", label, s + 1);
		}
		fprintf(w->out, "GOTO=\"vhp_r%u_no\"\nLABEL=\"vhp_r%u_%zu\"\n", label, label,
			s + 1);
	}
	if (write_last_stage(w, group, rule, &compiled->stages[n - 1], target) < 0)
		return -ENOMEM;
	if (n > 1)
		fprintf(w->out, "LABEL=\"vhp_r%u_no\"\n", label);
	return 0;
}

static void write_notes(struct writer *w, const struct config_rule *rule,
			const struct compiled_rule *compiled)
{
	for (size_t i = 0; w->notes && i < compiled->n_notes; i++) {
		const struct field_note *note = &compiled->notes[i];

		fprintf(w->notes, "line %u: [%s %s] %s = %s: ", note->field->line,
			rule->deny ? "deny" : "allow", rule->name,
			config_match_name(note->field->match), note->field->value);
		if (note->why)
			fprintf(w->notes, "by vhotplug-match (%s)\n", note->why);
		else if (note->n_globs == 0)
			fprintf(w->notes, "matches everything, not tested\n");
		else
			fprintf(w->notes, "exactly as %zu glob%s\n", note->n_globs,
				note->n_globs == 1 ? "" : "s");
	}
}

static void batch_finish(struct batch *batch)
{
	for (size_t i = 0; i < batch->n; i++)
		compiled_finish(&batch->compiled[i]);
	free(batch->compiled);
	free(batch->rules);
}

static enum step step_of(const struct config_rule *rule, const struct compiled_rule *compiled)
{
	if (!rule->deny)
		return STEP_ALLOW;
	return compiled_needs_interfaces(compiled) || compiled_needs_program(compiled)
		       ? STEP_DENY_BY_PROGRAM
		       : STEP_DENY;
}

static void steps_finish(struct steps *steps)
{
	for (unsigned step = 0; step < STEPS; step++)
		batch_finish(&steps->batches[step]);
}

static int steps_add(struct writer *w, struct steps *steps, const struct config_group *group,
		     const struct config_rule *rule)
{
	struct compiled_rule compiled;
	struct batch *batch;

	if (rule_compile(rule, group->kind, &compiled) < 0)
		return -ENOMEM;
	write_notes(w, rule, &compiled);
	batch = &steps->batches[step_of(rule, &compiled)];
	batch->compiled[batch->n] = compiled;
	batch->rules[batch->n++] = rule;
	return 0;
}

static int steps_init(struct writer *w, const struct config_group *group, struct steps *steps)
{
	for (unsigned step = 0; step < STEPS; step++) {
		struct batch *batch = &steps->batches[step];

		batch->rules = calloc(group->n_rules + 1, sizeof(*batch->rules));
		batch->compiled = calloc(group->n_rules + 1, sizeof(*batch->compiled));
		if (!batch->rules || !batch->compiled)
			return -ENOMEM;
	}
	for (unsigned deny = 0; deny <= 1; deny++)
		for (size_t i = 0; i < group->n_rules; i++)
			if (!group->rules[i].disable && group->rules[i].deny == !deny &&
			    steps_add(w, steps, group, &group->rules[i]) < 0)
				return -ENOMEM;
	return 0;
}

/* A token of COMPILED without which the rule can't match, or NULL. */
static const struct token *needed_token(const struct compiled_rule *compiled)
{
	return compiled->n_stages > 0 && compiled->stages[0].n_lines == 1
		       ? token_needed(&compiled->stages[0].lines[0])
		       : NULL;
}

/* A guard stands in front of some rules and asks whether any of them can match, in one line for
 * each thing that they look at; else they are jumped over. udev spends more on walking lines than
 * on comparing. */
#define GUARD_RULES 8 /* from how many rules on it pays */
#define GUARD_MOST 64
#define GUARD_KEYS 6
#define GUARD_BYTES 900 /* of patterns in a line */

struct guard {
	const struct token *keys[GUARD_KEYS]; /* one token for each thing looked at */
	size_t bytes[GUARD_KEYS];
	size_t n_keys;
	size_t n_rules; /* 0: no guard here */
};

/* Makes room for TOKEN. False when there is none. */
static bool guard_add(struct guard *guard, const struct token *token)
{
	size_t k = 0, bytes = 1;

	for (const char *c = token->pattern; *c; c++)
		bytes += *c == '"' ? 2 : 1;
	while (k < guard->n_keys && !token_same_key(guard->keys[k], token))
		k++;
	if (k == GUARD_KEYS || guard->bytes[k] + bytes > GUARD_BYTES)
		return false;
	if (k == guard->n_keys)
		guard->keys[guard->n_keys++] = token;
	guard->bytes[k] += bytes;
	return true;
}

static struct guard guard_for(const struct batch *batch, size_t first)
{
	struct guard guard = {0};

	while (first + guard.n_rules < batch->n && guard.n_rules < GUARD_MOST) {
		const struct token *token = needed_token(&batch->compiled[first + guard.n_rules]);

		if (!token || !guard_add(&guard, token))
			break;
		guard.n_rules++;
	}
	if (guard.n_rules < GUARD_RULES || guard.n_rules < 3 * guard.n_keys)
		guard.n_rules = 0;
	return guard;
}

/* Prints the guard of the rules from FIRST on. Returns the number of the label behind them. */
static unsigned write_guard(struct writer *w, const struct batch *batch, size_t first,
			    const struct guard *guard)
{
	unsigned label = w->n_guards++;

	for (size_t k = 0; k < guard->n_keys; k++) {
		const char *bar = "\"";

		token_write_key(w->out, guard->keys[k]);
		for (size_t i = first; i < first + guard->n_rules; i++) {
			const struct token *token = needed_token(&batch->compiled[i]);

			if (!token_same_key(token, guard->keys[k]))
				continue;
			fputs(bar, w->out);
			token_write_value(w->out, token->pattern);
			bar = "|";
		}
		fprintf(w->out, "\", GOTO=\"vhp_try_%u\"\n", label);
	}
	fprintf(w->out, "GOTO=\"vhp_past_%u\"\nLABEL=\"vhp_try_%u\"\n", label, label);
	return label;
}

/* Prints the group's deny rules, or its allow rules. */
static int write_batch(struct writer *w, const struct config_group *group,
		       const struct batch *batch, struct target *hit, struct target *next)
{
	struct guard guard = {0}; /* n_rules: how many are still behind it */
	unsigned label = 0;

	for (size_t i = 0; i < batch->n; i++) {
		if (i % RELAY_RULES == RELAY_RULES - 1)
			write_relays(w, hit, next);
		if (guard.n_rules == 0) {
			guard = guard_for(batch, i);
			if (guard.n_rules > 0)
				label = write_guard(w, batch, i, &guard);
		}
		if (write_stages(w, group, batch->rules[i], &batch->compiled[i],
				 batch->rules[i]->deny ? next : hit) < 0)
			return -ENOMEM;
		if (guard.n_rules > 0 && --guard.n_rules == 0)
			fprintf(w->out, "LABEL=\"vhp_past_%u\"\n", label);
	}
	return 0;
}

/* What a deny needs a program for, of a device that GROUP would take. Whatever goes wrong denies.
 */
static int write_late_denies(struct writer *w, const struct config_group *group, size_t index,
			     const struct batch *batch, struct target *next)
{
	struct target denied = {0}, none = {0};
	bool interfaces = false;
	int r;

	if (batch->n == 0)
		return 0;
	snprintf(denied.name, sizeof(denied.name), "vhp_g%zu_no", index);
	for (size_t i = 0; i < batch->n; i++)
		interfaces = interfaces || compiled_needs_interfaces(&batch->compiled[i]);
	if (interfaces) {
		/* eudev does not know IMPORT with !=. */
		fputs("IMPORT{program}=\"" MATCHER " interfaces " ALL_INTERFACES
		      "\"\nENV{" ALL_INTERFACES "}==\"\", ",
		      w->out);
		write_goto(w, &denied);
	}
	r = write_batch(w, group, batch, &none, &denied);
	fprintf(w->out, "GOTO=\"vhp_g%zu_yes\"\n", index);
	write_label(w, &denied);
	fputs("ENV{VHOTPLUG_RULE}=\"\", ENV{VHOTPLUG_FAMILY}=\"\", ENV{VHOTPLUG_OPTIONS}=\"\", ",
	      w->out);
	write_goto(w, next);
	fprintf(w->out, "LABEL=\"vhp_g%zu_yes\"\n", index);
	return r;
}

bool group_is_live(const struct config_group *group)
{
	for (size_t i = 0; i < group->n_rules; i++)
		if (!group->disable && !group->rules[i].disable && !group->rules[i].deny)
			return true;
	return false;
}

int plan_init(struct writer *w, const struct config_group *group, size_t index, struct plan *plan)
{
	plan->group = group;
	plan->index = index;
	return steps_init(w, group, &plan->steps);
}

void plan_finish(struct plan *plan)
{
	steps_finish(&plan->steps);
}

int plan_write(struct writer *w, const struct plan *plan)
{
	const struct config_group *group = plan->group;
	const struct batch *batches = plan->steps.batches;
	_cleanup_free_ char *name = config_safe_name(group->name);
	struct target hit = {0}, next = {0};

	if (!name)
		return -ENOMEM;
	snprintf(hit.name, sizeof(hit.name), "vhp_g%zu_hit", plan->index);
	snprintf(next.name, sizeof(next.name), "vhp_g%zu_next", plan->index);
	fprintf(w->out, "# [%s %s]\n", config_kind_name(group->kind), name);
	if (write_batch(w, group, &batches[STEP_DENY], &hit, &next) < 0 ||
	    write_batch(w, group, &batches[STEP_ALLOW], &hit, &next) < 0)
		return -ENOMEM;
	write_goto(w, &next);
	write_label(w, &hit);
	if (write_late_denies(w, group, plan->index, &batches[STEP_DENY_BY_PROGRAM], &next) < 0 ||
	    outcome_of_group(group, write_assignment, w) < 0)
		return -ENOMEM;
	write_goto(w, &w->hit);
	write_label(w, &next);
	return 0;
}
