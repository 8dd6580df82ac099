/* The edges that VMs make: they come up, end, can't be reached, and answer. See tidings.h. */
#include "broker/tidings.h"

#include "broker/attempt.h"
#include "broker/choice.h"
#include "broker/handover.h"
#include "broker/job.h"
#include "broker/log.h"
#include "broker/record.h"
#include "broker/store.h"

#define STRANGE_RETRY_MS 30000 /* for what a VM should not have */
#define STRANGE_TRIES 5

static bool has_handle(char *const *handles, size_t n, const char *handle)
{
	for (size_t i = 0; i < n; i++)
		if (streq(handles[i], handle))
			return true;
	return false;
}

/* The VM has DEVICE. What the former broker did not live to record is recorded now. */
static void confirm_device(struct registry *registry, struct device *device)
{
	device->attempt.check = true;
	if (!device->place.unverified)
		return;
	if (device->place.was_arriving) {
		handover_resume(registry, device);
		return;
	}
	device->place.unverified = false;
	record_save(registry, device);
}

/* DEVICE is in its VM by our book: is it by the VM's? */
static void compare_attached(struct registry *registry, struct device *device, char *const *handles,
			     size_t n)
{
	const struct vm *vm = device->place.vm;
	bool was_unverified = device->place.unverified;

	device->place.is_cold = cold_find(&vm->cold, device->place.handle) != NULL;
	if (device->place.is_cold || has_handle(handles, n, device->place.handle)) {
		confirm_device(registry, device);
	} else if (device->place.was_arriving) {
		handover_note_never_arrived(registry, device);
	} else {
		enum device_cause cause = !device->wish.present ? CAUSE_UNPLUG
					  : was_unverified      ? CAUSE_VM_EXIT
								: CAUSE_LOST;
		attempt_note_left(registry, device, cause,
				  cause == CAUSE_LOST ? "the VM no longer had it" : "");
		device->attempt.awaits_vm = was_unverified;
		device_set_cause(device, CAUSE_VM_START);
	}
}

/* HANDLE is in VM, and on its way out: it comes anew, if it is to be there. */
static bool is_leaving(const struct vm *vm, const char *handle)
{
	return vm->vmm->is_leaving && vm->vmm->is_leaving(vm, handle);
}

/* HANDLE is in VM: adopts it for the device it belongs to, or takes it out. */
static void adopt_or_remove(struct registry *registry, struct vm *vm, const char *handle)
{
	for (struct device *d = registry->devices; d; d = d->next) {
		char own[DEVICE_HANDLE_SIZE];

		device_make_handle(d, own, sizeof(own));
		if (!streq(own, handle))
			continue;
		if (d->place.vm == vm && d->record.state != DEVICE_OPENING)
			return;
		if (d->place.vm) {
			log_warning("%s: says that it has %s, which is in %s: left alone", vm->name,
				    handle, d->place.vm->name);
			return;
		}
		/* Whoever answers for this VM has no say over a device that is not for it. */
		if (!device_may_be_in(d, vm->name) || is_leaving(vm, handle))
			break;
		/* The attach of a broker that did not live to record it. */
		handover_adopt(registry, d, vm);
		return;
	}
	log_warning("%s: has %s, which it should not have: taken away", vm->name, handle);
	vm->vmm->detach(vm, NULL, handle);
}

static const char *name_of_process(void *data, const struct vm *vm, const struct peer *peer)
{
	const struct registry *registry = data;

	for (const struct vm *v = registry->vms; v; v = v->next)
		if (v != vm && v->peer.pid == peer->pid && v->peer.start_time == peer->start_time)
			return v->name;
	return NULL;
}

static void vm_is_up(void *data, struct vm *vm, char *const *handles, size_t n)
{
	struct registry *registry = data;

	choice_vm_was_found(registry, vm);
	for (struct device *d = registry->devices; d; d = d->next) {
		struct device_move *move = &d->attempt.move;

		if (d->place.vm == vm && d->record.state == DEVICE_ATTACHED)
			compare_attached(registry, d, handles, n);
		/* It has started anew: what failed may work now. */
		if (streq(move->failed, vm->name) && move->failed_pid != vm->peer.pid)
			kept_drop(&move->failed);
	}
	for (size_t i = 0; i < n && !vm->vmm->gives_handles; i++)
		adopt_or_remove(registry, vm, handles[i]);
	for (struct device *d = registry->devices; d; d = d->next)
		if (d->place.vm == vm || device_may_be_found_in(d, vm->name))
			device_retry(d);
}

