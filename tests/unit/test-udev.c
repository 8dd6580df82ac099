/* The question to udev's database, with a libudev of the test's own: it runs in the process that
 * tells, so what it does is seen in memory that both have. */
#include <libudev.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "broker/log.h"
#include "broker/udev.h"
#include "helper/root.h"
#include "tests/unit/spin.h"
#include "tests/unit/tree.h"

static struct shared {
	unsigned n_ended; /* processes; two for each question, but one that is stuck */
	pid_t stuck;      /* who reads what does not respond */
} * shared;
static unsigned n_started;

int __real_socketpair(int domain, int type, int protocol, int *fds);
int __wrap_socketpair(int domain, int type, int protocol, int *fds);
int __wrap_socketpair(int domain, int type, int protocol, int *fds)
{
	n_started += 2;
	return __real_socketpair(domain, type, protocol, fds);
}

_Noreturn void __real__exit(int status);
_Noreturn void __wrap__exit(int status);
_Noreturn void __wrap__exit(int status)
{
	__atomic_add_fetch(&shared->n_ended, 1, __ATOMIC_SEQ_CST);
	__real__exit(status);
}

/* Time goes on when who tells has done what he can. */
static uint64_t settle(void)
{
	while (__atomic_load_n(&shared->n_ended, __ATOMIC_SEQ_CST) < n_started)
		usleep(1000);
	return UINT64_MAX;
}

/* libudev */

static struct udev_device {
	const char *id, *syspath, *devpath;
	bool is_known, is_stuck, is_deadly;
	const char *properties[9];
} devices[] = {
	{"c189:1", "/sys/devices/1-1", "/devices/1-1", .is_known = true,
	 .properties = {"SUBSYSTEM", "usb", "VHOTPLUG_RULE", "usb/g/r", "HOME", "/"}},
	{"c189:2", "/sys/devices/1-2", "/devices/1-2", .is_stuck = true},
	{"c189:3", "/sys/devices/1-3", "/devices/1-3", .is_known = true,
	 .properties = {"SUBSYSTEM", "usb", "ID_MODEL", "Stick"}},
	{"", "/sys/devices/1-4", "/devices/1-4", .is_known = false},
	{"c189:5", "/sys/devices/1-5", "/devices/1-5", .is_deadly = true},
};

struct udev *udev_new(void)
{
	static int something;

	return (struct udev *) &something;
}

static struct udev_device *read_device(struct udev_device *device)
{
	if (device->is_stuck) {
		shared->stuck = getpid();
		__atomic_add_fetch(&shared->n_ended, 1, __ATOMIC_SEQ_CST);
		pause();
	}
	if (device->is_deadly)
		_exit(0);
	return device;
}

struct udev_device *udev_device_new_from_device_id(struct udev *udev, const char *id)
{
	(void) udev;
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		if (streq(devices[i].id, id))
			return read_device(&devices[i]);
	return NULL;
}

struct udev_device *udev_device_new_from_syspath(struct udev *udev, const char *path)
{
	(void) udev;
	for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
		if (streq(devices[i].syspath, path))
			return read_device(&devices[i]);
	return NULL;
}

const char *udev_device_get_devpath(struct udev_device *device)
{
	return device->devpath;
}

int udev_device_get_is_initialized(struct udev_device *device)
{
	return device->is_known;
}

const char *udev_device_get_property_value(struct udev_device *device, const char *key)
{
	for (size_t i = 0; device->properties[i]; i += 2)
		if (streq(device->properties[i], key))
			return device->properties[i + 1];
	return NULL;
}

struct udev_device *udev_device_unref(struct udev_device *device)
{
	(void) device;
	return NULL;
}

/* Who asks */

struct asker {
	char *root;
	struct loop *loop;
	struct udev_query *query;
	char heard[400];
	unsigned n_done;
};

static void on_device(void *data, const char *devpath, property_fn property, void *device)
{
	struct asker *a = data;
	const char *rule = property(device, "VHOTPLUG_RULE"), *model = property(device, "ID_MODEL");
	size_t n = strlen(a->heard);

	assert_null(property(device, "HOME")); /* travels not */
	snprintf(a->heard + n, sizeof(a->heard) - n, "%s%s rule=%s model=%s ", devpath,
		 property(device, UDEV_KNOWN) ? "" : "?", rule ? rule : "", model ? model : "");
}

static void on_done(void *data, int r)
{
	struct asker *a = data;

	assert_int_equal(r, 0);
	a->n_done++;
	a->query = udev_query_free(a->query);
}

static const struct udev_listener listener = {.device = on_device, .done = on_done};

