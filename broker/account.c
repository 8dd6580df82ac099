/* Users of this host: see account.h. Called where a config is applied, and by vm.c. */
#include "broker/account.h"

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "helper/macro.h"

#define PATIENCE_MS 2000
#define ENDING_MS 100 /* for a killed process to end */

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

/* It may hang, so it must hold nothing of the broker's. Source: close_range(2). */
static _Noreturn void answer_lookup(int fd, uid_t (*look)(const char *name), const char *name)
{
	int kept = dup2(fd, STDERR_FILENO + 1);

	syscall(SYS_close_range, kept + 1, ~0U, 0);
	uid_t id = look(name);

	_exit(write(kept, &id, sizeof(id)) == sizeof(id) ? 0 : 1);
}

static void collect_child(pid_t pid)
{
	kill(pid, SIGKILL);
	for (int waited = 0; waitpid(pid, NULL, WNOHANG) == 0 && waited < ENDING_MS; waited++)
		usleep(1000);
}

uid_t account_ask(uid_t (*look)(const char *name), const char *name)
{
	uid_t id = (uid_t) -1;
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return id;
	pid_t pid = fork();
	if (pid == 0)
		answer_lookup(ends[1], look, name);
	close(ends[1]);
	struct pollfd pollfd = {.fd = ends[0], .events = POLLIN};
	if (pid > 0 && poll(&pollfd, 1, PATIENCE_MS) == 1 &&
	    read(ends[0], &id, sizeof(id)) != sizeof(id))
		id = (uid_t) -1;
	close(ends[0]);
	if (pid > 0)
		collect_child(pid);
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
