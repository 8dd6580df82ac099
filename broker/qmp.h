/* One connection to a QEMU monitor (QMP).
 *
 * A state machine: greeting, capabilities, ready, down. Commands may be queued at once, before the
 * greeting has come: QEMU buffers them and answers in order, so a whole exchange fits in the first
 * packet. A monitor serves one client at a time: a second one connects and gets no greeting until
 * the first one leaves. Losing the peer fails what is pending, once; the connection stays down.
 *
 * The peer may be hostile. What it says is framed by JSON value, a megabyte at most; it is read at
 * a pace that leaves the others alone; and one that is silent for a minute while it owes an answer
 * is lost. Source: QEMU, docs/interop/qmp-spec.txt.
 */
#pragma once

#include <jansson.h>

#include "broker/loop.h"
#include "helper/macro.h"

#define QMP_BURST (1024 * 1024) /* bytes from a monitor at once, and of one message */
#define QMP_RATE (128 * 1024)   /* and in the long run, a second */

struct qmp;

/* REPLY is the value of "return", or NULL; then ERROR_CLASS and ERROR_TEXT are QMP's, or
 * ERROR_CLASS is "down" when the connection was lost first. All are borrowed. */
typedef void (*qmp_reply_fn)(void *data, const json_t *reply, const char *error_class,
			     const char *error_text);

struct qmp_handler {
	/* The greeting and the capabilities are through: this client is being served. */
	void (*ready)(void *data);
	/* An event, DATA_OBJECT its "data" or NULL. */
	void (*event)(void *data, const char *name, const json_t *data_object);
	/* The peer is gone or broke the protocol. The pending commands are failed right after this
	 * call; the handler closes the qmp. */
	void (*down)(void *data, const char *why);
};

/* Takes over FD, a connected stream socket, and queues the capabilities negotiation. FD stays the
 * caller's when this fails. */
int qmp_new(struct loop *loop, int fd, const struct qmp_handler *handler, void *data,
	    struct qmp **ret_qmp) _must_check_;
/* Closes; may be called in any callback. After a loss the pending commands are still failed,
 * otherwise they are dropped without a call. NULL is fine. Returns NULL. */
struct qmp *qmp_close(struct qmp *qmp);

/* Queues COMMAND with ARGUMENTS (taken over; NULL: none). FN may be
 * NULL. Nothing is sent before qmp_flush. Returns 0, -ENOMEM, or -ENOTCONN when the
 * connection is down. */
int qmp_command(struct qmp *qmp, const char *command, json_t *arguments, qmp_reply_fn fn,
		void *data) _must_check_;
/* Sends what has been queued since the last flush with one sendmsg; PASS_FD (or -1) goes with its
 * first byte, as add-fd wants it; it is duplicated. The rest of a partial send follows by itself.
 * Returns 0 or -errno: then nothing of it will be sent, and its commands have been failed like
 * those of a lost connection. */
int qmp_flush(struct qmp *qmp, int pass_fd) _must_check_;

/* Counts what the monitor says against INPUT, which many connections may share and which outlives
 * this one. Without it every connection has a budget of its own. */
struct budget;
void qmp_limit(struct qmp *qmp, struct budget *input);

bool qmp_is_ready(const struct qmp *qmp);
/* How many commands have not been answered. */
size_t qmp_pending(const struct qmp *qmp);
