/* The assignments of a Bash file, and nothing else of Bash. For the importers. */
#pragma once

#include <stddef.h>

#include "helper/macro.h"

enum bash_how {
	BASH_SET,     /* NAME=word, NAME=(word word …) */
	BASH_APPEND,  /* NAME+=(word word …) */
	BASH_ELEMENT, /* NAME[3]=word */
};

struct bash_assignment {
	enum bash_how how;
	char *name;
	char **words; /* without their quotes, NULL-terminated */
	size_t n_words;
	bool is_array;
	unsigned long first,
		next;  /* of a list: the number of its first word, and the one after its last */
	unsigned line; /* where it starts */
};

struct bash_reader {
	const char *at;
	unsigned line;   /* of what is at AT; 1 in the first line */
	const char *why; /* after -EINVAL: what is not understood, a constant text */
};

/* Reads the next assignment. `export`, `readonly` and `declare` may stand in front of it; words may
 * be quoted, but not hold what Bash would put something else for ($, `, *, a history or a process).
 * The numbers of a list's words rise, so that none takes another one's place.
 * Returns 1 and the assignment, the caller's to finish; 0 at the end; -EINVAL; -ENOMEM. */
int bash_next(struct bash_reader *reader, struct bash_assignment *ret) _must_check_;

void bash_finish(struct bash_assignment *assignment);
