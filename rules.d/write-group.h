/* The lines of one [vm] group of rules. Called by the rule writer. */
#pragma once

#include "rules.d/compile.h"
#include "rules.d/writer.h"

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

/* What is in a group, by steps. */
struct steps {
	struct batch batches[STEPS];
};

/* A group that is to be written. */
struct plan {
	const struct config_group *group;
	size_t index;
	struct steps steps;
};

/* Whether GROUP can take anything. */
bool group_is_live(const struct config_group *group);

/* Compiles the live rules of GROUP, the INDEXth of the config, into PLAN, which is zeroed, and
 * tells W's notes of them. Returns 0 or -ENOMEM; either way plan_finish frees what PLAN holds. */
int plan_init(struct writer *w, const struct config_group *group, size_t index,
	      struct plan *plan) _must_check_;

/* Prints the group. Returns 0 or -ENOMEM. */
int plan_write(struct writer *w, const struct plan *plan) _must_check_;

/* Frees what it holds, not PLAN itself. */
void plan_finish(struct plan *plan);
