/* What the worker's jobs share: see worker_host.h. Runs in a child of the worker: may block. */
#include "broker/worker_host.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "broker/device.h"
#include "helper/root.h"

int worker_fail(struct worker_answer *answer, int result, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(answer->detail, sizeof(answer->detail), format, args);
	va_end(args);
	answer->result = result;
	return result;
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
