/* The store against real SQLite: what readers see, who holds the lock, files that are damaged, too
 * new or on a full disk, and what is left after kill -9. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "broker/database.h"
#include "broker/refuge.h"
#include "broker/store.h"
#include "tests/unit/memory-double.h"
#include "tests/unit/spin.h"
#include "tests/unit/temp.h"
#include "tests/unit/words.h"

#define BOOT "11111111-2222-3333-4444-555555555555"
#define NEXT_BOOT "99999999-2222-3333-4444-555555555555"

/* Every durable write of SQLite comes by here. */
static int n_syncs;

/* The disk takes nothing that is written to a -wal file. */
static bool wal_is_bad;

static bool is_wal(int fd)
{
	char link[40], name[200] = "";

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, name, sizeof(name) - 1);
	return n > 4 && streq(name + n - 4, "-wal");
}

int fdatasync(int fd)
{
	n_syncs++;
	if (wal_is_bad && is_wal(fd)) {
		errno = EIO;
		return -1;
	}
	return fsync(fd);
}

struct archive {
	struct loop *loop;
	struct store *store;
	sqlite3 *reader; /* another connection, as in another process */
	char *dir;
	char path[100];
};

static void archive_open(struct archive *a, const char *boot_id)
{
	assert_int_equal(store_open(a->loop, a->path, NULL, boot_id, &a->store), 0);
}

static void archive_close(struct archive *a)
{
	store_close(a->store);
	a->store = NULL;
}

static int setup(void **state)
{
	struct archive *a = calloc(1, sizeof(*a));

	a->dir = temp_new();
	snprintf(a->path, sizeof(a->path), "%s/vhotplug.db", a->dir);
	assert_int_equal(loop_new(&a->loop), 0);
	archive_open(a, BOOT);
	assert_int_equal(sqlite3_open(a->path, &a->reader), SQLITE_OK);
	*state = a;
	return 0;
}

static int teardown(void **state)
{
	struct archive *a = *state;

	store_close(a->store);
	sqlite3_close(a->reader);
	loop_free(a->loop);
	temp_remove(&a->dir);
	free(a);
	return 0;
}

/* All rows, "a|b" each, separated by "; ". */
static const char *sql(sqlite3 *db, const char *query)
{
	static char text[4096];
	sqlite3_stmt *statement;
	size_t at = 0;
	int step;

	text[0] = 0;
	if (sqlite3_prepare_v2(db, query, -1, &statement, NULL) != SQLITE_OK)
		return sqlite3_errmsg(db);
	while ((step = sqlite3_step(statement)) == SQLITE_ROW)
		for (int i = 0; i < sqlite3_column_count(statement); i++)
			at += (size_t) snprintf(
				text + at, sizeof(text) - at, "%s%s",
				i > 0 ? "|"
				: at  ? "; "
				      : "",
				sqlite3_column_text(statement, i)
					? (const char *) sqlite3_column_text(statement, i)
					: "null");
	if (step != SQLITE_DONE)
		snprintf(text, sizeof(text), "%s", sqlite3_errmsg(db));
	sqlite3_finalize(statement);
	return text;
}

static off_t size_of(struct archive *a, const char *suffix)
{
	char path[120];
	struct stat st;

	snprintf(path, sizeof(path), "%s%s", a->path, suffix);
	return stat(path, &st) == 0 ? st.st_size : 0;
}

static struct event event(uint64_t seqnum)
{
	struct event e = {.boot_id = BOOT,
			  .seqnum = seqnum,
			  .action = "add",
			  .devpath = "/devices/x/usb1/1-2",
			  .inode = 4711,
			  .vms = "vm1",
			  .rule = "usb/g/r"};

	return e;
}

static int store_events(struct store *store, struct event **events, size_t n)
{
	int r = store_add_events(store, events, n);

	if (r < 0)
		return r;
	store_flush(store);
	return store_lost_events(store);
}

static int store_one(struct store *store, uint64_t seqnum, bool *ret_new)
{
	struct event e = event(seqnum), *events[] = {&e};
	int r = store_events(store, events, 1);

	*ret_new = e.is_new;
	return r;
}

static struct device a_device(const char *name, uint64_t inode)
{
	struct device d = {
		.id = {.inode = inode, .kind = DEVICE_USB, .vid_pid = "046d:c52b"},
		.wish = {.rule = "usb/g/r", .vms = "vm1", .config = "0123456789abcdef"},
		.record = {.state = DEVICE_ATTACHED,
			   .vm = "vm1",
			   .reason = "vm1 has it",
			   .since = 1767225600123},
	};

	device_init(&d);
	kept_set(&d.id.kernel_name, name);
	set_words(&d.id.devpath, "/devices/x/usb1/%s", name);
	kept_set(&d.id.name, "Logitech Mouse");
	kept_set(&d.id.node, "/dev/bus/usb/001/002");
	set_words(&d.record.handle, "vhp-%s-%llu", name, (unsigned long long) inode);
	return d;
}

static struct history a_history(const char *detail)
{
	struct history h = {.device = "1-2",
			    .name = "Logitech Mouse",
			    .vid_pid = "046d:c52b",
			    .vm = "vm1",
			    .action = "attach",
			    .cause = "plug",
			    .rule = "usb/g/r",
			    .result = "ok",
			    .milliseconds = 42};

	snprintf(h.detail, sizeof(h.detail), "%s", detail);
	return h;
}

/* The interface */

