/* Running the crosvm program: every way it can end, against the stand-in for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "broker/crosvm_command.h"
#include "tests/unit/crosvm-double.h"
#include "tests/unit/temp.h"

#define CROSVM DOUBLES "/crosvm"
#define PATIENCE_MS 60000

struct fixture {
	char *dir;
	char socket[128], device[128];
	struct loop *loop;
	struct crosvm_double crosvm;
	struct crosvm_command *command;
	struct crosvm_command_result result;
	struct crosvm_reply reply;
	unsigned n_ended;
};

static int setup(void **state)
{
	static const uint8_t descriptor[18] = {18, 1, 0, 2, 0, 0, 0, 64, 0x6d, 0x04, 0x1c, 0xc3};
	struct fixture *f = calloc(1, sizeof(*f));

	f->dir = temp_new();
	snprintf(f->socket, sizeof(f->socket), "%s/crosvm.sock", f->dir);
	snprintf(f->device, sizeof(f->device), "%s/device", f->dir);
	FILE *file = fopen(f->device, "we");
	assert_non_null(file);
	fwrite(descriptor, 1, sizeof(descriptor), file);
	fclose(file);
	assert_int_equal(loop_new(&f->loop), 0);
	double_start(&f->crosvm, f->socket);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	loop_free(f->loop);
	double_stop(&f->crosvm, 0);
	temp_remove(&f->dir);
	free(f);
	return 0;
}

static void ended(void *data, const struct crosvm_command_result *result)
{
	struct fixture *f = data;

	f->n_ended++;
	f->result = *result;
	loop_quit(f->loop);
}

static void end_loop(void *data)
{
	loop_quit(data);
}

static void run_loop(struct fixture *f, unsigned ms)
{
	struct loop_timer limit = {0};

	loop_timer_start(f->loop, &limit, ms, end_loop, f->loop);
	assert_int_equal(loop_run(f->loop), 0);
	loop_timer_stop(&limit);
}

static void run_for(struct fixture *f, const char *const *argv, unsigned deadline_ms)
{
	f->n_ended = 0;
	assert_int_equal(crosvm_command_run(f->loop, argv, -1, deadline_ms, ended, f, &f->command),
			 0);
	/* Never before the call returns. */
	assert_int_equal(f->n_ended, 0);
	run_loop(f, PATIENCE_MS);
	assert_int_equal(f->n_ended, 1);
	crosvm_command_parse(argv[0], &f->result, &f->reply);
}

#define RUN(f, ...)                                                      \
	do {                                                             \
		const char *const words[] = {CROSVM, __VA_ARGS__, NULL}; \
		run_for(f, words, PATIENCE_MS);                          \
	} while (0)

static void assert_reply(const struct fixture *f, enum crosvm_answer answer, const char *words)
{
	if (f->reply.answer != answer || !strstr(f->reply.text, words))
		fail_msg("answer %d (%s), not %d (…%s…); printed \"%s\", \"%s\"", f->reply.answer,
			 f->reply.text, answer, words, f->result.out, f->result.err);
	assert_null(strchr(f->reply.text, '\n'));
}

static void test_usb_words(void **state)
{
	struct fixture *f = *state;

	RUN(f, "usb", "list", f->socket);
	assert_reply(f, CROSVM_DEVICES, "");
	RUN(f, "usb", "attach", "00:00:00:00", f->device, f->socket);
	assert_reply(f, CROSVM_OK, "ok 1");
	assert_int_equal(f->reply.port, 1);
	RUN(f, "usb", "attach", "00:00:00:00", f->device, f->socket);
	assert_int_equal(f->reply.port, 2);
	RUN(f, "usb", "list", f->socket);
	assert_reply(f, CROSVM_DEVICES, "");
	assert_true(f->reply.ports[1].used && f->reply.ports[2].used && !f->reply.ports[3].used);
	assert_int_equal(f->reply.ports[2].vendor, 0x046d);
	assert_int_equal(f->reply.ports[2].product, 0xc31c);
	RUN(f, "usb", "detach", "1", f->socket);
	assert_reply(f, CROSVM_OK, "ok 1");
}

/* Exit status 0, and yet it failed. */
static void test_failures_with_status_0(void **state)
{
	struct fixture *f = *state;

	RUN(f, "usb", "detach", "1", f->socket);
	assert_int_equal(f->result.status, 0);
	assert_reply(f, CROSVM_NO_SUCH_DEVICE, "no_such_device");
	double_do(&f->crosvm, "guest off");
	RUN(f, "usb", "attach", "00:00:00:00", f->device, f->socket);
	assert_int_equal(f->result.status, 0);
	assert_reply(f, CROSVM_NO_AVAILABLE_PORT, "no_available_port");
}

