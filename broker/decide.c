/* The one decision: see decide.h. Called by reconcile_pass for each marked device. */
#include "broker/decide.h"

#include <stdarg.h>

#include "broker/group.h"

#define SLOW_MS 3000 /* what takes longer to be opened, or its driver to let go, is stuck */
#define TURN_MS 3000 /* how long a PCI device waits for those whose rules come before its own */
#define ASK_MS 200   /* how often it looks whether its turn has come */
#define MAX_ON_THEIR_WAY 64 /* to one VM: each holds descriptors until it has answered */
#define ELSEWHERE_MS 2000   /* the same, for one whose group is elsewhere */
#define LEND_MS 5000 /* one that goes to a VM again so soon is not lent to the host in between */

static const char *const step_names[] = {
	[STEP_REST] = "rest",         [STEP_TELL] = "tell",       [STEP_DROP] = "drop",
	[STEP_HOLD] = "hold",         [STEP_WAIT] = "wait",       [STEP_FAIL] = "fail",
	[STEP_LOOK] = "look",         [STEP_ADOPT] = "adopt",     [STEP_REFUSE] = "refuse",
	[STEP_OPEN] = "open",         [STEP_FENCE] = "fence",     [STEP_ABANDON] = "abandon",
	[STEP_GIVE] = "give",         [STEP_END] = "end",         [STEP_VERIFY] = "verify",
	[STEP_TAKE] = "take",         [STEP_REPEAT] = "repeat",   [STEP_ASK] = "ask",
	[STEP_KEEP_OUT] = "keep out", [STEP_SUSPEND] = "suspend", [STEP_RETURN] = "return",
};

const char *decide_step_name(enum step step)
{
	return step_names[step];
}

static struct decision do_step(enum step step, struct vm *vm)
{
	return (struct decision){.step = step, .vm = vm};
}

static struct decision do_nothing(void)
{
	return (struct decision){.step = STEP_REST};
}

/* Rests until TIME, if that is not over yet. */
static struct decision rest_until(uint64_t time, uint64_t now)
{
	return (struct decision){.step = STEP_REST, .again_ms = time > now ? time - now : 0};
}

static struct decision say_reason(enum step step, struct vm *vm, const char *format, ...)
	_printf_(3, 4);
static struct decision say_reason(enum step step, struct vm *vm, const char *format, ...)
{
	struct decision decision = {.step = step, .vm = vm};
	va_list args;

	va_start(args, format);
	vsnprintf(decision.reason, sizeof(decision.reason), format, args);
	va_end(args);
	return decision;
}

/* DECISION, or rest where people have been told so already. */
static struct decision unless_told(const struct device *device, struct decision decision,
				   enum device_state state, const char *vm)
{
	const struct device_record *record = &device->record;

	if (record->state == state && streq(record->reason, decision.reason) &&
	    streq(record->vm, vm))
		decision.step = STEP_REST;
	return decision;
}

/* Where */

static bool is_candidate(const struct registry *registry, const struct device *device,
			 struct vm *vm)
{
	return vm && device_may_be_in(device, vm->name) &&
	       registry_find_vm(registry, vm->name) == vm;
}

/* The first candidate that is up or about to be; else the first one; NULL: none is in the config.
 */
static struct vm *first_candidate(const struct registry *registry, const struct device *device)
{
	const struct device_move *move = &device->attempt.move;
	char names[DEVICE_LIST_SIZE], *save = NULL;
	struct vm *first = NULL;

	snprintf(names, sizeof(names), "%s",
		 move->failed[0] ? move->from : device_candidates(device));
	for (char *name = strtok_r(names, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
		struct vm *vm = registry_find_vm(registry, name);

		/* One that is being asked for the first time may be up in a moment: its answer
		 * decides, not who answers first. */
		if (vm && (vm->state == VM_UP || (vm->state == VM_PROBING && !*vm->reason)))
			return vm;
		if (!first)
			first = vm;
	}
	return first;
}

/* The VM that DEVICE should be in: where it is, or where its IOMMU group is, if it may be there. */
static struct vm *choose_vm(const struct registry *registry, const struct device *device)
{
	struct vm *of_group;

