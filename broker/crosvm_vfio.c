/* PCI devices of one crosvm VM: see crosvm_vfio.h. Called by vmm_crosvm.c. */
#include "broker/crosvm_vfio.h"

#include "broker/crosvm_command.h"
#include "broker/device.h"
#include "broker/log.h"
#include "broker/vmm_crosvm.h"

#define PREFIX "crosvm-pci-"

/* One request of the manager's. Its memory outlives the pass in which it is done. */
struct request {
	struct request *next;
	struct loop_garbage garbage;
	struct crosvm_vfio *vfio;
	struct device *device;
	bool add;
	bool done;
	char handle[96];
	unsigned n_unanswered; /* times that crosvm did not answer in time */
	struct crosvm_command *command;
	struct loop_timer again;
	struct vmm_result result;
};

struct crosvm_vfio {
	struct vm *vm;
	struct request *requests; /* the first one is under way */
};

static void run_queue(struct crosvm_vfio *vfio);

/* Handles: "crosvm-pci-0000:01:00.0-4436@4711.12345", the function, its instance and the process.
 */

static void make_handle(const struct vm *vm, const struct device *device, char *handle, size_t size)
{
	snprintf(handle, size, PREFIX "%.16s-%llu@%d.%llu", device->id.kernel_name,
		 (unsigned long long) device->id.inode, (int) vm->peer.pid,
		 (unsigned long long) vm->peer.start_time);
}

bool crosvm_vfio_is_handle(const char *handle)
{
	return startswith(handle, PREFIX) != NULL;
}

bool crosvm_vfio_is_current(const struct vm *vm, const char *handle)
{
	int pid;
	unsigned long long start_time;

	return sscanf(handle, PREFIX "%*48[^@]@%d.%llu", &pid, &start_time) == 2 &&
	       pid == vm->peer.pid && start_time == vm->peer.start_time;
}

/* Requests */

static void free_request(void *data)
{
	free(data);
}

static struct request *request_new(struct crosvm_vfio *vfio, struct device *device, bool add)
{
	struct request *request = calloc(1, sizeof(*request)), **at = &vfio->requests;

	if (!request)
		return NULL;
	request->vfio = vfio;
	request->device = device;
	request->add = add;
	while (*at)
		at = &(*at)->next;
	*at = request;
	return request;
}

static void request_unlink(struct request *request)
{
	struct request **at = &request->vfio->requests;

	while (*at && *at != request)
		at = &(*at)->next;
	if (*at)
		*at = request->next;
	request->done = true;
	request->command = crosvm_command_cancel(request->command);
	loop_timer_stop(&request->again);
	loop_discard(request->vfio->vm->loop, &request->garbage, free_request, request);
}

/* Ends REQUEST with its result and lets the next one begin. */
static void request_finish(struct request *request)
{
	struct crosvm_vfio *vfio = request->vfio;

	request_unlink(request);
	if (request->add)
		vm_attached(vfio->vm, request->device, &request->result);
	else
		vm_detached(vfio->vm, request->device, request->handle, &request->result);
	run_queue(vfio);
}

/* Answers */

/* The program is not there, or not the right one: waiting does not help. */
static bool is_wrong_program(const struct crosvm_command_result *result)
{
	return !result->started || (!result->timed_out && WIFEXITED(result->status) &&
				    WEXITSTATUS(result->status) == CROSVM_INVALID_ARGUMENTS);
}

/* crosvm says no more than EINVAL: for a slot in use, a device it can't open, and also for one that
 * it has opened already, and has put into a slot that the guest has not enabled yet. */
static void note_refused(struct request *request, const struct crosvm_reply *reply)
{
	const struct device *device = request->device;

	if (device->attempt.n_retries + 1 < crosvm_pace.attempts) {
		vmm_set_result(&request->result, VMM_RETRY, "%.150s; it is tried again",
			       reply->text);
		request->result.delay_ms = crosvm_wait_ms(device->attempt.n_retries);
		return;
	}
	vmm_set_result(&request->result, VMM_FAILED,
		       "%.110s, %u times; crosvm has one PCI slot unless started with"
		       " --pci-hotplug-slots: free one or restart the VM",
		       reply->text, device->attempt.n_retries + 1);
	request->result.is_full = true;
}

static void start(void *data);

/* It may yet do what it was asked, when it comes to itself; then the next request will fail. */
static void ask_again(struct request *request)
{
	struct vm *vm = request->vfio->vm;

	vm_set_reason(vm, "crosvm of %s does not answer on %s: it is still starting, or hangs",
		      vm->name, vm->socket);
	loop_timer_start(vm->loop, &request->again, crosvm_wait_ms(request->n_unanswered++), start,
			 request);
}

