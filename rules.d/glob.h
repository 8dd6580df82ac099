/* Regular expressions as udev globs, where both mean exactly the same. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "helper/macro.h"

#define GLOB_ALTERNATIVES 64 /* more than that is left to vhotplug-match */
#define GLOB_BYTES 600       /* a longer glob would not leave room in a rule line */

/* The globs that together match what a regular expression matches. */
struct globs {
	char **list; /* as in a rule's value, but without the \ in front of a " */
	size_t n;
	bool always;     /* every string matches, the empty one too; the list is empty */
	const char *why; /* not exact: what stands in the way, a constant text; else NULL */
};

/* Translates REGEX, which regex_compile has taken. Returns 1 when RET's list means exactly the
 * same, 0 when it can't be said as globs (RET->why says why), or -ENOMEM. RET is the caller's to
 * finish in the first two cases. */
int globs_from_regex(const char *regex, struct globs *ret) _must_check_;

/* The same for a plain TEXT, of which the ASCII letters match in either case, from start to end. */
int globs_from_text(const char *text, struct globs *ret) _must_check_;

/* Frees what it holds, not GLOBS itself. */
void globs_finish(struct globs *globs);
