/* Where Python's regular expressions and PCRE2 part. Called by import-vhotplug.c. */
#include "rules.d/import-regex.h"

#include <ctype.h>

#include "conf/regex.h"

struct translation {
	const char *pattern, *at; /* what is left of it */
	bool in_class;
	bool class_begins; /* a ] here is no end */
	char *out;
	size_t size, n;
};

/* Appends N bytes of TEXT. False when there is no room. */
static bool append_text(struct translation *t, const char *text, size_t n)
{
	if (t->n + n >= t->size)
		return false;
	memcpy(t->out + t->n, text, n);
	t->n += n;
	t->out[t->n] = '\0';
	return true;
}

static const char *too_long(bool fits)
{
	return fits ? NULL : "too long";
}

/* At a backslash. */
static const char *translate_escape(struct translation *t)
{
	char c = t->at[1];
	const char *two = t->at;

	if (c == '\0')
		return "a \\ at its end";
	t->at += 2;
	if (c == 'v')
		return too_long(append_text(t, "\\x0b", 4));
	if (c == 'Z' && !t->in_class)
		return too_long(append_text(t, "\\z", 2));
	if (strchr("uUN", c))
		return "a character by its number or name";
	if (c == 'x' && !(isxdigit((unsigned char) t->at[0]) && isxdigit((unsigned char) t->at[1])))
		return "an escape that Python does not have";
	if (isalpha((unsigned char) c) &&
	    !strchr(t->in_class ? "dDsSwWabfnrtx" : "dDsSwWabfnrtxAB", c))
		return "an escape that Python does not have";
	return too_long(append_text(t, two, 2));
}

/* At "(?" or "(*": what Python has, too. */
static const char *check_group(const char *at)
{
	static const char *const known[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?P<", "(?P=",
					    "(?#", "(?(", "(?>", "(?i",  "(?m",  "(?s"};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (startswith(at, known[i]))
			return NULL;
	return "a group that is another one there";
}

/* At a { that is not in a class: {,3} is a repetition for Python alone. */
static const char *translate_brace(struct translation *t)
{
	size_t digits = t->at[1] == ',' ? strspn(t->at + 2, "0123456789") : 0;

	if (t->at[1] == ',' && t->at[2 + digits] == '}') {
		t->at += 1;
		return too_long(append_text(t, "{0", 2));
	}
	return too_long(append_text(t, t->at++, 1));
}

static const char *translate_in_class(struct translation *t)
{
	char c = *t->at;

	if (c == '[' && strchr(":.=", t->at[1])) {
		t->at++;
		return too_long(append_text(t, "\\[", 2));
	}
	if (c == ']' && !t->class_begins)
		t->in_class = false;
	t->class_begins = false;
	return too_long(append_text(t, t->at++, 1));
}

/* Whether the file would not have C, a byte of the pattern: a blank at an end, or where a comment
 * could begin behind it, or a ; that could begin one. */
static bool is_lost(const struct translation *t, const char *c)
{
	if (*c == ';')
		return c == t->pattern;
	return *c == ' ' && (c == t->pattern || c[1] == '\0' || c[1] == ';');
}

/* The same byte, C, in a way that the file keeps. A glob knows only the class, but within one there
 * is none. */
static const char *translate_lost(struct translation *t, char c)
{
	t->class_begins = false;
	if (t->in_class)
		return too_long(append_text(t, "\\x20", 4));
	return too_long(append_text(t, c == ' ' ? "[ ]" : "[;]", 3));
}

static const char *translate_next(struct translation *t)
{
	char c = *t->at;
	const char *meant = t->at + (c == '\\');

	if (is_lost(t, meant)) {
		t->at = meant + 1;
		return translate_lost(t, *meant);
	}
	if ((unsigned char) c >= 0x80)
		return "a character above ASCII";
	if ((unsigned char) c < ' ' || c == 127)
		return "a control character";
	if (c == '\\') {
		t->class_begins = false;
		return translate_escape(t);
	}
	if (t->in_class)
		return translate_in_class(t);
	if (c == '(' && (t->at[1] == '?' || t->at[1] == '*')) {
		const char *why = check_group(t->at);

		if (why)
			return why;
	}
	if (c == '{')
		return translate_brace(t);
	if (c == '[') {
		size_t n = t->at[1] == '^' ? 2 : 1;

		t->in_class = t->class_begins = true;
		t->at += n;
		return too_long(append_text(t, t->at - n, n));
	}
	return too_long(append_text(t, t->at++, 1));
}

const char *import_regex(const char *pattern, char *ret, size_t size)
{
	struct translation t = {.pattern = pattern, .at = pattern, .out = ret, .size = size};
	char error[128];
	pcre2_code *code;

	ret[0] = '\0';
	while (*t.at) {
		const char *why = translate_next(&t);

		if (why)
			return why;
	}
	code = regex_compile(ret, error, sizeof(error));
	pcre2_code_free(code);
	return code ? NULL : "no regular expression";
}