static void test_columns_of_the_views(void **state)
{
	struct archive *a = *state;

	/* Readers' scripts depend on these names and their order. */
	assert_string_equal(sql(a->reader, "select name from pragma_table_info('assignments')"),
			    "device; name; vid_pid; port; vm; state; reason; rule; since");
	assert_string_equal(sql(a->reader, "select name from pragma_table_info('history')"),
			    "time; device; vm; action; cause; rule; result; milliseconds; detail;"
			    " name; vid_pid");
	assert_string_equal(sql(a->reader, "pragma user_version"), "2");
	assert_string_equal(sql(a->reader, "pragma journal_mode"), "wal");
}

static void test_rows_of_the_views(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2.4", 4711);
	struct history h = a_history("on port 4 of xhci.0");

	setenv("TZ", "UTC", 1);
	tzset();
	store_device(a->store, &d, &h);
	assert_string_equal(sql(a->reader, "select * from assignments"), ""); /* not yet */
	store_flush(a->store);
	assert_string_equal(sql(a->reader, "select * from assignments"),
			    "1-2.4|Logitech Mouse|046d:c52b|2.4|vm1|attached|vm1 has it|usb/g/r|"
			    "2026-01-01 00:00:00.123");
	assert_string_equal(sql(a->reader, "select device,vm,action,cause,rule,result,milliseconds,"
					   "detail,name,vid_pid from history"),
			    "1-2|vm1|attach|plug|usb/g/r|ok|42|on port 4 of xhci.0|"
			    "Logitech Mouse|046d:c52b");
	assert_string_equal(sql(a->reader, "select abs(julianday('now') - julianday(time)) < 0.01"
					   " from history"),
			    "1");
}

static void test_hostile_text(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 1);

	set_words(&d.id.name, "'); drop table device; --%%s");
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	assert_string_equal(sql(a->reader, "select name from assignments"),
			    "'); drop table device; --%s");
}

/* Events */

static void test_events_once(void **state)
{
	struct archive *a = *state;
	struct event one = event(1), two = event(2), again = event(1), other = event(1);
	struct event *events[] = {&one, &two, &again, &other};

	snprintf(other.boot_id, sizeof(other.boot_id), NEXT_BOOT);
	assert_int_equal(store_events(a->store, events, 4), 0);
	assert_true(one.is_new && two.is_new && other.is_new);
	assert_false(again.is_new);
	assert_int_equal(store_events(a->store, events, 4), 0);
	assert_false(one.is_new || two.is_new || again.is_new || other.is_new);
	assert_string_equal(sql(a->reader, "select seqnum, action, inode, vm from event"),
			    "1|add|4711|vm1; 2|add|4711|vm1; 1|add|4711|vm1");
	assert_int_equal(store_events(a->store, events, 0), 0);
}

static void test_large_numbers(void **state)
{
	struct archive *a = *state;
	bool is_new;

	assert_int_equal(store_one(a->store, UINT64_MAX, &is_new), 0);
	assert_true(is_new);
	assert_int_equal(store_one(a->store, UINT64_MAX, &is_new), 0);
	assert_false(is_new);
}

static void test_events_are_synced(void **state)
{
	struct archive *a = *state;
	bool is_new;

	n_syncs = 0;
	assert_int_equal(store_one(a->store, 1, &is_new), 0);
	assert_true(n_syncs > 0);
}

static const char *known(struct archive *a)
{
	return sql(a->reader, "select (select count(*) from event), (select count(*) from device)");
}

/* Both are there, or neither; and the disk is waited for once. */
static void test_an_event_and_what_it_changes_are_one(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 1), e = a_device("1-3", 2);
	struct history h = a_history("on port 4 of xhci.0");
	struct event one = event(1), two = event(2);
	struct event *first[] = {&one}, *second[] = {&two};

	n_syncs = 0;
	assert_int_equal(store_one(a->store, 9, &(bool){false}), 0);
	int for_one = n_syncs;
	assert_int_equal(store_add_events(a->store, first, 1), 0);
	assert_true(one.is_new);
	store_device(a->store, &d, &h);
	assert_string_equal(known(a), "1|0");
	n_syncs = 0;
	store_flush(a->store);
	assert_int_equal(n_syncs, for_one);
	assert_string_equal(known(a), "2|1");
	/* What may wait keeps no event waiting. */
	assert_int_equal(store_add_events(a->store, second, 1), 0);
	e.record.state = DEVICE_DETACHING;
	store_device(a->store, &e, NULL);
	store_flush(a->store);
	assert_int_equal(store_lost_events(a->store), 0);
	assert_string_equal(known(a), "3|1");
	spin_for(a->loop, 200);
	assert_string_equal(known(a), "3|2");
}

/* Whoever has added them hears it, once, though somebody else flushes in between. */
static void test_events_that_can_not_be_committed(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 1);
	struct event one = event(1), *events[] = {&one};
	struct rlimit limit, none = {.rlim_cur = 0};

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	none.rlim_max = limit.rlim_max;
	assert_int_equal(store_add_events(a->store, events, 1), 0);
	store_device(a->store, &d, NULL);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	store_flush(a->store);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_string_equal(known(a), "0|0");
	store_flush(a->store);
	assert_string_equal(known(a), "0|1"); /* that was kept, and written later */
	int r = store_lost_events(a->store);
	assert_true(r == -EIO || r == -ENOSPC);
	assert_int_equal(store_lost_events(a->store), 0);
	assert_int_equal(store_add_events(a->store, events, 1), 0);
	assert_true(one.is_new);
	store_flush(a->store);
	assert_int_equal(store_lost_events(a->store), 0);
	assert_string_equal(known(a), "1|1");
}

