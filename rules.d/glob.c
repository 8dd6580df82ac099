/* Translates the part of PCRE2's syntax that globs can say, and gives up on the rest with a
 * reason. An expression is read once, by recursive descent, into a list of alternatives. Each is a
 * string: glob text with the marks below for what has no glob of its own; the marks are control
 * characters, which never occur in glob text. Called by compile.c.
 *
 * Since a match is open at the end, an expression P followed by something that may be empty
 * matches the same strings as P alone: MAYBE marks at the end of an alternative just go. */
#include "rules.d/glob.h"

#include "helper/text.h"

#include <stdint.h>

#include "conf/array.h"
#include "rules.d/byteset.h"

#define BEGIN '\x01' /* ^ */
#define END '\x02'   /* $ */
#define MAYBE '\x03' /* something that may be empty, and else can't be said */

struct alternatives {
	char **list;
	size_t n;
};

struct parser {
	const char *p;
	const char *why; /* set: given up */
	bool no_memory;
	unsigned depth;
};

static void alternatives_finish(struct alternatives *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->list[i]);
	free(a->list);
	*a = (struct alternatives){0};
}

static bool give_up(struct parser *parser, const char *why)
{
	if (!parser->why)
		parser->why = why;
	return false;
}

/* Adds the concatenation of A and B to LIST. */
static bool append_glob(struct parser *parser, struct alternatives *list, const char *a,
			const char *b)
{
	char **slot;

	if (list->n >= GLOB_ALTERNATIVES)
		return give_up(parser, "more than 64 alternatives");
	if (strlen(a) + strlen(b) > GLOB_BYTES)
		return give_up(parser, "too long for a rule line");
	slot = ARRAY_APPEND(list->list, list->n);
	if (slot && asprintf(slot, "%s%s", a, b) >= 0)
		return true;
	if (slot)
		*slot = NULL;
	parser->no_memory = true;
	return give_up(parser, "no memory");
}

/* LIST becomes every alternative of LIST followed by every one of TAIL. */
static bool multiply_globs(struct parser *parser, struct alternatives *list,
			   const struct alternatives *tail)
{
	struct alternatives product = {0};
	bool good = true;

	for (size_t i = 0; good && i < list->n; i++)
		for (size_t j = 0; good && j < tail->n; j++)
			good = append_glob(parser, &product, list->list[i], tail->list[j]);
	alternatives_finish(list);
	*list = product;
	return good;
}

static bool join_globs(struct parser *parser, struct alternatives *list,
		       const struct alternatives *more)
{
	bool good = true;

	for (size_t i = 0; good && i < more->n; i++)
		good = append_glob(parser, list, more->list[i], "");
	return good;
}

static bool append_set(struct parser *parser, struct alternatives *list, const struct byteset *set)
{
	char glob[BYTESET_GLOB_MAX];
	const char *why = byteset_glob(set, glob);

	return why ? give_up(parser, why) : append_glob(parser, list, glob, "");
}

static bool append_literal(struct parser *parser, struct alternatives *list, unsigned char c)
{
	struct byteset set = {0};

	byteset_add(&set, c);
	byteset_fold(&set);
	return append_set(parser, list, &set);
}

static bool is_punctuation(char c)
{
	return c > ' ' && c < 127 && !(c >= '0' && c <= '9') && !(c >= 'A' && c <= 'Z') &&
	       !(c >= 'a' && c <= 'z');
}

/* The set that \C stands for: \d \w \s and their opposites. */
static bool parse_shorthand(char c, struct byteset *set)
{
	*set = (struct byteset){0};
	switch (c) {
	case 'd':
	case 'D':
		byteset_add_range(set, '0', '9');
		break;
	case 'w':
	case 'W':
		byteset_add_range(set, '0', '9');
		byteset_add_range(set, 'a', 'z');
		byteset_add_range(set, 'A', 'Z');
		byteset_add(set, '_');
		break;
	case 's':
	case 'S':
		byteset_add_range(set, '\t', '\r');
		byteset_add(set, ' ');
		break;
	default:
		return false;
	}
	if (c < 'a')
		byteset_invert(set);
	return true;
}

