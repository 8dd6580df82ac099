/* helper_run in a forked child against brokers that take, refuse, lie, hang and hang up: what the
 * exit status is, how long it waited, and what lies in the spool afterwards.
 *
 * The clock is the test's own (tests/CMakeLists.txt puts it in the place of the system's): it moves
 * only where poll waits in vain. So a busy machine changes nothing, and no test waits for real. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "helper/deliver.h"
#include "helper/helper.h"
#include "helper/spool.h"
#include "tests/unit/temp.h"

#define PATIENCE_MS 60000 /* real ones, for an answer that comes */
#define SIGNAL_MS 20

static long *clock_ms;    /* what the time is here and in the helpers */
static bool answer_comes; /* poll waits for it, as long as that takes */
static bool signals_come; /* every SIGNAL_MS */

int __real_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout)
{
	int r = __real_poll(fds, n, answer_comes ? PATIENCE_MS : 0);

	if (r != 0)
		return r;
	if (signals_come && timeout > SIGNAL_MS) {
		*clock_ms += SIGNAL_MS;
		errno = EINTR;
		return -1;
	}
	*clock_ms += timeout;
	return 0;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
	(void) clock;
	*ret = (struct timespec){.tv_sec = *clock_ms / 1000, .tv_nsec = *clock_ms % 1000 * 1000000};
	return 0;
}

static int setup(void **state)
{
	(void) state;
	answer_comes = signals_come = false;
	*clock_ms = 0;
	return 0;
}

static int listen_in(const char *dir, int backlog)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/" WIRE_SOCKET_NAME, dir);
	assert_int_equal(bind(fd, (struct sockaddr *) &addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, backlog), 0);
	return fd;
}

/* Starts a helper for the event SEQNUM. */
static pid_t helper_start(const char *dir, unsigned seqnum)
{
	char number[16];
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	snprintf(number, sizeof(number), "%u", seqnum);
	clearenv();
	setenv("ACTION", "add", 1);
	setenv("DEVPATH", "/devices/nowhere", 1);
	setenv("SEQNUM", number, 1);
	/* What it says goes nowhere: stderr would only confuse the test's output. */
	dup2(open("/dev/null", O_WRONLY), 2);
	bool alone;

	_exit(helper_run(dir, &alone));
}

