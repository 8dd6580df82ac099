/* Reading udev's database: see udev.h. Used by the manager at start and after the rules changed.
 *
 * libudev also reads the device's uevent file, and that waits for the device's lock, which a device
 * may hold for as long as it likes. So a child process does the reading, and what it does not tell
 * in time is left as it is. */
#include "broker/udev.h"

#include <dirent.h>
#include <libudev.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "broker/log.h"
#include "broker/worker.h"
#include "helper/wire.h"

#define TAGGED "/run/udev/tags/vhotplug" /* one entry a device, by its device id */
#define PATIENCE_MS 500                  /* for one device */
#define MAX_DEVICES 1024

static const char *const properties[] = {
	"SUBSYSTEM",
	"DEVTYPE",
	"DEVNAME",
	"PRODUCT",
	"ID_VENDOR",
	"ID_MODEL",
	"ID_VENDOR_ID",
	"ID_MODEL_ID",
	"VHOTPLUG_RULE",
	"VHOTPLUG_VM",
	"VHOTPLUG_CONFIG",
	"VHOTPLUG_FAMILY",
	"VHOTPLUG_OPTIONS",
	"VHOTPLUG_FENCE",
	"ID_VENDOR_FROM_DATABASE",
	"ID_MODEL_FROM_DATABASE",
	"ID_SERIAL_SHORT",
	"ID_USB_INTERFACES",
};

/* Child: one message about the device ID, a device id or a path in sysfs. An empty one when there
 * is no such device. */
static void tell(struct udev *udev, const char *id, int fd)
{
	struct udev_device *device = *id == '/' ? udev_device_new_from_syspath(udev, id)
						: udev_device_new_from_device_id(udev, id);
	struct wire_msg msg;
	int r = 0;

	wire_init(&msg);
	if (device)
		r = wire_add(&msg, "DEVPATH", udev_device_get_devpath(device));
	if (device && r == 0 && udev_device_get_is_initialized(device) > 0)
		r = wire_add(&msg, "INITIALIZED", "1");
	for (size_t i = 0; device && r == 0 && i < ARRAY_SIZE(properties); i++) {
		const char *value = udev_device_get_property_value(device, properties[i]);

		if (value)
			r = wire_add(&msg, properties[i], value);
	}
	if (r < 0)
		wire_init(&msg);
	if (send(fd, msg.data, msg.len, MSG_NOSIGNAL) < 0)
		_exit(0); /* nobody waits any more */
	udev_device_unref(device);
}

/* Starts a process that tells about the N devices in IDS, one after the other. It is nobody's
 * child, so that nobody has to wait for it when it is stuck. Returns the socket it talks on, or
 * -errno. */
static int start_teller(char *const *ids, size_t n)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0) {
		if (fork() == 0) {
			struct udev *udev = udev_new();
			int fd = worker_keep_only(pair[1]);

			for (size_t i = 0; udev && i < n; i++)
				tell(udev, ids[i], fd);
		}
		_exit(0);
	}
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return -EAGAIN;
	}
	waitpid(pid, NULL, 0);
	return pair[0];
}

/* Receives one message. Returns 0, or -ETIMEDOUT, -ECONNRESET. */
static int hear(int fd, struct wire_msg *msg)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	int r;

	do
		r = poll(&poll_fd, 1, PATIENCE_MS);
	while (r < 0 && errno == EINTR);
	if (r <= 0)
		return -ETIMEDOUT;
	ssize_t size = recv(fd, msg->data, sizeof(msg->data), MSG_DONTWAIT);
	if (size <= 0)
		return -ECONNRESET;
	msg->len = (size_t) size;
	return wire_check(msg);
}

static const char *get_property(void *device, const char *key)
{
	return wire_get(device, key);
}

/* Calls FN for each of the N devices in IDS that can be read, whatever udev says of them. */
static int read_devices(char *const *ids, size_t n, udev_device_fn fn, void *data)
{
	_cleanup_close_ int fd = -1;
	struct wire_msg msg;

	for (size_t i = 0; i < n; i++) {
		if (fd < 0 && (fd = start_teller(ids + i, n - i)) < 0)
			return fd;
		if (hear(fd, &msg) < 0) {
			log_warning("%s does not respond: what udev says of it can't be read now",
				    ids[i]);
			fd = close_fd(fd);
			continue;
		}
		const char *devpath = wire_get(&msg, "DEVPATH");
		if (devpath)
			fn(data, devpath, get_property, &msg);
	}
	return 0;
}

struct claimed {
	udev_device_fn fn;
	void *data;
};

/* The tag sticks to a device, the property does not. */
static void hand_on_claimed(void *data, const char *devpath, property_fn property, void *device)
{
	struct claimed *claimed = data;

	if (property(device, "VHOTPLUG_RULE"))
		claimed->fn(claimed->data, devpath, property, device);
}

int udev_list_claimed(udev_device_fn fn, void *data)
{
	struct claimed claimed = {.fn = fn, .data = data};
	char *ids[MAX_DEVICES];
	size_t n = 0;
	struct dirent *entry;

	/* Not by udev_enumerate, which reads the devices as well. */
	DIR *dir = opendir(TAGGED);
	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while (n < MAX_DEVICES && (entry = readdir(dir)))
		if (entry->d_name[0] != '.' && (ids[n] = strdup(entry->d_name)))
			n++;
	closedir(dir);
	int r = read_devices(ids, n, hand_on_claimed, &claimed);
	while (n > 0)
		free(ids[--n]);
	return r;
}

static void note_claim(void *data, const char *devpath, property_fn property, void *device)
{
	enum udev_claim *claim = data;

	(void) devpath;
	if (property(device, "INITIALIZED"))
		*claim = property(device, "VHOTPLUG_RULE") ? UDEV_CLAIMED : UDEV_UNCLAIMED;
}

enum udev_claim udev_get_claim(const char *devpath)
{
	char syspath[600];
	char *id = syspath;
	enum udev_claim claim = UDEV_UNKNOWN;

	snprintf(syspath, sizeof(syspath), "/sys%s", devpath);
	return read_devices(&id, 1, note_claim, &claim) < 0 ? UDEV_UNKNOWN : claim;
}
