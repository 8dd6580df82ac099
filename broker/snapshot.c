/* The copy for everybody: see snapshot.h. Used by main. */
#include "broker/snapshot.h"

#include <fcntl.h>
#include <malloc.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "broker/database.h"
#include "broker/log.h"

#define FIRST_MS 200     /* after a change that follows a silence */
#define INTERVAL_MS 5000 /* between two copies while much happens */
#define HISTORY_ROWS "2000"

struct snapshot {
	struct loop *loop;
	char *database, *target;
	gid_t readers;
	int former[SNAPSHOT_KEPT]; /* copies that were replaced; -1: none */
	size_t next_former;
	sqlite3 *db;
	sqlite3_stmt *get_version;
	int64_t version; /* of the database, as copied; -2: never */
	uint64_t written;
	struct loop_timer timer;
	bool failed; /* said already */
	bool found_damage;
};

static int open_database(struct snapshot *snapshot)
{
	int keep_wal = 1; /* as the store does */

	int r = sqlite3_open_v2(snapshot->database, &snapshot->db, SQLITE_OPEN_READWRITE, NULL);
	if (r != SQLITE_OK)
		return database_error(r);
	sqlite3_file_control(snapshot->db, NULL, SQLITE_FCNTL_PERSIST_WAL, &keep_wal);
	r = sqlite3_prepare_v3(snapshot->db, "pragma data_version", -1, SQLITE_PREPARE_PERSISTENT,
			       &snapshot->get_version, NULL);
	return r == SQLITE_OK ? 0 : database_error(r);
}

static void close_database(struct snapshot *snapshot)
{
	sqlite3_finalize(snapshot->get_version);
	sqlite3_close(snapshot->db);
	snapshot->get_version = NULL;
	snapshot->db = NULL;
}

/* SQLite counts what other connections change. Returns 0 or -errno: it can't be told now. */
static int read_version(struct snapshot *snapshot, int64_t *ret_version)
{
	int r = snapshot->db ? 0 : open_database(snapshot);

	if (r < 0) {
		close_database(snapshot);
		return r;
	}
	int step = sqlite3_step(snapshot->get_version);
	if (step == SQLITE_ROW)
		*ret_version = sqlite3_column_int64(snapshot->get_version, 0);
	sqlite3_reset(snapshot->get_version);
	return step == SQLITE_ROW ? 0 : database_error(step);
}

static int run_sql(sqlite3 *db, const char *sql)
{
	return database_execute(db, sql);
}

/* Fills the file NEXT, which nobody else knows yet. */
static int copy_views(sqlite3 *db, const char *next)
{
	char *attach = sqlite3_mprintf("attach %Q as copy", next);
	int r = attach ? run_sql(db, attach) : -ENOMEM;

	sqlite3_free(attach);
	if (r < 0)
		return r;
	r = run_sql(db, "pragma copy.journal_mode = off; pragma copy.synchronous = off; begin;"
			"create table copy.assignments as select * from main.assignments;"
			"create table copy.history as select * from main.history limit -1"
			"  offset (select max(0, count(*) - " HISTORY_ROWS ") from main.history);"
			"commit");
	if (r < 0 && !sqlite3_get_autocommit(db))
		run_sql(db, "rollback");
	run_sql(db, "detach copy");
	return r;
}

/* An empty file is an empty database. Its mode does not depend on the umask. */
static int make_file(const char *path, gid_t readers)
{
	bool for_all = readers == (gid_t) -1;

	unlink(path);
	_cleanup_close_ int fd =
		open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 || (!for_all && fchown(fd, (uid_t) -1, readers) < 0) ||
			       fchmod(fd, for_all ? 0644 : 0640) < 0
		       ? -errno
		       : 0;
}

