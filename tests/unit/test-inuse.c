/* What the host may use below a device, on a made-up /sys, /proc and /dev. What only a real kernel
 * can say (who has a disk exclusively) is in the tests on the emulated host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "broker/inuse.h"
#include "broker/routes.h"
#include "broker/worker.h"
#include "helper/root.h"
#include "helper/text.h"
#include "tests/unit/no-sleep.h"
#include "tests/unit/host-tree.h"
#include "tests/unit/silent-mount.h"

#define DEVICE "/sys/devices/pci0000:00/0000:00:03.0"

struct host {
	char *root;
	struct inuse inuse;
};

static int setup(void **state)
{
	struct host *h = calloc(1, sizeof(*h));

	unsetenv("RUNTIME_DIRECTORY");
	h->root = temp_new();
	root_set(h->root);
	tree_mkdir(h->root, DEVICE);
	tree_mkdir(h->root, "/dev");
	tree_mkdir(h->root, "/proc");
	tree_mkdir(h->root, VHOTPLUG_RUNDIR);
	tree_write(h->root, "/proc/1/net/route", "Iface\tDestination\n");
	tree_write(h->root, "/proc/1/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
	*state = h;
	return 0;
}

static int teardown(void **state)
{
	struct host *h = *state;

	root_set("");
	inuse_finish(&h->inuse);
	temp_remove(&h->root);
	free(h);
	return 0;
}

static void assert_words(const struct host *h, const char *part)
{
	if (!strstr(h->inuse.words, part))
		fail_msg("\"%s\" does not say \"%s\"", h->inuse.words, part);
}

static int look(struct host *h)
{
	int r = inuse_below(&h->inuse, DEVICE);

	return r < 0 ? r : inuse_by_processes(&h->inuse);
}

static void test_nothing(void **state)
{
	assert_int_equal(look(*state), 0);
}

/* Behind as many hubs as the kernel allows, and then many more. */
static void test_deep_disk(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX] = DEVICE;

	for (int i = 0; i < 40; i++)
		strcat(path, "/1-1.1.1.1");
	strcat(path, "/sda");
	add_device(h->root, path, "block", "8:0");
	assert_int_equal(look(h), -EBUSY);
	assert_words(h, "can't tell whether /dev/sda is in use: No such file");
	tree_write(h->root, "/dev/sda", "");
	assert_int_equal(look(h), 0);
	assert_int_equal(h->inuse.n_disks, 1);
	/* A glance keeps nobody from mounting it. */
	inuse_finish(&h->inuse);
	h->inuse = (struct inuse){.glances = true};
	assert_int_equal(look(h), 0);
	assert_int_equal(h->inuse.n_disks, 0);
}

static void test_too_deep_to_tell(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	/* Longer than a path may be, with the root in front. */
	snprintf(path, sizeof(path), "%s%s", h->root, DEVICE);
	int at = open(path, O_RDONLY | O_DIRECTORY);
	memset(path, 'x', 250);
	path[250] = 0;
	for (int i = 0; i < 17; i++) {
		assert_int_equal(mkdirat(at, path, 0755), 0);
		int below = openat(at, path, O_RDONLY | O_DIRECTORY);
		close(at);
		at = below;
	}
	close(at);
	assert_int_equal(look(h), -EBUSY);
	assert_words(h, "can't tell");
}