static void test_errors(void **state)
{
	struct fixture *f = *state;

	RUN(f, "usb", "attach", "00:00:00:00", "/nonexistent", f->socket);
	assert_reply(f, CROSVM_ERROR, "failed to open device /nonexistent: No such file");
	RUN(f, "usb", "list", "/nonexistent");
	assert_reply(f, CROSVM_ERROR, "error socket failed (status 1)");
	double_do(&f->crosvm, "usb off");
	RUN(f, "usb", "list", f->socket);
	assert_reply(f, CROSVM_ERROR, "Input/output error (os error 5)");
}

static void test_vfio(void **state)
{
	struct fixture *f = *state;
	char first[128], second[128];

	double_stop(&f->crosvm, 0);
	snprintf(first, sizeof(first), "%s", double_pci_function(f->dir, "ffff:ff:1f.6"));
	snprintf(second, sizeof(second), "%s", double_pci_function(f->dir, "ffff:ff:1f.7"));
	double_start(&f->crosvm, f->socket);
	RUN(f, "vfio", "add", first, f->socket);
	assert_reply(f, CROSVM_OK, "done");
	assert_int_equal(double_functions(&f->crosvm), 1);
	double_do(&f->crosvm, "pci refuse");
	RUN(f, "vfio", "add", second, f->socket);
	assert_reply(f, CROSVM_ERROR, "unexpected response: error: Invalid argument");
	RUN(f, "vfio", "remove", second, f->socket);
	assert_reply(f, CROSVM_ERROR, "Invalid argument");
	/* Said is not done. */
	RUN(f, "vfio", "remove", first, f->socket);
	assert_reply(f, CROSVM_OK, "done");
	assert_int_equal(double_functions(&f->crosvm), 1);
	/* It says so on standard error only. */
	RUN(f, "vfio", "add", "/nonexistent", f->socket);
	assert_reply(f, CROSVM_ERROR, "Invalid host sysfs path: \"/nonexistent\" (status 1)");
}

static void test_arguments_it_does_not_know(void **state)
{
	struct fixture *f = *state;

	RUN(f, "vfio-pci", "add", f->dir, f->socket);
	assert_int_equal(WEXITSTATUS(f->result.status), 35);
	assert_reply(f, CROSVM_ERROR, "does not know this command (status 35)");
}

static void test_a_program_that_can_not_be_run(void **state)
{
	struct fixture *f = *state;
	const char *const missing[] = {"/nonexistent/crosvm", "usb", "list", "x", NULL};
	const char *const no_program[] = {f->device, "usb", "list", "x", NULL};

	run_for(f, missing, PATIENCE_MS);
	assert_reply(f, CROSVM_ERROR,
		     "can't run /nonexistent/crosvm: No such file or directory; set \"crosvm =\"");
	run_for(f, no_program, PATIENCE_MS);
	assert_reply(f, CROSVM_ERROR, "Permission denied");
}

/* The double is the only child. What was killed and took longer to end than is waited for, as on a
 * busy machine, is left to the end of this process. */
static void assert_nothing_runs(void)
{
	int status = 0;
	pid_t left = waitpid(-1, &status, WNOHANG);

	assert_true(left == 0 || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));
}

static void test_a_hanging_vm(void **state)
{
	struct fixture *f = *state;
	const char *const words[] = {CROSVM, "usb", "list", f->socket, NULL};

	double_do(&f->crosvm, "hang");
	uint64_t start = now_monotonic_ms();
	run_for(f, words, 400);
	assert_true(now_monotonic_ms() - start >= 400);
	assert_true(f->result.timed_out);
	assert_reply(f, CROSVM_ERROR, "was killed: the VM hangs");
	assert_nothing_runs();
}

/* Writes a program of its own. */
static void write_script(struct fixture *f, const char *text)
{
	FILE *file = fopen(f->device, "we");

	assert_non_null(file);
	fprintf(file, "#!/bin/sh\n%s\n", text);
	fclose(file);
	assert_int_equal(chmod(f->device, 0700), 0);
}

/* What it has started has its pipes, but does not keep us, and does not outlive the deadline. */
static void test_a_program_with_children(void **state)
{
	struct fixture *f = *state;
	const char *const words[] = {f->device, NULL};
	char pid[32] = "";

	write_script(f, "sleep 100 & echo $! >&2; echo ok 7");
	run_for(f, words, PATIENCE_MS);
	assert_false(f->result.timed_out);
	assert_reply(f, CROSVM_OK, "ok 7");
	kill((pid_t) atoi(f->result.err), SIGKILL);

	write_script(f, "sleep 100 & echo $!; wait");
	/* On a busy machine the shell does not come so far at once. */
	for (unsigned ms = 300; atoi(pid) == 0 && ms < PATIENCE_MS; ms *= 2) {
		run_for(f, words, ms);
		assert_true(f->result.timed_out);
		snprintf(pid, sizeof(pid), "%.31s", f->result.out);
	}
	assert_true(atoi(pid) > 1);
	for (int i = 0; i < 6000 && kill((pid_t) atoi(pid), 0) == 0; i++) {
		char path[64], status[512] = "";

		/* A zombie is as good as gone; who adopts it decides when. */
		snprintf(path, sizeof(path), "/proc/%d/stat", atoi(pid));
		_cleanup_fclose_ FILE *file = fopen(path, "re");
		if (!file || !fgets(status, sizeof(status), file) || strstr(status, ") Z "))
			return;
		usleep(10000);
	}
	assert_int_equal(kill((pid_t) atoi(pid), 0), -1);
}

