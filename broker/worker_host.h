/* What the worker's jobs share: answers in words, and nodes. For worker_*.c only. */
#pragma once

#include "broker/worker.h"

/* Fills ANSWER; returns RESULT. */
int worker_fail(struct worker_answer *answer, int result, const char *format, ...) _printf_(3, 4);

/* Opens REQUEST's node for reading and writing, and makes sure that it belongs to the instance that
 * was meant. Returns a descriptor that the caller closes, or -errno with ANSWER filled. */
int worker_open_node(const struct worker_request *request, struct worker_answer *answer);
