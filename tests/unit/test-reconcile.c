/* The pass: who is looked at, in which order, and what ends it. The decision and the steps are
 * replaced at link time: what this file defines is not taken from the library; the store's two
 * functions are wrapped (tests/CMakeLists.txt). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/attempt.h"
#include "broker/decide.h"
#include "broker/handback.h"
#include "broker/handover.h"
#include "broker/reconcile.h"
#include "broker/record.h"
#include "broker/store.h"
#include "tests/unit/spin.h"

static struct world {
	struct loop *loop;
	struct registry registry;
	char log[2000]; /* "NAME.STEP " for each step */
	size_t n_decisions, n_stored, n_told;
	enum device_state told_before;
	bool told_dropped;
	/* What is decided, for the Nth question about each device. */
	enum step (*script)(const struct device *device, unsigned n);
} w;

static struct vm some_vm;

struct decision decide(const struct registry *registry, const struct device *device, uint64_t now)
{
	(void) registry, (void) now;
	w.n_decisions++;
	return (struct decision){.step = w.script(device, device->n_looks)};
}

const char *decide_step_name(enum step step)
{
	(void) step;
	return "";
}

static void note_step(const struct device *device, const char *step)
{
	size_t length = strlen(w.log);

	snprintf(w.log + length, sizeof(w.log) - length, "%s.%s ", device->id.kernel_name, step);
}

void handover_look(struct registry *registry, struct device *device, struct vm *vm)
{
	(void) registry, (void) vm;
	note_step(device, "look");
	device_mark(device);
}

void handover_verify(struct registry *registry, struct device *device)
{
	/* As a VMM does that answers before it has been asked: one more mark. */
	note_step(device, "verify");
	record_set(registry, device, DEVICE_WAITING, "verified");
	for (struct device *d = registry->devices; d; d = d->next)
		device_mark(d);
}

void handback_return(struct registry *registry, struct device *device, const char *reason)
{
	(void) registry, (void) reason;
	note_step(device, "return");
}

void handback_drop(struct registry *registry, struct device *device)
{
	note_step(device, "drop");
	record_forget(registry, device);
	registry_remove(registry, device);
}

void handover_refuse(struct registry *registry, struct device *device, struct vm *vm,
		     const char *reason)
{
	(void) registry, (void) device, (void) vm, (void) reason;
}

void handover_open(struct registry *registry, struct device *device, struct vm *vm)
{
	(void) registry, (void) device, (void) vm;
}

void handover_end(struct registry *registry, struct device *device, const char *reason)
{
	(void) registry, (void) device, (void) reason;
}

#define EMPTY_STEP(name)                                                       \
	void handover_##name(struct registry *registry, struct device *device) \
	{                                                                      \
		(void) registry, (void) device;                                \
	}
EMPTY_STEP(abandon)
EMPTY_STEP(give)
EMPTY_STEP(take)
EMPTY_STEP(repeat)

void handback_fence(struct registry *registry, struct device *device)
{
	(void) registry, (void) device;
}

void __wrap_store_device(struct store *store, struct device *device, const struct history *history);
void __wrap_store_device(struct store *store, struct device *device, const struct history *history)
{
	(void) store, (void) device, (void) history;
	w.n_stored++;
}

void __wrap_store_forget(struct store *store, struct device *device, const struct history *history);
void __wrap_store_forget(struct store *store, struct device *device, const struct history *history)
{
	(void) store, (void) device, (void) history;
}

static void observe(void *data, const struct device *device, enum device_state before)
{
	(void) data;
	w.n_told++;
	w.told_before = before;
	w.told_dropped = device->dropped;
}

static struct device *new_device(const char *name, unsigned order)
{
	struct device *d = calloc(1, sizeof(*d));

	device_init(d);
	kept_set(&d->id.kernel_name, name);
	d->wish.order = order;
	d->wish.present = true;
	kept_set(&d->record.reason, "new");
	registry_add(&w.registry, d);
	return d;
}

static void end_of_pass(void *data)
{
	reconcile_pass(data);
}

