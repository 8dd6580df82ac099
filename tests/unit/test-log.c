/* Log lines: clean, never waited for, never too many about one thing. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/log.h"
#include "broker/loop.h"

static int reader, real_stderr;

static int setup(void **state)
{
	int fds[2];

	(void) state;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	real_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
	dup2(fds[1], STDERR_FILENO);
	log_init(false); /* looks what stderr is */
	close(fds[1]);
	reader = fds[0];
	fcntl(reader, F_SETFL, O_NONBLOCK);
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	dup2(real_stderr, STDERR_FILENO);
	close(real_stderr);
	close(reader);
	return 0;
}

static const char *what_is_logged(void)
{
	static char text[1 << 20];
	ssize_t n = read(reader, text, sizeof(text) - 1);

	text[n > 0 ? n : 0] = 0;
	return text;
}

static unsigned count(const char *text, const char *part)
{
	unsigned n = 0;

	while ((text = strstr(text, part)) && ++n)
		text++;
	return n;
}

static void test_lines_are_clean(void **state)
{
	(void) state;
	log_info("%s: %s", "vm1", "a\nb\033[31m\xc2\x9b\x31m\xe2\x80\xae\xff");
	assert_string_equal(what_is_logged(), "vhotplug-broker: vm1: a?b?[31m?1m??\n");
}

static void test_nobody_reads(void **state)
{
	char line[500];

	(void) state;
	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = 0;
	/* Each about something else; a pipe has room for 64 KiB. */
	for (int i = 0; i < 400; i++)
		log_info("vm%d: %s", i, line);
	const char *text = what_is_logged();
	assert_in_range(count(text, "\n"), 50, 200);
	log_info("again");
	text = what_is_logged();
	assert_non_null(strstr(text, "lines of this log were lost: nobody read them\n"));
	assert_non_null(strstr(text, "vhotplug-broker: again\n"));
}

/* Ctrl-S: a terminal has room, but not for all of a line. */
static void test_terminal_is_stopped(void **state)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	char line[500];

	(void) state;
	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = 0;
	assert_int_equal(grantpt(master), 0);
	assert_int_equal(unlockpt(master), 0);
	int slave = open(ptsname(master), O_RDWR | O_NOCTTY | O_CLOEXEC);

	assert_int_not_equal(slave, -1);
	dup2(slave, STDERR_FILENO);
	log_init(false);
	alarm(60); /* it would wait for ever */
	for (int i = 0; i < 400; i++)
		log_info("vm%d: %s", i, line);
	alarm(0);
	assert_int_equal(fcntl(slave, F_GETFL) & O_NONBLOCK, 0); /* others who have it wait */
	close(slave);
	close(master);
}

static void test_reader_has_gone(void **state)
{
	(void) state;
	close(reader);
	for (int i = 0; i < 3; i++)
		log_info("vm%d: is anybody there?", i);
	errno = EDOM;
	log_info("vm9: is anybody there?");
	assert_int_equal(errno, EDOM);
}

/* One VM's flood leaves room for the others, and for itself about other things. */
static void test_flood(void **state)
{
	(void) state;
	for (int i = 0; i < 10000; i++)
		log_info("%s: refused a call of uid %d", "vm1", i);
	assert_int_equal(count(what_is_logged(), "\n"), 30);
	log_info("%s: refused a call of uid %d", "vm1", 1);
	assert_string_equal(what_is_logged(), "");
	log_info("%s: refused a call of uid %d", "vm2", 1);
	log_info("%s: up", "vm1");
	assert_int_equal(count(what_is_logged(), "\n"), 2);
	struct loop *loop;
	assert_int_equal(loop_new(&loop), 0);
	loop_skip_waiting(true);
	assert_int_equal(loop_pass(loop, now_monotonic_ms() + 120000), 0);
	loop_free(loop);
	log_info("%s: refused a call of uid %d", "vm1", 7);
	assert_string_equal(
		what_is_logged(),
		"vhotplug-broker: vm1: refused a call of uid 7 (and 9971 more lines like this "
		"one)\n");
}

int main(void)
{
#define LOG_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		LOG_TEST(test_lines_are_clean),
		LOG_TEST(test_nobody_reads),
		LOG_TEST(test_terminal_is_stopped),
		LOG_TEST(test_reader_has_gone),
		LOG_TEST(test_flood),
	};

	signal(SIGPIPE, SIG_IGN); /* as main does */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
