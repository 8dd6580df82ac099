/* Feeds inih line by line and collects what it finds, with the line numbers that inih keeps to
 * itself. load.c is the only caller. */
#include "conf/ini.h"

#include <ini.h>

#include "conf/array.h"

struct line_reader {
	FILE *file;
	struct ini *ini;
	struct mistakes *mistakes;
	unsigned line;
	char *text; /* the line in hand; kept for the next getline */
	size_t text_size;
	int error; /* -errno: reading stopped */
};

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static const char *skip_blanks(const char *s)
{
	while (is_blank(*s))
		s++;
	return s;
}

static size_t length_without_blanks(const char *s, size_t n)
{
	while (n > 0 && is_blank(s[n - 1]))
		n--;
	return n;
}

/* The first control character in the N bytes at S (a tab is a blank), or -1. */
static int control_character(const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (((unsigned char) s[i] < 0x20 && s[i] != '\t') || s[i] == 0x7f)
			return (unsigned char) s[i];
	return -1;
}

/* Appends a section; KIND may be NULL for one that only swallows its keys. */
static int append_section(struct line_reader *reader, const char *kind, size_t kind_len,
			  const char *name, size_t name_len)
{
	struct ini_section *section = ARRAY_APPEND(reader->ini->sections, reader->ini->n_sections);

	if (!section)
		return -ENOMEM;
	section->line = reader->line;
	if (!kind)
		return 0;
	section->kind = strndup(kind, kind_len);
	section->name = strndup(name, name_len);
	return section->kind && section->name ? 0 : -ENOMEM;
}

static int read_header(struct line_reader *reader, const char *text)
{
	const char *inside = skip_blanks(text + 1), *close = strchr(text, ']');
	const char *after = close ? skip_blanks(close + 1) : NULL;
	size_t len = close ? length_without_blanks(inside, (size_t) (close - inside)) : 0;
	size_t kind_len = 0;

	while (kind_len < len && !is_blank(inside[kind_len]))
		kind_len++;

	const char *name = skip_blanks(inside + kind_len);

	if (!close)
		mistakes_add(reader->mistakes, reader->line,
			     "the section header has no ], allowed here: [kind name]");
	else if (*after && *after != ';' && *after != '#')
		mistakes_add(reader->mistakes, reader->line,
			     "text after the section header, allowed here: a comment");
	else if (len == 0 || memchr(inside, ';', len))
		mistakes_add(reader->mistakes, reader->line,
			     "%s in a section header, allowed here: [kind name]",
			     len == 0 ? "nothing" : "a ;");
	else if (len > INI_NAME_BYTES)
		mistakes_add(
			reader->mistakes, reader->line,
			"the section header has %zu bytes between its brackets, allowed here: %d",
			len, INI_NAME_BYTES);
	else
		return append_section(reader, inside, kind_len, name,
				      len - (size_t) (name - inside));
	return append_section(reader, NULL, 0, NULL, 0);
}

/* Whether a line that is no comment and no header may go to inih. */
static bool check_key_line(struct line_reader *reader, const char *text, size_t len)
{
	const char *equals = strchr(text, '=');
	size_t key_len = equals ? length_without_blanks(text, (size_t) (equals - text)) : 0;

	for (size_t i = 0; i < key_len; i++)
		if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_",
			    text[i]))
			key_len = 0;
	if (key_len == 0)
		mistakes_add(reader->mistakes, reader->line,
			     "not understood, allowed here: [section], key = value, or a comment "
			     "after ; or #");
	else if (key_len > INI_NAME_BYTES)
		mistakes_add(reader->mistakes, reader->line,
			     "the key has %zu bytes, allowed here: %d", key_len, INI_NAME_BYTES);
	else if (len > INI_LINE_BYTES)
		mistakes_add(reader->mistakes, reader->line,
			     "the line has %zu bytes, allowed here: %d", len, INI_LINE_BYTES);
	else if (reader->ini->n_sections == 0)
		mistakes_add(reader->mistakes, reader->line,
			     "a key before the first section, allowed here: [section]");
	else
		return true;
	return false;
}

