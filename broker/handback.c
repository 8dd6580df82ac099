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
#define RETURN_RETRY_MS 500 /* twice as long each time */
#define MAX_RETURN_MS 30000

void handback_drop(struct registry *registry, struct device *device)
{
	if (!device->wish.present) {
		mark_clear(MARK_GIVEN, device->id.kernel_name, device->id.node);
		mark_clear(MARK_REFUSED, device->id.kernel_name, device->id.node);
		mark_clear(MARK_NEEDED, device->id.kernel_name, device->id.node);
	}
	attempt_let_go(device);
	record_forget(registry, device);
	registry_remove(registry, device);
}

/* The way back to the host */

static enum worker_job return_job(enum device_kind kind)
{
	switch (kind) {
	case DEVICE_USB:
		return WORKER_USB_RETURN;
	case DEVICE_PCI:
		return WORKER_PCI_RETURN;
	case DEVICE_EVDEV:
		return WORKER_EVDEV_RETURN;
	}
	abort();
}

static bool is_held(const struct device *device)
{
	return device->record.state == DEVICE_HELD;
}

/* One that no rule wants says why. */
static void say_delayed(struct registry *registry, struct device *device, const char *reason)
{
	char before[VMM_DETAIL_SIZE];

	snprintf(before, sizeof(before), "%s", device->record.reason);
	record_set(registry, device, DEVICE_WAITING, "not given back to the host yet: %.400s",
		   reason);
	if (!streq(before, device->record.reason))
		log_warning("%s (%s): %s", device->id.kernel_name, device->id.name,
			    device->record.reason);
}

/* Tries again later, each time later. */
static void delay_return(struct registry *registry, struct device *device, const char *reason)
{
	struct device_back *back = &device->attempt.back;
	uint64_t delay = RETURN_RETRY_MS << (back->n_tries < 8 ? back->n_tries : 8);

	if (!device->wish.rule[0])
		say_delayed(registry, device, reason);
	else if (back->n_tries == 0)
		log_warning("%s (%s): not given back to the host yet: %s", device->id.kernel_name,
			    device->id.name, reason);
	back->n_tries++;
	back->not_before = now_monotonic_ms() + (delay < MAX_RETURN_MS ? delay : MAX_RETURN_MS);
	device_mark(device);
}

static void say_returning(struct registry *registry, struct device *device)
{
	record_name_vm(device, "");
	record_set(registry, device, DEVICE_WAITING, "is being given back to the host");
}

void handback_return(struct registry *registry, struct device *device, const char *reason)
{
	struct device_attempt *attempt = &device->attempt;
	bool is_wanted = device->wish.rule[0];
	/* Of what is held, its IOMMU group, or vfio-pci where it has that, may be somebody else's
	 * doing. */
	bool is_careful = is_wanted && is_held(device) && device->id.kind == DEVICE_PCI;
	unsigned options = group_is_fenced(registry, device) ? WORKER_NOT_GROUP : 0;

	if (is_careful)
		options = WORKER_ALONE;
	if (*reason) {
		record_name_vm(device, "");
		record_set(registry, device, DEVICE_WAITING, "%s", reason);
		device_mark(device);
		return;
	}
	/* Should a rule want it again. */
	attempt->fence = (struct device_fence){0};
	device_touch(device);
	if (!is_wanted && attempt->back.n_tries == 0)
		say_returning(registry, device);
	int r = job_send(registry, device, return_job(device->id.kind), options, &attempt->request);
	attempt->back.is_asked = r == 0;
	attempt->back.is_alone = options & WORKER_ALONE;
	if (r < 0)
		delay_return(registry, device, "the worker process is overloaded");
}

static const char *words_for(const struct device *device, const struct worker_answer *answer)
{
	if (device->id.kind == DEVICE_PCI && answer->result == -EBUSY)
		return "its IOMMU group is open: a VM has another device of it";
	return answer->detail[0] ? answer->detail : strerror(-answer->result);
}

static void note_done(struct device *device)
{
	device->attempt.back.is_done = true;
	if (!device->attempt.back.is_alone)
		device->attempt.taken = false;
}

static void note_returned(struct registry *registry, struct device *device,
			  const struct worker_answer *answer)
{
	struct device_back *back = &device->attempt.back;

	back->is_asked = false;
	/* A rule wants it again, or none wants it any more. */
	if (back->is_outdated)
		*back = (struct device_back){0};
	else if (answer->result == 0 || answer->result == -ENODEV)
		note_done(device);
	else if (is_held(device) || !device->wish.rule[0] || device->wish.unfenced)
		delay_return(registry, device, words_for(device, answer));
	attempt_mark_all(registry, device);
}

void handback_spare(struct registry *registry, struct device *device)
{
	struct device_attempt *attempt = &device->attempt;
	bool is_alone = group_is_in_use(registry, device) || group_is_awaited(registry, device);
	int r = job_send(registry, device, WORKER_PCI_RETURN, is_alone ? WORKER_ALONE : 0,
			 &attempt->request);

	/* Once: it is still its VM's, and tried again, but not before the answer. */
	attempt->back.is_asked = r == 0;
	attempt->back.is_alone = is_alone;
	device_touch(device);
	if (r < 0)
		log_warning("%s: not given back to its host driver: the worker is overloaded",
			    device->id.kernel_name);
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
static void note_fenced(struct device *device, const struct worker_answer *answer)
{
	struct device_fence *fence = &device->attempt.fence;

	device->attempt.was_used =
		answer->result == -EBUSY || (answer->result < 0 && device->attempt.was_used);
	fence->settled = answer->result == 0 || fence->n_tries >= FENCE_TRIES;
	fence->not_before = now_monotonic_ms() + FENCE_RETRY_MS;
	if (answer->result < 0 && fence->settled)
		log_warning("%s (%s): the host keeps it until its VM takes it: %s",
			    device->id.kernel_name, device->id.name, answer->detail);
	device_mark(device);
}

void handback_note_answer(struct registry *registry, struct device *device,
			  const struct worker_answer *answer)
{
	if (device->attempt.back.is_asked)
		note_returned(registry, device, answer);
	else
		note_fenced(device, answer);
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
