/* Clean text, names of states, and what QEMU's errors mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/device.h"
#include "broker/vmm_qemu.h"
#include "helper/text.h"

static void copies_as(const char *from, const char *expected)
{
	char to[64];

	memset(to, 'Z', sizeof(to));
	text_clean(to, sizeof(to), from);
	assert_string_equal(to, expected);
}

static void test_good_text(void **state)
{
	(void) state;
	copies_as(NULL, "");
	copies_as("", "");
	copies_as("Logitech, Inc. Unifying (046d)", "Logitech, Inc. Unifying (046d)");
	copies_as("Müller €5 \xf0\x9f\x90\xa7", "Müller €5 \xf0\x9f\x90\xa7");
	copies_as("\xc2\xa0\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf",
		  "\xc2\xa0\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf4\x8f\xbf\xbf");
}

static void test_control_characters(void **state)
{
	(void) state;
	copies_as("a\nb\tc\033[31md\177e", "a?b?c?[31md?e");
	/* C1: U+009B is another way to say ESC [. */
	copies_as("a\xc2\x9b\x33m\xc2\x80", "a?3m?");
}

static void test_broken_utf8(void **state)
{
	(void) state;
	copies_as("a\x80\xbf", "a??");
	copies_as("\xc0\xaf", "??");               /* over-long */
	copies_as("\xe0\x80\xaf", "???");          /* over-long */
	copies_as("\xf0\x80\x80\xaf", "????");     /* over-long */
	copies_as("\xed\xa0\x80", "???");          /* a surrogate */
	copies_as("\xf4\x90\x80\x80", "????");     /* above U+10FFFF */
	copies_as("\xf5\x80\xff\xfe", "????");     /* never a lead byte */
	copies_as("a\xe2\x82", "a??");             /* cut in the middle */
	copies_as("\xe2\x82z\xf0\x9fz", "??z??z"); /* and followed by something else */
}

static void test_cut(void **state)
{
	char to[5];

	(void) state;
	text_clean(to, sizeof(to), "abcdef");
	assert_string_equal(to, "abcd");
	text_clean(to, sizeof(to), "abc€");
	assert_string_equal(to, "abc"); /* never inside a character */
	text_clean(to, sizeof(to), "a€b");
	assert_string_equal(to, "a€");
	text_clean(to, 1, "a");
	assert_string_equal(to, "");
}

/* Nothing but printable UTF-8 comes out, whatever goes in: every pair of bytes. */
static void test_all_pairs(void **state)
{
	(void) state;
	for (unsigned pair = 0; pair < 0x10000; pair++) {
		char from[4] = {(char) (pair >> 8), (char) pair, 'x', 0}, once[8], twice[8];

		text_clean(once, sizeof(once), from);
		text_clean(twice, sizeof(twice), once);
		assert_string_equal(once, twice);
		for (char *c = once; *c; c++)
			assert_true((unsigned char) *c >= ' ' && *c != 0x7f);
	}
}

static void test_state_names(void **state)
{
	(void) state;
	for (int s = DEVICE_WAITING; s <= DEVICE_FAILED; s++)
		assert_int_equal(device_state_from_name(device_state_name((enum device_state) s)),
				 s);
	assert_int_equal(device_state_from_name(""), -1);
	assert_int_equal(device_state_from_name("Attached"), -1);
	for (int c = CAUSE_PLUG; c <= CAUSE_LOST; c++)
		assert_non_null(device_cause_name((enum device_cause) c));
	assert_string_equal(device_cause_name(CAUSE_VM_START), "vm-start");
}

static void test_sysfs(void **state)
{
	char text[64] = "untouched";

	(void) state;
	assert_true(sysfs_inode("/devices/virtual/mem/null") > 0);
	assert_int_equal(sysfs_inode("/devices/virtual/mem/nosuch"), 0);
	assert_false(usb_host_driver("/devices/virtual/mem/null", text, sizeof(text)));
	assert_false(usb_host_driver("/devices/nosuch", text, sizeof(text)));
	assert_string_equal(text, "untouched");
}

/* Texts as QEMU 7.2.22 says them. */
static void test_qemu_classify(void **state)
{
	static const struct {
		const char *text;
		enum vmm_outcome outcome;
	} texts[] = {
		{"Duplicate device ID 'vhp-1-2-4711'", VMM_OK},
		{"'usb-host' is not a valid device model name", VMM_FAILED},
		{"No 'usb-bus' bus found for device 'usb-host'", VMM_FAILED},
		{"Bus 'nosuch.0' not found", VMM_FAILED},
		{"Bus 'pcie.0' does not support hotplugging", VMM_FAILED},
		{"Property 'usb-host.foo' not found", VMM_FAILED},
		{"usb port 9 (bus xhci.0) not found (in use?)", VMM_RETRY},
		{"tried to attach usb device x to a bus with no free ports", VMM_RETRY},
		{"failed to find host usb device 1:99", VMM_RETRY},
		{"failed to open host usb device 1:2", VMM_RETRY},
		{"failed to open /dev/fdset/6: Permission denied", VMM_RETRY},
		{"", VMM_RETRY},
		/* A device's own words must not decide. */
		{"failed to open /x: Bus 'y' not found", VMM_RETRY},
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		if (qemu_classify(texts[i].text) != texts[i].outcome)
			fail_msg("%s: %d", texts[i].text, (int) qemu_classify(texts[i].text));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good_text),   cmocka_unit_test(test_control_characters),
		cmocka_unit_test(test_broken_utf8), cmocka_unit_test(test_cut),
		cmocka_unit_test(test_all_pairs),   cmocka_unit_test(test_state_names),
		cmocka_unit_test(test_sysfs),       cmocka_unit_test(test_qemu_classify),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
