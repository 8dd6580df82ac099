/* The start of a daemon: see daemon.h. */
#include "helper/daemon.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

/* In a process of its own that is no leader of a session, and whose parent has ended. */
static _Noreturn void become_program(const char *program, const char *argument)
{
	sigset_t none;
	int fd = open("/dev/null", O_RDONLY);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (fd >= 0)
		dup2(fd, STDIN_FILENO);
	if (chdir("/") == 0)
		execl(program, program, argument, NULL);
	fprintf(stderr, "%s can't be started: %s\n", program, strerror(errno));
	_exit(EXIT_FAILURE);
}

int daemon_start(const char *program, const char *argument)
{
	pid_t pid = fork();

	if (pid == 0) {
		setsid();
		pid = fork();
		if (pid == 0)
			become_program(program, argument);
		_exit(pid < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
	}
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) < 0)
		return -errno;
	return status == 0 ? 0 : -EAGAIN;
}
