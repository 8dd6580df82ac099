/* The copy for everybody: see snapshot.h. Used by main. */
#include "broker/snapshot.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#include "broker/database.h"
#include "broker/log.h"
#include "broker/memory.h"

#define FIRST_MS 200     /* after a change that follows a silence */
#define INTERVAL_MS 5000 /* between two copies while much happens */
#define HISTORY_ROWS "2000"
#define MAX_ROWS 128 /* where more have changed all are read */
#define OWN_SUFFIX ".own"
#define NEXT_SUFFIX ".next"

/* What SQLite is asked, in order. A file of our own is attached as "own", and stays: to read SQL is
 * what costs, and each file that comes or goes makes it read all of it again. */
enum statement {
	HAS_VIEWS, /* needs no file of our own */
	GET_NEWEST,
	BEGIN,
	CLEAR_ASSIGNMENTS, /* from one row of the table device to another */
	ADD_ASSIGNMENTS,   /* the same; made from the view */
	ADD_HISTORY,       /* what is newer than its parameter; made from the view */
	DROP_OLD_HISTORY,
	COMMIT,
	N_STATEMENTS,
};

static const char *const statement_sql[N_STATEMENTS] = {
	[HAS_VIEWS] = ("select count(*) = 2 from main.sqlite_schema"
		       " where name in ('assignments', 'history')"),
	[GET_NEWEST] = "select ifnull(max(id), 0) from main.action",
	[BEGIN] = "begin",
	[CLEAR_ASSIGNMENTS] = "delete from own.assignments where rowid between ? and ?",
	[DROP_OLD_HISTORY] = ("delete from own.history where rowid <="
			      " (select max(rowid) from own.history) - " HISTORY_ROWS),
	[COMMIT] = "commit",
};

/* Nobody else knows this file: where a change of it fails, another one is begun. */
static const char attach_sql[] =
	"attach %Q as own; pragma own.journal_mode = off; pragma own.synchronous = off;"
	"pragma own.locking_mode = exclusive; begin;"
	"create table own.assignments as select * from main.assignments limit 0;"
	"create table own.history as select * from main.history limit 0;"
	"commit";
/* The views' own words, for some rows only: to put a time into words, thousands of times, costs
 * much. What is copied of a device has its row's number, and thus its place. */
static const char *const view_sql[N_STATEMENTS] = {
	[ADD_ASSIGNMENTS] =
		"select 'insert into own.assignments (rowid,' || (select group_concat(name) from"
		" pragma_table_info('assignments', 'main')) || ') select device.id,' ||"
		" replace(substr(sql, instr(sql, 'select') + length('select')), 'order by',"
		" 'where device.id between ? and ? order by') from main.sqlite_schema"
		" where name = 'assignments'",
	[ADD_HISTORY] = "select 'insert into own.history ' || replace(substr(sql, instr(sql,"
			" 'select')), 'order by', 'where id > ? order by') from main.sqlite_schema"
			" where name = 'history'",
};
static const int view_parameters[N_STATEMENTS] = {[ADD_ASSIGNMENTS] = 2, [ADD_HISTORY] = 1};
/* The row before the first one that is copied. */
static const char start_sql[] = "select ifnull((select id from main.action order by id desc limit 1"
				" offset " HISTORY_ROWS "), 0)";

struct snapshot {
	struct loop *loop;
	char *database, *target;
	gid_t readers;
	int former[SNAPSHOT_KEPT]; /* copies that were replaced; -1: none */
	size_t next_former;
	sqlite3 *db;
	sqlite3_stmt *statements[N_STATEMENTS];
	int own_fd;             /* the file of our own; -1: there is none */
	int64_t newest;         /* row of history that it has */
	bool changed;           /* since it was copied */
	int64_t rows[MAX_ROWS]; /* of devices, that have */
	size_t n_rows;          /* more than there is room for: all may have */
	uint64_t written;
	struct loop_timer timer;
	bool failed; /* said already */
	bool found_damage;
	bool is_behind_start; /* the first copy is made */
};

static int prepare_sql(struct snapshot *snapshot, enum statement which, const char *sql)
{
	int r = sqlite3_prepare_v3(snapshot->db, sql, -1, SQLITE_PREPARE_PERSISTENT,
				   &snapshot->statements[which], NULL);

	return r == SQLITE_OK ? 0 : database_error(r);
}

