/* A pattern and a subject, one a line: where the translator says "exact", the globs match if and
 * only if PCRE2 does. */
#include <fnmatch.h>
#include <stdint.h>

#include "conf/regex.h"
#include "rules.d/glob.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool any_matches(const struct globs *globs, const char *subject)
{
	for (size_t i = 0; i < globs->n; i++)
		if (fnmatch(globs->list[i], subject, 0) == 0)
			return true;
	return globs->always;
}

static void compare(const char *pattern, const char *subject)
{
	char error[128];
	pcre2_code *code = regex_compile(pattern, error, sizeof(error));
	struct globs globs;
	int expected, r;

	if (!code)
		return;
	r = globs_from_regex(pattern, &globs);
	expected = regex_match(code, subject, strlen(subject));
	if (r > 0 && expected >= 0 && any_matches(&globs, subject) != (bool) expected)
		abort();
	for (size_t i = 0; r > 0 && i < globs.n; i++)
		if (strpbrk(globs.list[i], "|\n\t\x01\x02\x03"))
			abort();
	if (r >= 0)
		globs_finish(&globs);
	pcre2_code_free(code);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *subject;

	memcpy(text, data, size);
	text[size] = '\0';
	subject = strchr(text, '\n');
	if (subject && subject - text < 190) {
		*subject++ = '\0';
		/* The config reader lets no control character through. */
		for (char *s = text; *s; s++)
			if ((unsigned char) *s < ' ' || *s == 127)
				*s = '.';
		compare(text, subject);
	}
	free(text);
	return 0;
}
