/* The spool from both sides: what the helper writes, the broker reads back; what others could
 * have put there is refused. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <sys/time.h>

#include <cmocka.h>

#include "helper/spool.h"
#include "tests/unit/temp.h"

static struct wire_msg event(uint64_t seqnum, const char *devpath)
{
	struct wire_msg msg;
	char number[32];

	wire_init(&msg);
	snprintf(number, sizeof(number), "%ju", (uintmax_t) seqnum);
	if (wire_add(&msg, "SEQNUM", number) < 0 || wire_add(&msg, "DEVPATH", devpath) < 0)
		abort();
	return msg;
}

static int put(int dir_fd, uint64_t seqnum, const char *devpath)
{
	struct wire_msg msg = event(seqnum, devpath);

	return spool_put(dir_fd, &msg);
}

static int open_in(const char *run_dir)
{
	int fd = -1;

	assert_int_equal(spool_open(run_dir, &fd), 0);
	assert_true(fd >= 0);
	return fd;
}

static mode_t mode_of(int dir_fd, const char *name)
{
	struct stat st;

	assert_int_equal(fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st.st_mode & 07777;
}

static bool exists(int dir_fd, const char *name)
{
	struct stat st;

	return fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

static void write_file(int dir_fd, const char *name, const char *data, size_t len)
{
	_cleanup_close_ int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_int_equal(write(fd, data, len), len);
}

static void test_directories(void **state)
{
	static const mode_t umasks[] = {0, 022, 077, 0777};
	TEMP_DIR(dir);

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(umasks); i++) {
		char run[64];
		mode_t before = umask(umasks[i]);

		snprintf(run, sizeof(run), "%s/run%zu", dir, i);
		_cleanup_close_ int fd = open_in(run);
		assert_int_equal(put(fd, 7, "/devices/a"), 0);
		assert_int_equal(umask(before), umasks[i]);

		assert_int_equal(mode_of(AT_FDCWD, run), 0755);
		assert_int_equal(mode_of(fd, "."), 0700);
		assert_int_equal(mode_of(fd, "00000000000000000007"), 0600);
		_cleanup_close_ int again = open_in(run);
	}
}

/* RET must stay as it was when the directory is refused. */
static void assert_refused(const char *run_dir, int expected)
{
	int fd = -7;

	assert_int_equal(spool_open(run_dir, &fd), expected);
	assert_int_equal(fd, -7);
}

static void test_unsafe_directories(void **state)
{
	TEMP_DIR(dir);
	char spool[64], elsewhere[64];

	(void) state;
	snprintf(spool, sizeof(spool), "%s/spool", dir);
	snprintf(elsewhere, sizeof(elsewhere), "%s/elsewhere", dir);
	assert_int_equal(mkdir(elsewhere, 0700), 0);
	assert_int_equal(symlink(elsewhere, spool), 0);
	assert_refused(dir, -ENOTDIR);
	assert_int_equal(rmdir(elsewhere), 0); /* nothing was put there */
	assert_refused(dir, -ENOTDIR);         /* dangling */
	assert_int_equal(unlink(spool), 0);

	write_file(AT_FDCWD, spool, "x", 1);
	assert_refused(dir, -ENOTDIR);
	assert_int_equal(unlink(spool), 0);

	assert_int_equal(mkdir(spool, 0700), 0);
	assert_int_equal(chmod(spool, 0720), 0);
	assert_refused(dir, -EPERM);
	assert_int_equal(chmod(spool, 0702), 0);
	assert_refused(dir, -EPERM);
	assert_int_equal(chmod(spool, 0700), 0);
	assert_int_equal(chmod(dir, 0777), 0);
	assert_refused(dir, -EPERM);
	assert_int_equal(chmod(dir, 0755), 0);

	char through[80];
	snprintf(through, sizeof(through), "%s/link", dir);
	assert_int_equal(symlink(dir, through), 0);
	assert_refused(through, -ENOTDIR);

	if (geteuid() == 0) {
		assert_int_equal(chown(spool, 65534, 65534), 0);
		assert_refused(dir, -EPERM);
	}
}

