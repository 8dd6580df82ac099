/* What is the same for every config: the lines in front of the groups and behind them. Called by
 * the rule writer. */
#pragma once

#include "rules.d/writer.h"

/* What the kind KIND never takes, in front of its groups. */
void write_prologue(struct writer *w, enum config_kind kind);

/* The beginning of the file: where each of the kinds that IS_LIVE says begins. */
void write_head(struct writer *w, const bool is_live[static CONFIG_KINDS]);

/* The end: what happens to a device that a group has taken, and to what lies below one. */
void write_tail(struct writer *w);

/* The whole file of a config that gives nothing away. */
void write_nothing(struct writer *w);
