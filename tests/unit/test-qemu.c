/* The QEMU backend against a small QEMU: a monitor that answers as 7.2 does for the few commands
 * that are sent, and keeps ports, devices and descriptor sets as it does. What real QEMU says of
 * real devices is in the tests on the emulated host. */
#include <fcntl.h>
#include <pwd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>
#include <jansson.h>

#include "broker/device.h"
#include "broker/qmp.h"
#include "broker/vm.h"
#include "tests/unit/spin.h"
#include "helper/root.h"
#include "tests/unit/temp.h"
#include "tests/unit/tree.h"
#include "tests/unit/words.h"

#define PORTS 4
#define SLOTS 3 /* PCIe ports rp1, rp2, …; the last one can't hot-plug */
#define MAX 16

/* The monitor and the machine behind it. */
static struct machine {
	struct loop *loop;
	int listen_fd, fd;
	struct loop_source *listener, *client;
	char in[65536];
	size_t length;
	int fds[MAX]; /* received, not used yet */
	size_t n_fds;
	char devices[PORTS + 1][96]; /* by port */
	char slots[SLOTS + 1][96];   /* by port; [0] is the root bus */
	bool is_unplugging[SLOTS + 1];
	long fdsets[MAX];
	size_t n_fdsets, n_commands, n_clients, n_adds;
	unsigned n_ours;     /* devices more that it lists, under names of ours */
	bool silent;         /* says nothing */
	bool ponders;        /* nor does it once it has greeted */
	bool leaves;         /* hangs up at the next device_add */
	bool keeps_devices;  /* no DEVICE_DELETED */
	bool root_hot_plugs; /* as on the machine "pc" */
	bool event_first;    /* DEVICE_DELETED before the answer */
	bool no_hostdevice;  /* before 5.1 */
	const char *rejects; /* device_add says so */
	const char *tree; /* its /proc is there; with -runas it is another user's once it obeys */
	bool is_running;
	/* from the command line */
	struct {
		const char *parent, *name, *type;
		const char *properties; /* a JSON object; others are 0 or "" */
		bool gone;
	} cold[MAX];
} m;

static void say(json_t *message)
{
	char *text = json_dumps(message, JSON_COMPACT);

	json_decref(message);
	/* A client that has left meanwhile is noticed when he is heard. */
	if (send(m.fd, text, strlen(text), MSG_NOSIGNAL) > 0)
		send(m.fd, "\r\n", 2, MSG_NOSIGNAL);
	free(text);
}

static void give(const json_t *id, json_t *value)
{
	say(json_pack("{s:o, s:O}", "return", value, "id", id));
}

static void complain(const json_t *id, const char *class, const char *format, ...) _printf_(3, 4);
static void complain(const json_t *id, const char *class, const char *format, ...)
{
	char text[600];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	say(json_pack("{s:{s:s, s:s}, s:O}", "error", "class", class, "desc", text, "id", id));
}

static unsigned port_of(const char *device)
{
	for (unsigned port = 1; port <= PORTS; port++)
		if (streq(m.devices[port], device))
			return port;
	return 0;
}

static json_t *entry(const char *name, const char *type)
{
	return json_pack("{s:s, s:s}", "name", name, "type", type);
}

/* The port that PATH, or the name of a bus, is about; 0: none. */
static unsigned slot_of(const char *path)
{
	const char *name = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	unsigned slot = startswith(name, "rp") ? (unsigned) atoi(name + 2) : 0;

	return slot <= SLOTS ? slot : 0;
}

static void list_slots(json_t *list)
{
	char name[16];

	for (unsigned slot = 0; slot <= SLOTS; slot++) {
		snprintf(name, sizeof(name), "rp%u", slot);
		if (slot > 0)
			json_array_append_new(list, entry(name, "child<pcie-root-port>"));
		if (m.slots[slot][0])
			json_array_append_new(list, entry(m.slots[slot], "child<vfio-pci>"));
	}
}

static void list_cold(json_t *list, const char *path)
{
	char type[80];

	for (size_t i = 0; i < MAX && m.cold[i].name; i++) {
		if (!streq(m.cold[i].parent, path) || m.cold[i].gone)
			continue;
		snprintf(type, sizeof(type), "child<%s>", m.cold[i].type);
		json_array_append_new(list, entry(m.cold[i].name, type));
	}
}

/* The one at PATH, or by that name; MAX: there is none. */
static size_t find_cold(const char *path)
{
	char own[200];

	for (size_t i = 0; i < MAX && m.cold[i].name; i++) {
		snprintf(own, sizeof(own), "%s/%s", m.cold[i].parent, m.cold[i].name);
		if (!m.cold[i].gone && (streq(own, path) || streq(m.cold[i].name, path)))
			return i;
	}
	return MAX;
}

static json_t *cold_property(size_t i, const char *property)
{
	static const char *const texts[] = {"hostport", "hostdevice", "host", "sysfsdev", "evdev"};
	json_t *all = json_loads(m.cold[i].properties, 0, NULL);
	json_t *value = json_incref(json_object_get(all, property));

	json_decref(all);
	for (size_t k = 0; k < ARRAY_SIZE(texts) && !value; k++)
		if (streq(texts[k], property))
			value = json_string("");
	return value ? value : json_integer(0);
}

static void list_ours(json_t *list)
{
	char name[32];

	for (unsigned i = 0; i < m.n_ours; i++) {
		snprintf(name, sizeof(name), "vhp-9-1-%u", i);
		json_array_append_new(list, entry(name, "child<usb-host>"));
	}
}

static void qom_list(const json_t *id, const char *path)
{
	json_t *list = json_array();

	json_array_append_new(list, entry("type", "string"));
	list_cold(list, path);
	if (streq(path, "/machine/peripheral")) {
		json_array_append_new(list, entry("xhci", "child<qemu-xhci>"));
		list_ours(list);
		list_slots(list);
		for (unsigned port = 1; port <= PORTS; port++)
			if (m.devices[port][0])
				json_array_append_new(list,
						      entry(m.devices[port], "child<usb-host>"));
	} else if (streq(path, "/machine/peripheral/xhci")) {
		json_array_append_new(list, entry("xhci.0", "child<usb-bus>"));
	} else if (streq(path, "/machine/peripheral/xhci/xhci.0")) {
		for (unsigned port = 1; port <= PORTS; port++) {
			char name[32];

			snprintf(name, sizeof(name), "child[%u]", port);
			if (m.devices[port][0])
				json_array_append_new(list, entry(name, "link<usb-host>"));
		}
	} else if (slot_of(path) > 0 && m.slots[slot_of(path)][0])
		json_array_append_new(list, entry("child[0]", "link<vfio-pci>"));
	give(id, list);
}

static void qom_get(const json_t *id, const char *path, const char *property)
{
	const char *child = strstr(path, "child[");
	char port[2] = {child ? child[6] : 0, 0};

	if (find_cold(path) < MAX)
		give(id, cold_property(find_cold(path), property));
	else if (streq(property, "hotplug"))
		give(id, json_boolean(slot_of(path) < SLOTS));
	else if (streq(property, "p2") || streq(property, "p3"))
		give(id, json_integer(PORTS));
	else
		give(id, json_string(port));
}

static bool has_fdset(const char *hostdevice)
{
	long number = 0;

	if (!hostdevice || sscanf(hostdevice, "/dev/fdset/%ld", &number) != 1)
		return false;
	for (size_t i = 0; i < m.n_fdsets; i++)
		if (m.fdsets[i] == number)
			return true;
	return false;
}

