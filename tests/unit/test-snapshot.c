/* The copy of the state for everybody: when it is written, and that nothing else happens. */
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "broker/snapshot.h"
#include "broker/store.h"
#include "tests/unit/memory-double.h"
#include "tests/unit/spin.h"
#include "tests/unit/temp.h"

struct scene {
	struct loop *loop;
	struct store *store;
	struct snapshot *snapshot;
	char *dir, database[100], copy[100];
};

/* What main does at the end of each pass. */
static void pass_end(void *data)
{
	struct scene *s = data;

	store_flush(s->store);
	snapshot_touch(s->snapshot);
}

static void note_written(void *data, int64_t row)
{
	struct scene *s = data;

	snapshot_note(s->snapshot, row);
}

static int setup(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));

	s->dir = temp_new();
	snprintf(s->database, sizeof(s->database), "%s/db", s->dir);
	snprintf(s->copy, sizeof(s->copy), "%s/copy", s->dir);
	assert_int_equal(loop_new(&s->loop), 0);
	assert_int_equal(store_open(s->loop, s->database, NULL, "boot", &s->store), 0);
	assert_int_equal(snapshot_new(s->loop, s->database, s->copy, (gid_t) -1, &s->snapshot), 0);
	store_observe(s->store, note_written, s);
	loop_set_pass_end(s->loop, pass_end, s);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct scene *s = *state;

	store_close(s->store);
	snapshot_free(s->snapshot);
	loop_free(s->loop);
	temp_remove(&s->dir);
	free(s);
	return 0;
}

/* The device whose row has that number. */
static struct device device_of(unsigned row, const char *reason)
{
	struct device d = {.id.kind = DEVICE_USB, .id.inode = 7, .record.row = row};
	char name[32];

	device_init(&d);
	snprintf(name, sizeof(name), "1-%u", row);
	kept_set(&d.id.devpath, name);
	kept_set(&d.id.kernel_name, name);
	kept_set(&d.record.reason, reason);
	return d;
}

static void change_row(struct scene *s, unsigned row, const char *reason)
{
	struct device d = device_of(row, reason);

	store_device(s->store, &d, NULL);
	device_finish(&d);
}

static void forget_row(struct scene *s, unsigned row)
{
	struct device d = device_of(row, "");

	store_forget(s->store, &d, NULL);
	device_finish(&d);
}

static void change(struct scene *s, const char *reason)
{
	change_row(s, 1, reason);
}

/* The first value of a query on a database. */
static const char *ask_file(const char *path, const char *query)
{
	static char value[300000];
	sqlite3_stmt *statement;
	sqlite3 *db;

	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, query, -1, &statement, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
	snprintf(value, sizeof(value), "%s", (const char *) sqlite3_column_text(statement, 0));
	sqlite3_finalize(statement);
	sqlite3_close(db);
	return value;
}

/* The same of the copy. */
static const char *ask(struct scene *s, const char *query)
{
	return ask_file(s->copy, query);
}

static ino_t inode_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? st.st_ino : 0;
}