static void test_unreadable(void **state)
{
	struct host *h = *state;
	struct rlimit limit, none;

	add_device(h->root, DEVICE "/host0/sda", "block", "8:0");
	tree_write(h->root, "/dev/sda", "");
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	int probe = dup(0);
	close(probe);
	none = (struct rlimit){.rlim_cur = (rlim_t) probe + 1, .rlim_max = limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	int r = look(h);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(r, -EBUSY);
	assert_words(h, "can't tell");
	/* Nor are numbers that are none. */
	tree_write(h->root, DEVICE "/host0/sda/dev", "?");
	assert_int_equal(look(h), -EBUSY);
	assert_words(h, "can't tell");
}

static void test_written_to(void **state)
{
	struct host *h = *state;

	add_device(h->root, DEVICE "/host0/scsi_generic/sg0", "scsi_generic", NULL_NUMBERS);
	add_opener(h->root, 123, "qemu-system-x86", "0100002");
	assert_int_equal(look(h), -EBUSY);
	assert_words(h, "/dev/sg0 is in use on the host: qemu-system-x86 (process 123) has it open"
			" for writing");
}

static void test_read_for_long(void **state)
{
	struct host *h = *state;

	add_device(h->root, DEVICE "/host0/scsi_generic/sg0", "scsi_generic", NULL_NUMBERS);
	add_opener(h->root, 124, "dd", "0100000");
	assert_int_equal(look(h), -EBUSY);
	assert_words(h, "dd (process 124) has it open");
	assert_null(strstr(h->inuse.words, "writing"));
}

/* Only a place in the file system, and another kind of node with the same numbers. */
static void test_not_really_open(void **state)
{
	struct host *h = *state;

	add_device(h->root, DEVICE "/host0/scsi_generic/sg0", "scsi_generic", NULL_NUMBERS);
	add_opener(h->root, 125, "sh", "010000000");
	assert_int_equal(look(h), 0);
	inuse_finish(&h->inuse);
	h->inuse = (struct inuse){0};
	add_opener(h->root, 126, "cat", "02");
	tree_write(h->root, DEVICE "/host0/scsi_generic/sg0/dev", "1:5");
	add_device(h->root, DEVICE "/host0/sda", "block", NULL_NUMBERS);
	tree_write(h->root, "/dev/sda", "");
	assert_int_equal(look(h), 0);
}

static void test_loop_device(void **state)
{
	struct host *h = *state;

	add_device(h->root, DEVICE "/host0/sda", "block", "8:0");
	add_device(h->root, DEVICE "/host0/sda/sda1", "block", "8:1");
	tree_write(h->root, DEVICE "/host0/sda/sda1/partition", "1");
	tree_write(h->root, "/dev/sda", "");
	tree_write(h->root, "/sys/block/loop3/loop/backing_file", "/dev/sda1\n");
	assert_int_equal(look(h), -EBUSY);
	assert_words(h, "/dev/sda1 is in use on the host: loop3 is made of it");
}

static void add_path_to_nvme(struct host *h)
{
	add_device(h->root, DEVICE "/nvme/nvme0/nvme0c1n2", "block", NULL);
	tree_write(h->root, DEVICE "/nvme/nvme0/nvme0c1n2/hidden", "1\n");
}

static void test_nvme_multipath(void **state)
{
	struct host *h = *state;
	static const char head[] = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n2";

	add_path_to_nvme(h);
	assert_int_equal(look(h), -EBUSY);
	assert_words(h, "can't tell whether nvme0c1n2 is in use");
	add_device(h->root, head, "block", "259:1");
	tree_link(h->root, "/sys/block/nvme0n2", head);
	assert_int_equal(look(h), -EBUSY);
	assert_words(h, "can't tell whether /dev/nvme0n2 is in use");
	tree_write(h->root, "/dev/nvme0n2", "");
	inuse_finish(&h->inuse);
	h->inuse = (struct inuse){0};
	/* Another way to the same disk is not a second user of it. */
	add_device(h->root, DEVICE "/nvme/nvme1/nvme0c2n2", "block", NULL);
	tree_write(h->root, DEVICE "/nvme/nvme1/nvme0c2n2/hidden", "1\n");
	assert_int_equal(look(h), 0);
	assert_int_equal(h->inuse.n_disks, 1);
}

static void test_claimed_by_usbfs(void **state)
{
	struct host *h = *state;

	add_device(h->root, DEVICE "/usb1/1-2", "usb", NULL_NUMBERS);
	tree_write(h->root, DEVICE "/usb1/1-2/uevent", "DEVNAME=bus/usb/001/005\n");
	add_device(h->root, DEVICE "/usb1/1-2/1-2:1.0", "usb", NULL);
	assert_int_equal(look(h), 0);
	tree_link(h->root, DEVICE "/usb1/1-2/1-2:1.0/driver", "/sys/bus/usb/drivers/usbfs");
	assert_int_equal(look(h), -EBUSY);
	assert_words(h, "1-2 is held by a program that is not to be seen");
	add_opener(h->root, 127, "pcscd", "0100002");
	assert_int_equal(look(h), -EBUSY);
	assert_words(h, "1-2 is held by pcscd (process 127)");
}

/* A serial line that somebody speaks over, a screen that shows something. */
static void test_nodes_that_are_open(void **state)
{
	struct host *h = *state;

	add_device(h->root, DEVICE "/usb1/1-2/1-2:1.0/ttyUSB0/tty/ttyUSB0", "tty", NULL_NUMBERS);
	assert_int_equal(look(h), 0);
	assert_int_equal(inuse_by_holders(&h->inuse), 0);
	add_opener(h->root, 127, "gpsd", "0100002");
	assert_int_equal(look(h), 0);
	assert_int_equal(inuse_by_holders(&h->inuse), -EBUSY);
	assert_words(h, "/dev/ttyUSB0 is in use on the host: gpsd (process 127) has it open for "
			"writing; force = yes in its rule");
	inuse_finish(&h->inuse);
	h->inuse = (struct inuse){0};
	tree_write(h->root, DEVICE "/usb1/1-2/1-2:1.0/ttyUSB0/tty/ttyUSB0/uevent",
		   "MAJOR=1\nDEVNAME=dri/card0\n");
	assert_int_equal(look(h), 0);
	assert_int_equal(inuse_by_holders(&h->inuse), -EBUSY);
	assert_words(h, "/dev/dri/card0 is in use");
}

/* Whoever has input devices and sound cards open has all there are, all the time. */
static void test_nodes_that_are_always_open(void **state)
{
	static const char *const subsystems[] = {"input", "sound", "vfio-dev"};
	struct host *h = *state;
	char path[PATH_MAX];

	add_opener(h->root, 127, "Xorg", "0100002");
	for (size_t i = 0; i < ARRAY_SIZE(subsystems); i++) {
		snprintf(path, sizeof(path), DEVICE "/usb1/1-2/1-2:1.0/%s", subsystems[i]);
		add_device(h->root, path, subsystems[i], NULL_NUMBERS);
	}
	assert_int_equal(look(h), 0);
	assert_int_equal(inuse_by_holders(&h->inuse), 0);
}

/* Routes */

#define ROUTE(interface) interface "\t00000000\t0202000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
#define ROUTE6(interface)                                                          \
	"00000000000000000000000000000000 00 00000000000000000000000000000000 00 " \
	"fe800000000000000000000000000002 00000400 00000001 00000000 00000003 " interface "\n"

static void add_interface(struct host *h, const char *name, const char *below)
{
	char path[PATH_MAX], link[PATH_MAX];

	snprintf(path, sizeof(path), "%s/net/%s", below, name);
	add_device(h->root, path, "net", NULL);
	snprintf(link, sizeof(link), "/sys/class/net/%s", name);
	tree_link(h->root, link, path);
	strcat(path, "/carrier");
	tree_write(h->root, path, "1\n");
}

static void put_on_top(struct host *h, const char *upper, const char *lower)
{
	char link[PATH_MAX], target[PATH_MAX];

	snprintf(link, sizeof(link), "/sys/devices/virtual/net/%s/lower_%s", upper, lower);
	snprintf(target, sizeof(target), "/sys/class/net/%s", lower);
	tree_link(h->root, link, target);
}

static int look_at_routes(struct host *h, const char *route, const char *route6)
{
	tree_write(h->root, "/proc/1/net/route", route);
	if (route6)
		tree_write(h->root, "/proc/1/net/ipv6_route", route6);
	return inuse_by_routes(&h->inuse);
}

static void test_routes(void **state)
{
	struct host *h = *state;

	add_interface(h, "eth1", DEVICE "/usb1/1-2/1-2:1.0");
	add_interface(h, "wlan0", "/sys/devices/pci0000:00/0000:00:04.0");
	assert_int_equal(inuse_below(&h->inuse, DEVICE), 0);
	assert_int_equal(look_at_routes(h, ROUTE("wlan0"), NULL), 0);
	assert_int_equal(look_at_routes(h, ROUTE("eth1") ROUTE("wlan0"), NULL), 0);
	assert_int_equal(look_at_routes(h, ROUTE("eth1"), NULL), -EBUSY);
	assert_words(h, "only default route goes through it (eth1); force = yes");
	assert_int_equal(look_at_routes(h, ROUTE("wlan0"), ROUTE6("eth1")), -EBUSY);
	assert_int_equal(look_at_routes(h, ROUTE("wlan0"), ROUTE6("wlan0")), 0);
	/* An interface that went meanwhile. */
	assert_int_equal(look_at_routes(h, ROUTE("eth7"), ROUTE6("wlan0")), 0);
}

static void test_routes_of_layers(void **state)
{
	struct host *h = *state;
	static const char *const layers[] = {"bond0", "vlan0", "team0", "macvlan0", "br0", "br1"};

	add_interface(h, "eth1", DEVICE "/usb1/1-2/1-2:1.0");
	for (size_t i = 0; i < ARRAY_SIZE(layers); i++) {
		add_interface(h, layers[i], "/sys/devices/virtual");
		put_on_top(h, layers[i], i > 0 ? layers[i - 1] : "eth1");
	}
	assert_int_equal(inuse_below(&h->inuse, DEVICE), 0);
	assert_int_equal(look_at_routes(h, ROUTE("bond0"), NULL), -EBUSY);
	assert_int_equal(look_at_routes(h, ROUTE("br1"), NULL), -EBUSY);
	assert_words(h, "(br1)");
	/* Too many layers to look through. */
	add_interface(h, "a", "/sys/devices/virtual");
	add_interface(h, "b", "/sys/devices/virtual");
	put_on_top(h, "a", "b");
	put_on_top(h, "b", "a");
	assert_int_equal(look_at_routes(h, ROUTE("a"), NULL), -EBUSY);
}

static void test_routes_unreadable(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	add_interface(h, "eth1", DEVICE "/usb1/1-2/1-2:1.0");
	assert_int_equal(inuse_below(&h->inuse, DEVICE), 0);
	tree_path(path, h->root, "/proc/1/net/route");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "can't tell");
}

