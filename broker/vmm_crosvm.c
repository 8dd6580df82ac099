/* crosvm behind vmm.h: USB devices over its control socket (crosvm_socket.h), PCI devices by its
 * program (crosvm_vfio.h). What follows is about USB.
 *
 * The port that crosvm answers is the only name a device has in it, and it is given to the next
 * device once it is free. So the handle on record is the port with the device's ids and the
 * crosvm process ("crosvm-9-046d:c52b@4711.12345"), and it is compared with crosvm's own list
 * before it is used. While an attach is under way, the handle says which ports were taken before
 * it ("crosvm-after-0003-…"): whatever happens to the broker meanwhile, a port that the attach has
 * taken can be found and freed. Ports that are not on record are somebody else's.
 *
 * Requests go out one at a time for each VM, because what a new port means is known only then. A
 * crosvm that does not answer keeps its own devices waiting and no others.
 * Sources: crosvm, devices/src/usb/backend/device_provider.rs (what is answered when),
 * devices/src/usb/xhci/usb_hub.rs (ports; the guest without driver), vm_control/src/lib.rs.
 */
#include "broker/vmm_crosvm.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "broker/crosvm_socket.h"
#include "broker/crosvm_vfio.h"
#include "broker/device.h"
#include "broker/log.h"
#include "broker/vm.h"

#define INNER_LIMIT_MS 1500 /* an EIO later than this is crosvm's own time-out, of 2 s */
#define MAX_PUSHES 64       /* crosvm's time-outs so far; each costs one more list */

struct crosvm_pace crosvm_pace = {
	.answer = 5000, .command = 10000, .first_wait = 1000, .max_wait = 30000, .attempts = 20};

enum op_kind {
	OP_PROBE,
	OP_ATTACH,
	OP_DETACH,
};

/* What OP has asked last. */
enum step {
	STEP_QUEUED,  /* nothing yet */
	STEP_LIST,    /* what the ports have */
	STEP_REQUEST, /* to attach or to detach */
	STEP_LOOK,    /* the ports again, after an attach that came to nothing */
	STEP_FREE,    /* to empty the port that an attach has left behind */
};

struct crosvm;

/* One request of the manager's. Its memory outlives the pass in which it is done. */
struct op {
	struct op *next;
	struct loop_garbage garbage;
	struct crosvm *crosvm;
	enum op_kind kind;
	enum step step;
	bool done;
	struct device *device;
	char handle[96]; /* detach */
	int fd;          /* attach, until it is sent */
	bool is_sent;    /* the attach */
	bool no_port;    /* … was answered by NoAvailablePort */
	unsigned freeing;
	struct vmm_result result;
};

/* An attach that may have taken a port without our knowing which. */
struct doubt {
	bool set;
	unsigned before; /* bit n: port n was taken before it */
	unsigned vendor, product;
};

struct crosvm {
	struct vm *vm;
	struct crosvm_vfio *vfio;
	int fd;
	struct loop_source *source;
	struct op *ops; /* the first one is under way */
	struct doubt doubt;

	/* The answer that is waited for. */
	struct loop_timer deadline;
	uint64_t asked;  /* ms, monotonic */
	bool is_silent;  /* and a person has been told */
	bool is_pinged;  /* a list was sent after the unanswered request */
	unsigned n_owed; /* lists that will be answered, and whose answer nobody wants */
	unsigned n_pushes;

	/* A guest without USB driver. */
	unsigned n_not_ready;
	uint64_t not_before; /* ms, monotonic: no attach until then */
};

static void run_queue(struct crosvm *crosvm);

/* Handles */

static void make_handle(const struct crosvm *crosvm, char *handle, size_t size, unsigned port,
			unsigned vendor, unsigned product)
{
	const struct peer *peer = &crosvm->vm->peer;

	snprintf(handle, size, "crosvm-%u-%04x:%04x@%d.%llu", port, vendor, product,
		 (int) peer->pid, (unsigned long long) peer->start_time);
}

