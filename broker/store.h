/* The broker's memory on disk: SQLite in WAL mode, one writer, synchronous=FULL (what is committed
 * survives power loss). Nothing here waits for another process's lock: it answers -EAGAIN instead.
 *
 * Events are committed before they are acknowledged. All other changes are queued and written by
 * store_flush, in order, one transaction for all, with the events that have brought them; while the
 * file is locked or the disk is full they stay queued. The job comes first: what the database can't
 * take is done all the same. It is written later, and how much of the history was lost meanwhile is
 * a row of it.
 */
#pragma once

#include <stdint.h>

#include "broker/device.h"
#include "broker/event.h"
#include "broker/loop.h"
#include "helper/macro.h"

struct store;

struct history {
	char device[64];
	char name[128];
	char vid_pid[16];
	char vm[64];
	const char *action; /* attach, detach */
	const char *cause;
	char rule[256];
	const char *result; /* ok, failed, refused */
	uint64_t milliseconds;
	char detail[VMM_DETAIL_SIZE];
};

/* What a person has chosen for a device that may come back: see choice.h. */
struct choice {
	char whom[256]; /* the device, however often it comes */
	char vm[64];    /* "": none */
	bool is_detached;
};

/* Opens (creates) the database at PATH, or in its stead the one at REFUGE (refuge.h; NULL: nowhere
 * else). One that is damaged is set aside as PATH.damaged and begun anew. Returns 0 or -errno; the
 * reason is logged. */
int store_open(struct loop *loop, const char *path, const char *refuge, const char *boot_id,
	       struct store **ret_store) _must_check_;
/* Which of the two it is. */
const char *store_path(const struct store *store);
/* Whoever else reads the database has found it damaged. */
void store_distrust(struct store *store);
/* If it is damaged: sets it aside and begins anew, with another store_path perhaps. Then it returns
 * true, and all that is to be in it must be stored again. */
bool store_mend(struct store *store);
/* Writes what is queued, in the refuge where it can't be written, and closes. NULL is fine. */
void store_close(struct store *store);

/* FN is called for each change that is committed, with the device's row, or 0 where it is about no
 * row of a device. There is one observer. */
typedef void (*store_written_fn)(void *data, int64_t row);
void store_observe(struct store *store, store_written_fn fn, void *data);

/* Adds N events in one transaction and sets their is_new. The commit is left to the next
 * store_flush, with what the events have changed, and nobody else sees them before; this is not
 * called again before that. Returns 0, -EAGAIN when the database is locked, -ENOSPC, -EIO or
 * another -errno; then nothing was stored. */
int store_add_events(struct store *store, struct event **events, size_t n) _must_check_;

/* Queues a copy of DEVICE's identity, wish and record (and one history row with it, unless NULL).
 * Sets DEVICE->record.row when it is new. */
void store_device(struct store *store, struct device *device, const struct history *history);
/* Queues a history row alone. */
void store_history(struct store *store, const struct history *history);
/* Queues the removal of DEVICE's row, with a history row unless NULL. */
void store_forget(struct store *store, struct device *device, const struct history *history);

/* Queues CHOICE in the place of an earlier one for the same device. */
void store_choice(struct store *store, const struct choice *choice);
/* Calls FN for each choice on record. Returns as store_load does. */
typedef void (*store_choice_fn)(void *data, const struct choice *choice);
int store_load_choices(struct store *store, store_choice_fn fn, void *data) _must_check_;
/* Forgets them all, at once. Returns 0 or -errno. */
int store_forget_choices(struct store *store) _must_check_;

/* For reading what is committed (store_history.h). */
struct sqlite3 *store_database(struct store *store);

/* Writes what is queued, a moment later where that is as good (backlog_may_wait); called at the end
 * of every pass of the loop. */
void store_flush(struct store *store);
/* Behind a store_flush: why events that were added since this was last asked are not on disk:
 * -errno. 0: they are. */
int store_lost_events(struct store *store) _must_check_;

/* Calls FN for every device row of this boot, with a zeroed struct device that has the stored
 * fields set; FN takes it over. Rows of an earlier boot are closed in the history and removed.
 * Returns 0 or -errno. What can't be read because the file is damaged, or its disk, is said in the
 * log and missing: that is no error here, but one for store_mend. */
typedef int (*store_device_fn)(void *data, struct device *device);
int store_load(struct store *store, store_device_fn fn, void *data) _must_check_;
