/* What sysfs says of PCI functions, over a made-up tree. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "broker/pci.h"
#include "helper/root.h"
#include "tests/unit/tree.h"

#define DEVICES "/sys/bus/pci/devices/"

static void make_function(const char *root, const char *address, const char *class,
			  const char *group)
{
	char path[340], target[300];

	snprintf(target, sizeof(target), "/sys/devices/pci0000:00/%s", address);
	tree_mkdir(root, target);
	snprintf(path, sizeof(path), DEVICES "%s", address);
	tree_link(root, path, target);
	snprintf(path, sizeof(path), "%s/class", target);
	tree_write(root, path, class);
	if (!group)
		return;
	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%s/devices/%s", group, address);
	tree_link(root, path, target);
	snprintf(path, sizeof(path), "%s/iommu_group", target);
	snprintf(target, sizeof(target), "/sys/kernel/iommu_groups/%s", group);
	tree_link(root, path, target);
}

static int setup(void **state)
{
	*state = temp_new();
	root_set(*state);
	make_function(*state, "0000:00:01.0", "0x060400\n", "7");
	make_function(*state, "0000:00:05.0", "0x020000\n", "7");
	make_function(*state, "10000:e1:00.0", "0x010802\n", "7");
	make_function(*state, "0000:00:06.0", "0x030000\n", NULL);
	return 0;
}

static int teardown(void **state)
{
	root_set("");
	temp_remove((char **) state);
	return 0;
}

static void test_attributes(void **state)
{
	unsigned value = 7;

	assert_int_equal(pci_attribute("0000:00:05.0", "class", &value), 0);
	assert_int_equal(value, 0x020000);
	assert_int_equal(pci_attribute("0000:00:05.0", "vendor", &value), -ENOENT);
	tree_write(*state, DEVICES "0000:00:05.0/vendor", "not a number\n");
	assert_int_equal(pci_attribute("0000:00:05.0", "vendor", &value), -EIO);
	assert_int_equal(value, 0x020000);
	assert_int_equal(pci_attribute("0000:00:09.0", "class", &value), -ENOENT);
}

static void test_driver(void **state)
{
	char driver[64] = "before";

	assert_false(pci_driver("0000:00:05.0", driver, sizeof(driver)));
	assert_string_equal(driver, "before");
	tree_mkdir(*state, "/sys/bus/pci/drivers/r8169");
	tree_link(*state, "/sys/devices/pci0000:00/0000:00:05.0/driver",
		  "/sys/bus/pci/drivers/r8169");
	assert_true(pci_driver("0000:00:05.0", driver, sizeof(driver)));
	assert_string_equal(driver, "r8169");
}

/* Bridges do not count; a domain may have more than four digits. */
static void test_group(void **state)
{
	struct pci_group group = {.number = -1};

	(void) state;
	assert_int_equal(pci_get_group("0000:00:05.0", &group), 0);
	assert_int_equal(group.number, 7);
	assert_int_equal(group.n_members, 2);
	for (size_t i = 0; i < group.n_members; i++)
		assert_true(streq(group.members[i], "0000:00:05.0") ||
			    streq(group.members[i], "10000:e1:00.0"));
}

static void bind(const char *root, const char *address, const char *driver)
{
	char path[300], target[300];

	snprintf(path, sizeof(path), "/sys/devices/pci0000:00/%s/driver", address);
	snprintf(target, sizeof(target), "/sys/bus/pci/drivers/%s", driver);
	tree_mkdir(root, target);
	tree_link(root, path, target);
}

/* With a driver the kernel counts those that lead to no other bus of PCI's. */
static void test_bridge_that_keeps_the_group(void **state)
{
	struct pci_group group;

	bind(*state, "0000:00:01.0", "pcieport");
	make_function(*state, "0000:00:1f.0", "0x060100\n", "7");
	make_function(*state, "0000:00:1f.1", "0x068000\n", "7");
	bind(*state, "0000:00:1f.1", "pci-stub");
	assert_int_equal(pci_get_group("0000:00:05.0", &group), 0);
	assert_string_equal(group.bridge, "");
	bind(*state, "0000:00:1f.0", "lpc_ich");
	assert_int_equal(pci_get_group("0000:00:05.0", &group), 0);
	assert_string_equal(group.bridge, "0000:00:1f.0");
	assert_int_equal(group.n_members, 2);
}

