/* One device on its way into a VM and back: see handover.h. The steps are called by reconcile_pass,
 * the answers by worker and VMs. */
#include "broker/handover.h"

#include "broker/attempt.h"
#include "broker/group.h"
#include "broker/handback.h"
#include "broker/job.h"
#include "broker/log.h"
#include "broker/look.h"
#include "broker/record.h"
#include "broker/unplug.h"

#define RELEASE_MS 30000    /* a guest that has not let go by then is said to refuse */
#define MAX_RELEASE_MS 5000 /* how often it is asked again, at the least */

/* Attach: open, give, verify */

static void begin_attempt(struct device *device, const struct vm *vm)
{
	struct device_attempt *attempt = &device->attempt;

	if (attempt->awaits_vm)
		device_set_cause(device, CAUSE_VM_START);
	attempt->awaits_vm = false;
	attempt->not_before = 0;
	attempt->began = now_monotonic_ms();
	record_name_vm(device, vm->name);
}

void handover_refuse(struct registry *registry, struct device *device, struct vm *vm,
		     const char *reason)
{
	bool is_news = device->record.state != DEVICE_REFUSED ||
		       !streq(device->record.vm, vm->name) ||
		       !streq(device->attempt.failure, reason);

	begin_attempt(device, vm);
	attempt_fail(registry, device, DEVICE_REFUSED, reason, 0);
	/* The rules have set it aside for vfio-pci; the host is better off with it, unless it goes
	 * back to the VM that it has come from. */
	if (is_news && !streq(device->attempt.move.failed, vm->name))
		handback_spare(registry, device);
}

static enum worker_job open_job(enum device_kind kind)
{
	switch (kind) {
	case DEVICE_USB:
		return WORKER_USB_OPEN;
	case DEVICE_PCI:
		return WORKER_PCI_TAKE;
	case DEVICE_EVDEV:
		return WORKER_EVDEV_TAKE;
	}
	abort();
}

void handover_open(struct registry *registry, struct device *device, struct vm *vm)
{
	struct device_attempt *attempt = &device->attempt;

	begin_attempt(device, vm);
	device->place.vm = vm_ref(vm);
	look_up_node(device);
	attempt->group.looked = false;
	attempt->is_ahead = vm->state != VM_UP;
	device->wish.prepare = false;
	attempt->awaits_send = true;
	/* Now: a driver that is slow to let go is not to be seen in sysfs any more. */
	if (device->id.kind == DEVICE_PCI)
		look_at_pci_driver(device);
	/* What a person saw before (a reason for waiting, say) stays until there is news. */
	record_pass_through(device, DEVICE_OPENING);
	if (job_ask(registry, device, open_job(device->id.kind)) < 0)
		attempt_fail(registry, device, DEVICE_WAITING, "the worker process is overloaded",
			     0);
	else
		attempt_mark_all(registry, device);
}

void handover_abandon(struct registry *registry, struct device *device)
{
	/* The worker may be stuck with it: its answer is not waited for. */
	attempt_let_go(device);
	record_pass_through(device, DEVICE_WAITING);
	attempt_mark_all(registry, device);
}

void handover_end(struct registry *registry, struct device *device, const char *reason)
{
	attempt_fail(registry, device, DEVICE_WAITING, reason, 0);
}

void handover_give(struct registry *registry, struct device *device)
{
	struct vm *vm = device->place.vm;
	_cleanup_close_ int fd = TAKE_FD(device->attempt.node_fd);

	device->attempt.opened = false;
	device->attempt.vmm_asked = true;
	device_name_handle(device);
	record_set(registry, device, DEVICE_ATTACHING, "%s",
		   *vm->reason ? vm->reason : "asking its VMM");
	vm->vmm->attach(vm, device, fd);
}

static void close_fds(int *fds, int n)
{
	for (int i = 0; i < n; i++)
		close(fds[i]);
}

/* Takes over the N disks. Returns 0 or -ENOMEM. */
static int hold_disks(struct device_attempt *attempt, const int *disks, int n)
{
	if (n == 0)
		return 0;
	attempt->disks = calloc((size_t) n, sizeof(*disks));
	if (!attempt->disks)
		return -ENOMEM;
	memcpy(attempt->disks, disks, (size_t) n * sizeof(*disks));
	attempt->n_disks = (unsigned) n;
	return 0;
}