static void test_order_and_content(void **state)
{
	static const uint64_t seqnums[] = {10, 9, UINT64_MAX, 100, 0, 99};
	static const uint64_t sorted[] = {0, 9, 10, 99, 100, UINT64_MAX};
	TEMP_DIR(dir);
	_cleanup_close_ int fd = open_in(dir);
	_cleanup_free_ uint64_t *list = NULL;
	size_t n;

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(seqnums); i++)
		assert_int_equal(put(fd, seqnums[i], "/devices/a"), 0);
	assert_int_equal(spool_list(fd, &list, &n), 0);
	assert_int_equal(n, ARRAY_SIZE(sorted));
	assert_memory_equal(list, sorted, sizeof(sorted));

	struct wire_msg written = event(100, "/devices/a"), msg;
	assert_int_equal(spool_read(fd, 100, &msg), 0);
	assert_int_equal(msg.len, written.len);
	assert_memory_equal(msg.data, written.data, msg.len);

	assert_int_equal(spool_remove(fd, 100), 0);
	assert_int_equal(spool_remove(fd, 100), 0);
	assert_int_equal(spool_read(fd, 100, &msg), -ENOENT);
	assert_int_equal(msg.len, written.len);
}

static void test_largest_message(void **state)
{
	TEMP_DIR(dir);
	_cleanup_close_ int fd = open_in(dir);
	struct wire_msg msg = event(1, "/devices/a"), read;
	char value[WIRE_MAX] = {0};

	(void) state;
	memset(value, 'v', WIRE_MAX - msg.len - sizeof("KEY="));
	assert_int_equal(wire_add(&msg, "KEY", value), 0);
	assert_int_equal(msg.len, WIRE_MAX);
	assert_int_equal(spool_put(fd, &msg), 0);
	assert_int_equal(spool_read(fd, 1, &read), 0);
	assert_int_equal(read.len, WIRE_MAX);
	assert_memory_equal(read.data, msg.data, WIRE_MAX);

	/* What follows a whole message is not cut off but refused. */
	_cleanup_close_ int file = openat(fd, "00000000000000000001", O_WRONLY | O_APPEND);
	assert_int_equal(write(file, "A=b", 4), 4);
	assert_int_equal(spool_read(fd, 1, &read), -EBADMSG);
}

static void test_incomplete_messages(void **state)
{
	TEMP_DIR(dir);
	_cleanup_close_ int fd = open_in(dir);
	_cleanup_free_ uint64_t *list = NULL;
	struct wire_msg msg;
	size_t n;

	(void) state;
	wire_init(&msg);
	assert_int_equal(spool_put(fd, &msg), -EINVAL);
	assert_int_equal(wire_add(&msg, "DEVPATH", "/devices/a"), 0);
	assert_int_equal(spool_put(fd, &msg), -EINVAL);
	assert_int_equal(wire_add(&msg, "SEQNUM", "../../x"), 0);
	assert_int_equal(spool_put(fd, &msg), -EINVAL);
	assert_int_equal(spool_list(fd, &list, &n), 0);
	assert_int_equal(n, 0);
}

static void test_foreign_files(void **state)
{
	TEMP_DIR(dir);
	_cleanup_close_ int fd = open_in(dir);
	struct wire_msg good = event(1, "/devices/a"), msg;
	char big[WIRE_MAX + 1];

	(void) state;
	msg.len = 4711;
	write_file(fd, "00000000000000000002", good.data, good.len); /* says it is 1 */
	assert_int_equal(spool_read(fd, 2, &msg), -EBADMSG);
	write_file(fd, "00000000000000000003", good.data, good.len - 1);
	assert_int_equal(spool_read(fd, 3, &msg), -EBADMSG);
	write_file(fd, "00000000000000000004", "", 0);
	assert_int_equal(spool_read(fd, 4, &msg), -EBADMSG);

	memset(big, 0, sizeof(big));
	memcpy(big, good.data, good.len);
	write_file(fd, "00000000000000000001", big, sizeof(big));
	assert_int_equal(spool_read(fd, 1, &msg), -EBADMSG);

	assert_int_equal(mkfifoat(fd, "00000000000000000005", 0600), 0);
	assert_int_equal(spool_read(fd, 5, &msg), -EBADMSG);
	assert_int_equal(mkdirat(fd, "00000000000000000006", 0700), 0);
	assert_int_equal(spool_read(fd, 6, &msg), -EBADMSG);

	write_file(fd, "aside", good.data, good.len);
	assert_int_equal(unlinkat(fd, "00000000000000000001", 0), 0);
	assert_int_equal(symlinkat("aside", fd, "00000000000000000001"), 0);
	assert_int_equal(spool_read(fd, 1, &msg), -EBADMSG);

	if (geteuid() == 0) {
		assert_int_equal(renameat(fd, "aside", fd, "00000000000000000001"), 0);
		assert_int_equal(spool_read(fd, 1, &msg), 0);
		msg.len = 4711;
		assert_int_equal(fchownat(fd, "00000000000000000001", 65534, -1, 0), 0);
		assert_int_equal(spool_read(fd, 1, &msg), -EPERM);
	}
	assert_int_equal(msg.len, 4711);
}