/* Looks at one line of LEN bytes. Returns whether inih should see it, or -errno. */
static int check_line(struct line_reader *reader, const char *text, size_t len)
{
	const char *start = skip_blanks(text);
	int control = control_character(text, len);

	if (*start == ';' || *start == '#' || start == text + len)
		return false;
	if (control >= 0) {
		mistakes_add(reader->mistakes, reader->line,
			     "control character 0x%02x, allowed here: printable text%s", control,
			     control == '\r' ? " (lines end with a newline alone)" : "");
		return false;
	}
	if (start != text) {
		mistakes_add(reader->mistakes, reader->line,
			     "the line starts with a blank, allowed here: sections and keys at the "
			     "start of the line");
		return false;
	}
	if (*text == '[')
		return read_header(reader, text);
	return check_key_line(reader, text, len);
}

/* inih's reader: like fgets, but a line that is not for inih arrives empty. */
static char *read_line(char *ret_line, int size, void *data)
{
	struct line_reader *reader = data;
	ssize_t len = reader->error ? -1 : getline(&reader->text, &reader->text_size, reader->file);
	char *text = reader->text;
	int pass;

	if (len < 0) {
		if (!reader->error && !feof(reader->file))
			reader->error = -errno;
		return NULL;
	}
	reader->line++;
	if (len > 0 && text[len - 1] == '\n')
		text[--len] = '\0';
	if (reader->line == 1 && len >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
		text += 3;
		len -= 3;
	}
	pass = check_line(reader, text, (size_t) len);
	if (pass < 0) {
		reader->error = pass;
		return NULL;
	}
	snprintf(ret_line, (size_t) size, "%s", pass > 0 ? text : "");
	return ret_line;
}

/* inih found a key. Returns nonzero when all is well: that is inih's convention. */
static int take_key(void *data, const char *section_name, const char *name, const char *value)
{
	struct line_reader *reader = data;
	struct ini_section *section = &reader->ini->sections[reader->ini->n_sections - 1];
	struct ini_key *key;

	(void) section_name; /* two sections of one name look the same to inih */
	for (size_t i = 0; i < section->n_keys; i++)
		if (streq(section->keys[i].name, name)) {
			mistakes_add(reader->mistakes, reader->line,
				     "%s again (first in line %u), allowed here: each key once",
				     name, section->keys[i].line);
			return 1;
		}
	key = ARRAY_APPEND(section->keys, section->n_keys);
	if (!key) {
		reader->error = -ENOMEM;
		return 1;
	}
	key->line = reader->line;
	key->name = strdup(name);
	key->value = strdup(value);
	if (!key->name || !key->value)
		reader->error = -ENOMEM;
	return 1;
}

int ini_read(FILE *file, struct ini *ini, struct mistakes *mistakes)
{
	struct line_reader reader = {.file = file, .ini = ini, .mistakes = mistakes};
	int r = ini_parse_stream(read_line, &reader, take_key, &reader);

	free(reader.text);
	if (reader.error)
		return reader.error;
	if (r < 0)
		return -ENOMEM;
	if (r > 0)
		mistakes_add(mistakes, (unsigned) r,
			     "not understood, allowed here: [section], key = value, or a comment "
			     "after ; or #");
	return 0;
}

void ini_finish(struct ini *ini)
{
	for (size_t i = 0; i < ini->n_sections; i++) {
		struct ini_section *section = &ini->sections[i];

		for (size_t k = 0; k < section->n_keys; k++) {
			free(section->keys[k].name);
			free(section->keys[k].value);
		}
		free(section->keys);
		free(section->kind);
		free(section->name);
	}
	free(ini->sections);
	ini->sections = NULL;
	ini->n_sections = 0;
}