static void vm_has_exited(void *data, struct vm *vm)
{
	struct registry *registry = data;

	choice_vm_has_exited(registry, vm);
	/* It may have been the one whose process another VM has claimed to be. */
	for (struct vm *v = registry->vms; v; v = v->next)
		if (v != vm && v->is_taken)
			vm_wake(v);
	for (struct device *d = registry->devices; d; d = d->next) {
		enum device_state state = d->record.state;

		/* Another process: what has failed may work, and there is no way back. */
		if (device_may_be_in(d, vm->name)) {
			d->attempt.n_retries = 0;
			device_retry(d);
		}
		/* It may be why a group could not be given back. */
		d->attempt.back.not_before = 0;
		if (streq(d->attempt.move.from, vm->name)) {
			kept_drop(&d->attempt.move.from);
			kept_drop(&d->attempt.move.failed);
		}
		if (streq(d->attempt.move.failed, vm->name))
			d->attempt.move.failed_pid = -1;
		device_mark(d);
		if (d->place.vm == vm && d->place.was_lost) {
			handover_note_never_arrived(registry, d);
			continue;
		}
		/* Attaching still: the VM had it, but a host driver had not let go. */
		if (d->place.vm != vm || (state != DEVICE_ATTACHED && state != DEVICE_RELEASING &&
					  state != DEVICE_ATTACHING))
			continue;
		device_set_cause(d, CAUSE_VM_EXIT);
		attempt_note_left(registry, d, CAUSE_VM_EXIT, "");
	}
}

/* A VM that does not run has nothing, whatever was on record. */
static void vm_reason_changed(void *data, struct vm *vm)
{
	struct registry *registry = data;

	registry_mark_of_vm(registry, vm->name);
	if (vm->state != VM_DOWN || !vm->is_absent)
		return;
	choice_vm_has_exited(registry, vm);
	for (struct device *d = registry->devices; d; d = d->next) {
		if (d->place.vm != vm || !d->place.unverified)
			continue;
		if (d->place.was_arriving) {
			handover_note_never_arrived(registry, d);
			continue;
		}
		device_set_cause(d, CAUSE_VM_EXIT);
		attempt_note_left(registry, d, CAUSE_VM_EXIT, "while the broker was not running");
	}
}

static void handle_new_handle(void *data, struct device *device)
{
	struct registry *registry = data;

	record_save(registry, device);
	store_flush(registry->store);
}

static void handle_attach_sent(void *data, struct device *device)
{
	handover_attach_sent(data, device);
}

static void handle_attached(void *data, struct device *device, const struct vmm_result *result)
{
	handover_attached(data, device, result);
}

/* DEVICE is for another VM, and this one, whose word is all that says it has it, does not answer:
 * the other is not kept waiting. If it is there after all, the kernel gives it to nobody else. */
static bool has_lost_its_claim(const struct device *device, const struct vm *vm,
			       const struct vmm_result *result)
{
	return device && device->place.is_cold && result->outcome == VMM_RETRY &&
	       *device_candidates(device) && !device_may_stay_in(device, vm->name);
}

/* HANDLE, of no device that we know, is in VM still: the next probe finds it. */
static void ask_again(struct vm *vm, const char *handle, const char *detail)
{
	bool is_last = vm->n_strange >= STRANGE_TRIES;

	log_warning("%s: has not let go of %s yet%s%s%s", vm->name, handle, *detail ? ": " : "",
		    detail, is_last ? "; it is not asked again: reset or stop it" : "");
	if (is_last)
		return;
	vm->n_strange++;
	vm_check_by(vm, STRANGE_RETRY_MS);
}

static void handle_detached(void *data, struct vm *vm, struct device *device, const char *handle,
			    const struct vmm_result *result)
{
	if (result->outcome == VMM_OK || result->outcome == VMM_GONE)
		cold_forget(&vm->cold, handle);
	const struct vmm_result gone = {.outcome = VMM_GONE};
	if (has_lost_its_claim(device, vm, result))
		result = &gone;
	if (device)
		handover_detached(data, device, result);
	else if (result->outcome == VMM_RETRY || result->outcome == VMM_PENDING)
		ask_again(vm, handle, result->detail);
	else
		registry_note_room(data, vm);
}

/* For the backends */

static struct device *next_device(void *data, const struct vm *vm, const struct device *at)
{
	const struct registry *registry = data;
	struct device *device = at ? at->next : registry->devices;

	while (device && device->place.vm != vm)
		device = device->next;
	return device;
}

static int ask_open(void *data, const struct device *device, struct vm_look *look)
{
	return job_look(data, device, look);
}

static void forget_look(void *data, struct vm_look *look)
{
	job_forget_look(data, look);
}

const struct vm_handler tidings_handler = {
	.up = vm_is_up,
	.name_of_process = name_of_process,
	.exited = vm_has_exited,
	.reason = vm_reason_changed,
	.handle_changed = handle_new_handle,
	.attach_sent = handle_attach_sent,
	.attached = handle_attached,
	.detached = handle_detached,
	.next_device = next_device,
	.ask_open = ask_open,
	.forget_look = forget_look,
};