/* What netlink would say: the system's own must not matter. */
static struct {
	int family, error;
	uint32_t table;
	const char *interface; /* NULL: no route */
} told[4];
static const char *way_to[2]; /* the address, and the interface to it */
static int way_error;         /* the kernel does not answer */

int __wrap_routes_each_default(int family, routes_fn fn, void *data);
int __wrap_routes_each_default(int family, routes_fn fn, void *data)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(told); i++)
		if (told[i].interface && told[i].family == family)
			r = told[i].error ? told[i].error
					  : fn(data, told[i].table, told[i].interface);
	return r;
}

int __wrap_routes_find(const char *address, char ret_interface[IF_NAMESIZE]);
int __wrap_routes_find(const char *address, char ret_interface[IF_NAMESIZE])
{
	if (way_error != 0)
		return way_error;
	if (!way_to[0] || !streq(address, way_to[0]))
		return -ENETUNREACH;
	strcpy(ret_interface, way_to[1]);
	return 0;
}

/* Two adapters, of which the one in question has the interface eth1. */
static void two_adapters(struct host *h)
{
	memset(told, 0, sizeof(told));
	memset(way_to, 0, sizeof(way_to));
	way_error = 0;
	add_interface(h, "eth1", DEVICE "/usb1/1-2/1-2:1.0");
	add_interface(h, "wlan0", "/sys/devices/pci0000:00/0000:00:04.0");
	assert_int_equal(inuse_below(&h->inuse, DEVICE), 0);
	assert_int_equal(look_at_routes(h, ROUTE("wlan0"), NULL), 0);
}

/* A way that leads nowhere just now, and one that the interface is no more for, are not the other
 * way.
 */
static void test_routes_without_a_carrier(void **state)
{
	struct host *h = *state;

	two_adapters(h);
	tree_write(h->root, "/sys/class/net/wlan0/carrier", "0\n");
	assert_int_equal(look_at_routes(h, ROUTE("eth1") ROUTE("wlan0"), NULL), -EBUSY);
	assert_words(h, "only default route goes through it (eth1)");
	assert_int_equal(look_at_routes(h, ROUTE("eth1") ROUTE("eth7"), NULL), -EBUSY);
	tree_write(h->root, "/sys/class/net/wlan0/carrier", "1\n");
	assert_int_equal(look_at_routes(h, ROUTE("eth1") ROUTE("wlan0"), NULL), 0);
}

/* A VRF, or a table that a rule chooses, has its own only default route. */
static void test_routes_in_other_tables(void **state)
{
	struct host *h = *state;

	two_adapters(h);
	told[0] = (typeof(told[0])){.family = AF_INET, .table = 254, .interface = "wlan0"};
	told[1] = (typeof(told[0])){.family = AF_INET, .table = 100, .interface = "eth1"};
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "only default route goes through it (eth1); force = yes");
	told[2] = (typeof(told[0])){.family = AF_INET, .table = 100, .interface = "wlan0"};
	assert_int_equal(inuse_by_routes(&h->inuse), 0);
	told[3] = (typeof(told[0])){.family = AF_INET6, .table = 100, .interface = "eth1"};
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	told[3].error = -EOPNOTSUPP; /* no IPv6 */
	assert_int_equal(inuse_by_routes(&h->inuse), 0);
	told[3].error = -EPERM;
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "can't tell");
}

