/* What the worker's jobs share: answers in words, nodes, and disks in use. For worker_*.c only. */
#pragma once

#include "broker/worker.h"

/* Fills ANSWER; returns RESULT. */
int worker_fail(struct worker_answer *answer, int result, const char *format, ...) _printf_(3, 4);

/* Opens REQUEST's node for reading and writing, and makes sure that it belongs to the instance that
 * was meant. Returns a descriptor that the caller closes, or -errno with ANSWER filled. */
int worker_open_node(const struct worker_request *request, struct worker_answer *answer);

/* Holds every whole disk below the directory PATH of sysfs, at most DEPTH levels down, exclusively:
 * as long as that works nobody mounts it, in whatever namespace. Appends their descriptors to FDS
 * and counts them in ANSWER. Returns 0, or -EBUSY with the words for the use in ANSWER.
 * Source: open(2), O_EXCL without O_CREAT on block devices. */
int hold_disks(const char *path, int depth, struct worker_answer *answer, int *fds) _must_check_;