/* What 7.2 says of a PCI device, and where it puts one. */
static void pci_add(const json_t *id, const json_t *arguments, const char *driver)
{
	const char *name = json_string_value(json_object_get(arguments, "id"));
	const char *bus = json_string_value(json_object_get(arguments, "bus"));
	const char *host = json_string_value(json_object_get(arguments, "host"));
	const char *evdev = json_string_value(json_object_get(arguments, "evdev"));
	const char *address = json_string_value(json_object_get(arguments, "addr"));
	unsigned slot = bus ? slot_of(bus) : 0;

	/* Without it a second device lands where the guest never looks. */
	assert_true(bus ? address && streq(address, "0") : !address);
	assert_non_null(streq(driver, "vfio-pci") ? host : evdev);
	if (bus ? slot == SLOTS : !m.root_hot_plugs)
		complain(id, "GenericError", "Bus '%s' does not support hotplugging",
			 bus ? bus : "pcie.0");
	else if (m.slots[slot][0])
		complain(id, "GenericError",
			 "PCI: slot 0 function 0 not available for %s, in use by %s,id=%s", driver,
			 driver, m.slots[slot]);
	else {
		strcpy(m.slots[slot], name);
		give(id, json_object());
	}
}

static void device_add(const json_t *id, const json_t *arguments)
{
	const char *driver = json_string_value(json_object_get(arguments, "driver"));
	const char *name = json_string_value(json_object_get(arguments, "id"));
	const char *hostdevice = json_string_value(json_object_get(arguments, "hostdevice"));
	const char *text = json_string_value(json_object_get(arguments, "port"));
	unsigned port = text ? (unsigned) atoi(text) : 1;

	m.n_adds++;
	if (m.rejects)
		complain(id, "GenericError", "%s", m.rejects);
	else if (!streq(driver, "usb-host"))
		pci_add(id, arguments, driver);
	else if (m.no_hostdevice && hostdevice)
		complain(id, "GenericError", "Property 'usb-host.hostdevice' not found");
	else if (port_of(name))
		complain(id, "GenericError", "Duplicate device ID '%s'", name);
	else if (port < 1 || port > PORTS || m.devices[port][0])
		complain(id, "GenericError", "usb port %u (bus xhci.0) not found (in use?)", port);
	else if (!m.no_hostdevice && !has_fdset(hostdevice))
		complain(id, "GenericError", "failed to open %s: No such file or directory",
			 hostdevice);
	else {
		strcpy(m.devices[port], name);
		give(id, json_object());
	}
}

/* The guest lets go of what is in SLOT, when it runs and likes to. */
static void slot_empties(unsigned slot)
{
	say(json_pack("{s:s, s:{s:s, s:s}}", "event", "DEVICE_DELETED", "data", "device",
		      m.slots[slot], "path", "/machine/peripheral/x"));
	m.slots[slot][0] = 0;
	m.is_unplugging[slot] = false;
}

static void pci_del(const json_t *id, unsigned slot)
{
	if (m.is_unplugging[slot]) {
		complain(id, "GenericError", "Device %s is already in the process of unplug",
			 m.slots[slot]);
		return;
	}
	give(id, json_object());
	m.is_unplugging[slot] = true;
	if (!m.keeps_devices)
		slot_empties(slot);
}

/* What has no id is named by its path, in the event too. */
static void cold_del(const json_t *id, size_t i, bool is_object)
{
	char path[200];

	assert_int_equal(is_object, streq(m.cold[i].parent, "/objects"));
	m.cold[i].gone = true;
	give(id, json_object());
	if (is_object)
		return;
	snprintf(path, sizeof(path), "%s/%s", m.cold[i].parent, m.cold[i].name);
	json_t *data = json_pack("{s:s}", "path", path);
	if (streq(m.cold[i].parent, "/machine/peripheral"))
		json_object_set_new(data, "device", json_string(m.cold[i].name));
	say(json_pack("{s:s, s:o}", "event", "DEVICE_DELETED", "data", data));
}

static void device_del(const json_t *id, const char *name)
{
	unsigned port = port_of(name);

	if (find_cold(name) < MAX) {
		cold_del(id, find_cold(name), false);
		return;
	}

	for (unsigned slot = 0; slot <= SLOTS; slot++)
		if (streq(m.slots[slot], name)) {
			pci_del(id, slot);
			return;
		}
	if (!port) {
		complain(id, "DeviceNotFound", "Device '%s' not found", name);
		return;
	}
	if (!m.event_first)
		give(id, json_object());
	if (!m.keeps_devices) {
		m.devices[port][0] = 0;
		say(json_pack("{s:s, s:{s:s, s:s}}", "event", "DEVICE_DELETED", "data", "device",
			      name, "path", "/machine/peripheral/x"));
	}
	if (m.event_first)
		give(id, json_object());
}

static void hang_up(void)
{
	m.client = loop_source_free(m.client);
	m.fd = close_fd(m.fd);
	m.length = 0;
	while (m.n_fds > 0)
		close(m.fds[--m.n_fds]);
	m.n_fdsets = 0;
}

static void add_fd(const json_t *id, long number)
{
	if (m.n_fds == 0) {
		complain(id, "GenericError", "No file descriptor supplied via SCM_RIGHTS");
		return;
	}
	close(m.fds[--m.n_fds]);
	m.fdsets[m.n_fdsets++] = number;
	give(id, json_pack("{s:i, s:I}", "fd", 20, "fdset-id", (json_int_t) number));
}

/* It is this process that plays QEMU. */
static void run_as(unsigned uid)
{
	char path[64], text[100];

	snprintf(path, sizeof(path), "/proc/%d/status", (int) getpid());
	snprintf(text, sizeof(text), "Name:\tqemu\nUid:\t0\t%u\t0\t0\n", uid);
	tree_write(m.tree, path, text);
}

static void obey(const json_t *message)
{
	const char *command = json_string_value(json_object_get(message, "execute"));
	const json_t *id = json_object_get(message, "id");
	const json_t *arguments = json_object_get(message, "arguments");
	const char *path = json_string_value(json_object_get(arguments, "path"));

	m.n_commands++;
	if (m.silent)
		return;
	if (m.tree)
		run_as(31001);
	if (streq(command, "qmp_capabilities"))
		give(id, json_object());
	else if (m.ponders)
		return;
	else if (streq(command, "qom-list"))
		qom_list(id, path);
	else if (streq(command, "qom-get"))
		qom_get(id, path, json_string_value(json_object_get(arguments, "property")));
	else if (streq(command, "add-fd"))
		add_fd(id, json_integer_value(json_object_get(arguments, "fdset-id")));
	else if (streq(command, "remove-fd"))
		give(id, json_object());
	else if (streq(command, "device_add") && m.leaves)
		hang_up();
	else if (streq(command, "device_add"))
		device_add(id, arguments);
	else if (streq(command, "device_del"))
		device_del(id, json_string_value(json_object_get(arguments, "id")));
	else if (streq(command, "query-status"))
		give(id, json_pack("{s:b}", "running", (int) m.is_running));
	else if (streq(command, "object-del"))
		cold_del(id, find_cold(json_string_value(json_object_get(arguments, "id"))), true);
	else
		complain(id, "CommandNotFound", "The command %s has not been found", command);
}

