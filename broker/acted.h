/* The events that have been acted upon and could not be kept: they come again, from the spool, and
 * are only kept then. What has been decided since counts more than they do. */
#pragma once

#include "helper/macro.h"
#include "helper/spool.h"

struct event;

/* The last ones; as many as the spool holds. Zero is empty. */
struct acted {
	uint64_t numbers[SPOOL_MAX]; /* 0: none */
	size_t next;                 /* place to write to */
	size_t n;                    /* numbers that are not 0 */
};

/* EVENT, which is new to the database or not known to be in it (is_new), has come. IS_KEPT: it is
 * in the database now. One without a number is not remembered. Returns whether it is to be acted
 * upon. */
bool acted_note(struct acted *acted, const struct event *event, bool is_kept);
