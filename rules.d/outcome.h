/* What a decision leaves on a device: the properties that travel from there to the broker. */
#pragma once

#include "conf/config.h"

/* Returns 0, or -errno, which ends it. */
typedef int (*outcome_fn)(void *data, const char *name, const char *value);

/* Calls FN with what RULE of GROUP leaves: VHOTPLUG_RULE, and VHOTPLUG_FAMILY and VHOTPLUG_OPTIONS
 * where they say something. ORDER: its place among all rules. Returns 0, -ENOMEM, or what FN did.
 */
int outcome_of_rule(const struct config_group *group, const struct config_rule *rule,
		    unsigned order, outcome_fn fn, void *data) _must_check_;
/* The same for what GROUP leaves: VHOTPLUG_VM, VHOTPLUG_FENCE. */
int outcome_of_group(const struct config_group *group, outcome_fn fn, void *data) _must_check_;
