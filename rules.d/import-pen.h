/* The importers' pen: writes notes and section headers. For the importers only. */
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "helper/macro.h"

struct importer {
	FILE *out;
	FILE *notes;
	char **names; /* of the sections so far, which must differ */
	size_t n_names;
	bool no_memory;
};

/* Says, in the output and on the notes, what is left behind: one line, whatever the words hold. */
void import_note(struct importer *i, const char *format, ...) _printf_(2, 3);

/* Makes blanks of control characters: they would end the line, and begin another one. */
void import_clean_line(char *s);

#define IMPORT_VM_NAME 41 /* bytes that the name of a VM, and its end, take at most */

/* Writes to RET what NAME becomes as the name of a VM here: at most IMPORT_VM_NAME bytes, with a
 * dash for all that can't be in one. Empty if NAME is. */
void import_vm_name(char ret[IMPORT_VM_NAME], const char *name);

/* Whether VALUE is one, and the same, when it is read from a file behind "KEY = ". */
bool import_survives(const char *key, const char *value) _must_check_;

/* Prints "KEY = VALUE". False, and nothing printed, when VALUE would be another one, or more than a
 * value, once it is read from the file. */
bool import_value(struct importer *i, const char *key, const char *value) _must_check_;

/* Prints "[KIND NAME DETAIL]" with NAME cut and changed as needed, so that it differs from those
 * since the name FIRST. */
void import_header(struct importer *i, size_t first, const char *kind, const char *name,
		   const char *detail);

/* Remembers NAME among the names. False when it was there already. */
bool import_remember(struct importer *i, const char *name);

/* Forgets the names since FIRST. */
void import_forget_names(struct importer *i, size_t first);
