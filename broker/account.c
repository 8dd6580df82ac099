/* Users of this host: see account.h. Called where a config is applied, and by vm.c. */
#include "broker/account.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "helper/macro.h"

#define PATIENCE_MS 2000

/* What NAME is as a number, or (uid_t) -1. */
static uid_t read_number(const char *name)
{
	char *end;
	unsigned long number = strtoul(name, &end, 10);

	return *name && !*end ? (uid_t) number : (uid_t) -1;
}

static uid_t find_user_by_name(const char *name)
{
	_cleanup_fclose_ FILE *f = fopen("/etc/passwd", "re");
	struct passwd *entry = NULL;

	while (f && (entry = fgetpwent(f)) && !streq(entry->pw_name, name))
		;
	return entry ? entry->pw_uid : (uid_t) -1;
}

uid_t account_find(const char *name)
{
	uid_t uid = read_number(name);

	return uid != (uid_t) -1 ? uid : find_user_by_name(name);
}

static gid_t find_group_by_name(const char *name)
{
	_cleanup_fclose_ FILE *f = fopen("/etc/group", "re");
	struct group *entry = NULL;

	while (f && (entry = fgetgrent(f)) && !streq(entry->gr_name, name))
		;
	return entry ? entry->gr_gid : (gid_t) -1;
}

static gid_t find_group(const char *name)
{
	gid_t gid = read_number(name);

	return gid != (gid_t) -1 ? gid : find_group_by_name(name);
}

/* It may hang, so it holds nothing of the broker's, and ends by itself when nobody waits any more.
 * Source: close_range(2). */
static _Noreturn void answer_lookup(int fd, uid_t (*look)(const char *name), const char *name)
{
	int kept = dup2(fd, STDERR_FILENO + 1);
	sigset_t none;

	syscall(SYS_close_range, kept + 1, ~0U, 0);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGALRM, SIG_DFL);
	alarm(PATIENCE_MS / 1000 + 1);
	uid_t id = look(name);

	_exit(write(kept, &id, sizeof(id)) == sizeof(id) ? 0 : 1);
}

/* Returns where the answer will come, or -errno. The process is nobody's child of ours: to collect
 * one that hangs in the kernel would take as long as it does. */
static int begin_lookup(uid_t (*look)(const char *name), const char *name)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0) {
		if (fork() == 0)
			answer_lookup(ends[1], look, name);
		_exit(0);
	}
	close(ends[1]);
	if (pid < 0) {
		close(ends[0]);
		return -EAGAIN;
	}
	waitpid(pid, NULL, 0);
	return ends[0];
}

static uid_t read_answer(int fd)
{
	uid_t id;

	return read(fd, &id, sizeof(id)) == sizeof(id) ? id : (uid_t) -1;
}

uid_t account_ask(uid_t (*look)(const char *name), const char *name)
{
	uid_t id = (uid_t) -1;
	int fd = begin_lookup(look, name);

	if (fd < 0)
		return id;
	struct pollfd pollfd = {.fd = fd, .events = POLLIN};
	if (poll(&pollfd, 1, PATIENCE_MS) == 1)
		id = read_answer(fd);
	close(fd);
	return id;
}

static uid_t look_for_user(const char *name)
{
	const struct passwd *entry = getpwnam(name);

	return entry ? entry->pw_uid : (uid_t) -1;
}

static gid_t look_for_group(const char *name)
{
	const struct group *entry = getgrnam(name);

	return entry ? entry->gr_gid : (gid_t) -1;
}

uid_t account_ask_user(const char *name)
{
	uid_t uid = account_find(name);

	return uid != (uid_t) -1 ? uid : account_ask(look_for_user, name);
}

gid_t account_ask_group(const char *name)
{
	gid_t gid = find_group(name);

	return gid != (gid_t) -1 ? gid : account_ask(look_for_group, name);
}

struct account_question {
	int fd;
	struct loop_source *source;
	struct loop_timer patience;
	account_fn fn;
	void *data;
};

static void end_question(struct account_question *question, uid_t user)
{
	account_fn fn = question->fn;
	void *data = question->data;

	account_question_free(question);
	fn(data, user);
}

static void answer_has_come(void *data, uint32_t events)
{
	struct account_question *question = data;

	(void) events;
	end_question(question, read_answer(question->fd));
}

static void nobody_answers(void *data)
{
	end_question(data, (uid_t) -1);
}

int account_question_new(struct loop *loop, const char *name, account_fn fn, void *data,
			 struct account_question **ret_question)
{
	struct account_question *question = calloc(1, sizeof(*question));

	if (!question)
		return -ENOMEM;
	*question = (struct account_question){.fn = fn, .data = data};
	int r = question->fd = begin_lookup(look_for_user, name);
	if (r >= 0)
		r = loop_add(loop, question->fd, EPOLLIN, answer_has_come, question,
			     &question->source);
	if (r < 0) {
		account_question_free(question);
		return r;
	}
	loop_timer_start(loop, &question->patience, PATIENCE_MS, nobody_answers, question);
	*ret_question = question;
	return 0;
}

void account_question_free(struct account_question *question)
{
	if (!question)
		return;
	loop_source_free(question->source);
	loop_timer_stop(&question->patience);
	close_fd(question->fd);
	free(question);
}