/* Killed, the kernel has them; without power, it is another boot. */
static void test_steps_on_the_way_are_not_synced(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 4711);
	struct history h = a_history("on port 4 of xhci.0");
	int before = n_syncs;
	bool is_new;

	store_device(a->store, &d, NULL);
	store_flush(a->store);
	assert_int_equal(n_syncs, before);
	assert_string_equal(sql(a->reader, "select count(*) from assignments"), "1");
	store_device(a->store, &d, &h);
	store_flush(a->store);
	assert_true(n_syncs > before);
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	before = n_syncs;
	assert_int_equal(store_one(a->store, 1, &is_new), 0);
	assert_true(n_syncs > before);
}

static bool is_detaching(void *data)
{
	struct archive *a = data;

	return strcmp(sql(a->reader, "select state from assignments"), "detaching") == 0;
}

/* On its way out: what is on record says as much, so the next change takes it along. */
static void test_way_out_is_not_written_at_once(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 4711);
	struct history h = a_history("");

	store_device(a->store, &d, NULL);
	store_flush(a->store);
	d.record.state = DEVICE_DETACHING;
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	assert_string_equal(sql(a->reader, "select state from assignments"), "attached");
	store_device(a->store, &d, &h);
	store_flush(a->store);
	assert_true(is_detaching(a));
	/* Where nothing follows it is written all the same. */
	d.record.state = DEVICE_ATTACHED;
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	d.record.state = DEVICE_DETACHING;
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	assert_false(is_detaching(a));
	spin_until(a->loop, is_detaching, a);
	assert_int_equal(loop_count_timers(a->loop), 0);
	d.record.state = DEVICE_DETACHING;
	d.record.since++;
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	archive_close(a);
	assert_int_equal(loop_count_timers(a->loop), 0);
	assert_true(is_detaching(a));
}

/* That a person wants it out is on disk before anything is done about it. */
static void test_way_out_by_hand_is_written_at_once(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 4711);

	store_device(a->store, &d, NULL);
	store_flush(a->store);
	d.record.state = DEVICE_DETACHING;
	d.wish.away = AWAY_SUSPENDED;
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	assert_true(is_detaching(a));
}

/* A new state of a device that is on record is one page: its place in the index stays as it is. */
static void test_a_new_state_is_one_page(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 4711), other = a_device("1-2", 4711);

	store_device(a->store, &d, NULL);
	store_flush(a->store);
	off_t before = size_of(a, "-wal");
	d.record.state = DEVICE_WAITING;
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	assert_int_equal(size_of(a, "-wal") - before, 4096 + 24);
	assert_string_equal(sql(a->reader, "select state from assignments"), "waiting");
	/* The same device under another number takes its place. */
	store_device(a->store, &other, NULL);
	assert_int_not_equal(other.record.row, d.record.row);
	store_flush(a->store);
	assert_string_equal(sql(a->reader, "select state from assignments"), "attached");
}

/* What was acknowledged survives the process, at whatever moment it is killed. */
static void test_events_survive_kill(void **state)
{
	struct archive *a = *state;
	uint64_t seqnum, last = 0;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	pid_t pid = fork();
	if (pid == 0) {
		bool is_new;
		struct loop *loop;
		struct store *store;

		if (loop_new(&loop) < 0 || store_open(loop, a->path, NULL, BOOT, &store) < 0)
			_exit(1);
		for (seqnum = 1;; seqnum++)
			if (store_one(store, seqnum, &is_new) < 0 ||
			    write(fds[1], &seqnum, sizeof(seqnum)) != sizeof(seqnum))
				_exit(1);
	}
	close(fds[1]);
	while (last < 20 && read(fds[0], &seqnum, sizeof(seqnum)) == sizeof(seqnum))
		last = seqnum;
	assert_int_equal(kill(pid, SIGKILL), 0);
	waitpid(pid, NULL, 0);
	while (read(fds[0], &seqnum, sizeof(seqnum)) == sizeof(seqnum))
		last = seqnum;
	close(fds[0]);
	assert_true(last >= 20);
	char count[32], query[80];
	snprintf(count, sizeof(count), "%llu", (unsigned long long) last);
	snprintf(query, sizeof(query), "select count(*) from event where seqnum <= %s", count);
	assert_string_equal(sql(a->reader, query), count);
	assert_string_equal(sql(a->reader, "pragma integrity_check"), "ok");
}

/* Locks */

static void hold(struct archive *a, const char *what)
{
	assert_string_equal(sql(a->reader, what), "");
}

static void test_locked_events_are_refused(void **state)
{
	struct archive *a = *state;
	bool is_new;

	hold(a, "begin immediate");
	loop_skip_waiting(false);
	uint64_t took = UINT64_MAX;
	for (int i = 0; i < 5 && took >= 100; i++) { /* others may have had the processor */
		uint64_t start = now_monotonic_ms();
		assert_int_equal(store_one(a->store, 1, &is_new), -EAGAIN);
		took = now_monotonic_ms() - start;
	}
	assert_true(took < 100); /* the loop does not wait */
	loop_skip_waiting(true);
	hold(a, "rollback");
	assert_int_equal(store_one(a->store, 1, &is_new), 0);
	assert_true(is_new);
}

static bool is_written(void *data)
{
	struct archive *a = data;

	return streq(sql(a->reader, "select count(*) from history"), "3");
}

static void test_locked_changes_are_written_later_in_order(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 1);
	struct history h;

	hold(a, "begin immediate");
	d.record.state = DEVICE_WAITING;
	h = a_history("one");
	store_device(a->store, &d, &h);
	store_flush(a->store);
	d.record.state = DEVICE_ATTACHING;
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	d.record.state = DEVICE_ATTACHED;
	h = a_history("two");
	store_device(a->store, &d, &h);
	h = a_history("three");
	store_device(a->store, &d, &h);
	store_flush(a->store);
	spin_for(a->loop, 250); /* tried again and again, in vain */
	hold(a, "rollback");
	spin_until(a->loop, is_written, a);
	assert_string_equal(sql(a->reader, "select detail from history"), "one; two; three");
	assert_string_equal(sql(a->reader, "select state from assignments"), "attached");
}

