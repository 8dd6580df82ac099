/* What the store writes with: see statements.h. */
#include "broker/statements.h"

#include "broker/database.h"

#define KEEP_EVENTS 10000   /* rows in table event */
#define KEEP_HISTORY 200000 /* rows in table action */

static const char *const statement_sql[N_STATEMENTS] = {
	[STATEMENT_BEGIN] = "begin immediate",
	[STATEMENT_COMMIT] = "commit",
	[ADD_EVENT] =
		"insert or ignore into event (time, boot_id, seqnum, action, devpath, inode, vm,"
		" rule) values (:time, :boot_id, :seqnum, :action, :devpath, :inode, :vm, :rule)",
	[DELETE_DEVICE] = "delete from device where id = :id",
	[ADD_HISTORY] = "insert into action (time, device, name, vid_pid, vm, action, cause, rule,"
			" result, milliseconds, detail) values (:time, :device, :name, :vid_pid,"
			" :vm, :action, :cause, :rule, :result, :milliseconds, :detail)",
	[PRUNE_EVENTS] = "delete from event where id <= (select max(id) from event) - :kept",
	[SAVE_CHOICE] = "insert or replace into choice (whom, vm, detached, time)"
			" values (:whom, :vm, :detached, :time)",
	[DELETE_CHOICE] = "delete from choice where whom = :whom",
	[PRUNE_HISTORY] = "delete from action where id <= (select max(id) from action) - :kept",
};

int statements_run(struct statements *statements, enum statement which)
{
	sqlite3_stmt *statement = statements->list[which];
	int r = sqlite3_step(statement);

	sqlite3_reset(statement);
	return r == SQLITE_DONE || r == SQLITE_ROW ? 0 : database_error(r);
}

int statements_prune(struct statements *statements)
{
	database_bind_number(statements->list[PRUNE_EVENTS], ":kept", KEEP_EVENTS);
	database_bind_number(statements->list[PRUNE_HISTORY], ":kept", KEEP_HISTORY);
	int r = statements_run(statements, PRUNE_EVENTS);
	return r < 0 ? r : statements_run(statements, PRUNE_HISTORY);
}

int statements_prepare(struct statements *statements, sqlite3 *db)
{
	char names[ROW_SQL_SIZE], marks[ROW_SQL_SIZE], updates[ROW_SQL_SIZE];
	char save[3 * ROW_SQL_SIZE + 150];

	row_list_columns(names, ROW_NAMES);
	row_list_columns(marks, ROW_MARKS);
	row_list_columns(updates, ROW_UPDATES);
	/* To replace the row would be to write its place in the index anew. */
	snprintf(save, sizeof(save),
		 "insert or replace into device (boot_id,%s) values (?,%s)"
		 " on conflict (id) do update set %s",
		 names, marks, updates);
	for (size_t i = 0; i < N_STATEMENTS; i++) {
		int r = sqlite3_prepare_v3(db, i == SAVE_DEVICE ? save : statement_sql[i], -1,
					   SQLITE_PREPARE_PERSISTENT, &statements->list[i], NULL);

		if (r != SQLITE_OK)
			return r == SQLITE_ERROR ? -EUCLEAN : database_error(r);
	}
	return 0;
}

void statements_finish(struct statements *statements)
{
	for (size_t i = 0; i < N_STATEMENTS; i++) {
		sqlite3_finalize(statements->list[i]);
		statements->list[i] = NULL;
	}
}

int statements_add_event(struct statements *statements, const struct event *event)
{
	sqlite3_stmt *statement = statements->list[ADD_EVENT];

	database_bind_number(statement, ":time", now_realtime_ms());
	database_bind_text(statement, ":boot_id", event->boot_id);
	database_bind_number(statement, ":seqnum", event->seqnum);
	database_bind_text(statement, ":action", event->action);
	database_bind_text(statement, ":devpath", event->devpath);
	database_bind_number(statement, ":inode", event->inode);
	database_bind_text(statement, ":vm", event->vms);
	database_bind_text(statement, ":rule", event->rule);
	return statements_run(statements, ADD_EVENT);
}

static int write_device(struct statements *statements, const char *boot_id, const struct row *row)
{
	sqlite3_stmt *statement = statements->list[SAVE_DEVICE];

	sqlite3_bind_text(statement, 1, boot_id, -1, SQLITE_STATIC);
	row_bind(statement, 2, row);
	return statements_run(statements, SAVE_DEVICE);
}

int statements_add_history(struct statements *statements, const struct history *h, uint64_t time)
{
	sqlite3_stmt *statement = statements->list[ADD_HISTORY];

	database_bind_number(statement, ":time", time);
	database_bind_text(statement, ":device", h->device);
	database_bind_text(statement, ":name", h->name);
	database_bind_text(statement, ":vid_pid", h->vid_pid);
	database_bind_text(statement, ":vm", h->vm);
	database_bind_text(statement, ":action", h->action);
	database_bind_text(statement, ":cause", h->cause);
	database_bind_text(statement, ":rule", h->rule);
	database_bind_text(statement, ":result", h->result);
	database_bind_number(statement, ":milliseconds", h->milliseconds);
	database_bind_text(statement, ":detail", h->detail);
	return statements_run(statements, ADD_HISTORY);
}

/* A choice that says nothing is none. */
static int write_choice(struct statements *statements, const struct choice *choice, uint64_t time)
{
	if (!choice->vm[0] && !choice->is_detached) {
		database_bind_text(statements->list[DELETE_CHOICE], ":whom", choice->whom);
		return statements_run(statements, DELETE_CHOICE);
	}
	sqlite3_stmt *statement = statements->list[SAVE_CHOICE];
	database_bind_text(statement, ":whom", choice->whom);
	database_bind_text(statement, ":vm", choice->vm);
	database_bind_number(statement, ":detached", choice->is_detached);
	database_bind_number(statement, ":time", time);
	return statements_run(statements, SAVE_CHOICE);
}

int statements_write(struct statements *statements, const char *boot_id,
		     const struct change *change)
{
	int r = 0;

	if (change->save)
		r = write_device(statements, boot_id, &change->row);
	if (change->forget) {
		database_bind_number(statements->list[DELETE_DEVICE], ":id",
				     (uint64_t) change->row.record.row);
		r = statements_run(statements, DELETE_DEVICE);
	}
	if (r == 0 && change->has_choice)
		r = write_choice(statements, &change->choice, change->time);
	if (r == 0 && change->has_history)
		r = statements_add_history(statements, &change->history, change->time);
	return r;
}
