/* What the parts of the rule writer share: where they write, and places to jump to.
 *
 * A GOTO is resolved by udev by walking forward line by line. So a long group has relays: labels
 * that jump on, every RELAY_RULES rules; loading stays linear. */
#pragma once

#include "conf/config.h"

#define HELPER VHOTPLUG_LIBEXECDIR "/vhotplug-helper"
#define MATCHER VHOTPLUG_LIBEXECDIR "/vhotplug-match"
#define RELAY_RULES 64

/* A place to jump to that lies further down. */
struct target {
	char name[32];
	unsigned hop; /* relays so far */
	bool used;
};

struct writer {
	FILE *out;
	FILE *notes; /* NULL: none are wanted */
	const struct config *config;
	unsigned n_rules; /* written so far, for unique labels */
	unsigned n_skips;
	unsigned n_guards;
	struct target hit; /* where every group's hit ends up */
};

/* Ends a line by a jump to TARGET. */
void write_goto(struct writer *w, struct target *target);

/* Here is TARGET, if anybody jumps there. */
void write_label(struct writer *w, const struct target *target);

/* Lets jumps to A and B land and jump on; who is not jumping passes by. */
void write_relays(struct writer *w, struct target *a, struct target *b);
