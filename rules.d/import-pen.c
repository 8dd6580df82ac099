/* What the importers write with: notes, and section headers that differ and fit. */
#include "rules.d/import-pen.h"

#include <stdarg.h>

#include "conf/array.h"
#include "conf/config.h"
#include "conf/ini.h"
#include "conf/keys.h"

void import_clean_line(char *s)
{
	for (; s && *s; s++)
		if ((unsigned char) *s < ' ' || *s == 127)
			*s = ' ';
}

void import_note(struct importer *i, const char *format, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list args;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		text = NULL;
	va_end(args);
	if (!text) {
		i->no_memory = true;
		return;
	}
	import_clean_line(text);
	fprintf(i->out, "; not carried over: %s\n", text);
	fprintf(i->notes, "not carried over: %s\n", text);
}

void import_vm_name(char ret[IMPORT_VM_NAME], const char *name)
{
	snprintf(ret, IMPORT_VM_NAME, "%s", name);
	for (char *c = ret; *c; c++)
		if (!key_is_name((char[]){*c, '\0'}))
			*c = '-';
}

bool import_survives(const char *key, const char *value)
{
	size_t n = strlen(value);

	if (n == 0 || strlen(key) + strlen(" = ") + n > INI_LINE_BYTES ||
	    strchr(" \t;", value[0]) || strchr(" \t", value[n - 1]))
		return false;
	for (size_t c = 0; c < n; c++)
		if ((unsigned char) value[c] < ' ' || value[c] == 127 ||
		    (value[c] == ' ' && value[c + 1] == ';'))
			return false;
	return true;
}

bool import_value(struct importer *i, const char *key, const char *value)
{
	if (!import_survives(key, value))
		return false;
	fprintf(i->out, "%s = %s\n", key, value);
	return true;
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
	}
}

static bool name_is_used(const struct importer *i, size_t first, const char *name)
{
	for (size_t n = first; n < i->n_names; n++)
		if (i->names[n] && config_same_name(i->names[n], name))
			return true;
	return false;
}

/* Copies NAME into RET, at most ROOM bytes of it, cut where a UTF-8 character starts, and without
 * what may not be in a section header. */
static void cut_name(const char *name, size_t room, char *ret)
{
	size_t n;

	while (*name && ((unsigned char) *name <= ' ' || *name == 127))
		name++;
	n = strnlen(name, room);
	while (n > 0 && ((unsigned char) name[n] & 0xc0) == 0x80)
		n--;
	memcpy(ret, name, n);
	ret[n] = '\0';
	import_clean_line(ret);
	clean_name(ret);
	while (n > 0 && ret[n - 1] == ' ')
		ret[--n] = '\0';
	if (n == 0)
		strcpy(ret, "?");
}

bool import_remember(struct importer *i, const char *name)
{
	char **slot;

	if (name_is_used(i, 0, name))
		return false;
	slot = ARRAY_APPEND(i->names, i->n_names);
	if (slot)
		*slot = strdup(name);
	if (!slot || !*slot)
		i->no_memory = true;
	return true;
}

void import_header(struct importer *i, size_t first, const char *kind, const char *name,
		   const char *detail)
{
	char base[INI_NAME_BYTES + 1], full[2 * INI_NAME_BYTES];
	/* The blanks, and a number of up to three digits. */
	size_t room = INI_NAME_BYTES - strlen(kind) - strlen(detail) - 6;
	unsigned number = 1;

	cut_name(name, room, base);
	snprintf(full, sizeof(full), "%s%s%s", base, detail[0] ? " " : "", detail);
	while (name_is_used(i, first, full))
		snprintf(full, sizeof(full), "%s%s%s %u", base, detail[0] ? " " : "", detail,
			 ++number);
	import_remember(i, full);
	fprintf(i->out, "\n[%s %s]\n", kind, full);
}
