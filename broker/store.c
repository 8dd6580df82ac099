/* SQLite behind the broker: see store.h. Owned by main, called by the manager. */
#include "broker/store.h"

#include <sqlite3.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "broker/log.h"
#include "broker/schema.h"

#define SCHEMA_VERSION 2
#define RETRY_MS 100         /* for a locked database or a full disk */
#define IDLE_MS 2000         /* checkpoint after this much silence */
#define CHECKPOINT_PAGES 256 /* and only when the WAL has grown so far */
#define URGENT_PAGES 2048    /* 8 MB more of it: without silence too */
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

/* From the schema that had no choices of people. */
static const char migrate_1_sql[] = "alter table device add column away integer not null default 0;"
				    "alter table device add column chosen text not null default '';"
				    "create table choice (whom text primary key, vm text not null,"
				    " detached integer not null, time integer not null) strict;";

/* What the table device has of a device. */
struct row {
	struct device_identity id;
	struct device_wish wish;
	struct device_record record;
};

enum column_kind {
	COLUMN_TEXT,
	COLUMN_INT64,
	COLUMN_UNSIGNED,
	COLUMN_KIND,  /* enum device_kind, by name */
	COLUMN_STATE, /* enum device_state, by name */
};

struct column {
	const char *name;
	enum column_kind kind;
	size_t offset, size; /* of the member of struct row */
};

#define COLUMN(name, kind, member)                                                           \
	{                                                                                    \
		name, kind, offsetof(struct row, member), sizeof(((struct row *) 0)->member) \
	}

/* Besides these it has boot_id. */
static const struct column columns[] = {
	COLUMN("id", COLUMN_INT64, record.row),
	COLUMN("devpath", COLUMN_TEXT, id.devpath),
	COLUMN("inode", COLUMN_INT64, id.inode),
	COLUMN("kind", COLUMN_KIND, id.kind),
	COLUMN("device", COLUMN_TEXT, id.kernel_name),
	COLUMN("node", COLUMN_TEXT, id.node),
	COLUMN("name", COLUMN_TEXT, id.name),
	COLUMN("vid_pid", COLUMN_TEXT, id.vid_pid),
	COLUMN("rule", COLUMN_TEXT, wish.rule),
	COLUMN("vms", COLUMN_TEXT, wish.vms),
	COLUMN("config", COLUMN_TEXT, wish.config),
	COLUMN("seqnum", COLUMN_INT64, wish.seqnum),
	COLUMN("state", COLUMN_STATE, record.state),
	COLUMN("reason", COLUMN_TEXT, record.reason),
	COLUMN("vm", COLUMN_TEXT, record.vm),
	COLUMN("handle", COLUMN_TEXT, record.handle),
	COLUMN("since", COLUMN_INT64, record.since),
	COLUMN("options", COLUMN_UNSIGNED, wish.options),
	COLUMN("rank", COLUMN_UNSIGNED, wish.order),
	COLUMN("family", COLUMN_TEXT, wish.family),
	COLUMN("family_vm", COLUMN_TEXT, wish.family_vm),
	COLUMN("leader", COLUMN_TEXT, wish.leader),
	COLUMN("away", COLUMN_UNSIGNED, wish.away),
	COLUMN("chosen", COLUMN_TEXT, wish.chosen),
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

static int error_number(int sqlite_error)
{
	switch (sqlite_error & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EAGAIN;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return -EUCLEAN;
	default:
		return -EIO;
	}
}

/* "NAME,NAME,…": the columns of the table device, or with MARKS a question mark for each. */
static void list_columns(char *ret, size_t size, bool marks)
{
	size_t at = 0;

	*ret = 0;
	for (size_t i = 0; i < ARRAY_SIZE(columns) && at < size; i++)
		at += (size_t) snprintf(ret + at, size - at, "%s%s", i > 0 ? "," : "",
					marks ? "?" : columns[i].name);
}

/* Binds the columns of ROW, from parameter FIRST on. */
static void bind_row(sqlite3_stmt *statement, int first, const struct row *row)
{
	for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
		const struct column *column = &columns[i];
		const void *from = (const char *) row + column->offset;
		int at = first + (int) i;

		switch (column->kind) {
		case COLUMN_TEXT:
			sqlite3_bind_text(statement, at, from, -1, SQLITE_TRANSIENT);
			break;
		case COLUMN_INT64:
			sqlite3_bind_int64(statement, at, *(const int64_t *) from);
			break;
		case COLUMN_UNSIGNED:
			sqlite3_bind_int64(statement, at, *(const unsigned *) from);
			break;
		case COLUMN_KIND:
			sqlite3_bind_text(statement, at,
					  device_kind_name(*(const enum device_kind *) from), -1,
					  SQLITE_STATIC);
			break;
		case COLUMN_STATE:
			sqlite3_bind_text(statement, at,
					  device_state_name(*(const enum device_state *) from), -1,
					  SQLITE_STATIC);
			break;
		}
	}
}

