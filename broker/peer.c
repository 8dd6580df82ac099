/* The identity of a VM's monitor: see peer.h. Used by the VMM backends before anything is sent. */
#include "broker/peer.h"

#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "broker/walk.h"
#include "helper/root.h"

#define START_TIME_FIELD 22 /* of /proc/PID/stat: proc(5) */

int peer_connect_at(const char *path, int type, int *ret_fd, int *ret_node)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = -1, node = -1;
	int r = walk_open(path, &node);

	if (r < 0)
		return r;
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", node);
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
		return -errno;
	*ret_node = TAKE_FD(node);
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int peer_connect(const char *path, int type, int *ret_fd)
{
	_cleanup_close_ int node = -1;

	return peer_connect_at(path, type, ret_fd, &node);
}

static int read_start_time(pid_t pid, uint64_t *ret_time)
{
	char line[1024];

	int r = root_read(line, sizeof(line), "/proc/%d/stat", (int) pid);
	if (r < 0)
		return r == -ENOENT ? -ESRCH : r;
	/* The command's name, in parentheses, may hold blanks and parentheses. */
	const char *field = strrchr(line, ')');
	for (int number = 2; field && number < START_TIME_FIELD; number++)
		field = strchr(field + 1, ' ');
	if (!field || sscanf(field, " %" SCNu64, ret_time) != 1)
		return -EIO;
	return 0;
}

int peer_uid_of(pid_t pid, uid_t *ret_uid)
{
	char text[1024]; /* it stands among the first lines */
	unsigned uid;
	_cleanup_close_ int fd = root_open(O_RDONLY, "/proc/%d/status", (int) pid);

	if (fd < 0)
		return fd == -ENOENT ? -ESRCH : fd;
	ssize_t n = read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return -errno;
	text[n] = 0;
	const char *line = strstr(text, "\nUid:");
	if (!line || sscanf(line, "\nUid: %*u %u", &uid) != 1)
		return -ESRCH;
	*ret_uid = uid;
	return 0;
}

int peer_get(int fd, struct peer *ret_peer)
{
	struct ucred credentials;
	socklen_t size = sizeof(credentials);
	struct peer peer = {0};
	int r;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0)
		return -errno;
	peer.pid = credentials.pid;
	peer.uid = peer.listener_uid = credentials.uid;
	if (peer.pid != 0) {
		if ((r = read_start_time(peer.pid, &peer.start_time)) < 0 ||
		    (r = peer_uid_of(peer.pid, &peer.uid)) < 0)
			return r;
	}
	*ret_peer = peer;
	return 0;
}

void peer_look_again(struct peer *peer)
{
	uid_t uid = peer->uid;

	if (peer->pid != 0 && peer_is_alive(peer) && peer_uid_of(peer->pid, &uid) == 0)
		peer->uid = uid;
}

uint64_t peer_age_ms(const struct peer *peer)
{
	struct timespec now;
	uint64_t started = peer->start_time * 1000 / (uint64_t) sysconf(_SC_CLK_TCK);

	if (peer->pid == 0 || clock_gettime(CLOCK_BOOTTIME, &now) < 0)
		return 0;
	uint64_t since_boot = (uint64_t) now.tv_sec * 1000 + (uint64_t) now.tv_nsec / 1000000;
	return since_boot > started ? since_boot - started : 0;
}

bool peer_is_alive(const struct peer *peer)
{
	uint64_t start_time;

	if (peer->pid == 0)
		return true;
	int r = read_start_time(peer->pid, &start_time);
	return r < 0 ? r != -ESRCH : start_time == peer->start_time;
}

/* What stat(2) would say of PATH, of which lstat(2) has said IT. */
static int look_behind(const char *path, const struct stat *it, struct stat *ret_behind)
{
	if (S_ISLNK(it->st_mode))
		return stat(path, ret_behind);
	*ret_behind = *it;
	return 0;
}

/* Walks from PATH to the root: where a directory lets everybody make entries, the entry on our way
 * must have been made by root or by USER. Returns its path in STRANGE, or false. */
static bool find_strange_entry(const char *path, uid_t user, char *strange, size_t size)
{
	char entry[PATH_MAX];
	struct stat in, parents, of;

	if (strlen(path) >= sizeof(entry)) {
		snprintf(strange, size, "a path of more than %d bytes", PATH_MAX - 1);
		return true;
	}
	strcpy(entry, path);
	bool is_known = lstat(entry, &in) == 0;

	while (strlen(entry) > 1) {
		const char *parent = dirname(strdupa(entry));

		is_known = is_known && lstat(parent, &parents) == 0 &&
			   look_behind(parent, &parents, &of) == 0;
		if (!is_known || (of.st_mode & S_IWOTH && in.st_uid != 0 && in.st_uid != user)) {
			snprintf(strange, size, "%s", entry);
			return true;
		}
		in = parents;
		memmove(entry, parent, strlen(parent) + 1);
	}
	return false;
}

int peer_check(const char *path, const struct peer *peer, uid_t user, char *reason, size_t size)
{
	char strange[512];
	struct stat st;

	if (stat(path, &st) < 0) {
		snprintf(reason, size, "%s has vanished", path);
		return -EPERM;
	}
	if (find_strange_entry(path, user, strange, sizeof(strange))) {
		snprintf(
			reason, size,
			"%s lies where everybody may write and is not root's; say \"user =\" in the"
			" VM's section if that is right",
			strange);
		return -EPERM;
	}
	if (user != (uid_t) -1 && peer->uid != user && peer->uid != 0) {
		snprintf(reason, size,
			 "the VMM at %s runs as uid %u, and the config says %u; correct \"user =\"",
			 path, (unsigned) peer->uid, (unsigned) user);
		return -EPERM;
	}
	/* A program that is root's now may have been started by whoever listened (su, say). */
	if (user != (uid_t) -1 && peer->listener_uid != user && peer->listener_uid != 0) {
		snprintf(reason, size,
			 "uid %u made the socket %s, and the config says %u; correct \"user =\"",
			 (unsigned) peer->listener_uid, path, (unsigned) user);
		return -EPERM;
	}
	/* Not by the file's owner: what lies there now need not be what was connected to. */
	if (peer->listener_uid == 0)
		return 0;
	if (user == (uid_t) -1 && peer->uid != st.st_uid && peer->uid != 0) {
		snprintf(reason, size,
			 "%s belongs to uid %u but uid %u answers there; say in \"user =\" who the "
			 "VMM runs as",
			 path, (unsigned) st.st_uid, (unsigned) peer->uid);
		return -EPERM;
	}
	return 0;
}
