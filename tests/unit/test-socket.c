/* Packets with descriptors, and sockets that others connect to. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>

#include "broker/socket.h"
#include "tests/unit/temp.h"

static void make_pair(int pair[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
}

static void test_descriptors_come_along(void **state)
{
	int pair[2], fds[3] = {0, 1, 2}, got[4];
	char data[8];
	size_t n;

	(void) state;
	make_pair(pair);
	assert_int_equal(socket_send(pair[0], "abc", 3, fds, 3), 3);
	assert_int_equal(socket_send(pair[0], "d", 1, NULL, 0), 1);
	assert_int_equal(socket_receive(pair[1], data, sizeof(data), got, 4, &n), 3);
	assert_memory_equal(data, "abc", 3);
	assert_int_equal(n, 3);
	for (size_t i = 0; i < n; i++) {
		assert_true(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
		close(got[i]);
	}
	assert_int_equal(socket_receive(pair[1], data, sizeof(data), got, 4, &n), 1);
	assert_int_equal(n, 0);
	assert_int_equal(socket_receive(pair[1], data, sizeof(data), got, 4, &n), -EAGAIN);
	close(pair[0]);
	assert_int_equal(socket_receive(pair[1], data, sizeof(data), got, 4, &n), 0);
	assert_int_equal(socket_send(pair[1], "x", 1, NULL, 0), -EPIPE);
	close(pair[1]);
}

static int n_open(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

/* More than was asked for: none is left open behind the caller's back. */
static void test_too_many_descriptors(void **state)
{
	int pair[2], fds[SOCKET_MAX_FDS], got[2], before;
	char data[8];
	size_t n;

	(void) state;
	make_pair(pair);
	for (size_t i = 0; i < SOCKET_MAX_FDS; i++)
		fds[i] = 0;
	before = n_open();
	assert_int_equal(socket_send(pair[0], "abc", 3, fds, SOCKET_MAX_FDS), 3);
	assert_int_equal(socket_receive(pair[1], data, sizeof(data), got, 2, &n), 3);
	assert_int_equal(n, 2);
	assert_int_equal(n_open(), before + 2);
	close(got[0]);
	close(got[1]);
	assert_int_equal(socket_send(pair[0], "abc", 3, fds, SOCKET_MAX_FDS + 1), -E2BIG);
	close(pair[0]);
	close(pair[1]);
}