static int setup(void **state)
{
	(void) state;
	memset(&w, 0, sizeof(w));
	assert_int_equal(loop_new(&w.loop), 0);
	loop_set_pass_end(w.loop, end_of_pass, &w.registry);
	w.registry.loop = w.loop;
	w.registry.started = true;
	record_observe(&w.registry, observe, NULL);
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	while (w.registry.devices)
		registry_remove(&w.registry, w.registry.devices);
	loop_free(w.loop);
	return 0;
}

static enum step look_once(const struct device *device, unsigned n)
{
	(void) device;
	return n == 1 ? STEP_LOOK : STEP_REST;
}

static void test_order_of_the_rules(void **state)
{
	(void) state;
	new_device("c", 3);
	new_device("a", 1);
	new_device("b", 2);
	new_device("b2", 2);
	w.script = look_once;
	reconcile_pass(&w.registry);
	assert_string_equal(w.log, "a.look b.look b2.look c.look ");
	/* Nobody is marked any more. */
	w.n_decisions = 0;
	reconcile_pass(&w.registry);
	assert_int_equal(w.n_decisions, 0);
}

static enum step rest(const struct device *device, unsigned n)
{
	(void) device, (void) n;
	return STEP_REST;
}

/* An event passes by those that rest; the others, and whoever was touched, are found. */
static void test_who_rests_is_passed_by(void **state)
{
	struct registry *registry = &w.registry;
	struct device *waits = new_device("waits", 1), *rests = new_device("rests", 2);

	(void) state;
	w.script = rest;
	rests->record.state = DEVICE_ATTACHED;
	rests->place.vm = &some_vm;
	kept_set(&rests->place.handle, "h");
	assert_ptr_equal(registry_find_unsettled(registry, NULL), rests);
	assert_ptr_equal(registry_find_unsettled(registry, rests), waits);
	reconcile_pass(registry);
	assert_ptr_equal(registry_find_unsettled(registry, NULL), waits);
	assert_null(registry_find_unsettled(registry, waits));
	device_touch(rests);
	assert_ptr_equal(registry_find_unsettled(registry, NULL), rests);
	assert_ptr_equal(registry_find_unsettled(registry, rests), waits);
	reconcile_pass(registry);
	assert_ptr_equal(registry_find_unsettled(registry, NULL), waits);
	rests->place.vm = NULL;
}

static void test_nothing_before_the_start(void **state)
{
	(void) state;
	w.registry.started = false;
	w.script = look_once;
	new_device("a", 1);
	reconcile_pass(&w.registry);
	assert_int_equal(w.n_decisions, 0);
	w.registry.started = true;
	reconcile_pass(&w.registry);
	assert_string_equal(w.log, "a.look ");
}

static enum step verify_first(const struct device *device, unsigned n)
{
	return streq(device->id.kernel_name, "a") && n == 1 ? STEP_VERIFY : STEP_REST;
}

/* A step marks them all, those too that have been looked at. */
static void test_marks_made_by_a_step(void **state)
{
	(void) state;
	new_device("a", 2);
	new_device("b", 1);
	w.script = verify_first;
	reconcile_pass(&w.registry);
	assert_string_equal(w.log, "a.verify ");
	assert_int_equal(w.n_decisions, 4); /* b, a, b, a */
}

static enum step drop_some(const struct device *device, unsigned n)
{
	(void) n;
	return device->wish.order < 3 ? STEP_DROP : STEP_REST;
}

static void test_devices_that_leave_the_list(void **state)
{
	(void) state;
	new_device("a", 1);
	new_device("c", 3);
	new_device("b", 2);
	w.script = drop_some;
	reconcile_pass(&w.registry);
	assert_string_equal(w.log, "a.drop b.drop ");
	assert_string_equal(w.registry.devices->id.kernel_name, "c");
	assert_null(w.registry.devices->next);
	assert_int_equal(w.n_told, 2);
	assert_true(w.told_dropped);
}

static enum step spin_for_ever(const struct device *device, unsigned n)
{
	(void) n;
	return streq(device->id.kernel_name, "spins") ? STEP_LOOK : STEP_REST;
}

