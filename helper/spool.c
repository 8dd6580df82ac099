/* The spool directory, from both sides: see spool.h. Nothing is trusted that a process without our
 * user id could have put there. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <time.h>

#include "helper/spool.h"

#define NAME_DIGITS 20
#define TMP_PREFIX ".tmp-"
#define TMP_AGE_MAX 60 /* seconds; a helper lives for less than one */
#define LOST_NAME ".lost"

struct spool_name {
	char s[NAME_DIGITS + 1];
};

static struct spool_name spool_name(uint64_t seqnum)
{
	struct spool_name name;

	snprintf(name.s, sizeof(name.s), "%0*" PRIu64, NAME_DIGITS, seqnum);
	return name;
}

static int name_parse(const char *name, uint64_t *ret)
{
	uint64_t n = 0;

	if (strlen(name) != NAME_DIGITS || strspn(name, "0123456789") != NAME_DIGITS)
		return -EINVAL;
	for (; *name; name++)
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t) (*name - '0'), &n))
			return -ERANGE;
	*ret = n;
	return 0;
}

static void closedirp(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

/* Makes NAME below PARENT if it is not there, and opens it if it is safe. */
static int dir_open(int parent, const char *name, mode_t mode, int *ret_fd)
{
	mode_t umask_before = umask(0);
	int r = mkdirat(parent, name, mode) < 0 && errno != EEXIST ? -errno : 0;
	struct stat st;

	umask(umask_before);
	if (r < 0)
		return r;
	_cleanup_close_ int fd =
		openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (st.st_uid != geteuid() || (st.st_mode & (S_IWGRP | S_IWOTH)))
		return -EPERM;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

int spool_open(const char *run_dir, int *ret_dir_fd)
{
	_cleanup_close_ int run_fd = -1;
	int r;

	r = dir_open(AT_FDCWD, run_dir, 0755, &run_fd);
	if (r < 0)
		return r;
	return dir_open(run_fd, WIRE_SPOOL_NAME, 0700, ret_dir_fd);
}

/* Takes the place of the oldest waiting event of the same device. */
static int make_room(int dir_fd, const uint64_t *seqnums, size_t n, const char *devpath)
{
	struct wire_msg old;

	for (size_t i = 0; i < n; i++) {
		if (spool_read(dir_fd, seqnums[i], &old) < 0)
			continue;
		const char *s = wire_get(&old, "DEVPATH");
		if (s && streq(s, devpath))
			return spool_remove(dir_fd, seqnums[i]);
	}
	return -ENOBUFS;
}

static int respect_cap(int dir_fd, const char *devpath)
{
	_cleanup_free_ uint64_t *seqnums = NULL;
	size_t n = 0;
	int r;

	r = spool_list(dir_fd, &seqnums, &n);
	if (r < 0)
		return r;
	return n < SPOOL_MAX ? 0 : make_room(dir_fd, seqnums, n, devpath);
}

static int write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		data += n;
		len -= (size_t) n;
	}
	return 0;
}

/* Creates the file NAME and fills it; leaves none behind when that fails. */
static int write_new_file(int dir_fd, const char *name, const struct wire_msg *msg)
{
	_cleanup_close_ int fd =
		openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int r = write_all(fd, msg->data, msg->len);
	/* The umask may have taken the owner's own right to read. */
	if (r == 0 && fchmod(fd, 0600) < 0)
		r = -errno;
	if (r < 0)
		unlinkat(dir_fd, name, 0);
	return r;
}

int spool_put(int dir_fd, const struct wire_msg *msg)
{
	char tmp[64];
	uint64_t seqnum;
	const char *devpath = wire_get(msg, "DEVPATH");
	int r;

	if (!devpath || wire_get_number(msg, "SEQNUM", &seqnum) < 0)
		return -EINVAL;
	r = respect_cap(dir_fd, devpath);
	if (r < 0)
		return r;
	snprintf(tmp, sizeof(tmp), TMP_PREFIX "%" PRIu64 "-%ld", seqnum, (long) getpid());
	r = write_new_file(dir_fd, tmp, msg);
	if (r < 0)
		return r;
	if (renameat(dir_fd, tmp, dir_fd, spool_name(seqnum).s) < 0) {
		r = -errno;
		unlinkat(dir_fd, tmp, 0);
	}
	return r;
}

