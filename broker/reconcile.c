/* The state machine of one device: see reconcile.h. Called by the manager for every edge, and by
 * the worker and the VM backends with their answers. */
#include "broker/reconcile.h"

#include <stdarg.h>

#include "broker/claim.h"
#include "broker/log.h"
#include "broker/pci.h"

#define ACK_LIMIT_MS 300 /* udevd is never kept longer by an attach that is not on its way yet */
#define FIRST_RETRY_MS 200
#define MAX_RETRY_MS 30000
#define REFUSED_RETRY_MS 2000 /* a disk in use is not looked at more often */

#define RELEASE_MS 30000    /* a guest that has not let go by then is said to refuse */
#define MAX_RELEASE_MS 5000 /* how often it is asked again, at the least */
#define SLOW_MS \
	3000 /* a device that takes longer to be opened, or its driver to let go, is stuck */
#define TURN_MS 3000 /* how long a PCI device waits for those whose rules come before its own */

static void retry_now(void *data);

/* Small steps */

void device_set_cause(struct device *device, enum device_cause cause)
{
	device->cause = cause;
	device->started = now_monotonic_ms();
}

void device_make_handle(const struct device *device, char *ret_handle, size_t size)
{
	snprintf(ret_handle, size, "vhp-%s-%llu", device->kernel_name,
		 (unsigned long long) device->inode);
	/* Letters, digits, '-', '.', '_': what QEMU accepts in an id. */
	for (char *c = ret_handle; *c; c++)
		if (*c == ':')
			*c = '.';
}

bool device_is_doubtful(const struct device *device)
{
	return device->vm && device->vm->vmm->is_doubtful &&
	       device->vm->vmm->is_doubtful(device->handle);
}

bool device_is_unlisted(const struct device *device)
{
	return device->vm && device->vm->vmm->is_unlisted &&
	       device->vm->vmm->is_unlisted(device->vm, device->handle);
}

bool device_may_be_in(const struct device *device, const char *name)
{
	size_t length = strlen(name);

	if (!device->present || !device->rule[0])
		return false;
	/* A move to where it should be has failed: where it was is as good for now. */
	if (device->unreachable[0])
		return streq(device->former_vm, name);
	for (const char *s = device->vms; *s; s += strcspn(s, ","), s += *s == ',')
		if (strcspn(s, ",") == length && strncmp(s, name, length) == 0)
			return true;
	return false;
}

static bool set_state(struct device *device, enum device_state state, const char *format, ...)
	_printf_(3, 4);
/* Returns whether anything a person can see has changed. */
static bool set_state(struct device *device, enum device_state state, const char *format, ...)
{
	char reason[sizeof(device->reason)];
	va_list args;

	va_start(args, format);
	vsnprintf(reason, sizeof(reason), format, args);
	va_end(args);
	bool changed = state != device->state || !streq(reason, device->reason);
	if (state != device->state)
		device->since = now_realtime_ms();
	device->state = state;
	strcpy(device->reason, reason);
	return changed;
}

static void fill_history(struct history *history, const struct device *device, const char *action,
			 enum device_cause cause, const char *result, const char *detail)
{
	*history = (struct history){
		.action = action,
		.cause = device_cause_name(cause),
		.result = result,
		.milliseconds = device->started ? now_monotonic_ms() - device->started : 0,
	};
	snprintf(history->device, sizeof(history->device), "%s", device->kernel_name);
	snprintf(history->name, sizeof(history->name), "%s", device->name);
	snprintf(history->vid_pid, sizeof(history->vid_pid), "%s", device->vid_pid);
	snprintf(history->vm, sizeof(history->vm), "%s", device->vm_name);
	snprintf(history->rule, sizeof(history->rule), "%s", device->rule);
	text_copy(history->detail, sizeof(history->detail), detail);
}

static void release_helpers(struct device *device)
{
	loop_timer_stop(&device->waiting_limit);
	device->waiting = intake_acknowledge_all(device->waiting);
}

