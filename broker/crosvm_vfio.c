/* PCI devices of one crosvm VM: see crosvm_vfio.h. Called by vmm_crosvm.c. */
#include "broker/crosvm_vfio.h"

#include "broker/crosvm_command.h"
#include "broker/device.h"
#include "broker/op.h"
#include "broker/vmm_crosvm.h"

#define PREFIX "crosvm-pci-"

struct crosvm_vfio {
	struct vm *vm;
	char *program;
	struct op_queue ops; /* serial */
};

/* One request, and the program that carries it out. */
struct request {
	struct op base;
	struct crosvm_vfio *vfio;
	bool add;
	unsigned n_unanswered; /* times that crosvm did not answer in time */
	struct crosvm_command *command;
};

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
	const struct device *device = request->base.device;

	if (device->attempt.n_retries + 1 < crosvm_pace.attempts) {
		vmm_set_result(&request->base.result, VMM_RETRY, "%.150s; it is tried again",
			       reply->text);
		request->base.result.delay_ms = crosvm_wait_ms(device->attempt.n_retries);
		return;
	}
	vmm_set_result(&request->base.result, VMM_FAILED,
		       "%.110s, %u times; crosvm has one PCI slot unless started with"
		       " --pci-hotplug-slots: free one or restart the VM",
		       reply->text, device->attempt.n_retries + 1);
	request->base.result.is_full = true;
}

static void run_program(void *data);

/* It may yet do what it was asked, when it comes to itself; then the next request will fail. */
static void ask_again(struct request *request)
{
	struct vm *vm = request->vfio->vm;

	vm_set_reason(vm, "crosvm of %s does not answer on %s: it is still starting, or hangs",
		      vm->name, vm->socket);
	loop_timer_start(vm->loop, &request->base.timer, crosvm_wait_ms(request->n_unanswered++),
			 run_program, request);
}

static void add_has_ended(struct request *request, const struct crosvm_command_result *result,
			  const struct crosvm_reply *reply)
{
	if (result->timed_out) {
		ask_again(request);
		return;
	}
	if (is_wrong_program(result)) {
		vmm_set_result(&request->base.result, VMM_FAILED, "%s", reply->text);
	} else {
		if (reply->answer == CROSVM_OK)
			vmm_set_result(&request->base.result, VMM_OK,
				       "crosvm has accepted it and not opened it (it hot-plugs PCI"
				       " devices on x86-64 only); start the VM with --vfio");
		else
			note_refused(request, reply);
		request->base.result.is_unsure = true;
	}
	op_finish(&request->base);
}

static void remove_has_ended(struct request *request, const struct crosvm_command_result *result,
			     const struct crosvm_reply *reply)
{
	if (result->timed_out || is_wrong_program(result))
		vmm_set_result(&request->base.result, VMM_RETRY, "%s", reply->text);
	else
		vmm_set_result(&request->base.result, VMM_PENDING, "%s",
			       ""); /* or removed before */
	op_finish(&request->base);
}

static void program_has_ended(void *data, const struct crosvm_command_result *result)
{
	struct request *request = data;
	struct vm *vm = request->vfio->vm;
	struct crosvm_reply reply;

	request->command = NULL;
	crosvm_command_parse(request->vfio->program, result, &reply);
	if (!result->timed_out && request->n_unanswered > 0)
		vm_set_reason(vm, "%s", "");
	if (request->add)
		add_has_ended(request, result, &reply);
	else
		remove_has_ended(request, result, &reply);
}

/* Asking */

static void run_program(void *data)
{
	struct request *request = data;
	const struct device *device = request->base.device;
	struct vm *vm = request->vfio->vm;
	char path[128];
	const char *program = request->vfio->program;
	const char *const words[] = {program, "vfio",     request->add ? "add" : "remove",
				     path,    vm->socket, NULL};

	if (sysfs_inode(device->id.devpath) != device->id.inode) {
		/* The kernel takes it away only when nobody has it any more. */
		vmm_set_result(&request->base.result, VMM_GONE, "it has been unplugged");
		op_finish(&request->base);
		return;
	}
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%.64s", device->id.kernel_name);
	int r = crosvm_command_run(vm->loop, words, crosvm_pace.command, program_has_ended, request,
				   &request->command);
	if (r < 0) {
		vmm_set_result(&request->base.result, VMM_RETRY, "can't run %.100s: %s", program,
			       strerror(-r));
		op_finish(&request->base);
	}
}

static void begin_request(struct op *base)
{
	run_program(base);
}

static void end_request(struct op *base)
{
	struct request *request = (struct request *) base;
	struct vm *vm = request->vfio->vm;

	if (request->add)
		vm_attached(vm, base->device, &base->result);
	else
		vm_detached(vm, base->device, base->handle, &base->result);
}

static struct request *request_new(struct crosvm_vfio *vfio, struct device *device, bool add,
				   const char *handle)
{
	struct request *request =
		op_new(&vfio->ops, sizeof(*request), begin_request, end_request, device, handle);

	if (request) {
		request->vfio = vfio;
		request->add = add;
	}
	return request;
}

/* The program of the request under way. */
static void stop_program(struct crosvm_vfio *vfio)
{
	struct request *request = (struct request *) vfio->ops.first;

	if (request)
		request->command = crosvm_command_cancel(request->command);
}

/* For vmm_crosvm.c */

void crosvm_vfio_attach(struct crosvm_vfio *vfio, struct device *device)
{
	struct vm *vm = vfio->vm;
	struct request *request = request_new(vfio, device, true, device->place.handle);

	if (!request) {
		struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};

		vm_attached(vm, device, &result);
		return;
	}
	/* Whatever happens to the broker now, this is what the device may be in. */
	make_handle(vm, device, device->place.handle, sizeof(device->place.handle));
	vm_handle_changed(vm, device);
	vm_attach_sent(vm, device);
	op_queue_run(&vfio->ops);
}

void crosvm_vfio_detach(struct crosvm_vfio *vfio, struct device *device, const char *handle)
{
	struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};
	struct request *request = NULL;

	if (!crosvm_vfio_is_current(vfio->vm, handle))
		result = (struct vmm_result){.outcome = VMM_GONE};
	else
		request = request_new(vfio, device, false, handle);
	if (!request) {
		vm_detached(vfio->vm, device, handle, &result);
		return;
	}
	op_queue_run(&vfio->ops);
}

void crosvm_vfio_reset(struct crosvm_vfio *vfio)
{
	stop_program(vfio);
	op_queue_fail(&vfio->ops, "the VM has ended");
}

int crosvm_vfio_set_program(struct crosvm_vfio *vfio, const char *program)
{
	char *copy = strdup(program);

	if (!copy)
		return -ENOMEM;
	free(vfio->program);
	vfio->program = copy;
	return 0;
}

int crosvm_vfio_new(struct vm *vm, struct crosvm_vfio **ret_vfio)
{
	struct crosvm_vfio *vfio = calloc(1, sizeof(*vfio));

	if (!vfio)
		return -ENOMEM;
	vfio->vm = vm;
	vfio->ops = (struct op_queue){.loop = vm->loop, .is_serial = true};
	*ret_vfio = vfio;
	return 0;
}

void crosvm_vfio_free(struct crosvm_vfio *vfio)
{
	if (!vfio)
		return;
	stop_program(vfio);
	op_queue_clear(&vfio->ops);
	free(vfio->program);
	free(vfio);
}
