/* PCI devices of one crosvm VM: see crosvm_vfio.h. Called by vmm_crosvm.c. */
#include "broker/crosvm_vfio.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include "broker/crosvm_command.h"
#include "broker/crosvm_socket.h"
#include "broker/crosvm_start.h"
#include "broker/device.h"
#include "broker/op.h"
#include "broker/vmm_crosvm.h"

#define PREFIX "crosvm-pci-"
#define LOST "-lost"
#define UNOPENED_MS 2000 /* for a function that crosvm says it has, and has not */

struct crosvm_vfio {
	struct vm *vm;
	char *program;
	struct op_queue ops; /* serial */
};

/* One request, the program that carries it out, and what the kernel says then. */
struct request {
	struct op base;
	struct crosvm_vfio *vfio;
	bool add;
	bool is_accepted;      /* add: crosvm says that it has it */
	bool is_sent;          /* add: crosvm was asked, or is about to be */
	bool is_silent;        /* … and has not answered in time */
	bool is_passed_over;   /* … but what it was asked later */
	unsigned n_unanswered; /* times that crosvm, or the kernel, did not answer in time */
	struct crosvm_command *command;
	struct vm_look look;
	int later_fd; /* that is asked later; or -1 */
	struct loop_source *later_source;
};

/* Handles: "crosvm-pci-0000:01:00.0-4436@4711.12345", the function, its instance and the process;
 * with "-lost" behind it when the guest will never see it. */

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

bool crosvm_vfio_is_lost(const char *handle)
{
	return strstr(handle, LOST) != NULL;
}

/* The kernel's word */

static void ask_kernel(void *data);

/* It is not known whether VM has it: so it may. */
static void look_again(struct request *request, const char *why)
{
	struct vm *vm = request->vfio->vm;

	vm_set_reason(vm, "can't tell whether it has %s: %s", request->base.device->id.kernel_name,
		      why);
	loop_timer_start(vm->loop, &request->base.timer, crosvm_wait_ms(request->n_unanswered++),
			 ask_kernel, request);
}

/* crosvm has opened it, and then found that the guest has not enabled its slot. */
static void set_lost(struct request *request)
{
	struct device *device = request->base.device;
	char handle[DEVICE_HANDLE_SIZE];

	vmm_set_result(&request->base.result, VMM_FAILED,
		       "crosvm has it, and its guest will never see it: it came before the guest"
		       " was ready; restart %s, with a longer \"delay =\" if that comes back",
		       request->vfio->vm->name);
	request->base.result.until_end = true;
	/* For who comes after us. */
	snprintf(handle, sizeof(handle), "%.80s" LOST, device->place.handle);
	kept_set(&device->place.handle, handle);
	vm_handle_changed(request->vfio->vm, device);
}

static void added_is_seen(struct request *request, enum vm_open open)
{
	struct vmm_result *result = &request->base.result;

	/* Where it is open for others, crosvm's word is all there is; where crosvm has said
	 * nothing, the kernel's. */
	if (open == VM_OPEN_YES && !request->is_accepted && !request->is_silent) {
		set_lost(request);
	} else if (open == VM_OPEN_YES || (open == VM_OPEN_SHARED && request->is_accepted)) {
		*result = (struct vmm_result){.outcome = VMM_OK};
	} else if (request->is_accepted) {
		vmm_set_result(result,
			       request->base.device->attempt.n_retries == 0 ? VMM_RETRY
									    : VMM_FAILED,
			       "crosvm has accepted it and not opened it (it hot-plugs PCI"
			       " devices on x86-64 only); start the VM with --vfio");
		result->delay_ms = UNOPENED_MS;
	} else if (request->is_passed_over) {
		vmm_set_result(result, VMM_FAILED,
			       "crosvm has ignored the request, which is not of its version; set"
			       " \"crosvm =\" in [general] to the crosvm that runs %s",
			       request->vfio->vm->name);
	}
	op_finish(&request->base);
}

/* Neither crosvm nor its guest lets go of DEVICE, whatever it answers. */
static void set_kept(const struct vm *vm, const struct device *device, struct vmm_result *result)
{
	vmm_set_result(
		result, VMM_PENDING,
		"crosvm gives no %s back while it runs: stays in %.60s until that is stopped",
		device->id.kind == DEVICE_PCI ? "card" : "input device", vm->name);
	result->until_end = true;
}

static void removed_is_seen(struct request *request, enum vm_open open, const char *detail)
{
	bool is_out = open == VM_OPEN_NO || open == VM_OPEN_SHARED || open == VM_OPEN_ELSEWHERE;

	if (open == VM_OPEN_YES)
		set_kept(request->vfio->vm, request->base.device, &request->base.result);
	else
		vmm_set_result(&request->base.result, is_out ? VMM_OK : VMM_PENDING, "%s", detail);
	op_finish(&request->base);
}

