/* A path under observation whose directories come, go and are replaced. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>

#include "broker/watch.h"
#include "tests/unit/spin.h"
#include "tests/unit/temp.h"

/* What somebody does at the moment when the watch looks at a directory, before and after it. */
static struct {
	const char *path; /* the directory that is looked at */
	int times;
	void (*before)(const char *path), (*after)(const char *path);
} intruder;
static unsigned n_instances;
static int former_fd;

int __real_inotify_add_watch(int fd, const char *path, uint32_t mask);
int __wrap_inotify_add_watch(int fd, const char *path, uint32_t mask);
int __wrap_inotify_add_watch(int fd, const char *path, uint32_t mask)
{
	bool now = intruder.times > 0 && streq(path, intruder.path);

	n_instances += fd != former_fd;
	former_fd = fd;
	if (now && intruder.before)
		intruder.before(path);
	int descriptor = __real_inotify_add_watch(fd, path, mask);
	int saved = errno;
	if (now && intruder.after)
		intruder.after(path);
	intruder.times -= now;
	errno = saved;
	return descriptor;
}

struct scene {
	struct loop *loop;
	struct watch *watch;
	char *dir;
	int calls;
};

static void called(void *data)
{
	((struct scene *) data)->calls++;
}

static const char *in(struct scene *s, const char *name)
{
	static char paths[4][200];
	static unsigned next;
	char *path = paths[next++ % 4];

	snprintf(path, sizeof(paths[0]), "%s/%s", s->dir, name);
	return path;
}

static bool was_called(void *data)
{
	return ((struct scene *) data)->calls > 0;
}

/* FN must have been called since the last time. */
static void expect_call(struct scene *s)
{
	spin_until(s->loop, was_called, s);
	spin_for(s->loop, 5);
	s->calls = 0;
}

static void expect_silence(struct scene *s)
{
	spin_for(s->loop, 10);
	assert_int_equal(s->calls, 0);
}

static int setup(void **state)
{
	struct scene *s = calloc(1, sizeof(*s));

	s->dir = temp_new();
	*state = s;
	return loop_new(&s->loop);
}

static int teardown(void **state)
{
	struct scene *s = *state;

	watch_free(s->watch);
	loop_free(s->loop);
	temp_remove(&s->dir);
	free(s);
	return 0;
}

static void watch_path(struct scene *s, const char *name)
{
	assert_int_equal(watch_new(s->loop, in(s, name), called, s, &s->watch), 0);
	expect_silence(s);
}

static void make_file(const char *path)
{
	close(open(path, O_CREAT | O_WRONLY, 0600));
}

static void make_dir(const char *path)
{
	assert_int_equal(mkdir(path, 0700), 0);
}

static void test_comes_and_goes(void **state)
{
	struct scene *s = *state;

	watch_path(s, "sock");
	make_file(in(s, "other"));
	make_file(in(s, "sock2"));
	make_file(in(s, "soc"));
	expect_silence(s);
	make_file(in(s, "sock"));
	expect_call(s);
	assert_int_equal(unlink(in(s, "sock")), 0);
	expect_call(s);
	assert_int_equal(rename(in(s, "other"), in(s, "sock")), 0);
	expect_call(s);
	assert_int_equal(rename(in(s, "sock"), in(s, "other")), 0);
	expect_call(s);
}

static void test_permissions_change(void **state)
{
	struct scene *s = *state;

	make_file(in(s, "sock"));
	watch_path(s, "sock");
	assert_int_equal(chmod(in(s, "sock"), 0666), 0);
	expect_call(s);
}

static void test_replaced_by_rename(void **state)
{
	struct scene *s = *state;

	make_file(in(s, "sock"));
	make_file(in(s, "new"));
	watch_path(s, "sock");
	assert_int_equal(rename(in(s, "new"), in(s, "sock")), 0);
	expect_call(s);
}

static void test_socket_replaced(void **state)
{
	struct scene *s = *state;
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	watch_path(s, "sock");
	for (int i = 0; i < 3; i++) {
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		snprintf(address.sun_path, sizeof(address.sun_path), "%s", in(s, "sock"));
		unlink(address.sun_path);
		assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
		expect_call(s);
		close(fd);
	}
}

static void test_parents_do_not_exist_yet(void **state)
{
	struct scene *s = *state;

	watch_path(s, "a/b/c/sock");
	make_dir(in(s, "x"));
	expect_silence(s);
	make_dir(in(s, "a"));
	spin_for(s->loop, 5);
	make_dir(in(s, "a/b"));
	spin_for(s->loop, 5);
	make_dir(in(s, "a/b/c"));
	spin_for(s->loop, 5);
	s->calls = 0;
	make_file(in(s, "a/b/c/sock"));
	expect_call(s);
}

