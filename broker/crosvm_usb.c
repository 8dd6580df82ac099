/* USB devices of one crosvm VM: attach and detach. See crosvm.h. */
#include "broker/crosvm.h"

#include <fcntl.h>

#include "broker/log.h"

/* Attach */

static void set_not_ready(struct crosvm_op *op, unsigned delay_ms)
{
	/* The same words each time: the history has them once. */
	vmm_set_result(&op->base.result, VMM_RETRY,
		       "the guest in %s has not started its USB driver yet (NoAvailablePort); it is"
		       " tried again until it has",
		       op->crosvm->vm->name);
	op->base.result.delay_ms = delay_ms;
}

static void note_not_ready(struct crosvm_op *op)
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
		&op->base.result, VMM_FAILED,
		"the guest in %s has not started its USB driver in %u attempts"
		" (NoAvailablePort); when it has, plug the device in again, or restart the VM",
		crosvm->vm->name, crosvm->n_not_ready);
}

static void note_full(struct crosvm_op *op)
{
	const char *name = op->crosvm->vm->name;
	unsigned n_retries = op->base.device->attempt.n_retries;

	if (n_retries + 1 < crosvm_pace.attempts) {
		vmm_set_result(
			&op->base.result, VMM_RETRY,
			"the USB hub of %s is full: crosvm has 8 ports for USB 2 and 8 for USB 3"
			" devices; take a device out of it",
			name);
		op->base.result.delay_ms = crosvm_wait_ms(n_retries);
		return;
	}
	vmm_set_result(&op->base.result, VMM_FAILED,
		       "the USB hub of %s stays full: crosvm has 8 ports for USB 2 and 8 for USB 3"
		       " devices; take a device out of it, then plug this one in again",
		       name);
	op->base.result.is_full = true;
}

/* HANDLE's port is another device's now; who is still to be taken from it has left it already. */
static void end_detaches(struct crosvm *crosvm, const char *handle)
{
	struct op *next;

	for (struct op *op = crosvm->ops.first; op; op = next) {
		next = op->next;
		if (!streq(op->handle, handle))
			continue;
		op_set_result(op, VMM_GONE, "its port has gone to another device");
		op_finish(op);
		next = crosvm->ops.first;
	}
}

static void end_attach(struct op *base)
{
	struct crosvm_op *op = crosvm_op_of(base);

	vm_attached(op->crosvm->vm, base->device, &base->result);
}

static void attach_is_done(struct crosvm_op *op, unsigned port)
{
	struct crosvm *crosvm = op->crosvm;
	struct device *device = op->base.device;
	bool was_waiting = crosvm->n_not_ready > 0;
	char handle[DEVICE_HANDLE_SIZE];

	crosvm_make_handle(crosvm, handle, sizeof(handle), port, crosvm->doubt.vendor,
			   crosvm->doubt.product);
	kept_set(&device->place.handle, handle);
	kept_set(&device->place.bus, "crosvm's hub");
	device->place.port = port;
	crosvm->doubt.set = false;
	crosvm->n_not_ready = 0;
	crosvm->not_before = 0;
	vmm_set_result(&op->base.result, VMM_OK, "on port %u", port);
	end_detaches(crosvm, device->place.handle);
	op_finish(&op->base);
	/* The others that wait for the guest need not wait for their time. */
	if (was_waiting)
		vm_check(crosvm->vm);
}

/* The port that the attach had left taken is empty again, or still in doubt: the next op will try.
 */
static void left_port_was_freed(struct crosvm_op *op, const struct crosvm_reply *reply)
{
	if (reply->answer == CROSVM_ERROR)
		log_warning("%s: port %u could not be freed: %s", op->crosvm->vm->name, op->freeing,
			    reply->text);
	else
		op->crosvm->doubt.set = false;
	op_finish(&op->base);
}

/* The attach came to nothing: has it taken a port nevertheless? */
static void ports_after_attach(struct crosvm_op *op, const struct crosvm_reply *list)
{
	struct crosvm *crosvm = op->crosvm;
	unsigned port = 0, n;

	if (list->answer != CROSVM_DEVICES) {
		op_finish(&op->base); /* the next list will tell */
		return;
	}
	n = crosvm_find_taken(&crosvm->doubt, list, &port);
	if (op->no_port && n > 0)
		note_not_ready(op);
	else if (op->no_port)
		note_full(op);
	if (n == 1) {
		crosvm_ask_free(op, port, left_port_was_freed);
		return;
	}
	if (n > 1)
		log_warning("%s: %u ports have been taken by devices like %s meanwhile: left alone",
			    crosvm->vm->name, n, op->base.device->id.kernel_name);
	crosvm->doubt.set = false;
	op_finish(&op->base);
}

static void attach_was_ignored(struct crosvm_op *op, const struct crosvm_reply *list)
{
	op->base.result.outcome = VMM_FAILED;
	ports_after_attach(op, list);
}