static void note_opened(struct registry *registry, struct device *device,
			const struct worker_answer *answer, int *fds)
{
	struct device_attempt *attempt = &device->attempt;
	struct vm *vm = device->place.vm;
	int n = answer->has_node + answer->has_watch, r = answer->result;
	bool was_taken = attempt->taken;

	/* What could not look has not seen that it is free. */
	attempt->was_used = r == -EBUSY || (r < 0 && attempt->was_used);
	if (r >= 0)
		r = hold_disks(attempt, fds + n, answer->n_fds - n);
	if (r < 0) {
		close_fds(fds, answer->n_fds);
		attempt_fail(registry, device,
			     r == -EBUSY        ? DEVICE_REFUSED
			     : r == -EOPNOTSUPP ? DEVICE_FAILED
						: DEVICE_WAITING,
			     answer->detail[0] ? answer->detail : strerror(-r), 0);
		/* The worker has looked, and taken nothing. */
		if (r == -EBUSY && device->id.kind == DEVICE_PCI)
			attempt->taken = was_taken;
		/* Perhaps it is its VM that uses it, by its own command line. */
		if (r == -EBUSY)
			vm_refresh(vm);
		return;
	}
	attempt->opened = true;
	attempt->node_fd = answer->has_node ? fds[0] : -1;
	unplug_watch(registry, device, answer->has_watch ? fds[n - 1] : -1);
	device_mark(device);
}

void handover_attach_sent(struct registry *registry, struct device *device)
{
	(void) registry;
	device->attempt.awaits_send = false;
	attempt_release_helpers(device);
}

/* Does a host driver hold DEVICE, which is to be in its VM? */
static bool host_has_it(const struct device *device, char *ret_driver, size_t size)
{
	return device->id.kind == DEVICE_USB && device_may_be_in(device, device->place.vm->name) &&
	       usb_host_driver(device->id.devpath, ret_driver, size);
}

static void note_host_driver(struct registry *registry, struct device *device, const char *driver)
{
	const char *vm = device->place.vm->name, *use = device->attempt.host_driver;

	if (device->record.state != DEVICE_ATTACHING || device->attempt.n_retries == 0)
		log_warning("%s: %s has it, but so has the host driver %s%s%s",
			    device->id.kernel_name, vm, driver, *use ? ": " : "", use);
	record_set(registry, device, DEVICE_ATTACHING,
		   "%s has it, but so has the host driver %s%s%s", vm, driver, *use ? ": " : "",
		   *use ? use : ", which does not let go; is the fence off (fence = no)?");
	attempt_back_off(device, 0);
}

/* A former broker has given it, or somebody else: its unplug has yet to be watched for. */
static void ask_for_watch(struct registry *registry, struct device *device)
{
	struct device_unplug *unplug = &device->place.unplug;

	if (device->id.kind != DEVICE_PCI && !unplug->asked)
		unplug->asked = job_ask(registry, device, WORKER_WATCH) == 0;
}

/* It counts when no host driver has it. */
void handover_verify(struct registry *registry, struct device *device)
{
	struct device_attempt *attempt = &device->attempt;
	bool released = attempt->released;
	char driver[200];

	attempt->released = attempt->check = attempt->until_end = false;
	if (device->record.state == DEVICE_RELEASING)
		record_pass_through(device, DEVICE_ATTACHING);
	if (!released)
		kept_drop(&attempt->host_driver);
	if (host_has_it(device, driver, sizeof(driver))) {
		if (released || job_ask(registry, device, WORKER_USB_RELEASE) < 0)
			note_host_driver(registry, device, driver);
	} else {
		if (device->record.state == DEVICE_ATTACHING)
			attempt_note_arrived(registry, device);
		ask_for_watch(registry, device);
	}
}

/* A handle that a VMM gave to DEVICE can't be another device's any more: that one has left without
 * our knowing. It must not take DEVICE with it when it is detached. */
