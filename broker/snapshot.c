/* The copy for everybody: see snapshot.h. Used by main. */
#include "broker/snapshot.h"

#include <fcntl.h>
#include <malloc.h>
#include <sqlite3.h>
#include <sys/sendfile.h>
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
	int64_t newest; /* row of history that the last copy has; -1: there is none to go on with */
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

#define ALL_VIEWS                                                          \
	"create table copy.assignments as select * from main.assignments;" \
	"create table copy.history as select * from main.history limit -1" \
	"  offset (select max(0, count(*) - " HISTORY_ROWS ") from main.history);"
/* A copy of the last one lacks only what is newer in the history: to put a time into words,
 * thousands of times, is what costs. Columns as in the view, which a test compares. */
#define NEWER_ROWS                                                                               \
	"delete from copy.assignments;"                                                          \
	"insert into copy.assignments select * from main.assignments;"                           \
	"insert into copy.history"                                                               \
	"  select strftime('%%Y-%%m-%%d %%H:%%M:%%f', time / 1000.0, 'unixepoch', 'localtime')," \
	"    device, vm, action, cause, rule, result, milliseconds, detail, name, vid_pid"       \
	"  from main.action where id > %lld order by id;"                                        \
	"delete from copy.history where rowid <= (select max(rowid) from copy.history)"          \
	"  - " HISTORY_ROWS ";"

/* Fills the file NEXT, which nobody else knows yet: it is empty, or the copy that has the history
 * up to NEWEST. */
static int copy_views(sqlite3 *db, const char *next, int64_t newest)
{
	char *attach = sqlite3_mprintf("attach %Q as copy", next);
	char *newer = sqlite3_mprintf(NEWER_ROWS, (long long) newest);
	int r = attach && newer ? run_sql(db, attach) : -ENOMEM;

	if (r == 0) {
		r = run_sql(db,
			    "pragma copy.journal_mode = off; pragma copy.synchronous = off; begin");
		if (r == 0)
			r = run_sql(db, newest >= 0 ? newer : ALL_VIEWS);
		if (r == 0)
			r = run_sql(db, "commit");
		if (r < 0 && !sqlite3_get_autocommit(db))
			run_sql(db, "rollback");
		run_sql(db, "detach copy");
	}
	sqlite3_free(attach);
	sqlite3_free(newer);
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

/* Begins the file NEXT with what is in FORMER. */
static int copy_bytes(int former, const char *next)
{
	_cleanup_close_ int fd = open(next, O_WRONLY | O_NOFOLLOW | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : 1;

	while (n > 0)
		n = sendfile(fd, former, NULL, 1 << 20);
	return n < 0 ? -errno : 0;
}

/* Writes the file NEXT: from the former copy, if there is one to go on with. */
static int write_next(struct snapshot *snapshot, const char *next, int former)
{
	int64_t newest, go_on = former >= 0 ? snapshot->newest : -1;
	int r = make_file(next, snapshot->readers);

	snapshot->newest = -1;
	if (r == 0)
		r = database_query(snapshot->db, "select ifnull(max(id), 0) from action", &newest);
	if (r == 0 && newest < go_on)
		go_on = -1; /* another database */
	if (r == 0 && go_on >= 0)
		r = copy_bytes(former, next);
	if (r == 0)
		r = copy_views(snapshot->db, next, go_on);
	if (r == 0)
		snapshot->newest = newest;
	return r;
}

static int replace_target(struct snapshot *snapshot)
{
	char *next = sqlite3_mprintf("%s.next", snapshot->target);
	int former = open(snapshot->target, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	int r = next ? write_next(snapshot, next, former) : -ENOMEM;

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
	snapshot->newest = -1;
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
	snapshot->newest = -1;
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
