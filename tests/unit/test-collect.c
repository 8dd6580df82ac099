/* What collect_event takes from the environment, and what it refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "helper/collect.h"
#include "helper/property.h"
#include "helper/root.h"
#include "tests/unit/tree.h"

#define USB "/devices/pci0000:00/0000:00:04.0/usb1/1-1"

static char boot_id[64];
static struct wire_msg msg;

static int setup_event(void **state)
{
	char *dir = temp_new();

	root_set(dir);
	tree_write(dir, "/proc/sys/kernel/random/boot_id",
		   "c7da04fa-5af7-4f41-9163-abca2eb83d55\n");
	assert_int_equal(root_path(boot_id, sizeof(boot_id), "/proc/sys/kernel/random/boot_id"), 0);
	clearenv();
	setenv("ACTION", "add", 1);
	setenv("DEVPATH", USB, 1);
	setenv("SEQNUM", "1234", 1);
	memset(&msg, 'x', sizeof(msg));
	*state = dir;
	return 0;
}

static int teardown_event(void **state)
{
	root_set("");
	temp_remove((char **) state);
	return 0;
}

static void set_long(const char *key, size_t len)
{
	_cleanup_free_ char *value = calloc(1, len + 1);

	memset(value, 'v', len);
	setenv(key, value, 1);
}

static void assert_untouched(int expected)
{
	assert_int_equal(collect_event(&msg), expected);
	assert_int_equal(msg.data[0], 'x');
	assert_int_equal(msg.data[WIRE_MAX - 1], 'x');
}

static void test_identity(void **state)
{
	(void) state;
	assert_int_equal(collect_event(&msg), 1);
	assert_int_equal(wire_check(&msg), 0);
	assert_string_equal(wire_get(&msg, "ACTION"), "add");
	assert_string_equal(wire_get(&msg, "DEVPATH"), USB);
	assert_string_equal(wire_get(&msg, "SEQNUM"), "1234");
	assert_string_equal(wire_get(&msg, "BOOT_ID"), "c7da04fa-5af7-4f41-9163-abca2eb83d55");
	assert_string_equal(wire_get(&msg, "SYSFS_INODE"), "0");
	assert_null(wire_get(&msg, "ID_MODEL"));
}

static void test_inode_of_a_present_device(void **state)
{
	char device[128], number[32];
	struct stat st;

	setenv("DEVPATH", "/devices/d", 1);
	tree_mkdir(*state, "/sys/devices/d");
	assert_int_equal(root_path(device, sizeof(device), "/sys/devices/d"), 0);
	assert_int_equal(stat(device, &st), 0);
	snprintf(number, sizeof(number), "%ju", (uintmax_t) st.st_ino);

	assert_int_equal(collect_event(&msg), 1);
	assert_string_equal(wire_get(&msg, "SYSFS_INODE"), number);

	/* With a number, it is the one that the event is about; and then the next one is there. */
	setenv("MAJOR", "189", 1);
	setenv("MINOR", "40", 1);
	tree_write(*state, "/sys/devices/d/dev", "189:40\n");
	assert_int_equal(collect_event(&msg), 1);
	assert_string_equal(wire_get(&msg, "SYSFS_INODE"), number);
	tree_write(*state, "/sys/devices/d/dev", "189:41\n");
	assert_int_equal(collect_event(&msg), 1);
	assert_string_equal(wire_get(&msg, "SYSFS_INODE"), "0");
}

static void test_properties(void **state)
{
	(void) state;
	setenv("VHOTPLUG_RULE", "usb/Devices for VM1/HID mouse", 1);
	setenv("VHOTPLUG_VM", "vm1", 1);
	setenv("ID_SERIAL_SHORT", "", 1);
	setenv("HOME", "/root", 1);
	setenv("VHOTPLUG_OTHER", "1", 1);
	setenv("NAME", "\"quoted\" \xff\x01 = \n$(id)", 1);
	assert_int_equal(collect_event(&msg), 1);
	assert_string_equal(wire_get(&msg, "VHOTPLUG_RULE"), "usb/Devices for VM1/HID mouse");
	assert_string_equal(wire_get(&msg, "VHOTPLUG_VM"), "vm1");
	assert_string_equal(wire_get(&msg, "NAME"), "\"quoted\" \xff\x01 = \n$(id)");
	assert_null(wire_get(&msg, "ID_SERIAL_SHORT"));
	assert_null(wire_get(&msg, "HOME"));
	assert_null(wire_get(&msg, "VHOTPLUG_OTHER"));
}

static void test_other_actions(void **state)
{
	static const char *const ignored[] = {"change", "unbind", "move", "online", "ADD"};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++) {
		setenv("ACTION", ignored[i], 1);
		assert_untouched(0);
	}
	setenv("ACTION", "remove", 1);
	assert_int_equal(collect_event(&msg), 1);
}