static void test_what_it_prints_is_cut(void **state)
{
	struct fixture *f = *state;
	const char *const words[] = {f->device, NULL};

	write_script(f, "head -c 1000000 /dev/zero | tr '\\0' x; exit 3");
	run_for(f, words, PATIENCE_MS);
	assert_int_equal(strlen(f->result.out), sizeof(f->result.out) - 1);
	assert_reply(f, CROSVM_ERROR, "(status 3)");
	write_script(f, "kill -9 $$");
	run_for(f, words, PATIENCE_MS);
	assert_reply(f, CROSVM_ERROR, "ended by signal 9");
	write_script(f, "exit 1");
	run_for(f, words, PATIENCE_MS);
	assert_reply(f, CROSVM_ERROR, "failed without a word (status 1)");
}

/* Standard input is empty, signals arrive, and no descriptor of ours is there. */
static void test_what_it_inherits(void **state)
{
	struct fixture *f = *state;
	const char *const words[] = {f->device, NULL};
	/* A shell would clear the mask itself. */
	const char *const grep[] = {"/bin/grep", "SigBlk", "/proc/self/status", NULL};
	_cleanup_close_ int ours = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	sigset_t set, before;

	assert_true(ours >= 0);
	write_script(f, "cat; ls -l /proc/$$/fd");
	run_for(f, words, PATIENCE_MS);
	assert_non_null(strstr(f->result.out, "0 -> /dev/null"));
	assert_null(strstr(f->result.out, "/dev/zero"));
	assert_null(strstr(f->result.out, "eventpoll"));

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, &before);
	run_for(f, grep, PATIENCE_MS);
	sigprocmask(SIG_SETMASK, &before, NULL);
	assert_string_equal(f->result.out, "SigBlk:\t0000000000000000\n");
}

static void test_cancel(void **state)
{
	struct fixture *f = *state;
	const char *const words[] = {CROSVM, "usb", "list", f->socket, NULL};

	double_do(&f->crosvm, "hang");
	assert_int_equal(crosvm_command_run(f->loop, words, -1, PATIENCE_MS, ended, f, &f->command),
			 0);
	assert_null(crosvm_command_cancel(f->command));
	assert_nothing_runs();
	run_loop(f, 50);
	assert_int_equal(f->n_ended, 0);
	assert_null(crosvm_command_cancel(NULL));
}

static void test_lists_that_are_none(void **state)
{
	static const char *const texts[] = {"devices 0 046d c31c",
					    "devices 17 046d c31c",
					    "devices 1 046d",
					    "devices 1 046d c31c 1 1 1",
					    "devices x",
					    "ok",
					    "ok 0",
					    "ok 17",
					    "ok 1 2",
					    "OK 1",
					    "no_available_port 1 2"};
	struct crosvm_command_result result = {.started = true};
	struct crosvm_reply reply;

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		strcpy(result.out, texts[i]);
		crosvm_command_parse("crosvm", &result, &reply);
		if (reply.answer != CROSVM_ERROR)
			fail_msg("accepted: %s", texts[i]);
	}
}

/* Why it has ended is what it said last, without a log's dress. */
static void test_the_last_line_counts(void **state)
{
	static const char *const texts[][2] = {
		{"syslog init failed: no /dev/log\nthe cause\n", "crosvm: the cause (status 1)"},
		{"a\n\033[31m[2026-08-21T10:00:00Z ERROR crosvm]\033[0m the cause\r\n\n",
		 "crosvm: the cause (status 1)"},
		{"the cause\n[2026 ERROR]\n  \n", "crosvm: [2026 ERROR] (status 1)"},
		{"\033[", "crosvm: failed without a word (status 1)"},
		{"[", "crosvm: [ (status 1)"},
	};
	struct crosvm_command_result result = {.started = true, .status = 1 << 8};
	struct crosvm_reply reply;

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		strcpy(result.err, texts[i][0]);
		crosvm_command_parse("crosvm", &result, &reply);
		assert_int_equal(reply.answer, CROSVM_ERROR);
		assert_string_equal(reply.text, texts[i][1]);
	}
}

#define COMMAND(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_last_line_counts),
		COMMAND(test_usb_words),
		COMMAND(test_failures_with_status_0),
		COMMAND(test_errors),
		COMMAND(test_vfio),
		COMMAND(test_arguments_it_does_not_know),
		COMMAND(test_a_program_that_can_not_be_run),
		COMMAND(test_a_hanging_vm),
		COMMAND(test_a_program_with_children),
		COMMAND(test_what_it_prints_is_cut),
		COMMAND(test_what_it_inherits),
		COMMAND(test_cancel),
		cmocka_unit_test(test_lists_that_are_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
