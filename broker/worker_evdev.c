/* The worker's jobs on input devices: seeing that nobody else has grabbed the event node, letting
 * the VMM's user open it, and taking that back. Runs in a child of the worker.
 * Source: kernel, include/uapi/linux/input.h (EVIOCGRAB). */
#include <fcntl.h>
#include <linux/input.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "broker/device.h"
#include "broker/worker.h"
#include "broker/worker_host.h"
#include "helper/root.h"

#define ENDING_TRIES 10 /* for a process that ends to close its descriptors */
#define ENDING_MS 50    /* between two tries */

/* Does process PID have NODE open? Seen from another mount namespace the path may begin with more.
 */
static bool has_open(const char *pid, const char *node)
{
	char target[300];
	struct dirent *entry;
	bool found = false;

	DIR *dir = root_opendir("/proc/%s/fd", pid);
	while (dir && !found && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

		if (n > 0) {
			target[n] = 0;
			found = (size_t) n >= strlen(node) &&
				streq(target + n - strlen(node), node);
		}
	}
	if (dir)
		closedir(dir);
	return found;
}

/* "Xorg (process 123)", of the first process other than ourselves that has NODE open; false when
 * none can be seen. */
static bool describe_holder(const char *node, char *ret_text, size_t size)
{
	DIR *proc = root_opendir("/proc");
	struct dirent *entry;
	bool found = false;

	snprintf(ret_text, size, "another process");
	while (proc && !found && (entry = readdir(proc))) {
		char name[64];

		if (entry->d_name[0] < '1' || entry->d_name[0] > '9' ||
		    atoi(entry->d_name) == (int) getpid() || !has_open(entry->d_name, node))
			continue;
		if (root_read(name, sizeof(name), "/proc/%s/comm", entry->d_name) < 0)
			strcpy(name, "?");
		snprintf(ret_text, size, "%s (process %s)", name, entry->d_name);
		found = true;
	}
	if (proc)
		closedir(proc);
	return found;
}

/* Can it be grabbed? A process that is just ending has a grab for a moment longer than a name:
 * that is waited for. Returns 0 or -EBUSY, with the HOLDER in words. */
static int try_grab(int fd, const char *node, char *holder, size_t size)
{
	for (int tries = 0; ioctl(fd, EVIOCGRAB, 1) < 0; tries++) {
		if (describe_holder(node, holder, size) || tries == ENDING_TRIES)
			return -EBUSY;
		usleep(ENDING_MS * 1000);
	}
	ioctl(fd, EVIOCGRAB, 0);
	return 0;
}

void worker_evdev_take(const struct worker_request *request, struct worker_answer *answer)
{
	char holder[128];
	_cleanup_close_ int fd = worker_open_node(request, answer);

	if (fd < 0)
		return;
	if (try_grab(fd, request->node, holder, sizeof(holder)) < 0) {
		worker_fail(answer, -EBUSY, "%s is held by %s", request->node, holder);
		return;
	}
	/* QEMU opens the node itself. */
	if (fchown(fd, request->uid, (gid_t) -1) < 0)
		worker_fail(answer, -errno, "can't give %s to uid %u: %s", request->node,
			    (unsigned) request->uid, strerror(errno));
}

void worker_evdev_return(const struct worker_request *request, struct worker_answer *answer)
{
	_cleanup_close_ int fd = worker_open_node(request, answer);

	if (fd >= 0 && fchown(fd, 0, (gid_t) -1) < 0)
		worker_fail(answer, -errno, "can't take %s back: %s", request->node,
			    strerror(errno));
}
