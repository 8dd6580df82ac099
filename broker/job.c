/* What the worker is to do about a device: see job.h. Called by handover and handback. */
#include "broker/job.h"

#include "broker/group.h"

int job_send(struct registry *registry, const struct device *device, enum worker_job job,
	     unsigned options, uint64_t *ret_number)
{
	const struct vm *vm = device->place.vm;
	struct worker_request request = {.job = job, .inode = device->id.inode, .options = options};

	snprintf(request.devpath, sizeof(request.devpath), "%s", device->id.devpath);
	snprintf(request.node, sizeof(request.node), "%s", device->id.node);
	if (vm) {
		request.uid = vm->user != (uid_t) -1 ? vm->user : vm->peer.uid;
		request.pid = vm->peer.pid;
	}
	int r = worker_send(registry->worker, &request);
	if (r == 0)
		*ret_number = request.number;
	return r;
}

/* Some VMMs expect a device as it is after its plug; a rule may ask for that whatever the VMM. */
unsigned job_options(const struct registry *registry, const struct device *device)
{
	unsigned wish = device->wish.options, options = 0;

	if (wish & OPTION_FORCE)
		options |= WORKER_FORCE;
	if (device->place.vm && device->place.vm->vmm->wants_reset && !(wish & OPTION_NO_RESET))
		options |= WORKER_RESET;
	if (device->attempt.was_used)
		options |= WORKER_WAS_USED;
	if (device->id.kind == DEVICE_PCI && group_is_with(registry, device, device->place.vm))
		options |= WORKER_GROUP_IS_OURS;
	if (device->attempt.is_ahead)
		options |= WORKER_IS_AHEAD;
	if (wish & OPTION_RESET)
		options |= WORKER_RESET | WORKER_MUST_RESET;
	return options;
}

int job_ask(struct registry *registry, struct device *device, enum worker_job job)
{
	device_touch(device);
	return job_send(registry, device, job, job_options(registry, device),
			&device->attempt.request);
}

int job_look(struct registry *registry, const struct device *device, struct vm_look *look)
{
	int r = job_send(registry, device, WORKER_PCI_LOOK, 0, &look->request);

	if (r < 0)
		return r;
	look->is_shared = group_stays(registry, device);
	look->next = registry->looks;
	registry->looks = look;
	return 0;
}

void job_forget_look(struct registry *registry, struct vm_look *look)
{
	struct vm_look **at = &registry->looks;

	while (*at && *at != look)
		at = &(*at)->next;
	if (*at)
		*at = look->next;
	look->request = 0;
}

static enum vm_open what_is_seen(const struct vm_look *look, const struct worker_answer *answer)
{
	if (answer->result != -EBUSY)
		return answer->result == 0 ? VM_OPEN_NO : VM_OPEN_UNKNOWN;
	if (answer->detail[0])
		return VM_OPEN_ELSEWHERE;
	return look->is_shared ? VM_OPEN_SHARED : VM_OPEN_YES;
}

bool job_note_look(struct registry *registry, const struct worker_answer *answer)
{
	struct vm_look *look = registry->looks;

	while (look && look->request != answer->number)
		look = look->next;
	if (!look)
		return false;
	job_forget_look(registry, look);
	look->seen(look->data, what_is_seen(look, answer), answer->detail);
	return true;
}
