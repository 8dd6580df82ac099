/* Is something under way with a device? People who have asked for it are told when it is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/control_fill.h"

static struct vm vm1 = {.name = "vm1"};

static bool is_busy(enum device_state state, unsigned away, uint64_t request, bool marked)
{
	const struct registry registry = {.vms = &vm1};
	struct device device = {
		.record = {.state = state, .vm = "vm1"},
		.wish = {.present = true, .away = away, .rule = "usb/g/r", .vms = "vm1"},
		.attempt.request = request,
		.marked = marked,
	};
	struct control_device view;

	device_init(&device);
	kept_set(&device.id.kernel_name, "1-2");
	kept_set(&device.id.devpath, "/devices/1-2");
	control_fill(&view, &registry, &device);
	return view.is_busy;
}

static void test_at_rest(void **state)
{
	(void) state;
	assert_false(is_busy(DEVICE_DETACHED, AWAY_DETACHED, 0, false));
	assert_false(is_busy(DEVICE_SUSPENDED, AWAY_SUSPENDED, 0, false));
	assert_false(is_busy(DEVICE_FAILED, AWAY_NOT, 0, false));
	assert_false(is_busy(DEVICE_WAITING, AWAY_NOT, 0, false));
}

static void test_to_be_looked_at(void **state)
{
	(void) state;
	assert_true(is_busy(DEVICE_DETACHED, AWAY_NOT, 0, true));
	assert_true(is_busy(DEVICE_WAITING, AWAY_NOT, 0, true));
}

/* Taken out and given back at once: the fence of the first holds up the second, which has not
 * failed. Who has taken it out is not kept waiting for the fence. */
static void test_worker_at_the_fence(void **state)
{
	(void) state;
	assert_true(is_busy(DEVICE_DETACHED, AWAY_NOT, 7, false));
	assert_true(is_busy(DEVICE_SUSPENDED, AWAY_NOT, 7, false));
	assert_true(is_busy(DEVICE_WAITING, AWAY_NOT, 7, false));
	assert_false(is_busy(DEVICE_DETACHED, AWAY_DETACHED, 7, false));
	assert_false(is_busy(DEVICE_SUSPENDED, AWAY_SUSPENDED, 7, false));
}

/* A broker that has just started has not asked its VM yet: that a device waits for that says
 * nothing of what will come of it. */
static void test_vm_is_being_asked(void **state)
{
	(void) state;
	vm1.state = VM_PROBING;
	assert_true(is_busy(DEVICE_WAITING, AWAY_NOT, 0, false));
	assert_false(is_busy(DEVICE_DETACHED, AWAY_DETACHED, 0, false));
	strcpy(vm1.reason, "its monitor does not answer");
	assert_false(is_busy(DEVICE_WAITING, AWAY_NOT, 0, false));
	*vm1.reason = 0;
	vm1.state = VM_DOWN;
	assert_false(is_busy(DEVICE_WAITING, AWAY_NOT, 0, false));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_at_rest),
		cmocka_unit_test(test_to_be_looked_at),
		cmocka_unit_test(test_worker_at_the_fence),
		cmocka_unit_test(test_vm_is_being_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