static bool posix_class(const char *name, size_t n, struct byteset *set)
{
	static const struct {
		const char *name;
		unsigned char ranges[10]; /* pairs, ended by 0 */
	} classes[] = {
		{"alpha", "AZaz"},   {"upper", "AZ"},       {"lower", "az"},
		{"digit", "09"},     {"alnum", "09AZaz"},   {"xdigit", "09AFaf"},
		{"space", "\t\r  "}, {"punct", "!/:@[`{~"}, {"blank", "\t\t  "},
	};

	for (size_t i = 0; i < ARRAY_SIZE(classes); i++) {
		if (strlen(classes[i].name) != n || strncmp(classes[i].name, name, n) != 0)
			continue;
		for (const unsigned char *r = classes[i].ranges; *r; r += 2)
			byteset_add_range(set, r[0], r[1]);
		return true;
	}
	return false;
}

/* One byte of a class, plain or after a backslash, or -1. */
static int class_byte(struct parser *parser)
{
	const char *p = parser->p;

	if (*p == '\\') {
		if (!is_punctuation(p[1]) && p[1] != ' ')
			return -1;
		parser->p += 2;
		return (unsigned char) p[1];
	}
	if (*p == '\0')
		return -1;
	parser->p++;
	return (unsigned char) *p;
}

/* One byte or range of a class. */
static bool class_range(struct parser *parser, struct byteset *set)
{
	int first = class_byte(parser), last = first;

	if (first >= 0 && parser->p[0] == '-' && parser->p[1] != ']') {
		parser->p++;
		if (parser->p[0] == '[' && strchr(":.=", parser->p[1]))
			return give_up(parser, "an unusual class");
		last = class_byte(parser);
		/* What a hyphen after a range means is better not relied on. */
		if (last >= 0 && parser->p[0] == '-' && parser->p[1] != ']')
			return give_up(parser, "an unusual class");
	}
	if (first < 0 || last < first)
		return give_up(parser, "an escape in a class");
	byteset_add_range(set, (unsigned) first, (unsigned) last);
	return true;
}

/* One member of a class: [:alpha:], \d, a-z, or a byte. */
static bool class_member(struct parser *parser, struct byteset *set)
{
	struct byteset member = {0};
	const char *p = parser->p;

	if (p[0] == '[' && strchr(":.=", p[1])) {
		const char *end = strstr(p + 2, ":]");

		if (p[1] != ':' || !end || !posix_class(p + 2, (size_t) (end - p - 2), &member))
			return give_up(parser, "an unusual class");
		parser->p = end + 2;
	} else if (p[0] == '\\' && parse_shorthand(p[1], &member)) {
		parser->p += 2;
	} else {
		return class_range(parser, set);
	}
	if (parser->p[0] == '-' && parser->p[1] != ']')
		return give_up(parser, "an unusual class");
	byteset_add_set(set, &member);
	return true;
}

static bool parse_class(struct parser *parser, struct alternatives *ret)
{
	struct byteset set = {0};
	bool negated = parser->p[1] == '^', first = true;

	parser->p += negated ? 2 : 1;
	for (; first || *parser->p != ']'; first = false) {
		if (*parser->p == '\0')
			return give_up(parser, "an unusual class");
		if (!class_member(parser, &set))
			return false;
	}
	parser->p++;
	byteset_fold(&set);
	if (negated)
		byteset_invert(&set);
	return append_set(parser, ret, &set);
}

static bool parse_escape(struct parser *parser, struct alternatives *ret)
{
	char c = parser->p[1];
	struct byteset set;

	parser->p += c ? 2 : 1;
	if (parse_shorthand(c, &set))
		return append_set(parser, ret, &set);
	if (c == 'A' || c == 'z')
		return append_glob(parser, ret, (char[]){c == 'A' ? BEGIN : END, '\0'}, "");
	if (is_punctuation(c) || c == ' ')
		return append_literal(parser, ret, (unsigned char) c);
	return give_up(parser, "an escape that globs don't have");
}

static bool parse_choice(struct parser *parser, struct alternatives *ret);

static bool parse_group(struct parser *parser, struct alternatives *ret)
{
	if (parser->p[1] == '*' || (parser->p[1] == '?' && parser->p[2] != ':'))
		return give_up(parser, "a special group");
	parser->p += parser->p[1] == '?' ? 3 : 1;
	if (++parser->depth > 50)
		return give_up(parser, "nested too deeply");
	if (!parse_choice(parser, ret))
		return false;
	parser->depth--;
	if (*parser->p != ')')
		return give_up(parser, "an unusual group");
	parser->p++;
	return true;
}

