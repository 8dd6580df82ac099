/* A copy of what people want to know (the views of schema.sql), for everybody to read. Whoever may
 * read the database itself may lock it; a reader of the copy can hold up nobody. One who keeps it
 * open for long loses it: else the copies that somebody keeps could fill /run. */
#pragma once

#include <sys/types.h>

#include "broker/loop.h"
#include "helper/macro.h"

struct snapshot;

/* How many copies that have been replaced stay whole for those who still read them. */
#define SNAPSHOT_KEPT 16

/* Copies DATABASE to TARGET, which is replaced at once and whole, when something has changed and a
 * moment has passed. What has changed the store tells (store_observe): of devices only those rows
 * are read again. What another program writes into the database is not looked for. READERS is the
 * group that may read it, or (gid_t) -1: everybody. Returns 0 or -errno. */
int snapshot_new(struct loop *loop, const char *database, const char *target, gid_t readers,
		 struct snapshot **ret_snapshot) _must_check_;
/* READERS are the ones from now on: the copy that others may read is replaced at once. */
void snapshot_set_readers(struct snapshot *snapshot, gid_t readers);
/* From now on DATABASE is what is copied, all of it. */
void snapshot_follow(struct snapshot *snapshot, const char *database);
/* Was the database found damaged? Asked once, it forgets. */
bool snapshot_takes_damage(struct snapshot *snapshot);
/* The device's row of that number has changed, or has gone; 0: something else has. */
void snapshot_note(struct snapshot *snapshot, int64_t row);
/* Called at the end of each pass: what has been noted is copied in a moment. */
void snapshot_touch(struct snapshot *snapshot);
/* Writes what has not been written. NULL is fine. */
void snapshot_free(struct snapshot *snapshot);