static void client_readable(void *data, uint32_t events)
{
	union {
		char buffer[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {.iov_base = m.in + m.length, .iov_len = sizeof(m.in) - m.length};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.buffer,
			     .msg_controllen = sizeof(control.buffer)};
	ssize_t n = recvmsg(m.fd, &msg, MSG_DONTWAIT);
	char *end;

	(void) data, (void) events;
	if (n <= 0) {
		hang_up();
		return;
	}
	m.length += (size_t) n;
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	if (cmsg)
		memcpy(&m.fds[m.n_fds++], CMSG_DATA(cmsg), sizeof(int));
	while (m.fd >= 0 && (end = memchr(m.in, '\n', m.length))) {
		json_t *message = json_loadb(m.in, (size_t) (end - m.in), 0, NULL);

		assert_non_null(message);
		m.length -= (size_t) (end + 1 - m.in);
		memmove(m.in, end + 1, m.length);
		obey(message);
		json_decref(message);
	}
}

static void serve(int fd)
{
	m.fd = fd;
	m.n_clients++;
	if (!m.silent)
		say(json_pack("{s:{s:{}, s:[s]}}", "QMP", "version", "capabilities", "oob"));
	assert_int_equal(loop_add(m.loop, m.fd, EPOLLIN, client_readable, NULL, &m.client), 0);
}

static void caller(void *data, uint32_t events)
{
	(void) data, (void) events;
	if (m.fd >= 0)
		return; /* one at a time */
	int fd = accept4(m.listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		serve(fd);
}

/* QEMU dials the broker's socket. */
static void dial(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(address.sun_path, path);
	assert_int_equal(connect(fd, (struct sockaddr *) &address, sizeof(address)), 0);
	serve(fd);
}

/* The other side: a VM and what its backend reports. */

static struct side {
	char *dir;
	struct vm *vm;
	int ups, n_handles;
	char log[4096];
	int fd; /* "the device's node" */
} s;

static void note(const char *format, ...) _printf_(1, 2);
static void note(const char *format, ...)
{
	size_t length = strlen(s.log);
	va_list args;

	va_start(args, format);
	vsnprintf(s.log + length, sizeof(s.log) - length, format, args);
	va_end(args);
}

static void on_up(void *data, struct vm *vm, char *const *handles, size_t n)
{
	(void) data, (void) vm;
	s.ups++;
	s.n_handles = (int) n;
	for (size_t i = 0; i < n; i++)
		note("has %s;", handles[i]);
}

static void on_exited(void *data, struct vm *vm)
{
	(void) data, (void) vm;
	note("exited;");
}

static void on_reason(void *data, struct vm *vm)
{
	(void) data, (void) vm;
}

static void on_sent(void *data, struct device *device)
{
	(void) data;
	note("sent %s;", device->id.kernel_name);
}

static void on_attached(void *data, struct device *device, const struct vmm_result *result)
{
	(void) data;
	note("attached %s %d %u %s%s%s;", device->id.kernel_name, (int) result->outcome,
	     device->place.port, result->outcome == VMM_OK ? "" : result->detail,
	     result->is_unknown ? " (lost)" : "", result->delay_ms > 0 ? " (later)" : "");
}

static void on_detached(void *data, struct vm *vm, struct device *device, const char *handle,
			const struct vmm_result *result)
{
	(void) data, (void) vm, (void) device;
	note("detached %s %d %s;", handle, (int) result->outcome, result->detail);
}

static const struct vm_handler vm_handler = {.up = on_up,
					     .exited = on_exited,
					     .reason = on_reason,
					     .attach_sent = on_sent,
					     .attached = on_attached,
					     .detached = on_detached};

static bool is_up(void *data)
{
	(void) data;
	return s.ups > 0;
}

static bool log_has(void *data)
{
	return strstr(s.log, data) != NULL;
}

static void expect(const char *text)
{
	if (!spin_try(m.loop, log_has, (void *) text, SPIN_LIMIT_MS))
		fail_msg("\"%s\" instead of \"%s\"", s.log, text);
	s.log[0] = 0;
}

static void start_vm_of(struct config_vm config)
{
	const struct config_general general = {.crosvm = (char *) "/nonexistent"};
	char path[100];

	snprintf(path, sizeof(path), "%s/s", s.dir);
	config.name = (char *) "vm1";
	config.type = VM_QEMU;
	if (!config.listen)
		config.socket = path;
	assert_int_equal(vm_new(m.loop, &general, &config, &vm_handler, NULL, &s.vm), 0);
	s.vm->user = config.listen ? getuid() : s.vm->user;
	vm_check(s.vm);
	if (config.listen)
		dial(config.listen);
	spin_until(m.loop, is_up, NULL);
	spin_for(m.loop, 5);
}

static void start_vm(char **usb_bus)
{
	start_vm_of((struct config_vm){.usb_bus = usb_bus});
}

static int setup(void **state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	(void) state;
	memset(&m, 0, sizeof(m));
	memset(&s, 0, sizeof(s));
	m.fd = -1;
	s.dir = temp_new();
	s.fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_int_equal(loop_new(&m.loop), 0);
	m.listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", s.dir);
	assert_int_equal(bind(m.listen_fd, (struct sockaddr *) &address, sizeof(address)), 0);
	assert_int_equal(listen(m.listen_fd, 1), 0);
	assert_int_equal(loop_add(m.loop, m.listen_fd, EPOLLIN, caller, NULL, &m.listener), 0);
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	vm_unref(s.vm);
	hang_up();
	loop_source_free(m.listener);
	loop_free(m.loop);
	close(m.listen_fd);
	close(s.fd);
	temp_remove(&s.dir);
	return 0;
}

static struct device stick(const char *name, uint64_t inode)
{
	struct device d = {.id = {.kind = DEVICE_USB, .inode = inode, .speed = 480},
			   .wish.present = true};

	device_init(&d);
	kept_set(&d.id.kernel_name, name);
	set_words(&d.place.handle, "vhp-%s-%d", name, (int) inode);
	kept_set(&d.id.node, "/dev/bus/usb/001/003");
	return d;
}

static struct device card(const char *address)
{
	struct device d = {.id = {.kind = DEVICE_PCI, .inode = 7}, .wish.present = true};

	device_init(&d);
	kept_set(&d.id.kernel_name, address);
	set_words(&d.place.handle, "vhp-%s-7", address);
	return d;
}

static void attach(struct device *device)
{
	s.vm->vmm->attach(s.vm, device, s.fd);
}

static void detach(struct device *device)
{
	s.vm->vmm->detach(s.vm, device, device->place.handle);
}

/* Tests */

static void test_probe(void **state)
{
	(void) state;
	strcpy(m.devices[2], "vhp-1-2-7");
	strcpy(m.devices[3], "keyboard");
	strcpy(m.devices[4], "vhp-pci-0"); /* from the command line, as vmm-args makes it */
	strcpy(m.devices[1], "vhp-evdev-2");
	start_vm(NULL);
	assert_string_equal(s.log, "has vhp-1-2-7;");
	assert_int_equal(s.vm->state, VM_UP);
	assert_int_equal(m.n_clients, 1);
	assert_int_equal(m.fd, -1); /* the monitor is free again */
}

/* "qemu -runas" listens and greets as root. Cards and input devices are for who it is then. */
static void test_user_that_it_becomes(void **state)
{
	char tree[PATH_MAX], path[64], line[512];
	_cleanup_fclose_ FILE *f = root_fopen("/proc/self/stat");

	(void) state;
	line[fread(line, 1, sizeof(line) - 1, f)] = 0;
	snprintf(tree, sizeof(tree), "%s/tree", s.dir);
	assert_int_equal(mkdir(tree, 0755), 0);
	snprintf(path, sizeof(path), "/proc/%d/stat", (int) getpid());
	tree_write(tree, path, line);
	m.tree = tree;
	run_as(0);
	root_set(tree);
	start_vm(NULL);
	root_set("");
	m.tree = NULL;
	assert_int_equal(s.vm->peer.uid, 31001);
	assert_int_equal(s.vm->peer.listener_uid, getuid());
}

/* However many, they are all told, and none is asked what it is, as somebody else's are. */
static void test_many_of_ours(void **state)
{
	(void) state;
	m.n_ours = 300;
	start_vm(NULL);
	assert_int_equal(s.n_handles, 300);
	assert_true(m.n_commands < 100);
}

static void test_attach_and_detach(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(NULL);
	attach(&d);
	assert_string_equal(s.log, "sent 1-2;"); /* and nobody waits for the answer */
	expect("attached 1-2 0 4 ;");
	assert_string_equal(m.devices[4], "vhp-1-2-7");
	assert_string_equal(d.place.bus, "xhci.0");
	spin_for(m.loop, 5);
	assert_int_equal(m.fd, -1);
	detach(&d);
	expect("detached vhp-1-2-7 0 ;");
	assert_string_equal(m.devices[4], "");
	spin_for(m.loop, 5);
	assert_int_equal(m.fd, -1);
}

/* Ports are given back: twenty sticks, one after the other, on four of them; and no event order
 * matters. */
static void test_twenty_replugs(void **state)
{
	(void) state;
	start_vm(NULL);
	for (int i = 0; i < 20; i++) {
		struct device d = stick("1-2", (uint64_t) i);
		char expected[64];

		m.event_first = i % 2;
		attach(&d);
		expect("attached 1-2 0 4 ;");
		detach(&d);
		snprintf(expected, sizeof(expected), "detached vhp-1-2-%d 0 ;", i);
		expect(expected);
	}
	assert_int_equal(m.n_adds, 20); /* no port was tried in vain */
}

static void test_several_at_once(void **state)
{
	struct device d[PORTS + 1];

	(void) state;
	start_vm(NULL);
	for (int i = 0; i <= PORTS; i++) {
		d[i] = stick("1-2", (uint64_t) i);
		attach(&d[i]);
	}
	spin_for(m.loop, 200);
	assert_int_equal(m.n_clients, 2); /* the probe's connection, and one for all of them */
	for (unsigned port = 1; port <= PORTS; port++)
		assert_true(m.devices[port][0]);
	assert_non_null(strstr(s.log, "attached 1-2 3 0 the VM has no free USB port"));
	assert_int_equal(m.n_adds, PORTS);
	/* Each on a port of its own, and the book is right about it. */
	for (int i = 0; i < PORTS; i++)
		assert_string_equal(m.devices[d[i].place.port], d[i].place.handle);
}

static void test_port_taken_behind_our_back(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(NULL);
	strcpy(m.devices[4], "keyboard");
	strcpy(m.devices[3], "mouse");
	attach(&d);
	expect("attached 1-2 0 2 ;");
	assert_int_equal(m.n_adds, 3);
	detach(&d);
	expect("detached vhp-1-2-7 0 ;");
	/* What was found taken stays known. */
	d = stick("1-3", 8);
	attach(&d);
	expect("attached 1-3 0 2 ;");
	assert_int_equal(m.n_adds, 4);
}

static void test_all_ports_taken_behind_our_back(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(NULL);
	for (unsigned port = 1; port <= PORTS; port++)
		snprintf(m.devices[port], sizeof(m.devices[port]), "keyboard%u", port);
	attach(&d);
	expect("not found (in use?)");
	assert_int_equal(m.n_adds, PORTS);
	attach(&d);
	expect("no free USB port");
	/* That made it look again; a port that is free by then is used the next time. */
	m.devices[1][0] = 0;
	spin_for(m.loop, 200);
	int ups = s.ups;
	attach(&d);
	spin_for(m.loop, 200);
	attach(&d);
	expect("attached 1-2 0 1 ;");
	assert_int_equal(s.ups, ups); /* for itself only */
}

static void test_duplicate_id_counts_as_attached(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(NULL);
	strcpy(m.devices[1], "vhp-1-2-7"); /* an earlier attach whose answer was lost */
	attach(&d);
	expect("attached 1-2 0 ");
}

static void test_detach_of_what_is_not_there(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(NULL);
	detach(&d);
	expect("detached vhp-1-2-7 1 "); /* VMM_GONE */
}

static void test_no_confirmation(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(NULL);
	attach(&d);
	expect("attached 1-2 0 4 ;");
	m.keeps_devices = true;
	detach(&d);
	spin_for(m.loop, 200);
	assert_string_equal(s.log, ""); /* an answer without the event is none */
	assert_true(m.fd >= 0);
	/* Somebody else's event does not count. */
	say(json_pack("{s:s, s:{s:s}}", "event", "DEVICE_DELETED", "data", "device", "other"));
	say(json_pack("{s:s, s:{s:s}}", "event", "DEVICE_DELETED", "data", "path", "/x"));
	spin_for(m.loop, 200);
	assert_string_equal(s.log, "");
	say(json_pack("{s:s, s:{s:s}}", "event", "DEVICE_DELETED", "data", "device", "vhp-1-2-7"));
	expect("detached vhp-1-2-7 0 ;");
}

static void test_monitor_leaves_in_the_middle(void **state)
{
	struct device d = stick("1-2", 7), e = stick("1-3", 8);

	(void) state;
	start_vm(NULL);
	m.leaves = true;
	attach(&d);
	attach(&e);
	spin_for(m.loop, 200);
	assert_non_null(strstr(s.log, "attached 1-2 3 0 it closed the connection (lost);"));
	assert_non_null(strstr(s.log, "attached 1-3 3 0 it closed the connection (lost);"));
	m.leaves = false;
	s.log[0] = 0;
	attach(&d);
	expect("attached 1-2 0 4 ;"); /* the port was given back */
}

static void test_monitor_leaves_while_the_event_is_awaited(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(NULL);
	attach(&d);
	expect("attached 1-2 0 4 ;");
	m.keeps_devices = true;
	detach(&d);
	spin_for(m.loop, 200);
	hang_up();
	expect("detached vhp-1-2-7 3 it closed the connection;");
}

static void test_reset_answers_what_is_under_way(void **state)
{
	struct device d = stick("1-2", 7), e = stick("1-3", 8);

	(void) state;
	start_vm(NULL);
	m.silent = true;
	attach(&d);
	detach(&e);
	spin_for(m.loop, 10);
	s.log[0] = 0;
	s.vm->vmm->reset(s.vm);
	assert_string_equal(s.log, "attached 1-2 3 0 the VM has ended;"
				   "detached vhp-1-3-8 3 the VM has ended;");
	spin_for(m.loop, 10);
}

static void test_busy_monitor(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(NULL);
	m.silent = true;
	attach(&d);
	spin_for(m.loop, 2200);
	assert_non_null(strstr(s.vm->reason, "does not answer: another client holds it"));
	assert_string_equal(s.log, "sent 1-2;"); /* it goes on when it can */
	hang_up();
	expect("sent 1-2;attached 1-2 3 0 it closed the connection (lost);");
}

/* It serves us, and takes its time: a guest with much memory does when it gets a card. */
static void test_busy_qemu(void **state)
{
	struct device d = card("0000:03:00.0");

	(void) state;
	start_vm(NULL);
	m.ponders = true;
	attach(&d);
	spin_for(m.loop, 2200);
	assert_string_equal(s.vm->reason, "QEMU of vm1 has not answered yet: it is busy with what "
					  "it was asked, or hangs");
	hang_up();
	expect("attached 0000:03:00.0 3 0 it closed the connection (lost);");
}

/* A device's reason says what can't be reached, and not the error's name alone. */
static void test_no_connection(void **state)
{
	struct device d = stick("1-2", 7);
	char path[100], expected[200];

	(void) state;
	start_vm(NULL);
	snprintf(path, sizeof(path), "%s/s", s.dir);
	assert_int_equal(unlink(path), 0);
	snprintf(expected, sizeof(expected),
		 "can't connect to its monitor %s: No such file or directory;", path);
	attach(&d);
	expect(expected);
	detach(&d);
	expect(expected);
}

static void test_not_dialled_in_again(void **state)
{
	struct device d = stick("1-2", 7);
	char path[100], expected[200];

	(void) state;
	snprintf(path, sizeof(path), "%s/l", s.dir);
	start_vm_of((struct config_vm){.listen = path});
	hang_up();
	spin_for(m.loop, 5);
	attach(&d);
	expect("attached 1-2 3 0 QEMU has not dialled in again;");
	spin_for(m.loop, 5000);
	snprintf(expected, sizeof(expected),
		 "vm1 does not answer on %s: QEMU has not dialled in again", path);
	assert_string_equal(s.vm->reason, expected);
	dial(path);
	spin_for(m.loop, 5);
	assert_string_equal(s.vm->reason, "");
	attach(&d);
	expect("attached 1-2 0 4 ;");
}

static void test_free_while_under_way(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(NULL);
	attach(&d);
	vm_check(s.vm);
	/* teardown: the VM goes before the answers come */
}

static void test_probe_and_attach_at_once(void **state)
{
	struct device d = stick("1-2", 7), e = stick("1-3", 8);

	(void) state;
	start_vm(NULL);
	vm_check(s.vm);
	attach(&d);
	vm_check(s.vm);
	vm_check(s.vm);
	attach(&e);
	expect("attached 1-3 0 3 ;");
	spin_for(m.loop, 200);
	assert_string_equal(m.devices[4], "vhp-1-2-7");
	assert_int_equal(m.fd, -1);
	detach(&d);
	expect("detached vhp-1-2-7 0 ;");
}

static void test_old_qemu(void **state)
{
	struct device d = stick("1-2", 7), e = stick("1-3", 8);

	(void) state;
	m.no_hostdevice = true;
	start_vm(NULL);
	attach(&d);
	expect("attached 1-2 0 4 ;");
	attach(&e);
	expect("attached 1-3 0 3 ;");
	assert_int_equal(m.n_adds, 3); /* it is known the second time */
}

static void test_no_usb_in_the_vm(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(NULL);
	m.rejects = "No 'usb-bus' bus found for device 'usb-host'";
	attach(&d);
	expect("attached 1-2 4 0 QEMU: No 'usb-bus' bus found for device 'usb-host'; give the VM a"
	       " USB controller");
}

/* In whatever order QEMU lists them. */
static void test_fastest_bus(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	m.cold[0].parent = m.cold[2].parent = "/machine/peripheral";
	m.cold[0].name = "uhci";
	m.cold[0].type = "piix3-usb-uhci";
	m.cold[1].parent = "/machine/peripheral/uhci";
	m.cold[1].name = "uhci.0";
	m.cold[2].name = "ehci";
	m.cold[2].type = "usb-ehci";
	m.cold[3].parent = "/machine/peripheral/ehci";
	m.cold[3].name = "ehci.0";
	m.cold[1].type = m.cold[3].type = "usb-bus";
	start_vm(NULL);
	attach(&d);
	expect("attached 1-2 0 4 ;");
	assert_string_equal(d.place.bus, "xhci.0");
	detach(&d);
	expect("detached vhp-1-2-7 0 ;");
}

static void test_bus_that_is_not_there(void **state)
{
	char *buses[] = {(char *) "nosuch.0", NULL};
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(buses);
	m.rejects = "Bus 'nosuch.0' not found";
	attach(&d);
	expect("attached 1-2 4 0 QEMU: Bus 'nosuch.0' not found; check usbBus");
}

/* The number of the descriptor is another one with each try: the reason would be, too. */
static void test_descriptor_that_does_not_open(void **state)
{
	struct device d = stick("1-2", 7);

	(void) state;
	start_vm(NULL);
	m.rejects = "can't open /dev/fdset/1801: no";
	attach(&d);
	expect("QEMU: can't open /dev/bus/usb/001/003: no");
}

static void test_long_error(void **state)
{
	struct device d = stick("1-2", 7);
	char text[250];

	(void) state;
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = 0;
	text[3] = '\n';
	start_vm(NULL);
	m.rejects = text;
	attach(&d);
	expect("attached 1-2 3 0 QEMU: xxx?xxx");
}

/* QEMU's own words are long here; what to do is at their end, and must be whole. */
static void test_limit_of_locked_memory(void **state)
{
	struct device d = card("0000:03:00.0");

	(void) state;
	start_vm(NULL);
	m.rejects =
		"vfio 0000:03:00.0: failed to setup container for group 12: memory listener "
		"initialization failed: Region pc.ram: vfio_dma_map(0x5624a1b2c3d0, 0x100000000, "
		"0x380000000, 0x7f1234567000) = -12 (Cannot allocate memory)";
	attach(&d);
	expect("0x7f1234567000) = -12 (Cannot allocate memory); raise QEMU's limit of locked "
	       "memory "
	       "(RLIMIT_MEMLOCK) above the guest's memory");
	/* Whatever it says besides. */
	char text[480];
	memset(text, 'x', sizeof(text));
	strcpy(text + 440, "Cannot allocate memory");
	m.rejects = text;
	attach(&d);
	expect("; raise QEMU's limit of locked memory (RLIMIT_MEMLOCK) above the guest's memory");
}

/* The reason names what keeps it out (confinement.h), not "user =", which is right. */
static void test_node_that_it_does_not_see(void **state)
{
	static const char *const files[] = {"stat", "status"};
	struct device d = card("0000:03:00.0");
	char tree[PATH_MAX], path[64], line[512];

	(void) state;
	start_vm(NULL);
	snprintf(tree, sizeof(tree), "%s/tree", s.dir);
	assert_int_equal(mkdir(tree, 0755), 0);
	/* It is this process that plays QEMU. */
	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		FILE *f = root_fopen("/proc/self/%s", files[i]);
		line[fread(line, 1, sizeof(line) - 1, f)] = 0;
		fclose(f);
		snprintf(path, sizeof(path), "/proc/%d/%s", (int) s.vm->peer.pid, files[i]);
		tree_write(tree, path, line);
	}
	snprintf(path, sizeof(path), "/proc/%d/root/dev", (int) s.vm->peer.pid);
	tree_mkdir(tree, path);
	tree_write(tree, "/dev/vfio/12", "");
	m.rejects = "vfio 0000:03:00.0: failed to open /dev/vfio/12: No such file or directory";
	root_set(tree);
	attach(&d);
	expect("has a /dev of its own without /dev/vfio/12");
	root_set("");
}

/* PCI */

static void test_card_on_a_free_port(void **state)
{
	struct device d = card("0000:03:00.0"), e = card("0000:04:00.0");

	(void) state;
	strcpy(m.slots[1], "nic");
	start_vm(NULL);
	attach(&d);
	expect("attached 0000:03:00.0 0 0 ;");
	assert_string_equal(d.place.bus, "rp2");
	assert_string_equal(m.slots[2], d.place.handle);
	/* The third can't hot-plug. */
	attach(&e);
	expect("the VM has no free PCIe port; give it more: -device "
	       "pcie-root-port,id=rp9,chassis=9,slot=9;");
	assert_int_equal(m.n_adds, 1);
	detach(&d);
	expect("detached vhp-0000:03:00.0-7 0 ;");
	attach(&e);
	expect("attached 0000:04:00.0 0 0 ;");
	assert_string_equal(e.place.bus, "rp2");
}

/* One that a former broker has put there: a move to what it leaves is not sent back. */
static void test_slot_that_nobody_remembers(void **state)
{
	struct device d = card("0000:03:00.0"), e = card("0000:04:00.0");

	(void) state;
	strcpy(m.slots[1], d.place.handle);
	strcpy(m.slots[2], "nic");
	start_vm(NULL);
	s.log[0] = 0;
	detach(&d);
	expect("detached vhp-0000:03:00.0-7 0 ;");
	attach(&e);
	expect("attached 0000:04:00.0 3 0 the VM is being asked which of its ports are free "
	       "(later);");
	spin_for(m.loop, 5);
	attach(&e);
	expect("attached 0000:04:00.0 0 0 ;");
	assert_string_equal(e.place.bus, "rp1");
	/* Once it has said so, there is none. */
	attach(&d);
	expect("give it more: -device pcie-root-port,id=rp9,chassis=9,slot=9;");
}

/* Nor where nobody knows whose device has left. */
static void test_slot_of_a_stranger(void **state)
{
	struct device e = card("0000:04:00.0");

	(void) state;
	strcpy(m.slots[1], "vhp-0000:03:00.0-7");
	strcpy(m.slots[2], "nic");
	start_vm(NULL);
	s.log[0] = 0;
	s.vm->vmm->detach(s.vm, NULL, "vhp-0000:03:00.0-7");
	expect("detached vhp-0000:03:00.0-7 0 ;");
	spin_for(m.loop, 5);
	attach(&e);
	expect("attached 0000:04:00.0 0 0 ;");
}

static void test_slot_taken_behind_our_back(void **state)
{
	struct device d = card("0000:03:00.0");

	(void) state;
	start_vm(NULL);
	strcpy(m.slots[1], "nic");
	attach(&d);
	expect("attached 0000:03:00.0 0 0 ;");
	assert_string_equal(d.place.bus, "rp2");
	assert_int_equal(m.n_adds, 2);
}

static void test_slots_in_the_order_of_the_config(void **state)
{
	char *ports[] = {(char *) "rp2", (char *) "rp1", NULL};
	struct device d = card("0000:03:00.0");

	(void) state;
	start_vm_of((struct config_vm){.pci_bus = ports});
	attach(&d);
	expect("attached 0000:03:00.0 0 0 ;");
	assert_string_equal(d.place.bus, "rp2");
}

static void test_slots_that_are_taken_or_not_there(void **state)
{
	char *ports[] = {(char *) "nosuch", (char *) "rp1", NULL}, *others[] = {ports[0], NULL};
	const struct config_general general = {0};
	struct device d = card("0000:03:00.0");

	(void) state;
	strcpy(m.slots[1], "nic");
	start_vm_of((struct config_vm){.pci_bus = ports});
	attach(&d);
	expect("attached 0000:03:00.0 3 0 the VM has no free PCIe port in pciBus; give it more, "
	       "and name them there: -device pcie-root-port,id=rp9,chassis=9,slot=9;");
	vm_update(s.vm, &general, &(struct config_vm){.pci_bus = others});
	attach(&d);
	expect("attached 0000:03:00.0 4 0 pciBus names no PCIe port of the VM; correct it");
	assert_int_equal(m.n_adds, 0);
}

static void test_card_on_the_root_bus(void **state)
{
	struct device d = card("0000:03:00.0");

	(void) state;
	start_vm_of((struct config_vm){.qemu_use_root_bus = true});
	attach(&d);
	expect("Bus 'pcie.0' does not support hotplugging; give the VM ports to plug into");
	m.root_hot_plugs = true;
	attach(&d);
	expect("attached 0000:03:00.0 0 0 ;");
	assert_string_equal(m.slots[0], d.place.handle);
}

static void test_input_device(void **state)
{
	struct device d = card("event3");

	(void) state;
	d.id.kind = DEVICE_EVDEV;
	kept_set(&d.id.node, "/dev/input/event3");
	start_vm(NULL);
	attach(&d);
	expect("attached event3 0 0 ;");
	assert_string_equal(d.place.bus, "rp1");
}

/* Asked, and asked again: only the event counts, or that it has gone. */
static void test_guest_that_does_not_let_go(void **state)
{
	struct device d = card("0000:03:00.0");

	(void) state;
	start_vm(NULL);
	attach(&d);
	expect("attached 0000:03:00.0 0 0 ;");
	m.keeps_devices = true;
	detach(&d);
	spin_for(m.loop, 500);
	assert_string_equal(s.log, "");
	spin_for(m.loop, 3000);
	expect("detached vhp-0000:03:00.0-7 2 ;"); /* VMM_PENDING; the monitor is free meanwhile */
	spin_for(m.loop, 5);
	assert_int_equal(m.fd, -1);
	detach(&d);
	expect("detached vhp-0000:03:00.0-7 2 ");
	m.slots[1][0] = 0; /* a reset of the guest, while nobody listened */
	detach(&d);
	expect("detached vhp-0000:03:00.0-7 1 ");
}

/* It has been asked, and lets go when it likes, whoever listens. */
static void test_monitor_leaves_while_the_guest_is_awaited(void **state)
{
	struct device d = card("0000:03:00.0");

	(void) state;
	start_vm(NULL);
	attach(&d);
	expect("attached 0000:03:00.0 0 0 ;");
	m.keeps_devices = true;
	detach(&d);
	spin_for(m.loop, 500);
	hang_up();
	expect("detached vhp-0000:03:00.0-7 2 it closed the connection;");
}

static void say_deleted(const char *name)
{
	say(json_pack("{s:s, s:{s:s, s:s}}", "event", "DEVICE_DELETED", "data", "device", name,
		      "path", "/machine/peripheral/x"));
	spin_for(m.loop, 5);
}

/* The guest has let go of it, or somebody at another monitor has taken it: that is looked at, if it
 * may be one that we count. */
static void test_deleted_unasked(void **state)
{
	struct device d = card("0000:03:00.0"), e = card("0000:04:00.0"), f = card("0000:05:00.0");

	(void) state;
	m.cold[0].parent = "/machine/peripheral";
	m.cold[0].name = "theirs";
	m.cold[0].type = "vfio-pci";
	m.cold[0].properties = "{\"sysfsdev\": \"/sys/bus/pci/devices/0000:06:00.0\"}";
	start_vm(NULL);
	attach(&d);
	expect("attached 0000:03:00.0 0 0 ;");
	attach(&e);
	expect("attached 0000:04:00.0 0 0 ;");
	m.keeps_devices = true;
	detach(&d); /* so that there is a connection */
	spin_for(m.loop, 5);
	s.log[0] = 0;
	slot_empties(2);
	spin_for(m.loop, 5);
	assert_string_equal(s.log, "has vhp-0000:03:00.0-7;");
	int ups = s.ups;
	m.cold[0].gone = true;
	say_deleted("theirs");
	assert_int_equal(s.ups, ups + 1);
	assert_int_equal(s.vm->cold.n, 0);
	/* It may have had a port all the same. */
	strcpy(m.slots[2], "nic");
	vm_check(s.vm);
	spin_for(m.loop, 5);
	ups = s.ups;
	m.slots[2][0] = 0;
	say_deleted("nic");
	assert_int_equal(s.ups, ups);
	attach(&f);
	expect("attached 0000:05:00.0 3 0 the VM is being asked which of its ports are free "
	       "(later);");
	/* Said without end, it is looked at as often as anything. */
	ups = s.ups;
	for (int i = 0; i < 200; i++)
		say_deleted("vhp-9-9-9");
	assert_in_range(s.ups, ups + 10, ups + 60);
}

static void make_tree(void)
{
	static const char *const usb[][2] = {{"1-4", "1234"}, {"1-5", "046d"}, {"1-6", "046d"}};
	char path[100];

	root_set(s.dir);
	snprintf(path, sizeof(path), "%s/proc", s.dir);
	assert_int_equal(symlink("/proc", path), 0); /* whose the socket is */
	tree_write(s.dir, "/dev/input/event3", "");
	tree_link(s.dir, "/dev/input/by-id/keyboard", "/dev/input/event3");
	tree_link(s.dir, "/dev/shm/event3", "/dev/input/event3");
	tree_mkdir(s.dir, "/sys/bus/pci/devices/0000:03:00.0");
	for (size_t i = 0; i < ARRAY_SIZE(usb); i++) {
		snprintf(path, sizeof(path), "/sys/bus/usb/devices/%s/idVendor", usb[i][0]);
		tree_write(s.dir, path, usb[i][1]);
		snprintf(path, sizeof(path), "/sys/bus/usb/devices/%s/idProduct", usb[i][0]);
		tree_write(s.dir, path, "5678");
	}
}

/* A machine that has these, and what of them counts. */
struct cold_row {
	const char *parent, *name, *type, *properties, *expected;
};

static void expect_cold(const struct cold_row *rows, size_t n)
{
	static const char *const parents[] = {"/machine/peripheral", "/machine/peripheral-anon",
					      "/objects"};
	char expected[1000] = "", found[1000] = "";

	make_tree();
	for (size_t i = 0; i < n; i++) {
		m.cold[i].parent = rows[i].parent;
		m.cold[i].name = rows[i].name;
		m.cold[i].type = rows[i].type;
		m.cold[i].properties = rows[i].properties;
	}
	start_vm(NULL);
	root_set("");
	for (size_t i = 0; i < s.vm->cold.n; i++) {
		const struct cold *cold = &s.vm->cold.items[i];

		snprintf(found + strlen(found), sizeof(found) - strlen(found), "%s: %s %s %s;",
			 cold->handle, device_kind_name(cold->kind), cold->node, cold->kernel_name);
	}
	for (size_t p = 0; p < ARRAY_SIZE(parents); p++)
		for (size_t i = 0; i < n; i++)
			if (streq(rows[i].parent, parents[p]))
				strcat(expected, rows[i].expected);
	assert_string_equal(found, expected);
	assert_string_equal(s.log, "");
}

/* What somebody else has given it: by id, by path, by place, by address, by ids alone. */
static void test_what_it_has_had_since_its_start(void **state)
{
	static const struct cold_row rows[] = {
		{"/machine/peripheral", "stick", "usb-host",
		 "{\"hostbus\": 1, \"hostaddr\": 7, \"attached\": true}",
		 "stick: usb /dev/bus/usb/001/007 ;"},
		{"/machine/peripheral-anon", "device[3]", "usb-host",
		 "{\"hostbus\": 2, \"hostport\": \"3.1\", \"attached\": true}",
		 "/machine/peripheral-anon/device[3]: usb  2-3.1;"},
		{"/machine/peripheral", "ids", "usb-host",
		 "{\"vendorid\": 4660, \"productid\": 22136, \"attached\": true}",
		 "ids: usb  1-4;"},
		{"/machine/peripheral", "twins", "usb-host",
		 "{\"vendorid\": 1133, \"productid\": 22136, \"attached\": true}", ""},
		{"/machine/peripheral", "waits", "usb-host",
		 "{\"hostbus\": 1, \"hostport\": \"4\"}", ""},
		{"/machine/peripheral", "fd", "usb-host",
		 "{\"hostdevice\": \"/dev/fdset/7\", \"attached\": true}", ""},
		{"/machine/peripheral", "vhp-pci-0", "vfio-pci", "{\"host\": \"0000:03:00.0\"}",
		 "vhp-pci-0: pci  0000:03:00.0;"},
		{"/machine/peripheral-anon", "device[4]", "vfio-pci",
		 "{\"sysfsdev\": \"/sys/bus/pci/devices/0000:03:00.1\"}",
		 "/machine/peripheral-anon/device[4]: pci  0000:03:00.1;"},
		{"/machine/peripheral", "vhp-evdev-0", "virtio-input-host-pci",
		 "{\"evdev\": \"/dev/input/by-id/keyboard\"}",
		 "vhp-evdev-0: evdev /dev/input/event3 ;"},
		{"/objects", "kbd", "input-linux", "{\"evdev\": \"/dev/input/event3\"}",
		 "/objects/kbd: evdev /dev/input/event3 ;"},
	};

	(void) state;
	m.is_running = true;
	expect_cold(rows, ARRAY_SIZE(rows));
}

/* It takes them when its guest runs; what is not plugged in it may not even get then. */
static void test_what_it_will_have(void **state)
{
	static const struct cold_row rows[] = {
		{"/machine/peripheral", "waits", "usb-host",
		 "{\"hostbus\": 1, \"hostport\": \"4\"}", "waits: usb  1-4;"},
		{"/machine/peripheral", "empty", "usb-host",
		 "{\"hostbus\": 1, \"hostport\": \"8\"}", ""},
		{"/machine/peripheral", "elsewhere", "usb-host",
		 "{\"hostbus\": 1, \"hostport\": \"4/../1-4\"}", ""},
		{"/machine/peripheral", "links", "virtio-input-host-pci",
		 "{\"evdev\": \"/dev/input/by-id/../../input/event3\"}", ""},
		{"/machine/peripheral", "others", "virtio-input-host-pci",
		 "{\"evdev\": \"/dev/shm/event3\"}", ""},
		{"/machine/peripheral", "gone", "usb-host", "{\"hostbus\": 1, \"hostaddr\": 8}",
		 ""},
		{"/machine/peripheral", "any", "usb-host", "{}", ""},
	};

	(void) state;
	expect_cold(rows, ARRAY_SIZE(rows));
}

/* Somebody at its other monitor was faster: that is seen, and not tried for ever. */
static void test_given_to_it_behind_our_back(void **state)
{
	struct device d = card("0000:03:00.0");

	(void) state;
	start_vm(NULL);
	assert_int_equal(s.vm->cold.n, 0);
	m.cold[0].parent = "/machine/peripheral";
	m.cold[0].name = "theirs";
	m.cold[0].type = "vfio-pci";
	m.cold[0].properties = "{\"sysfsdev\": \"/sys/bus/pci/devices/0000:03:00.0\"}";
	m.rejects = "vfio 0000:03:00.0: device is already attached";
	attach(&d);
	expect("attached 0000:03:00.0 3 0 QEMU: vfio 0000:03:00.0: device is already attached;");
	spin_for(m.loop, 5);
	assert_int_equal(s.vm->cold.n, 1);
	assert_true(cold_is(&s.vm->cold.items[0], &d));
}

static void test_taking_out_what_it_has_had(void **state)
{
	static const char *const handles[] = {"stick", "/machine/peripheral-anon/device[3]",
					      "/objects/kbd"};
	struct device d = stick("1-2", 7);
	char expected[100];

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(handles); i++) {
		m.cold[i].parent = i == 0   ? "/machine/peripheral"
				   : i == 1 ? "/machine/peripheral-anon"
					    : "/objects";
		m.cold[i].name =
			strrchr(handles[i], '/') ? strrchr(handles[i], '/') + 1 : handles[i];
		m.cold[i].type = i == 2 ? "input-linux" : "usb-host";
		m.cold[i].properties = "{\"evdev\": \"/dev/input/event3\", \"hostbus\": 1,"
				       " \"hostaddr\": 3, \"attached\": true}";
	}
	start_vm(NULL);
	for (size_t i = 0; i < ARRAY_SIZE(handles); i++) {
		kept_set(&d.place.handle, handles[i]);
		detach(&d);
		snprintf(expected, sizeof(expected), "detached %s 0 ;", handles[i]);
		expect(expected);
		assert_true(m.cold[i].gone);
	}
}

