/* Putting a rules file in place, comparing it, and telling a broker: one that takes, refuses, keeps
 * quiet, hangs up, or is not there. */
#include <fcntl.h>
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

#include "helper/wire.h"
#include "rules.d/install.h"

static char directory[] = "/tmp/vhp-install-XXXXXX";

static char *in_directory(const char *name)
{
	static char path[64];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return path;
}

static int make_directory(void **state)
{
	(void) state;
	return mkdtemp(directory) ? 0 : -1;
}

static int remove_directory(void **state)
{
	char command[64];

	(void) state;
	snprintf(command, sizeof(command), "rm -r %s", directory);
	return system(command);
}

static void file_is_replaced_whole(void **state)
{
	char *path = in_directory("66-vhotplug.rules"), *text;
	struct stat before, after;

	(void) state;
	assert_int_equal(rules_installed(path, &text), 0);
	assert_string_equal(text, "");
	free(text);
	assert_int_equal(rules_install(path, "one\n"), 0);
	assert_int_equal(stat(path, &before), 0);
	assert_int_equal(before.st_mode & 07777, 0644);

	/* Whoever has it open keeps the old one. */
	int fd = open(path, O_RDONLY);
	assert_int_equal(rules_install(path, "two two\n"), 0);
	char old[16] = "";
	assert_int_equal(read(fd, old, sizeof(old)), 4);
	close(fd);
	assert_string_equal(old, "one\n");
	assert_int_equal(stat(path, &after), 0);
	assert_true(before.st_ino != after.st_ino);
	assert_int_equal(rules_installed(path, &text), 0);
	assert_string_equal(text, "two two\n");
	free(text);
	assert_int_equal(unlink(path), 0);
	/* Nothing is left behind. */
	assert_int_equal(rmdir(directory), 0);
	assert_int_equal(mkdir(directory, 0700), 0);
}

/* The link stays, and what it leads to is the old one or the new one: also where the disk is full.
 */
static void file_behind_a_link_is_replaced_whole(void **state)
{
	char link[64], file[64], *text, longer[4000];
	struct rlimit limit, small;
	struct stat st;

	(void) state;
	strcpy(link, in_directory("66-vhotplug.rules"));
	strcpy(file, in_directory("elsewhere"));
	assert_int_equal(rules_install(file, "one\n"), 0);
	assert_int_equal(symlink("elsewhere", link), 0);
	memset(longer, 'x', sizeof(longer));
	longer[sizeof(longer) - 1] = '\0';
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
	small = (struct rlimit){1000, limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	int r = rules_install(link, longer);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_int_equal(r, -EFBIG);
	assert_int_equal(rules_installed(link, &text), 0);
	assert_string_equal(text, "one\n");
	free(text);
	assert_int_equal(rules_install(link, "two\n"), 0);
	assert_int_equal(rules_installed(file, &text), 0);
	assert_string_equal(text, "two\n");
	free(text);
	assert_int_equal(lstat(link, &st), 0);
	assert_true(S_ISLNK(st.st_mode));
	assert_int_equal(unlink(link), 0);
	assert_int_equal(unlink(file), 0);
	assert_int_equal(symlink("nowhere", link), 0);
	assert_int_equal(rules_install(link, "x"), -ENOENT);
	assert_int_equal(unlink(link), 0);
	assert_int_equal(rmdir(directory), 0);
	assert_int_equal(mkdir(directory, 0700), 0);
}

static void failures_are_told(void **state)
{
	char *text = NULL;

	(void) state;
	assert_int_equal(rules_install("/nowhere/x.rules", "x"), -ENOENT);
	assert_int_equal(rules_installed(directory, &text), -EISDIR);
	assert_null(text);
	/* A directory is in the way of the rename. */
	char *path = in_directory("way");
	assert_int_equal(mkdir(path, 0700), 0);
	assert_int_equal(rules_install(path, "x"), -EISDIR);
	assert_int_equal(rmdir(path), 0);
	assert_int_equal(rmdir(directory), 0);
	assert_int_equal(mkdir(directory, 0700), 0);
}

/* A broker that looks at one message and answers with ANSWER; 0: hangs up, 1: says nothing. */
static pid_t start_broker(const char *path, char answer)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct wire_msg message;
		int client = accept(fd, NULL, NULL);
		ssize_t n = recv(client, message.data, sizeof(message.data), 0);
		const char *action;

		message.len = n > 0 ? (size_t) n : 0;
		action = wire_check(&message) == 0 ? wire_get(&message, "ACTION") : NULL;
		if (answer == 1)
			pause();
		if (answer > 1 && action && streq(action, "reconcile"))
			send(client, &answer, 1, 0);
		_exit(0);
	}
	close(fd);
	return pid;
}

