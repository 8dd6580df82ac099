/* The compiled rules, evaluated here instead of by udevd: what --explain says, which devices a new
 * config concerns, and the decision where there is no udevd. */
#pragma once

#include "helper/match.h"
#include "rules.d/compile.h"

/* A device as rules see it. */
struct subject {
	enum config_kind kind;
	const char *devpath;                 /* /devices/…; borrowed */
	char **properties;                   /* udev's, NAME=VALUE, NULL-terminated */
	char interfaces[INTERFACES_MAX];     /* as an allow sees them; "": they can't be read */
	char all_interfaces[INTERFACES_MAX]; /* as a deny sees them; "": they can't be read */
	struct match_places places;          /* its devpath is the above */
};

/* Fills S for the device at DEVPATH, borrowed, of SUBSYSTEM and DEVTYPE ("" when it has none);
 * PROPERTIES, a list on the heap or NULL, is S's from then on, whatever is returned. SYSFS: NULL
 * for /sys. Returns 1; 0 when it is of no kind that rules are for. */
int subject_init(struct subject *s, const char *devpath, const char *subsystem, const char *devtype,
		 char **properties, const char *sysfs) _must_check_;
void subject_finish(struct subject *s);

/* The last part of its devpath. */
const char *subject_name(const struct subject *s);
/* The property NAME as rules see it, "" when it has none. Owned by S. */
const char *subject_property(const struct subject *s, const char *name);
/* An attribute without blanks at its end, as a new string; NULL when there is none. */
char *subject_attribute(const struct subject *s, const char *name);

/* Why S is out of the question whatever the rules say, or NULL. */
const char *subject_never_taken(const struct subject *s);

/* Whether all stages of RULE match, or it looks at what can't be read, which denies. Runs
 * vhotplug-match where the rule needs it. */
bool rule_matches(const struct subject *s, const struct compiled_rule *rule);

/* The first group that takes S and its rule that does: in *RET_GROUP and *RET_RULE, NULL when none
 * does. IS_OUT, unless NULL, says which groups take nothing. Returns 0 or -ENOMEM. */
int config_decide(const struct config *config, const struct subject *s,
		  bool (*is_out)(const struct config_group *group),
		  const struct config_group **ret_group,
		  const struct config_rule **ret_rule) _must_check_;