/* However often it dials, what it says is counted together. */
static void test_pace_of_what_has_dialled_in(void **state)
{
	const struct config_general general = {0};
	char path[100], user[20];
	struct config_vm config = {
		.name = (char *) "vm1", .type = VM_QEMU, .listen = path, .user = user};

	(void) state;
	snprintf(path, sizeof(path), "%s/l", s.dir);
	snprintf(user, sizeof(user), "%u", (unsigned) getuid());
	assert_int_equal(vm_new(m.loop, &general, &config, &vm_handler, NULL, &s.vm), 0);
	vm_check(s.vm);
	budget_use(&s.vm->input, QMP_BURST + 10 * QMP_RATE, now_monotonic_ms());
	for (int i = 0; i < 2; i++) {
		dial(path);
		spin_for(m.loop, 4000);
		hang_up();
	}
	assert_int_equal(s.ups, 0);
	dial(path);
	spin_until(m.loop, is_up, NULL);
}

/* The server that knows the VM's user, who is nowhere else. */
static bool is_served;

struct passwd *__wrap_getpwnam(const char *name);
struct passwd *__wrap_getpwnam(const char *name)
{
	static struct passwd mary;

	mary.pw_uid = getuid();
	return is_served && streq(name, "mary of far away") ? &mary : NULL;
}