/* Whoever has a copy open has its room. It is taken back in the end. */
static void let_go_of_former(struct snapshot *snapshot, int fd)
{
	int *place = &snapshot->former[snapshot->next_former++ % SNAPSHOT_KEPT];

	if (*place >= 0 && ftruncate(*place, 0) < 0)
		log_warning("can't take back an old %s: %s", snapshot->target, strerror(errno));
	close_fd(*place);
	*place = fd;
}

static int replace_target(struct snapshot *snapshot)
{
	char *next = sqlite3_mprintf("%s.next", snapshot->target);
	int former = open(snapshot->target, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	int r = next ? make_file(next, snapshot->readers) : -ENOMEM;

	if (r == 0)
		r = copy_views(snapshot->db, next);
	if (r == 0 && rename(next, snapshot->target) < 0)
		r = -errno;
	if (r == 0)
		let_go_of_former(snapshot, TAKE_FD(former));
	else if (next)
		unlink(next);
	close_fd(former);
	sqlite3_free(next);
	return r;
}

static void write_copy(struct snapshot *snapshot)
{
	int64_t version = -1;
	int r = read_version(snapshot, &version);

	if (r == 0)
		r = replace_target(snapshot);
	snapshot->written = now_monotonic_ms();
	snapshot->found_damage |= r == -EUCLEAN;
	if (r == 0)
		snapshot->version = version;
	if (r < 0 && !snapshot->failed)
		log_warning("can't write %s, the copy of the state for everybody: %s",
			    snapshot->target, strerror(-r));
	snapshot->failed = r < 0;
}

/* What the copy took is not needed until the next one. */
static void give_memory_back(struct snapshot *snapshot)
{
	if (snapshot->db)
		sqlite3_db_release_memory(snapshot->db);
#ifdef __GLIBC__
	malloc_trim(0);
#endif
}

static void its_time(void *data)
{
	write_copy(data);
	give_memory_back(data);
}

void snapshot_follow(struct snapshot *snapshot, const char *database)
{
	char *copy = strdup(database);

	close_database(snapshot);
	snapshot->version = -2;
	if (!copy)
		return;
	free(snapshot->database);
	snapshot->database = copy;
}

bool snapshot_takes_damage(struct snapshot *snapshot)
{
	bool found = snapshot->found_damage;

	snapshot->found_damage = false;
	return found;
}

void snapshot_touch(struct snapshot *snapshot)
{
	uint64_t passed = now_monotonic_ms() - snapshot->written;
	uint64_t wait = passed < INTERVAL_MS ? INTERVAL_MS - passed : 0;

	int64_t version = -1;

	if (snapshot->timer.loop)
		return;
	if (read_version(snapshot, &version) == 0 && version == snapshot->version)
		return;
	loop_timer_start(snapshot->loop, &snapshot->timer, wait > FIRST_MS ? wait : FIRST_MS,
			 its_time, snapshot);
}

int snapshot_new(struct loop *loop, const char *database, const char *target, gid_t readers,
		 struct snapshot **ret_snapshot)
{
	struct snapshot *snapshot = calloc(1, sizeof(*snapshot));

	if (!snapshot)
		return -ENOMEM;
	snapshot->loop = loop;
	snapshot->version = -2;
	snapshot->readers = readers;
	for (size_t i = 0; i < SNAPSHOT_KEPT; i++)
		snapshot->former[i] = -1;
	snapshot->database = strdup(database);
	snapshot->target = strdup(target);
	if (!snapshot->database || !snapshot->target) {
		snapshot_free(snapshot);
		return -ENOMEM;
	}
	*ret_snapshot = snapshot;
	return 0;
}

void snapshot_free(struct snapshot *snapshot)
{
	if (!snapshot)
		return;
	if (snapshot->timer.loop)
		write_copy(snapshot);
	loop_timer_stop(&snapshot->timer);
	for (size_t i = 0; i < SNAPSHOT_KEPT; i++)
		close_fd(snapshot->former[i]);
	close_database(snapshot);
	free(snapshot->database);
	free(snapshot->target);
	free(snapshot);
}
