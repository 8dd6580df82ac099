/* Prints the compiled rules as a udev rules file. vhotplug-gen-rules calls it; what a rule tests is
 * decided in compile.c, here is only the order, the jumps and the quoting.
 *
 * A GOTO is resolved by udev by walking forward line by line. So a long group has relays: labels
 * that jump on, every RELAY_RULES rules; loading stays linear. */
#include "rules.d/write.h"

#include "conf/array.h"
#include "helper/property.h"
#include "helper/text.h"
#include "helper/wire.h"
#include "rules.d/compile.h"
#include "rules.d/outcome.h"
#include "rules.d/sieve.h"

#define HELPER VHOTPLUG_LIBEXECDIR "/vhotplug-helper"
#define MATCHER VHOTPLUG_LIBEXECDIR "/vhotplug-match"
#define BROKER VHOTPLUG_RUNDIR "/" WIRE_SOCKET_NAME
#define RELAY_RULES 64

/* A place to jump to that lies further down. */
struct target {
	char name[32];
	unsigned hop;
	bool used;
};

struct writer {
	FILE *out;
	FILE *notes;
	const struct config *config;
	unsigned n_rules; /* written so far, for unique labels */
	unsigned n_skips;
	unsigned n_guards;
	struct target hit; /* where every group's hit ends up */
};

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

static void write_goto(struct writer *w, struct target *target)
{
	fprintf(w->out, "GOTO=\"%s_%u\"\n", target->name, target->hop);
	target->used = true;
}

static void write_label(struct writer *w, const struct target *target)
{
	if (target->used)
		fprintf(w->out, "LABEL=\"%s_%u\"\n", target->name, target->hop);
}

static void write_relay(struct writer *w, struct target *target)
{
	if (!target->used)
		return;
	fprintf(w->out, "LABEL=\"%s_%u\", GOTO=\"%s_%u\"\n", target->name, target->hop,
		target->name, target->hop + 1);
	target->hop++;
}