/* What has nothing to do with networks does not depend on what they say. */
static void test_routes_without_an_interface(void **state)
{
	struct host *h = *state;

	memset(told, 0, sizeof(told));
	add_interface(h, "wlan0", "/sys/devices/pci0000:00/0000:00:04.0");
	assert_int_equal(inuse_below(&h->inuse, DEVICE), 0);
	told[0] = (typeof(told[0])){.family = AF_INET, .error = -EPERM, .interface = "x"};
	assert_int_equal(inuse_by_routes(&h->inuse), 0);
	/* Nor does a keyboard wait until all the host's interfaces have been looked at. */
	tree_link(h->root, "/sys/class/net/loop", "/sys/class/net/loop");
	assert_int_equal(inuse_by_routes(&h->inuse), 0);
}

/* A container has it: what is another namespace's is not to be seen. */
static void test_interface_in_another_namespace(void **state)
{
	struct host *h = *state;

	tree_mkdir(h->root, DEVICE "/usb1/1-2/1-2:1.0/net");
	assert_int_equal(inuse_below(&h->inuse, DEVICE), 0);
	assert_int_equal(inuse_by_processes(&h->inuse), 0);
	assert_int_equal(inuse_by_holders(&h->inuse), 0);
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "its network interface is in another network namespace; force = yes");
	inuse_finish(&h->inuse);
	h->inuse = (struct inuse){0};
	/* A device of that name, and a class of others. */
	add_device(h->root, DEVICE "/usb1/1-2/1-2:1.0/net", "usb", NULL);
	tree_mkdir(h->root, DEVICE "/usb1/1-2/1-2:1.0/tty");
	assert_int_equal(inuse_below(&h->inuse, DEVICE), 0);
	assert_int_equal(inuse_by_routes(&h->inuse), 0);
}

#define HOST_ROUTE(interface) interface "\t0100000A\t0202000A\t0007\t0\t0\t0\tFFFFFFFF\t0\t0\t0\n"

/* The default route goes through a tunnel: whatever has a way to elsewhere may carry it. */
static void test_routes_through_a_tunnel(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	two_adapters(h);
	add_interface(h, "tun0", "/sys/devices/virtual");
	assert_int_equal(look_at_routes(h, ROUTE("tun0"), NULL), 0);
	assert_int_equal(look_at_routes(h, ROUTE("tun0") HOST_ROUTE("wlan0"), NULL), 0);
	assert_int_equal(look_at_routes(h, ROUTE("tun0") HOST_ROUTE("eth1"), NULL), -EBUSY);
	assert_words(h, "goes through tun0, and that perhaps through it (eth1); force = yes");
	/* With a default route of its own elsewhere. */
	assert_int_equal(look_at_routes(h, ROUTE("tun0") ROUTE("wlan0") HOST_ROUTE("eth1"), NULL),
			 0);
	/* The port of a switch in software. */
	tree_link(h->root, DEVICE "/usb1/1-2/1-2:1.0/net/eth1/master", "/sys/class/net/tun0");
	assert_int_equal(look_at_routes(h, ROUTE("tun0"), NULL), -EBUSY);
	/* Whether it is one can't be told. */
	tree_path(path, h->root, DEVICE "/usb1/1-2/1-2:1.0/net/eth1/master");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(look_at_routes(h, ROUTE("tun0"), NULL), 0);
	tree_write(h->root, DEVICE "/usb1/1-2/1-2:1.0/net/eth1/master", "no link");
	assert_int_equal(look_at_routes(h, ROUTE("tun0"), NULL), -EBUSY);
	assert_words(h, "can't tell");
}

static void test_file_systems_of_other_machines(void **state)
{
	struct host *h = *state;

	two_adapters(h);
	way_to[0] = "10.0.9.2";
	way_to[1] = "eth1";
	tree_write(h->root, "/proc/1/mountinfo",
		   "22 1 0:20 / / rw - nfs4 srv:/root rw,vers=4.2,addr=10.0.9.2,local_lock=none\n");
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "the file system on / comes to the host through it (eth1); force = yes");
	way_to[1] = "wlan0";
	assert_int_equal(inuse_by_routes(&h->inuse), 0);
	way_to[1] = "eth1";
	tree_write(h->root, "/proc/1/mountinfo", "22 1 0:20 / / rw - ext4 /dev/sda rw\n");
	assert_int_equal(inuse_by_routes(&h->inuse), 0);
	tree_write(h->root, "/sys/class/iscsi_connection/connection1:0/address", "10.0.9.2\n");
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "an iSCSI disk comes to the host through it (eth1)");
}