static void release_helpers_now(void *data)
{
	release_helpers(data);
}

static void close_held(struct device *device)
{
	while (device->n_held_fds > 0)
		close(device->held_fds[--device->n_held_fds]);
}

static void leave_vm(struct device *device)
{
	loop_timer_stop(&device->slow);
	device->vm = vm_unref(device->vm);
	device->handle[0] = 0;
	device->unverified = device->was_arriving = false;
	device->guest_port = 0;
	device->guest_bus[0] = 0;
	close_held(device);
}

void device_let_go(struct device *device)
{
	release_helpers(device);
	loop_timer_stop(&device->retry);
	leave_vm(device);
}

void device_has_left(struct manager *manager, struct device *device, enum device_cause cause,
		     const char *detail)
{
	struct history history;

	fill_history(&history, device, "detach", cause, "ok", detail);
	log_info("%s (%s): has left %s (%s)", device->kernel_name, device->name, device->vm_name,
		 device_cause_name(cause));
	leave_vm(device);
	device->n_retries = 0;
	set_state(device, DEVICE_WAITING, "has left %s", device->vm_name);
	store_device(manager->store, device, &history);
}

void device_has_arrived(struct manager *manager, struct device *device, const char *detail)
{
	struct history history;

	fill_history(&history, device, "attach", device->cause, "ok", detail);
	log_info("%s (%s): attached to %s after %llu ms (%s), rule %s", device->kernel_name,
		 device->name, device->vm_name, (unsigned long long) history.milliseconds,
		 device_cause_name(device->cause), device->rule);
	device->n_retries = 0;
	device->awaits_vm = false;
	if (device->unreachable[0])
		set_state(device, DEVICE_ATTACHED,
			  "back in %.60s; the move to %.60s failed: %.110s", device->vm_name,
			  device->unreachable, device->failure);
	else
		set_state(device, DEVICE_ATTACHED, "%s has it%s%s", device->vm_name,
			  *detail ? " " : "", detail);
	if (!device->unreachable[0])
		device->former_vm[0] = device->failure[0] = 0;
	store_device(manager->store, device, &history);
}

/* Waits and tries again, later each time. */
static void back_off(struct manager *manager, struct device *device, uint64_t at_least)
{
	uint64_t delay = FIRST_RETRY_MS << (device->n_retries < 8 ? device->n_retries : 8);

	if (delay < at_least)
		delay = at_least;
	device->n_retries++;
	loop_timer_start(manager->loop, &device->retry, delay < MAX_RETRY_MS ? delay : MAX_RETRY_MS,
			 retry_now, device);
}

/* An attach has come to nothing; the next one is DELAY_MS away or more. The history has it once,
 * however often it is tried. */
static void attach_failed_for(struct manager *manager, struct device *device,
			      enum device_state state, const char *reason, uint64_t delay_ms)
{
	struct history history;
	const struct vm *vm = manager_find_vm(manager, device->vm_name);

	leave_vm(device);
	set_state(device, state, "%s", reason);
	if (!streq(device->failure, reason)) {
		text_copy(device->failure, sizeof(device->failure), reason);
		fill_history(&history, device, "attach", device->cause,
			     state == DEVICE_REFUSED ? "refused" : "failed", reason);
		log_warning("%s (%s): not attached to %s: %s", device->kernel_name, device->name,
			    device->vm_name, reason);
		store_device(manager->store, device, &history);
	} else {
		store_device(manager->store, device, NULL);
	}
	/* A move that ends nowhere goes back where it came from; not one that takes its time. */
	bool is_later = state == DEVICE_WAITING && delay_ms > 0;
	if (device->former_vm[0] && !streq(device->former_vm, device->vm_name) && device->present &&
	    device->rule[0] && !is_later) {
		strcpy(device->unreachable, device->vm_name);
		device->unreachable_pid = vm ? vm->peer.pid : 0;
		device->unreachable_is_full = device->verdict.is_full;
		device->state = DEVICE_WAITING;
		log_warning("%s: goes back to %s", device->kernel_name, device->former_vm);
	} else if (state == DEVICE_REFUSED)
		back_off(manager, device, REFUSED_RETRY_MS);
	else if (state == DEVICE_WAITING)
		back_off(manager, device, delay_ms);
	release_helpers(device);
	reconcile(manager, device);
}