static void make_doubtful_handle(const struct crosvm *crosvm, char *handle, size_t size)
{
	const struct doubt *doubt = &crosvm->doubt;
	const struct peer *peer = &crosvm->vm->peer;

	snprintf(handle, size, "crosvm-after-%05x-%04x:%04x@%d.%llu", doubt->before, doubt->vendor,
		 doubt->product, (int) peer->pid, (unsigned long long) peer->start_time);
}

static bool is_of_process(const struct crosvm *crosvm, int pid, unsigned long long start_time)
{
	return pid == crosvm->vm->peer.pid && start_time == crosvm->vm->peer.start_time;
}

/* The port that HANDLE stands for, if LIST still has its device there; else 0. */
static unsigned find_port(const struct crosvm *crosvm, const char *handle,
			  const struct crosvm_reply *list)
{
	unsigned port, vendor, product;
	int pid;
	unsigned long long start_time;

	if (sscanf(handle, "crosvm-%2u-%4x:%4x@%d.%llu", &port, &vendor, &product, &pid,
		   &start_time) != 5 ||
	    !is_of_process(crosvm, pid, start_time) || port < 1 || port > CROSVM_PORTS)
		return 0;

	const struct crosvm_port *at = &list->ports[port];
	return at->used && at->vendor == vendor && at->product == product ? port : 0;
}

/* Sets *RET_DOUBT if HANDLE stands for an attach to this very process whose outcome is not known.
 */
static void parse_doubt(const struct crosvm *crosvm, const char *handle, struct doubt *ret_doubt)
{
	struct doubt doubt = {.set = true};
	int pid;
	unsigned long long start_time;

	if (sscanf(handle, "crosvm-after-%5x-%4x:%4x@%d.%llu", &doubt.before, &doubt.vendor,
		   &doubt.product, &pid, &start_time) == 5 &&
	    is_of_process(crosvm, pid, start_time))
		*ret_doubt = doubt;
}

static bool crosvm_is_doubtful(const char *handle)
{
	return startswith(handle, "crosvm-after-") != NULL;
}

/* Ports that were empty before the attach in doubt and have a device of its kind now. Returns how
 * many, and the last of them. */
static unsigned find_taken(const struct doubt *doubt, const struct crosvm_reply *list,
			   unsigned *ret_port)
{
	unsigned n = 0;

	for (unsigned port = 1; doubt->set && port <= CROSVM_PORTS; port++) {
		const struct crosvm_port *at = &list->ports[port];

		if (at->used && !(doubt->before & 1U << port) && at->vendor == doubt->vendor &&
		    at->product == doubt->product) {
			*ret_port = port;
			n++;
		}
	}
	return n;
}

/* Ops */

static void free_op(void *data)
{
	free(data);
}

static struct op *op_new(struct crosvm *crosvm, enum op_kind kind, struct device *device)
{
	struct op *op = calloc(1, sizeof(*op)), **at = &crosvm->ops;

	if (!op)
		return NULL;
	op->crosvm = crosvm;
	op->kind = kind;
	op->device = device;
	op->fd = -1;
	while (*at)
		at = &(*at)->next;
	*at = op;
	return op;
}

static void unlink_op(struct op *op)
{
	struct op **at = &op->crosvm->ops;

	while (*at && *at != op)
		at = &(*at)->next;
	if (*at)
		*at = op->next;
	op->done = true;
	op->fd = close_fd(op->fd);
	loop_discard(op->crosvm->vm->loop, &op->garbage, free_op, op);
}

static void close_session(struct crosvm *crosvm)
{
	crosvm->source = loop_source_free(crosvm->source);
	crosvm->fd = close_fd(crosvm->fd);
	loop_timer_stop(&crosvm->deadline);
	crosvm->is_pinged = false;
	crosvm->n_owed = 0;
}

