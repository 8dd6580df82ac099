/* Socket activation, readiness and directories: see service.h. Used by main. */
#include "broker/service.h"

#include <fcntl.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

#define FIRST_LISTEN_FD 3

static int check_listener(int fd)
{
	int type = 0, listening = 0;
	socklen_t size = sizeof(int);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
	    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0)
		return -EINVAL;
	if (type != SOCK_SEQPACKET || !listening)
		return -EINVAL;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	return fd;
}

int service_listen_fd(void)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	bool ours = pid && fds && atol(pid) == (long) getpid();
	int n = ours ? atoi(fds) : 0;

	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (n == 0)
		return -1;
	return n == 1 ? check_listener(FIRST_LISTEN_FD) : -EINVAL;
}

uint64_t service_watchdog_ms(void)
{
	const char *pid = getenv("WATCHDOG_PID"), *usec = getenv("WATCHDOG_USEC");

	if (!usec || (pid && atol(pid) != (long) getpid()))
		return 0;
	return strtoull(usec, NULL, 10) / 1000;
}

int service_notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = -1;

	if (!path)
		return 0;
	if ((*path != '/' && *path != '@') || !path[1])
		return -EINVAL;
	size_t length = strlen(path);
	if (length >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, length);
	if (*path == '@')
		address.sun_path[0] = 0;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	socklen_t size = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + length);
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *) &address, size) < 0)
		return -errno;
	return 0;
}

int service_directory(const char *name, const char *fallback, char *ret, size_t size)
{
	const char *value = getenv(name);

	if (!value || *value != '/')
		value = fallback;
	size_t length = strcspn(value, ":");
	if (length >= size)
		return -ENAMETOOLONG;
	memcpy(ret, value, length);
	ret[length] = 0;
	return 0;
}
