/* What the worker is to do about a device: see job.h. Called by handover and handback. */
#include "broker/job.h"

int job_send(struct registry *registry, const struct device *device, enum worker_job job,
	     unsigned options, uint64_t *ret_number)
{
	const struct vm *vm = device->place.vm;
	struct worker_request request = {.job = job, .inode = device->id.inode, .options = options};

	snprintf(request.devpath, sizeof(request.devpath), "%s", device->id.devpath);
	snprintf(request.node, sizeof(request.node), "%s", device->id.node);
	if (vm)
		request.uid = vm->user != (uid_t) -1 ? vm->user : vm->peer.uid;
	int r = worker_send(registry->worker, &request);
	if (r == 0)
		*ret_number = request.number;
	return r;
}

/* Some VMMs expect a device as it is after its plug; a rule may ask for that whatever the VMM. */
static unsigned options_for(const struct device *device)
{
	unsigned wish = device->wish.options, options = 0;

	if (wish & OPTION_FORCE)
		options |= WORKER_FORCE;
	if (device->place.vm && device->place.vm->vmm->wants_reset && !(wish & OPTION_NO_RESET))
		options |= WORKER_RESET;
	if (wish & OPTION_RESET)
		options |= WORKER_RESET | WORKER_MUST_RESET;
	return options;
}

int job_ask(struct registry *registry, struct device *device, enum worker_job job)
{
	return job_send(registry, device, job, options_for(device), &device->attempt.request);
}