static void test_follows_changes(void **state)
{
	struct scene *s = *state;
	struct stat st;

	change(s, "one");
	spin_for(s->loop, 6000);
	assert_string_equal(ask(s, "select reason from assignments"), "one");
	assert_string_equal(ask(s, "select count(*) from history"), "0");
	assert_int_equal(stat(s->copy, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0644);
	/* Nothing has changed: nothing is written, no timer is pending. */
	spin_for(s->loop, 60000);
	assert_int_equal(inode_of(s->copy), st.st_ino);
	/* Who reads the old one is not disturbed: another file takes its place. */
	change(s, "two");
	spin_for(s->loop, 6000);
	assert_string_equal(ask(s, "select reason from assignments"), "two");
	assert_true(inode_of(s->copy) != st.st_ino);
}

#define ALL_ASSIGNMENTS                                                                       \
	"select count(*) || ' ' || group_concat(device || ' ' || reason) from (select * from" \
	" assignments)"

/* The copy has what the view has, in its order. */
static void expect_assignments(struct scene *s, const char *expected)
{
	spin_for(s->loop, 6000);
	assert_string_equal(ask_file(s->database, ALL_ASSIGNMENTS), expected);
	assert_string_equal(ask(s, ALL_ASSIGNMENTS), expected);
}

/* Each copy has what has come, changed and gone since the one before, whatever became of that. */
static void test_rows_that_have_changed(void **state)
{
	struct scene *s = *state;
	char next[120];

	for (unsigned row = 1; row <= 4; row++)
		change_row(s, row, "a");
	expect_assignments(s, "4 1-1 a,1-2 a,1-3 a,1-4 a");
	change_row(s, 6, "b");
	change_row(s, 2, "b");
	forget_row(s, 3);
	expect_assignments(s, "4 1-1 a,1-2 b,1-4 a,1-6 b");
	change_row(s, 5, "c");
	expect_assignments(s, "5 1-1 a,1-2 b,1-4 a,1-5 c,1-6 b");
	/* Nothing is forgotten of what could not be copied. */
	snprintf(next, sizeof(next), "%s.next", s->copy);
	assert_int_equal(mkdir(next, 0700), 0);
	change_row(s, 1, "d");
	forget_row(s, 4);
	spin_for(s->loop, 6000);
	assert_int_equal(rmdir(next), 0);
	change_row(s, 6, "d");
	expect_assignments(s, "4 1-1 d,1-2 b,1-5 c,1-6 d");
}

/* More than are noted one by one. */
static void test_many_rows_have_changed(void **state)
{
	struct scene *s = *state;

	change_row(s, 1, "a");
	spin_for(s->loop, 6000);
	for (unsigned row = 1; row <= 1000; row++)
		change_row(s, row, "b");
	spin_for(s->loop, 6000);
	assert_string_equal(ask(s, "select count(*) from assignments where reason = 'b'"), "1000");
	for (unsigned row = 1; row <= 1000; row++)
		if (row % 500 != 0)
			forget_row(s, row);
	expect_assignments(s, "2 1-500 b,1-1000 b");
	change_row(s, 500, "c");
	expect_assignments(s, "2 1-500 c,1-1000 b");
}

/* Behind the start, and then no more: an event that follows would pay for it. */
static void test_lets_go_of_code(void **state)
{
	struct scene *s = *state;

	n_forgotten = 0;
	for (int i = 0; i < 3; i++) {
		change(s, i % 2 == 0 ? "a" : "b");
		spin_for(s->loop, 6000);
		assert_int_equal(n_forgotten, 1);
	}
}

#define ALL_OF_IT                                                                                \
	"select count(*) || ' ' || group_concat(time || device || vm || action || cause || rule" \
	" || result || milliseconds || detail || name || vid_pid) from (select * from history"   \
	" limit -1 offset (select max(0, count(*) - 2000) from history))"

static void add_history(struct scene *s, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct history h = {.device = "1-2",
				    .name = "n",
				    .vid_pid = "046d:c52b",
				    .vm = "vm1",
				    .action = "attach",
				    .cause = "plug",
				    .rule = "usb/g/r",
				    .result = "ok",
				    .milliseconds = i,
				    .detail = "d"};

		store_history(s->store, &h);
	}
	spin_for(s->loop, 6000);
}

/* Each copy goes on with the one before. It has what the view has, in its order, and no more of it
 * than one that is made anew. */
static void test_history_goes_on(void **state)
{
	struct scene *s = *state;
	char *itself;

	for (unsigned n = 1; n <= 1500; n = n * 3 + 1) {
		add_history(s, n);
		itself = strdup(ask_file(s->database, ALL_OF_IT));
		assert_string_equal(ask(s, ALL_OF_IT), itself);
		free(itself);
	}
	add_history(s, 1200);
	assert_string_equal(ask(s, "select count(*) from history"), "2000");
	itself = strdup(ask_file(s->database, ALL_OF_IT));
	assert_string_equal(ask(s, ALL_OF_IT), itself);
	free(itself);
	/* Another database has another history, and no copy to go on with. */
	sqlite3 *db;
	assert_int_equal(sqlite3_open(s->database, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "delete from action", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	change(s, "anew");
	add_history(s, 3);
	assert_string_equal(ask(s, "select count(*) from history"), "3");
}

/* The file that the next copy would begin with is gone, or is none. */
static void test_former_copy_is_lost(void **state)
{
	struct scene *s = *state;

	add_history(s, 2);
	unlink(s->copy);
	add_history(s, 2);
	assert_string_equal(ask(s, "select count(*) from history"), "4");
	assert_int_equal(truncate(s->copy, 0), 0);
	add_history(s, 2);
	add_history(s, 1);
	assert_string_equal(ask(s, "select count(*) from history"), "7");
}

/* What can't be written now is written later, whole. Beside the copy nothing is left. */
static void test_no_room_for_it(void **state)
{
	struct scene *s = *state;
	char next[120], own[120];

	snprintf(next, sizeof(next), "%s.next", s->copy);
	snprintf(own, sizeof(own), "%s.own", s->copy);
	add_history(s, 2);
	assert_int_equal(mkdir(next, 0700), 0);
	add_history(s, 2);
	assert_string_equal(ask(s, "select count(*) from history"), "2");
	assert_int_equal(rmdir(next), 0);
	assert_int_equal(mkdir(own, 0700), 0);
	spin_for(s->loop, 6000);
	assert_string_equal(ask(s, "select count(*) from history"), "2");
	assert_int_equal(rmdir(own), 0);
	add_history(s, 1);
	assert_string_equal(ask(s, "select count(*) from history"), "5");
	assert_int_equal(access(next, F_OK), -1);
	assert_int_equal(access(own, F_OK), -1);
}

/* Another file is copied from now on, with less in it. */
static void test_another_database(void **state)
{
	struct scene *s = *state;

	change(s, "before");
	add_history(s, 9);
	store_close(s->store);
	snprintf(s->database, sizeof(s->database), "%s/other", s->dir);
	assert_int_equal(store_open(s->loop, s->database, NULL, "boot", &s->store), 0);
	store_observe(s->store, note_written, s);
	snapshot_follow(s->snapshot, s->database);
	add_history(s, 1);
	assert_string_equal(ask(s, "select count(*) from history"), "1");
	assert_string_equal(ask(s, "select count(*) from assignments"), "0");
	add_history(s, 10);
	assert_string_equal(ask(s, "select count(*) from history"), "11");
}

/* What is for everybody is the two views, column by column. */
static void test_columns(void **state)
{
	static const char tables[] = "select group_concat(name) from"
				     " (select name from sqlite_schema order by name)";
	static const char *const columns[] = {
		"select group_concat(name) from pragma_table_info('assignments')",
		"select group_concat(name) from pragma_table_info('history')",
	};
	struct scene *s = *state;

	change(s, "one");
	add_history(s, 1);
	assert_string_equal(ask(s, tables), "assignments,history");
	for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
		char *itself = strdup(ask_file(s->database, columns[i]));

		assert_string_equal(ask(s, columns[i]), itself);
		free(itself);
	}
}

/* What somebody keeps open of copies that have been replaced is little, however long he does. */
static void test_readers_who_never_leave(void **state)
{
	struct scene *s = *state;
	int fds[2 * SNAPSHOT_KEPT];
	size_t whole = 0;
	char reason[16];
	struct stat st;

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		snprintf(reason, sizeof(reason), "%zu", i);
		change(s, reason);
		spin_for(s->loop, 6000);
		fds[i] = open(s->copy, O_RDONLY | O_CLOEXEC);
	}
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		assert_int_equal(fstat(fds[i], &st), 0);
		whole += st.st_size > 0;
		close(fds[i]);
	}
	/* Those that are kept, and the newest. */
	assert_int_equal(whole, SNAPSHOT_KEPT + 1);
	assert_string_equal(ask(s, "select reason from assignments"), "31");
}

