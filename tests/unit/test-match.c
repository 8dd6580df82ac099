/* vhotplug-match's decisions over a made-up sysfs; the modules of driverPath are tested against
 * real indexes in tests/integration. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "helper/match.h"

static char sysfs[] = "/tmp/vhp-match-XXXXXX";
static struct match_places places;

static void write_file(const char *name, const void *data, size_t size)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/devices/x/%s", sysfs, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	assert_int_equal(write(fd, data, size), (ssize_t) size);
	close(fd);
}

static int make_sysfs(void **state)
{
	char command[128];

	(void) state;
	if (!mkdtemp(sysfs))
		return -1;
	places.sysfs = sysfs;
	snprintf(command, sizeof(command), "mkdir -p %s/devices/x/device", sysfs);
	setenv("DEVPATH", "/devices/x", true);
	return system(command);
}

static int remove_sysfs(void **state)
{
	char command[64];

	(void) state;
	snprintf(command, sizeof(command), "rm -r %s", sysfs);
	return system(command);
}

static int match(const char *key, const char *pattern)
{
	const char *why;

	return match_field(&places, key, NULL, pattern, &why);
}

static void names_come_from_the_database_first(void **state)
{
	(void) state;
	unsetenv("ID_MODEL");
	unsetenv("ID_MODEL_FROM_DATABASE");
	assert_int_equal(match("productName", "$"), 1);
	setenv("ID_MODEL", "Own\nname", true);
	assert_int_equal(match("productName", "own.name\\b"), 1);
	setenv("ID_MODEL_FROM_DATABASE", "", true);
	assert_int_equal(match("productName", "own"), 1);
	setenv("ID_MODEL_FROM_DATABASE", "Database", true);
	assert_int_equal(match("productName", "own"), 0);
	assert_int_equal(match("productName", "(?=data)"), 1);
	setenv("ID_VENDOR", "v", true);
	assert_int_equal(match("vendorName", "V$"), 1);
	setenv("ID_PATH_TAG", "pci-1", true);
	assert_int_equal(match("pathTag", "pci-\\d+$"), 1);
}

static void own_words_come_from_sysfs(void **state)
{
	(void) state;
	setenv("ID_MODEL_FROM_DATABASE", "CP210x UART Bridge", true);
	assert_int_equal(match("productString", "$"), 1); /* there is none */
	write_file("product", "Sonoff Zigbee 3.0 USB Dongle Plus\n", 34);
	write_file("manufacturer", "Silicon Labs \n", 14);
	assert_int_equal(match("productString", "sonoff zigbee\\b"), 1);
	assert_int_equal(match("productString", "CP210x"), 0);
	assert_int_equal(match("vendorString", "silicon labs$"), 1);
}

static void names_are_read_like_udev_does(void **state)
{
	(void) state;
	assert_int_equal(match("name", "$"), 1); /* there is none */
	write_file("device/name", "a | b \t\n\n", 8);
	assert_int_equal(match("name", "a \\| b$"), 1);
	write_file("device/name", "", 0);
	assert_int_equal(match("name", "$"), 1);
}

static void values_match_in_either_case(void **state)
{
	const char *why;

	(void) state;
	setenv("VENDOR_SAID", "A|b.", true);
	assert_int_equal(match_field(&places, "value", "VENDOR_SAID", "a|B.", &why), 1);
	assert_int_equal(match_field(&places, "value", "VENDOR_SAID", "a|Bx", &why), 0);
	assert_int_equal(match_field(&places, "value", "ABSENT", "a", &why), 0);
	assert_int_equal(match_field(&places, "value", NULL, "a", &why), -EINVAL);
}

static void errors_are_no_answer(void **state)
{
	const char *why = NULL;
	char subject[64];

	(void) state;
	assert_int_equal(match_field(&places, "colour", NULL, "a", &why), -EINVAL);
	assert_string_equal(why, "unknown key");
	assert_int_equal(match_field(&places, "productName", NULL, "(", &why), -EINVAL);
	memset(subject, 'a', sizeof(subject));
	subject[63] = '\0';
	subject[62] = 'b';
	setenv("ID_MODEL_FROM_DATABASE", subject, true);
	assert_int_equal(match_field(&places, "productName", NULL, "(a+)+$", &why), -ELOOP);
	setenv("DEVPATH", "/devices/../../etc", true);
	assert_int_equal(match("name", "a"), -EINVAL);
	setenv("DEVPATH", "relative", true);
	assert_int_equal(match("name", "a"), -EINVAL);
	setenv("DEVPATH", "/devices/x", true);
	assert_int_equal(match("driverPath", "a"), -ENODEV); /* no attributes */
}

static void interfaces_are_read_from_the_descriptors(void **state)
{
	unsigned char data[4096] = {18, 1};
	char found[INTERFACES_MAX];
	size_t n = 18;

	(void) state;
	assert_int_equal(match_interfaces(&places, found), -ENOENT);
	write_file("descriptors", data, 17);
	assert_int_equal(match_interfaces(&places, found), -EIO);
	write_file("descriptors", data, n);
	assert_int_equal(match_interfaces(&places, found), 0);
	assert_string_equal(found, ":");

	static const unsigned char parts[][9] = {
		{9, 2},                            /* configuration */
		{9, 4, 0, 0, 1, 3, 1, 2, 0},       /* interface */
		{9, 4, 1, 0, 1, 3, 1, 2, 0},       /* the same again */
		{9, 5},                            /* something else */
		{9, 4, 2, 0, 0, 0xff, 0, 0xfe, 0}, /* the last one, without an endpoint */
	};
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++, n += 9)
		memcpy(data + n, parts[i], 9);
	write_file("descriptors", data, n);
	assert_int_equal(match_interfaces(&places, found), 0);
	assert_string_equal(found, ":030102:ff00fe:");
	/* Cut in the middle; a rest of one byte; descriptors that are longer than what is there,
	 * claim no length, or are too short for an interface. */
	write_file("descriptors", data, n - 3);
	assert_int_equal(match_interfaces(&places, found), -EBADMSG);
	write_file("descriptors", data, n + 1);
	assert_int_equal(match_interfaces(&places, found), -EBADMSG);
	for (unsigned length = 0; length <= 255; length += length == 8 ? 2 : 1) {
		data[n - 9] = (unsigned char) length;
		write_file("descriptors", data, n);
		assert_int_equal(match_interfaces(&places, found), -EBADMSG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_come_from_the_database_first),
		cmocka_unit_test(own_words_come_from_sysfs),
		cmocka_unit_test(names_are_read_like_udev_does),
		cmocka_unit_test(values_match_in_either_case),
		cmocka_unit_test(errors_are_no_answer),
		cmocka_unit_test(interfaces_are_read_from_the_descriptors),
	};

	return cmocka_run_group_tests(tests, make_sysfs, remove_sysfs);
}
