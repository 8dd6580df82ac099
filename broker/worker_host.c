/* What the worker's jobs share: see worker_host.h. Runs in the worker: may block. */
#include "broker/worker_host.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "broker/device.h"
#include "broker/mark.h"
#include "broker/service.h"
#include "helper/root.h"

#define SETTLE_MS 2000   /* more than an unmount and the mount after it take */
#define LEAVING_TRIES 50 /* for another network device to leave the host */
#define LEAVING_MS 100   /* between two looks */

int worker_fail(struct worker_answer *answer, int result, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(answer->detail, sizeof(answer->detail), format, args);
	va_end(args);
	answer->result = result;
	return result;
}

static int open_lock(const char *name)
{
	char runtime[PATH_MAX / 2], folder[PATH_MAX], path[PATH_MAX];
	int r = service_directory("RUNTIME_DIRECTORY", VHOTPLUG_RUNDIR, runtime, sizeof(runtime));

	if (r == 0)
		r = root_path(folder, sizeof(folder), "%s/locks", runtime);
	if (r == 0)
		r = root_path(path, sizeof(path), "%s/locks/%s", runtime, name);
	if (r < 0)
		return r;
	if (mkdir(folder, 0700) < 0 && errno != EEXIST)
		return -errno;
	int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

int worker_lock(const char *name, struct worker_answer *answer)
{
	int fd = open_lock(name);

	if (fd >= 0 && flock(fd, LOCK_EX) == 0)
		return fd;
	int r = fd < 0 ? fd : -errno;
	if (fd >= 0)
		close(fd);
	return worker_fail(answer, r, "can't lock %s against other jobs: %s", name, strerror(-r));
}

bool worker_has_gone(const struct worker_request *request, struct worker_answer *answer)
{
	if (sysfs_inode(request->devpath) == request->inode)
		return false;
	worker_fail(answer, -ENODEV, "the device has been unplugged");
	return true;
}

bool worker_looks_again(const struct worker_request *request, struct inuse *inuse)
{
	if (!(request->options & WORKER_WAS_USED))
		return false;
	inuse_finish(inuse);
	*inuse = (struct inuse){0};
	usleep(SETTLE_MS * 1000);
	return true;
}

/* Not waited for without end: a driver may take for ever to let go. */
static int lock_routes(struct inuse *inuse)
{
	int fd = open_lock("routes"), r = fd < 0 ? fd : -EWOULDBLOCK;

	for (int tries = 0; r == -EWOULDBLOCK && tries < LEAVING_TRIES; tries++) {
		if (tries > 0)
			usleep(LEAVING_MS * 1000);
		r = flock(fd, LOCK_EX | LOCK_NB) < 0 ? -errno : 0;
	}
	if (r == 0) {
		inuse->routes_lock = fd;
		inuse->has_lock = true;
		return 0;
	}
	if (fd >= 0)
		close(fd);
	if (r == -EWOULDBLOCK)
		return inuse_say(inuse, "can't tell whether the host needs it for the network:"
					" another network device is just leaving the host");
	return inuse_say(inuse, "can't tell whether the host needs it for the network: %s",
			 strerror(-r));
}

/* As inuse_by_routes, where there is no force. A look that has found the need is remembered until
 * one that counts has found none: the device is taken then. */
static int check_routes(const struct worker_request *request, struct inuse *inuse)
{
	const char *name = strrchr(request->devpath, '/') + 1;
	size_t length;

	inuse->was_used = request->options & WORKER_WAS_USED;
	inuse->was_needed = mark_is_set(MARK_NEEDED, name, request->node);
	int r = request->options & WORKER_FORCE ? 0 : inuse_by_routes(inuse);
	if (r == 0 && !inuse->glances)
		mark_clear(MARK_NEEDED, name, request->node);
	if (inuse->is_needed && mark_set(MARK_NEEDED, name, request->node) < 0) {
		length = strlen(inuse->words);
		snprintf(inuse->words + length, sizeof(inuse->words) - length,
			 " (and that can't be noted)");
	}
	return r;
}

int worker_check_needs(const struct worker_request *request, struct inuse *inuse)
{
	int r = request->options & WORKER_FORCE ? 0 : inuse_by_holders(inuse);

	if (r < 0 || !(inuse->has_interface || inuse->has_hidden))
		return r;
	/* One that is forced leaves as well. */
	r = lock_routes(inuse);
	return r < 0 ? r : check_routes(request, inuse);
}

/* Source: kernel, Documentation/admin-guide/sysctl/kernel.rst, modprobe. */
void worker_load_module(const char *name)
{
	char program[256];
	char *const arguments[] = {program, (char *) "-q", (char *) "-b", (char *) name, NULL};
	pid_t pid;

	if (root_read(program, sizeof(program), "/proc/sys/kernel/modprobe") == 0 &&
	    posix_spawn(&pid, program, NULL, NULL, arguments, environ) == 0)
		waitpid(pid, NULL, 0);
}

void worker_load_driver(const char *device)
{
	char alias[256];

	if (root_read(alias, sizeof(alias), "%s/modalias", device) == 0)
		worker_load_module(alias);
}

/* Is NODE still the node of the instance that was meant? Buses reuse device numbers. */
static int check_instance(const struct worker_request *request, int fd)
{
	char expected[32], found[32];
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode))
		return -ENODEV;
	if (root_read(found, sizeof(found), "/sys%s/dev", request->devpath) < 0)
		return -ENODEV;
	snprintf(expected, sizeof(expected), "%u:%u", major(st.st_rdev), minor(st.st_rdev));
	if (!streq(found, expected) || sysfs_inode(request->devpath) != request->inode)
		return -ENODEV;
	return 0;
}

int worker_open_node(const struct worker_request *request, struct worker_answer *answer)
{
	int fd = root_open(O_RDWR | O_NOFOLLOW, "%s", request->node);

	if (fd < 0) {
		int r = fd == -ENOENT || fd == -ENXIO ? -ENODEV : fd;

		return worker_fail(answer, r, "can't open %s: %s", request->node, strerror(-fd));
	}
	if (check_instance(request, fd) < 0) {
		close(fd);
		return worker_fail(answer, -ENODEV, "the device has been unplugged");
	}
	return fd;
}

void worker_open_watch(const struct worker_request *request, struct worker_answer *answer, int *fds)
{
	int fd = root_open(O_RDONLY | O_NONBLOCK | O_NOFOLLOW, "%s", request->node);

	if (fd < 0 || check_instance(request, fd) < 0) {
		close_fd(fd);
		return;
	}
	answer->has_watch = true;
	fds[answer->n_fds++] = fd;
}

void worker_watch_node(const struct worker_request *request, struct worker_answer *answer, int *fds)
{
	worker_open_watch(request, answer, fds);
	if (!answer->has_watch)
		worker_fail(answer, -ENODEV, "%s can't be watched", request->node);
}