static void attach_was_answered(struct crosvm_op *op, const struct crosvm_reply *reply)
{
	struct crosvm *crosvm = op->crosvm;

	op->ignored = NULL;
	if (reply->answer == CROSVM_OK && reply->port > 0) {
		attach_is_done(op, reply->port);
		return;
	}
	if (reply->answer == CROSVM_NO_SUCH_DEVICE) {
		crosvm->doubt.set = false;
		op_set_result(
			&op->base, VMM_GONE,
			"crosvm can't read the device (NoSuchDevice): it is being unplugged, or"
			" does not answer");
		op_finish(&op->base);
		return;
	}
	op->no_port = reply->answer == CROSVM_NO_AVAILABLE_PORT;
	vmm_set_result(&op->base.result, VMM_RETRY, "crosvm could not attach it: %s", reply->text);
	crosvm_ask_list(op, ports_after_attach);
}

/* Sends the attach, now that LIST says which ports are taken before it. */
static void send_attach(struct crosvm_op *op, const struct crosvm_reply *list)
{
	struct crosvm *crosvm = op->crosvm;
	struct device *device = op->base.device;
	struct crosvm_doubt doubt = {0};
	char handle[DEVICE_HANDLE_SIZE];

	sscanf(device->id.vid_pid, "%4x:%4x", &doubt.vendor, &doubt.product);
	for (unsigned port = 1; port <= CROSVM_PORTS; port++)
		if (list->ports[port].used)
			doubt.before |= 1U << port;
	crosvm->doubt = doubt;
	crosvm_make_doubtful_handle(crosvm, handle, sizeof(handle));
	kept_set(&device->place.handle, handle);
	vm_handle_changed(crosvm->vm, device);
	op->ignored = attach_was_ignored;
	crosvm_ask_attach(op, attach_was_answered);
	if (!op->base.is_done)
		vm_attach_sent(crosvm->vm, device);
}

static void begin_attach(struct op *base)
{
	struct crosvm_op *op = crosvm_op_of(base);
	uint64_t now = now_monotonic_ms();

	if (!base->device->wish.present) {
		op_set_result(base, VMM_GONE, "it has been unplugged");
		op_finish(base);
	} else if (now < op->crosvm->not_before) {
		set_not_ready(op, (unsigned) (op->crosvm->not_before - now));
		op_finish(base);
	} else {
		crosvm_ask_ports(op);
	}
}

void crosvm_usb_attach(struct crosvm *crosvm, struct device *device, int fd)
{
	_cleanup_close_ int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	struct crosvm_op *op = copy < 0 ? NULL
					: op_new(&crosvm->ops, sizeof(*op), begin_attach,
						 end_attach, device, device->place.handle);

	if (!op) {
		struct vmm_result result;

		vmm_set_result(&result, VMM_RETRY, "the broker has run out of %s",
			       copy >= 0 ? "memory" : "descriptors");
		vm_attached(crosvm->vm, device, &result);
		return;
	}
	op->crosvm = crosvm;
	op->base.fd = TAKE_FD(copy);
	op->listed = send_attach;
	op->without_usb = op->when_dead = VMM_FAILED;
	op_queue_run(&crosvm->ops);
}

/* Detach */

static void end_detach(struct op *base)
{
	struct crosvm_op *op = crosvm_op_of(base);

	vm_detached(op->crosvm->vm, base->device, base->handle, &base->result);
}

static void detach_was_answered(struct crosvm_op *op, const struct crosvm_reply *reply)
{
	switch (reply->answer) {
	case CROSVM_OK:
		op_set_result(&op->base, VMM_OK, "");
		break;
	case CROSVM_NO_SUCH_DEVICE:
	case CROSVM_NO_SUCH_PORT:
		op_set_result(&op->base, VMM_GONE, "crosvm has let go of it before");
		break;
	case CROSVM_DEVICES:
	case CROSVM_NO_AVAILABLE_PORT:
	case CROSVM_FAILED_TO_OPEN_DEVICE:
	case CROSVM_FAILED_TO_INIT_HOST_DEVICE:
	case CROSVM_ERROR:
		vmm_set_result(&op->base.result, VMM_RETRY, "crosvm could not detach it: %s",
			       reply->text);
		break;
	}
	op_finish(&op->base);
}

static void send_detach(struct crosvm_op *op, const struct crosvm_reply *list)
{
	unsigned port = crosvm_find_port(op->crosvm, op->base.handle, list);

	if (port == 0) {
		/* crosvm frees the port of an unplugged device by itself. */
		op_set_result(&op->base, VMM_GONE, "crosvm has let go of it before");
		op_finish(&op->base);
		return;
	}
	crosvm_ask_detach(op, port, detach_was_answered);
}

static void begin_detach(struct op *base)
{
	crosvm_ask_ports(crosvm_op_of(base));
}

void crosvm_usb_detach(struct crosvm *crosvm, struct device *device, const char *handle)
{
	struct crosvm_op *op =
		op_new(&crosvm->ops, sizeof(*op), begin_detach, end_detach, device, handle);

	if (!op) {
		struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};

		vm_detached(crosvm->vm, device, handle, &result);
		return;
	}
	op->crosvm = crosvm;
	op->listed = send_detach;
	op->without_usb = op->when_dead = VMM_GONE;
	op_queue_run(&crosvm->ops);
}
