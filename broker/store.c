/* SQLite behind the broker: see store.h. Owned by main, called by the manager. */
#include "broker/store.h"

#include <sqlite3.h>
#include <sys/stat.h>

#include "broker/backlog.h"
#include "broker/database.h"
#include "broker/log.h"
#include "broker/memory.h"
#include "broker/recall.h"
#include "broker/refuge.h"
#include "broker/statements.h"

#define RETRY_MS 100         /* for a locked database */
#define MAX_RETRY_MS 5000    /* for one that stays as it is: a full disk, say */
#define SOON_MS 100          /* for what follows to come along */
#define IDLE_MS 2000         /* checkpoint after this much silence */
#define CHECKPOINT_PAGES 256 /* and only when the WAL has grown so far */
#define URGENT_PAGES 2048    /* 8 MB more of it: without silence too */
#define HELD_PAGES 8192      /* a reader of root's keeps it from beginning anew: that is said */

struct store {
	struct loop *loop;
	sqlite3 *db;
	struct statements statements;
	char boot_id[40];
	int64_t next_row;
	struct backlog backlog;
	char *home, *refuge; /* where it belongs; where it goes when it can't be there, or NULL */
	bool is_away;        /* it is in the refuge */
	bool is_damaged;
	bool has_events;    /* there is a transaction with events, which the next flush commits */
	int events_lost;    /* why it could not, until that is told: -errno */
	bool failing;       /* the reason has been logged */
	bool without_fsync; /* what the open database is set to */
	unsigned retry_ms;
	int wal_pages, tidied_pages;
	struct loop_timer retry, idle, soon;
	store_written_fn observer; /* or NULL */
	void *observer_data;
};

/* Copying the WAL into the database needs an fsync of that, so it waits for a silent moment; so do
 * old rows. Where the file is locked the next time will do. */
