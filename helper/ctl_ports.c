/* The guided way to a rule for a place: see ctl_ports.h. What is plugged in is told by udevd, or
 * where there is none by the kernel; what it is, by the broker. */
#include "helper/ctl_ports.h"

#include <linux/netlink.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "helper/ctl_explain.h"
#include "helper/ctl_select.h"
#include "helper/ctl_show.h"
#include "helper/root.h"

/* Source: systemd, src/libsystemd/sd-device/device-monitor.c: udevd sends in group 2 what the
 * kernel has said in group 1, when the rules are through. */
#define KERNEL_GROUP 1
#define UDEV_GROUP 2
#define SETTLE_MS 300 /* a device brings several events */

static int open_events(void)
{
	struct sockaddr_nl address = {.nl_family = AF_NETLINK};
	int fd =
		socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT);

	address.nl_groups = root_exists("/run/udev/control") == 0 ? UDEV_GROUP : KERNEL_GROUP;
	if (fd >= 0 && bind(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
		fd = close_fd(fd);
	return fd;
}

/* Whatever it was: what is there is asked of the broker. */
static void drop_events(int fd)
{
	char event[8192];

	while (recv(fd, event, sizeof(event), 0) > 0 || errno == ENOBUFS || errno == EINTR)
		errno = 0;
}

/* Waits for an event, and then until none comes for a moment. On a terminal it says so. */
static int wait_for_plug(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
	bool is_terminal = isatty(STDERR_FILENO);
	int n;

	for (unsigned seconds = 1; (n = poll(&poll_fd, 1, is_terminal ? 1000 : -1)) == 0; seconds++)
		fprintf(stderr, "\rwaiting for something to be plugged in: %u s", seconds);
	if (is_terminal)
		fprintf(stderr, "\r%60s\r", "");
	while (n > 0) {
		drop_events(fd);
		n = poll(&poll_fd, 1, SETTLE_MS);
	}
	return n < 0 ? -errno : 0;
}

/* ID_PATH_TAG of an event node, by udev's database. */
static bool read_path_tag(const char *node, char *ret_tag, size_t size)
{
	char path[64], *line = NULL;
	struct stat st;
	size_t room = 0;
	bool found = false;

	if (stat(node, &st) < 0)
		return false;
	snprintf(path, sizeof(path), "/run/udev/data/c%u:%u", major(st.st_rdev), minor(st.st_rdev));
	_cleanup_fclose_ FILE *f = root_fopen("%s", path);
	while (f && !found && getline(&line, &room, f) > 0) {
		const char *tag = startswith(line, "E:ID_PATH_TAG=");

		found = tag != NULL;
		if (found)
			snprintf(ret_tag, size, "%.*s", (int) strcspn(tag, "\n"), tag);
	}
	free(line);
	return found;
}

static void print_usb_place(const json_t *device, const char *vm)
{
	const char *name = json_text(device, "device"), *chain = strchr(name, '-');

	printf("  portPath = %-24s this port\n", name);
	if (chain)
		printf("  portPath = %-24s this port, on any bus\n", chain + 1);
	printf("  devpath = %s\n             %-24s this port, and all behind it\n",
	       json_text(device, "devpath"), "");
	printf("\n[usb Port %s]\ntargetVm = %s\n\n[allow What is at %s]\nportPath = %s\n", name, vm,
	       name, name);
}

static void print_pci_place(const json_t *device, const char *vm)
{
	const char *name = json_text(device, "device");

	printf("  address = %s\n", name);
	printf("\n[pci Slot %s]\ntargetVm = %s\n\n[allow What is at %s]\naddress = %s\n", name, vm,
	       name, name);
}

static void print_evdev_place(const json_t *device, const char *vm)
{
	const char *name = json_text(device, "name");
	char tag[128];

	if (!read_path_tag(json_text(device, "node"), tag, sizeof(tag))) {
		printf("\n");
		ctl_print_rule(device, vm);
		return;
	}
	printf("  pathTag = %s\n", tag);
	printf("\n[evdev Place %.35s]\ntargetVm = %s\n\n[allow What is at %.30s]\npathTag = %s$\n",
	       tag, vm, tag, tag);
	if (*name)
		printf("; it calls itself \"%s\"\n", name);
}

static void print_place(const json_t *device, const char *vm)
{
	const char *kind = json_text(device, "kind"), *vid = json_text(device, "vid");

	printf("%s %s%s%s%s%s\n", json_text(device, "device"), vid, *vid ? ":" : "",
	       json_text(device, "pid"), *vid ? "  " : "", json_text(device, "name"));
	if (streq(kind, "usb"))
		print_usb_place(device, vm);
	else if (streq(kind, "pci"))
		print_pci_place(device, vm);
	else
		print_evdev_place(device, vm);
	printf("\n");
}

static bool was_there(const json_t *former, const json_t *device)
{
	json_t *other;
	size_t i;

	json_array_foreach(former, i, other)
	{
		if (streq(json_text(other, "id"), json_text(device, "id")))
			return true;
	}
	return false;
}

/* Prints what is new since FORMER. Returns how many there are. */
static long long print_new(const struct ctl_options *options, const json_t *former,
			   const json_t *devices, const char *vm)
{
	json_t *device;
	long long n = 0;
	size_t i;

	json_array_foreach(devices, i, device)
	{
		if (was_there(former, device) || select_is_usb(device))
			continue;
		n++;
		if (options->json)
			ctl_print_json(device);
		else
			print_place(device, vm);
	}
	fflush(stdout);
	return n;
}

static int show_plugs(const struct ctl_options *options, int fd, json_t *devices, const char *vm)
{
	json_t *now = NULL;
	long long n = 0;
	int r = 0;

	while (r == 0 && (options->limit == 0 || n < options->limit)) {
		if (wait_for_plug(fd) < 0)
			break;
		r = ctl_get_devices(options, true, &now);
		if (r > 0)
			break;
		n += print_new(options, devices, now, vm);
		json_decref(devices);
		devices = TAKE_PTR(now);
	}
	json_decref(devices);
	return r;
}

int ctl_ports(const struct ctl_options *options)
{
	/* First: nothing may come between the list and this. */
	_cleanup_close_ int fd = open_events();
	json_t *devices = NULL, *status = NULL;
	int r;

	if (fd < 0)
		return ctl_fail(CTL_FAILED, "can't hear what is plugged in: %s", strerror(errno));
	r = ctl_get_devices(options, true, &devices);
	if (r > 0)
		return r;
	const char *vm = ctl_some_vm(options, &status);
	if (!options->json) {
		puts("Plug something in: what a rule can say of its place is shown, with a rule to"
		     " paste. Ctrl-C ends.\n");
		fflush(stdout);
	}
	r = show_plugs(options, fd, devices, vm);
	json_decref(status);
	return r;
}
