/* The tables that several programs share have no hole: what a table has, the config takes, the
 * rules carry, and the helper sends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "conf/keys.h"
#include "conf/load.h"
#include "helper/property.h"
#include "rules.d/write.h"

#define HEAD "[vm a]\nsocket = /a\n[pci G]\nallowedVms = a\nfamily = f\n"

/* The rules for HEAD with OPTION for the group or for its one rule. */
static char *rules_for(const char *of_group, const char *of_rule, unsigned *ret_options)
{
	_cleanup_(config_freep) struct config *config = NULL;
	char text[512], *rules = NULL;
	size_t size;
	FILE *in, *out;

	snprintf(text, sizeof(text), HEAD "%s[allow R]\nvendorId = 8086\n%s", of_group, of_rule);
	in = fmemopen(text, strlen(text), "r");
	assert_int_equal(config_read(in, "x", stderr, &config), 0);
	fclose(in);
	*ret_options = config->groups[0].rules[0].options;
	out = open_memstream(&rules, &size);
	assert_int_equal(rules_write(config, "x", out, NULL), 0);
	fclose(out);
	return rules;
}

static void expect_option(const struct option_row *row, const char *of_group, const char *of_rule)
{
	unsigned options;
	char expected[128];
	char *rules = rules_for(of_group, of_rule, &options);

	snprintf(expected, sizeof(expected), "ENV{VHOTPLUG_OPTIONS}=\"%s,order=", row->word);
	assert_int_equal(options, row->bit);
	assert_non_null(strstr(rules, expected));
	free(rules);
}

static void options_go_from_the_config_to_the_broker(void **state)
{
	unsigned all = 0;

	(void) state;
	for (size_t i = 0; i < OPTIONS; i++) {
		const struct option_row *row = &option_table[i];
		char line[64];

		assert_int_equal(all & row->bit, 0);
		all |= row->bit;
		assert_int_equal(option_from_word(row->word), row->bit);
		bool is_ask = row->bit == OPTION_ASK; /* a group alone can say so */
		snprintf(line, sizeof(line), "%s = %s\n", row->key, is_ask ? "ask" : "yes");
		expect_option(row, line, "");
		if (!is_ask)
			expect_option(row, "", line);
	}
	assert_int_equal(all, (1u << OPTIONS) - 1);
	assert_int_equal(option_from_word("forc"), 0);
	assert_int_equal(option_from_word(""), 0);
}

static void properties_have_names_of_their_own(void **state)
{
	(void) state;
	for (size_t i = 0; i < PROPERTIES; i++) {
		assert_non_null(property_table[i].name);
		for (size_t k = 0; k < i; k++)
			assert_string_not_equal(property_table[i].name, property_table[k].name);
	}
}

/* Every other event wipes a property that the rules don't fetch back. */
static void what_is_decided_is_set_and_kept(void **state)
{
	unsigned options;
	char *rules = rules_for("", "force = yes\n", &options);

	(void) state;
	for (size_t i = 0; i < PROPERTIES; i++) {
		char set[64], kept[64];

		snprintf(set, sizeof(set), "ENV{%s}=\"", property_table[i].name);
		snprintf(kept, sizeof(kept), "IMPORT{db}=\"%s\"", property_table[i].name);
		if (!strstr(rules, set) == property_table[i].decided ||
		    !strstr(rules, kept) == property_table[i].decided)
			fail_msg("%s: %s", property_table[i].name, rules);
	}
	free(rules);
}

static void every_match_key_has_a_name_and_a_check(void **state)
{
	(void) state;
	for (unsigned i = 0; i < MATCH_KEYS; i++) {
		const char *name = config_match_name((enum config_match) i);

		assert_non_null(name);
		assert_non_null(match_keys[i].check);
		assert_int_not_equal(match_keys[i].kinds, 0);
		for (unsigned k = 0; k < i; k++)
			assert_string_not_equal(name, config_match_name((enum config_match) k));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_go_from_the_config_to_the_broker),
		cmocka_unit_test(properties_have_names_of_their_own),
		cmocka_unit_test(what_is_decided_is_set_and_kept),
		cmocka_unit_test(every_match_key_has_a_name_and_a_check),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
