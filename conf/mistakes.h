/* What is wrong in a file that a person wrote: collected while it is read, printed at the end in
 * the order of the lines, so that one run shows everything. */
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "helper/macro.h"

struct mistake {
	unsigned line;
	char *text;
};

struct mistakes {
	const char *path; /* as the user named the file; not owned */
	struct mistake *items;
	size_t n;
	bool lost; /* there was no memory for one of them: what is collected is not everything */
};

/* Records one mistake at LINE of the file (0: the file as a whole). */
void mistakes_add(struct mistakes *mistakes, unsigned line, const char *format, ...) _printf_(3, 4);

/* Prints them on OUT, one "PATH:LINE: text" a line, in the order of the lines. Returns 0 when there
 * were none, -EINVAL when there were some, -ENOMEM when one was lost. */
int mistakes_print(struct mistakes *mistakes, FILE *out) _must_check_;

/* Frees what it holds, not MISTAKES itself. */
void mistakes_finish(struct mistakes *mistakes);