static bool is_done(void *data)
{
	return ((struct asker *) data)->n_done > 0;
}

static int setup(void **state)
{
	struct asker *a = calloc(1, sizeof(*a));

	log_init(false);
	*shared = (struct shared){0};
	n_started = 0;
	a->root = temp_new();
	root_set(a->root);
	assert_int_equal(loop_new(&a->loop), 0);
	loop_skip_waiting_with(settle);
	*state = a;
	return 0;
}

static int teardown(void **state)
{
	struct asker *a = *state;

	udev_query_free(a->query);
	loop_free(a->loop);
	settle(); /* who ends later would be counted by the next test */
	if (shared->stuck)
		kill(shared->stuck, SIGKILL);
	root_set("");
	temp_remove(&a->root);
	free(a);
	return 0;
}

static void tag(struct asker *a, const char *id)
{
	char path[100];

	snprintf(path, sizeof(path), "/run/udev/tags/vhotplug/%s", id);
	tree_write(a->root, path, "");
}

static void ask(struct asker *a, const char *const *devpaths, size_t n)
{
	assert_int_equal(udev_ask(a->loop, devpaths, n, &listener, a, &a->query), 0);
	assert_string_equal(a->heard, ""); /* never before the call returns */
}

static void test_nothing_is_tagged(void **state)
{
	struct asker *a = *state;

	ask(a, NULL, 0);
	assert_int_equal(a->n_done, 0);
	spin_until(a->loop, is_done, a);
	assert_string_equal(a->heard, "");
}

static void test_tagged_and_known(void **state)
{
	const char *const devpaths[] = {"/devices/1-3", "/devices/1-4", "/devices/gone"};
	struct asker *a = *state;

	tag(a, "c189:1");
	ask(a, devpaths, 3);
	spin_until(a->loop, is_done, a);
	assert_string_equal(a->heard, "/devices/1-1 rule=usb/g/r model= "
				      "/devices/1-3 rule= model=Stick "
				      "/devices/1-4? rule= model= ");
	assert_int_equal(a->n_done, 1);
}

/* One that does not respond keeps neither the loop nor the others. */
static void test_a_device_that_does_not_respond(void **state)
{
	const char *const devpaths[] = {"/devices/1-1", "/devices/1-2", "/devices/1-3"};
	struct asker *a = *state;

	ask(a, devpaths, 3);
	uint64_t start = now_monotonic_ms();
	spin_until(a->loop, is_done, a);
	assert_string_equal(a->heard, "/devices/1-1 rule=usb/g/r model= "
				      "/devices/1-3 rule= model=Stick ");
	assert_in_range(now_monotonic_ms() - start, 500, 600);
}

static void test_a_device_that_is_deadly(void **state)
{
	const char *const devpaths[] = {"/devices/1-5", "/devices/1-3"};
	struct asker *a = *state;

	ask(a, devpaths, 2);
	spin_until(a->loop, is_done, a);
	assert_string_equal(a->heard, "/devices/1-3 rule= model=Stick ");
}

/* An event is newer than what the database said before. */
static void test_overtaken(void **state)
{
	const char *const devpaths[] = {"/devices/1-1", "/devices/1-3"};
	struct asker *a = *state;

	ask(a, devpaths, 2);
	udev_overtaken(a->query, "/devices/1-1");
	udev_overtaken(a->query, "/devices/1-1");
	spin_until(a->loop, is_done, a);
	assert_string_equal(a->heard, "/devices/1-3 rule= model=Stick ");
	udev_overtaken(NULL, "/devices/1-1");
}

static void test_dropped(void **state)
{
	const char *const devpaths[] = {"/devices/1-1", "/devices/1-2"};
	struct asker *a = *state;

	ask(a, devpaths, 2);
	a->query = udev_query_free(a->query);
	spin_for(a->loop, 1000);
	ask(a, devpaths, 2);
	spin_for(a->loop, 100);
	assert_string_equal(a->heard, "/devices/1-1 rule=usb/g/r model= ");
	a->query = udev_query_free(a->query);
	spin_for(a->loop, 1000);
	assert_int_equal(a->n_done, 0);
}

int main(void)
{
#define UDEV_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		UDEV_TEST(test_nothing_is_tagged),
		UDEV_TEST(test_tagged_and_known),
		UDEV_TEST(test_a_device_that_does_not_respond),
		UDEV_TEST(test_a_device_that_is_deadly),
		UDEV_TEST(test_overtaken),
		UDEV_TEST(test_dropped),
	};

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	if (shared == MAP_FAILED)
		abort();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
