/* SQLite behind the broker: see store.h. Owned by main, called by the manager. */
#include "broker/store.h"

#include <sqlite3.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "broker/database.h"
#include "broker/log.h"
#include "broker/row.h"

#define RETRY_MS 100         /* for a locked database or a full disk */
#define IDLE_MS 2000         /* checkpoint after this much silence */
#define CHECKPOINT_PAGES 256 /* and only when the WAL has grown so far */
#define URGENT_PAGES 2048    /* 8 MB more of it: without silence too */
#define HELD_PAGES 8192      /* a reader of root's keeps it from beginning anew: that is said */
#define MAX_QUEUED 4096      /* changes; at the cap the oldest history is lost, and said so */
#define KEEP_EVENTS 10000    /* rows in table event */
#define KEEP_HISTORY 200000  /* rows in table action */

enum statement {
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

static const char *const statement_sql[N_STATEMENTS] = {
	[ADD_EVENT] =
		"insert or ignore into event (time, boot_id, seqnum, action, devpath, inode, vm,"
		" rule) values (?, ?, ?, ?, ?, ?, ?, ?)",
	[DELETE_DEVICE] = "delete from device where id = ?",
	[ADD_HISTORY] = "insert into action (time, device, name, vid_pid, vm, action, cause, rule,"
			" result, milliseconds, detail) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
	[PRUNE_EVENTS] = "delete from event where id <= (select max(id) from event) - ?",
	[SAVE_CHOICE] = "insert or replace into choice (whom, vm, detached, time)"
			" values (?, ?, ?, ?)",
	[DELETE_CHOICE] = "delete from choice where whom = ?",
	[PRUNE_HISTORY] = "delete from action where id <= (select max(id) from action) - ?",
};

/* One queued change: a device row, or its removal, or a person's choice, or none of these, and
 * perhaps a history row. */
struct change {
	struct change *next;
	bool save, forget, has_history, has_choice;
	struct choice choice;
	struct row row;
	struct history history;
	uint64_t time;
};

struct store {
	struct loop *loop;
	sqlite3 *db;
	sqlite3_stmt *statements[N_STATEMENTS];
	char boot_id[40];
	int64_t next_row;
	struct change *first, **last;
	size_t n_queued;
	bool failing; /* the reason has been logged */
	bool losing;  /* so has the loss of history */
	int wal_pages, tidied_pages;
	struct loop_timer retry, idle;
};

/* Binds the parameters in turn: 's' a string, 'i' an int64. */
static void bind_all(sqlite3_stmt *statement, const char *types, ...)
{
	va_list args;
	int i = 1;

	va_start(args, types);
	for (const char *t = types; *t; t++, i++)
		if (*t == 's')
			sqlite3_bind_text(statement, i, va_arg(args, const char *), -1,
					  SQLITE_TRANSIENT);
		else
			sqlite3_bind_int64(statement, i, va_arg(args, sqlite3_int64));
	va_end(args);
}

static int run_statement(struct store *store, enum statement which)
{
	sqlite3_stmt *statement = store->statements[which];
	int r = sqlite3_step(statement);

	sqlite3_reset(statement);
	return r == SQLITE_DONE || r == SQLITE_ROW ? 0 : database_error(r);
}

static int prune_tables(struct store *store)
{
	bind_all(store->statements[PRUNE_EVENTS], "i", (sqlite3_int64) KEEP_EVENTS);
	bind_all(store->statements[PRUNE_HISTORY], "i", (sqlite3_int64) KEEP_HISTORY);
	int r = run_statement(store, PRUNE_EVENTS);
	return r < 0 ? r : run_statement(store, PRUNE_HISTORY);
}

/* Copying the WAL into the database needs an fsync of that, so it waits for a silent moment; so do
 * old rows. Where the file is locked the next time will do. */
static void tidy_up(void *data)
{
	struct store *store = data;

	prune_tables(store);
	store->tidied_pages = store->wal_pages;
	sqlite3_wal_checkpoint_v2(store->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	if (store->wal_pages > HELD_PAGES)
		log_warning("the database's -wal file has %d MB: a program of root's reads it in a"
			    " transaction that it does not end",
			    store->wal_pages / 256);
}

static int note_wal(void *data, sqlite3 *db, const char *name, int pages)
{
	struct store *store = data;

	(void) db;
	(void) name;
	/* It begins anew after a checkpoint, unless a reader is in the way. */
	if (pages < store->wal_pages)
		store->tidied_pages = 0;
	store->wal_pages = pages;
	bool urgent = pages - store->tidied_pages >= URGENT_PAGES;
	if (pages >= CHECKPOINT_PAGES)
		loop_timer_start(store->loop, &store->idle, urgent ? 0 : IDLE_MS, tidy_up, store);
	return SQLITE_OK;
}

static int prepare_statements(struct store *store)
{
	char names[ROW_SQL_SIZE], marks[ROW_SQL_SIZE], save[2 * ROW_SQL_SIZE + 100];

	row_list_columns(names, false);
	row_list_columns(marks, true);
	snprintf(save, sizeof(save), "insert or replace into device (boot_id,%s) values (?,%s)",
		 names, marks);
	for (size_t i = 0; i < N_STATEMENTS; i++) {
		int r = sqlite3_prepare_v3(store->db, i == SAVE_DEVICE ? save : statement_sql[i],
					   -1, SQLITE_PREPARE_PERSISTENT, &store->statements[i],
					   NULL);

		if (r != SQLITE_OK)
			return r == SQLITE_ERROR ? -EUCLEAN : database_error(r);
	}
	return 0;
}

static int open_database(struct store *store, const char *path)
{
	int keep_wal = 1;
	int r = sqlite3_open_v2(path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);

	if (r != SQLITE_OK)
		return database_error(r);
	/* Readers without write permission need the -wal and -shm files while we are stopped. */
	sqlite3_file_control(store->db, NULL, SQLITE_FCNTL_PERSIST_WAL, &keep_wal);
	sqlite3_busy_timeout(store->db, 10000); /* only until the loop runs */
	sqlite3_extended_result_codes(store->db, 1);
	r = sqlite3_exec(store->db,
			 "pragma journal_mode = wal; pragma synchronous = full;"
			 "pragma wal_autocheckpoint = 0; pragma journal_size_limit = 1048576",
			 NULL, NULL, NULL);
	if (r != SQLITE_OK)
		return database_error(r);
	if ((r = database_set_up(store->db, path)) < 0 || (r = database_check(store->db)) < 0)
		return r;
	return prepare_statements(store);
}

static void close_database(struct store *store)
{
	for (size_t i = 0; i < N_STATEMENTS; i++) {
		sqlite3_finalize(store->statements[i]);
		store->statements[i] = NULL;
	}
	sqlite3_close(store->db);
	store->db = NULL;
}

int store_open(struct loop *loop, const char *path, const char *boot_id, struct store **ret_store)
{
	struct store *store = calloc(1, sizeof(*store));

	if (!store)
		return -ENOMEM;
	store->loop = loop;
	store->last = &store->first;
	snprintf(store->boot_id, sizeof(store->boot_id), "%s", boot_id);

	mode_t old_umask = umask(0022);
	int r = open_database(store, path);
	if (r == -EUCLEAN) {
		close_database(store);
		r = database_set_aside(path);
		if (r == 0)
			r = open_database(store, path);
	}
	umask(old_umask);
	if (r == 0)
		r = database_query(store->db, "select coalesce(max(id), 0) + 1 from device",
				   &store->next_row);
	if (r < 0) {
		log_error("can't use the database %s: %s", path,
			  store->db && sqlite3_errcode(store->db) != SQLITE_OK
				  ? sqlite3_errmsg(store->db)
				  : strerror(-r));
		close_database(store);
		free(store);
		return r;
	}
	sqlite3_wal_hook(store->db, note_wal, store);
	sqlite3_busy_timeout(store->db, 0);
	*ret_store = store;
	return 0;
}

static void drop_change(struct store *store, struct change **at)
{
	struct change *change = *at;

	*at = change->next;
	if (!*at)
		store->last = at;
	store->n_queued--;
	free(change);
}

void store_close(struct store *store)
{
	if (!store)
		return;
	store_flush(store);
	if (store->n_queued > 0)
		log_error("%zu changes could not be written to the database", store->n_queued);
	while (store->first)
		drop_change(store, &store->first);
	loop_timer_stop(&store->retry);
	loop_timer_stop(&store->idle);
	close_database(store);
	free(store);
}

int store_events(struct store *store, struct event **events, size_t n)
{
	int r = database_execute(store->db, "begin immediate");

	for (size_t i = 0; r == 0 && i < n; i++) {
		struct event *event = events[i];

		bind_all(store->statements[ADD_EVENT], "isississ",
			 (sqlite3_int64) now_realtime_ms(), event->boot_id,
			 (sqlite3_int64) event->seqnum, event->action, event->devpath,
			 (sqlite3_int64) event->inode, event->vms, event->rule);
		r = run_statement(store, ADD_EVENT);
		event->is_new = r == 0 && sqlite3_changes(store->db) > 0;
	}
	if (r == 0)
		r = database_execute(store->db, "commit");
	if (r < 0) {
		log_warning("events refused: %s", sqlite3_errmsg(store->db));
		if (!sqlite3_get_autocommit(store->db))
			database_execute(store->db, "rollback");
	}
	return r;
}

static int write_device(struct store *store, const struct row *row)
{
	sqlite3_stmt *statement = store->statements[SAVE_DEVICE];

	sqlite3_bind_text(statement, 1, store->boot_id, -1, SQLITE_STATIC);
	row_bind(statement, 2, row);
	return run_statement(store, SAVE_DEVICE);
}

static int write_history(struct store *store, const struct history *h, uint64_t time)
{
	bind_all(store->statements[ADD_HISTORY], "issssssssis", (sqlite3_int64) time, h->device,
		 h->name, h->vid_pid, h->vm, h->action, h->cause, h->rule, h->result,
		 (sqlite3_int64) h->milliseconds, h->detail);
	return run_statement(store, ADD_HISTORY);
}

/* A choice that says nothing is none. */
static int write_choice(struct store *store, const struct choice *choice, uint64_t time)
{
	if (!choice->vm[0] && !choice->is_detached) {
		bind_all(store->statements[DELETE_CHOICE], "s", choice->whom);
		return run_statement(store, DELETE_CHOICE);
	}
	bind_all(store->statements[SAVE_CHOICE], "ssii", choice->whom, choice->vm,
		 (sqlite3_int64) choice->is_detached, (sqlite3_int64) time);
	return run_statement(store, SAVE_CHOICE);
}

static int write_change(struct store *store, const struct change *change)
{
	int r = 0;

	if (change->save)
		r = write_device(store, &change->row);
	if (change->forget) {
		bind_all(store->statements[DELETE_DEVICE], "i",
			 (sqlite3_int64) change->row.record.row);
		r = run_statement(store, DELETE_DEVICE);
	}
	if (r == 0 && change->has_choice)
		r = write_choice(store, &change->choice, change->time);
	if (r == 0 && change->has_history)
		r = write_history(store, &change->history, change->time);
	return r;
}

static void retry_flush(void *data)
{
	store_flush(data);
}

void store_flush(struct store *store)
{
	if (!store->first)
		return;

	int r = database_execute(store->db, "begin immediate");
	for (struct change *c = store->first; r == 0 && c; c = c->next)
		r = write_change(store, c);
	if (r == 0)
		r = database_execute(store->db, "commit");
	if (r < 0) {
		if (!store->failing)
			log_warning("the database can't be written now: %s",
				    sqlite3_errmsg(store->db));
		store->failing = true;
		if (!sqlite3_get_autocommit(store->db))
			database_execute(store->db, "rollback");
		loop_timer_start(store->loop, &store->retry, RETRY_MS, retry_flush, store);
		return;
	}
	if (store->failing)
		log_info("the database can be written again");
	store->failing = store->losing = false;
	loop_timer_stop(&store->retry);
	while (store->first)
		drop_change(store, &store->first);
}

static bool is_void(const struct change *change)
{
	return !change->save && !change->forget && !change->has_history && !change->has_choice;
}

/* An earlier queued state of the device ROW needs no write of its own: the newest one stands for
 * it. */
static void supersede_row(struct store *store, int64_t row)
{
	struct change **at = &store->first;

	while (*at) {
		if ((*at)->row.record.row == row)
			(*at)->save = false;
		if (is_void(*at))
			drop_change(store, at);
		else
			at = &(*at)->next;
	}
}

/* At the cap the oldest history rows are lost; what devices are now is not. */
static void make_room(struct store *store)
{
	struct change **at = &store->first;

	while (*at && store->n_queued >= MAX_QUEUED) {
		if ((*at)->has_history && !store->losing) {
			log_error("too much waits for the database: history is being lost");
			store->losing = true;
		}
		(*at)->has_history = false;
		if (is_void(*at))
			drop_change(store, at);
		else
			at = &(*at)->next;
	}
}

static void enqueue(struct store *store, struct change *change)
{
	if (is_void(change)) {
		free(change);
		return;
	}
	make_room(store);
	*store->last = change;
	store->last = &change->next;
	store->n_queued++;
}

static struct change *new_change(void)
{
	struct change *change = calloc(1, sizeof(*change));

	if (!change)
		log_error("a change is not recorded: out of memory");
	else
		change->time = now_realtime_ms();
	return change;
}

/* Queues a copy of what DEVICE is now. */
static void queue_change(struct store *store, const struct device *device, bool forget,
			 const struct history *history)
{
	struct change *change = new_change();

	if (!change)
		return;
	if (device) {
		supersede_row(store, device->record.row);
		change->row = (struct row){
			.id = device->id, .wish = device->wish, .record = device->record};
		change->save = !forget;
		change->forget = forget;
	}
	if (history) {
		change->history = *history;
		change->has_history = true;
	}
	enqueue(store, change);
}

void store_choice(struct store *store, const struct choice *choice)
{
	struct change *change = new_change();

	if (!change)
		return;
	change->choice = *choice;
	change->has_choice = true;
	enqueue(store, change);
}

void store_device(struct store *store, struct device *device, const struct history *history)
{
	if (device->record.row == 0)
		device->record.row = store->next_row++;
	queue_change(store, device, false, history);
}

void store_forget(struct store *store, struct device *device, const struct history *history)
{
	queue_change(store, device->record.row ? device : NULL, true, history);
}

static struct device *read_device(sqlite3_stmt *statement)
{
	struct device *d = calloc(1, sizeof(*d));
	struct row row = {0};

	if (!d)
		return NULL;
	row_read(statement, &row);
	d->id = row.id;
	d->wish = row.wish;
	d->record = d->saved = row.record;
	d->told = d->record.state;
	return d;
}

/* A reboot closes what was open: the VMs of that boot are gone, and with them the devices. */
static int close_earlier_boots(struct store *store)
{
	static const char sql[] =
		"begin immediate;"
		"insert into action (time, device, name, vid_pid, vm, action, cause, rule, result,"
		" milliseconds, detail) select unixepoch() * 1000, device, name, vid_pid, vm, "
		"'detach',"
		" 'reboot', rule, 'ok', 0, '' from device where handle <> '' and boot_id <> '%s';"
		"delete from device where boot_id <> '%s';"
		"commit";
	char text[800];

	snprintf(text, sizeof(text), sql, store->boot_id, store->boot_id);
	return database_execute(store->db, text);
}

int store_load(struct store *store, store_device_fn fn, void *data)
{
	sqlite3_stmt *statement = NULL;
	char names[ROW_SQL_SIZE], sql[ROW_SQL_SIZE + 100];
	int step, r;

	if ((r = close_earlier_boots(store)) < 0 || (r = prune_tables(store)) < 0)
		return r;
	row_list_columns(names, false);
	snprintf(sql, sizeof(sql), "select %s from device order by id", names);
	r = sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL);
	if (r != SQLITE_OK)
		return database_error(r);
	r = 0;
	while (r == 0 && (step = sqlite3_step(statement)) == SQLITE_ROW) {
		struct device *device = read_device(statement);

		r = device ? fn(data, device) : -ENOMEM;
	}
	sqlite3_finalize(statement);
	return r;
}

int store_load_choices(struct store *store, store_choice_fn fn, void *data)
{
	sqlite3_stmt *statement = NULL;
	int r = sqlite3_prepare_v2(store->db, "select whom, vm, detached from choice", -1,
				   &statement, NULL);

	while (r == SQLITE_OK && sqlite3_step(statement) == SQLITE_ROW) {
		struct choice choice = {.is_detached = sqlite3_column_int(statement, 2)};

		snprintf(choice.whom, sizeof(choice.whom), "%s",
			 (const char *) sqlite3_column_text(statement, 0));
		snprintf(choice.vm, sizeof(choice.vm), "%s",
			 (const char *) sqlite3_column_text(statement, 1));
		fn(data, &choice);
	}
	sqlite3_finalize(statement);
	return r == SQLITE_OK ? 0 : database_error(r);
}

int store_forget_choices(struct store *store)
{
	return database_execute(store->db, "delete from choice");
}

struct sqlite3 *store_database(struct store *store)
{
	return store->db;
}
