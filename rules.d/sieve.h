/* Whether any of many rules can match, asked in a few lines: what an event costs that no rule
 * takes. Called by the rule writer. */
#pragma once

#include "rules.d/compile.h"

/* What the rules that were added look at, by keys. Zeroed: empty. */
struct sieve {
	struct wanted *wanted;
	size_t n_wanted;
	size_t n_rules;
};

/* A token of LINE without which it can't match, or NULL. */
const struct token *token_needed(const struct conjunction *line);

/* Whether A and B look at the same thing. */
bool token_same_key(const struct token *a, const struct token *b);

/* Whether there is something that RULE needs, so that it can be added. */
bool sieve_can_tell(const struct compiled_rule *rule);

/* Adds RULE, of which sieve_can_tell was true. Returns 0 or -ENOMEM. */
int sieve_add(struct sieve *sieve, const struct compiled_rule *rule) _must_check_;

/* Prints lines, each under RULE_LINE_BYTES, that jump to LABEL whenever one of the rules may match,
 * and now and then when none does: names are asked for by a few letters of theirs. Returns 0 or
 * -ENOMEM. */
int sieve_write(struct sieve *sieve, FILE *out, const char *label) _must_check_;

/* Frees what it holds, not SIEVE itself. */
void sieve_finish(struct sieve *sieve);

/* Prints a token's key and operator, and a value with what quotes need. */
void token_write_key(FILE *out, const struct token *token);
void token_write_value(FILE *out, const char *value);
