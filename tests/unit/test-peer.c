/* Who answers on a VM's socket, and whether he may have descriptors that root opened. The peers are
 * children under other user ids, so this needs root. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "broker/peer.h"
#include "tests/unit/temp.h"

#define VM 31001
#define OTHER 31002
#define NOT_SAID ((uid_t) -1)

/* A process listening on a socket, and our connection to it. */
struct monitor {
	pid_t pid;
	int fd;
	char path[100];
};

/* Listens as LISTENER, then goes on as RUNNER. */
static void serve(const char *path, uid_t listener, uid_t runner, int ready)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (seteuid(listener) < 0 || bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
	    listen(fd, 16) < 0 || seteuid(0) < 0 || setresuid(runner, runner, runner) < 0)
		_exit(1);
	if (write(ready, "r", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

static void monitor_start(struct monitor *m, const char *dir, const char *name, uid_t listener,
			  uid_t runner)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int ready[2];
	char byte;

	snprintf(m->path, sizeof(m->path), "%s/%s", dir, name);
	assert_int_equal(pipe(ready), 0);
	m->pid = fork();
	if (m->pid == 0)
		serve(m->path, listener, runner, ready[1]);
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	m->fd = socket(AF_UNIX, SOCK_STREAM, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", m->path);
	assert_int_equal(connect(m->fd, (struct sockaddr *) &address, sizeof(address)), 0);
}

static void monitor_stop(struct monitor *m)
{
	kill(m->pid, SIGKILL);
	assert_int_equal(waitpid(m->pid, NULL, 0), m->pid);
	close(m->fd);
	unlink(m->path);
}

static void checks_as(struct monitor *m, uid_t user, int expected, const char *words)
{
	struct peer peer;
	char reason[300] = "";

	assert_int_equal(peer_get(m->fd, &peer), 0);
	int r = peer_check(m->path, &peer, user, reason, sizeof(reason));
	if (r != expected || !strstr(reason, words))
		fail_msg("%d \"%s\", not %d \"%s\"", r, reason, expected, words);
}

static char *open_dir(void)
{
	char *dir = temp_new();

	assert_int_equal(chmod(dir, 0755), 0);
	return dir;
}

static void make_dir(char *path, size_t size, const char *dir, const char *name, mode_t mode,
		     uid_t owner)
{
	snprintf(path, size, "%s/%s", dir, name);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(chmod(path, mode), 0);
	assert_int_equal(chown(path, owner, 0), 0);
}

static void test_root(void **state)
{
	_cleanup_(temp_remove) char *dir = open_dir();
	struct monitor m;
	struct peer peer;

	(void) state;
	monitor_start(&m, dir, "s", 0, 0);
	assert_int_equal(peer_get(m.fd, &peer), 0);
	assert_int_equal(peer.pid, m.pid);
	assert_int_equal(peer.uid, 0);
	assert_true(peer.start_time > 0);
	checks_as(&m, NOT_SAID, 0, "");
	checks_as(&m, 0, 0, "");
	monitor_stop(&m);
}

/* "qemu -runas": the socket is root's, the process is not. */
static void test_runas(void **state)
{
	_cleanup_(temp_remove) char *dir = open_dir();
	struct monitor m;
	struct peer peer;

	(void) state;
	monitor_start(&m, dir, "s", 0, VM);
	assert_int_equal(peer_get(m.fd, &peer), 0);
	assert_int_equal(peer.uid, VM);
	checks_as(&m, NOT_SAID, 0, "");
	checks_as(&m, VM, 0, "");
	monitor_stop(&m);
}

static void test_directory_of_the_vm_user(void **state)
{
	_cleanup_(temp_remove) char *dir = open_dir();
	char run[60];
	struct monitor m;

	(void) state;
	make_dir(run, sizeof(run), dir, "run", 0755, VM);
	monitor_start(&m, run, "s", VM, VM);
	checks_as(&m, NOT_SAID, 0, "");
	checks_as(&m, VM, 0, "");
	checks_as(&m, OTHER, -EPERM, "runs as uid 31001, and the config says 31002");
	monitor_stop(&m);
}

static void test_world_writable_directory(void **state)
{
	_cleanup_(temp_remove) char *dir = open_dir();
	char tmp[60];
	struct monitor m;

	(void) state;
	make_dir(tmp, sizeof(tmp), dir, "tmp", 01777, 0);
	monitor_start(&m, tmp, "s", VM, VM);
	checks_as(&m, NOT_SAID, -EPERM, "lies where everybody may write");
	checks_as(&m, OTHER, -EPERM, "lies where everybody may write");
	checks_as(&m, VM, 0, "");
	monitor_stop(&m);
	/* root's own socket there can't be replaced: the directory is sticky. */
	monitor_start(&m, tmp, "s", 0, 0);
	checks_as(&m, NOT_SAID, 0, "");
	monitor_stop(&m);
}

static void test_directory_inside_a_world_writable_one(void **state)
{
	_cleanup_(temp_remove) char *dir = open_dir();
	char tmp[60], run[80];
	struct monitor m;

	(void) state;
	make_dir(tmp, sizeof(tmp), dir, "tmp", 01777, 0);
	make_dir(run, sizeof(run), tmp, "run", 0755, VM);
	monitor_start(&m, run, "s", 0, 0); /* even root's socket: the directory can be swapped */
	checks_as(&m, NOT_SAID, -EPERM, "/tmp/run lies where everybody may write");
	checks_as(&m, VM, 0, "");
	monitor_stop(&m);
}

static void test_symlink_in_a_world_writable_directory(void **state)
{
	_cleanup_(temp_remove) char *dir = open_dir();
	char tmp[60], link[100];
	struct monitor m;

	(void) state;
	make_dir(tmp, sizeof(tmp), dir, "tmp", 01777, 0);
	monitor_start(&m, dir, "s", 0, 0);
	snprintf(link, sizeof(link), "%s/link", tmp);
	assert_int_equal(symlink(m.path, link), 0);
	assert_int_equal(lchown(link, OTHER, 0), 0);
	char *own = strdup(m.path);
	strcpy(m.path, link);
	checks_as(&m, NOT_SAID, -EPERM, "/tmp/link lies where everybody may write");
	strcpy(m.path, own);
	free(own);
	monitor_stop(&m);
}

static void test_somebody_else_answers(void **state)
{
	_cleanup_(temp_remove) char *dir = open_dir();
	char run[60];
	struct monitor m;

	(void) state;
	make_dir(run, sizeof(run), dir, "run", 0777, 0);
	assert_int_equal(chmod(run, 0755), 0);
	monitor_start(&m, run, "s", 0, OTHER);
	assert_int_equal(chown(m.path, VM, 0), 0);
	/* Root has made it listen, and given the file away: root's own business. */
	checks_as(&m, NOT_SAID, 0, "");
	checks_as(&m, VM, -EPERM, "runs as uid 31002, and the config says 31001");
	checks_as(&m, OTHER, 0, "");
	monitor_stop(&m);
	assert_int_equal(chown(run, OTHER, 0), 0);
	monitor_start(&m, run, "s", OTHER, OTHER);
	assert_int_equal(chown(m.path, VM, 0), 0);
	checks_as(&m, NOT_SAID, -EPERM, "belongs to uid 31001 but uid 31002 answers there");
	monitor_stop(&m);
}

static void test_vanished(void **state)
{
	_cleanup_(temp_remove) char *dir = open_dir();
	struct monitor m;

	(void) state;
	monitor_start(&m, dir, "s", 0, 0);
	assert_int_equal(unlink(m.path), 0);
	checks_as(&m, NOT_SAID, -EPERM, "has vanished");
	monitor_stop(&m);
}

static void test_alive(void **state)
{
	_cleanup_(temp_remove) char *dir = open_dir();
	struct monitor m;
	struct peer peer, other;

	(void) state;
	monitor_start(&m, dir, "s", 0, 0);
	assert_int_equal(peer_get(m.fd, &peer), 0);
	assert_true(peer_is_alive(&peer));
	/* The pid in use again, by a process that started at another time. */
	other = peer;
	other.start_time++;
	assert_false(peer_is_alive(&other));
	monitor_stop(&m);
	assert_false(peer_is_alive(&peer));
	peer.pid = 0; /* can't be seen from here */
	assert_true(peer_is_alive(&peer));
}

static void test_no_socket(void **state)
{
	struct peer peer = {.pid = 4711};
	int fds[2];

	(void) state;
	assert_int_equal(pipe(fds), 0);
	assert_int_equal(peer_get(fds[0], &peer), -ENOTSOCK);
	assert_int_equal(peer.pid, 4711);
	close(fds[0]);
	close(fds[1]);
	assert_int_equal(peer_get(-1, &peer), -EBADF);
}

/* A process name with blanks and parentheses must not shift the fields of /proc/PID/stat. */
static void test_odd_process_name(void **state)
{
	struct peer peer;
	int pair[2];
	FILE *f = fopen("/proc/self/comm", "w");

	(void) state;
	assert_non_null(f);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(peer_get(pair[0], &peer), 0);
	uint64_t expected = peer.start_time;
	fputs("a) S 1 (b c", f);
	fclose(f);
	assert_int_equal(peer_get(pair[0], &peer), 0);
	assert_true(peer.start_time == expected);
	close(pair[0]);
	close(pair[1]);
}

/* Connecting */

static int listen_at(const char *path, int backlog)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
	if (backlog >= 0)
		assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

static void test_connect(void **state)
{
	TEMP_DIR(dir);
	char path[100], name[300];
	int fd = -2, clients[16], n = 0, r;

	(void) state;
	snprintf(path, sizeof(path), "%s/s", dir);
	assert_int_equal(peer_connect(path, SOCK_STREAM, &fd), -ENOENT);
	int listener = listen_at(path, -1);
	assert_int_equal(peer_connect(path, SOCK_STREAM, &fd), -ECONNREFUSED);
	assert_int_equal(peer_connect(path, SOCK_SEQPACKET, &fd), -EPROTOTYPE);
	assert_int_equal(fd, -2);
	assert_int_equal(listen(listener, 1), 0);
	/* One more than QEMU's backlog of 1 is taken, then connect would block. */
	while ((r = peer_connect(path, SOCK_STREAM, &fd)) == 0 && n < 16)
		clients[n++] = fd;
	assert_int_equal(r, -EAGAIN);
	assert_int_equal(n, 2);
	while (n > 0)
		close(clients[--n]);
	close(listener);
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = 0;
	assert_int_equal(peer_connect(name, SOCK_STREAM, &fd), -ENAMETOOLONG);
}

/* A VM's user may not send the broker to another VM by a link, wherever on the way it lies. */
static void test_links(void **state)
{
	_cleanup_(temp_remove) char *dir = open_dir();
	char run[60], path[200], link[200];
	struct monitor m;
	int fd;

	(void) state;
	make_dir(run, sizeof(run), dir, "run", 0755, VM);
	monitor_start(&m, dir, "s", 0, 0);
	snprintf(link, sizeof(link), "%s/link", run);
	snprintf(path, sizeof(path), "%s/up", run);
	for (int kind = 0; kind < 2; kind++) { /* absolute, relative */
		assert_int_equal(symlink(kind == 0 ? m.path : "../s", link), 0);
		assert_int_equal(peer_connect(link, SOCK_STREAM, &fd), 0);
		close(fd);
		assert_int_equal(lchown(link, VM, 0), 0);
		assert_int_equal(peer_connect(link, SOCK_STREAM, &fd), -ELOOP);
		assert_int_equal(unlink(link), 0);
	}
	/* In the middle of the way. */
	assert_int_equal(symlink("..", path), 0);
	snprintf(link, sizeof(link), "%s//./up/./s", run);
	assert_int_equal(peer_connect(link, SOCK_STREAM, &fd), 0);
	close(fd);
	assert_int_equal(lchown(path, VM, 0), 0);
	assert_int_equal(peer_connect(link, SOCK_STREAM, &fd), -ELOOP);
	/* A ring of root's. */
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("up", path), 0);
	assert_int_equal(peer_connect(link, SOCK_STREAM, &fd), -ELOOP);
	monitor_stop(&m);
}

/* Who listened is root now, by a program that makes everybody root. */
static void test_listener_that_has_become_root(void **state)
{
	_cleanup_(temp_remove) char *dir = open_dir();
	char run[60];
	struct monitor m;
	struct peer peer;

	(void) state;
	make_dir(run, sizeof(run), dir, "run", 0777, 0);
	assert_int_equal(chmod(run, 0777), 0);
	monitor_start(&m, run, "s", OTHER, 0);
	assert_int_equal(chmod(run, 0755), 0);
	assert_int_equal(peer_get(m.fd, &peer), 0);
	assert_int_equal(peer.uid, 0);
	assert_int_equal(peer.listener_uid, OTHER);
	checks_as(&m, VM, -EPERM, "uid 31002 made the socket");
	monitor_stop(&m);
}

/* Without a descriptor to look, nobody is dead. */
static void test_alive_as_far_as_we_know(void **state)
{
	struct peer peer;
	struct rlimit limit, none;
	int pair[2];

	(void) state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_int_equal(peer_get(pair[0], &peer), 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	bool alive = peer_is_alive(&peer);
	int r = peer_get(pair[0], &peer);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_true(alive);
	assert_int_equal(r, -EMFILE);
	close(pair[0]);
	close(pair[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connect),
		cmocka_unit_test(test_links),
		cmocka_unit_test(test_listener_that_has_become_root),
		cmocka_unit_test(test_alive_as_far_as_we_know),
		cmocka_unit_test(test_root),
		cmocka_unit_test(test_runas),
		cmocka_unit_test(test_directory_of_the_vm_user),
		cmocka_unit_test(test_world_writable_directory),
		cmocka_unit_test(test_directory_inside_a_world_writable_one),
		cmocka_unit_test(test_symlink_in_a_world_writable_directory),
		cmocka_unit_test(test_somebody_else_answers),
		cmocka_unit_test(test_vanished),
		cmocka_unit_test(test_alive),
		cmocka_unit_test(test_no_socket),
		cmocka_unit_test(test_odd_process_name),
	};

	if (geteuid() != 0) {
		puts("this test needs root");
		return 77; /* CTest: skipped */
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
