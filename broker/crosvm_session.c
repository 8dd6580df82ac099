/* The connection to a crosvm's control socket: one question at a time, and what its answer belongs
 * to. See crosvm.h. */
#include "broker/crosvm.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include "broker/log.h"

#define MAX_PUSHES 64       /* crosvm's time-outs so far; each costs one more list */
#define INNER_LIMIT_MS 1500 /* an EIO later than this is crosvm's own time-out, of 2 s */
#define MAX_DEAD 3          /* of those in a row: once may be a controller that is busy */

static struct crosvm_op *op_under_way(const struct crosvm *crosvm)
{
	return crosvm_op_of(crosvm->ops.first);
}

void crosvm_close_session(struct crosvm *crosvm)
{
	crosvm->source = loop_source_free(crosvm->source);
	crosvm->fd = close_fd(crosvm->fd);
	loop_timer_stop(&crosvm->deadline);
	crosvm->is_pinged = false;
	crosvm->n_owed = 0;
}

void crosvm_session_is_idle(struct op_queue *ops)
{
	crosvm_close_session((struct crosvm *) ((char *) ops - offsetof(struct crosvm, ops)));
}

/* The connection is of no use any more. The op under way ends; the next one makes a new one. */
static void lose_session(struct crosvm *crosvm, const char *why)
{
	struct crosvm_op *op = op_under_way(crosvm);

	crosvm_close_session(crosvm);
	if (!op)
		return;
	/* An attach that came to nothing keeps its own reason. */
	if (!op->is_sent || op->base.result.outcome == VMM_OK)
		op_set_result(&op->base, VMM_RETRY, why);
	op_finish(&op->base);
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

/* OP has asked, or could not: then R says why. */
static void has_asked(struct crosvm_op *op, bool wants_list, crosvm_answer_fn answered, int r)
{
	struct crosvm *crosvm = op->crosvm;

	op->answered = answered;
	op->wants_list = wants_list;
	crosvm->asked = now_monotonic_ms();
	crosvm->n_pushes = 0;
	if (r < 0)
		lose_session(crosvm, strerror(-r));
	else
		await_answer(crosvm);
}

void crosvm_ask_list(struct crosvm_op *op, crosvm_answer_fn answered)
{
	has_asked(op, true, answered, crosvm_send_list(op->crosvm->fd));
}

void crosvm_ask_attach(struct crosvm_op *op, crosvm_answer_fn answered)
{
	int r = crosvm_send_attach(op->crosvm->fd, op->base.fd);

	/* A duplicate that is left open would keep the device's claims alive. */
	op->base.fd = close_fd(op->base.fd);
	op->is_sent = r == 0;
	op->crosvm->doubt.set = r == 0;
	has_asked(op, false, answered, r);
}

void crosvm_ask_detach(struct crosvm_op *op, unsigned port, crosvm_answer_fn answered)
{
	has_asked(op, false, answered, crosvm_send_detach(op->crosvm->fd, port));
}

/* The controller */

static bool is_time_out(const struct crosvm *crosvm, const struct crosvm_reply *reply)
{
	return reply->answer == CROSVM_ERROR && reply->error == EIO &&
	       now_monotonic_ms() - crosvm->asked >= INNER_LIMIT_MS;
}

bool crosvm_is_dead(const struct crosvm *crosvm)
{
	return crosvm->n_dead >= MAX_DEAD;
}

void crosvm_describe_dead(const struct crosvm *crosvm, char *ret_text, size_t size)
{
	snprintf(ret_text, size,
		 "the USB controller that crosvm gives %s has stopped working; restart the VM (and"
		 " give it a longer \"delay =\" if that comes back)",
		 crosvm->vm->name);
}

static void note_life(struct crosvm *crosvm, const struct crosvm_reply *reply)
{
	char text[200];

	if (!is_time_out(crosvm, reply)) {
		crosvm->n_dead = 0;
	} else if (++crosvm->n_dead == MAX_DEAD) {
		crosvm_describe_dead(crosvm, text, sizeof(text));
		log_warning("%s: %s", crosvm->vm->name, text);
	}
}

/* Answers */

/* The list that was asked later is answered: the request before it never will be. */
static void request_was_ignored(struct crosvm_op *op, const struct crosvm_reply *list)
{
	op->crosvm->is_pinged = false;
	vmm_set_result(&op->base.result, VMM_RETRY,
		       "crosvm has ignored the request, which every crosvm since 2021 knows;"
		       " run another version in %s",
		       op->crosvm->vm->name);
	if (op->ignored)
		op->ignored(op, list);
	else
		op_finish(&op->base);
}

/* REPLY does not fit what was asked last. */
static void answered_out_of_turn(struct crosvm_op *op, const struct crosvm_reply *reply)
{
	struct crosvm *crosvm = op->crosvm;

	if (reply->answer == CROSVM_DEVICES && crosvm->is_pinged) {
		request_was_ignored(op, reply);
		return;
	}
	/* crosvm asks its USB controller over a socket of its own, and after a time-out there each
	 * answer belongs to the request before: one more request brings out the right one. */
	if (++crosvm->n_pushes > MAX_PUSHES || crosvm_send_list(crosvm->fd) < 0)
		lose_session(crosvm, "crosvm's answers do not fit the requests");
	else
		await_answer(crosvm);
}

static void it_answers(struct crosvm *crosvm)
{
	loop_timer_stop(&crosvm->deadline);
	if (!crosvm->is_silent)
		return;
	crosvm->is_silent = false;
	vm_set_reason(crosvm->vm, "%s", "");
}

static void has_answered(struct crosvm *crosvm, const struct crosvm_reply *reply)
{
	struct crosvm_op *op = op_under_way(crosvm);

	it_answers(crosvm);
	if (reply->answer == CROSVM_DEVICES && crosvm->n_owed > 0) {
		crosvm->n_owed--;
		if (op && op->answered)
			await_answer(crosvm);
		return;
	}
	if (!op || !op->answered)
		return;
	if (op->wants_list != (reply->answer == CROSVM_DEVICES) && reply->answer != CROSVM_ERROR) {
		answered_out_of_turn(op, reply);
		return;
	}
	if (crosvm->is_pinged)
		crosvm->n_owed++;
	crosvm->is_pinged = false;
	note_life(crosvm, reply);
	op->answered(op, reply);
}

/* One packet a call: what it leads to may close the connection. */
static void socket_is_readable(void *data, uint32_t events)
{
	struct crosvm *crosvm = data;
	struct crosvm_reply reply;
	int r = crosvm_receive(crosvm->fd, &reply);

	(void) events;
	if (r == 0)
		has_answered(crosvm, &reply);
	else if (r == -ECONNRESET)
		lose_session(crosvm, "crosvm has closed the connection");
	else if (r == -EBADMSG)
		lose_session(crosvm, "what answers on the socket does not speak crosvm's protocol");
	else if (r != -EAGAIN)
		lose_session(crosvm, strerror(-r));
}

int crosvm_open_session(struct crosvm *crosvm, char *reason, size_t size)
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
		r = loop_add(crosvm->vm->loop, fd, EPOLLIN, socket_is_readable, crosvm,
			     &crosvm->source);
	if (r == 0)
		crosvm->fd = TAKE_FD(fd);
	return r;
}