static void attach_failed(struct manager *manager, struct device *device, enum device_state state,
			  const char *reason)
{
	attach_failed_for(manager, device, state, reason, 0);
}

/* Attach: open, hand over, verify */

static int ask_worker_for(struct manager *manager, struct device *device, enum worker_job job,
			  unsigned options)
{
	struct worker_request request = {.job = job, .inode = device->inode, .options = options};

	snprintf(request.devpath, sizeof(request.devpath), "%s", device->devpath);
	snprintf(request.node, sizeof(request.node), "%s", device->node);
	if (device->vm)
		request.uid =
			device->vm->user != (uid_t) -1 ? device->vm->user : device->vm->peer.uid;
	int r = worker_send(manager->worker, &request);
	if (r == 0)
		device->request = request.number;
	return r;
}

static int ask_worker(struct manager *manager, struct device *device, enum worker_job job)
{
	return ask_worker_for(manager, device, job,
			      device->options & DEVICE_FORCE ? WORKER_FORCE : 0);
}

static enum worker_job take_job(enum device_kind kind)
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

/* Gives DEVICE back to its host driver, now that no VM has it and none shall have it. */
static void give_back(struct manager *manager, struct device *device)
{
	int r = 0;

	switch (device->kind) {
	case DEVICE_USB:
		r = ask_worker(manager, device, WORKER_USB_RETURN);
		break;
	case DEVICE_PCI:
		if (!claim_group_in_use(manager, device))
			r = ask_worker(manager, device, WORKER_PCI_RETURN);
		break;
	case DEVICE_EVDEV:
		r = ask_worker(manager, device, WORKER_EVDEV_RETURN);
		break;
	}
	if (r < 0)
		log_warning("%s: not given back to its host driver: the worker is overloaded",
			    device->kernel_name);
}

static void opening_is_slow(void *data)
{
	struct device *device = data;

	if (device->host_driver[0])
		set_state(device, DEVICE_OPENING,
			  "waiting for the host's driver %s to let go of it", device->host_driver);
	else
		set_state(device, DEVICE_OPENING,
			  "waiting for the host's kernel: the device does not respond");
	log_warning("%s (%s): %s", device->kernel_name, device->name, device->reason);
	store_device(device->manager->store, device, NULL);
	release_helpers(device);
}

/* Those that share LEADER's IOMMU group and go with it. */
static void reconcile_followers(struct manager *manager, const struct device *leader)
{
	for (struct device *d = manager->devices, *next; d; d = next) {
		next = d->next;
		if (streq(d->leader, leader->devpath))
			reconcile(manager, d);
	}
}

static void start_attach(struct manager *manager, struct device *device, struct vm *vm)
{
	char reason[sizeof(device->reason)];

	if (device->awaits_vm)
		device_set_cause(device, CAUSE_VM_START);
	device->awaits_vm = false;
	device->verdict = (struct vmm_result){0};
	snprintf(device->vm_name, sizeof(device->vm_name), "%s", vm->name);
	if (device->kind == DEVICE_PCI &&
	    claim_check_group(manager, device, vm, reason, sizeof(reason)) < 0) {
		/* The rules have set it aside for vfio-pci; the host is better off with it. */
		if (!streq(device->failure, reason) &&
		    ask_worker_for(manager, device, WORKER_PCI_RETURN, WORKER_ALONE) < 0)
			log_warning("%s: not given back to its host driver: the worker is"
				    " overloaded",
				    device->kernel_name);
		attach_failed(manager, device, DEVICE_REFUSED, reason);
		reconcile_followers(manager, device);
		return;
	}
	device->vm = vm_ref(vm);
	device_make_handle(device, device->handle, sizeof(device->handle));
	/* Now: a driver that is slow to let go is not to be seen in sysfs any more. */
	if (device->kind != DEVICE_PCI ||
	    !pci_driver(device->kernel_name, device->host_driver, sizeof(device->host_driver)) ||
	    streq(device->host_driver, "vfio-pci"))
		device->host_driver[0] = 0;
	/* What a person saw before (a reason for waiting, say) stays until there is news. */
	device->state = DEVICE_OPENING;
	device->attempted = now_monotonic_ms();
	if (ask_worker(manager, device, take_job(device->kind)) < 0)
		attach_failed(manager, device, DEVICE_WAITING, "the worker process is overloaded");
	else
		loop_timer_start(manager->loop, &device->slow, SLOW_MS, opening_is_slow, device);
	if (device->kind == DEVICE_PCI)
		reconcile_followers(manager, device);
}