	if (is_candidate(registry, device, device->place.vm))
		return device->place.vm;
	of_group = device->id.kind == DEVICE_PCI ? group_vm(registry, device) : NULL;
	if (is_candidate(registry, device, of_group))
		return of_group;
	return first_candidate(registry, device);
}

/* May DEVICE stay where it is? */
static bool is_in_place(const struct registry *registry, const struct device *device)
{
	const struct vm *vm = device->place.vm;

	if (device->place.is_cold)
		return device_may_stay_in(device, vm->name) &&
		       registry_find_vm(registry, vm->name) == vm;

	return device_may_be_in(device, vm->name) && choose_vm(registry, device) == vm;
}

/* A device that is nowhere and for which nothing is under way */

static struct decision wait_for_vm(const struct device *device, struct vm *vm)
{
	struct decision decision =
		say_reason(STEP_WAIT, vm, "%s", *vm->reason ? vm->reason : "its VM is being asked");

	return unless_told(device, decision, DEVICE_WAITING, vm->name);
}

static struct decision fail_without_vm(const struct device *device)
{
	const char *vms = device->wish.vms;
	struct decision decision =
		say_reason(STEP_FAIL, NULL,
			   "no VM \"%.60s\" in the broker's config; run vhotplug-gen-rules", vms);

	return unless_told(device, decision, DEVICE_FAILED, vms);
}

static struct decision hold_device(const struct device *device)
{
	struct decision decision = say_reason(
		STEP_HOLD, NULL, "was plugged in already (attachConnected = no); plug it in again");

	return unless_told(device, decision, DEVICE_HELD, device->record.vm);
}

/* What people want, or have yet to say, keeps DEVICE out of every VM. Sets *RET_DECISION then. */
static bool is_kept_out(const struct device *device, struct decision *ret_decision)
{
	const struct device_wish *wish = &device->wish;
	enum device_state state = DEVICE_DETACHED;
	struct decision decision;

	if (wish->away == AWAY_SUSPENDED) {
		state = DEVICE_SUSPENDED;
		decision = say_reason(STEP_SUSPEND, NULL, "until resume");
	} else if (wish->away != AWAY_NOT) {
		decision =
			say_reason(STEP_KEEP_OUT, NULL, "%s",
				   wish->away == AWAY_DETACHED
					   ? "taken out by hand; vhotplugctl attach gives it back"
					   : "taken out by hand until it is plugged in again");
	} else if (!*device_candidates(device) && *wish->vms) {
		state = DEVICE_CHOOSE;
		decision =
			say_reason(STEP_ASK, NULL,
				   "may go to %.120s: vhotplugctl select chooses one", wish->vms);
	} else {
		return false;
	}
	*ret_decision = unless_told(device, decision, state, device->record.vm);
	return true;
}

/* Sets *RET_DECISION and returns true while DEVICE has to wait for other PCI devices: they go in
 * the order of their rules, but one that is stuck does not hold up the others. */
static bool waits_for_others(const struct registry *registry, const struct device *device,
			     struct vm *vm, uint64_t now, struct decision *ret_decision)
{
	const struct device *other;
	struct decision decision;
	uint64_t again_ms = ELSEWHERE_MS;