/* Ends OP with its result and lets the next one begin. */
static void op_finish(struct op *op)
{
	struct crosvm *crosvm = op->crosvm;
	struct vm *vm = crosvm->vm;

	if (op->done)
		return;
	unlink_op(op);
	switch (op->kind) {
	case OP_PROBE:
		/* One that went well has been answered with its list. */
		if (op->result.outcome != VMM_OK)
			vm_probed(vm, -EIO, op->result.detail, NULL, 0);
		break;
	case OP_ATTACH:
		vm_attached(vm, op->device, &op->result);
		break;
	case OP_DETACH:
		vm_detached(vm, op->device, op->handle, &op->result);
		break;
	}
	run_queue(crosvm);
}

/* The connection is of no use any more. The op under way ends; the next one makes a new one. */
static void lose_session(struct crosvm *crosvm, const char *why)
{
	struct op *op = crosvm->ops;

	close_session(crosvm);
	if (!op)
		return;
	/* An attach that came to nothing keeps its own reason. */
	if (!op->is_sent || op->result.outcome == VMM_OK)
		vmm_set_result(&op->result, VMM_RETRY, "%s", why);
	op_finish(op);
}

/* Asking */

/* No more timers after the first: the socket tells when crosvm comes back. The list shows whether
 * the request was dropped (crosvm answers nothing that it does not understand) or crosvm hangs. */
static void no_answer(void *data)
{
	struct crosvm *crosvm = data;
	struct vm *vm = crosvm->vm;

	crosvm->is_silent = true;
	crosvm->is_pinged = true;
	vm_set_reason(vm, "crosvm of %s does not answer on %s: it is still starting, or hangs",
		      vm->name, vm->socket);
	int r = crosvm_send_list(crosvm->fd);
	if (r < 0 && r != -EAGAIN)
		lose_session(crosvm, strerror(-r));
}

static void await_answer(struct crosvm *crosvm)
{
	loop_timer_start(crosvm->vm->loop, &crosvm->deadline, crosvm_pace.answer, no_answer,
			 crosvm);
}

/* OP has asked STEP, or could not: then R says why. */
static void asked(struct op *op, enum step step, int r)
{
	struct crosvm *crosvm = op->crosvm;

	op->step = step;
	crosvm->asked = now_monotonic_ms();
	crosvm->n_pushes = 0;
	if (r < 0)
		lose_session(crosvm, strerror(-r));
	else
		await_answer(crosvm);
}

static void ask_list(struct op *op, enum step step)
{
	asked(op, step, crosvm_send_list(op->crosvm->fd));
}

static void ask_free(struct op *op, unsigned port)
{
	log_info("%s: taking back port %u, which an attach that came to nothing has left taken",
		 op->crosvm->vm->name, port);
	op->freeing = port;
	asked(op, STEP_FREE, crosvm_send_detach(op->crosvm->fd, port));
}

/* Why crosvm refuses USB altogether. Returns false when that may pass. */
static bool describe_refusal(const struct crosvm *crosvm, const struct crosvm_reply *reply,
			     char *text, size_t size)
{
	const char *name = crosvm->vm->name;
	bool is_late = now_monotonic_ms() - crosvm->asked >= INNER_LIMIT_MS;

	if (reply->error == ENODEV) {
		snprintf(text, size, "the crosvm of %s was built without USB; install another one",
			 name);
		return true;
	}
	if (reply->error == EIO && !is_late) {
		snprintf(text, size,
			 "crosvm has no USB for %s (%s): start it without --no-usb and not as a"
			 " protected VM; if it had USB before, restart it",
			 name, reply->text);
		return true;
	}
	snprintf(text, size, "crosvm can't reach the USB controller of %s now: %s", name,
		 reply->text);
	return false;
}

/* Probe */