static bool has_reason(void *data)
{
	(void) data;
	return s.vm->reason[0];
}

/* The broker starts before the network does, and the VM long after both. */
static void test_user_whom_a_server_knows(void **state)
{
	const struct config_general general = {0};
	char path[100];
	struct config_vm config = {.name = (char *) "vm1",
				   .type = VM_QEMU,
				   .socket = path,
				   .user = (char *) "mary of far away"};

	(void) state;
	/* He is asked in another process. */
	loop_skip_waiting(false);
	is_served = false;
	snprintf(path, sizeof(path), "%s/s", s.dir);
	assert_int_equal(vm_new(m.loop, &general, &config, &vm_handler, NULL, &s.vm), 0);
	vm_check(s.vm);
	assert_string_equal(s.vm->reason, "");
	spin_until(m.loop, has_reason, NULL);
	assert_non_null(strstr(s.vm->reason, "\"mary of far away\" of its section does not exist"));
	assert_int_equal(s.ups, 0);
	is_served = true;
	vm_wake(s.vm);
	spin_until(m.loop, is_up, NULL);
	assert_int_equal(s.vm->user, getuid());
	assert_string_equal(s.vm->reason, "");
	loop_skip_waiting(true);
}

static bool is_there(void *path)
{
	return access(path, F_OK) == 0;
}