	if ((other = group_elsewhere(registry, device, vm))) {
		decision = say_reason(STEP_WAIT, vm, "%s of its IOMMU group is still in %.60s",
				      other->id.kernel_name, other->record.vm);
	} else if ((other = group_on_its_way_back(registry, device))) {
		decision = say_reason(STEP_WAIT, vm,
				      "%s of its IOMMU group is just being given back to the host",
				      other->id.kernel_name);
	} else if ((other = group_earlier(registry, device, vm)) &&
		   now - other->attempt.began <= TURN_MS) {
		decision =
			say_reason(STEP_WAIT, vm, "its turn comes after %s", other->id.kernel_name);
		again_ms = ASK_MS;
	} else {
		return false;
	}
	decision = unless_told(device, decision, DEVICE_WAITING, device->record.vm);
	decision.again_ms = again_ms;
	*ret_decision = decision;
	return true;
}

/* Those that have been unplugged meanwhile count: the VM owes an answer for them too. */
static size_t count_on_their_way(const struct registry *registry, const struct vm *vm)
{
	size_t n = 0;

	for (const struct device *d = NULL; (d = registry_find_unsettled(registry, d));)
		n += d->place.vm == vm &&
		     (d->record.state == DEVICE_OPENING || d->record.state == DEVICE_ATTACHING);
	return n;
}

/* A VM that does not answer holds so much of the broker, and no more. */
static bool waits_for_answers(const struct registry *registry, const struct device *device,
			      struct vm *vm, struct decision *ret_decision)
{
	if (count_on_their_way(registry, vm) < MAX_ON_THEIR_WAY)
		return false;
	*ret_decision = unless_told(device,
				    say_reason(STEP_WAIT, vm,
					       "%.60s has still to answer for %d other devices",
					       vm->name, MAX_ON_THEIR_WAY),
				    DEVICE_WAITING, device->record.vm);
	ret_decision->again_ms = ASK_MS;
	return true;
}

static struct decision prepare_device(const struct registry *registry, const struct device *device,
				      struct vm *vm, uint64_t now)
{
	struct decision decision;
	char reason[sizeof(decision.reason)];

	if (waits_for_answers(registry, device, vm, &decision))
		return decision;
	if (device->id.kind != DEVICE_PCI)
		return do_step(STEP_OPEN, vm);
	if (vm->state == VM_UP && !group_is_taken_by(registry, device, vm, reason, sizeof(reason)))
		return say_reason(STEP_REFUSE, vm, "%s", reason);
	if (waits_for_others(registry, device, vm, now, &decision))
		return decision;
	if (!device->attempt.group.looked)
		return do_step(STEP_LOOK, vm);
	if (!group_may_go(registry, device, vm, reason, sizeof(reason)))
		return say_reason(STEP_REFUSE, vm, "%s", reason);
	return do_step(STEP_OPEN, vm);
}

/* STEP, or DECISION, to rest, until its TIME has come. */
static struct decision step_at(enum step step, uint64_t time, struct decision decision,
			       uint64_t now)
{
	if (now >= time)
		return do_step(step, NULL);
	if (decision.again_ms == 0 || decision.again_ms > time - now)
		decision.again_ms = time - now;
	return decision;
}

/* DEVICE, which has no fence, was taken from the host: is it to have it back? Not where it is ready
 * for its VM's start, unless somebody has taken it out, nor what is tried again in a moment. */
static bool is_to_be_lent(const struct registry *registry, const struct device *device,
			  uint64_t again_ms)
{
	const struct device_attempt *attempt = &device->attempt;

	return attempt->taken && !(attempt->is_ahead && device->wish.away == AWAY_NOT) &&
	       !(again_ms > 0 && again_ms < LEND_MS) && !group_keeper(registry, device);
}

/* Nothing else is to be done with DEVICE now: the host is kept from it, or has it without a fence.
 * What is refused is the host's. */
static struct decision settle_or(const struct registry *registry, const struct device *device,
				 const struct vm *vm, struct decision decision, uint64_t now)
{
	const struct device_attempt *attempt = &device->attempt;
	uint64_t since = device->wish.away == AWAY_NOT ? attempt->started + LEND_MS : 0;

	if (decision.step != STEP_REST)
		return decision;
	/* It may be up in a moment. */
	if (vm && vm->state == VM_PROBING && !*vm->reason)
		return decision;
	if (device->wish.fence && !attempt->fence.settled && device->record.state != DEVICE_REFUSED)
		return step_at(STEP_FENCE, attempt->fence.not_before, decision, now);
	if (device->wish.unfenced && is_to_be_lent(registry, device, decision.again_ms))
		return step_at(STEP_RETURN,
			       since > attempt->back.not_before ? since : attempt->back.not_before,
			       decision, now);
	return decision;
}

/* The VM that has had DEVICE since its start, if that counts, or NULL. It is the VM's own word: it
 * does not keep DEVICE from another one that comes first and could have it now. */
static struct vm *vm_that_has_it(const struct registry *registry, const struct device *device)
{
	const struct cold *cold;
	struct vm *vm = registry_find_cold(registry, device, &cold);
	const struct vm *wanted = vm ? choose_vm(registry, device) : NULL;

