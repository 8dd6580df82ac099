/* Who a device is, by what udev and a made-up /sys say of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/device.h"
#include "broker/log.h"
#include "broker/properties.h"
#include "helper/property.h"
#include "helper/root.h"
#include "tests/unit/tree.h"

#define STICK "/devices/pci0000:00/usb1/1-2"

/* What the helper does not send is not there to be read. */
static void assert_travels(const char *key)
{
	size_t i = 0;

	while (i < PROPERTIES && !streq(property_table[i].name, key))
		i++;
	if (i == PROPERTIES)
		fail_msg("%s is not in property_table", key);
}

/* Pairs of a key and its value; NULL ends them. */
static const char *find_property(void *from, const char *key)
{
	const char *const *pairs = from;

	assert_travels(key);
	for (; *pairs; pairs += 2)
		if (streq(*pairs, key))
			return pairs[1];
	return NULL;
}

static struct device read_identity(const char *devpath, const char **pairs)
{
	struct device d = {0};

	device_init(&d);
	kept_set(&d.id.devpath, devpath);
	properties_read_identity(&d, find_property, pairs);
	return d;
}

static int setup(void **state)
{
	char *root = temp_new();

	log_init(false);
	root_set(root);
	tree_write(root, "/sys" STICK "/speed", "480\n");
	*state = root;
	return 0;
}

static int teardown(void **state)
{
	char *root = *state;

	root_set("");
	temp_remove(&root);
	return 0;
}

static void test_usb(void **state)
{
	const char *pairs[] = {"SUBSYSTEM",
			       "usb",
			       "DEVTYPE",
			       "usb_device",
			       "DEVNAME",
			       "/dev/bus/usb/001/004",
			       "PRODUCT",
			       "46d/c52b/1211",
			       "ID_VENDOR_FROM_DATABASE",
			       "Logitech, Inc.",
			       "ID_SERIAL_SHORT",
			       "A1",
			       NULL};
	struct device d = read_identity(STICK, pairs);

	(void) state;
	assert_int_equal(d.id.kind, DEVICE_USB);
	assert_string_equal(d.id.kernel_name, "1-2");
	assert_string_equal(d.id.node, "/dev/bus/usb/001/004");
	assert_string_equal(d.id.vid_pid, "046d:c52b");
	assert_string_equal(d.id.vendor_name, "Logitech, Inc.");
	assert_string_equal(d.id.serial, "A1");
	assert_int_equal(d.id.speed, 480);
	assert_int_equal(d.id.group, -1);
}

/* The event has said it; where it has not, or not well, /sys is asked. */
static void test_class_of_usb(void **state)
{
	static const struct {
		const char *type;
		int class;
	} rows[] = {
		{"239/2/1", 0xef0201}, {"0/0/0", 0},          {"9/0", 0x090001},
		{"9/0/1/", 0x090001},  {"256/0/0", 0x090001}, {"", 0x090001},
		{"x", 0x090001},       {"-1/0/0", 0x090001},  {NULL, 0x090001},
	};
	char *root = *state;

	tree_write(root, "/sys" STICK "/bDeviceClass", "09\n");
	tree_write(root, "/sys" STICK "/bDeviceSubClass", "00\n");
	tree_write(root, "/sys" STICK "/bDeviceProtocol", "01\n");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const char *pairs[] = {"SUBSYSTEM",
				       "usb",
				       "DEVTYPE",
				       "usb_device",
				       "DEVNAME",
				       "/dev/bus/usb/001/004",
				       rows[i].type ? "TYPE" : NULL,
				       rows[i].type,
				       NULL};

		assert_int_equal(read_identity(STICK, pairs).id.class, rows[i].class);
	}
}

/* Half a path is another device's. */
static void test_a_node_that_does_not_fit(void **state)
{
	const char *pairs[] = {
		"SUBSYSTEM",
		"usb",
		"DEVTYPE",
		"usb_device",
		"DEVNAME",
		"/dev/bus/usb/001/004444444444444444444444444444444444444444444444444444444444444",
		NULL};
	struct device d = read_identity(STICK, pairs);

	(void) state;
	assert_string_equal(d.id.node, "");
}

/* Whatever is read, of a device of whatever kind, is in the table (find_property looks). */
static void test_what_is_read_travels(void **state)
{
	static const char *const subsystems[] = {"usb", "pci", "input", "none"};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(subsystems); i++) {
		const char *pairs[] = {
			"SUBSYSTEM",         subsystems[i],   "DEVTYPE", "usb_device",  "DEVNAME",
			"/dev/input/event3", "VHOTPLUG_RULE", "usb/g/r", "VHOTPLUG_VM", "vm1",
			"VHOTPLUG_FENCE",    "yes",           NULL};
		struct device d = read_identity(STICK, pairs);

		properties_read_wish(&d, find_property, pairs);
		assert_string_equal(d.wish.vms, "vm1");
		assert_int_equal(properties_kind(find_property, pairs) < 0, i == 0 || i == 3);
	}
}

int main(void)
{
#define PROPERTIES_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		PROPERTIES_TEST(test_usb),
		PROPERTIES_TEST(test_class_of_usb),
		PROPERTIES_TEST(test_what_is_read_travels),
		PROPERTIES_TEST(test_a_node_that_does_not_fit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