static void test_other_kinds_of_other_machines(void **state)
{
	struct host *h = *state;
	static const char *const mounts[] = {
		"22 1 0:20 / / rw - ceph 10.0.9.1:6789,10.0.9.2:6789:/a.b:c rw,name=x\n",
		"22 1 0:20 / / rw - ceph x@f.fs=/ rw,mon_addr=10.0.9.1:3300/10.0.9.2:3300\n",
		"22 1 0:20 / / rw - 9p 10.0.9.2 rw,access=client,trans=tcp\n",
		"22 1 0:20 / / rw - cifs //10.0.9.2/x rw,vers=3.1.1,addr=10.0.9.2\n",
		"22 1 0:20 / / rw - nfs [fd00::2]:/,addr=10.0.9.1 rw,addr=10.0.9.2\n",
	};
	/* By anybody, with fusermount. */
	static const char *const others[] = {
		"22 1 0:20 / / rw - fuse.x a,addr=10.0.9.2 rw,user_id=1000\n",
		"22 1 0:20 / / rw - fuse.nfs a rw,user_id=1000,addr=10.0.9.2\n",
		"22 1 0:20 / / rw - ceph 10.0.9.1:6789:/ rw\n",
		"22 1 0:20 / / rw - 9p 10.0.9.2 rw,trans=virtio\n",
	};

	two_adapters(h);
	way_to[0] = "10.0.9.2";
	way_to[1] = "eth1";
	for (size_t i = 0; i < ARRAY_SIZE(mounts); i++) {
		tree_write(h->root, "/proc/1/mountinfo", mounts[i]);
		assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
		assert_words(h, "the file system on / comes to the host through it (eth1)");
	}
	for (size_t i = 0; i < ARRAY_SIZE(others); i++) {
		tree_write(h->root, "/proc/1/mountinfo", others[i]);
		assert_int_equal(inuse_by_routes(&h->inuse), 0);
	}
	tree_write(h->root, "/sys/class/nvme/nvme0/transport", "pcie\n");
	tree_write(h->root, "/sys/class/nvme/nvme1/transport", "tcp\n");
	assert_int_equal(inuse_by_routes(&h->inuse), 0); /* that one has just gone */
	tree_write(h->root, "/sys/class/nvme/nvme1/address", "traddr=10.0.9.2,trsvcid=4420\n");
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "an NVMe disk comes to the host through it (eth1)");
	tree_write(h->root, "/sys/class/nvme/nvme1/address", "?\n");
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "can't tell whether an NVMe disk comes to the host through it");
}

#define NFS_MOUNT "22 1 0:20 / / rw - nfs4 srv:/root rw,vers=4.2,addr=10.0.9.2,local_lock=none\n"

/* No way to the other machine is one thing, not to know it another. */
static void test_way_that_is_not_known(void **state)
{
	struct host *h = *state;
	static const int errors[] = {-ENOMEM, -EMFILE, -EAGAIN, -EINVAL, -EIO};

	two_adapters(h);
	tree_write(h->root, "/proc/1/mountinfo", NFS_MOUNT);
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		way_error = errors[i];
		*h->inuse.words = 0;
		assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
		assert_words(h, "can't tell whether the file system on / comes to the host");
		assert_words(h, "force = yes");
	}
	way_error = -ENETUNREACH;
	assert_int_equal(inuse_by_routes(&h->inuse), 0);
	way_error = -EHOSTUNREACH;
	assert_int_equal(inuse_by_routes(&h->inuse), 0);
}

static void test_mounts_that_cannot_be_read(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	two_adapters(h);
	tree_path(path, h->root, "/proc/1/mountinfo");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "can't tell whether a file system comes to the host through it");
	/* It is there, and reading it fails. */
	tree_mkdir(h->root, "/proc/1/mountinfo");
	*h->inuse.words = 0;
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "can't tell whether a file system comes to the host through it");
}

#define CONNECTION "/sys/class/iscsi_connection/connection1:0"

static void test_iscsi_that_cannot_be_read(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	two_adapters(h);
	way_to[0] = "10.0.9.2";
	way_to[1] = "eth1";
	/* Down for a moment: the kernel reads no address then. */
	tree_mkdir(h->root, CONNECTION "/address");
	tree_write(h->root, CONNECTION "/persistent_address", "10.0.9.2\n");
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "an iSCSI disk comes to the host through it (eth1)");
	tree_path(path, h->root, CONNECTION "/persistent_address");
	assert_int_equal(unlink(path), 0);
	tree_mkdir(h->root, CONNECTION "/persistent_address");
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "can't tell whether an iSCSI disk comes to the host through it");
}

static void test_iscsi_that_cannot_be_listed(void **state)
{
	struct host *h = *state;

	two_adapters(h);
	tree_write(h->root, "/sys/class/iscsi_connection", "");
	assert_int_equal(inuse_by_routes(&h->inuse), -EBUSY);
	assert_words(h, "can't tell whether an iSCSI disk comes to the host through it");
}

/* After a detach */

static struct worker_answer look_open(struct host *h)
{
	struct worker_request request = {.job = WORKER_LOOK_OPEN, .node = "/dev/null"};
	struct worker_answer answer = {0};

	(void) h;
	worker_look_open(&request, &answer);
	return answer;
}

static void test_left_open(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	tree_path(path, h->root, "/dev/null");
	assert_int_equal(symlink("/dev/null", path), 0);
	assert_int_equal(look_open(h).result, 0);
	add_opener(h->root, 12, "qemu\n", "0100002");
	struct worker_answer answer = look_open(h);
	assert_int_equal(answer.result, -EBUSY);
	assert_int_equal(answer.pid, 12);
	assert_string_equal(answer.detail, "qemu (process 12)");
	/* It closes it. */
	tree_path(path, h->root, "/proc/12/fd/5");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(look_open(h).result, 0);
}

static bool is_found_open(void *data)
{
	struct worker_answer answer = look_open(data);

	return answer.result == -EBUSY && answer.pid == 12;
}

/* Its user has mounted what the program was started from, and answers nobody any more. */
static void test_program_that_never_answers(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	tree_path(path, h->root, "/dev/null");
	assert_int_equal(symlink("/dev/null", path), 0);
	add_opener(h->root, 12, "qemu\n", "0100002");
	tree_mkdir(h->root, "/silent");
	tree_link(h->root, "/proc/12/exe", "/silent");
	tree_write(h->root, "/proc/self/exe", "");
	tree_path(path, h->root, "/silent");
	silent_mount_expect(path, is_found_open, h);
}

static void run_as(struct host *h, uid_t uid)
{
	char text[80];

	snprintf(text, sizeof(text), "Name:\tx\nUid:\t%u\t%u\t0\t0\n", (unsigned) geteuid(),
		 (unsigned) uid);
	tree_write(h->root, "/proc/12/status", text);
}

