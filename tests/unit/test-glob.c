/* Regular expressions as globs: what is translated to what, what is left to vhotplug-match, and the
 * globs of byte sets against fnmatch. */
#include <fnmatch.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "rules.d/byteset.h"
#include "rules.d/glob.h"

/* The globs of REGEX, separated by blanks; "ALL" when it matches everything, "NO" when not exact.
 */
static void expect(const char *regex, const char *expected)
{
	struct globs globs;
	char found[4096] = "";
	int r = globs_from_regex(regex, &globs);

	assert_true(r >= 0);
	assert_true((r > 0) == (globs.why == NULL));
	if (r == 0)
		strcpy(found, "NO");
	else if (globs.always)
		strcpy(found, "ALL");
	for (size_t i = 0; i < globs.n; i++) {
		strcat(found, i > 0 ? " " : "");
		strcat(found, globs.list[i]);
	}
	if (!streq(found, expected))
		fail_msg("%s became %s (%s), not %s", regex, found, globs.why ?: "exact", expected);
	globs_finish(&globs);
}

static void exact_translations(void **state)
{
	(void) state;
	expect("a", "[Aa]*");
	expect("^a1$", "[Aa]1");
	expect("\\Aa\\z", "[Aa]");
	expect(".*1", "*1*");
	expect("1.+2.?3", "1?*23* 1?*2?3*");
	expect("1.{2}2.{1,}3$", "1??2?*3");
	expect("(1|23)4{1,2}5", "145* 1445* 2345* 23445*");
	expect("(?:1|2|)3$", "13 23 3");
	expect("[a-c]", "[ABCabc]*");
	expect("[a-f]1", "[A-Fa-f]1*");
	expect("[^a]1", "[!Aa]1*");
	expect("\\d\\D1", "[0-9][!0-9]1*");
	expect("\\w1", "[0-9A-Z_a-z]1*");
	expect("\\s1", "[[:space:]]1*");
	expect("\\S1", "[![:space:]]1*");
	expect("[[:digit:]_]1", "[0-9_]1*");
	expect("[]1]2", "[]1]2*");
	expect("[^]1]2", "[!]1]2*");
	expect("[!1]2", "[1!]2*");
	expect("[!^-]2", "[-!^]2*");
	expect("[[1]2", "[1[]2*");
	expect("[\\\\1]2", "[1\\\\]2*");
	expect("[{-}]2", "[{-}]2*");
	expect("[!-~]2", "[\"#-~!]2*");
	expect("\\*\\?\\[\\\\\\.", "[*][?][[][\\\\].*");
	expect("a\"", "[Aa]\"*");
	expect("gr\xc3\xbc\xc3\x9f", "[Gg][Rr]\xc3\xbc\xc3\x9f*");
	expect("(?i)a", "[Aa]*");
	expect("1 $", "1[ ]");
	expect("1 ", "1 *");
	expect("[\x80-\xff]1", "[![:cntrl:] -~]1*");
	expect("(.*)*1", "*1*");
	expect("1{0}2", "2*");
}

/* A match is open at the end, so what may be empty there says nothing. */
static void ends_are_open(void **state)
{
	(void) state;
	expect("12*", "1*");
	expect("12+", "12*");
	expect("1(23)*", "1*");
	expect("1(23)+", "123*");
	expect("1.*", "1*");
	expect("12?", "1*");
	expect("1[23]{2,}", "1[23][23]*");
	expect("12|1", "1*");
	expect("1|13$", "1*");
	expect("1*2$", "NO");
	expect("12*3", "NO");
}

static void everything_matches(void **state)
{
	(void) state;
	expect(".*", "ALL");
	expect("^", "ALL");
	expect("1*", "ALL");
	expect("1?", "ALL");
	expect("(1|)", "ALL");
	expect(".*$", "ALL");
	expect("1*2|.*", "ALL");
	expect("$", "");
	expect(".", "?*");
	expect(".+$", "?*");
}

static void left_to_the_program(void **state)
{
	static const char *const inexact[] = {
		"a\\b",          "(a)\\1",   "(?=a)b",   "(?!a)b",      "(?<=a)b",       "(?>a)b",
		"a*+b",          "a++b",     "a\\|b",    "[a|b]c",      "[^|]c",         "\\x41",
		"\\t",           "[\\t]a",   "a\\Zb",    "a\\Z",        "\\Qa.b\\E",     "a(?i)b",
		"(?<n>a)",       "(?#c)a",   "(*ANY)a",  "[\xc3\xbc]a", "a\xc3\xbc?b",   "a$b",
		"b^a",           "(a$)b",    "(^a){2}b", "a{2}{3}b",    ".{0,100}a",     "a{,3}b",
		"[[:cntrl:]a]b", "[a-\\d]b", "[!^]a",    "[\\d-z]a",    "(a|b|c|d){4}x", "[[.a.]]b",
		"[^\\n]a",       "\\R",      "\\h",      "\\N",         "a{3",
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(inexact); i++)
		expect(inexact[i], "NO");
}

static void sizes_are_capped(void **state)
{
	char letters[200], ones[160];

	(void) state;
	memset(letters, 'a', sizeof(letters));
	letters[149] = '\0';
	struct globs globs;
	assert_int_equal(globs_from_regex(letters, &globs), 1);
	globs_finish(&globs);
	letters[149] = 'a';
	letters[170] = '\0';
	expect(letters, "NO");
	expect("1{601}", "NO");
	memset(ones, '(', sizeof(ones));
	strcpy(ones + 51, "1");
	memset(ones + 52, ')', 51);
	ones[103] = '\0';
	expect(ones, "NO");
	expect("\"{400}", "NO");
}

static void texts_match_in_either_case(void **state)
{
	struct globs globs;

	(void) state;
	assert_int_equal(globs_from_text("aB.*", &globs), 1);
	assert_int_equal(globs.n, 1);
	assert_string_equal(globs.list[0], "[Aa][Bb].[*]");
	globs_finish(&globs);
	assert_int_equal(globs_from_text("a|b", &globs), 0);
	assert_non_null(globs.why);
	globs_finish(&globs);
}

/* Random sets, checked for every byte. */
static void byteset_globs_mean_the_set(void **state)
{
	unsigned exact = 0;

	(void) state;
	srandom(1);
	for (unsigned round = 0; round < 40000; round++) {
		struct byteset set = {0};
		char glob[BYTESET_GLOB_MAX];

		for (long n = random() % (round % 2 ? 6 : 90); n >= 0; n--) {
			unsigned first = (unsigned) random() % 95 + 32;
			unsigned last = first + (unsigned) (random() % 3 ? 0 : random() % 30);

			byteset_add_range(&set, first, last > 126 ? 126 : last);
		}
		if (random() % 2)
			byteset_invert(&set);
		if (byteset_glob(&set, glob))
			continue;
		exact++;
		for (unsigned c = 1; c < 256; c++) {
			bool matches = fnmatch(glob, (char[]){(char) c, '\0'}, 0) == 0;

			if (matches != byteset_has(&set, c) || strchr(glob, '|'))
				fail_msg("%s is wrong about byte 0x%02x", glob, c);
		}
	}
	assert_true(exact > 10000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exact_translations),
		cmocka_unit_test(ends_are_open),
		cmocka_unit_test(everything_matches),
		cmocka_unit_test(left_to_the_program),
		cmocka_unit_test(sizes_are_capped),
		cmocka_unit_test(texts_match_in_either_case),
		cmocka_unit_test(byteset_globs_mean_the_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