static int helper_wait(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* Runs a helper to its end; returns the milliseconds it has waited. */
static long helper_time(const char *dir, unsigned seqnum, int expected_status)
{
	long start = *clock_ms;

	assert_int_equal(helper_wait(helper_start(dir, seqnum)), expected_status);
	return *clock_ms - start;
}

static size_t spooled(const char *dir)
{
	_cleanup_free_ uint64_t *list = NULL;
	_cleanup_close_ int fd = -1;
	size_t n;

	assert_int_equal(spool_open(dir, &fd), 0);
	assert_int_equal(spool_list(fd, &list, &n), 0);
	return n;
}

static bool is_spooled(const char *dir, uint64_t number)
{
	_cleanup_free_ uint64_t *list = NULL;
	_cleanup_close_ int fd = -1;
	size_t n;

	assert_int_equal(spool_open(dir, &fd), 0);
	assert_int_equal(spool_list(fd, &list, &n), 0);
	for (size_t i = 0; i < n; i++)
		if (list[i] == number)
			return true;
	return false;
}

/* Accepts one helper, checks its message and gives LEN bytes of ANSWER; -1: keeps silent. Returns
 * the connection. */
static int broker_answer(int listener, const char *answer, ssize_t len)
{
	struct wire_msg msg;
	int fd = accept(listener, NULL, NULL);
	ssize_t n = recv(fd, msg.data, sizeof(msg.data), 0);

	assert_true(n > 0);
	msg.len = (size_t) n;
	assert_int_equal(wire_check(&msg), 0);
	assert_string_equal(wire_get(&msg, "DEVPATH"), "/devices/nowhere");
	if (len >= 0)
		assert_int_equal(send(fd, answer, (size_t) len, MSG_NOSIGNAL), len);
	return fd;
}

static void test_taken(void **state)
{
	TEMP_DIR(dir);
	_cleanup_close_ int listener = listen_in(dir, 8);

	(void) state;
	answer_comes = true;
	pid_t pid = helper_start(dir, 1);
	_cleanup_close_ int fd = broker_answer(listener, "T", 1);
	assert_int_equal(helper_wait(pid), 0);
	assert_int_equal(spooled(dir), 0);
}

static void test_refused_at_once(void **state)
{
	TEMP_DIR(dir);
	_cleanup_close_ int listener = listen_in(dir, 8);

	(void) state;
	answer_comes = true;
	pid_t pid = helper_start(dir, 1);
	_cleanup_close_ int fd = broker_answer(listener, "R", 1);
	assert_int_equal(helper_wait(pid), 0);
	assert_int_equal(spooled(dir), 1);
	assert_int_equal(*clock_ms, 0);
}

static void test_answers_that_are_none(void **state)
{
	static const char *const answers[] = {"X", "TT", "T\n"};
	TEMP_DIR(dir);
	_cleanup_close_ int listener = listen_in(dir, 8);

	(void) state;
	answer_comes = true;
	for (unsigned i = 0; i < ARRAY_SIZE(answers); i++) {
		pid_t pid = helper_start(dir, i);
		_cleanup_close_ int fd =
			broker_answer(listener, answers[i], (ssize_t) strlen(answers[i]));
		assert_int_equal(helper_wait(pid), 0);
		assert_int_equal(spooled(dir), i + 1);
	}
}

static void test_hang_up(void **state)
{
	TEMP_DIR(dir);
	_cleanup_close_ int listener = listen_in(dir, 8);

	(void) state;
	answer_comes = true;
	pid_t pid = helper_start(dir, 1);
	close(broker_answer(listener, NULL, -1));
	assert_int_equal(helper_wait(pid), 0);
	assert_int_equal(spooled(dir), 1);
	assert_int_equal(*clock_ms, 0);
}

static void test_nobody(void **state)
{
	TEMP_DIR(dir);
	char missing[64];

	(void) state;
	assert_int_equal(helper_time(dir, 1, 0), 0);
	assert_int_equal(spooled(dir), 1);

	/* A socket that a dead broker left. */
	close(listen_in(dir, 8));
	assert_int_equal(helper_time(dir, 2, 0), 0);
	assert_int_equal(spooled(dir), 2);

	/* Early in the boot: not even the directory. */
	snprintf(missing, sizeof(missing), "%s/vhotplug", dir);
	assert_int_equal(helper_time(missing, 3, 0), 0);
	assert_int_equal(spooled(missing), 1);
}

static void test_silent_broker(void **state)
{
	TEMP_DIR(dir);
	_cleanup_close_ int listener = listen_in(dir, 8);

	(void) state;
	assert_int_equal(helper_time(dir, 1, 0), HELPER_TIMEOUT_MS);
	assert_int_equal(spooled(dir), 1);
}

/* The deadline is one for the whole way: signals do not start it anew, or it would never come. */
static void test_deadline_with_signals(void **state)
{
	TEMP_DIR(dir);
	_cleanup_close_ int listener = listen_in(dir, 8);
	struct wire_msg msg;
	char answer = 'x';

	(void) state;
	wire_init(&msg);
	signals_come = true;
	assert_int_equal(deliver_message(dir, &msg, 300, &answer), -ETIMEDOUT);
	assert_int_equal(*clock_ms, 300);
	assert_int_equal(answer, 'x');
}

/* Nobody accepts and the queue is full: connect would wait without an end if it were let. */
static void test_full_backlog(void **state)
{
	TEMP_DIR(dir);
	_cleanup_close_ int listener = listen_in(dir, 0);
	struct pollfd p = {.fd = listener, .events = POLLIN};
	struct wire_msg msg;
	char answer;

	(void) state;
	answer_comes = true;
	pid_t pid = helper_start(dir, 1);
	assert_int_equal(__real_poll(&p, 1, PATIENCE_MS), 1);
	answer_comes = false;
	wire_init(&msg);
	assert_int_equal(deliver_message(dir, &msg, 5000, &answer), -EAGAIN);
	assert_int_equal(helper_time(dir, 2, 0), 0);
	assert_true(is_spooled(dir, 2));
	close(accept(listener, NULL, NULL));
	assert_int_equal(helper_wait(pid), 0);
	assert_true(is_spooled(dir, 1));
}

/* The errors that the header names, on the sender's side. */
static void test_errors(void **state)
{
	TEMP_DIR(dir);
	struct wire_msg msg;
	char answer = 'x';
	pid_t pid;

	(void) state;
	answer_comes = true;
	wire_init(&msg);
	assert_int_equal(deliver_message(dir, &msg, 100, &answer), -ENOENT);
	_cleanup_close_ int listener = listen_in(dir, 8);
	pid = fork();
	if (pid == 0) {
		struct wire_msg received;
		int fd = accept(listener, NULL, NULL);
		_exit(recv(fd, received.data, sizeof(received.data), 0) < 0);
	}
	assert_int_equal(deliver_message(dir, &msg, 5000, &answer), -ECONNRESET);
	assert_int_equal(helper_wait(pid), 0);
	listener = close_fd(listener);
	assert_int_equal(deliver_message(dir, &msg, 100, &answer), -ECONNREFUSED);
	assert_int_equal(answer, 'x');
}

static void test_long_run_dir(void **state)
{
	char run_dir[200], answer;
	struct wire_msg msg;

	(void) state;
	memset(run_dir, 'd', sizeof(run_dir));
	run_dir[0] = '/';
	run_dir[sizeof(run_dir) - 1] = 0;
	wire_init(&msg);
	assert_int_equal(deliver_message(run_dir, &msg, 100, &answer), -ENAMETOOLONG);
}

static void test_event_lost(void **state)
{
	TEMP_DIR(dir);
	char spool[64];

	(void) state;
	snprintf(spool, sizeof(spool), "%s/spool", dir);
	assert_int_equal(symlink("/tmp", spool), 0);
	assert_int_equal(helper_time(dir, 1, 1), 0);
	assert_int_equal(unlink(spool), 0);

	/* At the cap: lost, and the mark says so. */
	_cleanup_close_ int fd = -1;
	assert_int_equal(spool_open(dir, &fd), 0);
	for (unsigned i = 0; i < SPOOL_MAX; i++) {
		char name[32];
		snprintf(name, sizeof(name), "%020u", i);
		close(openat(fd, name, O_CREAT | O_WRONLY, 0600));
	}
	assert_int_equal(helper_time(dir, 5000, 1), 0);
	assert_int_equal(spool_take_lost(fd), 1);
}

/* Accepts one helper, takes what is odd and refuses the rest. */
static void answer_by_number(int listener)
{
	struct wire_msg msg;
	_cleanup_close_ int fd = accept(listener, NULL, NULL);
	ssize_t n = recv(fd, msg.data, sizeof(msg.data), 0);

	assert_true(n > 0);
	msg.len = (size_t) n;
	assert_int_equal(wire_check(&msg), 0);
	int number = atoi(wire_get(&msg, "SEQNUM"));
	assert_int_equal(send(fd, number % 2 ? "T" : "R", 1, MSG_NOSIGNAL), 1);
}

/* Fifty at once, for a broker that takes every other one: each event is in one place. */
static void test_concurrent(void **state)
{
	enum { N = 50 };
	TEMP_DIR(dir);
	_cleanup_close_ int listener = listen_in(dir, N);
	pid_t pids[N];

	(void) state;
	answer_comes = true;
	for (unsigned i = 0; i < N; i++)
		pids[i] = helper_start(dir, i);
	for (unsigned i = 0; i < N; i++)
		answer_by_number(listener);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(helper_wait(pids[i]), 0);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(is_spooled(dir, i), i % 2 == 0);
}

/* The same, with nobody there and no directory yet. */
static void test_concurrent_spool(void **state)
{
	enum { N = 50 };
	TEMP_DIR(dir);
	char run[64];
	pid_t pids[N];

	(void) state;
	snprintf(run, sizeof(run), "%s/run", dir);
	for (unsigned i = 0; i < N; i++)
		pids[i] = helper_start(run, i);
	for (unsigned i = 0; i < N; i++)
		assert_int_equal(helper_wait(pids[i]), 0);
	assert_int_equal(spooled(run), N);
}

static void test_inherited_descriptors(void **state)
{
	int low = open("/dev/null", O_RDONLY), high = fcntl(low, F_DUPFD, 700), status;
	pid_t pid = fork();

	(void) state;
	if (pid == 0) {
		close(0);
		helper_close_inherited();
		_exit(fcntl(0, F_GETFD) < 0 || fcntl(low, F_GETFD) >= 0 ||
		      fcntl(high, F_GETFD) >= 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	close(low);
	close(high);
}

int main(void)
{
#define DELIVER_TEST(test) cmocka_unit_test_setup(test, setup)
	static const struct CMUnitTest tests[] = {
		DELIVER_TEST(test_taken),
		DELIVER_TEST(test_refused_at_once),
		DELIVER_TEST(test_answers_that_are_none),
		DELIVER_TEST(test_hang_up),
		DELIVER_TEST(test_nobody),
		DELIVER_TEST(test_silent_broker),
		DELIVER_TEST(test_deadline_with_signals),
		DELIVER_TEST(test_full_backlog),
		DELIVER_TEST(test_errors),
		DELIVER_TEST(test_long_run_dir),
		DELIVER_TEST(test_event_lost),
		DELIVER_TEST(test_concurrent),
		DELIVER_TEST(test_concurrent_spool),
		DELIVER_TEST(test_inherited_descriptors),
	};

	clock_ms = mmap(NULL, sizeof(*clock_ms), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			-1, 0);
	if (clock_ms == MAP_FAILED)
		abort();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
