/* The rule checker refuses what the generator never writes, and the writer makes names safe. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "conf/base64url.h"
#include "rules.d/check.h"
#include "rules.d/write.h"

#define END "LABEL=\"vhp_end\"\n"

static unsigned check(const char *text)
{
	char *said = NULL;
	size_t size;
	FILE *errors = open_memstream(&said, &size);
	unsigned n = rules_check(text, errors);

	fclose(errors);
	assert_true((n > 0) == (said[0] != '\0'));
	free(said);
	return n;
}

static void good_rules_pass(void **state)
{
	(void) state;
	assert_int_equal(check(""), 0);
	assert_int_equal(check("# a comment\n\n" END), 0);
	assert_int_equal(
		check("ATTR{idVendor}==\"046d\", ENV{X}!=\"a|*b\", GOTO=\"vhp_end\"\n" END), 0);
	assert_int_equal(check("RUN+=\"" VHOTPLUG_LIBEXECDIR "/vhotplug-helper\"\n"), 0);
	assert_int_equal(
		check("PROGRAM!=\"" VHOTPLUG_LIBEXECDIR
		      "/vhotplug-match --surely-not productName YWJj\", GOTO=\"vhp_end\"\n" END),
		0);
	assert_int_equal(check("ENV{VHOTPLUG_RULE}=\"usb/a b/c\"\n"), 0);
}

static void everything_else_is_refused(void **state)
{
	static const char *const bad[] = {
		"ATTR{a}==\"b\"",                        /* no end of line */
		"ATTR{a}==\"b\n",                        /* open quote */
		"ATTR{a}==\"b\"x\n",                     /* text behind the value */
		"ATTR{a}==\"b\",GOTO=\"vhp_end\"\n" END, /* not how we write */
		"GOTO=\"nowhere\"\n" END,                /* unresolved */
		END "GOTO=\"vhp_end\"\n",                /* backwards */
		"ATTR{a}!=\"b\"\n",                      /* false when missing */
		"TAG!=\"x\"\n",                          /* broken in eudev */
		"ATTR{a}==e\"b\"\n",                     /* not in eudev */
		"ATTR{a}==i\"b\"\n",                     /* not in 252 */
		"ATTR{a}=\"b\"\n",                       /* writes to sysfs */
		"RUN+=\"/bin/sh\"\n",
		"RUN+=\"" VHOTPLUG_LIBEXECDIR "/vhotplug-helper x\"\n",
		"RUN{builtin}+=\"kmod load x\"\n",
		"PROGRAM==\"/bin/true\"\n",
		"PROGRAM==\"" VHOTPLUG_LIBEXECDIR "/vhotplug-match name $env{X}\"\n",
		"PROGRAM==\"" VHOTPLUG_LIBEXECDIR "/vhotplug-match name a;b\"\n",
		"IMPORT{program}=\"/bin/true\"\n",
		"ENV{PATH}=\"/tmp\"\n", /* not ours */
		"ENV{VHOTPLUG_RULE}=\"$attr{x}\"\n",
		"ENV{VHOTPLUG_RULE}=\"%k\"\n",
		"SYMLINK+=\"x\"\n",
		"MODE=\"0666\"\n",
		"OPTIONS+=\"x\"\n",
		"ATTR{a}==\"\tb\"\n", /* control character */
		"# comment \\\n" END, /* continues */
		"KERNEL==\"a\"\\\n",
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		if (check(bad[i]) == 0)
			fail_msg("taken: %s", bad[i]);
}

static void lengths_are_checked(void **state)
{
	char line[2100];
	size_t n = 0;

	(void) state;
	for (unsigned i = 0; i < 63; i++)
		n += (size_t) sprintf(line + n, "%sENV{A}==\"b\"", i ? ", " : "");
	strcpy(line + n, "\n");
	assert_int_equal(check(line), 0);
	strcpy(line + n, ", ENV{A}==\"b\"\n");
	assert_int_equal(check(line), 1);

	n = (size_t) sprintf(line, "KERNEL==\"");
	memset(line + n, 'a', 989);
	strcpy(line + n + 989, "\"\n");
	assert_int_equal(check(line), 0);
	strcpy(line + n + 989, "a\"\n");
	assert_int_equal(check(line), 1);
}

static void names_are_made_safe(void **state)
{
	static const char *const names[][2] = {
		{"HID mouse", "HID mouse"},
		{"a/b\"c\\d$e%f", "a_b_c_d_e_f"},
		{"\xc3\xa9t\xc3\xa9", "\xc3\xa9t\xc3\xa9"},
		{"\xc3", "_"},
		{"\xffx\xe4\xb8", "_x__"},
		{"a\nRUN+=", "a_RUN+="},
		{"\xdb\x8c\xe2\x80\x8c\xd9\x87", "\xdb\x8c___\xd9\x87"}, /* U+200C, unseen */
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char *safe = config_safe_name(names[i][0]);

		assert_string_equal(safe, names[i][1]);
		free(safe);
	}
}

static void base64url_goes_both_ways(void **state)
{
	static const char *const bad[] = {"a", "YQ==", "Y Q", "YR", "AA", "Y+", "YQ/"};
	char text[64], *untouched = text, *decoded;

	(void) state;
	srandom(1);
	for (unsigned round = 0; round < 2000; round++) {
		size_t n = (size_t) random() % sizeof(text);

		for (size_t i = 0; i < n; i++)
			text[i] = (char) (random() % 255 + 1);
		text[n ? n - 1 : 0] = '\0';
		char *encoded = base64url_encode(text);
		assert_int_equal(strspn(encoded, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuv"
						 "wxyz0123456789-_"),
				 strlen(encoded));
		assert_int_equal(base64url_decode(encoded, &decoded), 0);
		assert_string_equal(decoded, text);
		free(decoded);
		free(encoded);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		decoded = untouched;
		assert_int_equal(base64url_decode(bad[i], &decoded), -EINVAL);
		assert_ptr_equal(decoded, untouched);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_rules_pass),
		cmocka_unit_test(everything_else_is_refused),
		cmocka_unit_test(lengths_are_checked),
		cmocka_unit_test(names_are_made_safe),
		cmocka_unit_test(base64url_goes_both_ways),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
