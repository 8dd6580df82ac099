/* What is UTF-8, against the numbers of the Unicode standard. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "helper/macro.h"
#include "helper/text.h"

static void every_character_is_one(void **state)
{
	static const struct {
		const char *text;
		size_t length;
	} cases[] = {
		{"", 0},
		{"a", 1},
		{"\x7f", 1},
		{"\xc2\x80", 2},
		{"\xdf\xbf", 2},
		{"\xe0\xa0\x80", 3},
		{"\xed\x9f\xbf", 3},
		{"\xee\x80\x80", 3},
		{"\xf0\x90\x80\x80", 4},
		{"\xf4\x8f\xbf\xbf", 4},
		{"\x80", 0},             /* in the middle of one */
		{"\xc0\xaf", 0},         /* overlong / */
		{"\xc1\xbf", 0},         /* overlong */
		{"\xe0\x80\xaf", 0},     /* overlong / */
		{"\xe0\x9f\xbf", 0},     /* overlong */
		{"\xed\xa0\x80", 0},     /* a surrogate */
		{"\xed\xbf\xbf", 0},     /* the last surrogate */
		{"\xf0\x80\x80\xaf", 0}, /* overlong / */
		{"\xf0\x8f\xbf\xbf", 0}, /* overlong */
		{"\xf4\x90\x80\x80", 0}, /* above U+10FFFF */
		{"\xf5\x80\x80\x80", 0}, /* above that */
		{"\xf8\x88\x80\x80\x80", 0},
		{"\xff", 0},
		{"\xc3", 0}, /* cut */
		{"\xe2\x82", 0},
		{"\xf0\x9f\x98", 0},
		{"\xe2\x82"
		 "a",
		 0},
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (utf8_length(cases[i].text) != cases[i].length)
			fail_msg("case %zu: %zu", i, utf8_length(cases[i].text));
}

/* How many of all texts of N bytes are one character. */
static unsigned count_characters(size_t n)
{
	unsigned found = 0;
	uint64_t most = UINT64_C(1) << (8 * n);

	for (uint64_t code = 0; code < most; code++) {
		char text[4] = {0};

		for (size_t i = 0; i < n; i++)
			text[i] = (char) (code >> (8 * i) & 255);
		found += utf8_length(text) == n;
	}
	return found;
}

static void there_are_as_many_as_there_should_be(void **state)
{
	(void) state;
	assert_int_equal(count_characters(1), 0x7f);
	assert_int_equal(count_characters(2), 0x800 - 0x80);
	assert_int_equal(count_characters(3), 0x10000 - 0x800 - 0x800);
}

static void test_cleaning(void **state)
{
	static const struct {
		const char *from, *to;
	} cases[] = {
		{NULL, ""},
		{"Müller €5 \xf0\x9f\x90\xa7", "Müller €5 \xf0\x9f\x90\xa7"},
		{"a\nb\tc\033[31md\177e", "a?b?c?[31md?e"},
		{"a\xc2\x9b\x33m\xc2\x80", "a?3m?"}, /* C1: another way to say ESC [ */
		{"a\xe2\x80\xae"
		 "txt.exe\xe2\x81\xa6",
		 "a?txt.exe?"},                              /* U+202E, U+2066 */
		{"\xe2\x80\xa8\xe2\x80\xa9\xc2\x85", "???"}, /* ends of lines */
		{"vm\xe2\x80\x8b"
		 "1\xef\xbb\xbf",
		 "vm?1?"}, /* nothing to be seen */
		{"\xe0\x80\xaf\xed\xa0\x80\xff", "???????"},
		{"\"quotes' $(id) %s {}", "\"quotes' $(id) %s {}"}, /* are for whoever quotes */
	};
	char to[64];

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		text_clean(to, sizeof(to), cases[i].from);
		assert_string_equal(to, cases[i].to);
	}
	text_clean(to, 5, "ab€c"); /* never inside a character */
	assert_string_equal(to, "ab");
}

static void test_words(void **state)
{
	char to[8];

	(void) state;
	text_words(to, sizeof(to), "%d%s", 1, "234567");
	assert_string_equal(to, "1234567");
	text_words(to, sizeof(to), "%d%s", 1, "2345678");
	assert_string_equal(to, "1234567");
	text_words(to, sizeof(to), "%s", "abcd€f"); /* which ends with the seventh byte */
	assert_string_equal(to, "abcd€");
	text_words(to, sizeof(to), "%s", "abcde€");
	assert_string_equal(to, "abcde");
	text_words(to, sizeof(to), "%s", "abcdef€");
	assert_string_equal(to, "abcdef");
	text_words(to, sizeof(to), "%s", "abcdefg€");
	assert_string_equal(to, "abcdefg");
}

static void test_paths(void **state)
{
	char to[8];

	(void) state;
	assert_int_equal(text_path(to, sizeof(to), "/%s", "abcdef"), 0);
	assert_string_equal(to, "/abcdef");
	assert_int_equal(text_path(to, sizeof(to), "/%s", "abcdefg"), -ENAMETOOLONG);
	assert_string_equal(to, "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_character_is_one),
		cmocka_unit_test(there_are_as_many_as_there_should_be),
		cmocka_unit_test(test_cleaning),
		cmocka_unit_test(test_words),
		cmocka_unit_test(test_paths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
