/* Texts that are there once, however many hold them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/device.h"
#include "tests/unit/words.h"

static void test_the_same_text_is_there_once(void **state)
{
	kept_text a = NULL, b = "";
	char words[] = "vm1";

	(void) state;
	kept_set(&a, words);
	kept_set(&b, "vm1");
	memset(words, 'x', 3);
	assert_ptr_equal(a, b);
	assert_string_equal(a, "vm1");
	assert_int_equal(kept_count(), 1);
	kept_drop(&a);
	assert_string_equal(a, "");
	assert_string_equal(b, "vm1");
	kept_drop(&b);
	assert_int_equal(kept_count(), 0);
}

static void test_set_to_what_it_is(void **state)
{
	kept_text a = "";

	(void) state;
	kept_set(&a, "usb/g/r");
	kept_set(&a, a);
	assert_string_equal(a, "usb/g/r");
	kept_set(&a, a + 4);
	assert_string_equal(a, "g/r");
	kept_drop(&a);
	assert_int_equal(kept_count(), 0);
}

static void test_what_holds_nothing(void **state)
{
	kept_text a = "a literal", b = NULL;

	(void) state;
	kept_set(&a, "");
	kept_drop(&b);
	assert_string_equal(a, "");
	assert_string_equal(b, "");
	kept_set(&b, "kept");
	a = "kept";
	kept_drop(&a); /* of that no other has gone */
	assert_string_equal(b, "kept");
	kept_drop(&b);
	assert_int_equal(kept_count(), 0);
}

static void test_many(void **state)
{
	static kept_text texts[2000];

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		set_words(&texts[i], "stick%zu", i / 2);
	assert_int_equal(kept_count(), ARRAY_SIZE(texts) / 2);
	for (size_t i = 0; i < ARRAY_SIZE(texts); i += 2) {
		char expected[20];

		kept_drop(&texts[i]);
		snprintf(expected, sizeof(expected), "stick%zu", i / 2);
		assert_string_equal(texts[i + 1], expected);
	}
	for (size_t i = 1; i < ARRAY_SIZE(texts); i += 2)
		kept_drop(&texts[i]);
	assert_int_equal(kept_count(), 0);
}

static void test_too_long(void **state)
{
	char words[2 * KEPT_SIZE];
	kept_text a = "";

	(void) state;
	memset(words, 'a', sizeof(words));
	words[sizeof(words) - 1] = 0;
	strcpy(&words[KEPT_SIZE - 2], "\xc3\xa4 and more"); /* never cut inside a character */
	kept_set(&a, words);
	assert_int_equal(strlen(a), KEPT_SIZE - 2);
	kept_clean(&a, 8, "ab\ncd\xc3\xa4\xc3\xa4");
	assert_string_equal(a, "ab?cd\xc3\xa4");
	kept_clean(&a, sizeof(words), words);
	assert_int_equal(strlen(a), KEPT_SIZE - 2);
	kept_clean(&a, 8, NULL);
	assert_string_equal(a, "");
	assert_int_equal(kept_count(), 0);
}

/* All that a device holds: a text that is in none of its lists would stay. */
static void test_device(void **state)
{
	struct device d = {.id = {.devpath = "/devices/1-2"}};
	struct device_identity id;
	struct device_wish wish;
	struct device_record record;

	(void) state;
	device_init(&d);
	assert_string_equal(d.id.devpath, "/devices/1-2");
	assert_string_equal(d.saved.reason, "");
	assert_string_equal(d.attempt.move.failed, "");
	kept_set(&d.id.interfaces, ":030101:");
	kept_set(&d.wish.tag, "desk");
	kept_set(&d.record.handle, "vhp-1-2-3");
	kept_set(&d.place.bus, "ehci.0");
	kept_set(&d.attempt.group.strangers, "a card");
	identity_copy(&id, &d.id);
	wish_copy(&wish, &d.wish);
	record_copy(&record, &d.record);
	device_finish(&d);
	assert_int_equal(kept_count(), 4); /* with the path, which was a literal */
	assert_string_equal(id.interfaces, ":030101:");
	assert_string_equal(wish.tag, "desk");
	assert_string_equal(record.handle, "vhp-1-2-3");
	identity_drop(&id);
	wish_drop(&wish);
	record_drop(&record);
	assert_int_equal(kept_count(), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_same_text_is_there_once),
		cmocka_unit_test(test_set_to_what_it_is),
		cmocka_unit_test(test_what_holds_nothing),
		cmocka_unit_test(test_many),
		cmocka_unit_test(test_too_long),
		cmocka_unit_test(test_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
