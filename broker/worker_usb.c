/* The worker's jobs on USB devices: opening the node after a look whether the host uses what is
 * below it, taking interfaces from host drivers, shutting them for everybody, and giving them back.
 * Runs in the worker: may block. */
#include <fcntl.h>
#include <linux/usbdevice_fs.h>
#include <sys/ioctl.h>

#include "broker/device.h"
#include "broker/mark.h"
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

static const char *name_of(const struct worker_request *request)
{
	return strrchr(request->devpath, '/') + 1;
}

/* Which programs count, BY_PROGRAMS says. */
static int look_at_use(const struct worker_request *request, struct inuse *inuse,
		       int (*by_programs)(struct inuse *inuse))
{
	char path[PATH_MAX], driver[64];
	int r;

	snprintf(path, sizeof(path), "/sys%s", request->devpath);
	/* Another machine's, by a driver of the whole device. Source: kernel,
	 * drivers/usb/usbip/stub_main.c. */
	r = root_link_name(driver, sizeof(driver), "%s/driver", path);
	if (r == 0 && streq(driver, "usbip-host"))
		return inuse_say(inuse, "the host exports it by USB/IP");
	if (r < 0 && r != -ENOENT)
		return inuse_say(inuse, "can't tell which driver has it: %s", strerror(-r));
	r = inuse_below(inuse, path);
	if (r == 0)
		r = by_programs(inuse);
	return r < 0 ? r : worker_check_needs(request, inuse);
}

static int check_use(const struct worker_request *request, struct inuse *inuse,
		     int (*by_programs)(struct inuse *inuse))
{
	int r;

	inuse->glances = request->options & WORKER_WAS_USED;
	r = look_at_use(request, inuse, by_programs);
	if (r == 0 && worker_looks_again(request, inuse))
		r = look_at_use(request, inuse, by_programs);
	return r;
}

/* The same, in words to ANSWER, and for the rules. */
static int check_host(const struct worker_request *request, struct inuse *inuse,
		      struct worker_answer *answer)
{
	int r = check_use(request, inuse, inuse_by_processes);

	if (r == 0 && inuse->n_disks > WORKER_MAX_DISKS)
		r = inuse_say(inuse, "it has more than %d disks", WORKER_MAX_DISKS);
	if (r < 0) {
		r = mark_set(MARK_REFUSED, name_of(request), request->node);
		return worker_fail(answer, -EBUSY, "%s%s", inuse->words,
				   r < 0 ? " (and the rules can't be told)" : "");
	}
	mark_clear(MARK_REFUSED, name_of(request), request->node);
	return 0;
}

struct shutter {
	const char *devpath, *value;
	int error; /* of the first interface that could not be shut or opened */
};

static void move_shutter(void *data, const char *interface)
{
	struct shutter *shutter = data;
	char class[8] = "";
	int r = root_read(class, sizeof(class), "/sys%s/%s/bInterfaceClass", shutter->devpath,
			  interface);

	/* What hangs on a hub is not its VM's. */
	if (streq(class, "09"))
		return;
	if (r >= 0)
		r = root_write(shutter->value, "/sys%s/%s/authorized", shutter->devpath, interface);
	if (r < 0 && r != -ENOENT && shutter->error == 0)
		shutter->error = r;
}

/* No driver, and no program, gets an interface that is shut; the one that had it has lost it.
 * Opened, it stays without one until somebody asks for it. Source: kernel,
 * Documentation/usb/authorization.rst. Returns 0 or -errno. */
static int shut_interfaces(const char *devpath, bool is_shut)
{
	struct shutter shutter = {.devpath = devpath, .value = is_shut ? "0" : "1"};

	usb_each_interface(devpath, move_shutter, &shutter);
	return shutter.error;
}

/* Takes it from host drivers and opens it for the VM, in a way that the rules can see. */
static int prepare_device(const struct worker_request *request, struct worker_answer *answer)
{
	char driver[256];
	int r = mark_set(MARK_GIVEN, name_of(request), request->node);

	if (r < 0)
		return worker_fail(answer, r, "can't note that a VM has it: %s", strerror(-r));
	if (usb_host_driver(request->devpath, driver, sizeof(driver)))
		r = shut_interfaces(request->devpath, true);
	if (r == 0)
		r = shut_interfaces(request->devpath, false);
	return r < 0 ? worker_fail(answer, r, "can't take it from the host: %s", strerror(-r)) : 0;
}

/* If it can't be reset, the VMM will tell what is wrong with it, unless a former VM is to have left
 * nothing in it. */