int spool_mark_lost(int dir_fd)
{
	_cleanup_close_ int fd = openat(dir_fd, LOST_NAME,
					O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0)
		return 1;
	return errno == EEXIST ? 0 : -errno;
}

int spool_take_lost(int dir_fd)
{
	if (unlinkat(dir_fd, LOST_NAME, 0) == 0)
		return 1;
	return errno == ENOENT ? 0 : -errno;
}

static void remove_stale(int dir_fd, const char *name)
{
	struct stat st;

	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    time(NULL) - st.st_mtime > TMP_AGE_MAX)
		unlinkat(dir_fd, name, 0);
}

static int compare_seqnums(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *) a, y = *(const uint64_t *) b;

	return x < y ? -1 : x > y;
}

/* Appends SEQNUM to the array *LIST of *N, which grows by doubling. */
static int list_append(uint64_t **list, size_t *n, uint64_t seqnum)
{
	if ((*n & (*n - 1)) == 0) {
		uint64_t *p = reallocarray(*list, *n ? *n * 2 : 1, sizeof(*p));
		if (!p)
			return -ENOMEM;
		*list = p;
	}
	(*list)[(*n)++] = seqnum;
	return 0;
}

int spool_list(int dir_fd, uint64_t **ret_seqnums, size_t *ret_n)
{
	_cleanup_free_ uint64_t *list = NULL;
	size_t n = 0;
	uint64_t seqnum;
	int r;

	/* A descriptor of its own: fdopendir takes it, and its position starts at 0. */
	int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	_cleanup_(closedirp) DIR *dir = fdopendir(fd);
	if (!dir) {
		close_fd(fd);
		return -errno;
	}
	errno = 0;
	for (struct dirent *e; (e = readdir(dir)); errno = 0) {
		if (startswith(e->d_name, TMP_PREFIX))
			remove_stale(dir_fd, e->d_name);
		if (name_parse(e->d_name, &seqnum) < 0)
			continue;
		r = list_append(&list, &n, seqnum);
		if (r < 0)
			return r;
	}
	if (errno)
		return -errno;
	if (n > 1)
		qsort(list, n, sizeof(*list), compare_seqnums);
	*ret_seqnums = TAKE_PTR(list);
	*ret_n = n;
	return 0;
}

/* Reads the file to its end: a message never fills the byte after WIRE_MAX. */
static int read_all(int fd, struct wire_msg *msg)
{
	msg->len = 0;
	for (;;) {
		char more;
		bool full = msg->len == WIRE_MAX;
		ssize_t n = full ? read(fd, &more, 1)
				 : read(fd, msg->data + msg->len, WIRE_MAX - msg->len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		if (full)
			return -EBADMSG;
		msg->len += (size_t) n;
	}
}

int spool_read(int dir_fd, uint64_t seqnum, struct wire_msg *ret_msg)
{
	struct wire_msg msg;
	struct stat st;
	uint64_t inside;
	int r;

	/* O_NONBLOCK: opening a FIFO must not wait for its writer. */
	_cleanup_close_ int fd = openat(dir_fd, spool_name(seqnum).s,
					O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return errno == ELOOP || errno == ENXIO ? -EBADMSG : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EBADMSG;
	if (st.st_uid != geteuid())
		return -EPERM;
	r = read_all(fd, &msg);
	if (r < 0)
		return r;
	if (wire_check(&msg) < 0 || wire_get_number(&msg, "SEQNUM", &inside) < 0 ||
	    inside != seqnum)
		return -EBADMSG;
	*ret_msg = msg;
	return 0;
}

int spool_remove(int dir_fd, uint64_t seqnum)
{
	if (unlinkat(dir_fd, spool_name(seqnum).s, 0) < 0 && errno != ENOENT)
		return -errno;
	return 0;
}
