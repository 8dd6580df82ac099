/* QEMU behind vmm.h: the requests from their beginning to their end, and detach. See qemu.h for the
 * parts. */
#include "broker/qemu.h"

#include "broker/log.h"

/* How long DEVICE_DELETED is waited for. USB needs no guest for it; for PCI the connection is given
 * up then, and the guest is asked again later. */
#define DELETED_MS 10000
#define PCI_DELETED_MS 3000

/* What a probe has heard so far may be from before the change. */
static void something_changed(struct qemu *qemu)
{
	for (struct qemu_op *op = qemu->ops; op; op = op->next)
		op->stale = true;
}

/* Ends OP with its result. The answer may start new requests, so the connection is looked
 * at last.
 */
void qemu_op_finish(struct qemu_op *op)
{
	struct qemu *qemu = op->qemu;

	if (op->done)
		return;
	qemu_op_unlink(op);
	switch (op->kind) {
	case QEMU_PROBE:
		qemu_finish_probe(op);
		break;
	case QEMU_ATTACH:
		if (op->result.outcome != VMM_OK)
			qemu_set_place(qemu, op->bus, op->port, false);
		if (op->result.outcome == VMM_OK)
			qemu_note_place(op);
		something_changed(qemu);
		vm_attached(qemu->vm, op->device, &op->result);
		break;
	case QEMU_DETACH:
		if (op->device && op->result.outcome != VMM_RETRY &&
		    op->result.outcome != VMM_PENDING)
			qemu_forget_place(op);
		something_changed(qemu);
		vm_detached(qemu->vm, op->device, op->handle, &op->result);
		break;
	}
	qemu_close_when_idle(qemu);
}

static int qemu_dialled(struct vm *vm, int fd)
{
	struct qemu *qemu = vm->backend;
	struct qmp *qmp;
	int r = qmp_new(vm->loop, fd, &qemu_session_handler, qemu, &qmp);

	if (r < 0)
		return r;
	/* QEMU dials again after it has lost the former connection. */
	qemu_drop_session(qemu, "QEMU has dialled in anew");
	qemu->qmp = qmp;
	loop_timer_start(vm->loop, &qemu->busy, QEMU_BUSY_MS, qemu_session_busy, qemu);
	return 0;
}

/* Detach */

static void deleted_too_late(void *data)
{
	struct qemu_op *op = data;

	if (op->device && op->device->id.kind != DEVICE_USB)
		qemu_op_set_result(op, VMM_PENDING, "");
	else
		qemu_op_set_result(op, VMM_RETRY,
				   "QEMU has not confirmed the removal (DEVICE_DELETED)");
	qemu_op_finish(op);
}

/* The request before this one is still with the guest. */
static bool is_unplugging(const char *text)
{
	return strstr(text, "in the process of unplug") || strstr(text, "guest is busy");
}

static void step_detach(struct qemu_op *op)
{
	bool pci = op->device && op->device->id.kind != DEVICE_USB;

	if (op->result.outcome == VMM_FAILED)
		op->result.outcome =
			pci && is_unplugging(op->result.detail) ? VMM_PENDING : VMM_RETRY;
	if (op->result.outcome != VMM_OK || op->deleted)
		qemu_op_finish(op);
	else
		loop_timer_start(op->qemu->vm->loop, &op->deadline,
				 pci ? PCI_DELETED_MS : DELETED_MS, deleted_too_late, op);
}

static void qemu_detach(struct vm *vm, struct device *device, const char *handle)
{
	struct qemu *qemu = vm->backend;
	char reason[300];
	struct qemu_op *op = qemu_op_new(qemu, QEMU_DETACH, device, handle);

	if (!op) {
		struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};

		vm_detached(vm, device, handle, &result);
		return;
	}
	int r = qemu_open_session(qemu, reason, sizeof(reason));
	if (op->done)
		return; /* another process was found, and everything was answered */
	if (r < 0) {
		qemu_op_set_result(op, VMM_RETRY, *reason ? reason : strerror(-r));
		qemu_op_finish(op);
		return;
	}
	qemu_op_command(op, "device_del", json_pack("{s:s}", "id", handle), qemu_plain_reply, op);
	qemu_op_flush(op, -1);
}

/* All replies of OP are in (or an event it waits for). */
void qemu_op_step(struct qemu_op *op)
{
	if (op->done)
		return;
	switch (op->kind) {
	case QEMU_PROBE:
		qemu_op_finish(op);
		break;
	case QEMU_ATTACH:
		qemu_step_attach(op);
		break;
	case QEMU_DETACH:
		step_detach(op);
		break;
	}
}

static void qemu_reset(struct vm *vm)
{
	struct qemu *qemu = vm->backend;

	qemu->no_hostdevice = false;
	qemu->n_buses = qemu->n_ports = 0;
	qemu_drop_session(qemu, "the VM has ended");
}

static int qemu_init(struct vm *vm)
{
	struct qemu *qemu = calloc(1, sizeof(*qemu));

	if (!qemu)
		return -ENOMEM;
	qemu->vm = vm;
	/* Away from the small numbers that people and libvirt use. */
	qemu->next_fdset = 1000000 + (uint32_t) (now_realtime_ms() % 1000000000);
	vm->backend = qemu;
	return 0;
}

static void qemu_finish(struct vm *vm)
{
	struct qemu *qemu = vm->backend;

	qemu->qmp = qmp_close(qemu->qmp);
	loop_timer_stop(&qemu->busy);
	while (qemu->ops)
		qemu_op_unlink(qemu->ops);
	qemu_forget_handles(qemu);
	free(qemu);
	vm->backend = NULL;
}

const struct vmm vmm_qemu = {
	.init = qemu_init,
	.finish = qemu_finish,
	.probe = qemu_probe,
	.attach = qemu_attach,
	.detach = qemu_detach,
	.reset = qemu_reset,
	.dialled = qemu_dialled,
};
