/* The connection to a monitor, shared by the requests that need it: see qemu.h. */
#include "broker/qemu.h"

#include <sys/socket.h>

#include "broker/log.h"

/* The connection */

static void session_is_busy(void *data)
{
	struct qemu *qemu = data;

	/* A guest may take its time to let go of a PCI device; QEMU itself has answered then. */
	if (!qemu->qmp || qmp_pending(qemu->qmp) == 0)
		return;
	qemu->busy_told = true;
	if (qmp_is_ready(qemu->qmp))
		vm_set_reason(qemu->vm,
			      "QEMU of %s has not answered yet: it is busy with what it was asked,"
			      " or hangs",
			      qemu->vm->name);
	else
		vm_set_reason(qemu->vm, "the monitor of %s does not answer: %s, or QEMU hangs",
			      qemu->vm->name,
			      qemu->vm->listen[0] ? "its -mon is not in mode=control"
						  : "another client holds it");
}

static void start_patience(struct qemu *qemu)
{
	loop_timer_start(qemu->vm->loop, &qemu->busy, QEMU_BUSY_MS, session_is_busy, qemu);
}

/* Others want the monitor too, unless QEMU has dialled in: that connection is ours alone. */
void qemu_close_session(struct op_queue *ops)
{
	struct qemu *qemu = (struct qemu *) ((char *) ops - offsetof(struct qemu, ops));

	if (qemu->vm->listen[0])
		return;
	loop_timer_stop(&qemu->busy);
	qemu->qmp = qmp_close(qemu->qmp);
}

/* It does answer: the patience begins anew, as long as anything is under way. */
static void it_answers(struct qemu *qemu)
{
	start_patience(qemu);
	if (qemu->busy_told)
		vm_set_reason(qemu->vm, "%s", "");
	qemu->busy_told = false;
}

static void session_ready(void *data)
{
	struct qemu *qemu = data;

	it_answers(qemu);
}

/* HANDLE has left, and we did not ask for it: the guest has done that, perhaps long after it was
 * asked, or somebody at another monitor. */
static void note_deleted(struct qemu *qemu, const char *handle)
{
	/* Where it was is free, if it was in our way. */
	qemu->misses_room = true;
	if (startswith(handle, QEMU_HANDLE_PREFIX) || cold_find(&qemu->vm->cold, handle))
		vm_check(qemu->vm);
}

static void session_event(void *data, const char *name, const json_t *event)
{
	struct qemu *qemu = data;
	const char *handle = json_string_value(json_object_get(event, "device"));

	/* What has no id is known by its path. */
	if (!handle)
		handle = json_string_value(json_object_get(event, "path"));
	if (!streq(name, "DEVICE_DELETED") || !handle)
		return;
	for (struct op *op = qemu->ops.first; op; op = op->next) {
		struct qemu_op *detach = qemu_op_of(op);

		if (detach->kind != QEMU_DETACH || !streq(op->handle, handle))
			continue;
		detach->deleted = true;
		qemu_op_continue(detach);
		return;
	}
	note_deleted(qemu, handle);
}

static void session_down(void *data, const char *why)
{
	struct qemu *qemu = data;
	struct op *op = qemu->ops.first;

	qemu->qmp = qmp_close(qemu->qmp);
	loop_timer_stop(&qemu->busy);
	qemu->busy_told = false;
	/* Those with commands under way hear of it by their replies; the others wait for an
	 * event.
	 */
	while (op) {
		struct op *next = op->next;

		if (qemu_op_of(op)->replies == 0 && !op->is_done) {
			op_set_result(op, VMM_RETRY, why);
			op_finish(op);
			next = qemu->ops.first;
		}
		op = next;
	}
}

static const struct qmp_handler session_handler = {
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
	op_queue_fail(&qemu->ops, why);
}

/* Makes sure there is a connection to a monitor that may be trusted. */
int qemu_open_session(struct qemu *qemu, char *reason, size_t size)
{
	_cleanup_close_ int fd = -1;
	int r;

	reason[0] = 0;
	if (qemu->qmp)
		return 0;
	if (qemu->vm->listen[0]) {
		snprintf(reason, size, "QEMU has not dialled in again");
		return -ENOTCONN;
	}
	r = peer_connect(qemu->vm->socket, SOCK_STREAM, &fd);
	if (r == 0)
		r = vm_check_peer(qemu->vm, fd, reason, size);
	if (r == 0)
		r = qmp_new(qemu->vm->loop, fd, &session_handler, qemu, &qemu->qmp);
	if (r < 0)
		return r;
	TAKE_FD(fd);
	qmp_limit(qemu->qmp, &qemu->vm->input);
	start_patience(qemu);
	return 0;
}

void qemu_op_unreachable(struct qemu_op *op, int r, const char *reason)
{
	char words[CONFIG_SOCKET_SIZE + 100];

	if (!*reason && r == -EAGAIN)
		reason = "the monitor is busy: several clients wait for it";
	if (!*reason) {
		snprintf(words, sizeof(words), "can't connect to its monitor %s: %s",
			 op->qemu->vm->socket, strerror(-r));
		reason = words;
	}
	op_set_result(&op->base, VMM_RETRY, reason);
	op_finish(&op->base);
}

int qemu_dialled(struct vm *vm, int fd)
{
	struct qemu *qemu = vm->backend;
	struct qmp *qmp;
	int r = qmp_new(vm->loop, fd, &session_handler, qemu, &qmp);

	if (r < 0)
		return r;
	/* QEMU dials again after it has lost the former connection. */
	qemu_drop_session(qemu, "QEMU has dialled in anew");
	qemu->qmp = qmp;
	qmp_limit(qmp, &vm->input);
	start_patience(qemu);
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
	const char *class = error_class ? error_class : "";

	if (op->base.is_done)
		return false;
	op->replies--;
	if (op->qemu->qmp && !streq(class, "down"))
		it_answers(op->qemu);
	if (reply)
		return true;
	if (streq(class, "down")) {
		op_set_result(&op->base, VMM_RETRY, text);
		op->base.result.is_unknown = true;
	} else if (op->base.result.outcome == VMM_OK && op->kind != QEMU_PROBE) {
		op_set_result(&op->base, streq(class, "DeviceNotFound") ? VMM_GONE : VMM_FAILED,
			      text);
	}
	return false;
}

void qemu_op_continue(struct qemu_op *op)
{
	if (!op->base.is_done && op->replies == 0)
		op->base.step(&op->base);
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
		start_patience(qemu);

	/* A broken connection also ends all commands by their replies; this is for the log.
	 */
	if (r < 0)
		log_warning("%s: sending to its monitor failed: %s", op->qemu->vm->name,
			    strerror(-r));
}