/* Runs it. RET, if not NULL, gets the number that it answers. Returns 0 or -errno. */
static int run_statement(struct snapshot *snapshot, enum statement which, int64_t *ret)
{
	sqlite3_stmt *statement = snapshot->statements[which];
	int step = sqlite3_step(statement);

	if (ret && step == SQLITE_ROW)
		*ret = sqlite3_column_int64(statement, 0);
	sqlite3_reset(statement);
	return step == (ret ? SQLITE_ROW : SQLITE_DONE) ? 0 : database_error(step);
}

static int open_database(struct snapshot *snapshot)
{
	int keep_wal = 1; /* as the store does */

	int r = sqlite3_open_v2(snapshot->database, &snapshot->db, SQLITE_OPEN_READWRITE, NULL);
	if (r != SQLITE_OK)
		return database_error(r);
	sqlite3_file_control(snapshot->db, NULL, SQLITE_FCNTL_PERSIST_WAL, &keep_wal);
	/* What is prepared stays, so that little comes and goes. */
	sqlite3_db_config(snapshot->db, SQLITE_DBCONFIG_LOOKASIDE, NULL, 0, 0);
	return prepare_sql(snapshot, HAS_VIEWS, statement_sql[HAS_VIEWS]);
}

/* Whoever reads the database reads these pages first. One that was made empty while it was open has
 * no views, and no error either. */
static int look_for_views(struct snapshot *snapshot)
{
	int64_t has_views = 0;
	int r = snapshot->db ? 0 : open_database(snapshot);

	if (r == 0)
		r = run_statement(snapshot, HAS_VIEWS, &has_views);
	return r == 0 && !has_views ? -EUCLEAN : r;
}

/* Beside the target. Freed by sqlite3_free; NULL: no memory. */
static char *path_beside(const struct snapshot *snapshot, const char *suffix)
{
	return sqlite3_mprintf("%s%s", snapshot->target, suffix);
}

static void close_database(struct snapshot *snapshot)
{
	for (size_t i = 0; i < N_STATEMENTS; i++) {
		sqlite3_finalize(snapshot->statements[i]);
		snapshot->statements[i] = NULL;
	}
	sqlite3_close(snapshot->db);
	snapshot->db = NULL;
	snapshot->own_fd = close_fd(snapshot->own_fd);
	snapshot->changed = true;
	snapshot->n_rows = MAX_ROWS + 1;
}

/* Returns a descriptor of a new file, or -errno. Its mode does not depend on the umask. */
static int make_file(const char *path, gid_t group, mode_t mode)
{
	unlink(path);
	_cleanup_close_ int fd =
		open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0 || fchown(fd, (uid_t) -1, group) < 0 || fchmod(fd, mode) < 0)
		return -errno;
	return TAKE_FD(fd);
}

/* An empty file is an empty database. Once SQLite has it open it needs no name. */
static int attach_own(struct snapshot *snapshot, const char *path)
{
	char *sql = sqlite3_mprintf(attach_sql, path);
	int r = sql ? make_file(path, (gid_t) -1, 0600) : -ENOMEM;

	if (r >= 0) {
		snapshot->own_fd = r;
		r = database_execute(snapshot->db, sql);
		unlink(path);
	}
	sqlite3_free(sql);
	return r;
}

static int prepare_view(struct snapshot *snapshot, enum statement which)
{
	sqlite3_stmt *statement = NULL;
	int r = sqlite3_prepare_v2(snapshot->db, view_sql[which], -1, &statement, NULL);

	if (r == SQLITE_OK)
		r = sqlite3_step(statement);
	r = r == SQLITE_ROW
		    ? prepare_sql(snapshot, which, (const char *) sqlite3_column_text(statement, 0))
		    : database_error(r);
	sqlite3_finalize(statement);
	if (r == 0 &&
	    sqlite3_bind_parameter_count(snapshot->statements[which]) != view_parameters[which])
		r = -EIO;
	return r;
}

/* Begins a file of our own, with empty tables. */
static int begin_own(struct snapshot *snapshot)
{
	char *path = path_beside(snapshot, OWN_SUFFIX);
	int r = path ? attach_own(snapshot, path) : -ENOMEM;

	sqlite3_free(path);
	if (r == 0)
		r = database_query(snapshot->db, start_sql, &snapshot->newest);
	for (size_t i = GET_NEWEST; r == 0 && i < N_STATEMENTS; i++)
		r = view_sql[i] ? prepare_view(snapshot, i)
				: prepare_sql(snapshot, i, statement_sql[i]);
	return r;
}

/* Writes anew what the rows FIRST to LAST are now. */
static int refresh_rows(struct snapshot *snapshot, int64_t first, int64_t last)
{
	int r = 0;

	for (size_t i = CLEAR_ASSIGNMENTS; r == 0 && i <= ADD_ASSIGNMENTS; i++) {
		sqlite3_bind_int64(snapshot->statements[i], 1, first);
		sqlite3_bind_int64(snapshot->statements[i], 2, last);
		r = run_statement(snapshot, i, NULL);
	}
	return r;
}

