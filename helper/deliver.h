/* One message to the broker, one byte back, never longer than told. Used by vhotplug-helper, and
 * by whoever else has a message for the broker. */
#pragma once

#include "helper/wire.h"

/* Sends MSG to the broker whose event socket is in RUN_DIR and waits for its answer, at most
 * TIMEOUT_MS milliseconds in all.
 *
 * Returns 0 and WIRE_TAKEN or WIRE_REFUSED in *RET_ANSWER. Anything else means that the broker may
 * or may not have the message: -ENOENT or -ECONNREFUSED when nobody listens; -EAGAIN, at once,
 * when too many senders are waiting to be accepted; -ETIMEDOUT; -ECONNRESET or -EPIPE when the
 * broker hung up without an answer; -EPROTO when the answer is none; -ENAMETOOLONG when RUN_DIR
 * is too long for a socket address; another -errno of socket, connect, send or recv. */
int deliver_message(const char *run_dir, const struct wire_msg *msg, unsigned timeout_ms,
		    char *ret_answer) _must_check_;
