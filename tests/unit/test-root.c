/* The root in front of /sys, /proc and /dev, over a made-up tree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "helper/root.h"
#include "tests/unit/tree.h"

static int setup(void **state)
{
	*state = temp_new();
	root_set(*state);
	return 0;
}

static int teardown(void **state)
{
	root_set("");
	temp_remove((char **) state);
	return 0;
}

static void test_everything_is_below_the_root(void **state)
{
	char text[64], path[PATH_MAX];

	tree_write(*state, "/sys/devices/a/vendor", "0x8086\nsecond line\n");
	tree_write(*state, "/sys/devices/a/unbind", "");
	assert_int_equal(root_read(text, sizeof(text), "/sys/devices/%s/vendor", "a"), 0);
	assert_string_equal(text, "0x8086");
	assert_int_equal(root_write("0000:00:01.0", "/sys/devices/a/unbind"), 0);
	assert_string_equal(tree_read(*state, "/sys/devices/a/unbind"), "0000:00:01.0");
	assert_int_equal(root_exists("/sys/devices/a"), 0);
	assert_true(root_inode("/sys/devices/a") > 0);
	_cleanup_close_ int fd = root_open(O_RDONLY, "/sys/devices/a/vendor");
	assert_true(fd >= 0 && fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(root_path(path, sizeof(path), "/sys/%d", 7), 0);
	assert_non_null(strstr(startswith(path, *state), "/sys/7"));
}

static void test_what_is_not_there(void **state)
{
	char text[64] = "untouched", path[PATH_MAX];

	(void) state;
	assert_int_equal(root_read(text, sizeof(text), "/sys/nosuch"), -ENOENT);
	assert_int_equal(root_link_name(text, sizeof(text), "/sys/nosuch"), -ENOENT);
	assert_int_equal(root_write("x", "/sys/nosuch"), -ENOENT);
	assert_int_equal(root_open(O_RDONLY, "/dev/null"), -ENOENT);
	assert_int_equal(root_exists("/proc"), -ENOENT);
	assert_int_equal(root_resolve(path, "/sys"), -ENOENT);
	assert_int_equal(root_inode("/sys"), 0);
	assert_null(root_fopen("/proc/swaps"));
	assert_null(root_opendir("/proc"));
	assert_string_equal(text, "untouched");
}

static void test_links(void **state)
{
	char text[8] = "before", path[PATH_MAX];

	tree_mkdir(*state, "/sys/devices/pci/1-2");
	tree_mkdir(*state, "/sys/bus/usb/drivers/usbhid");
	tree_link(*state, "/sys/devices/pci/1-2/driver", "/sys/bus/usb/drivers/usbhid");
	tree_link(*state, "/sys/bus/usb/devices/1-2", "/sys/devices/pci/1-2");
	tree_link(*state, "/sys/long", "/sys/abcdefgh");
	assert_int_equal(root_link_name(text, sizeof(text), "/sys/bus/usb/devices/1-2/driver"), 0);
	assert_string_equal(text, "usbhid");
	assert_int_equal(root_link_name(text, sizeof(text), "/sys/long"), -ENAMETOOLONG);
	assert_string_equal(text, "usbhid");
	assert_int_equal(root_resolve(path, "/sys/bus/usb/devices/%s", "1-2"), 0);
	assert_string_equal(path, "/sys/devices/pci/1-2");
}

static void test_no_way_out(void **state)
{
	char link[PATH_MAX], path[PATH_MAX];

	tree_mkdir(*state, "/sys");
	tree_path(link, *state, "/sys/out");
	assert_int_equal(symlink("/", link), 0);
	assert_int_equal(root_resolve(path, "/sys/out"), -EXDEV);
	/* Without a root all there is is inside. */
	root_set("");
	assert_int_equal(root_resolve(path, "/dev/../proc"), 0);
	assert_string_equal(path, "/proc");
}

/* A path that does not fit is an error, never another path. */
static void test_too_long(void **state)
{
	_cleanup_free_ char *name = calloc(1, PATH_MAX + 1);
	char text[4] = "abc", path[PATH_MAX];

	memset(name, 'x', PATH_MAX);
	assert_int_equal(root_read(text, sizeof(text), "/sys/%s", name), -ENAMETOOLONG);
	assert_int_equal(root_write("x", "/sys/%s", name), -ENAMETOOLONG);
	assert_int_equal(root_open(O_RDONLY, "/sys/%s", name), -ENAMETOOLONG);
	assert_int_equal(root_exists("/sys/%s", name), -ENAMETOOLONG);
	assert_int_equal(root_resolve(path, "/sys/%s", name), -ENAMETOOLONG);
	assert_int_equal(root_link_name(text, sizeof(text), "/sys/%s", name), -ENAMETOOLONG);
	assert_int_equal(root_path(text, sizeof(text), "/sys"), -ENAMETOOLONG);
	assert_null(root_fopen("/sys/%s", name));
	assert_int_equal(errno, ENAMETOOLONG);
	assert_null(root_opendir("/sys/%s", name));
	/* Nor is a line. */
	tree_write(*state, "/sys/line", "abcd\n");
	assert_int_equal(root_read(text, sizeof(text), "/sys/line"), -ENAMETOOLONG);
	assert_string_equal(text, "abc");
}

int main(void)
{
#define ROOT_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		ROOT_TEST(test_everything_is_below_the_root),
		ROOT_TEST(test_what_is_not_there),
		ROOT_TEST(test_links),
		ROOT_TEST(test_no_way_out),
		ROOT_TEST(test_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