static void added(struct request *request, const struct crosvm_command_result *result,
		  const struct crosvm_reply *reply)
{
	if (result->timed_out) {
		ask_again(request);
		return;
	}
	if (is_wrong_program(result)) {
		vmm_set_result(&request->result, VMM_FAILED, "%s", reply->text);
	} else {
		if (reply->answer == CROSVM_OK)
			vmm_set_result(&request->result, VMM_OK,
				       "crosvm has accepted it and not opened it (it hot-plugs PCI"
				       " devices on x86-64 only); start the VM with --vfio");
		else
			note_refused(request, reply);
		request->result.is_unsure = true;
	}
	request_finish(request);
}

static void removed(struct request *request, const struct crosvm_command_result *result,
		    const struct crosvm_reply *reply)
{
	if (result->timed_out || is_wrong_program(result))
		vmm_set_result(&request->result, VMM_RETRY, "%s", reply->text);
	else
		vmm_set_result(&request->result, VMM_PENDING, "%s", ""); /* or removed before */
	request_finish(request);
}

static void ended(void *data, const struct crosvm_command_result *result)
{
	struct request *request = data;
	struct vm *vm = request->vfio->vm;
	struct crosvm_reply reply;

	request->command = NULL;
	crosvm_command_parse(vm->crosvm, result, &reply);
	if (!result->timed_out && request->n_unanswered > 0)
		vm_set_reason(vm, "%s", "");
	if (request->add)
		added(request, result, &reply);
	else
		removed(request, result, &reply);
}

/* Asking */

static void start(void *data)
{
	struct request *request = data;
	const struct device *device = request->device;
	struct vm *vm = request->vfio->vm;
	char path[128];
	const char *const words[] = {vm->crosvm, "vfio",     request->add ? "add" : "remove",
				     path,       vm->socket, NULL};

	if (sysfs_inode(device->id.devpath) != device->id.inode) {
		/* The kernel takes it away only when nobody has it any more. */
		vmm_set_result(&request->result, VMM_GONE, "it has been unplugged");
		request_finish(request);
		return;
	}
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%.64s", device->id.kernel_name);
	int r = crosvm_command_run(vm->loop, words, crosvm_pace.command, ended, request,
				   &request->command);
	if (r < 0) {
		vmm_set_result(&request->result, VMM_RETRY, "can't run %.100s: %s", vm->crosvm,
			       strerror(-r));
		request_finish(request);
	}
}

static void run_queue(struct crosvm_vfio *vfio)
{
	struct request *request = vfio->requests;

	if (request && !request->command && !request->again.loop)
		start(request);
}

/* For vmm_crosvm.c */

void crosvm_vfio_attach(struct crosvm_vfio *vfio, struct device *device)
{
	struct vm *vm = vfio->vm;
	struct request *request = request_new(vfio, device, true);

	if (!request) {
		struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};

		vm_attached(vm, device, &result);
		return;
	}
	/* Whatever happens to the broker now, this is what the device may be in. */
	make_handle(vm, device, device->place.handle, sizeof(device->place.handle));
	vm_handle_changed(vm, device);
	vm_attach_sent(vm, device);
	run_queue(vfio);
}

void crosvm_vfio_detach(struct crosvm_vfio *vfio, struct device *device, const char *handle)
{
	struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};
	struct request *request = NULL;

	if (!crosvm_vfio_is_current(vfio->vm, handle))
		result = (struct vmm_result){.outcome = VMM_GONE};
	else
		request = request_new(vfio, device, false);
	if (!request) {
		vm_detached(vfio->vm, device, handle, &result);
		return;
	}
	snprintf(request->handle, sizeof(request->handle), "%s", handle);
	run_queue(vfio);
}

void crosvm_vfio_reset(struct crosvm_vfio *vfio)
{
	struct request *request = vfio->requests;

	/* All at once: the end of one must not begin the next. */
	vfio->requests = NULL;
	while (request) {
		struct request *next = request->next;

		vmm_set_result(&request->result, VMM_RETRY, "the VM has ended");
		request_finish(request);
		request = next;
	}
}

int crosvm_vfio_new(struct vm *vm, struct crosvm_vfio **ret_vfio)
{
	struct crosvm_vfio *vfio = calloc(1, sizeof(*vfio));

	if (!vfio)
		return -ENOMEM;
	vfio->vm = vm;
	*ret_vfio = vfio;
	return 0;
}

void crosvm_vfio_free(struct crosvm_vfio *vfio)
{
	while (vfio && vfio->requests)
		request_unlink(vfio->requests);
	free(vfio);
}
