/* The statements by which the store writes, prepared once for an open database. All of them return
 * 0 or -errno (those of database_error).
 */
#pragma once

#include "broker/backlog.h"
#include "helper/macro.h"

enum statement {
	STATEMENT_BEGIN, /* waits for nobody: -EAGAIN */
	STATEMENT_COMMIT,
	ADD_EVENT,
	DELETE_DEVICE,
	ADD_HISTORY,
	PRUNE_EVENTS,
	PRUNE_HISTORY,
	SAVE_CHOICE,
	DELETE_CHOICE,
	SAVE_DEVICE, /* made from the table of columns */
	N_STATEMENTS,
};

struct statements {
	sqlite3_stmt *list[N_STATEMENTS];
};

/* -EUCLEAN: the tables are others than ours. What was prepared until then is to be finished. */
int statements_prepare(struct statements *statements, sqlite3 *db) _must_check_;
/* STATEMENTS may be zero. */
void statements_finish(struct statements *statements);

/* One without parameters. */
int statements_run(struct statements *statements, enum statement which) _must_check_;
/* sqlite3_changes(3) says whether the event is new. */
int statements_add_event(struct statements *statements, const struct event *event) _must_check_;
/* TIME in milliseconds since 1970. */
int statements_add_history(struct statements *statements, const struct history *history,
			   uint64_t time) _must_check_;
/* CHANGE, of a device that is there in the boot BOOT_ID. */
int statements_write(struct statements *statements, const char *boot_id,
		     const struct change *change) _must_check_;
/* Removes the oldest events and rows of history, beyond what is kept. */
int statements_prune(struct statements *statements);