static void note_handle(struct registry *registry, const struct device *device)
{
	const struct vm *vm = device->place.vm;

	/* Other VMMs take ours, of which no two devices have the same. */
	for (struct device *d = registry->devices; d && vm && vm->vmm->gives_handles; d = d->next) {
		if (d == device || d->place.vm != vm ||
		    !streq(d->place.handle, device->place.handle) ||
		    (d->record.state != DEVICE_ATTACHED && d->record.state != DEVICE_ATTACHING))
			continue;
		device_set_cause(d, CAUSE_LOST);
		attempt_note_left(registry, d, CAUSE_LOST, "its place has gone to another device");
	}
}

/* The VM keeps DEVICE until it ends, for nothing: until then nobody else gets it. */
static void note_kept(struct registry *registry, struct device *device, const char *detail)
{
	device->attempt.until_end = true;
	record_failed(registry, device, DEVICE_RELEASING, detail);
	attempt_mark_all(registry, device);
}

/* The answer is lost, and the VM may have DEVICE: nobody else gets it before the VM has said. */
static void await_word(struct registry *registry, struct device *device, const char *detail)
{
	struct device_place *place = &device->place;

	attempt_release_helpers(device);
	record_set(registry, device, DEVICE_ATTACHING, "%s",
		   *detail ? detail : "its VM has not said whether it has it");
	record_pass_through(device, DEVICE_ATTACHED);
	place->unverified = place->was_arriving = place->was_lost = true;
	device_mark(device);
	vm_check(place->vm);
}

void handover_attached(struct registry *registry, struct device *device,
		       const struct vmm_result *result)
{
	struct device_attempt *attempt = &device->attempt;

	attempt_close_disks(device);
	attempt->vmm_asked = false;
	attempt->awaits_send = false;
	attempt->is_full = result->is_full;
	attempt->not_before = 0;
	if (result->outcome == VMM_OK) {
		note_handle(registry, device);
		device_mark(device);
	} else if (result->until_end) {
		note_kept(registry, device, result->detail);
	} else if (result->outcome == VMM_FAILED) {
		attempt_fail(registry, device, DEVICE_FAILED, result->detail, 0);
	} else if (result->is_unknown) {
		await_word(registry, device, result->detail);
	} else {
		attempt_fail(registry, device, DEVICE_WAITING, result->detail, result->delay_ms);
	}
}

/* Detach: take, await the guest, repeat */

static void ask_to_let_go(struct device *device)
{
	struct vm *vm = device->place.vm;

	device->attempt.request = 0;
	device->attempt.not_before = 0;
	device->attempt.vmm_asked = true;
	vm->vmm->detach(vm, device, device->place.handle);
}

void handover_take(struct registry *registry, struct device *device)
{
	struct device_attempt *attempt = &device->attempt;
	bool moves = device->wish.present && device->wish.rule[0] && *device_candidates(device);

	/* Only a move can go back, and what is taken out by hand moves nowhere. */
	kept_set(&attempt->move.from, moves ? device->record.vm : "");
	kept_drop(&attempt->move.failed);
	kept_drop(&attempt->failure);
	device->place.was_leaving = false;
	record_set(registry, device, DEVICE_DETACHING, "leaving %s", device->record.vm);
	ask_to_let_go(device);
}

void handover_repeat(struct registry *registry, struct device *device)
{
	(void) registry;
	ask_to_let_go(device);
}

/* A guest that is asked has its time; a reset of it completes the request as well. */
static void await_guest(struct registry *registry, struct device *device, const char *detail)
{
	struct device_attempt *attempt = &device->attempt;
	const char *vm = device->record.vm;
	uint64_t now = now_monotonic_ms();
	uint64_t delay = ATTEMPT_FIRST_RETRY_MS
			 << (attempt->n_retries < 5 ? attempt->n_retries : 5);
	bool is_patient = now - attempt->started < RELEASE_MS;
	bool was_told = strstr(device->record.reason, "does not let go") != NULL;

	if (is_patient)
		record_set(registry, device, DEVICE_RELEASING,
			   "waiting for the guest of %.60s to let go of it%s%.100s", vm,
			   *detail ? ": " : "", detail);
	else
		record_set(registry, device, DEVICE_RELEASING,
			   "the guest of %.60s does not let go of it; unload its driver there, or"
			   " reset or stop the VM",
			   vm);
	if (!is_patient && !was_told)
		log_warning("%s (%s): %s", device->id.kernel_name, device->id.name,
			    device->record.reason);
	attempt->n_retries++;
	attempt->not_before = now + (delay < MAX_RELEASE_MS ? delay : MAX_RELEASE_MS);
	device_mark(device);
}

