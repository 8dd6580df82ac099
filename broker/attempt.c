/* One attempt to bring a device into a VM: see attempt.h. Called by handover, and by the manager
 * for what edges have learnt. */
#include "broker/attempt.h"

#include "broker/intake.h"
#include "broker/log.h"
#include "broker/record.h"
#include "broker/unplug.h"

#define ACK_LIMIT_MS 300 /* udevd is never kept longer by an attach that is not on its way yet */
#define MAX_RETRY_MS 30000
#define REFUSED_RETRY_MS 2000 /* a disk in use is not looked at more often */

/* Helpers */

void attempt_release_helpers(struct device *device)
{
	loop_timer_stop(&device->attempt.helpers_limit);
	device->attempt.helpers = intake_acknowledge_all(device->attempt.helpers);
}

static void release_helpers_now(void *data)
{
	attempt_release_helpers(data);
}

void attempt_add_helper(struct registry *registry, struct device *device,
			struct intake_client *client)
{
	struct device_attempt *attempt = &device->attempt;

	if (!client)
		return;
	attempt->helpers = intake_chain(client, attempt->helpers);
	if (!attempt->helpers_limit.loop)
		loop_timer_start(registry->loop, &attempt->helpers_limit, ACK_LIMIT_MS,
				 release_helpers_now, device);
}

/* Small steps */

void attempt_close_disks(struct device *device)
{
	while (device->attempt.n_disks > 0)
		close(device->attempt.disks[--device->attempt.n_disks]);
	free(TAKE_PTR(device->attempt.disks));
}

/* It is in no VM, and on the way to none. */
void attempt_end(struct device *device)
{
	struct device_attempt *attempt = &device->attempt;

	device_touch(device);
	attempt->taken = attempt->taken || device->place.vm;
	vm_unref(device->place.vm);
	unplug_ignore(device);
	kept_drop(&device->place.handle);
	kept_drop(&device->place.bus);
	device->place = (struct device_place){.handle = "", .bus = ""};
	attempt->request = 0;
	attempt->opened = attempt->vmm_asked = attempt->released = attempt->check = false;
	attempt->awaits_send = attempt->until_end = false;
	attempt->node_fd = close_fd(attempt->node_fd);
	attempt_close_disks(device);
	attempt->is_full = false;
	kept_drop(&attempt->host_driver);
	kept_drop(&attempt->group.strangers);
	kept_drop(&attempt->group.bridge);
	attempt->group.looked = false;
	attempt->fence = (struct device_fence){0};
	attempt->back = (struct device_back){0};
}

void attempt_note_unplugged(struct device *device)
{
	struct vm *vm = device->place.vm;

	attempt_close_disks(device);
	device->attempt.node_fd = close_fd(device->attempt.node_fd);
	if (vm && device->attempt.vmm_asked && vm->vmm->unplugged)
		vm->vmm->unplugged(vm, device);
}

void attempt_let_go(struct device *device)
{
	attempt_release_helpers(device);
	attempt_end(device);
}

/* Something has changed that other PCI devices may wait for. */
void attempt_mark_all(struct registry *registry, struct device *device)
{
	device_mark(device);
	if (device->id.kind == DEVICE_PCI)
		registry_mark_pci(registry, device);
}

static uint64_t clamp_ms(uint64_t ms, uint64_t least, uint64_t most)
{
	return ms < least ? least : ms > most ? most : ms;
}

/* Tries again later, each time later, and not before AT_LEAST ms have passed. */
void attempt_back_off(struct device *device, uint64_t at_least)
{
	struct device_attempt *attempt = &device->attempt;
	uint64_t delay = ATTEMPT_FIRST_RETRY_MS
			 << (attempt->n_retries < 8 ? attempt->n_retries : 8);

	attempt->n_retries++;
	attempt->not_before = now_monotonic_ms() +
			      clamp_ms(delay, clamp_ms(at_least, 0, MAX_RETRY_MS), MAX_RETRY_MS);
	device_mark(device);
}

/* A move that ends nowhere goes back where it came from; not one that takes its time. */
static bool goes_back(const struct registry *registry, const struct device *device,
		      enum device_state state, uint64_t delay_ms)
{
	const char *from = device->attempt.move.from;
	bool is_later = state == DEVICE_WAITING && delay_ms > 0;

	return *from && !streq(from, device->record.vm) && registry_find_vm(registry, from) &&
	       device->wish.present && device->wish.rule[0] && !is_later;
}

static void go_back(struct registry *registry, struct device *device, bool was_full)
{
	struct device_move *move = &device->attempt.move;
	const struct vm *vm = registry_find_vm(registry, device->record.vm);

	kept_set(&move->failed, device->record.vm);
	move->failed_pid = vm ? vm->peer.pid : 0;
	move->was_full = was_full;
	log_warning("%s: goes back to %s", device->id.kernel_name, move->from);
}

/* An attach has come to nothing; the next one is DELAY_MS away or more. */
void attempt_fail(struct registry *registry, struct device *device, enum device_state state,
		  const char *reason, uint64_t delay_ms)
{
	char words[VMM_DETAIL_SIZE];
	bool was_full = device->attempt.is_full;

	snprintf(words, sizeof(words), "%s", *reason ? reason : "its VMM does not say why");
	attempt_end(device);
	record_failed(registry, device, state, words);
	if (goes_back(registry, device, state, delay_ms))
		go_back(registry, device, was_full);
	else if (state == DEVICE_FAILED)
		device->attempt.gave_up = true;
	else
		attempt_back_off(device, state == DEVICE_REFUSED ? REFUSED_RETRY_MS : delay_ms);
	attempt_mark_all(registry, device);
}

void attempt_note_arrived(struct registry *registry, struct device *device)
{
	const struct device_place *place = &device->place;
	struct device_attempt *attempt = &device->attempt;
	char detail[64] = "";

	if (place->is_cold)
		snprintf(detail, sizeof(detail), "since the VM's start");
	else if (place->port > 0)
		snprintf(detail, sizeof(detail), "on port %u of %.40s", place->port, place->bus);
	else if (place->bus[0])
		snprintf(detail, sizeof(detail), "on %.50s", place->bus);
	attempt->n_retries = 0;
	attempt->awaits_vm = attempt->is_ahead = false;
	record_arrived(registry, device, detail);
	if (!attempt->move.failed[0]) {
		kept_drop(&attempt->move.from);
		kept_drop(&attempt->failure);
	}
	attempt_mark_all(registry, device);
}

void attempt_note_left(struct registry *registry, struct device *device, enum device_cause cause,
		       const char *detail)
{
	attempt_end(device);
	device->attempt.n_retries = 0;
	device->attempt.not_before = 0;
	record_left(registry, device, cause, detail);
	attempt_mark_all(registry, device);
}
