/* The connection to a monitor, shared by the requests that need it: see qemu.h. */
#include "broker/qemu.h"

#include <sys/socket.h>

#include "broker/log.h"

/* Ops */

static void free_op(void *data)
{
	free(data);
}

struct qemu_op *qemu_op_new(struct qemu *qemu, enum qemu_op_kind kind, struct device *device,
			    const char *handle)
{
	struct qemu_op *op = calloc(1, sizeof(*op)), **at = &qemu->ops;

	if (!op)
		return NULL;
	op->qemu = qemu;
	op->kind = kind;
	op->device = device;
	op->fd = -1;
	snprintf(op->handle, sizeof(op->handle), "%s", handle);
	while (*at)
		at = &(*at)->next;
	*at = op;
	return op;
}

void qemu_op_set_result(struct qemu_op *op, enum vmm_outcome outcome, const char *detail)
{
	op->result.outcome = outcome;
	text_copy(op->result.detail, sizeof(op->result.detail), detail);
}

/* Others want the monitor too, unless QEMU has dialled in: that connection is ours alone. */
void qemu_close_when_idle(struct qemu *qemu)
{
	if (qemu->ops || qemu->vm->listen[0])
		return;
	loop_timer_stop(&qemu->busy);
	qemu->qmp = qmp_close(qemu->qmp);
}

void qemu_op_unlink(struct qemu_op *op)
{
	struct qemu_op **at = &op->qemu->ops;

	while (*at && *at != op)
		at = &(*at)->next;
	if (*at)
		*at = op->next;
	op->done = true;
	op->fd = close_fd(op->fd);
	loop_timer_stop(&op->deadline);
	loop_discard(op->qemu->vm->loop, &op->garbage, free_op, op);
}

/* The connection */

/* It does answer: the patience begins anew, as long as anything is under way. */
static void it_answers(struct qemu *qemu)
{
	loop_timer_start(qemu->vm->loop, &qemu->busy, QEMU_BUSY_MS, qemu_session_busy, qemu);
	if (qemu->busy_told)
		vm_set_reason(qemu->vm, "%s", "");
	qemu->busy_told = false;
}

static void session_ready(void *data)
{
	struct qemu *qemu = data;

	it_answers(qemu);
}

void qemu_session_busy(void *data)
{
	struct qemu *qemu = data;

	/* A guest may take its time to let go of a PCI device; QEMU itself has answered then. */
	if (!qemu->qmp || qmp_pending(qemu->qmp) == 0)
		return;
	qemu->busy_told = true;
	vm_set_reason(qemu->vm, "the monitor of %s does not answer: %s, or QEMU hangs",
		      qemu->vm->name,
		      qemu->vm->listen[0] ? "its -mon is not in mode=control"
					  : "another client holds it");
}

static void session_event(void *data, const char *name, const json_t *event)
{
	struct qemu *qemu = data;
	const char *handle = json_string_value(json_object_get(event, "device"));

	if (!streq(name, "DEVICE_DELETED") || !handle)
		return;
	for (struct qemu_op *op = qemu->ops; op; op = op->next)
		if (op->kind == QEMU_DETACH && streq(op->handle, handle)) {
			op->deleted = true;
			if (op->replies == 0)
				qemu_op_step(op);
			return;
		}
}

static void session_down(void *data, const char *why)
{
	struct qemu *qemu = data;
	struct qemu_op *op = qemu->ops;

	qemu->qmp = qmp_close(qemu->qmp);
	loop_timer_stop(&qemu->busy);
	qemu->busy_told = false;
	/* Those with commands under way hear of it by their replies; the others wait for an
	 * event.
	 */
	while (op) {
		struct qemu_op *next = op->next;

		if (op->replies == 0 && !op->done) {
			qemu_op_set_result(op, VMM_RETRY, why);
			qemu_op_finish(op);
			next = qemu->ops;
		}
		op = next;
	}
}

const struct qmp_handler qemu_session_handler = {
	.ready = session_ready,
	.event = session_event,
	.down = session_down,
};

/* Ends the connection and, for now, everything that goes over it. */
void qemu_drop_session(struct qemu *qemu, const char *why)
{
	qemu->qmp = qmp_close(qemu->qmp);
	loop_timer_stop(&qemu->busy);
	qemu->busy_told = false;
	while (qemu->ops) {
		qemu_op_set_result(qemu->ops, VMM_RETRY, why);
		qemu_op_finish(qemu->ops);
	}
}

/* Makes sure there is a connection to a monitor that may be trusted. */
int qemu_open_session(struct qemu *qemu, char *reason, size_t size)
{
	_cleanup_close_ int fd = -1;
	int r;

	reason[0] = 0;
	if (qemu->qmp)
		return 0;
	if (qemu->vm->listen[0])
		return -ENOTCONN;
	r = peer_connect(qemu->vm->socket, SOCK_STREAM, &fd);
	if (r == 0)
		r = vm_check_peer(qemu->vm, fd, reason, size);
	if (r == 0)
		r = qmp_new(qemu->vm->loop, fd, &qemu_session_handler, qemu, &qemu->qmp);
	if (r < 0)
		return r;
	TAKE_FD(fd);
	loop_timer_start(qemu->vm->loop, &qemu->busy, QEMU_BUSY_MS, qemu_session_busy, qemu);
	return 0;
}

void qemu_op_command(struct qemu_op *op, const char *command, json_t *arguments, qmp_reply_fn fn,
		     void *data)
{
	op->replies++;
	if (!op->qemu->qmp) {
		json_decref(arguments);
		fn(data, NULL, "down", "the connection broke");
	} else if (qmp_command(op->qemu->qmp, command, arguments, fn, data) < 0)
		fn(data, NULL, "down", "out of memory");
}

bool qemu_op_reply(struct qemu_op *op, const json_t *reply, const char *error_class,
		   const char *text)
{
	if (op->done)
		return false;
	op->replies--;
	if (op->qemu->qmp && !streq(error_class ? error_class : "", "down"))
		it_answers(op->qemu);
	if (reply)
		return true;
	if (streq(error_class, "down"))
		qemu_op_set_result(op, VMM_RETRY, text);
	else if (op->result.outcome == VMM_OK && op->kind != QEMU_PROBE)
		qemu_op_set_result(op, streq(error_class, "DeviceNotFound") ? VMM_GONE : VMM_FAILED,
				   text);
	return false;
}

void qemu_op_continue(struct qemu_op *op)
{
	if (!op->done && op->replies == 0)
		qemu_op_step(op);
}

void qemu_plain_reply(void *data, const json_t *reply, const char *error_class, const char *text)
{
	qemu_op_reply(data, reply, error_class, text);
	qemu_op_continue(data);
}

void qemu_op_flush(struct qemu_op *op, int fd)
{
	struct qemu *qemu = op->qemu;
	int r = qemu->qmp ? qmp_flush(qemu->qmp, fd) : 0;

	if (qemu->qmp && !qemu->busy.loop && !qemu->busy_told)
		loop_timer_start(qemu->vm->loop, &qemu->busy, QEMU_BUSY_MS, qemu_session_busy,
				 qemu);

	/* A broken connection also ends all commands by their replies; this is for the log.
	 */
	if (r < 0)
		log_warning("%s: sending to its monitor failed: %s", op->qemu->vm->name,
			    strerror(-r));
}
