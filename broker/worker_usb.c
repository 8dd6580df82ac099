/* The worker's jobs on USB devices: opening the node, looking whether the host uses a disk below
 * it, taking interfaces from host drivers and giving them back. Runs in a child of the worker:
 * may block. */
#include <fcntl.h>
#include <linux/usbdevice_fs.h>
#include <sys/ioctl.h>

#include "broker/device.h"
#include "broker/worker.h"
#include "broker/worker_host.h"
#include "helper/root.h"

#define CONFIGURATION_MS 500
#define MAX_DEPTH 12 /* of a disk below a USB device; usb-storage needs 5 */

/* The kernel announces a device before it configures it. Opened in between, its interfaces would go
 * to host drivers after the VMM has looked. One that stays without configuration (not authorized,
 * not enough power) is the VM's business. Reading the attribute waits for the device's lock.
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

void worker_usb_open(const struct worker_request *request, struct worker_answer *answer, int *fds)
{
	char path[600];
	int fd = worker_open_node(request, answer);

	if (fd < 0)
		return;
	fds[answer->n_fds++] = fd;
	await_configuration(request->devpath);
	snprintf(path, sizeof(path), "/sys%s", request->devpath);
	if (hold_disks(path, MAX_DEPTH, answer, fds) < 0) {
		while (answer->n_fds > 0)
			close(fds[--answer->n_fds]);
	}
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