static void probe_answered(struct op *op, const struct crosvm_reply *list)
{
	struct crosvm *crosvm = op->crosvm;
	char handles[CROSVM_PORTS][96], *pointers[CROSVM_PORTS];
	size_t n = 0;

	for (unsigned port = 1; list && port <= CROSVM_PORTS; port++)
		if (list->ports[port].used) {
			make_handle(crosvm, handles[n], sizeof(handles[n]), port,
				    list->ports[port].vendor, list->ports[port].product);
			pointers[n] = handles[n];
			n++;
		}
	/* What the answer starts comes after this op, and the op must not be answered twice. */
	unlink_op(op);
	vm_probed(crosvm->vm, 0, "", pointers, n);
	run_queue(crosvm);
}

/* Attach */

unsigned crosvm_wait_ms(unsigned n_before)
{
	unsigned long long wait = (unsigned long long) crosvm_pace.first_wait
				  << (n_before < 16 ? n_before : 16);

	return wait < crosvm_pace.max_wait ? (unsigned) wait : crosvm_pace.max_wait;
}

static void set_not_ready(struct op *op, unsigned delay_ms)
{
	struct crosvm *crosvm = op->crosvm;

	/* The same words each time: the history has them once. */
	vmm_set_result(&op->result, VMM_RETRY,
		       "the guest in %s has not started its USB driver yet (NoAvailablePort); it is"
		       " tried again until it has",
		       crosvm->vm->name);
	op->result.delay_ms = delay_ms;
}

static void note_not_ready(struct op *op)
{
	struct crosvm *crosvm = op->crosvm;

	if (++crosvm->n_not_ready < crosvm_pace.attempts) {
		unsigned delay = crosvm_wait_ms(crosvm->n_not_ready - 1);

		crosvm->not_before = now_monotonic_ms() + delay;
		set_not_ready(op, delay);
		return;
	}
	/* From here on a device is tried once when it is plugged in. */
	crosvm->not_before = 0;
	vmm_set_result(
		&op->result, VMM_FAILED,
		"the guest in %s has not started its USB driver in %u attempts"
		" (NoAvailablePort); when it has, plug the device in again, or restart the VM",
		crosvm->vm->name, crosvm->n_not_ready);
}

static void note_full(struct op *op)
{
	const char *name = op->crosvm->vm->name;

	if (op->device->attempt.n_retries + 1 < crosvm_pace.attempts) {
		vmm_set_result(
			&op->result, VMM_RETRY,
			"the USB hub of %s is full: crosvm has 8 ports for USB 2 and 8 for USB 3"
			" devices; take a device out of it",
			name);
		op->result.delay_ms = crosvm_wait_ms(op->device->attempt.n_retries);
		return;
	}
	vmm_set_result(&op->result, VMM_FAILED,
		       "the USB hub of %s stays full: crosvm has 8 ports for USB 2 and 8 for USB 3"
		       " devices; take a device out of it, then plug this one in again",
		       name);
	op->result.is_full = true;
}

static void send_attach(struct op *op, const struct crosvm_reply *list)
{
	struct crosvm *crosvm = op->crosvm;
	struct device *device = op->device;
	struct doubt doubt = {.set = true};

	sscanf(device->id.vid_pid, "%4x:%4x", &doubt.vendor, &doubt.product);
	for (unsigned port = 1; port <= CROSVM_PORTS; port++)
		if (list->ports[port].used)
			doubt.before |= 1U << port;
	crosvm->doubt = doubt;
	make_doubtful_handle(crosvm, device->place.handle, sizeof(device->place.handle));
	vm_handle_changed(crosvm->vm, device);

	int r = crosvm_send_attach(crosvm->fd, op->fd);
	/* A duplicate that is left open would keep the device's claims alive. */
	op->fd = close_fd(op->fd);
	if (r < 0)
		crosvm->doubt.set = false;
	else
		op->is_sent = true;
	asked(op, STEP_REQUEST, r);
	if (!op->done)
		vm_attach_sent(crosvm->vm, device);
}

/* PORT is DEVICE's now; who is still to be taken from it has left it already. */
static void end_detaches(struct crosvm *crosvm, const char *handle)
{
	struct op *next;

	for (struct op *op = crosvm->ops; op; op = next) {
		next = op->next;
		if (op->kind != OP_DETACH || !streq(op->handle, handle))
			continue;
		vmm_set_result(&op->result, VMM_GONE, "its port has gone to another device");
		op_finish(op);
		next = crosvm->ops;
	}
}

