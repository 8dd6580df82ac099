/* A look that never waits: see glance.h. Used by confinement.c, in the loop, and by the worker.
 * Sources: statx(2), AT_STATX_DONT_SYNC; openat2(2), RESOLVE_CACHED; proc(5). */
#include "broker/glance.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#if __has_include(<linux/openat2.h>)
#include <linux/openat2.h>
#endif

#include "helper/root.h"

#ifndef STATX_TYPE /* musl before 1.2.5 */
#include <linux/stat.h>
#define statx(dir, path, flags, mask, st) syscall(SYS_statx, dir, path, flags, mask, st)
#endif

static int look_at(int dir, const char *name, int flags, struct glance *ret_glance)
{
	struct statx st;

	if (statx(dir, name, flags | AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE | STATX_INO,
		  &st) < 0)
		return -errno;
	*ret_glance = (struct glance){
		.mode = st.stx_mode,
		.device = makedev(st.stx_dev_major, st.stx_dev_minor),
		.inode = st.stx_ino,
		.number = makedev(st.stx_rdev_major, st.stx_rdev_minor),
	};
	return 0;
}

int glance_behind(int dir, const char *name, struct glance *ret_glance)
{
	return look_at(dir, name, 0, ret_glance);
}

/* PATH as a process with the root directory ROOT sees it. Returns the descriptor or -errno. */
static int open_cached(int root, const char *path)
{
#if defined SYS_openat2 && defined RESOLVE_CACHED
	struct open_how how = {.flags = O_PATH | O_NOFOLLOW | O_CLOEXEC,
			       .resolve = RESOLVE_CACHED | RESOLVE_IN_ROOT};
	int fd = (int) syscall(SYS_openat2, root, path, &how, sizeof(how));

	return fd < 0 ? -errno : fd;
#else
	(void) root, (void) path;
	return -ENOSYS;
#endif
}

int glance_inside(pid_t pid, const char *path, struct glance *ret_glance)
{
	_cleanup_close_ int root = root_open(O_PATH | O_DIRECTORY, "/proc/%d/root", (int) pid);
	_cleanup_close_ int fd = root < 0 ? root : open_cached(root, path);

	return fd < 0 ? fd : look_at(fd, "", AT_EMPTY_PATH, ret_glance);
}