/* The broker's own processes don't count; but anybody may start its program, with a node open. */
static void test_program_of_ours(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	tree_path(path, h->root, "/dev/null");
	assert_int_equal(symlink("/dev/null", path), 0);
	add_opener(h->root, 12, "vhotplug-broker\n", "0100002");
	tree_write(h->root, "/proc/self/exe", "");
	tree_link(h->root, "/proc/12/exe", "/proc/self/exe");
	assert_int_equal(look_open(h).result, -EBUSY);
	run_as(h, geteuid() + 1);
	assert_int_equal(look_open(h).result, -EBUSY);
	run_as(h, geteuid());
	assert_int_equal(look_open(h).result, 0);
}

/* The fence */

#define STICK DEVICE "/usb1/1-2"

static void add_stick(struct host *h)
{
	add_device(h->root, STICK, "usb", NULL_NUMBERS);
	add_device(h->root, STICK "/1-2:1.0", "usb", NULL);
	add_device(h->root, STICK "/1-2:1.1", "usb", NULL);
	tree_write(h->root, STICK "/1-2:1.0/bInterfaceClass", "03\n");
	tree_write(h->root, STICK "/1-2:1.1/bInterfaceClass", "09\n");
	tree_write(h->root, STICK "/1-2:1.0/authorized", "1");
	tree_write(h->root, STICK "/1-2:1.1/authorized", "1");
	tree_write(h->root, "/sys/bus/usb/drivers_probe", "");
	tree_write(h->root, VHOTPLUG_RUNDIR "/given/1-2-4", "");
}

static unsigned options;                                             /* of the next jobs */
static char detail[sizeof(((struct worker_answer *) NULL)->detail)]; /* of the last */

static int do_usb(void (*job)(const struct worker_request *, struct worker_answer *))
{
	struct worker_request request = {.job = WORKER_USB_FENCE, .options = options};
	struct worker_answer answer = {0};

	strcpy(request.devpath, &STICK[strlen("/sys")]);
	strcpy(request.node, job == worker_usb_release ? "/real/null" : "/dev/bus/usb/001/004");
	request.inode = root_inode("/sys%s", request.devpath);
	job(&request, &answer);
	strcpy(detail, answer.detail);
	return answer.result;
}

static void test_fence(void **state)
{
	struct host *h = *state;

	add_stick(h);
	assert_int_equal(do_usb(worker_usb_fence), 0);
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "0");
	assert_int_equal(root_exists(VHOTPLUG_RUNDIR "/given/1-2-4"), -ENOENT);
	/* A hub is never shut. */
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.1/authorized"), "1");
	assert_int_equal(do_usb(worker_usb_return), 0);
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "1");
	assert_non_null(strstr(tree_read(h->root, "/sys/bus/usb/drivers_probe"), "1-2:1."));
}

/* Its interfaces are shut, and one has a host driver still: a VM says that it has it. */
static void let_a_vm_claim_it(struct host *h)
{
	char path[PATH_MAX];

	add_stick(h);
	tree_link(h->root, STICK "/1-2:1.0/driver", "/sys/bus/usb/drivers/cdc_acm");
	tree_write(h->root, STICK "/1-2:1.0/authorized", "0");
	tree_path(path, h->root, "/real");
	assert_int_equal(symlink("/dev", path), 0);
}

static void assert_left_to_the_host(struct host *h, const char *why)
{
	static const unsigned all[] = {0, WORKER_FOUND};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		options = all[i];
		assert_int_equal(do_usb(worker_usb_release), -EBUSY);
		if (!strstr(detail, why))
			fail_msg("\"%s\" does not say \"%s\"", detail, why);
		assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "0");
	}
}

/* The rule says force, or nothing speaks against it: a driver that has it still is all there is. */
static void assert_released(struct host *h, unsigned with)
{
	options = with | WORKER_FOUND;
	assert_int_equal(do_usb(worker_usb_release), -EBUSY);
	assert_string_equal(detail, "");
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "1");
	options = 0;
}

/* Whatever a VM says that it has: it is no way to what the host has refused it. */
static void test_serial_line_that_a_vm_claims(void **state)
{
	struct host *h = *state;

	let_a_vm_claim_it(h);
	add_device(h->root, STICK "/1-2:1.0/tty/ttyACM0", "tty", "4:64");
	assert_released(h, 0);
	tree_write(h->root, STICK "/1-2:1.0/authorized", "0");
	tree_write(h->root, STICK "/1-2:1.0/tty/ttyACM0/dev", NULL_NUMBERS);
	add_opener(h->root, 127, "gpsd", "0100002");
	assert_left_to_the_host(h, "/dev/ttyACM0 is in use on the host: gpsd (process 127)");
	assert_released(h, WORKER_FORCE);
}

static void test_network_that_a_vm_claims(void **state)
{
	struct host *h = *state;

	let_a_vm_claim_it(h);
	two_adapters(h);
	assert_int_equal(look_at_routes(h, ROUTE("eth1"), NULL), -EBUSY);
	assert_left_to_the_host(h, "the host's only default route goes through it (eth1)");
	assert_released(h, WORKER_FORCE);
	tree_write(h->root, STICK "/1-2:1.0/authorized", "0");
	assert_int_equal(look_at_routes(h, ROUTE("wlan0"), NULL), 0);
	int other = lock_as_job(h->root, "routes");
	assert_left_to_the_host(h, "another network device is just leaving the host");
	close(other);
	assert_released(h, 0);
}

/* Who has claimed it by usbfs may be that VM. */
static void test_interface_that_a_vm_has(void **state)
{
	struct host *h = *state;

	let_a_vm_claim_it(h);
	add_device(h->root, STICK "/1-2:1.2", "usb", NULL);
	tree_link(h->root, STICK "/1-2:1.2/driver", "/sys/bus/usb/drivers/usbfs");
	assert_released(h, 0);
}

static char loaded[200]; /* what modules were loaded for */