static void attach_done(struct op *op, unsigned port)
{
	struct crosvm *crosvm = op->crosvm;
	struct device *device = op->device;
	bool was_waiting = crosvm->n_not_ready > 0;

	make_handle(crosvm, device->place.handle, sizeof(device->place.handle), port,
		    crosvm->doubt.vendor, crosvm->doubt.product);
	snprintf(device->place.bus, sizeof(device->place.bus), "crosvm's hub");
	device->place.port = port;
	crosvm->doubt.set = false;
	crosvm->n_not_ready = 0;
	crosvm->not_before = 0;
	vmm_set_result(&op->result, VMM_OK, "on port %u", port);
	end_detaches(crosvm, device->place.handle);
	op_finish(op);
	/* The others that wait for the guest need not wait for their time. */
	if (was_waiting)
		vm_check(crosvm->vm);
}

static void attach_answered(struct op *op, const struct crosvm_reply *reply)
{
	struct crosvm *crosvm = op->crosvm;

	switch (reply->answer) {
	case CROSVM_OK:
		if (reply->port > 0) {
			attach_done(op, reply->port);
			return;
		}
		break;
	case CROSVM_NO_SUCH_DEVICE:
		crosvm->doubt.set = false;
		vmm_set_result(
			&op->result, VMM_GONE,
			"crosvm can't read the device (NoSuchDevice): it is being unplugged, or"
			" does not answer");
		op_finish(op);
		return;
	case CROSVM_NO_AVAILABLE_PORT:
		op->no_port = true;
		break;
	case CROSVM_NO_SUCH_PORT:
	case CROSVM_FAILED_TO_OPEN_DEVICE:
	case CROSVM_FAILED_TO_INIT_HOST_DEVICE:
	case CROSVM_DEVICES:
	case CROSVM_ERROR:
		break;
	}
	vmm_set_result(&op->result, VMM_RETRY, "crosvm could not attach it: %s", reply->text);
	ask_list(op, STEP_LOOK);
}

/* The attach came to nothing: has it taken a port nevertheless? */
static void looked(struct op *op, const struct crosvm_reply *list)
{
	struct crosvm *crosvm = op->crosvm;
	unsigned port = 0, n;

	if (list->answer != CROSVM_DEVICES) {
		op_finish(op); /* the next list will tell */
		return;
	}
	n = find_taken(&crosvm->doubt, list, &port);
	if (op->no_port && n > 0)
		note_not_ready(op);
	else if (op->no_port)
		note_full(op);
	if (n == 1) {
		ask_free(op, port);
		return;
	}
	if (n > 1)
		log_warning("%s: %u ports have been taken by devices like %s meanwhile: left alone",
			    crosvm->vm->name, n, op->device->id.kernel_name);
	crosvm->doubt.set = false;
	op_finish(op);
}

static void freed(struct op *op, const struct crosvm_reply *reply)
{
	struct crosvm *crosvm = op->crosvm;

	if (reply->answer == CROSVM_ERROR) {
		log_warning("%s: port %u could not be freed: %s", crosvm->vm->name, op->freeing,
			    reply->text);
		if (!op->is_sent)
			vmm_set_result(&op->result, VMM_RETRY, "crosvm could not free port %u: %s",
				       op->freeing, reply->text);
		op_finish(op); /* still in doubt: the next op tries again */
		return;
	}
	/* NoSuchDevice: emptied, but there is no driver in the guest to tell. */
	crosvm->doubt.set = false;
	if (op->is_sent)
		op_finish(op);
	else
		ask_list(op, STEP_LIST);
}

/* Detach */

