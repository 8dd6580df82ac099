/* One device out of every VM: see handback.h. The steps are called by reconcile_pass, the answers
 * by handover. */
#include "broker/handback.h"

#include "broker/attempt.h"
#include "broker/group.h"
#include "broker/job.h"
#include "broker/log.h"
#include "broker/mark.h"
#include "broker/record.h"

#define FENCE_TRIES 5
#define FENCE_RETRY_MS 2000

/* No answer is waited for. */
static void give_back_as(struct registry *registry, const struct device *device,
			 enum worker_job job, unsigned options)
{
	uint64_t number;

	if (job_send(registry, device, job, options, &number) < 0)
		log_warning("%s: not given back to its host driver: the worker is overloaded",
			    device->id.kernel_name);
}

/* Gives DEVICE back to its host driver, now that no VM has it and none shall have it. */
static void give_back(struct registry *registry, const struct device *device)
{
	switch (device->id.kind) {
	case DEVICE_USB:
		give_back_as(registry, device, WORKER_USB_RETURN, 0);
		break;
	case DEVICE_PCI:
		if (!group_is_in_use(registry, device))
			give_back_as(registry, device, WORKER_PCI_RETURN, 0);
		break;
	case DEVICE_EVDEV:
		give_back_as(registry, device, WORKER_EVDEV_RETURN, 0);
		break;
	}
}

void handback_drop(struct registry *registry, struct device *device)
{
	if (device->wish.present) {
		give_back(registry, device);
	} else if (device->id.kind == DEVICE_USB) {
		mark_clear(MARK_GIVEN, device->id.kernel_name, device->id.node);
		mark_clear(MARK_REFUSED, device->id.kernel_name, device->id.node);
	}
	attempt_let_go(device);
	record_forget(registry, device);
	registry_remove(registry, device);
}

void handback_spare(struct registry *registry, const struct device *device)
{
	bool is_alone = group_is_in_use(registry, device) || group_is_awaited(registry, device);

	give_back_as(registry, device, WORKER_PCI_RETURN, is_alone ? WORKER_ALONE : 0);
}

/* The fence */

void handback_fence(struct registry *registry, struct device *device)
{
	struct device_fence *fence = &device->attempt.fence;

	if (job_ask(registry, device, WORKER_USB_FENCE) < 0)
		fence->not_before = now_monotonic_ms() + FENCE_RETRY_MS;
	else
		fence->n_tries++;
	device_mark(device);
}

/* A VMM that ends, or who looks what is on a disk, uses it for a moment longer. */
void handback_note_fenced(struct device *device, const struct worker_answer *answer)
{
	struct device_fence *fence = &device->attempt.fence;

	device->attempt.was_used = answer->result == -EBUSY;
	fence->settled = answer->result == 0 || fence->n_tries >= FENCE_TRIES;
	fence->not_before = now_monotonic_ms() + FENCE_RETRY_MS;
	if (answer->result < 0 && fence->settled)
		log_warning("%s (%s): the host keeps it until its VM takes it: %s",
			    device->id.kernel_name, device->id.name, answer->detail);
	device_mark(device);
}

/* Who keeps it open */

void handback_look(struct registry *registry, const struct device *device)
{
	struct left_device *left = &registry->left[registry->next_left];

	/* The others of its IOMMU group may be in the VM for good. */
	if (!device->wish.present || !device->place.vm || group_stays(registry, device))
		return;
	identity_drop(&left->id);
	identity_copy(&left->id, &device->id);
	left->cause = device->attempt.cause;
	left->request = 0;
	snprintf(left->vm, sizeof(left->vm), "%s", device->record.vm);
	snprintf(left->rule, sizeof(left->rule), "%s", device->wish.rule);
	/* That this can't be known is no reason to keep it from anybody. */
	if (job_send(registry, device, WORKER_LOOK_OPEN, 0, &left->request) == 0)
		registry->next_left = (registry->next_left + 1) % REGISTRY_LEFT;
}

static struct left_device *find_left(struct registry *registry, uint64_t number)
{
	for (size_t i = 0; i < REGISTRY_LEFT; i++)
		if (registry->left[i].request == number)
			return &registry->left[i];
	return NULL;
}

void handback_note_look(struct registry *registry, const struct worker_answer *answer)
{
	struct left_device *left = find_left(registry, answer->number);

	if (!left)
		return;
	struct device *device = registry_find(registry, left->id.devpath, left->id.inode);
	const struct vm *vm = device ? device->place.vm : NULL;
	left->request = 0;
	/* The VM that has it by now is to have it open. */
	if (answer->result == -EBUSY && !(vm && vm->peer.pid == answer->pid))
		record_left_open(registry, left, device, answer->detail);
}
