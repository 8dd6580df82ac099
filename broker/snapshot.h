/* A copy of what people want to know (the views of schema.sql), for everybody to read. Whoever may
 * read the database itself may lock it; a reader of the copy can hold up nobody. */
#pragma once

#include "broker/loop.h"
#include "helper/macro.h"

struct snapshot;

/* Copies DATABASE to TARGET, which is replaced at once and whole, when something has changed and a
 * moment has passed. Returns 0 or -errno. */
int snapshot_new(struct loop *loop, const char *database, const char *target,
		 struct snapshot **ret_snapshot) _must_check_;
/* Something may have changed. */
void snapshot_touch(struct snapshot *snapshot);
/* Writes what has not been written. NULL is fine. */
void snapshot_free(struct snapshot *snapshot);