static void send_detach(struct op *op, const struct crosvm_reply *list)
{
	unsigned port = find_port(op->crosvm, op->handle, list);

	if (port == 0) {
		/* crosvm frees the port of an unplugged device by itself. */
		vmm_set_result(&op->result, VMM_GONE, "crosvm has let go of it before");
		op_finish(op);
		return;
	}
	asked(op, STEP_REQUEST, crosvm_send_detach(op->crosvm->fd, port));
}

static void detach_answered(struct op *op, const struct crosvm_reply *reply)
{
	switch (reply->answer) {
	case CROSVM_OK:
		vmm_set_result(&op->result, VMM_OK, "%s", "");
		break;
	case CROSVM_NO_SUCH_DEVICE:
	case CROSVM_NO_SUCH_PORT:
		vmm_set_result(&op->result, VMM_GONE, "crosvm has let go of it before");
		break;
	case CROSVM_DEVICES:
	case CROSVM_NO_AVAILABLE_PORT:
	case CROSVM_FAILED_TO_OPEN_DEVICE:
	case CROSVM_FAILED_TO_INIT_HOST_DEVICE:
	case CROSVM_ERROR:
		vmm_set_result(&op->result, VMM_RETRY, "crosvm could not detach it: %s",
			       reply->text);
		break;
	}
	op_finish(op);
}

/* Answers */

static void list_refused(struct op *op, const struct crosvm_reply *reply)
{
	char text[sizeof(op->result.detail)];
	bool is_off = describe_refusal(op->crosvm, reply, text, sizeof(text));

	if (op->kind == OP_PROBE && is_off) {
		probe_answered(op, NULL); /* it runs, and has nothing */
		return;
	}
	vmm_set_result(&op->result,
		       !is_off                 ? VMM_RETRY
		       : op->kind == OP_ATTACH ? VMM_FAILED
					       : VMM_GONE,
		       "%s", text);
	op_finish(op);
}

static void listed(struct op *op, const struct crosvm_reply *list)
{
	struct crosvm *crosvm = op->crosvm;
	unsigned port = 0, n;

	if (list->answer != CROSVM_DEVICES) {
		list_refused(op, list);
		return;
	}
	if (op->kind == OP_DETACH && op->freeing == 0)
		parse_doubt(crosvm, op->handle, &crosvm->doubt);
	n = find_taken(&crosvm->doubt, list, &port);
	if (n == 1) {
		ask_free(op, port);
		return;
	}
	crosvm->doubt.set = false;
	switch (op->kind) {
	case OP_PROBE:
		probe_answered(op, list);
		break;
	case OP_ATTACH:
		send_attach(op, list);
		break;
	case OP_DETACH:
		send_detach(op, list);
		break;
	}
}

/* REPLY does not fit what was asked last. */
static void answered_out_of_turn(struct op *op, const struct crosvm_reply *reply)
{
	struct crosvm *crosvm = op->crosvm;

	if (reply->answer == CROSVM_DEVICES && crosvm->is_pinged) {
		/* The list that was asked later is answered: the request never will be. */
		crosvm->is_pinged = false;
		vmm_set_result(
			&op->result, op->kind == OP_ATTACH ? VMM_FAILED : VMM_RETRY,
			"crosvm has ignored the request, which every crosvm since 2021 knows;"
			" run another version in %s",
			crosvm->vm->name);
		if (op->kind == OP_ATTACH && op->step == STEP_REQUEST)
			looked(op, reply);
		else
			op_finish(op);
		return;
	}
	/* crosvm asks its USB controller over a socket of its own, and after a time-out there each
	 * answer belongs to the request before: one more request brings out the right one. */
	if (++crosvm->n_pushes > MAX_PUSHES || crosvm_send_list(crosvm->fd) < 0)
		lose_session(crosvm, "crosvm's answers do not fit the requests");
	else
		await_answer(crosvm);
}