static void run_program(void *data);

/* Silence: crosvm hangs, and does what it was asked when it comes to itself, or it has not
 * understood that, and will never answer. It takes connections and requests in the order they come,
 * one at a time: so when it answers what is asked later, over a connection that is made later, it
 * is through with the former request. Source: crosvm, src/crosvm/sys/linux.rs (run_control). */

static void close_later(struct request *request)
{
	request->later_source = loop_source_free(request->later_source);
	request->later_fd = close_fd(request->later_fd);
}

/* Whatever the answer is. */
static void later_is_readable(void *data, uint32_t events)
{
	struct request *request = data;
	struct crosvm_reply reply;
	int r = crosvm_receive(request->later_fd, &reply);

	(void) events;
	if (r == -EAGAIN)
		return;
	close_later(request);
	if (r < 0 && r != -EBADMSG)
		return; /* it is asked again */
	request->is_passed_over = true;
	/* What the kernel has said before does not count. */
	loop_timer_stop(&request->base.timer);
	vm_forget_look(request->vfio->vm, &request->look);
	ask_kernel(request);
}

static void ask_later(struct request *request)
{
	struct vm *vm = request->vfio->vm;
	_cleanup_close_ int fd = -1;
	char reason[300];
	int r = peer_connect(vm->socket, SOCK_SEQPACKET, &fd);

	if (r == 0)
		r = vm_check_peer(vm, fd, reason, sizeof(reason));
	if (r < 0 || request->base.is_done || crosvm_send_list(fd) < 0)
		return;
	request->later_fd = TAKE_FD(fd);
	if (loop_add(vm->loop, request->later_fd, EPOLLIN, later_is_readable, request,
		     &request->later_source) < 0)
		close_later(request);
}

static void await_silent(struct request *request)
{
	struct vm *vm = request->vfio->vm;

	request->is_silent = true;
	vm_set_reason(vm, "crosvm of %s does not answer on %s: it is still starting, or hangs",
		      vm->name, vm->socket);
	loop_timer_start(vm->loop, &request->base.timer, crosvm_wait_ms(request->n_unanswered++),
			 ask_kernel, request);
	if (request->later_fd < 0)
		ask_later(request);
}

/* Then crosvm could not open it, and is not asked. */
static void set_elsewhere(struct request *request, const char *who)
{
	vmm_set_result(&request->base.result, VMM_RETRY, "%.100s has its IOMMU group open", who);
	op_finish(&request->base);
}

/* A crosvm that is asked to add a card that it has ends, and its VM with it: so it is asked once,
 * and not where the group is open. */
static void group_is_seen(void *data, enum vm_open open, const char *detail)
{
	struct request *request = data;

	if (request->add && open == VM_OPEN_UNKNOWN) {
		look_again(request, detail);
		return;
	}
	if (request->is_silent && !request->is_passed_over && open != VM_OPEN_YES) {
		await_silent(request);
		return;
	}
	if (request->n_unanswered > 0)
		vm_set_reason(request->vfio->vm, "%s", "");
	if (request->add && open == VM_OPEN_ELSEWHERE)
		set_elsewhere(request, detail);
	else if (request->add && !request->is_sent && open != VM_OPEN_YES)
		run_program(request);
	else if (request->add)
		added_is_seen(request, open);
	else
		removed_is_seen(request, open, detail);
}

static void ask_kernel(void *data)
{
	struct request *request = data;

	request->look.seen = group_is_seen;
	request->look.data = request;
	if (vm_ask_open(request->vfio->vm, request->base.device, &request->look) < 0)
		group_is_seen(request, VM_OPEN_UNKNOWN, "the worker process is overloaded");
}

/* Answers */

/* The program is not there, or not the right one: waiting does not help. */
static bool is_wrong_program(const struct crosvm_command_result *result)
{
	return !result->started || (!result->timed_out && WIFEXITED(result->status) &&
				    WEXITSTATUS(result->status) == CROSVM_INVALID_ARGUMENTS);
}

/* crosvm says no more than EINVAL, whatever it is. */
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
		       "%.110s, %u times; its own log may say more: restart the VM, or start it"
		       " with --vfio",
		       reply->text, device->attempt.n_retries + 1);
}

