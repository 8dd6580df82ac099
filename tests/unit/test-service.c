/* Socket activation, readiness and directories, each with its variables unset, right and wrong. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "broker/service.h"
#include "tests/unit/temp.h"

/* Listening: in a child, because descriptor 3 must be ours. */

static int unix_listener(int type, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ||
	    (type != SOCK_DGRAM && listen(fd, 1) < 0))
		abort();
	return fd;
}

static void set_variables(const char *pid, const char *fds)
{
	char own[16];

	snprintf(own, sizeof(own), "%d", (int) getpid());
	clearenv();
	if (pid)
		setenv("LISTEN_PID", *pid ? pid : own, 1);
	if (fds)
		setenv("LISTEN_FDS", fds, 1);
	setenv("LISTEN_FDNAMES", "event", 1);
}

/* What service_listen_fd returns with FD as descriptor 3; 100 + that. PID "" is our own. */
static int listen_result(int fd, const char *pid, const char *fds)
{
	pid_t child = fork();
	int status;

	if (child == 0) {
		if (fd >= 0 && fd != 3)
			dup2(fd, 3);
		else if (fd < 0)
			close(3);
		set_variables(pid, fds);
		int r = service_listen_fd();
		if (getenv("LISTEN_PID") || getenv("LISTEN_FDS") || getenv("LISTEN_FDNAMES"))
			_exit(1);
		if (r >= 0 &&
		    (!(fcntl(r, F_GETFD) & FD_CLOEXEC) || !(fcntl(r, F_GETFL) & O_NONBLOCK)))
			_exit(2);
		_exit(100 + r);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status) - 100;
}

static void test_listen(void **state)
{
	TEMP_DIR(dir);
	char path[100];

	(void) state;
	snprintf(path, sizeof(path), "%s/s", dir);
	int good = unix_listener(SOCK_SEQPACKET, path);
	assert_int_equal(listen_result(good, NULL, NULL), -1);
	assert_int_equal(listen_result(good, "", NULL), -1);
	assert_int_equal(listen_result(good, NULL, "1"), -1);
	assert_int_equal(listen_result(good, "1", "1"), -1); /* somebody else's */
	assert_int_equal(listen_result(good, "", "0"), -1);
	assert_int_equal(listen_result(good, "", ""), -1);
	assert_int_equal(listen_result(good, "", "1"), 3);
	assert_int_equal(listen_result(good, "", "2"), -EINVAL);
	assert_int_equal(listen_result(good, "", "-1"), -EINVAL);
	assert_int_equal(listen_result(-1, "", "1"), -EINVAL); /* not open */
	close(good);
}

static void test_listen_on_the_wrong_thing(void **state)
{
	TEMP_DIR(dir);
	char stream[100], datagram[100];

	(void) state;
	snprintf(stream, sizeof(stream), "%s/a", dir);
	snprintf(datagram, sizeof(datagram), "%s/b", dir);
	int fds[] = {unix_listener(SOCK_STREAM, stream), unix_listener(SOCK_DGRAM, datagram),
		     socket(AF_UNIX, SOCK_SEQPACKET, 0), open("/dev/null", O_RDWR)};

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		assert_int_equal(listen_result(fds[i], "", "1"), -EINVAL);
		close(fds[i]);
	}
}

/* Readiness */

static void receives(int fd, const char *expected)
{
	char text[64];
	ssize_t n = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT);

	assert_int_equal(n, strlen(expected));
	text[n] = 0;
	assert_string_equal(text, expected);
}

static void test_notify(void **state)
{
	TEMP_DIR(dir);
	char path[100];

	(void) state;
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(service_notify("READY=1"), 0);

	snprintf(path, sizeof(path), "%s/n", dir);
	int fd = unix_listener(SOCK_DGRAM, path);
	setenv("NOTIFY_SOCKET", path, 1);
	assert_int_equal(service_notify("READY=1"), 0);
	receives(fd, "READY=1");
	close(fd);
	assert_int_equal(service_notify("READY=1"), -ECONNREFUSED);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(service_notify("READY=1"), -ENOENT);
	unsetenv("NOTIFY_SOCKET");
}

static void test_notify_abstract(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	char name[64];
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

	(void) state;
	snprintf(name, sizeof(name), "@vhp-test-%d", (int) getpid());
	memcpy(address.sun_path + 1, name + 1, strlen(name) - 1);
	socklen_t size = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + strlen(name));
	assert_int_equal(bind(fd, (struct sockaddr *) &address, size), 0);
	setenv("NOTIFY_SOCKET", name, 1);
	assert_int_equal(service_notify("STOPPING=1"), 0);
	receives(fd, "STOPPING=1");
	close(fd);
	unsetenv("NOTIFY_SOCKET");
}

static void test_notify_to_nonsense(void **state)
{
	char name[200];

	(void) state;
	setenv("NOTIFY_SOCKET", "", 1);
	assert_int_equal(service_notify("READY=1"), -EINVAL);
	setenv("NOTIFY_SOCKET", "relative", 1);
	assert_int_equal(service_notify("READY=1"), -EINVAL);
	setenv("NOTIFY_SOCKET", "@", 1);
	assert_int_equal(service_notify("READY=1"), -EINVAL);
	memset(name, 'x', sizeof(name));
	name[0] = '/';
	name[sizeof(((struct sockaddr_un *) 0)->sun_path)] = 0; /* one too long */
	setenv("NOTIFY_SOCKET", name, 1);
	assert_int_equal(service_notify("READY=1"), -ENAMETOOLONG);
	unsetenv("NOTIFY_SOCKET");
}

/* Directories */

static void directory_is(const char *value, const char *expected)
{
	char path[32];

	if (value)
		setenv("STATE_DIRECTORY", value, 1);
	else
		unsetenv("STATE_DIRECTORY");
	assert_int_equal(service_directory("STATE_DIRECTORY", "/fall/back", path, sizeof(path)), 0);
	assert_string_equal(path, expected);
}

static void test_directories(void **state)
{
	char path[8] = "before";

	(void) state;
	directory_is(NULL, "/fall/back");
	directory_is("", "/fall/back");
	directory_is("relative:/a", "/fall/back");
	directory_is("/a", "/a");
	directory_is("/a/b:/c", "/a/b");
	setenv("STATE_DIRECTORY", "/1234567", 1);
	assert_int_equal(service_directory("STATE_DIRECTORY", "/", path, sizeof(path)),
			 -ENAMETOOLONG);
	assert_string_equal(path, "before");
	setenv("STATE_DIRECTORY", "/123456", 1);
	assert_int_equal(service_directory("STATE_DIRECTORY", "/", path, sizeof(path)), 0);
	assert_string_equal(path, "/123456");
	unsetenv("STATE_DIRECTORY");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_listen),
		cmocka_unit_test(test_listen_on_the_wrong_thing),
		cmocka_unit_test(test_notify),
		cmocka_unit_test(test_notify_abstract),
		cmocka_unit_test(test_notify_to_nonsense),
		cmocka_unit_test(test_directories),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