static void answered(struct crosvm *crosvm, const struct crosvm_reply *reply)
{
	struct op *op = crosvm->ops;

	loop_timer_stop(&crosvm->deadline);
	if (crosvm->is_silent) {
		crosvm->is_silent = false;
		vm_set_reason(crosvm->vm, "%s", "");
	}
	if (!op || op->step == STEP_QUEUED)
		return;
	if (reply->answer == CROSVM_DEVICES && crosvm->n_owed > 0) {
		crosvm->n_owed--;
		await_answer(crosvm);
		return;
	}

	bool wants_list = op->step == STEP_LIST || op->step == STEP_LOOK;
	if (wants_list != (reply->answer == CROSVM_DEVICES) && reply->answer != CROSVM_ERROR) {
		answered_out_of_turn(op, reply);
		return;
	}
	if (crosvm->is_pinged)
		crosvm->n_owed++;
	crosvm->is_pinged = false;
	switch (op->step) {
	case STEP_QUEUED:
		break;
	case STEP_LIST:
		listed(op, reply);
		break;
	case STEP_REQUEST:
		if (op->kind == OP_ATTACH)
			attach_answered(op, reply);
		else
			detach_answered(op, reply);
		break;
	case STEP_LOOK:
		looked(op, reply);
		break;
	case STEP_FREE:
		freed(op, reply);
		break;
	}
}

/* One packet a call: what it leads to may close the connection. */
static void readable(void *data, uint32_t events)
{
	struct crosvm *crosvm = data;
	struct crosvm_reply reply;
	int r = crosvm_receive(crosvm->fd, &reply);

	(void) events;
	if (r == 0)
		answered(crosvm, &reply);
	else if (r == -ECONNRESET)
		lose_session(crosvm, "crosvm has closed the connection");
	else if (r == -EBADMSG)
		lose_session(crosvm, "what answers on the socket does not speak crosvm's protocol");
	else if (r != -EAGAIN)
		lose_session(crosvm, strerror(-r));
}

/* The queue */

/* Makes sure there is a connection to a crosvm that may be trusted. */
static int open_session(struct crosvm *crosvm, char *reason, size_t size)
{
	_cleanup_close_ int fd = -1;
	int r;

	reason[0] = 0;
	if (crosvm->fd >= 0)
		return 0;
	r = peer_connect(crosvm->vm->socket, SOCK_SEQPACKET, &fd);
	if (r == -EPROTOTYPE)
		snprintf(reason, size,
			 "it is no control socket of crosvm's; check \"type\" and"
			 " \"socket\" in its section");
	if (r == 0)
		r = vm_check_peer(crosvm->vm, fd, reason, size);
	if (r == 0)
		r = loop_add(crosvm->vm->loop, fd, EPOLLIN, readable, crosvm, &crosvm->source);
	if (r == 0)
		crosvm->fd = TAKE_FD(fd);
	return r;
}

static void start_failed(struct op *op, int r, const char *reason)
{
	struct crosvm *crosvm = op->crosvm;

	if (op->kind == OP_PROBE) {
		unlink_op(op);
		vm_probed(crosvm->vm, r, reason, NULL, 0);
		run_queue(crosvm);
		return;
	}
	vmm_set_result(&op->result, VMM_RETRY, "%s", *reason ? reason : strerror(-r));
	op_finish(op);
}

static void start(struct op *op)
{
	struct crosvm *crosvm = op->crosvm;
	uint64_t now = now_monotonic_ms();
	char reason[300];

	if (op->kind == OP_ATTACH && !op->device->wish.present) {
		vmm_set_result(&op->result, VMM_GONE, "it has been unplugged");
		op_finish(op);
		return;
	}
	if (op->kind == OP_ATTACH && now < crosvm->not_before) {
		set_not_ready(op, (unsigned) (crosvm->not_before - now));
		op_finish(op);
		return;
	}
	int r = open_session(crosvm, reason, sizeof(reason));
	if (op->done)
		return; /* another process was found, and everything was answered */
	if (r < 0)
		start_failed(op, r, reason);
	else
		ask_list(op, STEP_LIST);
}

