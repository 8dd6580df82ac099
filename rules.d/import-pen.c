/* What the importers write with: notes, and section headers that differ and fit. */
#include "rules.d/import-pen.h"

#include <stdarg.h>

#include "conf/array.h"
#include "conf/ini.h"

void import_note(struct importer *i, const char *format, ...)
{
	va_list args, again;

	va_start(args, format);
	va_copy(again, args);
	fputs("; not carried over: ", i->out);
	vfprintf(i->out, format, args);
	fputc('\n', i->out);
	fputs("not carried over: ", i->notes);
	vfprintf(i->notes, format, again);
	fputc('\n', i->notes);
	va_end(again);
	va_end(args);
}

void import_forget_names(struct importer *i, size_t first)
{
	while (i->n_names > first)
		free(i->names[--i->n_names]);
	if (first == 0) {
		free(i->names);
		i->names = NULL;
	}
}

/* What may not be in a section header becomes something like it. */
static void clean_name(char *s)
{
	for (; *s; s++) {
		if (*s == '[' || *s == ']')
			*s = *s == '[' ? '(' : ')';
		else if (*s == ';')
			*s = ',';
		else if ((unsigned char) *s < ' ' || *s == 127)
			*s = ' ';
	}
}

static bool name_is_used(const struct importer *i, size_t first, const char *name)
{
	for (size_t n = first; n < i->n_names; n++)
		if (streq(i->names[n], name))
			return true;
	return false;
}

/* Copies NAME into RET, at most ROOM bytes of it, cut where a UTF-8 character starts, and without
 * what may not be in a section header. */
static void cut_name(const char *name, size_t room, char *ret)
{
	size_t n;

	name += strspn(name, " \t");
	n = strnlen(name, room);
	while (n > 0 && ((unsigned char) name[n] & 0xc0) == 0x80)
		n--;
	memcpy(ret, name, n);
	ret[n] = '\0';
	clean_name(ret);
	while (n > 0 && ret[n - 1] == ' ')
		ret[--n] = '\0';
	if (n == 0)
		strcpy(ret, "?");
}

void import_header(struct importer *i, size_t first, const char *kind, const char *name,
		   const char *detail)
{
	char base[INI_NAME_BYTES + 1], full[2 * INI_NAME_BYTES];
	/* The blanks, and a number of up to three digits. */
	size_t room = INI_NAME_BYTES - strlen(kind) - strlen(detail) - 6;
	unsigned number = 1;
	char **slot;

	cut_name(name, room, base);
	snprintf(full, sizeof(full), "%s%s%s", base, detail[0] ? " " : "", detail);
	while (name_is_used(i, first, full))
		snprintf(full, sizeof(full), "%s%s%s %u", base, detail[0] ? " " : "", detail,
			 ++number);
	slot = ARRAY_APPEND(i->names, i->n_names);
	if (slot)
		*slot = strdup(full);
	if (!slot || !*slot)
		i->no_memory = true;
	fprintf(i->out, "\n[%s %s]\n", kind, full);
}