/* One thing that a quantifier may follow. */
static bool parse_atom(struct parser *parser, struct alternatives *ret)
{
	char c = *parser->p;
	struct byteset all = {0};

	switch (c) {
	case '(':
		return parse_group(parser, ret);
	case '[':
		return parse_class(parser, ret);
	case '\\':
		return parse_escape(parser, ret);
	case '.':
		parser->p++;
		byteset_invert(&all);
		return append_set(parser, ret, &all);
	case '^':
	case '$':
		parser->p++;
		return append_glob(parser, ret, (char[]){c == '^' ? BEGIN : END, '\0'}, "");
	case '{':
	case '*':
	case '+':
	case '?':
		return give_up(parser, "an unusual repeat");
	default:
		parser->p++;
		return append_literal(parser, ret, (unsigned char) c);
	}
}

#define NO_END UINT32_MAX

/* Reads N} , N,} or N,M}. */
static bool parse_braces(struct parser *parser, unsigned *ret_min, unsigned *ret_max)
{
	const char *p = parser->p;
	char *end;
	unsigned long min, max;

	if (*p < '0' || *p > '9')
		return give_up(parser, "an unusual repeat");
	min = max = strtoul(p, &end, 10);
	if (*end == ',') {
		p = end + 1;
		max = NO_END;
		if (*p >= '0' && *p <= '9')
			max = strtoul(p, &end, 10);
		else
			end = (char *) (uintptr_t) p;
	}
	if (*end != '}')
		return give_up(parser, "an unusual repeat");
	parser->p = end + 1;
	*ret_min = (unsigned) min;
	*ret_max = (unsigned) max;
	return true;
}

/* Reads a quantifier, if there is one: once otherwise. */
static bool parse_quantifier(struct parser *parser, unsigned *ret_min, unsigned *ret_max)
{
	char c = *parser->p;

	*ret_min = *ret_max = 1;
	if (!c || !strchr("?*+{", c))
		return true;
	parser->p++;
	*ret_min = c == '+';
	*ret_max = c == '?' ? 1 : NO_END;
	if (c == '{' && !parse_braces(parser, ret_min, ret_max))
		return false;
	/* Whether as much or as little as possible is tried first changes nothing. */
	if (*parser->p == '?')
		parser->p++;
	if (*parser->p && strchr("?*+{", *parser->p))
		return give_up(parser, "an unusual repeat");
	return true;
}

/* RET becomes ATOM repeated MIN to MAX times. */
static bool repeat_atom(struct parser *parser, const struct alternatives *atom, unsigned min,
			unsigned max, struct alternatives *ret)
{
	struct alternatives run = {0}, more = {0};
	bool any = atom->n == 1 && (streq(atom->list[0], "?") || streq(atom->list[0], "*"));
	bool good = append_glob(parser, &run, "", "");

	for (unsigned i = 0; good && i < min; i++)
		good = multiply_globs(parser, &run, atom);
	if (good && max == NO_END) {
		good = append_glob(parser, &more, any ? "*" : (char[]){MAYBE, '\0'}, "") &&
		       multiply_globs(parser, &run, &more);
	} else {
		for (unsigned i = min; good && i < max; i++)
			good = join_globs(parser, ret, &run) && multiply_globs(parser, &run, atom);
	}
	good = good && join_globs(parser, ret, &run);
	alternatives_finish(&run);
	alternatives_finish(&more);
	return good;
}

static bool parse_sequence(struct parser *parser, struct alternatives *ret)
{
	bool good = append_glob(parser, ret, "", "");

	while (good && *parser->p && *parser->p != '|' && *parser->p != ')') {
		struct alternatives atom = {0}, repeated = {0};
		unsigned min, max;

		good = parse_atom(parser, &atom) && parse_quantifier(parser, &min, &max) &&
		       repeat_atom(parser, &atom, min, max, &repeated) &&
		       multiply_globs(parser, ret, &repeated);
		alternatives_finish(&atom);
		alternatives_finish(&repeated);
	}
	return good;
}

static bool parse_choice(struct parser *parser, struct alternatives *ret)
{
	for (;;) {
		struct alternatives sequence = {0};
		bool good = parse_sequence(parser, &sequence) && join_globs(parser, ret, &sequence);

		alternatives_finish(&sequence);
		if (!good)
			return false;
		if (*parser->p != '|')
			return true;
		parser->p++;
	}
}

/* Turns one alternative with marks into a glob, in place (it has two bytes to spare at its end).
 * Returns NULL, or why it can't be said. */