	return vm && wanted && wanted != vm && wanted->state == VM_UP ? NULL : vm;
}

/* No rule wants DEVICE: it stays on record until it is the host's again. */
static struct decision return_device(const struct registry *registry, const struct device *device,
				     uint64_t now)
{
	const struct device_back *back = &device->attempt.back;
	const struct device *keeper = group_keeper(registry, device);
	struct decision decision;

	if (back->is_done)
		return do_step(STEP_DROP, NULL);
	if (keeper) {
		decision = say_reason(STEP_RETURN, NULL,
				      "not given back to the host yet: %s of its IOMMU group is"
				      " %.60s's",
				      keeper->id.kernel_name, keeper->record.vm);
		decision = unless_told(device, decision, DEVICE_WAITING, "");
		decision.again_ms = ELSEWHERE_MS;
		return decision;
	}
	if (now < back->not_before)
		return rest_until(back->not_before, now);
	return do_step(STEP_RETURN, NULL);
}

/* May a VM that is being asked for the first time have had DEVICE since its start? */
static bool is_asked_for(const struct registry *registry, const struct device *device)
{
	for (const struct vm *vm = registry->vms; vm; vm = vm->next)
		if (vm->state == VM_PROBING && !*vm->reason &&
		    device_may_be_found_in(device, vm->name))
			return true;
	return false;
}

/* DEVICE is held, and the host's: the rules, which do not know that, have set it aside. */
static struct decision hold_or_return(const struct registry *registry, const struct device *device,
				      uint64_t now)
{
	const struct device_back *back = &device->attempt.back;
	bool is_set_aside = device->id.kind == DEVICE_PCI || device->wish.fence;
	struct decision decision = hold_device(device);

	if (decision.step != STEP_REST || !is_set_aside || back->is_done ||
	    is_asked_for(registry, device))
		return decision;
	return now < back->not_before ? rest_until(back->not_before, now)
				      : do_step(STEP_RETURN, NULL);
}

static struct decision decide_nowhere(const struct registry *registry, const struct device *device,
				      uint64_t now)
{
	const struct device_attempt *attempt = &device->attempt;
	struct decision decision;
	struct vm *vm;

	if (!device->wish.present)
		return do_step(STEP_DROP, NULL);
	/* The worker is at its fence, or gives it back: what comes after must not overtake that. */
	if (attempt->request != 0)
		return do_nothing();
	if (!device->wish.rule[0])
		return return_device(registry, device, now);
	if ((vm = vm_that_has_it(registry, device)))
		return do_step(STEP_ADOPT, vm);
	if (is_kept_out(device, &decision))
		return settle_or(registry, device, NULL, decision, now);
	if (device->wish.held)
		return hold_or_return(registry, device, now);
	vm = choose_vm(registry, device);
	if (!vm)
		return settle_or(registry, device, vm, fail_without_vm(device), now);
	if (vm->state != VM_UP && !device->wish.prepare)
		return settle_or(registry, device, vm, wait_for_vm(device, vm), now);
	if (attempt->gave_up)
		return settle_or(registry, device, vm, do_nothing(), now);
	if (now < attempt->not_before)
		return settle_or(registry, device, vm, rest_until(attempt->not_before, now), now);
	return prepare_device(registry, device, vm, now);
}

/* On its way, there, and on its way back */

static struct decision decide_opening(const struct device *device, uint64_t now)
{
	const struct device_attempt *attempt = &device->attempt;
	struct vm *vm = device->place.vm;
	uint64_t slow = attempt->began + SLOW_MS;
	struct decision decision;