static void run_queue(struct crosvm *crosvm)
{
	while (crosvm->ops && crosvm->ops->step == STEP_QUEUED)
		start(crosvm->ops);
	if (!crosvm->ops)
		close_session(crosvm);
}

/* vmm.h */

static void crosvm_probe(struct vm *vm)
{
	struct crosvm *crosvm = vm->backend;

	if (op_new(crosvm, OP_PROBE, NULL))
		run_queue(crosvm);
	else
		vm_probed(vm, -ENOMEM, "", NULL, 0);
}

static void refuse_input(struct vm *vm, struct device *device)
{
	struct vmm_result result = {
		.outcome = VMM_FAILED,
		.detail = "crosvm takes no input devices while it runs; start it with --input "
			  "evdev[path=…]",
	};

	vm_attached(vm, device, &result);
}

static void crosvm_attach(struct vm *vm, struct device *device, int fd)
{
	struct crosvm *crosvm = vm->backend;

	if (device->id.kind != DEVICE_USB) {
		if (device->id.kind == DEVICE_PCI)
			crosvm_vfio_attach(crosvm->vfio, device);
		else
			refuse_input(vm, device);
		return;
	}
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	struct op *op = copy >= 0 ? op_new(crosvm, OP_ATTACH, device) : NULL;

	if (!op) {
		struct vmm_result result = {.outcome = VMM_RETRY};

		snprintf(result.detail, sizeof(result.detail), "the broker has run out of %s",
			 copy >= 0 ? "memory" : "descriptors");
		close_fd(copy);
		vm_attached(vm, device, &result);
		return;
	}
	op->fd = copy;
	run_queue(crosvm);
}

static void crosvm_detach(struct vm *vm, struct device *device, const char *handle)
{
	struct crosvm *crosvm = vm->backend;

	if (crosvm_vfio_is_handle(handle)) {
		crosvm_vfio_detach(crosvm->vfio, device, handle);
		return;
	}
	struct op *op = op_new(crosvm, OP_DETACH, device);
	if (!op) {
		struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};

		vm_detached(vm, device, handle, &result);
		return;
	}
	snprintf(op->handle, sizeof(op->handle), "%s", handle);
	run_queue(crosvm);
}

static void crosvm_reset(struct vm *vm)
{
	struct crosvm *crosvm = vm->backend;

	crosvm_vfio_reset(crosvm->vfio);
	close_session(crosvm);
	crosvm->doubt.set = false;
	crosvm->is_silent = false;
	crosvm->n_not_ready = 0;
	crosvm->not_before = 0;
	/* All at once: the end of one must not begin the next. */
	for (struct op *op = crosvm->ops; op; op = op->next)
		op->step = STEP_LIST;
	while (crosvm->ops) {
		vmm_set_result(&crosvm->ops->result, VMM_RETRY, "the VM has ended");
		op_finish(crosvm->ops);
	}
}

static int crosvm_init(struct vm *vm)
{
	struct crosvm *crosvm = calloc(1, sizeof(*crosvm));

	if (!crosvm || crosvm_vfio_new(vm, &crosvm->vfio) < 0) {
		free(crosvm);
		return -ENOMEM;
	}
	crosvm->vm = vm;
	crosvm->fd = -1;
	vm->backend = crosvm;
	return 0;
}

static void crosvm_finish(struct vm *vm)
{
	struct crosvm *crosvm = vm->backend;

	close_session(crosvm);
	while (crosvm->ops)
		unlink_op(crosvm->ops);
	crosvm_vfio_free(crosvm->vfio);
	free(crosvm);
	vm->backend = NULL;
}

const struct vmm vmm_crosvm = {
	.init = crosvm_init,
	.finish = crosvm_finish,
	.probe = crosvm_probe,
	.attach = crosvm_attach,
	.detach = crosvm_detach,
	.reset = crosvm_reset,
	.gives_handles = true,
	.is_doubtful = crosvm_is_doubtful,
	.is_unlisted = crosvm_vfio_is_current,
};
