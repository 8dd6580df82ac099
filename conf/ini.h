/* An INI text cut into sections and keys, each with its line number, in the order of the file.
 *
 * inih does the parsing (blanks, comments, KEY = VALUE). Our line reader stands in front of it and
 * sees to what inih gets wrong silently: it counts the lines, sees the section headers, and
 * refuses what inih would cut (lines over 199 bytes, names over 49) or take for the continuation of
 * the value above (lines that start with blanks). What the words mean is not known here. */
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "conf/mistakes.h"

#define INI_LINE_BYTES 199 /* the longest line that inih takes whole */
#define INI_NAME_BYTES 49  /* the same for the name of a section or key */

struct ini_key {
	char *name;
	char *value; /* raw, without blanks and comment at its ends; may be empty */
	unsigned line;
};

/* [KIND NAME]. KIND is the first word, NAME the rest (empty when there is none). */
struct ini_section {
	char *kind; /* NULL: the header was a mistake; its keys are here so that nobody else gets
		       them */
	char *name;
	unsigned line;
	struct ini_key *keys;
	size_t n_keys;
};

struct ini {
	struct ini_section *sections;
	size_t n_sections;
};

/* Reads FILE to its end into *INI, which must be zeroed and is the caller's to finish in every
 * case. Mistakes are added to MISTAKES. Returns 0 (mistakes or not) or -errno. */
int ini_read(FILE *file, struct ini *ini, struct mistakes *mistakes) _must_check_;

/* Frees what it holds, not INI itself. */
void ini_finish(struct ini *ini);
