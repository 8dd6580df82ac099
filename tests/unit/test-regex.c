/* The corpus of patterns: what each becomes, and that globs and PCRE2 agree wherever the translator
 * says "exact". Random subjects are made of the pattern's own characters, so that many match. */
#include <fnmatch.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include <cmocka.h>

#include "conf/regex.h"
#include "rules.d/glob.h"

#define SUBJECTS 600

static bool globs_match(const struct globs *globs, const char *subject)
{
	for (size_t i = 0; i < globs->n; i++)
		if (fnmatch(globs->list[i], subject, 0) == 0)
			return true;
	return globs->always;
}

static char random_byte(const char *pattern)
{
	static const char common[] = "aAbBxX 019._-|\\\"[]*?$!^\n\xff\xc3\xbc";

	switch (random() % 8) {
	case 0:
		return common[(size_t) random() % (sizeof(common) - 1)];
	case 1:
		return (char) (random() % 255 + 1);
	default:
		return pattern[(size_t) random() % strlen(pattern)];
	}
}

/* A piece of the pattern's text, or random bytes like it, in random case. */
static void random_subject(const char *pattern, char *ret, size_t size)
{
	size_t n = 0, want = (size_t) random() % (size - 1);

	if (random() % 3 == 0)
		want = want % 6;
	while (n < want) {
		/* Patterns are anchored: many subjects begin as the pattern does. */
		size_t from = n == 0 && random() % 2 ? 0 : (size_t) random() % strlen(pattern);

		if (random() % 2)
			for (size_t i = from; pattern[i] && n < want && random() % 12; i++)
				if (!strchr("\\()^$", pattern[i]) || random() % 6 == 0)
					ret[n++] = pattern[i];
		if (n < want && random() % 2)
			ret[n++] = random_byte(pattern);
	}
	ret[n] = '\0';
	for (size_t i = 0; i < n && random() % 2; i++)
		if (((ret[i] | 32) >= 'a') && (ret[i] | 32) <= 'z' && random() % 2)
			ret[i] ^= 32;
}

/* Returns how many subjects matched. */
static unsigned compare(const char *pattern, const struct globs *globs)
{
	char error[128], subject[64];
	pcre2_code *code = regex_compile(pattern, error, sizeof(error));
	unsigned matched = 0;

	assert_non_null(code);
	for (unsigned i = 0; i < SUBJECTS; i++) {
		random_subject(pattern, subject, i ? sizeof(subject) : 2);
		if (i == 0)
			subject[0] = '\0';
		int expected = regex_match(code, subject, strlen(subject));

		if (expected >= 0 && globs_match(globs, subject) != (expected > 0))
			fail_msg("%s and its globs differ about \"%s\": PCRE2 says %d", pattern,
				 subject, expected);
		matched += expected > 0;
	}
	pcre2_code_free(code);
	return matched;
}

static void globs_agree_with_pcre2(void **state)
{
	FILE *file = fopen(SOURCE_DIR "/tests/unit/regex-corpus", "re");
	unsigned patterns = 0, exact = 0, with_matches = 0;
	unsigned seed = (unsigned) time(NULL);
	char line[512];

	(void) state;
	assert_non_null(file);
	srandom(seed);
	print_message("seed %u\n", seed);
	while (fgets(line, sizeof(line), file)) {
		const char *pattern = line + 2;
		struct globs globs;

		line[strcspn(line, "\n")] = '\0';
		if (line[0] == '#')
			continue;
		int r = globs_from_regex(pattern, &globs);
		assert_true(r >= 0);
		char found = r == 0 ? 'P' : globs.always ? 'A' : 'E';
		if (found != line[0])
			fail_msg("%s is now %c (%s)", line, found, globs.why ?: "exact");
		patterns++;
		exact += r > 0;
		with_matches += r > 0 && compare(pattern, &globs) > 0;
		globs_finish(&globs);
	}
	fclose(file);
	assert_true(patterns >= 200);
	/* Otherwise the subjects would say little. */
	print_message("%u of %u patterns have subjects that match\n", with_matches, exact);
	assert_true(with_matches * 10 > exact * 8);
}

static void work_is_limited(void **state)
{
	char error[128], subject[64];
	pcre2_code *code = regex_compile("(a+)+$", error, sizeof(error));

	(void) state;
	memset(subject, 'a', sizeof(subject));
	subject[62] = 'b';
	subject[63] = '\0';
	assert_int_equal(regex_match(code, subject, 63), -ELOOP);
	assert_int_equal(regex_match(code, subject, 20), 1);
	assert_int_equal(regex_match(code, "b", 1), 0);
	pcre2_code_free(code);
	assert_null(regex_compile("(", error, sizeof(error)));
	assert_string_equal(error, "missing closing parenthesis at byte 1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(globs_agree_with_pcre2),
		cmocka_unit_test(work_is_limited),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