static void start_detach(struct manager *manager, struct device *device)
{
	struct vm *vm = device->vm;

	set_state(device, DEVICE_DETACHING, "leaving %s", device->vm_name);
	store_device(manager->store, device, NULL);
	vm->vmm->detach(vm, device, device->handle);
}

static void close_fds(int *fds, int n)
{
	for (int i = 0; i < n; i++)
		close(fds[i]);
}

static void opened(struct manager *manager, struct device *device,
		   const struct worker_answer *answer, int *fds)
{
	struct vm *vm = device->vm;

	if (answer->result < 0) {
		attach_failed(manager, device,
			      answer->result == -EBUSY        ? DEVICE_REFUSED
			      : answer->result == -EOPNOTSUPP ? DEVICE_FAILED
							      : DEVICE_WAITING,
			      answer->detail);
		return;
	}
	for (int i = 1; i < answer->n_fds; i++)
		device->held_fds[device->n_held_fds++] = fds[i];
	if (vm->state != VM_UP) {
		close_fds(fds, answer->n_fds > 0 ? 1 : 0);
		attach_failed(manager, device, DEVICE_WAITING,
			      *vm->reason ? vm->reason : "its VM has ended");
		return;
	}
	set_state(device, DEVICE_ATTACHING, "%s", *vm->reason ? vm->reason : "asking its VMM");
	store_device(manager->store, device, NULL);
	vm->vmm->attach(vm, device, answer->n_fds > 0 ? fds[0] : -1);
	if (answer->n_fds > 0)
		close(fds[0]);
}

void reconcile_attach_sent(struct manager *manager, struct device *device)
{
	(void) manager;
	release_helpers(device);
}

/* Does a host driver hold DEVICE, which is to be in its VM? */
static bool host_has_it(const struct device *device, char *ret_driver, size_t size)
{
	return device->kind == DEVICE_USB && device_may_be_in(device, device->vm->name) &&
	       usb_host_driver(device->devpath, ret_driver, size);
}

/* The VMM has it; it counts when no host driver does. */
static void verify(struct manager *manager, struct device *device, bool released)
{
	char driver[200], detail[64] = "";

	if (!released && device_is_unlisted(device)) {
		if (ask_worker(manager, device, WORKER_PCI_LOOK) < 0)
			back_off(manager, device, 0);
		return;
	}
	if (host_has_it(device, driver, sizeof(driver))) {
		if (!released && ask_worker(manager, device, WORKER_USB_RELEASE) == 0)
			return;
		if (set_state(device, DEVICE_ATTACHING,
			      "%s has it, but so has the host driver %s, which"
			      " does not let go; is the fence off (fence = no)?",
			      device->vm_name, driver))
			log_warning("%s: %s", device->kernel_name, device->reason);
		store_device(manager->store, device, NULL);
		back_off(manager, device, 0);
		return;
	}
	if (device->guest_port > 0)
		snprintf(detail, sizeof(detail), "on port %u of %.40s", device->guest_port,
			 device->guest_bus);
	else if (device->guest_bus[0])
		snprintf(detail, sizeof(detail), "on %.50s", device->guest_bus);
	device_has_arrived(manager, device, detail);
	reconcile(manager, device);
}