static void test_everything_at_once(void **state)
{
	struct scene *s = *state;

	/* All made before the loop runs again: one call at least, and later changes are seen. */
	watch_path(s, "a/b/c/sock");
	make_dir(in(s, "a"));
	make_dir(in(s, "a/b"));
	make_dir(in(s, "a/b/c"));
	make_file(in(s, "a/b/c/sock"));
	expect_call(s);
	assert_int_equal(unlink(in(s, "a/b/c/sock")), 0);
	expect_call(s);
}

static void test_directory_removed_and_made_again(void **state)
{
	struct scene *s = *state;

	make_dir(in(s, "run"));
	make_file(in(s, "run/sock"));
	watch_path(s, "run/sock");
	for (int i = 0; i < 3; i++) {
		assert_int_equal(unlink(in(s, "run/sock")), 0);
		assert_int_equal(rmdir(in(s, "run")), 0);
		expect_call(s);
		make_dir(in(s, "run"));
		make_file(in(s, "run/sock"));
		expect_call(s);
	}
	/* And both before the loop has seen either. */
	assert_int_equal(unlink(in(s, "run/sock")), 0);
	assert_int_equal(rmdir(in(s, "run")), 0);
	make_dir(in(s, "run"));
	expect_call(s);
	make_file(in(s, "run/sock"));
	expect_call(s);
}

static void make_it(const char *path)
{
	assert_true(mkdir(path, 0700) == 0 || errno == EEXIST);
}

static void remove_it(const char *path)
{
	assert_true(rmdir(path) == 0 || errno == ENOENT);
}

static void make_it_again(const char *path)
{
	remove_it(path);
	make_it(path);
}

/* A VM that restarts: its directory is removed and made again while the watch looks for the deepest
 * one that exists. Whatever the moment, what comes later is told. */
static void test_directory_made_while_looking(void **state)
{
	static void (*const deeds[])(const char *) = {NULL, make_it, remove_it, make_it_again};
	struct scene *s = *state;
	char run[200];

	snprintf(run, sizeof(run), "%s", in(s, "run"));
	for (size_t i = 0; i < 2 * ARRAY_SIZE(deeds) * ARRAY_SIZE(deeds); i++) {
		size_t before = i / 2 % ARRAY_SIZE(deeds), after = i / 2 / ARRAY_SIZE(deeds);

		make_it(run);
		intruder.path = run;
		intruder.before = deeds[before];
		intruder.after = deeds[after];
		intruder.times = i % 2 ? 3 : 1;
		/* While it is set up, and while it looks again. */
		assert_int_equal(watch_new(s->loop, in(s, "run/sock"), called, s, &s->watch), 0);
		intruder.times = i % 2 ? 3 : 1;
		remove_it(run);
		spin_for(s->loop, 5);
		make_it(run);
		spin_for(s->loop, 5);
		intruder.times = 0;
		s->calls = 0;
		make_it(run);
		make_file(in(s, "run/sock"));
		expect_call(s);
		assert_int_equal(unlink(in(s, "run/sock")), 0);
		watch_free(s->watch);
		s->watch = NULL;
	}
}

/* /proc/sys/fs/inotify/max_user_instances is 128 at most places. */
static void test_many_watches(void **state)
{
	enum { N = 300 };
	struct scene *s = *state, others[N];
	char name[32];

	n_instances = 0;
	former_fd = -1;
	for (int i = 0; i < N; i++) {
		others[i] = (struct scene){.loop = s->loop, .dir = s->dir};
		snprintf(name, sizeof(name), "run/vm%d/sock", i % 200);
		watch_path(&others[i], name);
	}
	assert_int_equal(n_instances, 1);
	make_dir(in(s, "run"));
	for (int i = 0; i < 200; i++) {
		snprintf(name, sizeof(name), "run/vm%d", i);
		make_dir(in(s, name));
	}
	spin_for(s->loop, 5);
	for (int i = 0; i < N; i++)
		others[i].calls = 0;
	/* Two have the same path; one goes, the other stays. */
	watch_free(others[250].watch);
	make_file(in(s, "run/vm50/sock"));
	make_file(in(s, "run/vm51/sock"));
	spin_for(s->loop, 5);
	for (int i = 0; i < N; i++)
		assert_int_equal(others[i].calls > 0, i == 50 || i == 51 || i == 251);
	for (int i = 0; i < N; i++)
		if (i != 250)
			watch_free(others[i].watch);
}