/* The VM's directory goes with it, and comes back when it is started anew: so does the socket that
 * it is to dial. What somebody else has put there stays. */
static void test_dialled_socket_is_removed(void **state)
{
	char directory[100], path[110];

	(void) state;
	snprintf(directory, sizeof(directory), "%s/vm1", s.dir);
	snprintf(path, sizeof(path), "%s/l", directory);
	assert_int_equal(mkdir(directory, 0755), 0);
	start_vm_of((struct config_vm){.listen = path});
	assert_int_equal(unlink(path), 0);
	assert_int_equal(rmdir(directory), 0);
	spin_for(m.loop, 1000);
	hang_up();
	assert_int_equal(mkdir(directory, 0755), 0);
	spin_until(m.loop, is_there, path);
	s.ups = 0;
	dial(path);
	spin_until(m.loop, is_up, NULL);

	assert_int_equal(unlink(path), 0);
	spin_until(m.loop, is_there, path);
	assert_int_equal(unlink(path), 0);
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	spin_for(m.loop, 1000);
	assert_int_equal(write(fd, "mine", 4), 4);
	close(fd);
	assert_string_equal(tree_read(s.dir, "/vm1/l"), "mine");
}

int main(void)
{
#define QEMU_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		QEMU_TEST(test_probe),
		QEMU_TEST(test_user_that_it_becomes),
		QEMU_TEST(test_many_of_ours),
		QEMU_TEST(test_attach_and_detach),
		QEMU_TEST(test_twenty_replugs),
		QEMU_TEST(test_several_at_once),
		QEMU_TEST(test_port_taken_behind_our_back),
		QEMU_TEST(test_all_ports_taken_behind_our_back),
		QEMU_TEST(test_duplicate_id_counts_as_attached),
		QEMU_TEST(test_detach_of_what_is_not_there),
		QEMU_TEST(test_no_confirmation),
		QEMU_TEST(test_monitor_leaves_in_the_middle),
		QEMU_TEST(test_monitor_leaves_while_the_event_is_awaited),
		QEMU_TEST(test_reset_answers_what_is_under_way),
		QEMU_TEST(test_busy_monitor),
		QEMU_TEST(test_busy_qemu),
		QEMU_TEST(test_no_connection),
		QEMU_TEST(test_not_dialled_in_again),
		QEMU_TEST(test_free_while_under_way),
		QEMU_TEST(test_probe_and_attach_at_once),
		QEMU_TEST(test_old_qemu),
		QEMU_TEST(test_card_on_a_free_port),
		QEMU_TEST(test_slot_that_nobody_remembers),
		QEMU_TEST(test_slot_of_a_stranger),
		QEMU_TEST(test_slot_taken_behind_our_back),
		QEMU_TEST(test_slots_in_the_order_of_the_config),
		QEMU_TEST(test_slots_that_are_taken_or_not_there),
		QEMU_TEST(test_card_on_the_root_bus),
		QEMU_TEST(test_input_device),
		QEMU_TEST(test_guest_that_does_not_let_go),
		QEMU_TEST(test_monitor_leaves_while_the_guest_is_awaited),
		QEMU_TEST(test_deleted_unasked),
		QEMU_TEST(test_no_usb_in_the_vm),
		QEMU_TEST(test_fastest_bus),
		QEMU_TEST(test_bus_that_is_not_there),
		QEMU_TEST(test_descriptor_that_does_not_open),
		QEMU_TEST(test_long_error),
		QEMU_TEST(test_limit_of_locked_memory),
		QEMU_TEST(test_node_that_it_does_not_see),
		QEMU_TEST(test_what_it_has_had_since_its_start),
		QEMU_TEST(test_what_it_will_have),
		QEMU_TEST(test_taking_out_what_it_has_had),
		QEMU_TEST(test_given_to_it_behind_our_back),
		QEMU_TEST(test_pace_of_what_has_dialled_in),
		QEMU_TEST(test_dialled_socket_is_removed),
		QEMU_TEST(test_user_whom_a_server_knows),
	};

	loop_skip_waiting(true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
