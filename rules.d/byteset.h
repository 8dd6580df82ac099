/* Sets of bytes, and how a udev glob says "one byte of this set". */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "helper/macro.h"

/* NUL is never looked at: no string contains one. */
struct byteset {
	uint64_t bits[4];
};

static inline bool byteset_has(const struct byteset *set, unsigned byte)
{
	return set->bits[byte / 64] >> (byte % 64) & 1;
}

static inline void byteset_add(struct byteset *set, unsigned byte)
{
	set->bits[byte / 64] |= UINT64_C(1) << (byte % 64);
}

/* Adds FIRST to LAST, both included. */
void byteset_add_range(struct byteset *set, unsigned first, unsigned last);

/* Adds what OTHER has. */
void byteset_add_set(struct byteset *set, const struct byteset *other);

/* Adds the other case of every ASCII letter in SET. */
void byteset_fold(struct byteset *set);

void byteset_invert(struct byteset *set);

#define BYTESET_GLOB_MAX 128

/* Writes the glob for one byte of SET: a byte, "?" or a bracket expression, without control
 * characters and without "|", which udev would take for an alternative. Returns NULL, or why it
 * can't be said, as a constant text. */
const char *byteset_glob(const struct byteset *set, char ret_glob[BYTESET_GLOB_MAX]) _must_check_;