static void tidy_up(void *data)
{
	struct store *store = data;

	statements_prune(&store->statements);
	store->tidied_pages = store->wal_pages;
	sqlite3_wal_checkpoint_v2(store->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
	/* The pages that it keeps are those of all that has happened: few are asked for again. */
	sqlite3_db_release_memory(store->db);
	memory_trim();
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

static void close_database(struct store *store)
{
	statements_finish(&store->statements);
	sqlite3_close(store->db);
	store->db = NULL;
}

static int open_and_prepare(struct store *store)
{
	int r = refuge_open(store->home, store->refuge, &store->db, &store->is_away);

	if (r == 0)
		r = statements_prepare(&store->statements, store->db);
	if (r < 0)
		close_database(store);
	return r;
}

/* Puts what is damaged aside, and begins anew. */
static int open_database(struct store *store)
{
	int r = open_and_prepare(store);

	/* What is wrong with it only the statements have found. */
	if (r == -EUCLEAN) {
		r = database_set_aside(store->is_away ? store->refuge : store->home);
		if (r == 0)
			r = open_and_prepare(store);
	}
	if (r < 0)
		return r;
	sqlite3_wal_hook(store->db, note_wal, store);
	sqlite3_busy_timeout(store->db, 0);
	store->is_damaged = false;
	store->without_fsync = false;
	store->wal_pages = store->tidied_pages = 0;
	return 0;
}

static void free_store(struct store *store)
{
	close_database(store);
	backlog_finish(&store->backlog);
	free(store->home);
	free(store->refuge);
	free(store);
}

int store_open(struct loop *loop, const char *path, const char *refuge, const char *boot_id,
	       struct store **ret_store)
{
	struct store *store = calloc(1, sizeof(*store));
	int r = -ENOMEM;

	if (!store)
		return r;
	store->loop = loop;
	backlog_init(&store->backlog);
	snprintf(store->boot_id, sizeof(store->boot_id), "%s", boot_id);
	store->home = strdup(path);
	store->refuge = refuge ? strdup(refuge) : NULL;
	if (store->home && (store->refuge || !refuge))
		r = open_database(store);
	if (r == 0)
		r = database_query(store->db, "select coalesce(max(id), 0) + 1 from device",
				   &store->next_row);
	store->backlog.newest_row = store->next_row - 1;
	if (r < 0) {
		free_store(store);
		return r;
	}
	*ret_store = store;
	return 0;
}

void store_observe(struct store *store, store_written_fn fn, void *data)
{
	store->observer = fn;
	store->observer_data = data;
}

const char *store_path(const struct store *store)
{
	return store->is_away ? store->refuge : store->home;
}

static void flush_now(struct store *store);

/* What could not be written at home is not to be lost for that. */
static void leave_in_refuge(struct store *store)
{
	close_database(store);
	if (refuge_begin(store->home, store->refuge, &store->db) < 0)
		return;
	store->is_away = true;
	if (statements_prepare(&store->statements, store->db) == 0)
		flush_now(store);
}

void store_close(struct store *store)
{
	if (!store)
		return;
	flush_now(store);
	if (store->backlog.n > 0 && store->refuge && !store->is_away)
		leave_in_refuge(store);
	if (store->backlog.n > 0)
		log_error("%zu changes could not be written to the database", store->backlog.n);
	loop_timer_stop(&store->retry);
	loop_timer_stop(&store->idle);
	loop_timer_stop(&store->soon);
	free_store(store);
}

static void note_failure(struct store *store, int r)
{
	if (r == -EUCLEAN)
		store->is_damaged = true;
	if (!store->failing)
		log_warning("the database can't be written now: %s; what is to be done is done all"
			    " the same, and written later",
			    sqlite3_errmsg(store->db));
	store->failing = true;
	if (store->has_events)
		store->events_lost = r;
	store->has_events = false;
	if (store->db)
		database_roll_back(store->db);
}

void store_distrust(struct store *store)
{
	store->is_damaged = true;
}

bool store_mend(struct store *store)
{
	struct history lost = {.action = "history", .cause = "damage", .result = "lost"};

	if (!store->is_damaged)
		return false;
	close_database(store);
	loop_timer_stop(&store->idle);
	/* Where that is not possible it goes to the refuge. */
	int r = database_set_aside(store_path(store));
	if (open_database(store) < 0) {
		log_error("there is no database to write to: the state is in memory only");
		return false;
	}
	snprintf(lost.detail, sizeof(lost.detail),
		 r < 0 ? "the database was damaged: %s"
		       : "the database was damaged: what was in it is in %s.damaged",
		 store->home);
	backlog_note(&store->backlog, &lost);
	return true;
}

/* Whether what is committed from now on is on disk then, or only in the kernel's hands. */
static int set_fsync(struct store *store, bool fsync)
{
	int r = 0;

	if (fsync == store->without_fsync)
		r = database_execute(store->db, fsync ? "pragma synchronous = full"
						      : "pragma synchronous = normal");
	if (r == 0)
		store->without_fsync = !fsync;
	return r;
}

static int begin_transaction(struct store *store, bool fsync)
{
	int r = set_fsync(store, fsync);

	return r < 0 ? r : statements_run(&store->statements, STATEMENT_BEGIN);
}

int store_add_events(struct store *store, struct event **events, size_t n)
{
	int r = begin_transaction(store, true);

	for (size_t i = 0; r == 0 && i < n; i++) {
		struct event *event = events[i];

		r = statements_add_event(&store->statements, event);
		event->is_new = r == 0 && sqlite3_changes(store->db) > 0;
	}
	if (r < 0)
		note_failure(store, r);
	else
		store->has_events = true;
	return r;
}

static int end_transaction(struct store *store)
{
	int r = statements_run(&store->statements, STATEMENT_COMMIT);

	store->has_events = store->has_events && r < 0;
	return r;
}

static void its_time(void *data)
{
	flush_now(data);
}

static int write_backlog(struct store *store)
{
	struct history lost;
	bool fsync = backlog_needs_fsync(&store->backlog);
	int r = store->has_events ? 0 : begin_transaction(store, fsync);

	for (struct change *c = store->backlog.first; r == 0 && c; c = c->next)
		r = statements_write(&store->statements, store->boot_id, c);
	if (r == 0 && backlog_tell_loss(&store->backlog, &lost))
		r = statements_add_history(&store->statements, &lost, now_realtime_ms());
	return r == 0 ? end_transaction(store) : r;
}

/* A lock goes soon. Whatever else it is, it may stay for hours. */
static void retry_later(struct store *store, int r)
{
	unsigned twice = store->retry_ms * 2;

	store->retry_ms = r == -EAGAIN || twice == 0 ? RETRY_MS
			  : twice < MAX_RETRY_MS     ? twice
						     : MAX_RETRY_MS;
	loop_timer_start(store->loop, &store->retry, store->retry_ms, its_time, store);
}

static void flush_now(struct store *store)
{
	int r = store->backlog.first ? write_backlog(store) : 0;

	if (r < 0) {
		note_failure(store, r);
		if (!store->retry.loop)
			retry_later(store, r);
		return;
	}
	if (store->failing)
		log_info("the database can be written again");
	store->failing = false;
	store->retry_ms = 0;
	loop_timer_stop(&store->retry);
	loop_timer_stop(&store->soon);
	if (store->observer)
		backlog_each(&store->backlog, store->observer, store->observer_data);
	backlog_clear(&store->backlog);
}

void store_flush(struct store *store)
{
	bool may_wait = backlog_may_wait(&store->backlog);

	if (store->backlog.first && !may_wait)
		flush_now(store);
	else if (store->backlog.first && !store->soon.loop)
		loop_timer_start(store->loop, &store->soon, SOON_MS, its_time, store);
	int r = store->has_events ? end_transaction(store) : 0;
	if (r < 0)
		note_failure(store, r);
}

int store_lost_events(struct store *store)
{
	int r = store->events_lost;

	store->events_lost = 0;
	return r;
}

void store_choice(struct store *store, const struct choice *choice)
{
	backlog_choose(&store->backlog, choice);
}

void store_device(struct store *store, struct device *device, const struct history *history)
{
	if (device->record.row == 0)
		device->record.row = store->next_row++;
	backlog_save(&store->backlog, device, history);
}

void store_history(struct store *store, const struct history *history)
{
	backlog_note(&store->backlog, history);
}

void store_forget(struct store *store, struct device *device, const struct history *history)
{
	backlog_forget(&store->backlog, device->record.row ? device : NULL, history);
}

/* A database that can't be read keeps no device from its VM: what could not be had of it the VMs
 * tell, and store_mend begins anew. */
static int note_unread(struct store *store, int r)
{
	if (r == -EUCLEAN || r == -EIO) {
		log_error("%s can't be read any further (%s): going on without what is missing",
			  store_path(store), sqlite3_errmsg(store->db));
		store->is_damaged = true;
		r = 0;
	}
	database_roll_back(store->db);
	return r;
}

int store_load(struct store *store, store_device_fn fn, void *data)
{
	int r = recall_close_boots(store->db, store->boot_id);

	if (r == 0)
		r = statements_prune(&store->statements);
	if (r == 0)
		r = recall_devices(store->db, fn, data);
	return note_unread(store, r);
}

int store_load_choices(struct store *store, store_choice_fn fn, void *data)
{
	return note_unread(store, recall_choices(store->db, fn, data));
}

int store_forget_choices(struct store *store)
{
	int r = set_fsync(store, true);

	return r < 0 ? r : database_execute(store->db, "delete from choice");
}

struct sqlite3 *store_database(struct store *store)
{
	return store->db;
}