static void test_forgotten_while_locked(void **state)
{
	struct archive *a = *state;
	struct device gone = a_device("1-2", 1), stays = a_device("1-3", 2), never = {0};

	device_init(&never);
	store_device(a->store, &gone, NULL);
	store_device(a->store, &stays, NULL);
	store_flush(a->store);
	hold(a, "begin immediate");
	store_device(a->store, &gone, NULL);
	store_forget(a->store, &gone, NULL);
	store_forget(a->store, &never, NULL);
	store_flush(a->store);
	hold(a, "rollback");
	store_flush(a->store);
	assert_string_equal(sql(a->reader, "select device from assignments"), "1-3");
	/* One that a former broker has written. */
	archive_close(a);
	archive_open(a, BOOT);
	hold(a, "begin immediate");
	store_forget(a->store, &stays, NULL);
	store_flush(a->store);
	hold(a, "rollback");
	store_flush(a->store);
	assert_string_equal(sql(a->reader, "select count(*) from device"), "0");
}

static void test_closing_writes_what_is_queued(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 1);

	store_device(a->store, &d, NULL);
	archive_close(a);
	assert_string_equal(sql(a->reader, "select device from assignments"), "1-2");
	archive_open(a, BOOT);
}

static void test_a_reader_does_not_disturb(void **state)
{
	struct archive *a = *state;
	bool is_new;

	assert_int_equal(store_one(a->store, 1, &is_new), 0);
	hold(a, "begin");
	assert_string_equal(sql(a->reader, "select count(*) from event"), "1");
	assert_int_equal(store_one(a->store, 2, &is_new), 0);
	assert_string_equal(sql(a->reader, "select count(*) from event"), "1"); /* its snapshot */
	hold(a, "commit");
	assert_string_equal(sql(a->reader, "select count(*) from event"), "2");
}

/* The cap: a device's newest state is never what is lost. */
static void test_too_much_is_queued(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 1);

	hold(a, "begin immediate");
	for (int i = 0; i < 5000; i++) {
		struct history h = a_history("");

		snprintf(h.detail, sizeof(h.detail), "%d", i);
		d.record.state = i < 4999 ? DEVICE_WAITING : DEVICE_ATTACHED;
		store_device(a->store, &d, &h);
	}
	hold(a, "rollback");
	store_flush(a->store);
	assert_string_equal(sql(a->reader, "select state from assignments"), "attached");
	assert_string_equal(sql(a->reader, "select max(cast(detail as integer)), count(*) between"
					   " 4000 and 4096 from history where device <> ''"),
			    "4999|1");
	/* And the history says how much of it is missing. */
	assert_string_equal(sql(a->reader, "select action, result, cast(detail as integer) = 5000 -"
					   " (select count(*) from history where device <> '')"
					   " from history where device = ''"),
			    "history|lost|1");
}

/* A device that comes and goes meanwhile has another row each time: none of them is left. */
static void test_too_many_come_and_go(void **state)
{
	struct archive *a = *state;

	hold(a, "begin immediate");
	for (int i = 0; i < 5000; i++) {
		struct device d = a_device("1-2", (uint64_t) i);
		struct history h = a_history("");

		snprintf(h.detail, sizeof(h.detail), "%d", i);
		store_device(a->store, &d, &h);
		store_flush(a->store);
		store_forget(a->store, &d, NULL);
		device_finish(&d);
	}
	hold(a, "rollback");
	store_flush(a->store);
	assert_string_equal(sql(a->reader, "select count(*) from device"), "0");
	assert_string_equal(sql(a->reader, "select max(cast(detail as integer)), count(*) between"
					   " 4000 and 4096 from history where device <> ''"),
			    "4999|1");
}

/* Files */

static void test_for_nobody_else(void **state)
{
	struct archive *a = *state;
	static const char *const suffixes[] = {"", "-wal", "-shm"};

	/* Also after a start with an open umask, and after the end. */
	archive_close(a);
	sqlite3_close(a->reader);
	unlink(a->path);
	umask(0022);
	archive_open(a, BOOT);
	assert_int_equal(umask(0077), 0022);
	archive_close(a);
	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		char path[120];
		struct stat st;

		snprintf(path, sizeof(path), "%s%s", a->path, suffixes[i]);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode & 0777, 0600);
	}
	archive_open(a, BOOT);
	assert_int_equal(sqlite3_open(a->path, &a->reader), SQLITE_OK);
}