static void add_has_ended(struct request *request, const struct crosvm_command_result *result,
			  const struct crosvm_reply *reply)
{
	if (result->timed_out) {
		await_silent(request);
		return;
	}
	if (is_wrong_program(result)) {
		vmm_set_result(&request->base.result, VMM_FAILED, "%s", reply->text);
		op_finish(&request->base);
		return;
	}
	request->is_accepted = reply->answer == CROSVM_OK;
	if (!request->is_accepted)
		note_refused(request, reply);
	ask_kernel(request);
}

static void remove_has_ended(struct request *request, const struct crosvm_command_result *result,
			     const struct crosvm_reply *reply)
{
	/* Otherwise it may be removed, or asked to leave, now or before. */
	if (!result->timed_out && !is_wrong_program(result)) {
		ask_kernel(request);
		return;
	}
	vmm_set_result(&request->base.result, VMM_RETRY, "%s", reply->text);
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

/* The program connects by a path, and what lies at that of our VM's socket may be a link to another
 * VM's by then: so it gets the socket itself, once our VM has been seen to answer there. Returns 0;
 * or -errno, for which REASON may have words. */
static int open_socket(struct vm *vm, int *ret_node, char *reason, size_t size)
{
	_cleanup_close_ int fd = -1, node = -1;
	int r = peer_connect_at(vm->socket, SOCK_SEQPACKET, &fd, &node);

	reason[0] = 0;
	if (r == 0)
		r = vm_check_peer(vm, fd, reason, size);
	if (r == 0)
		*ret_node = TAKE_FD(node);
	return r;
}

static int start_program(struct request *request, int socket)
{
	char path[128], way[40];
	const char *const words[] = {
		request->vfio->program, "vfio", request->add ? "add" : "remove", path, way, NULL};

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%.64s",
		 request->base.device->id.kernel_name);
	snprintf(way, sizeof(way), "/proc/self/fd/%d", CROSVM_COMMAND_FD);
	return crosvm_command_run(request->vfio->vm->loop, words, socket, crosvm_pace.command,
				  program_has_ended, request, &request->command);
}

static void run_program(void *data)
{
	struct request *request = data;
	const struct device *device = request->base.device;
	_cleanup_close_ int socket = -1;
	char reason[300];

	if (device_has_gone(device)) {
		/* The kernel takes it away only when nobody has it any more. */
		vmm_set_result(&request->base.result, VMM_GONE, "it has been unplugged");
		op_finish(&request->base);
		return;
	}
	int r = open_socket(request->vfio->vm, &socket, reason, sizeof(reason));
	if (request->base.is_done)
		return; /* another process was found, and everything was answered */
	request->is_sent = r == 0;
	if (r == 0)
		r = start_program(request, socket);
	if (r < 0) {
		vmm_set_result(&request->base.result, VMM_RETRY, "can't ask crosvm: %s",
			       *reason ? reason : strerror(-r));
		op_finish(&request->base);
	}
}

static void begin_request(struct op *base)
{
	if (((struct request *) base)->add)
		ask_kernel(base);
	else
		run_program(base);
}

static void end_request(struct op *base)
{
	struct request *request = (struct request *) base;
	struct vm *vm = request->vfio->vm;

	close_later(request);
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
		request->later_fd = -1;
	}
	return request;
}

/* What the request under way waits for. */
static void stop_request(struct crosvm_vfio *vfio)
{
	struct request *request = (struct request *) vfio->ops.first;

	if (!request)
		return;
	request->command = crosvm_command_cancel(request->command);
	close_later(request);
	vm_forget_look(vfio->vm, &request->look);
}

/* For vmm_crosvm.c */

void crosvm_vfio_attach(struct crosvm_vfio *vfio, struct device *device)
{
	struct vm *vm = vfio->vm;
	struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};
	struct request *request = request_new(vfio, device, true, device->place.handle);
	char handle[DEVICE_HANDLE_SIZE];

	if (!request) {
		vm_attached(vm, device, &result);
		return;
	}
	/* Whatever happens to the broker now, this is what the device may be in. */
	make_handle(vm, device, handle, sizeof(handle));
	kept_set(&device->place.handle, handle);
	vm_handle_changed(vm, device);
	vm_attach_sent(vm, device);
	op_queue_run(&vfio->ops);
}

void crosvm_vfio_detach(struct crosvm_vfio *vfio, struct device *device, const char *handle)
{
	struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};
	struct request *request = NULL;

	if (crosvm_start_is_handle(handle) && !device_has_gone(device))
		set_kept(vfio->vm, device, &result);
	else if (!crosvm_vfio_is_current(vfio->vm, handle))
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
	stop_request(vfio);
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
	stop_request(vfio);
	op_queue_clear(&vfio->ops);
	free(vfio->program);
	free(vfio);
}