static void test_names_that_are_no_events(void **state)
{
	static const char *const names[] = {"7",
					    "0000000000000000000a",
					    "000000000000000000001",
					    "99999999999999999999",
					    ".tmp-8-1",
					    "README"};
	static const struct timespec old[2] = {{.tv_sec = 1000}, {.tv_sec = 1000}};
	TEMP_DIR(dir);
	_cleanup_close_ int fd = open_in(dir);
	_cleanup_free_ uint64_t *list = NULL;
	size_t n;

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		write_file(fd, names[i], "x", 1);
	write_file(fd, ".tmp-9-1", "x", 1);
	assert_int_equal(utimensat(fd, ".tmp-9-1", old, 0), 0);
	assert_int_equal(utimensat(fd, "README", old, 0), 0);

	assert_int_equal(spool_list(fd, &list, &n), 0);
	assert_int_equal(n, 0);
	assert_true(exists(fd, ".tmp-8-1")); /* its helper may still be writing */
	assert_false(exists(fd, ".tmp-9-1"));
	assert_true(exists(fd, "README"));
}

static void test_cap(void **state)
{
	TEMP_DIR(dir);
	_cleanup_close_ int fd = open_in(dir);
	_cleanup_free_ uint64_t *list = NULL;
	struct wire_msg msg;
	size_t n;

	(void) state;
	for (uint64_t i = 0; i < SPOOL_MAX; i++)
		assert_int_equal(put(fd, i, i % 2 ? "/devices/odd" : "/devices/even"), 0);

	/* The oldest of the same device makes room. */
	assert_int_equal(put(fd, 5000, "/devices/odd"), 0);
	assert_int_equal(spool_read(fd, 1, &msg), -ENOENT);
	assert_int_equal(spool_read(fd, 0, &msg), 0);
	assert_int_equal(spool_read(fd, 5000, &msg), 0);

	/* A device that is not waiting yet finds no room, and nothing else is thrown away. */
	assert_int_equal(put(fd, 5001, "/devices/new"), -ENOBUFS);
	assert_int_equal(spool_list(fd, &list, &n), 0);
	assert_int_equal(n, SPOOL_MAX);
	assert_int_equal(list[0], 0);
	assert_int_equal(list[n - 1], 5000);

	assert_int_equal(spool_remove(fd, 0), 0);
	assert_int_equal(put(fd, 5001, "/devices/new"), 0);
}

static void test_lost_mark(void **state)
{
	TEMP_DIR(dir);
	_cleanup_close_ int fd = open_in(dir);

	(void) state;
	assert_int_equal(spool_take_lost(fd), 0);
	assert_int_equal(spool_mark_lost(fd), 1);
	assert_int_equal(spool_mark_lost(fd), 0);
	assert_int_equal(spool_take_lost(fd), 1);
	assert_int_equal(spool_take_lost(fd), 0);
	assert_int_equal(spool_mark_lost(fd), 1);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_directories),
		cmocka_unit_test(test_unsafe_directories),
		cmocka_unit_test(test_order_and_content),
		cmocka_unit_test(test_largest_message),
		cmocka_unit_test(test_incomplete_messages),
		cmocka_unit_test(test_foreign_files),
		cmocka_unit_test(test_names_that_are_no_events),
		cmocka_unit_test(test_cap),
		cmocka_unit_test(test_lost_mark),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