/* Whoever may read a database may lock it: root alone, wherever it lies. */
static void test_is_roots_alone(void **state)
{
	struct archive *a = *state;
	char refuge[120];
	sqlite3 *db;
	struct stat st;

	assert_int_equal(stat(a->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	snprintf(refuge, sizeof(refuge), "%s.refuge", a->path);
	assert_int_equal(refuge_begin(a->path, refuge, &db), 0);
	sqlite3_close(db);
	assert_int_equal(stat(refuge, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

/* What was undone while the state was in the other place does not come back at home; what was there
 * before is kept where it could not be taken along. */
static void test_choices_of_the_refuge(void **state)
{
	struct archive *a = *state;
	char refuge[120];
	bool is_away;
	sqlite3 *db;

	snprintf(refuge, sizeof(refuge), "%s.refuge", a->path);
	archive_close(a);
	for (int is_taken_along = 1; is_taken_along >= 0; is_taken_along--) {
		sql(a->reader,
		    "insert into choice values ('one', 'vm1', 1, 0), ('two', 'vm1', 1, 0)");
		assert_int_equal(refuge_begin(is_taken_along ? a->path : "/nosuch", refuge, &db),
				 0);
		sqlite3_exec(db,
			     "delete from choice where whom = 'one'; insert or replace into choice "
			     "values ('two', 'vm2', 0, 0)",
			     NULL, NULL, NULL);
		sqlite3_close(db);
		assert_int_equal(refuge_open(a->path, refuge, &db, &is_away), 0);
		assert_false(is_away);
		sqlite3_close(db);
		assert_string_equal(sql(a->reader, "select group_concat(whom || ' ' || vm, ',') "
						   "from choice order by whom"),
				    is_taken_along ? "two vm2" : "one vm1,two vm2");
		sql(a->reader, "delete from choice");
	}
	archive_open(a, BOOT);
}

static void test_newer_schema_is_refused(void **state)
{
	struct archive *a = *state;
	struct store *store = (struct store *) 1;

	archive_close(a);
	sql(a->reader, "pragma user_version = 3");
	assert_int_equal(store_open(a->loop, a->path, NULL, BOOT, &store), -EPROTO);
	assert_ptr_equal(store, 1);
	assert_string_equal(sql(a->reader, "pragma user_version"), "3"); /* untouched */
	sql(a->reader, "pragma user_version = 2");
	archive_open(a, BOOT);
}

static void count_choice(void *data, const struct choice *choice)
{
	assert_string_equal(choice->whom, "usb 046d:c52b serial S");
	assert_string_equal(choice->vm, "vm1");
	assert_true(choice->is_detached);
	++*(int *) data;
}

static void test_choices(void **state)
{
	struct archive *a = *state;
	struct choice choice = {
		.whom = "usb 046d:c52b serial S", .vm = "vm2", .is_detached = false};
	int n = 0;

	store_choice(a->store, &choice);
	strcpy(choice.vm, "vm1");
	choice.is_detached = true;
	store_choice(a->store, &choice);
	archive_close(a);
	archive_open(a, BOOT "2");
	assert_int_equal(store_load_choices(a->store, count_choice, &n), 0);
	assert_int_equal(n, 1); /* the newer one, and it outlives the boot */
	choice.vm[0] = 0;
	choice.is_detached = false;
	store_choice(a->store, &choice);
	store_flush(a->store);
	assert_string_equal(sql(a->reader, "select count(*) from choice"), "0");
}

/* A database of a version that knew no choices of people goes on as it is. */
static void test_older_schema_is_brought_up(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 7);
	struct history h = a_history("was there before");
	static const char *const downgrade[] = {
		"drop table choice", "alter table device drop column away",
		"alter table device drop column chosen", "pragma user_version = 1"};

	store_device(a->store, &d, &h);
	archive_close(a);
	for (size_t i = 0; i < ARRAY_SIZE(downgrade); i++)
		assert_string_equal(sql(a->reader, downgrade[i]), "");
	archive_open(a, BOOT);
	assert_string_equal(sql(a->reader, "select device || away || chosen from device"), "1-20");
	assert_string_equal(sql(a->reader, "pragma user_version"), "2");
	assert_string_equal(sql(a->reader, "select detail from history"), "was there before");
	assert_string_equal(sql(a->reader, "select count(*) from choice"), "0");
}

static void overwrite(const char *path, off_t offset, size_t size)
{
	int fd = open(path, O_RDWR);
	char bytes[4096];

	memset(bytes, 0xa5, sizeof(bytes));
	for (; size > 0; size -= 4096, offset += 4096)
		assert_int_equal(pwrite(fd, bytes, 4096, offset), 4096);
	close(fd);
}

/* Begins anew with an empty database, the damaged one beside it. */
static void damaged(struct archive *a, off_t offset, size_t size)
{
	struct device d = a_device("1-2", 1);
	char aside[120];

	store_device(a->store, &d, NULL);
	for (int i = 0; i < 3000; i++) {
		struct history h = a_history("some text to fill some pages of the file with");

		store_device(a->store, &d, &h);
	}
	archive_close(a);
	assert_string_equal(sql(a->reader, "pragma wal_checkpoint(truncate)"), "0|0|0");
	sqlite3_close(a->reader);
	overwrite(a->path, offset, size);

	archive_open(a, NEXT_BOOT);
	snprintf(aside, sizeof(aside), "%s.damaged", a->path);
	assert_int_equal(access(aside, F_OK), 0);
	assert_int_equal(sqlite3_open(a->path, &a->reader), SQLITE_OK);
	assert_string_equal(sql(a->reader, "select count(*) from assignments"), "0");
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	assert_string_equal(sql(a->reader, "select count(*) from assignments"), "1");
}

static void test_damaged_header(void **state)
{
	damaged(*state, 0, 4096);
}

static void test_damaged_schema(void **state)
{
	/* The header is fine, the root page of the schema behind it is not. */
	struct archive *a = *state;
	int fd;

	archive_close(a);
	assert_string_equal(sql(a->reader, "pragma wal_checkpoint(truncate)"), "0|0|0");
	sqlite3_close(a->reader);
	fd = open(a->path, O_RDWR);
	char bytes[500];
	memset(bytes, 0xa5, sizeof(bytes));
	assert_int_equal(pwrite(fd, bytes, sizeof(bytes), 100), sizeof(bytes));
	close(fd);
	archive_open(a, BOOT);
	assert_int_equal(sqlite3_open(a->path, &a->reader), SQLITE_OK);
	assert_string_equal(sql(a->reader, "select count(*) from assignments"), "0");
}

static void test_damaged_tables(void **state)
{
	damaged(*state, 4096, 40 * 4096);
}

/* Damaged, and there is no place for another one: it goes on without, until there is. */
static void test_damaged_and_no_place(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 1);
	char away[120], aside[140];
	bool is_new;

	snprintf(away, sizeof(away), "%s.away", a->dir);
	assert_false(store_mend(a->store));
	store_distrust(a->store);
	assert_int_equal(rename(a->dir, away), 0);
	assert_false(store_mend(a->store));
	assert_true(store_one(a->store, 1, &is_new) < 0);
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	spin_for(a->loop, 10000);
	assert_int_equal(rename(away, a->dir), 0);
	assert_true(store_mend(a->store));
	assert_false(store_mend(a->store));
	assert_string_equal(store_path(a->store), a->path);
	snprintf(aside, sizeof(aside), "%s.damaged", a->path);
	assert_int_equal(access(aside, F_OK), 0);
	store_flush(a->store);
	sqlite3_close(a->reader);
	assert_int_equal(sqlite3_open(a->path, &a->reader), SQLITE_OK);
	assert_string_equal(sql(a->reader, "select device from assignments"), "1-2");
	assert_string_equal(sql(a->reader, "select action || result from history"), "historylost");
}

static void test_not_a_database(void **state)
{
	struct archive *a = *state;

	archive_close(a);
	sqlite3_close(a->reader);
	FILE *f = fopen(a->path, "w");
	for (int i = 0; i < 1000; i++)
		fputs("this is a text file\n", f);
	fclose(f);
	archive_open(a, BOOT);
	assert_int_equal(sqlite3_open(a->path, &a->reader), SQLITE_OK);
	assert_string_equal(sql(a->reader, "select count(*) from assignments"), "0");
}

static void test_no_directory(void **state)
{
	struct archive *a = *state;
	struct store *store = NULL;

	assert_true(store_open(a->loop, "/nosuch/dir/db", NULL, BOOT, &store) < 0);
	assert_null(store);
}

/* The disk is full: a limit on the size of files stands for it, which SQLite hears as a failed
 * write. Nothing is lost, and it heals. */
static void test_no_room(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 1);
	struct rlimit limit, none = {.rlim_cur = 0};
	bool is_new;

	assert_int_equal(store_one(a->store, 1, &is_new), 0);
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	none.rlim_max = limit.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	int r = store_one(a->store, 2, &is_new);
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	spin_for(a->loop, 150);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_true(r == -EIO || r == -ENOSPC);
	assert_string_equal(sql(a->reader, "select count(*) from assignments"), "0");
	spin_for(a->loop, 150);
	assert_string_equal(sql(a->reader, "select count(*) from assignments"), "1");
	assert_int_equal(store_one(a->store, 2, &is_new), 0);
	assert_true(is_new);
}

/* Nothing grows without a bound */

/* A stick that flaps all night: an event every second and never a silent moment. Here the loop's
 * clock stands for it: commits come faster than the pause that a checkpoint waits for. */
static void test_wal_does_not_grow_for_ever(void **state)
{
	struct archive *a = *state;
	bool is_new;
	off_t largest = 0;

	for (uint64_t i = 1; i <= 6000; i++) {
		assert_int_equal(store_one(a->store, i, &is_new), 0);
		if (i % 100 == 0) {
			spin_for(a->loop, 0);
			if (size_of(a, "-wal") > largest)
				largest = size_of(a, "-wal");
		}
	}
	assert_in_range(largest, 1, 24 * 1024 * 1024);
}

/* In the first silent moment after much has happened. */
static void test_silence_gives_memory_back(void **state)
{
	struct archive *a = *state;
	bool is_new;

	n_trimmed = 0;
	for (uint64_t i = 1; i <= 300; i++)
		assert_int_equal(store_one(a->store, i, &is_new), 0);
	spin_for(a->loop, 100);
	assert_int_equal(n_trimmed, 0);
	spin_for(a->loop, 2500);
	assert_int_equal(n_trimmed, 1);
	spin_for(a->loop, 60000);
	assert_int_equal(n_trimmed, 1);
}

static void test_old_events_are_pruned(void **state)
{
	struct archive *a = *state;
	struct event *events[1000], all[1000];

	for (uint64_t i = 0; i < 21; i++) {
		for (size_t k = 0; k < 1000; k++) {
			all[k] = event(i * 1000 + k);
			events[k] = &all[k];
		}
		assert_int_equal(store_events(a->store, events, 1000), 0);
	}
	spin_for(a->loop, 2500); /* a silent moment */
	assert_string_equal(sql(a->reader, "select count(*) <= 10000, max(seqnum) from event"),
			    "1|20999");
}

/* Loading */

static struct device *loaded[8];
static size_t n_loaded;

static int take(void *data, struct device *device)
{
	(void) data;
	assert_true(n_loaded < ARRAY_SIZE(loaded));
	loaded[n_loaded++] = device;
	return 0;
}

static void forget_loaded(void)
{
	while (n_loaded > 0)
		free(loaded[--n_loaded]);
}

static void test_load(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 0xfedcba9876543210), pci = a_device("0000:01:00.0", 7);

	d.wish.seqnum = 77;
	pci.id.kind = DEVICE_PCI;
	pci.wish.options = OPTION_FORCE | OPTION_IOMMU_ADD_ALL;
	pci.wish.order = 3;
	store_device(a->store, &d, NULL);
	store_device(a->store, &pci, NULL);
	archive_close(a);
	archive_open(a, BOOT);
	assert_int_equal(store_load(a->store, take, NULL), 0);
	assert_int_equal(n_loaded, 2);
	assert_string_equal(loaded[0]->id.devpath, d.id.devpath);
	assert_true(loaded[0]->id.inode == d.id.inode);
	assert_string_equal(loaded[0]->id.kernel_name, "1-2");
	assert_string_equal(loaded[0]->record.handle, d.record.handle);
	assert_string_equal(loaded[0]->id.node, d.id.node);
	assert_string_equal(loaded[0]->wish.vms, "vm1");
	assert_int_equal(loaded[0]->record.state, DEVICE_ATTACHED);
	assert_int_equal(loaded[0]->wish.seqnum, 77);
	assert_int_equal(loaded[0]->record.row, d.record.row);
	assert_true(loaded[0]->record.since == d.record.since);
	assert_int_equal(loaded[1]->id.kind, DEVICE_PCI);
	assert_int_equal(loaded[1]->wish.options, pci.wish.options);
	assert_int_equal(loaded[1]->wish.order, 3);
	forget_loaded();
	/* New rows do not take the place of old ones. */
	struct device other = a_device("1-3", 9);
	store_device(a->store, &other, NULL);
	assert_true(other.record.row > pci.record.row);
}

/* Whatever column is added: it is written, and it is read again. */
static void test_every_column_comes_back(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 4711);
	char names[1000], before[2000];

	d.id.kind = DEVICE_PCI;
	d.wish.seqnum = 77;
	d.wish.options = OPTION_FORCE;
	d.wish.order = 3;
	kept_set(&d.wish.family, "family");
	kept_set(&d.wish.family_vm, "vm2");
	kept_set(&d.wish.leader, "/devices/leader");
	d.wish.away = AWAY_DETACHED;
	kept_set(&d.wish.chosen, "vm1");
	store_device(a->store, &d, NULL);
	store_flush(a->store);
	snprintf(names, sizeof(names), "%s",
		 sql(a->reader, "select group_concat(name, \"||'|'||\") from"
				" pragma_table_info('device')"));
	char query[1100];
	snprintf(query, sizeof(query), "select %s from device", names);
	snprintf(before, sizeof(before), "%s", sql(a->reader, query));
	/* Nothing in it is empty or 0. */
	assert_null(strstr(before, "||"));
	assert_null(strstr(before, "|0|"));
	archive_close(a);
	archive_open(a, BOOT);
	assert_int_equal(store_load(a->store, take, NULL), 0);
	assert_int_equal(n_loaded, 1);
	assert_string_equal(sql(a->reader, "delete from device"), "");
	store_device(a->store, loaded[0], NULL);
	store_flush(a->store);
	assert_string_equal(sql(a->reader, query), before);
	forget_loaded();
}