static void test_for_a_group(void **state)
{
	struct scene *s = *state;
	struct stat st;

	snapshot_free(s->snapshot);
	assert_int_equal(snapshot_new(s->loop, s->database, s->copy, getgid(), &s->snapshot), 0);
	change(s, "one");
	spin_for(s->loop, 6000);
	assert_int_equal(stat(s->copy, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	assert_int_equal(st.st_gid, getgid());
}

/* Somebody has made it empty while it was open: that is found by the second copy at the latest,
 * since SQLite takes it for a new one then. */
static void test_made_empty(void **state)
{
	struct scene *s = *state;
	char wal[120];

	change(s, "one");
	spin_for(s->loop, 6000);
	assert_false(snapshot_takes_damage(s->snapshot));
	snprintf(wal, sizeof(wal), "%s-wal", s->database);
	assert_int_equal(truncate(s->database, 0), 0);
	assert_int_equal(truncate(wal, 0), 0);
	snapshot_note(s->snapshot, 1);
	snapshot_touch(s->snapshot);
	spin_for(s->loop, 12000);
	assert_true(snapshot_takes_damage(s->snapshot));
	assert_string_equal(ask(s, "select reason from assignments"), "one");
}

/* Many changes are one copy every few seconds. */
static void test_not_too_often(void **state)
{
	struct scene *s = *state;
	unsigned copies = 0;
	ino_t last = 0;
	char reason[16];

	for (int i = 0; i < 200; i++) {
		snprintf(reason, sizeof(reason), "%d", i);
		change(s, reason);
		spin_for(s->loop, 100);
		if (inode_of(s->copy) != last) {
			last = inode_of(s->copy);
			copies++;
		}
	}
	assert_in_range(copies, 2, 6);
	spin_for(s->loop, 6000);
	assert_string_equal(ask(s, "select reason from assignments"), "199");
}

static void test_written_at_the_end(void **state)
{
	struct scene *s = *state;

	change(s, "last words");
	spin_for(s->loop, 10);
	store_close(s->store);
	s->store = NULL;
	snapshot_free(s->snapshot);
	s->snapshot = NULL;
	loop_set_pass_end(s->loop, NULL, NULL);
	assert_string_equal(ask(s, "select reason from assignments"), "last words");
}

int main(void)
{
#define SNAPSHOT_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		SNAPSHOT_TEST(test_rows_that_have_changed),
		SNAPSHOT_TEST(test_many_rows_have_changed),
		SNAPSHOT_TEST(test_made_empty),
		SNAPSHOT_TEST(test_follows_changes),
		SNAPSHOT_TEST(test_readers_who_never_leave),
		SNAPSHOT_TEST(test_history_goes_on),
		SNAPSHOT_TEST(test_former_copy_is_lost),
		SNAPSHOT_TEST(test_for_a_group),
		SNAPSHOT_TEST(test_not_too_often),
		SNAPSHOT_TEST(test_written_at_the_end),
		SNAPSHOT_TEST(test_no_room_for_it),
		SNAPSHOT_TEST(test_another_database),
		SNAPSHOT_TEST(test_columns),
		SNAPSHOT_TEST(test_lets_go_of_code),
	};

	loop_skip_waiting(true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
