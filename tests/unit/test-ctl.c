/* helper/ctl_select.c and ctl_table.c: which device a person means, and times as people write them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "helper/ctl_select.h"
#include "helper/ctl_table.h"

static char said[512];

/* The program's own is in its main. */
int ctl_fail(enum ctl_exit status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(said, sizeof(said), format, args);
	va_end(args);
	return (int) status;
}

static const char *const devices_text =
	"[{\"device\": \"1-3\", \"id\": \"1-3@7\", \"node\": \"/dev/bus/usb/001/004\","
	"  \"devpath\": \"/devices/a/1-3\", \"name\": \"Logitech Receiver\", \"vid\": \"046d\","
	"  \"pid\": \"c52b\", \"serial\": \"S1\", \"tag\": \"kbd\"},"
	" {\"device\": \"1-3.2\", \"id\": \"1-3.2@8\", \"node\": \"/dev/bus/usb/001/005\","
	"  \"devpath\": \"/devices/a/1-3/1-3.2\", \"name\": \"Logitech Mouse\", \"vid\": \"046d\","
	"  \"pid\": \"c077\", \"serial\": null, \"tag\": \"kbd\"},"
	" {\"device\": \"0000:00:14.3\", \"id\": \"0000:00:14.3@9\", \"node\": null,"
	"  \"devpath\": \"/devices/pci/0000:00:14.3\", \"name\": \"Wireless\", \"vid\": \"8086\","
	"  \"pid\": \"02f0\", \"serial\": null, \"tag\": null}]";

/* TEXT means the device called NAME; NULL: none, or not one. */
static void expect(const char *text, const char *name)
{
	json_t *devices = json_loads(devices_text, 0, NULL);
	json_t *one = select_one(devices, text);

	if (name)
		assert_string_equal(json_string_value(json_object_get(one, "device")), name);
	else
		assert_null(one);
	json_decref(devices);
}

static void test_on_usb(void **state)
{
	static const struct {
		const char *kind, *devpath;
		bool is_usb;
	} rows[] = {
		{"evdev", "/devices/pci0/usb1/1-3/1-3:1.0/0003:046D:C52B.1/input/input5/event5",
		 true},
		{"evdev", "/devices/pci0/usb1/1-3/1-3:1.0/bluetooth/hci0/hci0:1/input20/event5",
		 false},
		{"evdev", "/devices/pci0/usb1/1-3/1-3:1.0/tty/serio2/input/input6/event6", false},
		{"evdev", "/devices/pci0/usb1/1-3/1-3:1.0/i2c-5/5-0020/input/input7/event7", false},
		{"evdev", "/devices/platform/i8042/serio0/input/input0/event0", false},
		{"usb", "/devices/pci0/usb1/1-3", false},
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		json_t *device =
			json_pack("{s:s, s:s}", "kind", rows[i].kind, "devpath", rows[i].devpath);

		if (select_is_usb(device) != rows[i].is_usb)
			fail_msg("%s", rows[i].devpath);
		json_decref(device);
	}
}

static void test_every_way(void **state)
{
	(void) state;
	expect("1-3", "1-3"); /* and not what is behind it */
	expect("1-3.2", "1-3.2");
	expect("/dev/bus/usb/001/005", "1-3.2");
	expect("/sys/devices/a/1-3", "1-3");
	expect("046D:C077", "1-3.2");
	expect("S1", "1-3");
	expect("0000:00:14.3", "0000:00:14.3");
	expect("00:14.3", "0000:00:14.3");
	expect("mouse", "1-3.2");
	expect("1-3@7", "1-3");
}

static void test_none_and_too_many(void **state)
{
	(void) state;
	expect("nobody", NULL);
	assert_non_null(strstr(said, "no device \"nobody\""));
	expect("", NULL);
	expect("s1", NULL); /* serial numbers are exact */
	expect("046d", NULL);
	expect("Logitech", NULL);
	assert_non_null(strstr(said, "may be any of these"));
	expect("tag:kbd", NULL);
	expect("tag:", NULL);
}

static void test_tags_mean_several(void **state)
{
	json_t *devices = json_loads(devices_text, 0, NULL);
	json_t *some = select_some(devices, "tag:kbd");

	(void) state;
	assert_int_equal(json_array_size(some), 2);
	json_decref(some);
	assert_null(select_some(devices, "tag:none"));
	assert_null(select_some(devices, "Logitech"));
	json_decref(devices);
}

static void test_times(void **state)
{
	char age[16];
	int64_t hour = text_time("1h"), now = text_time("0s");

	(void) state;
	assert_int_equal(text_time("2026-01-31T08:00:01.250Z"), 1769846401250);
	assert_int_equal(text_time("2026-01-31T08:00:01Z"), 1769846401000);
	assert_in_range(now - hour, 3599000, 3601000);
	assert_in_range(now - text_time("2 d"), 2 * 86400000 - 1000, 2 * 86400000 + 1000);
	assert_int_equal(text_time("yesterday"), -1);
	assert_int_equal(text_time("5 weeks"), -1);
	text_age((uint64_t) hour, age, sizeof(age));
	assert_string_equal(age, "1 h");
	text_age(0, age, sizeof(age));
	assert_string_equal(age, "-");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_way),
		cmocka_unit_test(test_on_usb),
		cmocka_unit_test(test_none_and_too_many),
		cmocka_unit_test(test_tags_mean_several),
		cmocka_unit_test(test_times),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