static void test_reboot_closes_what_was_open(void **state)
{
	struct archive *a = *state;
	struct device open = a_device("1-2", 1), closed = a_device("1-3", 2);

	kept_drop(&closed.record.handle);
	closed.record.state = DEVICE_WAITING;
	store_device(a->store, &open, NULL);
	store_device(a->store, &closed, NULL);
	archive_close(a);
	archive_open(a, NEXT_BOOT);
	assert_int_equal(store_load(a->store, take, NULL), 0);
	assert_int_equal(n_loaded, 0);
	assert_string_equal(sql(a->reader, "select count(*) from assignments"), "0");
	assert_string_equal(sql(a->reader, "select device, action, cause, vm, result from history"),
			    "1-2|detach|reboot|vm1|ok");
}

/* What the log has got since: the text is true until the next call. */
static const char *stop_listening(int own_stderr, FILE *heard)
{
	static char text[4096];

	dup2(own_stderr, STDERR_FILENO);
	close(own_stderr);
	rewind(heard);
	text[fread(text, 1, sizeof(text) - 1, heard)] = 0;
	fclose(heard);
	return text;
}

static int listen_to_log(FILE **ret_heard)
{
	int own_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);

	*ret_heard = tmpfile();
	assert_non_null(*ret_heard);
	dup2(fileno(*ret_heard), STDERR_FILENO);
	return own_stderr;
}

