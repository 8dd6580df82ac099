/* UNIX sockets: see socket.h. Used by the intake, the VMM backends and the worker. */
#include "broker/socket.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "broker/walk.h"

union control {
	char buffer[CMSG_SPACE(sizeof(int) * SOCKET_MAX_FDS)];
	struct cmsghdr align;
};

ssize_t socket_send(int fd, const void *data, size_t size, const int *fds, size_t n)
{
	struct iovec iov = {.iov_base = (void *) data, .iov_len = size};
	union control control = {0};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t sent;

	if (n > SOCKET_MAX_FDS)
		return -E2BIG;
	if (n > 0) {
		msg.msg_control = control.buffer;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * n);
		struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int) * n);
		memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * n);
	}
	do
		sent = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent < 0 && (errno == ETOOMANYREFS || errno == ENOBUFS || errno == ENOMEM))
		return -EAGAIN;
	return sent < 0 ? -errno : sent;
}

static size_t take_descriptors(struct msghdr *msg, int *fds, size_t max)
{
	size_t n = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t more = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0; i < more; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (n < max)
				fds[n++] = fd;
			else
				close(fd);
		}
	}
	return n;
}

ssize_t socket_receive(int fd, void *data, size_t size, int *ret_fds, size_t max, size_t *ret_n)
{
	struct iovec iov = {.iov_base = data, .iov_len = size};
	union control control;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buffer,
		.msg_controllen = sizeof(control.buffer),
	};
	ssize_t n;

	*ret_n = 0;
	do
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	*ret_n = take_descriptors(&msg, ret_fds, max);
	if (!(msg.msg_flags & MSG_CTRUNC))
		return n;
	while (*ret_n > 0)
		close(ret_fds[--*ret_n]);
	return -EMFILE;
}

/* What lies there may go if it is a socket that nobody has use for any more. */
static int make_way(int directory, const char *name)
{
	struct stat st;

	if (fstatat(directory, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EADDRINUSE;
	return unlinkat(directory, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

/* Whoever owns the directory may have put something else there since bind(2): the owner is changed
 * of a socket of ours, or of nothing. */
static int give_to(int directory, const char *name, uid_t uid, gid_t gid)
{
	struct stat st;
	_cleanup_close_ int fd = openat(directory, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode) || st.st_uid != geteuid() || st.st_nlink != 1)
		return -EPERM;
	return fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

int socket_bind(int fd, const char *path, mode_t mode, uid_t uid, gid_t gid)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_close_ int directory = -1;
	const char *name = NULL;
	int r = -ENAMETOOLONG;

	/* Others connect to it by its whole path. */
	if (strlen(path) < sizeof(address.sun_path))
		r = walk_open_parent(path, &directory, &name);
	if (r == 0 && snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s",
			       directory, name) >= (int) sizeof(address.sun_path))
		r = -ENAMETOOLONG;
	if (r == 0)
		r = make_way(directory, name);
	if (r < 0)
		return r;
	mode_t old_umask = umask(0777 & ~mode);
	r = bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0 ? -errno : 0;
	umask(old_umask);
	bool is_ours = (uid == (uid_t) -1 || uid == geteuid()) && gid == (gid_t) -1;
	return r < 0 || is_ours ? r : give_to(directory, name, uid, gid);
}

int socket_listen(const char *path, int type, int backlog, uid_t owner)
{
	_cleanup_close_ int fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	int r = socket_bind(fd, path, 0600, owner, (gid_t) -1);
	if (r == 0 && listen(fd, backlog) < 0)
		r = -errno;
	return r < 0 ? r : TAKE_FD(fd);
}

ino_t socket_inode(const char *path)
{
	_cleanup_close_ int directory = -1;
	const char *name;
	struct stat st;

	if (walk_open_parent(path, &directory, &name) < 0 ||
	    fstatat(directory, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	return st.st_ino;
}

void socket_remove(const char *path, ino_t inode)
{
	_cleanup_close_ int directory = -1;
	const char *name;
	struct stat st;

	if (inode != 0 && walk_open_parent(path, &directory, &name) == 0 &&
	    fstatat(directory, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_ino == inode)
		unlinkat(directory, name, 0);
}