	if (!device_may_be_in(device, vm->name))
		return do_step(STEP_ABANDON, NULL);
	if (attempt->opened && vm->state == VM_UP)
		return do_step(STEP_GIVE, vm);
	/* The VM is about to be started: vfio-pci has the device now, and keeps it. */
	if (attempt->opened && attempt->is_ahead)
		return do_step(STEP_ABANDON, NULL);
	if (attempt->opened)
		return say_reason(STEP_END, vm, "%s",
				  *vm->reason ? vm->reason : "its VM has ended");
	if (now < slow)
		return rest_until(slow, now);
	if (attempt->host_driver[0])
		decision = say_reason(STEP_TELL, vm,
				      "waiting for the host's driver %s to let go of it",
				      attempt->host_driver);
	else
		decision = say_reason(STEP_TELL, vm,
				      "waiting for the host's kernel: the device does not respond");
	return unless_told(device, decision, DEVICE_OPENING, device->record.vm);
}

/* The VMM has been asked and has not answered: says why, if there is something to say. */
static struct decision await_vmm(const struct device *device, const char *otherwise)
{
	const struct vm *vm = device->place.vm;
	const struct device_record *record = &device->record;
	struct decision decision =
		say_reason(STEP_TELL, NULL, "%s", *vm->reason ? vm->reason : otherwise);

	return unless_told(device, decision, record->state, record->vm);
}

static struct decision decide_attaching(const struct device *device, uint64_t now)
{
	const struct device_attempt *attempt = &device->attempt;

	if (attempt->vmm_asked)
		return await_vmm(device, "asking its VMM");
	if (attempt->request != 0)
		return do_nothing();
	if (now < attempt->not_before)
		return rest_until(attempt->not_before, now);
	return do_step(STEP_VERIFY, NULL);
}

static struct decision decide_attached(const struct registry *registry, const struct device *device,
				       uint64_t now)
{
	const struct device_attempt *attempt = &device->attempt;

	/* On record only, after a restart of the broker: its VM has not been asked yet, and when it
	 * is not running that is said by vm_handler.exited. */
	if (device->place.unverified)
		return do_nothing();
	if (now < attempt->not_before)
		return rest_until(attempt->not_before, now);
	/* A guest that has been asked can't be asked to keep it: it leaves, and comes back. */
	if (device->place.was_leaving || !is_in_place(registry, device))
		return do_step(STEP_TAKE, NULL);
	if (attempt->check && attempt->request == 0)
		return do_step(STEP_VERIFY, NULL);
	return do_nothing();
}

/* PCI: unplugging is a request to the guest. It may be lost before an operating system runs, and
 * there is no event for a refusal, so it is repeated. */
static struct decision decide_releasing(const struct registry *registry,
					const struct device *device, uint64_t now)
{
	const struct device_attempt *attempt = &device->attempt;

	if (attempt->vmm_asked)
		return await_vmm(device, device->record.reason);
	if (attempt->request != 0)
		return do_nothing();
	/* Its guest has not been asked for what it keeps from its start. */
	if (attempt->until_end && device->place.is_cold && is_in_place(registry, device))
		return do_step(STEP_VERIFY, NULL);
	if (attempt->until_end && device->wish.present)
		return do_nothing();
	if (now < attempt->not_before)
		return rest_until(attempt->not_before, now);
	return do_step(STEP_REPEAT, NULL);
}

static struct decision decide_detaching(const struct device *device)
{
	char otherwise[100];

	snprintf(otherwise, sizeof(otherwise), "leaving %s", device->place.vm->name);
	return await_vmm(device, otherwise);
}

struct decision decide(const struct registry *registry, const struct device *device, uint64_t now)
{
	switch (device->record.state) {
	case DEVICE_OPENING:
		return decide_opening(device, now);
	case DEVICE_ATTACHING:
		return decide_attaching(device, now);
	case DEVICE_ATTACHED:
		return decide_attached(registry, device, now);
	case DEVICE_RELEASING:
		return decide_releasing(registry, device, now);
	case DEVICE_DETACHING:
		return decide_detaching(device);
	case DEVICE_WAITING:
	case DEVICE_HELD:
	case DEVICE_CHOOSE:
	case DEVICE_DETACHED:
	case DEVICE_SUSPENDED:
	case DEVICE_REFUSED:
	case DEVICE_FAILED:
		return decide_nowhere(registry, device, now);
	}
	abort();
}