/* Files may be SIZE bytes long from now on; 0: as long as before. */
static void limit_files(rlim_t size)
{
	struct rlimit limit;

	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	limit.rlim_cur = size ? size : limit.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* Why a database can't be used is said as it is, whatever SQLite did after that. */
static void test_why_it_can_not_be_used(void **state)
{
	struct archive *a = *state;
	char fresh[120], refuge[120], reason[200];
	bool is_away = false;
	sqlite3 *db;
	FILE *heard;

	snprintf(fresh, sizeof(fresh), "%s.fresh", a->path);
	snprintf(refuge, sizeof(refuge), "%s.refuge", a->path);
	wal_is_bad = true;
	assert_int_equal(database_open(fresh, &db, reason, sizeof(reason)), -EIO);
	wal_is_bad = false;
	assert_string_equal(reason, "disk I/O error");
	assert_int_equal(refuge_begin(a->path, refuge, &db), 0);
	sql(db, "insert into choice values (hex(randomblob(100000)), '', 1, 0)");
	sqlite3_close(db);
	archive_close(a);
	int own_stderr = listen_to_log(&heard);
	limit_files(100000);
	assert_int_equal(refuge_open(a->path, refuge, &db, &is_away), 0);
	limit_files(0);
	const char *log = stop_listening(own_stderr, heard);
	assert_true(is_away);
	sqlite3_close(db);
	assert_non_null(strstr(log, "Input/output error; until the next start"));
	archive_open(a, BOOT);
}

/* One clear line, and a new database beside what there was; nothing fails. */
static void expect_begun_anew(struct archive *a, const char *log)
{
	char aside[120];

	assert_non_null(strstr(log, a->path));
	assert_non_null(strstr(log, "can't be read any further ("));
	assert_ptr_equal(strchr(log, '\n'), log + strlen(log) - 1);
	assert_true(store_mend(a->store));
	snprintf(aside, sizeof(aside), "%s.damaged", a->path);
	assert_int_equal(access(aside, F_OK), 0);
}

/* SQLite stops when the first row has been taken, as it does at a bad page. */
static int take_and_break(void *data, struct device *device)
{
	struct archive *a = data;

	sqlite3_interrupt(store_database(a->store));
	return take(NULL, device);
}

static void test_load_breaks_off(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 1), e = a_device("1-3", 2);
	FILE *heard;

	store_device(a->store, &d, NULL);
	store_device(a->store, &e, NULL);
	store_flush(a->store);
	int own_stderr = listen_to_log(&heard);
	int r = store_load(a->store, take_and_break, a);
	const char *log = stop_listening(own_stderr, heard);

	assert_int_equal(r, 0);
	assert_int_equal(n_loaded, 1); /* what could be read */
	forget_loaded();
	expect_begun_anew(a, log);
}