/* A handle that a VMM gave to DEVICE can't be another device's any more: that one has left without
 * our knowing. It must not take DEVICE with it when it is detached. */
static void handle_has_moved(struct manager *manager, const struct device *device)
{
	for (struct device *d = manager->devices, *next; d; d = next) {
		next = d->next;
		if (d == device || d->vm != device->vm || !streq(d->handle, device->handle) ||
		    (d->state != DEVICE_ATTACHED && d->state != DEVICE_ATTACHING))
			continue;
		loop_timer_stop(&d->retry);
		d->request = 0;
		device_set_cause(d, CAUSE_LOST);
		device_has_left(manager, d, CAUSE_LOST, "its place has gone to another device");
		reconcile(manager, d);
	}
}

void reconcile_attached(struct manager *manager, struct device *device,
			const struct vmm_result *result)
{
	close_held(device);
	device->verdict = *result;
	if (result->is_unsure) {
		handle_has_moved(manager, device);
		verify(manager, device, false);
		return;
	}
	switch (result->outcome) {
	case VMM_OK:
		handle_has_moved(manager, device);
		verify(manager, device, false);
		break;
	case VMM_GONE:
	case VMM_PENDING:
	case VMM_RETRY:
		attach_failed_for(manager, device, DEVICE_WAITING, result->detail,
				  result->delay_ms);
		break;
	case VMM_FAILED:
		attach_failed(manager, device, DEVICE_FAILED, result->detail);
		break;
	}
}

/* PCI: unplugging is a request to the guest. It may be lost before an operating system runs, and
 * there is no event for a refusal, so it is repeated; a reset of the guest completes it as well. */
static void await_guest(struct manager *manager, struct device *device, const char *detail)
{
	uint64_t asked_for = now_monotonic_ms() - device->started;
	uint64_t delay = FIRST_RETRY_MS << (device->n_retries < 5 ? device->n_retries : 5);

	if (asked_for < RELEASE_MS)
		set_state(device, DEVICE_RELEASING,
			  "waiting for the guest of %.60s to let go of it%s%.100s", device->vm_name,
			  *detail ? ": " : "", detail);
	else if (set_state(device, DEVICE_RELEASING,
			   "the guest of %.60s does not let go of it; unload its driver there, or"
			   " reset or stop the VM",
			   device->vm_name))
		log_warning("%s (%s): %s", device->kernel_name, device->name, device->reason);
	store_device(manager->store, device, NULL);
	device->n_retries++;
	loop_timer_start(manager->loop, &device->retry,
			 delay < MAX_RELEASE_MS ? delay : MAX_RELEASE_MS, retry_now, device);
}

static void has_let_go(struct manager *manager, struct device *device, const char *detail)
{
	device_has_left(manager, device, device->cause, detail);
	loop_timer_stop(&device->retry);
	reconcile(manager, device);
}

/* The kernel has said whether anybody has the IOMMU group of a device open that its VMM lists
 * nowhere: -EBUSY, yes; 0, no; everything else, that can't be told now. */
static void looked_at_attaching(struct manager *manager, struct device *device,
				const struct worker_answer *answer)
{
	/* Open for another one of the group, perhaps: then crosvm's word is all there is. */
	bool is_open = answer->result == -EBUSY, is_ok = device->verdict.outcome == VMM_OK;

	if (is_open && (is_ok || !claim_group_stays(manager, device))) {
		verify(manager, device, true);
	} else if (!is_open && answer->result < 0) {
		set_state(device, DEVICE_ATTACHING, "%s", answer->detail);
		store_device(manager->store, device, NULL);
		back_off(manager, device, 0);
	} else if (!is_ok) {
		attach_failed_for(manager, device,
				  device->verdict.outcome == VMM_FAILED ? DEVICE_FAILED
									: DEVICE_WAITING,
				  device->verdict.detail, device->verdict.delay_ms);
	} else {
		attach_failed_for(
			manager, device, device->n_retries == 0 ? DEVICE_WAITING : DEVICE_FAILED,
			"crosvm has accepted it and not opened it (it hot-plugs PCI devices on"
			" x86-64 only); start the VM with --vfio",
			REFUSED_RETRY_MS);
	}
}

