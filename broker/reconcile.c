/* Mark, decide, do: see reconcile.h. Called by the loop's end of pass, and by nobody else. */
#include "broker/reconcile.h"

#include "broker/adopt.h"
#include "broker/attempt.h"
#include "broker/decide.h"
#include "broker/handback.h"
#include "broker/handover.h"
#include "broker/log.h"
#include "broker/record.h"

#define MAX_LOOKS 64 /* a device at which more is to be done in one pass spins */
#define SPIN_MS 1000

static void mark_again(void *data)
{
	device_mark(data);
}

/* Is A's turn before B's? Of one rule the device that has come earlier goes first. */
static bool is_before(const struct device *a, const struct device *b)
{
	return a->wish.order != b->wish.order ? a->wish.order < b->wish.order
					      : a->arrival < b->arrival;
}

/* The marked device whose turn it is, or NULL. */
static struct device *next_marked(const struct registry *registry)
{
	struct device *first = NULL;

	for (struct device *d = registry->touched; d; d = d->stir.next)
		if (d->marked && (!first || is_before(d, first)))
			first = d;
	return first;
}

static enum device_state state_after(enum step step, const struct device *device)
{
	return step == STEP_HOLD       ? DEVICE_HELD
	       : step == STEP_ASK      ? DEVICE_CHOOSE
	       : step == STEP_KEEP_OUT ? DEVICE_DETACHED
	       : step == STEP_SUSPEND  ? DEVICE_SUSPENDED
	       : step == STEP_WAIT     ? DEVICE_WAITING
	       : step == STEP_FAIL     ? DEVICE_FAILED
				       : device->record.state;
}

/* The device stays where it is, and people are told why. There may be something to do meanwhile. */
static void tell_people(struct registry *registry, struct device *device,
			const struct decision *decision)
{
	const struct vm *vm = decision->vm;

	if (decision->step == STEP_WAIT && vm->state != VM_UP) {
		/* It is being asked, perhaps for the second time: its start has not ended. */
		bool still = device->attempt.awaits_vm && streq(device->record.vm, vm->name);

		record_name_vm(device, vm->name);
		device->attempt.awaits_vm = still || vm->state == VM_DOWN || *vm->reason;
	} else if (decision->step == STEP_WAIT && !*device->record.vm) {
		record_name_vm(device, vm->name);
	} else if (decision->step == STEP_FAIL) {
		record_name_vm(device, device->wish.vms);
	}
	record_set(registry, device, state_after(decision->step, device), "%s", decision->reason);
	if (decision->step != STEP_TELL)
		device_mark(device);
	if (device->record.state != DEVICE_OPENING)
		return;
	log_warning("%s (%s): %s", device->id.kernel_name, device->id.name, decision->reason);
	attempt_release_helpers(device);
}

static void turn_to_vm(struct registry *registry, struct device *device,
		       const struct decision *decision)
{
	if (decision->step == STEP_LOOK)
		handover_look(registry, device, decision->vm);
	else if (decision->step == STEP_REFUSE)
		handover_refuse(registry, device, decision->vm, decision->reason);
	else if (decision->step == STEP_ADOPT)
		adopt_cold(registry, device, decision->vm);
	else
		handover_open(registry, device, decision->vm);
}

/* DEVICE may be freed. */
static void take_step(struct registry *registry, struct device *device,
		      const struct decision *decision)
{
	switch (decision->step) {
	case STEP_REST:
		break;
	case STEP_TELL:
	case STEP_HOLD:
	case STEP_ASK:
	case STEP_KEEP_OUT:
	case STEP_SUSPEND:
	case STEP_WAIT:
	case STEP_FAIL:
		tell_people(registry, device, decision);
		break;
	case STEP_RETURN:
		handback_return(registry, device, decision->reason);
		break;
	case STEP_DROP:
		handback_drop(registry, device);
		break;
	case STEP_FENCE:
		handback_fence(registry, device);
		break;
	case STEP_LOOK:
	case STEP_REFUSE:
	case STEP_ADOPT:
	case STEP_OPEN:
		turn_to_vm(registry, device, decision);
		break;
	case STEP_ABANDON:
		handover_abandon(registry, device);
		break;
	case STEP_GIVE:
		handover_give(registry, device);
		break;
	case STEP_END:
		handover_end(registry, device, decision->reason);
		break;
	case STEP_VERIFY:
		handover_verify(registry, device);
		break;
	case STEP_TAKE:
		handover_take(registry, device);
		break;
	case STEP_REPEAT:
		handover_repeat(registry, device);
		break;
	}
}

static void look_at(struct registry *registry, struct device *device)
{
	device->marked = false;
	loop_timer_stop(&device->again);
	if (++device->n_looks > MAX_LOOKS) {
		if (device->n_looks == MAX_LOOKS + 1)
			log_error("%s (%s): does not come to rest while it is %s (%s): let alone"
				  " for a second; please report this",
				  device->id.kernel_name, device->id.name,
				  device_state_name(device->record.state), device->record.reason);
		loop_timer_start(registry->loop, &device->again, SPIN_MS, mark_again, device);
		return;
	}
	struct decision decision = decide(registry, device, now_monotonic_ms());
	if (decision.again_ms > 0)
		loop_timer_start(registry->loop, &device->again, decision.again_ms, mark_again,
				 device);
	take_step(registry, device, &decision);
}

#ifdef VHOTPLUG_DEV
static void check_device(const struct device *device)
{
	const char *wrong = device_check(device);

	if (!wrong && !device->stir.at && (device->changed || !device_is_at_rest(device)))
		wrong = "nobody has touched it when that changed";
	if (!wrong)
		return;
	log_error("%s is %s (%s), but %s", device->id.kernel_name,
		  device_state_name(device->record.state), device->record.reason, wrong);
	abort();
}
#endif

/* All of them, whoever was touched. */
static void check_invariants(const struct registry *registry)
{
#ifdef VHOTPLUG_DEV
	for (const struct device *d = registry->devices; d; d = d->next)
		check_device(d);
#else
	(void) registry;
#endif
}

void reconcile_pass(struct registry *registry)
{
	struct device *device;

	while (registry->started && !registry->halted && (device = next_marked(registry)))
		look_at(registry, device);
	for (struct device *d = registry->touched; d; d = d->stir.next) {
		d->n_looks = 0;
		if (!d->attempt.awaits_send)
			attempt_release_helpers(d);
	}
	check_invariants(registry);
	record_tell(registry);
	registry_settle(registry);
}
