/* Puts the generated rules in place and in force. Called by main.c only. */
#include "rules.d/install.h"

#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <spawn.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "helper/wire.h"

extern char **environ;

static int write_all(int fd, const char *text)
{
	size_t left = strlen(text);

	while (left > 0) {
		ssize_t n = write(fd, text, left);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		text += n;
		left -= (size_t) n;
	}
	return 0;
}

static int sync_directory(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int replace_file(const char *path, const char *text)
{
	_cleanup_free_ char *copy = strdup(path), *temporary = NULL;
	_cleanup_close_ int fd = -1;
	const char *directory = copy ? dirname(copy) : NULL;
	int r;

	/* udevd reads only names that end in .rules. */
	if (!directory || asprintf(&temporary, "%s/.vhotplug-XXXXXX", directory) < 0) {
		temporary = NULL;
		return -ENOMEM;
	}
	fd = mkostemp(temporary, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = write_all(fd, text);
	if (r == 0 && (fchmod(fd, 0644) < 0 || fdatasync(fd) < 0 || rename(temporary, path) < 0))
		r = -errno;
	if (r < 0) {
		unlink(temporary);
		return r;
	}
	return sync_directory(directory);
}

/* A device, a pipe, or our own standard output is written to: only a file can be replaced. */
static int write_special(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC);

	return fd < 0 ? -errno : write_all(fd, text);
}

/* Whether what is at PATH, behind all links, is there and to be written to. */
static bool is_special(const char *path)
{
	struct stat st, out;

	if (stat(path, &st) < 0 || S_ISDIR(st.st_mode))
		return false;
	return !S_ISREG(st.st_mode) || (fstat(STDOUT_FILENO, &out) == 0 &&
					st.st_dev == out.st_dev && st.st_ino == out.st_ino);
}

/* A link stays what it is. */
int rules_install(const char *path, const char *text)
{
	_cleanup_free_ char *file = NULL;
	struct stat st;

	if (is_special(path))
		return write_special(path, text);
	file = realpath(path, NULL);
	if (!file && lstat(path, &st) == 0)
		return -ENOENT; /* it leads nowhere */
	return replace_file(file ?: path, text);
}

static bool is_as_it_was(const char *path, const struct stat *then)
{
	struct stat now;

	return stat(path, &now) < 0 || !S_ISREG(now.st_mode) ||
	       (now.st_dev == then->st_dev && now.st_ino == then->st_ino &&
		now.st_size == then->st_size && now.st_mtim.tv_sec == then->st_mtim.tv_sec &&
		now.st_mtim.tv_nsec == then->st_mtim.tv_nsec);
}

int rules_install_of(const char *source, const char *path, rules_make_fn make, void *data)
{
	struct stat then = {0};
	bool is_there = false;
	int r;

	do {
		_cleanup_free_ char *text = NULL;

		(void) stat(source, &then);
		r = make(data, &text);
		if (r < 0)
			return is_there ? 0 : r;
		r = rules_install(path, text);
		is_there = r == 0;
	} while (r == 0 && !is_as_it_was(source, &then));
	return r;
}

int rules_installed(const char *path, char **ret)
{
	_cleanup_fclose_ FILE *file = fopen(path, "re");
	_cleanup_free_ char *text = NULL;
	size_t size = 0;
	ssize_t n = -1;

	if (!file && errno != ENOENT)
		return -errno;
	if (file) {
		n = getdelim(&text, &size, '\0', file); /* no rules file has a NUL */
		if (n < 0 && ferror(file))
			return -errno;
	}
	*ret = n < 0 ? strdup("") : TAKE_PTR(text);
	return *ret ? 0 : -ENOMEM;
}

/* Runs ARGV, found in PATH, with INPUT as standard input and ERRORS as standard error (-1: ours).
 * Returns its exit status or -errno. */
static int run_program(const char *const *argv, int input, int errors)
{
	posix_spawn_file_actions_t actions;
	int status, r;
	pid_t pid;

	r = posix_spawn_file_actions_init(&actions);
	if (r != 0)
		return -r;
	if (input >= 0)
		r = posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
	if (r == 0 && errors >= 0)
		r = posix_spawn_file_actions_adddup2(&actions, errors, STDERR_FILENO);
	if (r == 0)
		r = posix_spawnp(&pid, argv[0], &actions, NULL, (char *const *) (uintptr_t) argv,
				 environ);
	posix_spawn_file_actions_destroy(&actions);
	if (r != 0)
		return -r;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -EIO;
}

int rules_print_diff(const char *path, const char *text)
{
	_cleanup_fclose_ FILE *input = tmpfile();
	const char *installed = access(path, F_OK) == 0 ? path : "/dev/null";
	const char *const argv[] = {"diff",          "-u",      "--label", path, "--label",
				    "as configured", installed, "-",       NULL};
	int r;

	if (!input)
		return -errno;
	if (fputs(text, input) < 0 || fflush(input) != 0 || lseek(fileno(input), 0, SEEK_SET) < 0)
		return -errno;
	r = run_program(argv, fileno(input), -1);
	return r < 0 ? r : r > 1 ? -EIO : 0;
}

int rules_reload(void)
{
	static const char *const reload[] = {"udevadm", "control", "--reload", NULL};
	_cleanup_close_ int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
	int r;

	/* A udevd that made its socket itself, as 252 without systemd, now and then takes what
	 * comes right after its accept for uid 65534's, and hangs up: udevadm ends with 0, or with
	 * "Broken pipe", and nothing was done. So it is asked twice, and the first may fail in
	 * silence. */
	(void) run_program(reload, -1, nowhere);
	r = run_program(reload, -1, -1);
	if (r == 0)
		return 0;
	fprintf(stderr,
		"vhotplug-gen-rules: the rules are written but not in force: udevadm control "
		"failed (%s)\n",
		r < 0 ? strerror(-r) : "see above");
	return -EIO;
}

static int wait_for_answer(int fd, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char answer;
	int r = poll(&p, 1, timeout_ms);

	if (r <= 0)
		return r < 0 ? -errno : -ETIMEDOUT;
	if (recv(fd, &answer, 1, 0) != 1)
		return -ECONNRESET;
	return answer == WIRE_TAKEN ? 0 : -EBUSY;
}

int rules_tell_broker(const char *socket_path, int timeout_ms)
{
	const struct timeval limit = {timeout_ms / 1000, timeout_ms % 1000 * 1000};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_free_ struct wire_msg *message = malloc(sizeof(*message));
	_cleanup_close_ int fd = -1;

	if (!message)
		return -ENOMEM;
	wire_init(message);
	if (wire_add(message, "ACTION", "reconcile") < 0)
		return -EMSGSIZE;
	if (strlen(socket_path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, socket_path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	/* The queue of one that stands still is full at some time: without that connect waits for
	 * ever. Source: unix(7), socket(7). */
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	if (send(fd, message->data, message->len, MSG_NOSIGNAL) < 0)
		return -errno;
	return wait_for_answer(fd, timeout_ms);
}