int __wrap_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attributes, char *const *argv, char *const *envp);
int __wrap_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attributes, char *const *argv, char *const *envp)
{
	size_t length = strlen(loaded);

	(void) pid, (void) actions, (void) attributes, (void) envp;
	assert_string_equal(path, "/sbin/modprobe");
	snprintf(loaded + length, sizeof(loaded) - length, "%s\n", argv[3]);
	return ENOENT;
}

/* While it was claimed, nobody has loaded the host's modules for it. */
static void test_return_loads_modules(void **state)
{
	struct host *h = *state;

	add_stick(h);
	add_device(h->root, STICK "/1-2:1.2", "usb", NULL);
	tree_write(h->root, STICK "/1-2:1.2/authorized", "0");
	tree_write(h->root, STICK "/1-2:1.0/modalias", "usb:v0BDAp8153ic02isc06\n");
	tree_write(h->root, STICK "/1-2:1.2/modalias", "usb:v0BDAp8153icFFiscFF\n");
	tree_link(h->root, STICK "/1-2:1.2/driver", "/sys/bus/usb/drivers/r8152");
	tree_write(h->root, "/proc/sys/kernel/modprobe", "/sbin/modprobe\n");
	loaded[0] = 0;
	assert_int_equal(do_usb(worker_usb_return), 0);
	assert_string_equal(loaded, "usb:v0BDAp8153ic02isc06\n"); /* the other one has a driver */
}

/* Another machine has it. */
static void test_exported(void **state)
{
	struct host *h = *state;

	add_stick(h);
	tree_link(h->root, STICK "/driver", "/sys/bus/usb/drivers/usbip-host");
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "1");
}

static void test_fence_leaves_what_is_in_use(void **state)
{
	struct host *h = *state;

	add_stick(h);
	tree_link(h->root, STICK "/1-2:1.0/driver", "/sys/bus/usb/drivers/usbfs");
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "1");
	assert_int_equal(root_exists(VHOTPLUG_RUNDIR "/given/1-2-4"), 0);
	assert_int_equal(root_exists(VHOTPLUG_RUNDIR "/refused/1-2-4"), 0);
	assert_int_equal(do_usb(worker_usb_return), 0);
	assert_int_equal(root_exists(VHOTPLUG_RUNDIR "/refused/1-2-4"), -ENOENT);
}

static void test_locks_of_others_on_usb(void **state)
{
	struct host *h = *state;

	add_stick(h);
	int device = lock_as_others(h->root, STICK);
	alarm(60);
	assert_int_equal(do_usb(worker_usb_fence), 0);
	assert_int_equal(do_usb(worker_usb_return), 0);
	alarm(0);
	assert_only_root_locks(h->root, "1-2");
	close(device);
}

/* The switch is started anew: the route has gone for the moment. Only another way says that the
 * host does not need this one. */
static void test_fence_while_the_route_is_away(void **state)
{
	struct host *h = *state;

	add_stick(h);
	two_adapters(h);
	assert_int_equal(look_at_routes(h, ROUTE("eth1"), NULL), -EBUSY);
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	options = WORKER_WAS_USED;
	tree_write(h->root, "/proc/1/net/route", "Iface\tDestination\n");
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	assert_non_null(strstr(detail,
			       "can't tell whether the host still goes to the network"
			       " through it: it has no default route just now; force = yes"));
	/* What the host has used last may have been another thing. */
	tree_write(h->root, "/sys/class/net/wlan0/carrier", "0\n");
	tree_write(h->root, "/proc/1/net/route", ROUTE("wlan0"));
	options = 0;
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	/* A tunnel's route stays where it is. */
	add_interface(h, "tun0", "/sys/devices/virtual");
	tree_write(h->root, "/proc/1/net/route", ROUTE("tun0"));
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "1");
	tree_write(h->root, "/sys/class/net/wlan0/carrier", "1\n");
	tree_write(h->root, "/proc/1/net/route", ROUTE("wlan0"));
	options = WORKER_WAS_USED;
	assert_int_equal(do_usb(worker_usb_fence), 0);
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "0");
	/* It is the host's no more, and that it was is forgotten; */
	tree_write(h->root, "/proc/1/net/route", "Iface\tDestination\n");
	assert_int_equal(do_usb(worker_usb_fence), 0);
	options = 0;
	/* also where it is given away by force. */
	assert_int_equal(look_at_routes(h, ROUTE("eth1"), NULL), -EBUSY);
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	options = WORKER_FORCE;
	assert_int_equal(do_usb(worker_usb_fence), 0);
	options = 0;
	tree_write(h->root, "/proc/1/net/route", "Iface\tDestination\n");
	assert_int_equal(do_usb(worker_usb_fence), 0);
}

static void test_fence_while_a_server_is_away(void **state)
{
	struct host *h = *state;
	static const int errors[] = {-ENETUNREACH, -EHOSTUNREACH};

	add_stick(h);
	two_adapters(h);
	way_to[0] = "10.0.9.2";
	way_to[1] = "eth1";
	tree_write(h->root, "/proc/1/mountinfo", NFS_MOUNT);
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	options = WORKER_WAS_USED;
	for (size_t i = 0; i < ARRAY_SIZE(errors); i++) {
		way_error = errors[i];
		assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
		assert_non_null(strstr(detail, "can't tell whether the file system on / comes to"));
	}
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "1");
	way_error = 0;
	way_to[1] = "wlan0";
	assert_int_equal(do_usb(worker_usb_fence), 0);
	/* Nobody has it mounted any more, on a host without a default route. */
	tree_write(h->root, "/proc/1/net/route", "Iface\tDestination\n");
	tree_write(h->root, "/proc/1/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
	assert_int_equal(do_usb(worker_usb_fence), 0);
	options = 0;
}

