/* Changes that wait to be written to the database: at most so many of them, in order. What a device
 * is now is never what is lost at the cap; history is, and how much of it is counted. */
#pragma once

#include "broker/row.h"
#include "broker/store.h"

/* A device row, or its removal, or a person's choice, or none of these, and perhaps a history
 * row. */
struct change {
	struct change *next;
	bool save, forget, has_history, has_choice;
	struct choice choice;
	struct row row;
	struct history history;
	uint64_t time;
};

struct backlog {
	struct change *first, **last;
	size_t n;
	uint64_t n_lost;    /* rows of history, since it was last empty */
	int64_t newest_row; /* of a device that has been written; later ones are here only */
};

void backlog_init(struct backlog *backlog);
void backlog_finish(struct backlog *backlog);

/* Adds a copy of what DEVICE is now, in the place of an earlier one; with HISTORY unless NULL. */
void backlog_save(struct backlog *backlog, const struct device *device,
		  const struct history *history);
/* Adds the removal of DEVICE's row (NULL: it has none); with HISTORY unless NULL. Of a row that has
 * not been written yet nothing is left. */
void backlog_forget(struct backlog *backlog, const struct device *device,
		    const struct history *history);
void backlog_choose(struct backlog *backlog, const struct choice *choice);
/* Adds a row of history that is about no device. */
void backlog_note(struct backlog *backlog, const struct history *history);

/* Whether it must be on disk to count as written. Where a device is on its way to a VM need not: it
 * means nothing after a loss of power, which is another boot, and the kernel keeps what was written
 * if only the broker is killed. */
bool backlog_needs_fsync(const struct backlog *backlog);

/* Whether it may wait a little for what follows: where a device is only on its way out, a broker
 * that is killed learns the same from its VM, by the handle that is on record since it went there.
 * What a person has asked for nobody else knows. */
bool backlog_may_wait(const struct backlog *backlog);

/* Was history lost? Then *RET_LOST says so. */
bool backlog_tell_loss(const struct backlog *backlog, struct history *ret_lost);
/* Calls FN for each change: see store_observe. */
void backlog_each(const struct backlog *backlog, store_written_fn fn, void *data);
/* All of it is written. */
void backlog_clear(struct backlog *backlog);