/* The rules have the helper run only when they have not claimed the device before. */
static void test_claimed_later(void **state)
{
	static const struct {
		const char *action, *told;
	} rows[] = {{"change", "add"}, {"bind", "add"}, {"add", "add"}, {"remove", "remove"}};

	(void) state;
	setenv("VHOTPLUG_RULE", "usb/G/R", 1);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		setenv("ACTION", rows[i].action, 1);
		assert_int_equal(collect_event(&msg), 1);
		assert_string_equal(wire_get(&msg, "ACTION"), rows[i].told);
	}
	unsetenv("VHOTPLUG_RULE");
	setenv("ACTION", "bind", 1);
	assert_int_equal(collect_event(&msg), 1);
	assert_string_equal(wire_get(&msg, "ACTION"), "bind");
}

static void test_mandatory(void **state)
{
	static const struct {
		const char *key, *value;
	} bad[] = {
		{"ACTION", NULL},
		{"ACTION", ""},
		{"DEVPATH", NULL},
		{"DEVPATH", ""},
		{"DEVPATH", "devices"},
		{"DEVPATH", "/etc/passwd"},
		{"DEVPATH", "/devices/../../etc"},
		{"DEVPATH", "/devices/x/.."},
		{"SEQNUM", NULL},
		{"SEQNUM", ""},
		{"SEQNUM", "12a"},
		{"SEQNUM", "-1"},
		{"SEQNUM", " 1"},
		{"SEQNUM", "18446744073709551616"},
		{"SEQNUM", "000000000000000000001"},
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		setenv("ACTION", "add", 1);
		setenv("DEVPATH", USB, 1);
		setenv("SEQNUM", "18446744073709551615", 1);
		if (bad[i].value)
			setenv(bad[i].key, bad[i].value, 1);
		else
			unsetenv(bad[i].key);
		/* An empty action is no action of ours. */
		assert_untouched(bad[i].value && streq(bad[i].key, "ACTION") ? 0 : -EINVAL);
	}
	setenv("SEQNUM", "18446744073709551615", 1);
	assert_int_equal(collect_event(&msg), 1);
}

static void test_no_boot_id(void **state)
{
	(void) state;
	assert_int_equal(truncate(boot_id, 0), 0);
	assert_untouched(-ENODATA);
	assert_int_equal(unlink(boot_id), 0);
	assert_untouched(-ENOENT);
}

static void test_long_values(void **state)
{
	(void) state;
	set_long("ID_MODEL", 10000);
	set_long("ID_VENDOR", COLLECT_VALUE_MAX + 1);
	set_long("ID_PATH", COLLECT_VALUE_MAX);
	setenv("NAME", "after", 1);
	assert_int_equal(collect_event(&msg), 1);
	assert_int_equal(wire_check(&msg), 0);
	assert_null(wire_get(&msg, "ID_MODEL"));
	assert_null(wire_get(&msg, "ID_VENDOR"));
	assert_int_equal(strlen(wire_get(&msg, "ID_PATH")), COLLECT_VALUE_MAX);
	assert_string_equal(wire_get(&msg, "NAME"), "after");
}

/* The whole list at full length does not fit: what decides comes first, nothing is cut. */
static void test_full_message(void **state)
{
	static const char *const keys[] = {"SUBSYSTEM", "DEVTYPE",       "DEVNAME",  "BUSNUM",
					   "DEVNUM",    "VHOTPLUG_RULE", "PRODUCT",  "PCI_ID",
					   "ID_MODEL",  "ID_PATH",       "ID_VENDOR"};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		set_long(keys[i], COLLECT_VALUE_MAX);
	setenv("NAME", "small", 1);
	assert_int_equal(collect_event(&msg), 1);
	assert_int_equal(wire_check(&msg), 0);
	assert_int_equal(strlen(wire_get(&msg, "VHOTPLUG_RULE")), COLLECT_VALUE_MAX);
	assert_null(wire_get(&msg, "ID_MODEL"));
	assert_string_equal(wire_get(&msg, "NAME"), "small");
}

static void test_long_devpath(void **state)
{
	_cleanup_free_ char *path = calloc(1, 10001);

	(void) state;
	memset(path, 'p', 10000);
	memcpy(path, "/devices/", 9);
	setenv("DEVPATH", path, 1);
	assert_untouched(-EMSGSIZE);
	path[2000] = 0;
	setenv("DEVPATH", path, 1);
	assert_int_equal(collect_event(&msg), 1);
	assert_string_equal(wire_get(&msg, "DEVPATH"), path);
}

#define EVENT_TEST(f) cmocka_unit_test_setup_teardown(f, setup_event, teardown_event)

static void test_every_property_of_the_table(void **state)
{
	(void) state;
	for (size_t i = 0; i < PROPERTIES; i++)
		setenv(property_table[i].name, property_table[i].name, 1);
	assert_int_equal(collect_event(&msg), 1);
	for (size_t i = 0; i < PROPERTIES; i++)
		assert_string_equal(wire_get(&msg, property_table[i].name), property_table[i].name);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		EVENT_TEST(test_identity),
		EVENT_TEST(test_inode_of_a_present_device),
		EVENT_TEST(test_properties),
		EVENT_TEST(test_other_actions),
		EVENT_TEST(test_claimed_later),
		EVENT_TEST(test_mandatory),
		EVENT_TEST(test_no_boot_id),
		EVENT_TEST(test_long_values),
		EVENT_TEST(test_full_message),
		EVENT_TEST(test_long_devpath),
		EVENT_TEST(test_every_property_of_the_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