static void looked(struct manager *manager, struct device *device,
		   const struct worker_answer *answer)
{
	if (device->state == DEVICE_ATTACHING) {
		looked_at_attaching(manager, device, answer);
	} else if (device->state == DEVICE_RELEASING &&
		   (answer->result == 0 || claim_group_stays(manager, device))) {
		has_let_go(manager, device, "");
	} else if (device->state == DEVICE_RELEASING) {
		await_guest(manager, device, answer->result == -EBUSY ? "" : answer->detail);
	} else if (device->state == DEVICE_ATTACHED && answer->result == 0) {
		device_set_cause(device, CAUSE_LOST);
		has_let_go(manager, device, "the VM no longer had it");
	}
}

void reconcile_check(struct manager *manager, struct device *device)
{
	char driver[200];
	int r = 0;

	if (device->state != DEVICE_ATTACHED || device->request != 0)
		return;
	if (device_is_unlisted(device)) {
		r = ask_worker(manager, device, WORKER_PCI_LOOK);
	} else if (host_has_it(device, driver, sizeof(driver))) {
		/* As after a suspend in which the device has lost its power. */
		log_warning("%s (%s): the host driver %s has taken it from %s: it must let go",
			    device->kernel_name, device->name, driver, device->vm_name);
		r = ask_worker(manager, device, WORKER_USB_RELEASE);
	}
	if (r < 0)
		log_warning("%s: not looked at: the worker is overloaded", device->kernel_name);
}

/* The host driver that has taken DEVICE from its VM was told to let go. */
static void taken_back(struct manager *manager, struct device *device)
{
	char driver[200];

	if (host_has_it(device, driver, sizeof(driver)))
		verify(manager, device, true);
}

static struct device *find_by_request(struct manager *manager, uint64_t number)
{
	for (struct device *d = manager->devices; d; d = d->next)
		if (d->request == number)
			return d;
	return NULL;
}

void reconcile_worker_answer(void *data, const struct worker_answer *answer, int *fds)
{
	struct manager *manager = data;
	struct device *device = find_by_request(manager, answer->number);

	if (!device) {
		close_fds(fds, answer->n_fds);
		return;
	}
	device->request = 0;
	loop_timer_stop(&device->slow);
	if (device->state == DEVICE_OPENING)
		opened(manager, device, answer, fds);
	else if (device_is_unlisted(device))
		looked(manager, device, answer);
	else if (device->state == DEVICE_ATTACHING)
		verify(manager, device, true);
	else if (device->state == DEVICE_ATTACHED)
		taken_back(manager, device);
	else
		close_fds(fds, answer->n_fds);
}

/* Detach */

void reconcile_detached(struct manager *manager, struct device *device,
			const struct vmm_result *result)
{
	if (result->outcome == VMM_PENDING && device_is_unlisted(device) &&
	    ask_worker(manager, device, WORKER_PCI_LOOK) == 0) {
		set_state(device, DEVICE_RELEASING,
			  "waiting for the guest of %.60s to let go of it", device->vm_name);
		return;
	}
	if (result->outcome == VMM_PENDING) {
		await_guest(manager, device, result->detail);
		return;
	}
	if (result->outcome == VMM_RETRY) {
		/* It is still there, as far as we know. */
		set_state(device, DEVICE_ATTACHED, "still in %.60s: %.150s", device->vm_name,
			  result->detail);
		log_warning("%s: %s", device->kernel_name, device->reason);
		store_device(manager->store, device, NULL);
		back_off(manager, device, 0);
		return;
	}
	has_let_go(manager, device, result->outcome == VMM_GONE ? "the VM no longer had it" : "");
}

/* The decision */

