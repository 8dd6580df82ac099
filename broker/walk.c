/* Ways through directories that are not all root's: see walk.h. */
#include "broker/walk.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#if __has_include(<linux/openat2.h>)
#include <linux/openat2.h>
#endif

#include "helper/macro.h"

#define MAX_LINKS 40

/* What is still to be walked, one name after the other. */
struct way {
	int fd; /* where we are */
	char rest[PATH_MAX];
	unsigned links;
};

/* Takes the next name off the rest; false at the end. */
static bool next_name(struct way *way, char name[NAME_MAX + 2])
{
	char *start = way->rest + strspn(way->rest, "/");
	size_t length = strcspn(start, "/");

	if (length == 0)
		return false;
	/* One that is too long stays too long. */
	size_t n = length <= NAME_MAX ? length : NAME_MAX + 1;
	memcpy(name, start, n);
	name[n] = 0;
	memmove(way->rest, start + length, strlen(start + length) + 1);
	return true;
}

/* Root's links lead where root wants; one of a VM's user could lead to another VM. */
static int follow_link(struct way *way, int fd, const struct stat *st)
{
	char target[PATH_MAX], rest[PATH_MAX];

	if ((st->st_uid != 0 && st->st_uid != geteuid()) || ++way->links > MAX_LINKS)
		return -ELOOP;
	ssize_t n = readlinkat(fd, "", target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = 0;
	strcpy(rest, way->rest);
	if (strlen(target) + 1 + strlen(rest) >= sizeof(way->rest))
		return -ENAMETOOLONG;
	strcat(strcat(strcpy(way->rest, target), "/"), rest);
	if (target[0] != '/')
		return 0;
	close_fd(way->fd);
	way->fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return way->fd < 0 ? -errno : 0;
}

static int walk_one(struct way *way, const char *name)
{
	_cleanup_close_ int fd = openat(way->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (S_ISLNK(st.st_mode))
		return follow_link(way, fd, &st);
	close_fd(way->fd);
	way->fd = TAKE_FD(fd);
	return 0;
}

/* All of the way in one go, if there are no links on it. -1: walk, and you will see. */
static int jump_to(const char *path)
{
#if defined SYS_openat2 && defined RESOLVE_NO_SYMLINKS
	struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS};

	return path[0] == '/' ? (int) syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how)) : -1;
#else
	(void) path;
	return -1;
#endif
}

/* Names one after the other, links where they are allowed. */
static int walk_all(const char *path, int *ret_fd)
{
	struct way way = {.fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC)};
	char name[NAME_MAX + 2];
	int r = way.fd < 0 ? -errno : 0;

	if (r == 0 && strlen(path) >= sizeof(way.rest))
		r = -ENAMETOOLONG;
	if (r == 0)
		strcpy(way.rest, path);
	while (r == 0 && next_name(&way, name))
		r = walk_one(&way, name);
	if (r == 0)
		*ret_fd = way.fd;
	else
		close_fd(way.fd);
	return r;
}

int walk_open(const char *path, int *ret_fd)
{
	int fd = jump_to(path);

	if (fd < 0)
		return walk_all(path, ret_fd);
	*ret_fd = fd;
	return 0;
}

int walk_open_parent(const char *path, int *ret_fd, const char **ret_name)
{
	const char *slash = strrchr(path, '/');
	char parent[PATH_MAX];

	if (!slash || !slash[1])
		return -EINVAL;
	if ((size_t) (slash - path) >= sizeof(parent))
		return -ENAMETOOLONG;
	memcpy(parent, path, (size_t) (slash - path));
	parent[slash - path] = 0;
	int r = walk_open(parent, ret_fd);
	if (r == 0)
		*ret_name = slash + 1;
	return r;
}
