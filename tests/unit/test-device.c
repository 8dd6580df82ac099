/* Clean text, names of states, and what QEMU's errors mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/device.h"
#include "broker/look.h"
#include "broker/properties.h"
#include "broker/vm.h"
#include "broker/vmm_qemu.h"
#include "helper/root.h"
#include "helper/text.h"
#include "tests/unit/tree.h"

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

/* device_check */

static struct vm some_vm;

/* One that is all right in STATE. */
static struct device device_in(enum device_state state)
{
	struct device d = {.record = {.state = state, .reason = "why"}, .attempt = {.node_fd = -1}};

	device_init(&d);
	if (state == DEVICE_OPENING) {
		d.place.vm = &some_vm;
		d.attempt.request = 1;
		d.attempt.awaits_send = true;
	} else if (state == DEVICE_ATTACHING || state == DEVICE_ATTACHED ||
		   state == DEVICE_RELEASING || state == DEVICE_DETACHING) {
		d.place.vm = &some_vm;
		kept_set(&d.place.handle, "vhp-1-2-3");
		d.attempt.vmm_asked = state == DEVICE_DETACHING;
	}
	return d;
}

static void test_check_of_what_is_right(void **state)
{
	(void) state;
	for (int i = DEVICE_WAITING; i <= DEVICE_FAILED; i++) {
		struct device d = device_in((enum device_state) i);

		if (device_check(&d))
			fail_msg("%s: %s", device_state_name(d.record.state), device_check(&d));
	}
	struct device d = device_in(DEVICE_ATTACHING);
	d.attempt.n_disks = 1;
	d.attempt.vmm_asked = true;
	assert_null(device_check(&d));
}

static void expect_wrong(struct device d, const char *words)
{
	const char *wrong = device_check(&d);

	if (!wrong || !strstr(wrong, words))
		fail_msg("%s: \"%s\", not \"%s\"", device_state_name(d.record.state),
			 wrong ? wrong : "nothing", words);
}

#define WRONG(state, change, words)                 \
	do {                                        \
		struct device d = device_in(state); \
		change;                             \
		expect_wrong(d, words);             \
	} while (0)

static void test_check_of_what_is_wrong(void **state)
{
	(void) state;
	WRONG(DEVICE_WAITING, d.place.vm = &some_vm, "it has a VM exactly while");
	WRONG(DEVICE_REFUSED, d.place.vm = &some_vm, "it has a VM exactly while");
	WRONG(DEVICE_OPENING, d.place.vm = NULL, "it has a VM exactly while");
	WRONG(DEVICE_ATTACHED, d.place.vm = NULL, "it has a VM exactly while");
	WRONG(DEVICE_OPENING, kept_set(&d.place.handle, "vhp-1"), "a handle exactly once");
	WRONG(DEVICE_WAITING, kept_set(&d.place.handle, "vhp-1"), "a handle exactly once");
	WRONG(DEVICE_RELEASING, kept_drop(&d.place.handle), "a handle exactly once");
	WRONG(DEVICE_RELEASING, d.place.unverified = true, "only what is attached on record");
	WRONG(DEVICE_ATTACHING, d.place.was_arriving = true, "what a former broker began");
	WRONG(DEVICE_ATTACHED, d.attempt.n_disks = 1, "its disks are held only");
	WRONG(DEVICE_WAITING, d.attempt.n_disks = 1, "its disks are held only");
	WRONG(DEVICE_OPENING, d.attempt.opened = true, "what was opened is given at once");
	WRONG(DEVICE_WAITING, d.attempt.node_fd = 7, "what was opened is given at once");
	WRONG(DEVICE_ATTACHED, d.attempt.vmm_asked = true, "only to attach or to detach");
	WRONG(DEVICE_WAITING, d.attempt.vmm_asked = true, "only to attach or to detach");
	WRONG(DEVICE_DETACHING, d.attempt.vmm_asked = false, "detaching means");
	WRONG(DEVICE_OPENING, d.attempt.request = 0, "opening means");
	WRONG(DEVICE_WAITING, d.attempt.request = 9, "only for a VM's sake");
	WRONG(DEVICE_ATTACHED, d.attempt.helpers = (void *) 1, "helpers wait only");
	WRONG(DEVICE_WAITING, kept_set(&d.attempt.move.failed, "vm2"), "a move that failed");
	WRONG(DEVICE_HELD, kept_drop(&d.record.reason), "every state has a reason");
}

#define STICK "/devices/pci0000:00/0000:00:14.0/usb1/1-2"

static const char *property_during_reset(void *from, const char *key)
{
	(void) from;
	return streq(key, "SUBSYSTEM") ? "usb"
	       : streq(key, "DEVTYPE") ? "usb_device"
	       : streq(key, "DEVNAME") ? "/dev/bus/usb/001/000"
				       : NULL;
}

/* Its number is 0 for that long, in what udev says of it too. */
static void test_node_while_the_kernel_resets_it(void **state)
{
	TEMP_DIR(dir);
	struct device d = {.id = {.devpath = STICK}};

	(void) state;
	device_init(&d);
	root_set(dir);
	tree_write(dir, "/sys" STICK "/busnum", "1\n");
	tree_write(dir, "/sys" STICK "/devnum", "0\n");
	properties_read_identity(&d, property_during_reset, NULL);
	assert_string_equal(d.id.node, "/dev/bus/usb/001/000");
	tree_write(dir, "/sys" STICK "/devnum", "7\n");
	look_up_node(&d);
	assert_string_equal(d.id.node, "/dev/bus/usb/001/007");
	properties_read_identity(&d, property_during_reset, NULL);
	assert_string_equal(d.id.node, "/dev/bus/usb/001/007");
	root_set("");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_check_of_what_is_right),
		cmocka_unit_test(test_check_of_what_is_wrong),
		cmocka_unit_test(test_good_text),
		cmocka_unit_test(test_control_characters),
		cmocka_unit_test(test_broken_utf8),
		cmocka_unit_test(test_cut),
		cmocka_unit_test(test_all_pairs),
		cmocka_unit_test(test_state_names),
		cmocka_unit_test(test_sysfs),
		cmocka_unit_test(test_qemu_classify),
		cmocka_unit_test(test_node_while_the_kernel_resets_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
