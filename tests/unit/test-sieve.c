/* The sieve lets through whatever one of its rules matches, and asks in few lines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <fnmatch.h>

#include "rules.d/sieve.h"

/* A rule with a line for each of the values, all of the property N. */
struct made {
	struct token tokens[4];
	struct conjunction lines[4];
	struct stage stage;
	struct compiled_rule rule;
};

static struct compiled_rule *make(struct made *made, const char *const *values)
{
	*made = (struct made){.stage = {.lines = made->lines}, .rule = {&made->stage, 1, NULL, 0}};
	for (size_t i = 0; values[i]; i++) {
		made->tokens[i] = (struct token){TOKEN_ENV, "N", false, (char *) values[i]};
		made->lines[i] = (struct conjunction){&made->tokens[i], 1};
		made->stage.n_lines++;
	}
	return &made->rule;
}

/* What the sieve of one rule for each of VALUES prints; the caller's to free. */
static char *sieve_of(const char *const *values, size_t n)
{
	struct sieve sieve = {0};
	struct made *made = calloc(n + 1, sizeof(*made));
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	for (size_t i = 0; i < n; i++) {
		struct compiled_rule *rule = make(&made[i], (const char *[]){values[i], NULL});

		assert_true(sieve_can_tell(rule));
		assert_int_equal(sieve_add(&sieve, rule), 0);
	}
	assert_int_equal(sieve.n_rules, n);
	assert_int_equal(sieve_write(&sieve, out, "x"), 0);
	fclose(out);
	sieve_finish(&sieve);
	free(made);
	return text;
}

static void assert_sieve(const char *expected, const char *const *values, size_t n)
{
	char *text = sieve_of(values, n);

	assert_string_equal(text, expected);
	free(text);
}

static void each_value_is_asked_for_once(void **state)
{
	static const char *const values[] = {"b", "a", "*c*", "b", "*c*", "e|f*|a"};

	(void) state;
	assert_sieve("ENV{N}==\"a|b|e\", GOTO=\"x\"\nENV{N}==\"*c*|f*\", GOTO=\"x\"\n", values,
		     ARRAY_SIZE(values));
	assert_sieve("ENV{N}==\"\\\"\", GOTO=\"x\"\n", (const char *[]){"\""}, 1);
	assert_sieve("", NULL, 0);
}

#define MOUSE "[Mm][Oo][Uu][Ss][Ee]"
#define USB "[Uu][Ss][Bb]"

static void names_are_cut_to_letters_that_many_have(void **state)
{
	static const char *const values[] = {
		"*" MOUSE " 1*",   "*" USB " " MOUSE "*",
		"*" MOUSE,     /* at their middle, at their end */
		MOUSE " 4*",   /* that begin so */
		"*" USB " 5*", /* no four letters in a row */
		"*\\" MOUSE "*",   "*[!a]" MOUSE "*",
		"*[]a]" MOUSE "*", "*[" MOUSE "*", /* left alone */
	};

	(void) state;
	assert_sieve("ENV{N}==\"*[!a]" MOUSE "*|*[Mm][Oo][Uu][Ss]*|*" USB " 5*|*[" MOUSE
		     "*|*[]a]" MOUSE "*|*\\" MOUSE "*|[Mm][Oo][Uu][Ss]*\", GOTO=\"x\"\n",
		     values, ARRAY_SIZE(values));
}

static void some_rules_can_not_be_sieved(void **state)
{
	struct made made;

	(void) state;
	assert_true(sieve_can_tell(make(&made, (const char *[]){"a", "b", NULL})));
	made.tokens[1].negate = true;
	assert_false(sieve_can_tell(&made.rule));
	for (const char *const *value = (const char *[]){"", "|a", "a|", "a||b", NULL}; *value;
	     value++)
		assert_false(sieve_can_tell(make(&made, (const char *[]){"a", *value, NULL})));
	make(&made, (const char *[]){"a", NULL});
	made.tokens[0].key = TOKEN_PROGRAM;
	assert_false(sieve_can_tell(&made.rule));
	made.rule.n_stages = 0;
	assert_false(sieve_can_tell(&made.rule));
}

static uint32_t dice(uint32_t sides)
{
	static uint32_t x = 12345;

	x = x * 1664525 + 1013904223;
	return (x >> 8) % sides;
}

/* A glob in VALUE, and in TEXT something that it matches. Few letters, so that runs are shared. */
static void throw_glob(char *value, char *text)
{
	static const char *const elements[][2] = {
		{"[Ee]", "e"}, {"[Ee]", "E"}, {"[Tt]", "t"}, {"[Hh]", "H"},  {"[Ee]", "e"},
		{"*", ""},     {"*", "eth"},  {"?", "x"},    {"[0-9]", "7"}, {"[[:alpha:]]", "t"},
		{"\\e", "e"},  {"[]E]", "]"}, {"[!x]", "e"}, {"[[Ee]", "["}, {"-", "-"},
		{"[Hh]", "h"}, {"Z", "Z"},    {"[Tt]", "T"},
	};

	for (uint32_t n = 3 + dice(9); n > 0; n--) {
		const char *const *element = elements[dice(ARRAY_SIZE(elements))];

		value = stpcpy(value, element[0]);
		text = stpcpy(text, element[1]);
	}
}

/* Whether a line of SIEVE takes TEXT. */
static bool lets_through(const char *sieve, const char *text)
{
	char copy[65536], *line, *lines = copy;

	snprintf(copy, sizeof(copy), "%s", sieve);
	while ((line = strsep(&lines, "\n")) && *line) {
		char *values = strchr(line, '"') + 1, *value;

		assert_true(strlen(line) < RULE_LINE_BYTES);
		*strstr(values, "\", GOTO") = '\0';
		while ((value = strsep(&values, "|")))
			if (strpbrk(value, "*?[") ? fnmatch(value, text, 0) == 0
						  : streq(value, text))
				return true;
	}
	return false;
}

/* One glob at a time, among others that take nothing: so it is cut, and nobody else lets its text
 * through. */
static void nothing_is_lost(void **state)
{
	const char *list[] = {"#1*", "#2*", "#3*", "#4*", "#5*", "#6*", "#7*", "#8*", NULL};
	char value[200], text[200];
	unsigned matched = 0;

	(void) state;
	for (unsigned round = 0; round < 5000; round++) {
		throw_glob(value, text);
		if (strpbrk(value, "*?[") ? fnmatch(value, text, 0) != 0 : !streq(value, text))
			continue;
		list[8] = value;
		char *sieve = sieve_of(list, ARRAY_SIZE(list));

		assert_true(lets_through(sieve, text));
		free(sieve);
		matched++;
	}
	assert_true(matched > 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_value_is_asked_for_once),
		cmocka_unit_test(names_are_cut_to_letters_that_many_have),
		cmocka_unit_test(some_rules_can_not_be_sieved),
		cmocka_unit_test(nothing_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