static void free_both(void *data)
{
	struct scene *s = data;

	s[0].calls++;
	watch_free(s[0].watch);
	watch_free(s[1].watch);
	s[0].watch = s[1].watch = NULL;
}

/* Both are told of the same thing; the first to hear frees both. */
static void test_freed_while_called(void **state)
{
	struct scene *s = *state, two[2] = {*s, *s};

	for (int i = 0; i < 2; i++)
		assert_int_equal(watch_new(s->loop, in(s, "sock"), free_both, two, &two[i].watch),
				 0);
	make_file(in(s, "sock"));
	spin_for(s->loop, 5);
	assert_int_equal(two[0].calls, 1);
}

static void test_directory_moved_away(void **state)
{
	struct scene *s = *state;

	make_dir(in(s, "run"));
	watch_path(s, "run/sock");
	assert_int_equal(rename(in(s, "run"), in(s, "old")), 0);
	expect_call(s);
	make_file(in(s, "old/sock")); /* not our path any more */
	expect_silence(s);
	make_dir(in(s, "run"));
	spin_for(s->loop, 5);
	s->calls = 0;
	make_file(in(s, "run/sock"));
	expect_call(s);
}

/* /run/user/1000 is made first and mounted a moment later. */
static void test_directory_mounted_over(void **state)
{
	struct scene *s = *state;

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		skip();
	watch_path(s, "user/vm/sock");
	assert_int_equal(mkdir(in(s, "user"), 0755), 0);
	expect_call(s);
	assert_int_equal(mount("none", in(s, "user"), "tmpfs", 0, NULL), 0);
	expect_call(s);
	assert_int_equal(mkdir(in(s, "user/vm"), 0755), 0);
	expect_call(s);
	close(open(in(s, "user/vm/sock"), O_CREAT | O_CLOEXEC, 0600));
	expect_call(s);
	/* What is mounted elsewhere is no news. */
	assert_int_equal(mkdir(in(s, "other"), 0755), 0);
	assert_int_equal(mount("none", in(s, "other"), "tmpfs", 0, NULL), 0);
	assert_int_equal(umount(in(s, "other")), 0);
	expect_silence(s);
	assert_int_equal(umount(in(s, "user")), 0);
	expect_call(s);
	assert_int_equal(rmdir(in(s, "user")), 0);
	expect_call(s);
}

static void test_whole_directory(void **state)
{
	struct scene *s = *state;

	make_dir(in(s, "spool"));
	assert_int_equal(watch_new_directory(s->loop, in(s, "spool"), called, s, &s->watch), 0);
	expect_silence(s);
	make_file(in(s, "spool/.tmp"));
	expect_call(s);
	assert_int_equal(rename(in(s, "spool/.tmp"), in(s, "spool/0001")), 0);
	expect_call(s);
	assert_int_equal(unlink(in(s, "spool/0001")), 0);
	expect_call(s);
	make_file(in(s, "beside"));
	expect_silence(s);
	assert_int_equal(rmdir(in(s, "spool")), 0);
	expect_call(s);
	make_dir(in(s, "spool"));
	expect_call(s);
	make_file(in(s, "spool/0002"));
	expect_call(s);
}

static void test_many_events(void **state)
{
	struct scene *s = *state;
	char name[32];

	watch_path(s, "sock");
	for (int i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "a-rather-long-name-%d", i);
		make_file(in(s, name));
	}
	make_file(in(s, "sock"));
	expect_call(s);
}

static void test_root(void **state)
{
	struct scene *s = *state;

	/* A path directly below the root directory. */
	assert_int_equal(watch_new(s->loop, "/vhp-no-such-path", called, s, &s->watch), 0);
	expect_silence(s);
}

int main(void)
{
#define WATCH_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		WATCH_TEST(test_comes_and_goes),
		WATCH_TEST(test_permissions_change),
		WATCH_TEST(test_replaced_by_rename),
		WATCH_TEST(test_socket_replaced),
		WATCH_TEST(test_parents_do_not_exist_yet),
		WATCH_TEST(test_everything_at_once),
		WATCH_TEST(test_directory_removed_and_made_again),
		WATCH_TEST(test_directory_made_while_looking),
		WATCH_TEST(test_many_watches),
		WATCH_TEST(test_freed_while_called),
		WATCH_TEST(test_directory_moved_away),
		WATCH_TEST(test_directory_mounted_over),
		WATCH_TEST(test_whole_directory),
		WATCH_TEST(test_many_events),
		WATCH_TEST(test_root),
	};

	loop_skip_waiting(true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