static bool is_candidate(struct manager *manager, const struct device *device, struct vm *vm)
{
	return vm && device_may_be_in(device, vm->name) && manager_find_vm(manager, vm->name) == vm;
}

/* The VM that DEVICE should be in: where it is, or where its IOMMU group is, if it may be there;
 * else the first candidate that is up or about to be; else the first candidate. NULL: none of them
 * is in the config. */
static struct vm *choose_vm(struct manager *manager, const struct device *device)
{
	char names[sizeof(device->vms)], *save = NULL;
	struct vm *first = NULL, *of_group;

	if (is_candidate(manager, device, device->vm))
		return device->vm;
	of_group = device->kind == DEVICE_PCI ? claim_group_vm(manager, device) : NULL;
	if (is_candidate(manager, device, of_group))
		return of_group;
	strcpy(names, device->unreachable[0] ? device->former_vm : device->vms);
	for (char *name = strtok_r(names, ",", &save); name; name = strtok_r(NULL, ",", &save)) {
		struct vm *vm = manager_find_vm(manager, name);

		/* One that is being asked for the first time may be up in a moment: its answer
		 * decides, not who answers first. */
		if (vm && (vm->state == VM_UP || (vm->state == VM_PROBING && !*vm->reason)))
			return vm;
		if (!first)
			first = vm;
	}
	return first;
}

static void wait_for_vm(struct manager *manager, struct device *device, struct vm *vm)
{
	snprintf(device->vm_name, sizeof(device->vm_name), "%s", vm->name);
	if (vm->state == VM_DOWN)
		device->awaits_vm = true;
	if (set_state(device, DEVICE_WAITING, "%s",
		      *vm->reason ? vm->reason : "its VM is being asked"))
		store_device(manager->store, device, NULL);
}

/* PCI devices go in the order of their rules, but one that is stuck does not hold up the others. */
static bool is_its_turn(struct manager *manager, struct device *device, const struct vm *vm)
{
	char reason[sizeof(device->reason)];
	uint64_t delay = REFUSED_RETRY_MS;
	struct device *other;

	if (device->kind != DEVICE_PCI)
		return true;
	if ((other = claim_elsewhere(manager, device, vm))) {
		snprintf(reason, sizeof(reason), "%s of its IOMMU group is still in %.60s",
			 other->kernel_name, other->vm_name);
	} else if ((other = claim_leaving(manager, vm))) {
		snprintf(reason, sizeof(reason), "%.60s has to let go of %s first", vm->name,
			 other->kernel_name);
	} else if ((other = claim_earlier(manager, device, vm)) &&
		   now_monotonic_ms() - other->attempted <= TURN_MS) {
		snprintf(reason, sizeof(reason), "its turn comes after %s", other->kernel_name);
		delay = FIRST_RETRY_MS;
	} else {
		return true;
	}
	if (set_state(device, DEVICE_WAITING, "%s", reason))
		store_device(manager->store, device, NULL);
	loop_timer_start(manager->loop, &device->retry, delay, retry_now, device);
	return false;
}

/* A device that is nowhere and for which nothing is under way. */
static void settle(struct manager *manager, struct device *device)
{
	struct vm *vm;

	if (!device->present || !device->rule[0]) {
		if (device->present)
			give_back(manager, device);
		manager_drop_device(manager, device);
		return;
	}
	if (device->state == DEVICE_HELD)
		return;
	vm = choose_vm(manager, device);
	if (!vm) {
		snprintf(device->vm_name, sizeof(device->vm_name), "%.60s", device->vms);
		if (set_state(device, DEVICE_FAILED,
			      "no VM \"%.60s\" in the broker's config; run vhotplug-gen-rules",
			      device->vms))
			store_device(manager->store, device, NULL);
	} else if (vm->state != VM_UP) {
		wait_for_vm(manager, device, vm);
	} else if (!device->retry.loop && device->state == DEVICE_WAITING &&
		   is_its_turn(manager, device, vm)) {
		start_attach(manager, device, vm);
	}
}

