/* daemon_start: whom the program belongs to, and what it has open. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "helper/daemon.h"
#include "tests/unit/temp.h"

/* It says what it is: parent, session, standard input; and goes on until the file has gone. */
static const char script[] = "read -r _ _ _ parent _ session _ </proc/$$/stat\n"
			     "echo $parent $session $(readlink /proc/$$/fd/0) $PWD >\"$0.new\"\n"
			     "mv \"$0.new\" \"$0.said\"\n"
			     "while [ -e \"$0.said\" ]; do sleep 0.1; done\n";

static void write_script(const char *path)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	fputs(script, file);
	assert_int_equal(fclose(file), 0);
}

/* Blocks SIGTERM, as a program that reads its signals does, and starts the script. */
static void start(const char *program)
{
	sigset_t set, old;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, &old);
	assert_int_equal(daemon_start("/bin/sh", program), 0);
	sigprocmask(SIG_SETMASK, &old, NULL);
}

static void test_nobodys_child(void **state)
{
	TEMP_DIR(dir);
	char program[100], said[110], input[100] = "", folder[100] = "";
	long parent = 0, session = 0;
	FILE *file;

	(void) state;
	snprintf(program, sizeof(program), "%s/script", dir);
	snprintf(said, sizeof(said), "%s.said", program);
	write_script(program);
	start(program);
	assert_int_equal(waitpid(-1, NULL, 0), -1);
	assert_int_equal(errno, ECHILD);
	while (!(file = fopen(said, "r")))
		usleep(10000);
	assert_int_equal(fscanf(file, "%ld %ld %99s %99s", &parent, &session, input, folder), 4);
	fclose(file);
	assert_true(parent != getpid());
	assert_true(session != getsid(0));
	assert_string_equal(input, "/dev/null");
	assert_string_equal(folder, "/");
	assert_int_equal(unlink(said), 0);
}

/* It is said on stderr, and whoever waits is not held up. */
static void test_no_such_program(void **state)
{
	(void) state;
	assert_int_equal(daemon_start("/nowhere/to/be/found", "x"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nobodys_child),
		cmocka_unit_test(test_no_such_program),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