/* Lets jumps to A and B land and jump on; who is not jumping passes by. */
static void write_relays(struct writer *w, struct target *a, struct target *b)
{
	unsigned skip = w->n_skips++;

	if (!a->used && !b->used)
		return;
	fprintf(w->out, "GOTO=\"vhp_skip_%u\"\n", skip);
	write_relay(w, a);
	write_relay(w, b);
	fprintf(w->out, "LABEL=\"vhp_skip_%u\"\n", skip);
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

/* A group is asked in three steps. What costs a program comes last, for a device that the group
 * would take. */
enum step {
	STEP_DENY,
	STEP_ALLOW,
	STEP_DENY_BY_PROGRAM,
	STEPS,
};

/* The rules of a group that belong to one step, compiled, in order. */
struct batch {
	const struct config_rule **rules;
	struct compiled_rule *compiled;
	size_t n;
};

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

/* What is in a group, by steps. */
struct steps {
	struct batch batches[STEPS];
};

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

static bool is_live(const struct config_group *group)
{
	for (size_t i = 0; i < group->n_rules; i++)
		if (!group->disable && !group->rules[i].disable && !group->rules[i].deny)
			return true;
	return false;
}

/* A group that is to be written. */
struct plan {
	const struct config_group *group;
	size_t index;
	struct steps steps;
};

static int write_group(struct writer *w, const struct plan *plan)
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

/* The groups of a kind that can take something. */
struct plans {
	struct plan *list;
	size_t n;
};

static void plans_finish(struct plans *plans)
{
	for (size_t i = 0; i < plans->n; i++)
		steps_finish(&plans->list[i].steps);
	free(plans->list);
}

static size_t count_live(const struct config *config, enum config_kind kind)
{
	size_t n = 0;

	for (size_t i = 0; i < config->n_groups; i++)
		n += config->groups[i].kind == kind && is_live(&config->groups[i]);
	return n;
}

static int plans_init(struct writer *w, enum config_kind kind, struct plans *plans)
{
	for (size_t i = 0; i < w->config->n_groups; i++) {
		const struct config_group *group = &w->config->groups[i];
		struct plan *plan;

		if (group->kind != kind || !is_live(group))
			continue;
		plan = ARRAY_APPEND(plans->list, plans->n);
		if (!plan)
			return -ENOMEM;
		plan->group = group;
		plan->index = i;
		if (steps_init(w, group, &plan->steps) < 0)
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

/* The name in the hardware database and, only where it has none, the device's own. */
#define NAME_LINES(private, database, own)                                                        \
	"ENV{" database                                                                           \
	"}==\"?*\", ENV{" private "}=\"$env{" database "}\"\n"                                    \
				  "ENV{" database                                                 \
				  "}==\"\", ENV{" private "}=\"$env{" own "}\"\n"                 \
							  "ENV{" private "}==\"\", ENV{" database \
									 "}==\"?*\", "            \
									 "GOTO=\"vhp_child\"\n"
/* What comes before the groups of each kind: what the kind never takes. A device that is gone
 * already has no attributes left to be denied by. */
static const char *const kind_prologue[CONFIG_KINDS] = {
	[CONFIG_USB] = "TEST!=\"idVendor\", GOTO=\"vhp_child\"\n"
		       "# udev may have lost the interfaces; what can't be known is not taken\n"
		       "ENV{" INTERFACES "}==\"" LOST_INTERFACES "\", IMPORT{program}=\"" MATCHER
		       " interfaces " INTERFACES "\", ENV{.VHOTPLUG_KNOWN}=\"1\"\n"
		       "ENV{" INTERFACES "}==\"" LOST_INTERFACES "\", "
		       "ENV{.VHOTPLUG_KNOWN}!=\"1\", GOTO=\"vhp_child\"\n"
		       "# hubs stay with the host\n"
		       "ATTR{bDeviceClass}==\"09\", GOTO=\"vhp_child\"\n"
		       "ENV{" INTERFACES "}==\"*:09????:*\", GOTO=\"vhp_child\"\n"
		       "# one name of each kind; udev takes none over 511 bytes\n" NAME_LINES(
			       VENDOR_NAME, "ID_VENDOR_FROM_DATABASE", "ID_VENDOR")
			       NAME_LINES(PRODUCT_NAME, "ID_MODEL_FROM_DATABASE", "ID_MODEL"),
	[CONFIG_PCI] = "TEST!=\"vendor\", GOTO=\"vhp_child\"\n"
		       "# bridges stay with the host\n"
		       "ATTR{class}==\"0x06????\", GOTO=\"vhp_child\"\n",
	[CONFIG_EVDEV] = "TEST!=\"device\", GOTO=\"vhp_child\"\n"
			 "# input devices on USB go with their USB device, but not what comes by\n"
			 "# another bus that begins there\n"
			 "SUBSYSTEMS==\"" BUSES_ON_USB "\", GOTO=\"vhp_evdev_own\"\n"
			 "SUBSYSTEMS==\"usb\", GOTO=\"vhp_child\"\n"
			 "LABEL=\"vhp_evdev_own\"\n",
};

/* Whether a live rule of KIND looks at MATCH. */
static bool kind_looks_at(const struct config *config, enum config_kind kind,
			  enum config_match match)
{
	for (size_t i = 0; i < config->n_groups; i++) {
		const struct config_group *group = &config->groups[i];

		for (size_t r = 0; group->kind == kind && is_live(group) && r < group->n_rules; r++)
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
		if (write_group(w, &plans->list[i]) < 0)
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

	if (count_live(w->config, kind) == 0)
		return 0;
	fprintf(w->out, "\nLABEL=\"vhp_%s\"\n%s", config_kind_name(kind), kind_prologue[kind]);
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

static void write_head(struct writer *w)
{
	static const char *const entry[CONFIG_KINDS] = {
		[CONFIG_USB] = "SUBSYSTEM==\"usb\", ENV{DEVTYPE}==\"usb_device\"",
		[CONFIG_PCI] = "SUBSYSTEM==\"pci\"",
		[CONFIG_EVDEV] = "SUBSYSTEM==\"input\", KERNEL==\"event*\"",
	};

	fputs("# an initramfs may have these rules without the helper\n"
	      "TEST!=\"" HELPER "\", GOTO=\"vhp_end\"\n"
	      "SUBSYSTEM!=\"usb|pci|input\", GOTO=\"vhp_child\"\n"
	      "ACTION==\"remove\", GOTO=\"vhp_remove\"\n"
	      "# keep what was decided on add: every other event would wipe it, and on unbind\n"
	      "# there is nothing left to decide by\n"
	      "ACTION!=\"add\", IMPORT{db}=\"VHOTPLUG_RULE\", GOTO=\"vhp_keep\"\n"
	      "ACTION==\"unbind\", GOTO=\"vhp_child\"\n",
	      w->out);
	for (unsigned kind = 0; kind < CONFIG_KINDS; kind++)
		if (count_live(w->config, (enum config_kind) kind) > 0)
			fprintf(w->out, "%s, GOTO=\"vhp_%s\"\n", entry[kind],
				config_kind_name((enum config_kind) kind));
	fputs("GOTO=\"vhp_child\"\n", w->out);
}

/* A disk that the host needs, for its start or because somebody has mounted it, must not become one
 * that systemd waits for in vain. So a disk is fenced only if it comes while the broker is there to
 * take it, which is after the host's own file systems, and not when an event is made up for one
 * that was there before. What the fence has once been on keeps it, until the broker refuses the
 * device and says so in a file. */
#define EARLY_STORAGE "SUBSYSTEM==\"usb\", ATTR{bInterfaceClass}==\"08\", TEST!=\"" BROKER
#define SPARE_DISKS                                                                         \
	"# a disk that the host may need to start: not before the broker is there to take " \
	"it\n" EARLY_STORAGE "\", GOTO=\"vhp_end\"\n"                                       \
	"SUBSYSTEM!=\"block|scsi\", GOTO=\"vhp_fence\"\n"                                   \
	"IMPORT{db}=\"VHOTPLUG_FENCED\"\n"                                                  \
	"ENV{VHOTPLUG_FENCED}==\"1\", GOTO=\"vhp_refused\"\n"                               \
	"ACTION!=\"add\", GOTO=\"vhp_end\"\n"                                               \
	"ENV{SYNTH_UUID}==\"?*\", GOTO=\"vhp_end\"\n"                                       \
	"TEST!=\"" BROKER "\", GOTO=\"vhp_end\"\n"                                          \
	"LABEL=\"vhp_refused\"\n"                                                           \
	"SUBSYSTEMS==\"usb\", ATTRS{devnum}==\"?*\", TEST==\"" REFUSED                      \
	"\", ENV{VHOTPLUG_FENCED}=\"\", GOTO=\"vhp_end\"\n"

/* What was shut and is nobody's any more goes back to the host, also where no broker runs. */
#define OPEN_INTERFACE                                                           \
	"SUBSYSTEM==\"usb\", ENV{DEVTYPE}==\"usb_interface\", ACTION==\"add\", " \
	"ENV{VHOTPLUG_FENCE}!=\"yes\", ATTR{authorized}==\"0\", "                \
	"IMPORT{db}=\"VHOTPLUG_FENCED\", ENV{VHOTPLUG_FENCED}=\"\", "            \
	"ATTR{authorized}=\"1\", ATTR{subsystem/drivers_probe}=\"$kernel\"\n"

/* The kernel shuts a USB interface for all drivers and programs. Here that is done when it appears;
 * the broker does it to those that were there before, if the host does not use them. */
#define SHUT_INTERFACE                                                                     \
	"# the interfaces of a USB device that no VM has are shut\n"                       \
	"SUBSYSTEM!=\"usb\", GOTO=\"vhp_below\"\n"                                         \
	"ENV{DEVTYPE}!=\"usb_interface\", GOTO=\"vhp_below\"\n"                            \
	"IMPORT{parent}=\"VHOTPLUG_FENCE\"\n" EARLY_STORAGE "\", GOTO=\"vhp_open\"\n"      \
	"ACTION==\"add\", ATTR{authorized}==\"1\", ENV{SYNTH_UUID}==\"\", "                \
	"ENV{VHOTPLUG_FENCE}==\"yes\", "                                                   \
	"ATTRS{idVendor}==\"?*\", TEST!=\"" GIVEN "\", ATTR{authorized}=\"0\"\n"           \
	"# the broker may have been giving it meanwhile\n"                                 \
	"ACTION==\"add\", ENV{VHOTPLUG_FENCE}==\"yes\", ATTRS{idVendor}==\"?*\", "         \
	"TEST==\"" GIVEN "\", ATTR{authorized}=\"1\"\n"                                    \
	"LABEL=\"vhp_open\"\n"                                                             \
	"# a host driver has got what a VM has: the broker sees to that\n"                 \
	"ACTION==\"bind\", DRIVER!=\"usbfs\", TEST==\"driver\", ATTRS{idVendor}==\"?*\", " \
	"TEST==\"" GIVEN "\", RUN+=\"" HELPER "\"\n"                                       \
	"# what no rule claims any more is opened\n" OPEN_INTERFACE "LABEL=\"vhp_below\"\n"

static void write_tail(struct writer *w)
{
	fputc('\n', w->out);
	write_label(w, &w->hit);
	fprintf(w->out,
		"ENV{VHOTPLUG_CONFIG}=\"%s\"\n"
		"ACTION==\"add\", RUN+=\"" HELPER "\"\n"
		"GOTO=\"vhp_claimed\"\n",
		w->config->digest);
	fputs("\nLABEL=\"vhp_keep\"\n", w->out);
	for (size_t i = 0; i < PROPERTIES; i++)
		if (property_table[i].decided && i != PROPERTY_RULE)
			fprintf(w->out, "IMPORT{db}=\"%s\"\n", property_table[i].name);
	fputs("\nLABEL=\"vhp_claimed\"\n"
	      "TAG+=\"vhotplug\"\n"
	      "ENV{VHOTPLUG_FENCE}==\"no\", GOTO=\"vhp_end\"\n"
	      "TAG+=\"vhotplug-fence\"\n"
	      "# before the host's driver comes; disks and networks, which the host may need to\n"
	      "# start, only with force\n"
	      "ACTION!=\"add\", GOTO=\"vhp_fence\"\n"
	      "SUBSYSTEM!=\"pci\", GOTO=\"vhp_fence\"\n"
	      "ENV{VHOTPLUG_OPTIONS}==\"*iommu-skip-if-shared*\", GOTO=\"vhp_fence\"\n"
	      "ATTR{class}==\"0x01????|0x02????\", ENV{VHOTPLUG_OPTIONS}!=\"*force*\", "
	      "GOTO=\"vhp_fence\"\n"
	      "ATTR{driver_override}=\"vfio-pci\", GOTO=\"vhp_fence\"\n"
	      "\nLABEL=\"vhp_remove\"\n"
	      "ENV{VHOTPLUG_RULE}==\"?*\", RUN+=\"" HELPER "\"\n"
	      "GOTO=\"vhp_end\"\n"
	      "\n# below a claimed device: the host keeps its hands off\n"
	      "LABEL=\"vhp_child\"\n"
	      "SUBSYSTEM!=\"" FENCED_SUBSYSTEMS "\", GOTO=\"vhp_end\"\n"
	      "DEVPATH==\"/devices/virtual/*\", GOTO=\"vhp_end\"\n" SHUT_INTERFACE
	      "TAGS==\"vhotplug-fence\", GOTO=\"vhp_spare\"\n"
	      "GOTO=\"vhp_end\"\n"
	      "LABEL=\"vhp_spare\"\n" SPARE_DISKS "\nLABEL=\"vhp_fence\"\n"
	      "ENV{VHOTPLUG_FENCED}=\"1\"\n"
	      "# libmtp asks before the late file\n"
	      "SUBSYSTEM==\"usb\", ENV{MTP_NO_PROBE}=\"1\"\n"
	      "SUBSYSTEM==\"usb|tty|net|usbmisc|wwan\", ENV{ID_MM_DEVICE_IGNORE}=\"1\", "
	      "ENV{ID_MM_PORT_IGNORE}=\"1\"\n"
	      "SUBSYSTEM==\"block\", ENV{UDISKS_IGNORE}=\"1\", ENV{SYSTEMD_READY}=\"0\", "
	      "ENV{DM_UDEV_DISABLE_OTHER_RULES_FLAG}=\"1\"\n"
	      "SUBSYSTEM==\"input\", ENV{LIBINPUT_IGNORE_DEVICE}=\"1\"\n"
	      "SUBSYSTEM==\"input\", ENV{ID_INPUT_KEY}==\"1\", ENV{ID_INPUT_KEY}=\"0\"\n"
	      "SUBSYSTEM==\"input\", ENV{ID_INPUT_SWITCH}==\"1\", ENV{ID_INPUT_SWITCH}=\"0\"\n"
	      "SUBSYSTEM==\"net\", ENV{NM_UNMANAGED}=\"1\"\n"
	      "SUBSYSTEM==\"sound\", ENV{PULSE_IGNORE}=\"1\", ENV{ACP_IGNORE}=\"1\"\n"
	      "\nLABEL=\"vhp_end\"\n",
	      w->out);
}

int rules_write(const struct config *config, const char *config_path, FILE *out, FILE *notes)
{
	struct writer w = {
		.out = out, .notes = notes, .config = config, .hit = {.name = "vhp_hit"}};
	size_t live = 0;

	fputs("# Made by vhotplug-gen-rules from ", out);
	for (const char *s = config_path; *s; s++)
		fputc((unsigned char) *s < ' ' || *s == 127 || *s == '\\' ? '_' : *s, out);
	fprintf(out,
		".\n# Change that file and run vhotplug-gen-rules again; changes here are lost.\n"
		"# Digest of the config: %s\n",
		config->digest);
	for (unsigned kind = 0; kind < CONFIG_KINDS; kind++)
		live += count_live(config, (enum config_kind) kind);
	if (live == 0) {
		fputs("# It gives nothing away.\n" OPEN_INTERFACE, out);
		return 0;
	}
	write_head(&w);
	for (unsigned kind = 0; kind < CONFIG_KINDS; kind++)
		if (write_kind(&w, (enum config_kind) kind) < 0)
			return -ENOMEM;
	write_tail(&w);
	return 0;
}
