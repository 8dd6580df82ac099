/* The worker's jobs on USB devices: opening the node, looking whether the host uses a disk below
 * it, taking interfaces from host drivers and giving them back. Runs in a child of the worker:
 * may block. */
#include <fcntl.h>
#include <linux/usbdevice_fs.h>
#include <sys/ioctl.h>

#include "broker/device.h"
#include "broker/inuse.h"
#include "broker/worker.h"
#include "broker/worker_host.h"
#include "helper/root.h"

#define CONFIGURATION_MS 500

/* The kernel announces a device before it configures it. Opened in between, its interfaces would go
 * to host drivers after the VMM has looked. Reading the attribute waits for the device's lock.
 * Source: kernel, Documentation/ABI/stable/sysfs-bus-usb, bConfigurationValue. */
static void await_configuration(const char *devpath)
{
	char value[8];

	for (int waited = 0; waited < CONFIGURATION_MS; waited += 5) {
		if (root_read(value, sizeof(value), "/sys%s/bConfigurationValue", devpath) < 0 ||
		    value[0] > ' ')
			return;
		usleep(5000);
	}
}

/* The kernel gives such a device no configuration. One that has none for another reason (not enough
 * power) is the VM's business. Source: kernel, Documentation/usb/authorization.rst. */
static bool is_unauthorized(const char *devpath)
{
	char value[8];

	return root_read(value, sizeof(value), "/sys%s/authorized", devpath) == 0 &&
	       streq(value, "0");
}

static int check_use(const struct worker_request *request, struct inuse *inuse)
{
	char path[PATH_MAX];
	int r;

	snprintf(path, sizeof(path), "/sys%s", request->devpath);
	r = inuse_below(inuse, path);
	if (r == 0)
		r = inuse_by_processes(inuse);
	if (r == 0 && !(request->options & WORKER_FORCE))
		r = inuse_by_routes(inuse);
	if (r == 0 && inuse->n_disks > WORKER_MAX_FDS - 1)
		r = inuse_say(inuse, "it has more than %d disks", WORKER_MAX_FDS - 1);
	return r;
}

void worker_usb_open(const struct worker_request *request, struct worker_answer *answer, int *fds)
{
	_cleanup_(inuse_finish) struct inuse inuse = {0};
	_cleanup_close_ int fd = worker_open_node(request, answer);

	if (fd < 0)
		return;
	if (is_unauthorized(request->devpath)) {
		worker_fail(answer, -EACCES, "the host has not authorized it (authorized is 0)");
		return;
	}
	await_configuration(request->devpath);
	if (check_use(request, &inuse) < 0) {
		worker_fail(answer, -EBUSY, "%s", inuse.words);
		return;
	}
	fds[answer->n_fds++] = TAKE_FD(fd);
	while (inuse.n_disks > 0)
		fds[answer->n_fds++] = inuse.disks[--inuse.n_disks];
}

struct release {
	const char *devpath;
	int fd;
};

/* Only from a host driver: the call would take away the VMM's own claim as well.
 * Source: kernel, include/uapi/linux/usbdevice_fs.h, USBDEVFS_DISCONNECT inside USBDEVFS_IOCTL. */
static void disconnect_interface(void *data, const char *interface)
{
	const struct release *release = data;
	const char *dot = strrchr(interface, '.');
	struct usbdevfs_ioctl command = {.ioctl_code = USBDEVFS_DISCONNECT};
	char driver[256];

	if (!usb_interface_driver(release->devpath, interface, driver, sizeof(driver)))
		return;
	command.ifno = dot ? atoi(dot + 1) : 0;
	ioctl(release->fd, USBDEVFS_IOCTL, &command);
}

void worker_usb_release(const struct worker_request *request, struct worker_answer *answer)
{
	char driver[256];
	int fd = worker_open_node(request, answer);

	if (fd < 0)
		return;
	struct release release = {.devpath = request->devpath, .fd = fd};
	usb_each_interface(request->devpath, disconnect_interface, &release);
	close(fd);
	if (usb_host_driver(request->devpath, driver, sizeof(driver)))
		worker_fail(answer, -EBUSY, "host driver %s does not let go", driver);
}

/* Source: kernel, Documentation/ABI/testing/sysfs-bus, drivers_probe. */
static void probe_interface(void *data, const char *interface)
{
	(void) data;
	root_write(interface, "/sys/bus/usb/drivers_probe");
}

void worker_usb_return(const struct worker_request *request, struct worker_answer *answer)
{
	if (sysfs_inode(request->devpath) != request->inode)
		worker_fail(answer, -ENODEV, "the device has been unplugged");
	else
		usb_each_interface(request->devpath, probe_interface, NULL);
}