static void choose_and_break(void *data, const struct choice *choice)
{
	struct archive *a = data;

	(void) choice;
	sqlite3_interrupt(store_database(a->store));
}

static void test_choices_break_off(void **state)
{
	struct archive *a = *state;
	struct choice choices[] = {{.whom = "usb 1", .vm = "vm1"}, {.whom = "usb 2", .vm = "vm1"}};
	FILE *heard;

	store_choice(a->store, &choices[0]);
	store_choice(a->store, &choices[1]);
	store_flush(a->store);
	int own_stderr = listen_to_log(&heard);
	int r = store_load_choices(a->store, choose_and_break, a);
	const char *log = stop_listening(own_stderr, heard);

	assert_int_equal(r, 0);
	expect_begun_anew(a, log);
}

/* The tables were fine when the database was opened, and are not any more. */
static void test_load_of_damaged_tables(void **state)
{
	struct archive *a = *state;
	struct device d = a_device("1-2", 1);
	struct stat st;
	FILE *heard;

	store_device(a->store, &d, NULL);
	store_flush(a->store);
	assert_string_equal(sql(a->reader, "pragma wal_checkpoint(truncate)"), "0|0|0");
	/* Its copy of the pages is void when somebody else has written. */
	assert_string_equal(sql(a->reader, "update device set name = 'another'"), "");
	assert_string_equal(sql(a->reader, "pragma wal_checkpoint(truncate)"), "0|0|0");
	assert_int_equal(stat(a->path, &st), 0);
	overwrite(a->path, 4096, (size_t) st.st_size - 4096);
	int own_stderr = listen_to_log(&heard);
	int r = store_load(a->store, take, NULL);
	const char *log = stop_listening(own_stderr, heard);

	assert_int_equal(r, 0);
	assert_int_equal(n_loaded, 0);
	expect_begun_anew(a, log);
}

static void test_load_is_refused_while_locked(void **state)
{
	struct archive *a = *state;

	hold(a, "begin immediate");
	assert_int_equal(store_load(a->store, take, NULL), -EAGAIN);
	hold(a, "rollback");
	assert_int_equal(store_load(a->store, take, NULL), 0);
	assert_int_equal(n_loaded, 0);
}

int main(void)
{
#define STORE_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		STORE_TEST(test_columns_of_the_views),
		STORE_TEST(test_rows_of_the_views),
		STORE_TEST(test_hostile_text),
		STORE_TEST(test_events_once),
		STORE_TEST(test_large_numbers),
		STORE_TEST(test_events_are_synced),
		STORE_TEST(test_an_event_and_what_it_changes_are_one),
		STORE_TEST(test_events_that_can_not_be_committed),
		STORE_TEST(test_steps_on_the_way_are_not_synced),
		STORE_TEST(test_way_out_is_not_written_at_once),
		STORE_TEST(test_way_out_by_hand_is_written_at_once),
		STORE_TEST(test_a_new_state_is_one_page),
		STORE_TEST(test_events_survive_kill),
		STORE_TEST(test_locked_events_are_refused),
		STORE_TEST(test_locked_changes_are_written_later_in_order),
		STORE_TEST(test_forgotten_while_locked),
		STORE_TEST(test_closing_writes_what_is_queued),
		STORE_TEST(test_a_reader_does_not_disturb),
		STORE_TEST(test_too_much_is_queued),
		STORE_TEST(test_too_many_come_and_go),
		STORE_TEST(test_for_nobody_else),
		STORE_TEST(test_newer_schema_is_refused),
		STORE_TEST(test_is_roots_alone),
		STORE_TEST(test_choices_of_the_refuge),
		STORE_TEST(test_choices),
		STORE_TEST(test_older_schema_is_brought_up),
		STORE_TEST(test_damaged_header),
		STORE_TEST(test_damaged_schema),
		STORE_TEST(test_damaged_tables),
		STORE_TEST(test_damaged_and_no_place),
		STORE_TEST(test_not_a_database),
		STORE_TEST(test_no_directory),
		STORE_TEST(test_no_room),
		STORE_TEST(test_wal_does_not_grow_for_ever),
		STORE_TEST(test_silence_gives_memory_back),
		STORE_TEST(test_old_events_are_pruned),
		STORE_TEST(test_load),
		STORE_TEST(test_every_column_comes_back),
		STORE_TEST(test_reboot_closes_what_was_open),
		STORE_TEST(test_why_it_can_not_be_used),
		STORE_TEST(test_load_breaks_off),
		STORE_TEST(test_choices_break_off),
		STORE_TEST(test_load_of_damaged_tables),
		STORE_TEST(test_load_is_refused_while_locked),
	};

	loop_skip_waiting(true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
