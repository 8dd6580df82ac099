/* Bracket expressions that mean the same to every fnmatch: no backslash is relied on except in
 * front of a backslash, and what could be misread stands where it can't be. Used by glob.c. */
#include "rules.d/byteset.h"

#include <stdio.h>
#include <string.h>

void byteset_add_range(struct byteset *set, unsigned first, unsigned last)
{
	for (unsigned byte = first; byte <= last; byte++)
		byteset_add(set, byte);
}

void byteset_add_set(struct byteset *set, const struct byteset *other)
{
	for (size_t i = 0; i < ARRAY_SIZE(set->bits); i++)
		set->bits[i] |= other->bits[i];
}

void byteset_fold(struct byteset *set)
{
	for (unsigned c = 'a'; c <= 'z'; c++) {
		unsigned upper = c - 'a' + 'A';

		if (byteset_has(set, c))
			byteset_add(set, upper);
		else if (byteset_has(set, upper))
			byteset_add(set, c);
	}
}

void byteset_invert(struct byteset *set)
{
	for (size_t i = 0; i < ARRAY_SIZE(set->bits); i++)
		set->bits[i] = ~set->bits[i];
}

static unsigned count_bytes(const struct byteset *set, unsigned first, unsigned last)
{
	unsigned n = 0;

	for (unsigned byte = first; byte <= last; byte++)
		n += byteset_has(set, byte);
	return n;
}

static void remove_range(struct byteset *set, unsigned first, unsigned last)
{
	for (unsigned byte = first; byte <= last; byte++)
		set->bits[byte / 64] &= ~(UINT64_C(1) << (byte % 64));
}

/* What a bracket expression is made of, in the order in which it is written. */
struct bracket {
	char first[2];   /* ] */
	char middle[96]; /* classes, ranges, letters */
	char last[8];    /* ! ^ [ - : wherever else they would mean something */
	size_t n;        /* bytes in middle */
};

static bool is_special(unsigned c)
{
	return strchr("]!^[-\\\"|", (int) c) != NULL;
}

static void add_special(struct bracket *bracket, unsigned c)
{
	if (c == ']')
		strcpy(bracket->first, "]");
	else if (c == '\\')
		bracket->n += (size_t) sprintf(bracket->middle + bracket->n, "\\\\");
	else if (c == '"')
		bracket->middle[bracket->n++] = '"';
	else
		strncat(bracket->last, &(char){(char) c}, 1);
}

/* Writes FIRST to LAST, of which neither is special. */
static void add_run(struct bracket *bracket, unsigned first, unsigned last)
{
	if (last - first >= 3 || (first < '|' && last > '|')) {
		bracket->n += (size_t) sprintf(bracket->middle + bracket->n, "%c-%c", (int) first,
					       (int) last);
		return;
	}
	for (unsigned c = first; c <= last; c++) {
		if (is_special(c))
			add_special(bracket, c);
		else
			bracket->middle[bracket->n++] = (char) c;
	}
}

/* Control characters can't be in a rule, so they come as a class or not at all. */
static bool add_controls(struct bracket *bracket, struct byteset *set)
{
	unsigned n = count_bytes(set, 1, 31) + count_bytes(set, 127, 127);

	if (n == 0)
		return true;
	if (n == 32) {
		bracket->n += (size_t) sprintf(bracket->middle, "[:cntrl:]");
	} else if (n == 5 && count_bytes(set, '\t', '\r') == 5 && byteset_has(set, ' ')) {
		bracket->n += (size_t) sprintf(bracket->middle, "[:space:]");
		remove_range(set, ' ', ' ');
	} else {
		return false;
	}
	return true;
}

/* Collects the printable members of SET. False when a | would have to be written. */
static bool add_printables(struct bracket *bracket, const struct byteset *set)
{
	for (unsigned first = ' ', last; first < 127; first = last + 1) {
		last = first;
		if (!byteset_has(set, first))
			continue;
		while (last + 1 < 127 && byteset_has(set, last + 1))
			last++;

		unsigned end = last;
		while (first <= end && is_special(first) && first != '|')
			add_special(bracket, first++);
		while (end > first && is_special(end) && end != '|')
			add_special(bracket, end--);
		if (first > end)
			continue;
		if (first == '|' || end == '|')
			return false;
		add_run(bracket, first, end);
	}
	return true;
}

/* [^] and [!] would be negations: something else must come first. */
static bool move_negation(struct bracket *bracket)
{
	char *dash = strchr(bracket->last, '-');

	if (bracket->first[0] || bracket->n > 0 || !strchr("!^", bracket->last[0]))
		return true;
	if (!dash)
		return false;
	memmove(bracket->last + 1, bracket->last, (size_t) (dash - bracket->last));
	bracket->last[0] = '-';
	return true;
}

/* Puts ! and ^ first among the last, then [, then -: a [ must not come in front of a : and a -
 * must be at the end. */
static void sort_last(struct bracket *bracket)
{
	char sorted[sizeof(bracket->last)] = "";
	size_t n = 0;

	for (const char *c = "!^[-"; *c; c++)
		if (strchr(bracket->last, *c))
			sorted[n++] = *c;
	memcpy(bracket->last, sorted, sizeof(sorted));
}

static const char *literal_glob(unsigned c, char *ret_glob)
{
	if (c == '|')
		return "udev has no way to write |";
	if (c < ' ' || c == 127)
		return "a control character";
	if (c == '\\')
		strcpy(ret_glob, "[\\\\]");
	else if (strchr("*?[", (int) c))
		sprintf(ret_glob, "[%c]", (int) c);
	else
		sprintf(ret_glob, "%c", (int) c);
	return NULL;
}

static const char *single_glob(const struct byteset *set, char *ret_glob)
{
	for (unsigned c = 1; c < 256; c++)
		if (byteset_has(set, c))
			return literal_glob(c, ret_glob);
	return "nothing can match";
}

const char *byteset_glob(const struct byteset *set, char ret_glob[BYTESET_GLOB_MAX])
{
	struct byteset listed = *set;
	struct bracket bracket = {0};
	unsigned high = count_bytes(set, 128, 255);

	if (count_bytes(set, 1, 255) <= 1)
		return single_glob(set, ret_glob);
	if (high != 0 && high != 128)
		return "some but not all bytes above ASCII";
	if (high == 128)
		byteset_invert(&listed);
	if (count_bytes(&listed, 1, 127) == 0) {
		strcpy(ret_glob, "?");
		return NULL;
	}
	if (!add_controls(&bracket, &listed))
		return "control characters";
	if (!add_printables(&bracket, &listed))
		return "udev has no way to write |";
	sort_last(&bracket);
	if (high == 0 && !move_negation(&bracket))
		return "one of ! and ^";
	snprintf(ret_glob, BYTESET_GLOB_MAX, "[%s%s%s%s]", high ? "!" : "", bracket.first,
		 bracket.middle, bracket.last);
	return NULL;
}
