/* The worker's jobs on input devices: seeing that nobody else has grabbed the event node, letting
 * the VMM's user open it, and taking that back. Runs in the worker.
 * Source: kernel, include/uapi/linux/input.h (EVIOCGRAB). */
#include <fcntl.h>
#include <linux/input.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "broker/inuse.h"
#include "broker/worker.h"
#include "broker/worker_host.h"

#define ENDING_TRIES 10 /* for a process that ends to close its descriptors */
#define ENDING_MS 50    /* between two tries */

/* Can it be grabbed? A process that is just ending has a grab for a moment longer than a name:
 * that is waited for. Returns 0 or -EBUSY, with the HOLDER in words. */
static int try_grab(int fd, char *holder, size_t size)
{
	struct node one = {0};
	struct nodes nodes = {1, &one};
	struct stat st;

	snprintf(holder, size, "another process");
	if (fstat(fd, &st) == 0)
		one.number = st.st_rdev;
	for (int tries = 0; ioctl(fd, EVIOCGRAB, 1) < 0; tries++) {
		if (inuse_find_opener(&nodes, NULL, holder, size) > 0 || tries == ENDING_TRIES)
			return -EBUSY;
		usleep(ENDING_MS * 1000);
	}
	ioctl(fd, EVIOCGRAB, 0);
	return 0;
}

void worker_evdev_take(const struct worker_request *request, struct worker_answer *answer, int *fds)
{
	char holder[128];
	_cleanup_close_ int fd = worker_open_node(request, answer);

	if (fd < 0)
		return;
	if (request->options & WORKER_MUST_RESET) {
		worker_fail(answer, -EOPNOTSUPP,
			    "an input device can't be reset, and its rule says reset = yes");
		return;
	}
	if (try_grab(fd, holder, sizeof(holder)) < 0) {
		worker_fail(answer, -EBUSY, "%s is held by %s", request->node, holder);
		return;
	}
	/* QEMU opens the node itself. */
	if (fchown(fd, request->uid, (gid_t) -1) < 0)
		worker_fail(answer, -errno, "can't give %s to uid %u: %s", request->node,
			    (unsigned) request->uid, strerror(errno));
	else
		worker_open_watch(request, answer, fds);
}

void worker_evdev_return(const struct worker_request *request, struct worker_answer *answer)
{
	_cleanup_close_ int fd = worker_open_node(request, answer);

	if (fd >= 0 && fchown(fd, 0, (gid_t) -1) < 0)
		worker_fail(answer, -errno, "can't take %s back: %s", request->node,
			    strerror(errno));
}