static int refresh_assignments(struct snapshot *snapshot)
{
	int r = 0;

	if (snapshot->n_rows > MAX_ROWS)
		return refresh_rows(snapshot, 0, INT64_MAX);
	for (size_t i = 0; r == 0 && i < snapshot->n_rows; i++)
		r = refresh_rows(snapshot, snapshot->rows[i], snapshot->rows[i]);
	return r;
}

/* Brings the file of our own up to date. After a failure it is of no use any more. */
static int refresh_own(struct snapshot *snapshot)
{
	int64_t newest = 0;
	int r = snapshot->own_fd < 0 ? begin_own(snapshot) : 0;

	if (r == 0)
		r = run_statement(snapshot, BEGIN, NULL);
	if (r == 0)
		r = run_statement(snapshot, GET_NEWEST, &newest);
	if (r == 0 && newest < snapshot->newest)
		r = -ESTALE; /* it goes on from another history */
	if (r == 0)
		r = refresh_assignments(snapshot);
	if (r == 0)
		sqlite3_bind_int64(snapshot->statements[ADD_HISTORY], 1, snapshot->newest);
	for (size_t i = ADD_HISTORY; r == 0 && i < N_STATEMENTS; i++)
		r = run_statement(snapshot, i, NULL);
	snapshot->newest = newest;
	return r;
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

/* Writes the file at NEXT, which nobody reads yet. */
static int write_next(const struct snapshot *snapshot, const char *next)
{
	bool for_all = snapshot->readers == (gid_t) -1;
	_cleanup_close_ int fd = make_file(next, snapshot->readers, for_all ? 0644 : 0640);
	off_t offset = 0;
	ssize_t n = 1;

	if (fd < 0)
		return fd;
	while (n > 0)
		n = sendfile(fd, snapshot->own_fd, &offset, 1 << 20);
	return n < 0 ? -errno : 0;
}

static int replace_target(struct snapshot *snapshot)
{
	char *next = path_beside(snapshot, NEXT_SUFFIX);
	int former = open(snapshot->target, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	int r = next ? write_next(snapshot, next) : -ENOMEM;

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

/* Returns 0, or -errno: then the next one begins anew. */
static int try_copy(struct snapshot *snapshot)
{
	int r = look_for_views(snapshot);

	if (r == 0)
		r = refresh_own(snapshot);
	if (r == 0)
		r = replace_target(snapshot);
	if (r < 0) {
		close_database(snapshot);
		return r;
	}
	snapshot->changed = false;
	snapshot->n_rows = 0;
	return 0;
}

static void write_copy(struct snapshot *snapshot)
{
	int r = try_copy(snapshot);

	if (r == -ESTALE)
		r = try_copy(snapshot);
	snapshot->written = now_monotonic_ms();
	snapshot->found_damage |= r == -EUCLEAN;
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
	memory_trim();
	/* Most of what the start needs is not needed again. */
	if (!snapshot->is_behind_start)
		memory_forget_code();
	snapshot->is_behind_start = true;
}

static void its_time(void *data)
{
	write_copy(data);
	give_memory_back(data);
}

void snapshot_set_readers(struct snapshot *snapshot, gid_t readers)
{
	if (readers == snapshot->readers)
		return;
	snapshot->readers = readers;
	loop_timer_start(snapshot->loop, &snapshot->timer, 0, its_time, snapshot);
}

void snapshot_follow(struct snapshot *snapshot, const char *database)
{
	char *copy = strdup(database);

	close_database(snapshot);
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

void snapshot_note(struct snapshot *snapshot, int64_t row)
{
	size_t i = 0;

	snapshot->changed = true;
	while (i < snapshot->n_rows && i < MAX_ROWS && snapshot->rows[i] != row)
		i++;
	if (row == 0 || i < snapshot->n_rows)
		return;
	if (i < MAX_ROWS)
		snapshot->rows[i] = row;
	snapshot->n_rows++;
}

void snapshot_touch(struct snapshot *snapshot)
{
	uint64_t passed = now_monotonic_ms() - snapshot->written;
	uint64_t wait = passed < INTERVAL_MS ? INTERVAL_MS - passed : 0;

	if (snapshot->timer.loop || !snapshot->changed)
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
	snapshot->own_fd = -1;
	snapshot->changed = true;
	snapshot->n_rows = MAX_ROWS + 1;
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