static const char *finish_glob(char *s)
{
	size_t n, out = 0;

	while (*s == BEGIN)
		memmove(s, s + 1, strlen(s));
	n = strlen(s);
	if (n > 0 && s[n - 1] == END) {
		s[n - 1] = '\0';
		/* udev cuts blanks off an attribute, unless the pattern ends in one. */
		if (n > 1 && s[n - 2] == ' ')
			strcpy(s + n - 2, "[ ]");
	} else {
		while (n > 0 && (s[n - 1] == MAYBE || s[n - 1] == '*'))
			n--;
		strcpy(s + n, "*");
	}
	for (const char *p = s; *p; p++) {
		if (*p == BEGIN || *p == END)
			return "an anchor in the middle";
		if (*p == MAYBE)
			return "a repeat of something other than . in the middle";
		if (*p != '*' || out == 0 || s[out - 1] != '*')
			s[out++] = *p;
	}
	s[out] = '\0';
	return NULL;
}

/* Whether every byte above ASCII is part of a UTF-8 character: newer versions of udev refuse other
 * rules. */
static bool is_utf8(const char *s)
{
	size_t n;

	while ((n = utf8_length(s)) > 0)
		s += n;
	return *s == '\0';
}

/* How long GLOB is with a backslash in front of each quote. */
static size_t bytes_in_rule(const char *glob)
{
	size_t n = strlen(glob);

	for (; *glob; glob++)
		n += *glob == '"';
	return n;
}

/* Whether some other glob of the list that is open at the end starts GLOB: it needs no line. */
static bool is_covered(const struct alternatives *list, size_t index)
{
	const char *glob = list->list[index];

	for (size_t i = 0; i < list->n; i++) {
		const char *other = list->list[i];
		size_t n = strlen(other);

		if (i == index)
			continue;
		if (streq(glob, other)
			    ? i < index
			    : n > 0 && other[n - 1] == '*' && strncmp(glob, other, n - 1) == 0)
			return true;
	}
	return false;
}

/* Fills RET from the alternatives that were read. */
static int finish_globs(struct parser *parser, struct alternatives *list, struct globs *ret)
{
	for (size_t i = 0; i < list->n; i++) {
		char *roomy = realloc(list->list[i], strlen(list->list[i]) + 3);

		if (!roomy)
			return -ENOMEM;
		list->list[i] = roomy;
		const char *why = finish_glob(roomy);
		if (!why && !is_utf8(roomy))
			why = "part of a character above ASCII";
		if (!why && bytes_in_rule(roomy) > GLOB_BYTES)
			why = "too long for a rule line";
		if (why)
			give_up(parser, why);
		ret->always = ret->always || (!why && streq(roomy, "*"));
	}
	/* One alternative that takes everything makes up for what the others can't say. */
	if (ret->always || parser->why)
		return 0;
	for (size_t i = 0; i < list->n; i++) {
		if (is_covered(list, i))
			continue;
		char **slot = ARRAY_APPEND(ret->list, ret->n);
		if (!slot)
			return -ENOMEM;
		*slot = strdup(list->list[i]);
		if (!*slot)
			return -ENOMEM;
	}
	return 0;
}

static int translate_regex(struct parser *parser, struct alternatives *list, struct globs *ret)
{
	int r = 0;

	if (!parser->why || !parser->no_memory)
		r = parser->why ? 0 : finish_globs(parser, list, ret);
	alternatives_finish(list);
	if (r < 0 || parser->no_memory) {
		globs_finish(ret);
		return -ENOMEM;
	}
	ret->why = ret->always ? NULL : parser->why;
	return ret->why ? 0 : 1;
}

int globs_from_regex(const char *regex, struct globs *ret)
{
	struct parser parser = {.p = startswith(regex, "(?i)") ?: regex};
	struct alternatives list = {0};

	*ret = (struct globs){0};
	if (parse_choice(&parser, &list) && *parser.p)
		give_up(&parser, "an unusual group");
	return translate_regex(&parser, &list, ret);
}

int globs_from_text(const char *text, struct globs *ret)
{
	struct parser parser = {.p = text};
	struct alternatives list = {0};
	bool good = append_glob(&parser, &list, "", "");

	*ret = (struct globs){0};
	for (; good && *text; text++) {
		struct alternatives byte = {0};

		good = append_literal(&parser, &byte, (unsigned char) *text) &&
		       multiply_globs(&parser, &list, &byte);
		alternatives_finish(&byte);
	}
	if (good) {
		struct alternatives end = {(char *[]){(char[]){END, '\0'}}, 1};

		multiply_globs(&parser, &list, &end);
	}
	return translate_regex(&parser, &list, ret);
}

void globs_finish(struct globs *globs)
{
	for (size_t i = 0; i < globs->n; i++)
		free(globs->list[i]);
	free(globs->list);
	*globs = (struct globs){0};
}