/* What would spin is let alone for a second, and keeps nobody else from being looked at. */
static void test_spinning_ends(void **state)
{
	(void) state;
	struct device *device = new_device("spins", 1);
	new_device("other", 2);
	w.script = spin_for_ever;
	reconcile_pass(&w.registry);
	assert_int_equal(w.n_decisions, 64 + 1);
	assert_true(device->again.loop != NULL);
	assert_false(device->marked);
	loop_timer_stop(&device->again);
	/* In the next pass it has a new account. */
	device_mark(device);
	w.n_decisions = 0;
	reconcile_pass(&w.registry);
	assert_int_equal(w.n_decisions, 64);
	w.script = look_once;
	w.n_decisions = 0;
	spin_for(w.loop, 1100);
	assert_int_equal(w.n_decisions, 2); /* the look, and the rest */
}

static enum step verify_each(const struct device *device, unsigned n)
{
	(void) device;
	return n == 1 ? STEP_VERIFY : STEP_REST;
}

/* Once a pass, whatever has happened in it; and not at all when nothing has. */
static void test_the_observer_is_told(void **state)
{
	(void) state;
	struct device *device = new_device("a", 1);

	w.script = verify_each;
	device->told = DEVICE_ATTACHED;
	reconcile_pass(&w.registry);
	assert_int_equal(w.n_told, 1);
	assert_int_equal(w.told_before, DEVICE_ATTACHED);
	assert_false(w.told_dropped);
	device_mark(device);
	reconcile_pass(&w.registry);
	assert_int_equal(w.n_told, 1);
	assert_int_equal(w.n_stored, 1);
}

/* "since" is the time at which a state was entered; passing through another does not count. */
static void test_since(void **state)
{
	(void) state;
	struct device *device = new_device("a", 1);

	record_set(&w.registry, device, DEVICE_REFUSED, "in use");
	assert_int_equal(w.n_stored, 1);
	device->record.since = device->saved.since = 1000; /* long ago */
	for (int i = 0; i < 3; i++) {
		record_pass_through(device, DEVICE_OPENING);
		assert_true(device->record.since > 1000);
		record_set(&w.registry, device, DEVICE_REFUSED, "in use");
		assert_int_equal(device->record.since, 1000);
	}
	assert_int_equal(w.n_stored, 1);
	record_set(&w.registry, device, DEVICE_REFUSED, "mounted on /mnt");
	assert_int_equal(device->record.since, 1000);
	assert_int_equal(w.n_stored, 2);
	record_set(&w.registry, device, DEVICE_WAITING, "mounted on /mnt");
	assert_true(device->record.since > 1000);
	assert_int_equal(w.n_stored, 3);
	/* A state that lasts is told. */
	record_pass_through(device, DEVICE_OPENING);
	record_set(&w.registry, device, DEVICE_OPENING, "the device does not respond");
	assert_int_equal(w.n_stored, 4);
	/* Another name, another handle. */
	record_name_vm(device, "vm2");
	record_set(&w.registry, device, DEVICE_OPENING, "the device does not respond");
	assert_int_equal(w.n_stored, 5);
	kept_set(&device->place.handle, "vhp-a-1");
	record_set(&w.registry, device, DEVICE_OPENING, "the device does not respond");
	assert_int_equal(w.n_stored, 6);
	assert_string_equal(device->record.handle, "vhp-a-1");
	kept_drop(&device->place.handle);
	record_set(&w.registry, device, DEVICE_WAITING, "has left");
}

int main(void)
{
#define PASS_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		PASS_TEST(test_order_of_the_rules),          PASS_TEST(test_who_rests_is_passed_by),
		PASS_TEST(test_nothing_before_the_start),    PASS_TEST(test_marks_made_by_a_step),
		PASS_TEST(test_devices_that_leave_the_list), PASS_TEST(test_spinning_ends),
		PASS_TEST(test_the_observer_is_told),        PASS_TEST(test_since),
	};

	loop_skip_waiting(true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