static void broker_is_told(void **state)
{
	static const struct {
		char answer;
		int result;
	} cases[] = {{WIRE_TAKEN, 0}, {WIRE_REFUSED, -EBUSY}, {0, -ECONNRESET}, {1, -ETIMEDOUT}};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *path = in_directory("event.sock");
		pid_t pid = start_broker(path, cases[i].answer);

		assert_int_equal(rules_tell_broker(path, cases[i].answer == 1 ? 100 : 10000),
				 cases[i].result);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
		/* Its socket is still there, but nobody listens. */
		assert_int_equal(rules_tell_broker(path, 100), -ECONNREFUSED);
		unlink(path);
	}
	assert_int_equal(rules_tell_broker(in_directory("event.sock"), 100), -ENOENT);
	char longer[200];
	memset(longer, 'x', sizeof(longer));
	longer[199] = '\0';
	assert_int_equal(rules_tell_broker(longer, 100), -ENAMETOOLONG);
}

/* A broker that stands still, with as many who wait for it as may. */
static void broker_is_stopped(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *path = in_directory("event.sock");
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0), clients[8];
	size_t n = 0;

	(void) state;
	strcpy(address.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	do {
		assert_true(n < ARRAY_SIZE(clients));
		clients[n] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0);
	} while (connect(clients[n++], (struct sockaddr *) &address, sizeof(address)) == 0);
	assert_int_equal(errno, EAGAIN);
	alarm(60);
	assert_int_equal(rules_tell_broker(path, 100), -ETIMEDOUT);
	alarm(0);
	while (n > 0)
		close(clients[--n]);
	close(fd);
	unlink(path);
}

/* Somebody saves the config while rules are made of it. */
static struct making {
	unsigned n, n_saved, fails_at;
} making;

static int make_of_file(void *data, char **ret_text)
{
	struct making *m = data;

	if (rules_installed(in_directory("vhotplug.conf"), ret_text) < 0)
		return -EIO;
	if (++m->n == m->fails_at) {
		free(TAKE_PTR(*ret_text));
		return -ECANCELED;
	}
	if (m->n > m->n_saved)
		return 0;
	FILE *file = fopen(in_directory("new"), "w");
	fprintf(file, "%u\n", m->n);
	fclose(file);
	char *new = strdup(in_directory("new"));
	assert_int_equal(rename(new, in_directory("vhotplug.conf")), 0);
	free(new);
	return 0;
}

static void expect_installed(unsigned n_saved, unsigned fails_at, int result, const char *text)
{
	char *source = strdup(in_directory("vhotplug.conf")), *found;
	char *rules = strdup(in_directory("raced.rules"));

	making = (struct making){.n_saved = n_saved, .fails_at = fails_at};
	assert_int_equal(rules_install(source, "0\n"), 0);
	assert_int_equal(rules_install_of(source, rules, make_of_file, &making), result);
	assert_int_equal(rules_installed(rules, &found), 0);
	assert_string_equal(found, text);
	free(found);
	unlink(rules);
	unlink(source);
	free(rules);
	free(source);
}

/* Whoever has saved it may have installed it by then. */
static void config_that_changes_meanwhile(void **state)
{
	(void) state;
	expect_installed(0, 0, 0, "0\n");
	expect_installed(1, 0, 0, "1\n");
	expect_installed(3, 0, 0, "3\n");
	expect_installed(0, 1, -ECANCELED, "");
	/* Its mistakes are said; the rules in place are those of the one before. */
	expect_installed(2, 2, 0, "0\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(file_is_replaced_whole),
		cmocka_unit_test(config_that_changes_meanwhile),
		cmocka_unit_test(file_behind_a_link_is_replaced_whole),
		cmocka_unit_test(failures_are_told),
		cmocka_unit_test(broker_is_told),
		cmocka_unit_test(broker_is_stopped),
	};

	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