/* What was refused for something else waits for no route. */
static void test_fence_on_a_host_without_a_network(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	add_stick(h);
	two_adapters(h);
	tree_write(h->root, "/proc/1/net/route", "Iface\tDestination\n");
	add_device(h->root, STICK "/1-2:1.0/tty/ttyACM0", "tty", NULL_NUMBERS);
	add_opener(h->root, 127, "ModemManager", "0100002");
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	tree_path(path, h->root, "/proc/127/fd/5");
	assert_int_equal(unlink(path), 0);
	options = WORKER_WAS_USED;
	assert_int_equal(do_usb(worker_usb_fence), 0);
	options = 0;
}

static void test_fence_of_another_namespace(void **state)
{
	struct host *h = *state;

	add_stick(h);
	tree_mkdir(h->root, STICK "/1-2:1.0/net");
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	options = WORKER_FORCE;
	assert_int_equal(do_usb(worker_usb_fence), 0);
	options = 0;
}

/* Of two network devices that are looked at at the same time, each would be the other's excuse. */
static void test_fence_while_another_network_device_leaves(void **state)
{
	struct host *h = *state;

	add_stick(h);
	two_adapters(h);
	assert_int_equal(look_at_routes(h, ROUTE("eth1") ROUTE("wlan0"), NULL), 0);
	_cleanup_close_ int other = lock_as_job(h->root, "routes");
	assert_true(other >= 0);
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "1");
	/* That one is given away by force: it leaves all the same. */
	options = WORKER_FORCE;
	assert_int_equal(do_usb(worker_usb_fence), -EBUSY);
	options = 0;
	other = close_fd(other);
	assert_int_equal(do_usb(worker_usb_fence), 0);
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "0");
	/* And nothing of the job is left. */
	other = lock_as_job(h->root, "routes");
	assert_true(other >= 0);
}

/* What can't be locked is not touched. */
static void test_no_room_for_locks(void **state)
{
	struct host *h = *state;

	add_stick(h);
	tree_write(h->root, VHOTPLUG_RUNDIR "/locks", "no directory");
	assert_int_equal(do_usb(worker_usb_fence), -ENOTDIR);
	assert_string_equal(tree_read(h->root, STICK "/1-2:1.0/authorized"), "1");
}

/* The kernel's own /proc, where it may say how many descriptors a process has: whoever has a node
 * open is found by that too. */
static void test_opener_in_the_real_proc(void **state)
{
	char *const argv[] = {(char[]){"sleep"}, (char[]){"600"}, NULL};
	char who[64], *const environment[] = {NULL};
	struct node node = {0};
	struct nodes nodes = {1, &node};
	struct stat st;
	pid_t child, found = 0;

	(void) state;
	if (geteuid() != 0)
		skip();
	int own = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(own >= 0 && grantpt(own) == 0 && unlockpt(own) == 0);
	int other = open(ptsname(own), O_RDWR | O_NOCTTY);
	assert_int_equal(fstat(other, &st), 0);
	node.number = st.st_rdev;
	assert_int_equal(posix_spawnp(&child, "sleep", NULL, NULL, argv, environment), 0);
	close(other);
	root_set("");
	int r = inuse_find_process(&nodes, &found, who, sizeof(who));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	assert_int_equal(r, OPENER_WRITES);
	assert_int_equal(found, child);
	assert_int_equal(inuse_find_process(&nodes, &found, who, sizeof(who)), OPENER_NONE);
	close(own);
}

int main(void)
{
#define INUSE_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		INUSE_TEST(test_nothing),
		INUSE_TEST(test_deep_disk),
		INUSE_TEST(test_too_deep_to_tell),
		INUSE_TEST(test_unreadable),
		INUSE_TEST(test_written_to),
		INUSE_TEST(test_read_for_long),
		INUSE_TEST(test_not_really_open),
		INUSE_TEST(test_loop_device),
		INUSE_TEST(test_nvme_multipath),
		INUSE_TEST(test_claimed_by_usbfs),
		INUSE_TEST(test_nodes_that_are_open),
		INUSE_TEST(test_nodes_that_are_always_open),
		INUSE_TEST(test_routes),
		INUSE_TEST(test_interface_in_another_namespace),
		INUSE_TEST(test_routes_of_layers),
		INUSE_TEST(test_routes_without_a_carrier),
		INUSE_TEST(test_routes_unreadable),
		INUSE_TEST(test_routes_in_other_tables),
		INUSE_TEST(test_routes_without_an_interface),
		INUSE_TEST(test_routes_through_a_tunnel),
		INUSE_TEST(test_way_that_is_not_known),
		INUSE_TEST(test_mounts_that_cannot_be_read),
		INUSE_TEST(test_iscsi_that_cannot_be_read),
		INUSE_TEST(test_iscsi_that_cannot_be_listed),
		INUSE_TEST(test_file_systems_of_other_machines),
		INUSE_TEST(test_other_kinds_of_other_machines),
		INUSE_TEST(test_left_open),
		INUSE_TEST(test_program_that_never_answers),
		INUSE_TEST(test_program_of_ours),
		INUSE_TEST(test_locks_of_others_on_usb),
		INUSE_TEST(test_no_room_for_locks),
		INUSE_TEST(test_fence),
		INUSE_TEST(test_fence_of_another_namespace),
		INUSE_TEST(test_fence_while_the_route_is_away),
		INUSE_TEST(test_fence_while_a_server_is_away),
		INUSE_TEST(test_fence_on_a_host_without_a_network),
		INUSE_TEST(test_serial_line_that_a_vm_claims),
		INUSE_TEST(test_network_that_a_vm_claims),
		INUSE_TEST(test_interface_that_a_vm_has),
		INUSE_TEST(test_fence_while_another_network_device_leaves),
		INUSE_TEST(test_return_loads_modules),
		INUSE_TEST(test_exported),
		INUSE_TEST(test_opener_in_the_real_proc),
		INUSE_TEST(test_fence_leaves_what_is_in_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
