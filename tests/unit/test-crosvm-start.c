/* What a crosvm process has from its command line, and what from others: a made-up /proc and /sys.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/crosvm_start.h"
#include "broker/device.h"
#include "helper/root.h"
#include "tests/unit/tree.h"

#define PID 4711
#define CARD "0000:01:00.0"  /* its group is 7 */
#define OTHER "0000:00:03.0" /* its group is 8 */

static char *root;
static struct device device;

static struct device *next_device(void *data, const struct vm *vm, const struct device *at)
{
	(void) data;
	return !at && device.place.vm == vm ? &device : NULL;
}

static const struct vm_handler handler = {.next_device = next_device};
static struct vm vm;
static struct crosvm_cards cards;

static void add_function(const char *address, const char *group)
{
	char path[100], target[100];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address);
	snprintf(target, sizeof(target), "/sys/kernel/iommu_groups/%s", group);
	tree_link(root, path, target);
}

/* WORDS, each with a NUL behind it. */
static void write_command_line(const char *words, size_t size)
{
	char path[PATH_MAX];

	tree_write(root, "/proc/4711/cmdline", "");
	tree_path(path, root, "/proc/4711/cmdline");
	FILE *f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(words, 1, size, f), size);
	fclose(f);
	crosvm_start_look(&vm, &cards);
}
#define COMMAND_LINE(words) write_command_line(words, sizeof(words))

/* The process has GROUP's node open as descriptor FD. */
static void open_group(const char *fd, const char *group)
{
	char path[100], whole[PATH_MAX], target[PATH_MAX];

	snprintf(path, sizeof(path), "/proc/4711/fd/%s", fd);
	tree_parent(root, path);
	tree_path(whole, root, path);
	snprintf(target, sizeof(target), "%s/dev/vfio/%s", root, group);
	assert_int_equal(symlink(target, whole), 0);
}

/* Process PID has opened the input device that is NODE, perhaps with words behind that. */
static void open_input(int pid, const char *node)
{
	char path[100], whole[PATH_MAX], target[PATH_MAX];

	snprintf(path, sizeof(path), "/proc/%d/fd/12", pid);
	tree_parent(root, path);
	tree_path(whole, root, path);
	unlink(whole);
	snprintf(target, sizeof(target), "%s%s", root, node);
	assert_int_equal(symlink(target, whole), 0);
}

static int setup(void **state)
{
	(void) state;
	root = temp_new();
	root_set(root);
	vm = (struct vm){.handler = &handler, .name = "vm1", .peer = {.pid = PID}};
	device = (struct device){.id = {.kind = DEVICE_PCI, .group = 7}};
	device_init(&device);
	add_function(CARD, "7");
	add_function(OTHER, "8");
	open_group("3", "vfio"); /* the container is none */
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	cold_clear(&vm.cold);
	root_set("");
	temp_remove(&root);
	return 0;
}

static void expect_cold(const char *address)
{
	assert_int_equal(vm.cold.n, 1);
	assert_string_equal(vm.cold.items[0].kernel_name, address);
	assert_int_equal(vm.cold.items[0].kind, DEVICE_PCI);
	assert_true(crosvm_start_is_handle(vm.cold.items[0].handle));
	assert_string_equal(cards.none, "");
}

static void test_from_the_command_line(void **state)
{
	(void) state;
	open_group("9", "7");
	COMMAND_LINE("crosvm\0run\0--vfio\0/sys/bus/pci/devices/" CARD ",iommu=viommu\0bzImage");
	expect_cold(CARD);
	assert_int_equal(cards.bus, 2); /* its own is taken */
	COMMAND_LINE("crosvm\0run\0--vfio=path=/sys/bus/pci/devices/" CARD "/\0bzImage");
	expect_cold(CARD);
	assert_false(crosvm_start_is_handle("crosvm-pci-" CARD "-1@4711.1"));
}

/* The words are the VM's own, and those of other options are none of ours. */
static void test_what_the_kernel_does_not_say(void **state)
{
	(void) state;
	COMMAND_LINE("crosvm\0run\0--vfio\0/sys/bus/pci/devices/" CARD "\0--vfio");
	assert_int_equal(vm.cold.n, 0);
	open_group("9", "7");
	COMMAND_LINE("crosvm\0run\0--vfio-isolate-hotplug\0/sys/bus/pci/devices/" CARD);
	assert_int_equal(vm.cold.n, 0);
}

static void expect_input(const char *node)
{
	assert_int_equal(vm.cold.n, 1);
	assert_string_equal(vm.cold.items[0].node, node);
	assert_int_equal(vm.cold.items[0].kind, DEVICE_EVDEV);
	assert_true(crosvm_start_is_handle(vm.cold.items[0].handle));
}