static void read_row(sqlite3_stmt *statement, struct row *ret_row)
{
	for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
		const struct column *column = &columns[i];
		void *to = (char *) ret_row + column->offset;
		const char *text = (const char *) sqlite3_column_text(statement, (int) i);
		int value;

		switch (column->kind) {
		case COLUMN_TEXT:
			snprintf(to, column->size, "%s", text);
			break;
		case COLUMN_INT64:
			*(int64_t *) to = sqlite3_column_int64(statement, (int) i);
			break;
		case COLUMN_UNSIGNED:
			*(unsigned *) to = (unsigned) sqlite3_column_int64(statement, (int) i);
			break;
		case COLUMN_KIND:
			value = device_kind_from_name(text);
			*(enum device_kind *) to =
				value < 0 ? DEVICE_USB : (enum device_kind) value;
			break;
		case COLUMN_STATE:
			value = device_state_from_name(text);
			*(enum device_state *) to =
				value < 0 ? DEVICE_WAITING : (enum device_state) value;
			break;
		}
	}
}

static int run(struct store *store, enum statement which)
{
	sqlite3_stmt *statement = store->statements[which];
	int r = sqlite3_step(statement);

	sqlite3_reset(statement);
	return r == SQLITE_DONE || r == SQLITE_ROW ? 0 : error_number(r);
}

static int execute(struct store *store, const char *sql)
{
	int r = sqlite3_exec(store->db, sql, NULL, NULL, NULL);

	return r == SQLITE_OK ? 0 : error_number(r);
}

static int query_int(struct store *store, const char *sql, int64_t *ret)
{
	sqlite3_stmt *statement = NULL;
	int r = sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL);

	if (r == SQLITE_OK)
		r = sqlite3_step(statement);
	if (r == SQLITE_ROW)
		*ret = sqlite3_column_int64(statement, 0);
	sqlite3_finalize(statement);
	return r == SQLITE_ROW ? 0 : error_number(r);
}

static int prune(struct store *store)
{
	bind_all(store->statements[PRUNE_EVENTS], "i", (sqlite3_int64) KEEP_EVENTS);
	bind_all(store->statements[PRUNE_HISTORY], "i", (sqlite3_int64) KEEP_HISTORY);
	int r = run(store, PRUNE_EVENTS);
	return r < 0 ? r : run(store, PRUNE_HISTORY);
}

/* Copying the WAL into the database needs an fsync of that, so it waits for a silent moment; so do
 * old rows. Where the file is locked the next time will do. */