/* Somebody may have waited for the room that is free now. */
static void note_let_go(struct registry *registry, struct device *device, const char *detail)
{
	struct vm *vm = vm_ref(device->place.vm);

	handback_look(registry, device);
	attempt_note_left(registry, device, device->attempt.cause, detail);
	registry_note_room(registry, vm);
	vm_unref(vm);
}

void handover_detached(struct registry *registry, struct device *device,
		       const struct vmm_result *result)
{
	device->attempt.vmm_asked = false;
	if (result->until_end) {
		device->attempt.until_end = true;
		record_set(registry, device, DEVICE_RELEASING, "%s", result->detail);
		device_mark(device);
	} else if (result->outcome == VMM_PENDING) {
		await_guest(registry, device, result->detail);
	} else if (result->outcome != VMM_OK && result->outcome != VMM_GONE) {
		/* It is still there, as far as we know, also where asking again is not likely to
		 * help. A guest that was asked before may still let go of it. */
		record_set(registry, device,
			   device->record.state == DEVICE_RELEASING ? DEVICE_RELEASING
								    : DEVICE_ATTACHED,
			   "still in %.60s: %.400s", device->record.vm, result->detail);
		log_warning("%s: %s", device->id.kernel_name, device->record.reason);
		attempt_back_off(device, 0);
	} else {
		note_let_go(registry, device,
			    result->outcome == VMM_GONE ? "the VM no longer had it" : "");
	}
}

/* The worker's answers */

/* A host driver was told to let go of a device that is in its VM. */
static void note_released(struct device *device, const struct worker_answer *answer)
{
	kept_clean(&device->attempt.host_driver, VMM_DETAIL_SIZE, answer->detail);
	device->attempt.released = device->attempt.check = true;
	device_mark(device);
}

void handover_worker_answered(void *data, const struct worker_answer *answer, int *fds)
{
	struct registry *registry = data;
	struct device *device = registry_find_request(registry, answer->number);

	if (job_note_look(registry, answer))
		return;
	if (device)
		device->attempt.request = 0;
	if (device && device->record.state == DEVICE_OPENING) {
		note_opened(registry, device, answer, fds);
		return;
	}
	if (device && device->place.vm && answer->has_watch) {
		unplug_watch(registry, device, fds[0]);
		return;
	}
	close_fds(fds, answer->n_fds);
	if (!device)
		handback_note_look(registry, answer);
	else if (!device->place.vm)
		handback_note_answer(registry, device, answer);
	else if (answer->result != -ENODEV)
		note_released(device, answer);
}

/* What edges have learnt */

void handover_note_never_arrived(struct registry *registry, struct device *device)
{
	char detail[VMM_DETAIL_SIZE];

	snprintf(detail, sizeof(detail), "%s", device->record.reason);
	if (device->place.was_lost) {
		attempt_fail(registry, device, DEVICE_WAITING, detail, 0);
		return;
	}
	attempt_let_go(device);
	record_set(registry, device, DEVICE_WAITING,
		   "the broker has ended before it was in its VM");
	device_mark(device);
}

void handover_resume(struct registry *registry, struct device *device)
{
	const struct vmm_result result = {.outcome = VMM_OK};

	device->place.unverified = device->place.was_arriving = device->place.was_lost = false;
	record_pass_through(device, DEVICE_ATTACHING);
	handover_attached(registry, device, &result);
}

void handover_adopt(struct registry *registry, struct device *device, struct vm *vm)
{
	record_name_vm(device, vm->name);
	device->place.vm = vm_ref(vm);
	device_name_handle(device);
	device->attempt.check = true;
	attempt_note_arrived(registry, device);
}