static int reset_device(const struct worker_request *request, int fd, struct worker_answer *answer)
{
	if (!(request->options & WORKER_RESET) || ioctl(fd, USBDEVFS_RESET) >= 0 ||
	    !(request->options & WORKER_MUST_RESET))
		return 0;
	if (errno == ENODEV)
		return worker_fail(answer, -ENODEV, "the reset has made another device of it");
	return worker_fail(answer, -EBUSY, "it can't be reset (%s), and its rule says reset = yes",
			   strerror(errno));
}

void worker_usb_open(const struct worker_request *request, struct worker_answer *answer, int *fds)
{
	_cleanup_(inuse_finish) struct inuse inuse = {0};
	_cleanup_close_ int lock = worker_lock(name_of(request), answer);
	_cleanup_close_ int fd = lock < 0 ? lock : worker_open_node(request, answer);

	if (fd < 0)
		return;
	if (is_unauthorized(request->devpath)) {
		worker_fail(answer, -EACCES, "the host has not authorized it (authorized is 0)");
		return;
	}
	await_configuration(request->devpath);
	if (check_host(request, &inuse, answer) < 0 || worker_has_gone(request, answer) ||
	    prepare_device(request, answer) < 0)
		return;
	if (reset_device(request, fd, answer) < 0)
		return;
	answer->has_node = true;
	fds[answer->n_fds++] = TAKE_FD(fd);
	worker_open_watch(request, answer, fds);
	while (inuse.n_disks > 0)
		fds[answer->n_fds++] = inuse.disks[--inuse.n_disks];
}

void worker_usb_fence(const struct worker_request *request, struct worker_answer *answer)
{
	_cleanup_(inuse_finish) struct inuse inuse = {0};
	_cleanup_close_ int lock = worker_lock(name_of(request), answer);

	if (lock < 0 || worker_has_gone(request, answer))
		return;
	if (check_host(request, &inuse, answer) < 0 || worker_has_gone(request, answer))
		return;
	int r = mark_clear(MARK_GIVEN, name_of(request), request->node);
	if (r == 0)
		r = shut_interfaces(request->devpath, true);
	if (r < 0)
		worker_fail(answer, r, "can't keep the host from it: %s", strerror(-r));
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

/* What the host uses stays its own, whatever its VM says that it has; who has claimed the device by
 * usbfs may be that VM. Returns 0, or -errno with ANSWER filled. */
static int check_drivers(const struct worker_request *request, struct inuse *inuse,
			 struct worker_answer *answer)
{
	char driver[256];

	if (!usb_host_driver(request->devpath, driver, sizeof(driver)))
		return 0;
	if (check_use(request, inuse, inuse_by_readers) == 0)
		return 0;
	return worker_fail(answer, -EBUSY, "%s", inuse->words);
}

void worker_usb_release(const struct worker_request *request, struct worker_answer *answer)
{
	_cleanup_(inuse_finish) struct inuse inuse = {0};
	_cleanup_close_ int lock = worker_lock(name_of(request), answer);
	char driver[256];
	int fd = lock < 0 ? lock : worker_open_node(request, answer);

	if (fd < 0)
		return;
	if (check_drivers(request, &inuse, answer) < 0) {
		close(fd);
		return;
	}
	struct release release = {.devpath = request->devpath, .fd = fd};
	if (request->options & WORKER_FOUND &&
	    mark_set(MARK_GIVEN, name_of(request), request->node) == 0)
		shut_interfaces(request->devpath, false);
	usb_each_interface(request->devpath, disconnect_interface, &release);
	close(fd);
	if (usb_host_driver(request->devpath, driver, sizeof(driver)))
		answer->result = -EBUSY; /* who asks, looks as well */
}

/* Source: kernel, Documentation/ABI/testing/sysfs-bus, drivers_probe. */
static void probe_interface(void *data, const char *interface)
{
	char driver[256], path[PATH_MAX];
	const char *devpath = data;

	if (usb_interface_driver(devpath, interface, driver, sizeof(driver)))
		return;
	snprintf(path, sizeof(path), "/sys%s/%s", devpath, interface);
	worker_load_driver(path);
	root_write(interface, "/sys/bus/usb/drivers_probe");
}

void worker_usb_return(const struct worker_request *request, struct worker_answer *answer)
{
	_cleanup_close_ int lock = worker_lock(name_of(request), answer);

	if (lock < 0 || worker_has_gone(request, answer))
		return;
	mark_clear(MARK_REFUSED, name_of(request), request->node);
	mark_clear(MARK_GIVEN, name_of(request), request->node);
	int r = shut_interfaces(request->devpath, false);
	if (r < 0)
		worker_fail(answer, r, "can't give it back to the host: %s", strerror(-r));
	usb_each_interface(request->devpath, probe_interface, (void *) request->devpath);
}