static void test_out_of_descriptors(void **state)
{
	int pair[2], fds[2] = {0, 1}, got[2], probe;
	struct rlimit limit, none;
	char data[8];
	size_t n;

	(void) state;
	make_pair(pair);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(socket_send(pair[0], "abc", 3, fds, 2), 3);
	probe = dup(0);
	close(probe);
	none = (struct rlimit){.rlim_cur = (rlim_t) probe + 1, .rlim_max = limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(socket_receive(pair[1], data, sizeof(data), got, 2, &n), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(n, 0);
	assert_memory_equal(data, "abc", 3);
	assert_int_equal(fcntl(probe, F_GETFD), -1);
	close(pair[0]);
	close(pair[1]);
}

static void test_listen(void **state)
{
	TEMP_DIR(dir);
	char path[120], longer[200];
	struct stat st;

	(void) state;
	snprintf(path, sizeof(path), "%s/sock", dir);
	for (int i = 0; i < 2; i++) { /* the second takes the place of the first */
		int fd = socket_listen(path, SOCK_STREAM, 1, 31001);

		assert_true(fd >= 0 && fcntl(fd, F_GETFL) & O_NONBLOCK);
		assert_int_equal(stat(path, &st), 0);
		assert_int_equal(st.st_mode, S_IFSOCK | 0600);
		assert_int_equal(st.st_uid, 31001);
		close(fd);
	}
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = 0;
	assert_int_equal(socket_listen(longer, SOCK_STREAM, 1, 0), -ENAMETOOLONG);
	snprintf(path, sizeof(path), "%s/no/sock", dir);
	assert_int_equal(socket_listen(path, SOCK_STREAM, 1, 0), -ENOENT);
}

static void assert_is_there(const char *path, mode_t kind)
{
	struct stat st;

	assert_int_equal(lstat(path, &st), 0);
	assert_int_equal(st.st_mode & S_IFMT, kind);
}

/* A VM's user makes his directory a link to another VM's, whose socket has the same name. */
static void test_listen_through_a_link(void **state)
{
	TEMP_DIR(dir);
	char own[100], link[100], other[100], socket[120], path[120];

	(void) state;
	snprintf(other, sizeof(other), "%s/vm2", dir);
	snprintf(link, sizeof(link), "%s/vm1", dir);
	snprintf(own, sizeof(own), "%s/roots", dir);
	snprintf(socket, sizeof(socket), "%s/sock", other);
	assert_int_equal(mkdir(other, 0700), 0);
	int fd = socket_listen(socket, SOCK_STREAM, 1, 31002);
	assert_true(fd >= 0);
	ino_t inode = socket_inode(socket);
	assert_int_equal(symlink(other, link), 0);
	assert_int_equal(lchown(link, 31001, 31001), 0);
	snprintf(path, sizeof(path), "%s/sock", link);
	assert_int_equal(socket_listen(path, SOCK_STREAM, 1, 31001), -ELOOP);
	assert_int_equal(socket_inode(path), 0);
	socket_remove(path, inode);
	assert_int_equal(socket_inode(socket), inode);
	close(fd);
	/* Root's links lead where root wants. */
	assert_int_equal(symlink(other, own), 0);
	snprintf(path, sizeof(path), "%s/sock", own);
	fd = socket_listen(path, SOCK_STREAM, 1, 31001);
	assert_true(fd >= 0);
	close(fd);
	socket_remove(path, socket_inode(path));
	assert_int_equal(socket_inode(socket), 0);
}

/* What is no socket nobody has put there for us to remove. */
static void test_listen_in_place_of_a_file(void **state)
{
	TEMP_DIR(dir);
	char path[100];

	(void) state;
	snprintf(path, sizeof(path), "%s/sock", dir);
	close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(socket_listen(path, SOCK_STREAM, 1, 31001), -EADDRINUSE);
	assert_is_there(path, S_IFREG);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink("/dev/null", path), 0);
	assert_int_equal(socket_listen(path, SOCK_STREAM, 1, 31001), -EADDRINUSE);
	assert_is_there(path, S_IFLNK);
}

/* Whoever owns the directory swaps the socket for another file in the moment after bind. */
static const char *swapped;

int __real_bind(int fd, const struct sockaddr *address, socklen_t size);
int __wrap_bind(int fd, const struct sockaddr *address, socklen_t size);
int __wrap_bind(int fd, const struct sockaddr *address, socklen_t size)
{
	int r = __real_bind(fd, address, size);

	if (swapped)
		rename(swapped, ((const struct sockaddr_un *) address)->sun_path);
	return r;
}

static void test_swapped_socket(void **state)
{
	TEMP_DIR(dir);
	char path[100], other[100], target[100];
	struct stat st;

	(void) state;
	snprintf(path, sizeof(path), "%s/sock", dir);
	snprintf(other, sizeof(other), "%s/other", dir);
	snprintf(target, sizeof(target), "%s/secret", dir);
	close(open(target, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	swapped = other;
	for (int kind = 0; kind < 2; kind++) {
		assert_int_equal(kind == 0 ? link(target, other) : symlink(target, other), 0);
		assert_true(socket_listen(path, SOCK_STREAM, 1, 31001) < 0);
		assert_int_equal(stat(target, &st), 0);
		assert_int_equal(st.st_uid, 0);
		assert_int_equal(lstat(path, &st), 0);
		assert_int_equal(st.st_uid, 0);
	}
	swapped = NULL;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_descriptors_come_along),
		cmocka_unit_test(test_too_many_descriptors),
		cmocka_unit_test(test_out_of_descriptors),
		cmocka_unit_test(test_listen),
		cmocka_unit_test(test_listen_through_a_link),
		cmocka_unit_test(test_listen_in_place_of_a_file),
		cmocka_unit_test(test_swapped_socket),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