static void reconcile_attached_device(struct manager *manager, struct device *device)
{
	/* On record only, after a restart of the broker: its VM has not been asked yet, and when it
	 * is not running that is said by vm_handler.exited. */
	if (device->unverified || device->retry.loop)
		return;
	if (!device_is_doubtful(device) && choose_vm(manager, device) == device->vm &&
	    device_may_be_in(device, device->vm->name))
		return;
	/* Only a move can go back. */
	device->former_vm[0] = 0;
	if (device->present && device->rule[0])
		strcpy(device->former_vm, device->vm_name);
	device->failure[0] = 0;
	start_detach(manager, device);
}

void reconcile(struct manager *manager, struct device *device)
{
	if (!manager->started)
		return;
	switch (device->state) {
	case DEVICE_OPENING:
		if (device->present && device_may_be_in(device, device->vm->name))
			break;
		/* The worker may be stuck with it: its answer is not waited for. */
		device->request = 0;
		leave_vm(device);
		device->state = DEVICE_WAITING;
		release_helpers(device);
		settle(manager, device);
		return;
	case DEVICE_ATTACHING:
	case DEVICE_DETACHING:
	case DEVICE_RELEASING:
		break;
	case DEVICE_ATTACHED:
		reconcile_attached_device(manager, device);
		break;
	case DEVICE_WAITING:
	case DEVICE_HELD:
	case DEVICE_REFUSED:
	case DEVICE_FAILED:
		settle(manager, device);
		break;
	}
}

void reconcile_now(struct manager *manager, struct device *device)
{
	bool was_waiting = device->retry.loop != NULL;

	loop_timer_stop(&device->retry);
	if (device->state == DEVICE_ATTACHING && was_waiting) {
		verify(manager, device, false);
		return;
	}
	if (device->state == DEVICE_RELEASING) {
		/* Otherwise the guest is being asked right now. */
		if (was_waiting)
			device->vm->vmm->detach(device->vm, device, device->handle);
		return;
	}
	if (device->state == DEVICE_HELD && manager->config->general.attach_connected) {
		device_set_cause(device, CAUSE_CONFIG);
		device->state = DEVICE_WAITING;
	}
	if (device->state == DEVICE_FAILED || device->state == DEVICE_REFUSED)
		device->state = DEVICE_WAITING;
	reconcile(manager, device);
}

static void retry_now(void *data)
{
	struct device *device = data;

	if (device->state == DEVICE_ATTACHING)
		verify(device->manager, device, false);
	else if (device->state == DEVICE_RELEASING)
		device->vm->vmm->detach(device->vm, device, device->handle);
	else
		reconcile_now(device->manager, device);
}

void reconcile_vm_reason(struct manager *manager, struct device *device, struct vm *vm)
{
	/* The next candidate may be the one now. */
	if (device->state == DEVICE_WAITING && !device->vm && vm->state != VM_UP &&
	    device_may_be_in(device, vm->name)) {
		reconcile(manager, device);
		return;
	}
	if (device->vm != vm)
		return;
	switch (device->state) {
	case DEVICE_ATTACHING:
	case DEVICE_DETACHING:
	case DEVICE_RELEASING:
		if (set_state(device, device->state, "%s",
			      *vm->reason ? vm->reason : "asking its VMM"))
			store_device(manager->store, device, NULL);
		break;
	case DEVICE_WAITING:
	case DEVICE_HELD:
	case DEVICE_OPENING:
	case DEVICE_ATTACHED:
	case DEVICE_REFUSED:
	case DEVICE_FAILED:
		break;
	}
}

void reconcile_await(struct manager *manager, struct device *device, struct intake_client *client)
{
	if (device->state != DEVICE_OPENING) {
		intake_acknowledge(client);
		return;
	}
	device->waiting = intake_chain(client, device->waiting);
	if (!device->waiting_limit.loop)
		loop_timer_start(manager->loop, &device->waiting_limit, ACK_LIMIT_MS,
				 release_helpers_now, device);
}