static void test_inputs_from_the_command_line(void **state)
{
	(void) state;
	tree_write(root, "/dev/input/event3", "");
	tree_link(root, "/dev/input/by-path/kbd", "/dev/input/event3");
	open_input(PID, "/dev/input/event3");
	COMMAND_LINE("crosvm\0run\0--input\0evdev[path=/dev/input/event3]\0bzImage");
	expect_input("/dev/input/event3");
	COMMAND_LINE("crosvm\0run\0--evdev=/dev/input/by-path/kbd");
	expect_input("/dev/input/event3");
	COMMAND_LINE("crosvm\0run\0--evdev\0/dev/input/event3\0--evdev=/dev/input/event3");
	expect_input("/dev/input/event3");
	COMMAND_LINE("crosvm\0run\0--input\0keyboard[path=/dev/input/event3]\0--input");
	assert_int_equal(vm.cold.n, 0);
	COMMAND_LINE("crosvm\0run\0--evdev\0/dev/input/event4\0--evdev\0/dev/null");
	assert_int_equal(vm.cold.n, 0);
}

/* With the sandbox a child has it. What was unplugged is not what has its name by now. */
static void test_inputs_that_the_process_has(void **state)
{
	static const char words[] = "crosvm\0run\0--input\0evdev[path=/dev/input/event3]";

	(void) state;
	tree_write(root, "/dev/input/event3", "");
	COMMAND_LINE(words);
	assert_int_equal(vm.cold.n, 0);
	tree_write(root, "/proc/4711/task/4711/children", "4712 4713 ");
	open_input(4713, "/dev/input/event3");
	COMMAND_LINE(words);
	expect_input("/dev/input/event3");
	open_input(4713, "/dev/input/event3 (deleted)");
	COMMAND_LINE(words);
	assert_int_equal(vm.cold.n, 0);
}

static void test_from_us(void **state)
{
	(void) state;
	device.place.vm = &vm;
	open_group("9", "7");
	COMMAND_LINE("crosvm\0run\0bzImage");
	assert_int_equal(vm.cold.n, 0);
	assert_int_equal(cards.bus, 1);
	assert_string_equal(cards.none, "");
}

static void test_from_somebody_else(void **state)
{
	(void) state;
	open_group("9", "8");
	COMMAND_LINE("crosvm\0run\0bzImage");
	assert_int_equal(vm.cold.n, 0);
	assert_non_null(strstr(cards.none, "a card of somebody else's (IOMMU group 8)"));
}

static void test_nothing_can_be_told(void **state)
{
	(void) state;
	vm.peer.pid = 4712;
	crosvm_start_look(&vm, &cards);
	assert_non_null(strstr(cards.none, "can't tell which cards vm1 has: No such file"));
	vm.peer.pid = 0; /* in a pid namespace of its own */
	crosvm_start_look(&vm, &cards);
	assert_non_null(strstr(cards.none, "can't tell which cards vm1 has: No such process"));
	vm.peer.pid = PID;
	crosvm_start_look(&vm, &cards);
	assert_non_null(strstr(cards.none, "its command line can't be read"));
}

/* It may open as much as it likes. What is behind the bound may be a card. */
static void test_more_open_than_is_looked_at(void **state)
{
	char fd[20];

	(void) state;
	for (int i = 0; i < 70; i++) {
		snprintf(fd, sizeof(fd), "%d", i + 100);
		open_group(fd, "8"); /* the same each time: of one group */
	}
	COMMAND_LINE("crosvm\0run\0bzImage");
	assert_non_null(strstr(cards.none, "a card of somebody else's (IOMMU group 8)"));
	for (int i = 0; i < 17000; i++) {
		snprintf(fd, sizeof(fd), "%d", i + 1000);
		open_group(fd, "null");
	}
	COMMAND_LINE("crosvm\0run\0bzImage");
	assert_non_null(strstr(cards.none, "can't tell which cards vm1 has: it has more open"));
}

static void test_more_groups_than_are_noted(void **state)
{
	char name[20];

	(void) state;
	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "%d", i + 100);
		open_group(name, name);
	}
	COMMAND_LINE("crosvm\0run\0bzImage");
	assert_non_null(strstr(cards.none, "can't tell which cards vm1 has: it has more open"));
}

static void test_slots(void **state)
{
	(void) state;
	COMMAND_LINE("crosvm\0run\0--pci-hotplug-slots\0002\0bzImage");
	assert_non_null(strstr(cards.none, "was started with --pci-hotplug-slots"));
	COMMAND_LINE("crosvm\0run\0--pci-hotplug-slots=1");
	assert_non_null(strstr(cards.none, "was started with --pci-hotplug-slots"));
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_from_the_command_line),
		TEST(test_what_the_kernel_does_not_say),
		TEST(test_inputs_from_the_command_line),
		TEST(test_inputs_that_the_process_has),
		TEST(test_from_us),
		TEST(test_from_somebody_else),
		TEST(test_slots),
		TEST(test_nothing_can_be_told),
		TEST(test_more_open_than_is_looked_at),
		TEST(test_more_groups_than_are_noted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