static void test_no_group(void **state)
{
	struct pci_group group = {.number = -1};

	(void) state;
	assert_int_equal(pci_get_group("0000:00:06.0", &group), -ENOENT);
	assert_int_equal(pci_get_group("0000:00:09.0", &group), -ENOENT);
	assert_int_equal(group.number, -1);
}

static void test_large_group(void **state)
{
	struct pci_group group;
	char address[32];

	for (int i = 0; i < 40; i++) {
		snprintf(address, sizeof(address), "0000:01:%02x.0", i);
		make_function(*state, address, "0x010802\n", "7");
	}
	assert_int_equal(pci_get_group("0000:00:05.0", &group), 0);
	assert_int_equal(group.n_members, 42);
}

/* Not to be able to look is not to know who is in it. */
static void test_group_that_is_not_known(void **state)
{
	struct pci_group group = {.number = -1};
	struct rlimit limit, none;
	char class[PATH_MAX];
	int probe = dup(0);

	close(probe);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	for (int left = 0; left < 2; left++) { /* for the directory, for a member's class */
		none = (struct rlimit){.rlim_cur = (rlim_t) (probe + left),
				       .rlim_max = limit.rlim_max};
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
		int r = pci_get_group("0000:00:05.0", &group);
		assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
		assert_int_equal(r, -EMFILE);
	}
	tree_write(*state, DEVICES "10000:e1:00.0/class", "?\n");
	assert_int_equal(pci_get_group("0000:00:05.0", &group), -EIO);
	/* One that is just going is still in it, or was: this is no device without a group. */
	tree_path(class, *state, DEVICES "10000:e1:00.0/class");
	assert_int_equal(unlink(class), 0);
	assert_int_equal(pci_get_group("0000:00:05.0", &group), -EAGAIN);
	assert_int_equal(group.number, -1);
}

/* Nor is not to be able to look the word that it is no bridge. */
static void test_bridge(void **state)
{
	assert_int_equal(pci_is_bridge("0000:00:01.0"), 1);
	assert_int_equal(pci_is_bridge("0000:00:05.0"), 0);
	tree_write(*state, DEVICES "0000:00:05.0/class", "?\n");
	assert_int_equal(pci_is_bridge("0000:00:05.0"), -EIO);
	assert_int_equal(pci_is_bridge("0000:00:09.0"), -ENOENT);
}

/* libpci ends a program that gives it such a file, unless it is told otherwise. */
static void test_broken_names(void **state)
{
	char name[100] = "before";
	pid_t pid;
	int status;

	tree_write(*state, "/usr/share/misc/pci.ids", "10ec  Realtek\n\t8139  RTL-8139\n");
	pci_name(0x10ec, 0x8139, name, sizeof(name));
	assert_string_equal(name, "Realtek RTL-8139");
	tree_write(*state, "/usr/share/misc/pci.ids", "10ec  Realtek\n\tthis is no line of it\n");
	pid = fork(); /* what the library had open then is lost */
	if (pid == 0) {
		pci_name(0x10ec, 0x8139, name, sizeof(name));
		pci_name(0x10ec, 0x8139, name, sizeof(name));
		_exit(*name ? 2 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
#define PCI_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		PCI_TEST(test_attributes),
		PCI_TEST(test_driver),
		PCI_TEST(test_group),
		PCI_TEST(test_large_group),
		PCI_TEST(test_bridge_that_keeps_the_group),
		PCI_TEST(test_no_group),
		PCI_TEST(test_group_that_is_not_known),
		PCI_TEST(test_bridge),
		PCI_TEST(test_broken_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