static void tidy_up(void *data)
{
	struct store *store = data;

	prune(store);
	store->tidied_pages = store->wal_pages;
	sqlite3_wal_checkpoint_v2(store->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
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

static int set_up_schema(struct store *store, const char *path)
{
	int64_t version;
	int r = query_int(store, "pragma user_version", &version);

	if (r < 0)
		return r;
	if (version > SCHEMA_VERSION) {
		log_error("%s was written by a newer vhotplug (schema %lld, this one knows %d): "
			  "install that one again, or move the file away",
			  path, (long long) version, SCHEMA_VERSION);
		return -EPROTO;
	}
	if (version == SCHEMA_VERSION)
		return 0;
	if ((r = execute(store, "begin immediate")) < 0)
		return r;
	if ((r = execute(store, version == 0 ? schema_sql : migrate_1_sql)) < 0 ||
	    (r = execute(store, "pragma user_version = 2")) < 0 ||
	    (r = execute(store, "commit")) < 0)
		execute(store, "rollback");
	return r;
}

/* Damage behind the first page would otherwise show when the first event comes, and every event
 * would be refused. Takes some 80 ms for a full history. */
static int check_pages(struct store *store)
{
	sqlite3_stmt *statement = NULL;
	int r = sqlite3_prepare_v2(store->db, "pragma quick_check(1)", -1, &statement, NULL);
	bool good = false;

	if (r == SQLITE_OK)
		r = sqlite3_step(statement);
	if (r == SQLITE_ROW)
		good = streq((const char *) sqlite3_column_text(statement, 0), "ok");
	sqlite3_finalize(statement);
	if (r != SQLITE_ROW)
		return error_number(r);
	return good ? 0 : -EUCLEAN;
}

static int prepare_statements(struct store *store)
{
	char names[400], marks[100], save[600];

	list_columns(names, sizeof(names), false);
	list_columns(marks, sizeof(marks), true);
	snprintf(save, sizeof(save), "insert or replace into device (boot_id,%s) values (?,%s)",
		 names, marks);
	for (size_t i = 0; i < N_STATEMENTS; i++) {
		int r = sqlite3_prepare_v3(store->db, i == SAVE_DEVICE ? save : statement_sql[i],
					   -1, SQLITE_PREPARE_PERSISTENT, &store->statements[i],
					   NULL);

		if (r != SQLITE_OK)
			return r == SQLITE_ERROR ? -EUCLEAN : error_number(r);
	}
	return 0;
}

static int open_database(struct store *store, const char *path)
{
	int keep_wal = 1;
	int r = sqlite3_open_v2(path, &store->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL);

	if (r != SQLITE_OK)
		return error_number(r);
	/* Readers without write permission need the -wal and -shm files while we are stopped. */
	sqlite3_file_control(store->db, NULL, SQLITE_FCNTL_PERSIST_WAL, &keep_wal);
	sqlite3_busy_timeout(store->db, 10000); /* only until the loop runs */
	sqlite3_extended_result_codes(store->db, 1);
	r = sqlite3_exec(store->db,
			 "pragma journal_mode = wal; pragma synchronous = full;"
			 "pragma wal_autocheckpoint = 0; pragma journal_size_limit = 1048576",
			 NULL, NULL, NULL);
	if (r != SQLITE_OK)
		return error_number(r);
	if ((r = set_up_schema(store, path)) < 0 || (r = check_pages(store)) < 0)
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

/* A damaged file must not keep devices from their VMs: put it aside and begin anew. */
static int set_aside(const char *path)
{
	static const char *const suffixes[] = {"", "-wal", "-shm"};

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		char from[600], to[700];

		snprintf(from, sizeof(from), "%s%s", path, suffixes[i]);
		snprintf(to, sizeof(to), "%s.damaged%s", path, suffixes[i]);
		if (rename(from, to) < 0 && errno != ENOENT)
			return -errno;
	}
	log_error("%s is damaged: it is now %s.damaged, and a new one is begun", path, path);
	return 0;
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
		r = set_aside(path);
		if (r == 0)
			r = open_database(store, path);
	}
	umask(old_umask);
	if (r == 0)
		r = query_int(store, "select coalesce(max(id), 0) + 1 from device",
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

static void drop(struct store *store, struct change **at)
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
		drop(store, &store->first);
	loop_timer_stop(&store->retry);
	loop_timer_stop(&store->idle);
	close_database(store);
	free(store);
}

int store_events(struct store *store, struct event **events, size_t n)
{
	int r = execute(store, "begin immediate");

	for (size_t i = 0; r == 0 && i < n; i++) {
		struct event *event = events[i];

		bind_all(store->statements[ADD_EVENT], "isississ",
			 (sqlite3_int64) now_realtime_ms(), event->boot_id,
			 (sqlite3_int64) event->seqnum, event->action, event->devpath,
			 (sqlite3_int64) event->inode, event->vms, event->rule);
		r = run(store, ADD_EVENT);
		event->is_new = r == 0 && sqlite3_changes(store->db) > 0;
	}
	if (r == 0)
		r = execute(store, "commit");
	if (r < 0) {
		log_warning("events refused: %s", sqlite3_errmsg(store->db));
		if (!sqlite3_get_autocommit(store->db))
			execute(store, "rollback");
	}
	return r;
}

static int write_device(struct store *store, const struct row *row)
{
	sqlite3_stmt *statement = store->statements[SAVE_DEVICE];

	sqlite3_bind_text(statement, 1, store->boot_id, -1, SQLITE_STATIC);
	bind_row(statement, 2, row);
	return run(store, SAVE_DEVICE);
}

static int write_history(struct store *store, const struct history *h, uint64_t time)
{
	bind_all(store->statements[ADD_HISTORY], "issssssssis", (sqlite3_int64) time, h->device,
		 h->name, h->vid_pid, h->vm, h->action, h->cause, h->rule, h->result,
		 (sqlite3_int64) h->milliseconds, h->detail);
	return run(store, ADD_HISTORY);
}

/* A choice that says nothing is none. */
static int write_choice(struct store *store, const struct choice *choice, uint64_t time)
{
	if (!choice->vm[0] && !choice->is_detached) {
		bind_all(store->statements[DELETE_CHOICE], "s", choice->whom);
		return run(store, DELETE_CHOICE);
	}
	bind_all(store->statements[SAVE_CHOICE], "ssii", choice->whom, choice->vm,
		 (sqlite3_int64) choice->is_detached, (sqlite3_int64) time);
	return run(store, SAVE_CHOICE);
}

static int write_change(struct store *store, const struct change *change)
{
	int r = 0;

	if (change->save)
		r = write_device(store, &change->row);
	if (change->forget) {
		bind_all(store->statements[DELETE_DEVICE], "i",
			 (sqlite3_int64) change->row.record.row);
		r = run(store, DELETE_DEVICE);
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

	int r = execute(store, "begin immediate");
	for (struct change *c = store->first; r == 0 && c; c = c->next)
		r = write_change(store, c);
	if (r == 0)
		r = execute(store, "commit");
	if (r < 0) {
		if (!store->failing)
			log_warning("the database can't be written now: %s",
				    sqlite3_errmsg(store->db));
		store->failing = true;
		if (!sqlite3_get_autocommit(store->db))
			execute(store, "rollback");
		loop_timer_start(store->loop, &store->retry, RETRY_MS, retry_flush, store);
		return;
	}
	if (store->failing)
		log_info("the database can be written again");
	store->failing = store->losing = false;
	loop_timer_stop(&store->retry);
	while (store->first)
		drop(store, &store->first);
}

static bool is_void(const struct change *change)
{
	return !change->save && !change->forget && !change->has_history && !change->has_choice;
}

/* An earlier queued state of the device ROW needs no write of its own: the newest one stands for
 * it. */
static void supersede(struct store *store, int64_t row)
{
	struct change **at = &store->first;

	while (*at) {
		if ((*at)->row.record.row == row)
			(*at)->save = false;
		if (is_void(*at))
			drop(store, at);
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
			drop(store, at);
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
static void queue(struct store *store, const struct device *device, bool forget,
		  const struct history *history)
{
	struct change *change = new_change();

	if (!change)
		return;
	if (device) {
		supersede(store, device->record.row);
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
	queue(store, device, false, history);
}

void store_forget(struct store *store, struct device *device, const struct history *history)
{
	queue(store, device->record.row ? device : NULL, true, history);
}

static struct device *read_device(sqlite3_stmt *statement)
{
	struct device *d = calloc(1, sizeof(*d));
	struct row row = {0};

	if (!d)
		return NULL;
	read_row(statement, &row);
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
	return execute(store, text);
}

int store_load(struct store *store, store_device_fn fn, void *data)
{
	sqlite3_stmt *statement = NULL;
	char names[400], sql[500];
	int step, r;

	if ((r = close_earlier_boots(store)) < 0 || (r = prune(store)) < 0)
		return r;
	list_columns(names, sizeof(names), false);
	snprintf(sql, sizeof(sql), "select %s from device order by id", names);
	r = sqlite3_prepare_v2(store->db, sql, -1, &statement, NULL);
	if (r != SQLITE_OK)
		return error_number(r);
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
	return r == SQLITE_OK ? 0 : error_number(r);
}

int store_forget_choices(struct store *store)
{
	return execute(store, "delete from choice");
}

struct sqlite3 *store_database(struct store *store)
{
	return store->db;
}
