/* QEMU behind vmm.h: devices by file descriptor over short QMP connections.
 *
 * A monitor serves one client at a time, so a connection is opened for a request, shared by all
 * that come meanwhile, and closed when the last one has been answered. An attach is one packet:
 * add-fd, device_add, remove-fd, with the descriptor on it; nobody waits for the greeting. For that
 * the guest's free USB ports are known beforehand, from a probe when the VM comes up.
 * Sources: QEMU, qapi/qdev.json, qapi/misc.json (add-fd), qapi/qom.json; hw/usb/host-libusb.c.
 */
#include <ctype.h>
#include <fcntl.h>

#include "broker/device.h"
#include "broker/log.h"
#include "broker/qmp.h"
#include "broker/vm.h"
#include "broker/vmm_qemu.h"

#define MAX_BUSES 16
#define MAX_HANDLES 256
#define BUSY_MS 2000      /* without a greeting for so long: somebody else holds the monitor */
#define DELETED_MS 10000  /* for DEVICE_DELETED; USB needs no guest for it */
#define MAX_PORT_TRIES 40 /* ports found taken before giving up for now */
#define MAX_PCI_PORTS 64
#define PCI_DELETED_MS                                                                         \
	3000             /* then the connection is given up and the guest is asked again later \
			  */
#define SUPER_SPEED 5000 /* Mbit/s */

enum op_kind {
	OP_PROBE,
	OP_ATTACH,
	OP_DETACH,
};

struct qemu;

/* One request of the manager's: some commands, answered together. Its memory outlives the pass in
 * which it is done, because replies to its commands may still be on their way up. */
struct op {
	struct op *next;
	struct loop_garbage garbage;
	struct qemu *qemu;
	enum op_kind kind;
	bool done;
	unsigned replies; /* still to come */
	struct device *device;
	char handle[96];
	struct vmm_result result;
	struct loop_timer deadline;
	/* attach */
	int fd;
	char bus[64];
	unsigned port;
	size_t first_bus; /* the candidates before it have no room, or are of the wrong speed */
	unsigned tries;
	/* detach */
	bool deleted;
};

/* A USB bus of the guest, by the name QEMU gives it. */
struct usb_bus {
	struct op *op; /* the probe that fills it in */
	char name[64];
	char path[128];            /* of the controller in the QOM tree */
	unsigned ports_2, ports_3; /* xHCI: how many ports can do USB 2, USB 3; 0: not known */
	uint64_t used;             /* bit n: port n */
};

/* A PCIe port that takes one hot-plugged device. */
struct pci_port {
	struct op *op;
	char name[64];
	bool used;
};

struct qemu {
	struct vm *vm;
	struct qmp *qmp;
	struct loop_timer busy;
	bool busy_told;
	bool no_hostdevice; /* before QEMU 5.1 */
	struct op *ops;
	uint32_t next_fdset;
	struct usb_bus buses[MAX_BUSES], found[MAX_BUSES];
	size_t n_buses, n_found;
	struct pci_port ports[MAX_PCI_PORTS], found_ports[MAX_PCI_PORTS];
	size_t n_ports, n_found_ports;
	char *handles[MAX_HANDLES];
	size_t n_handles;
};

static void op_step(struct op *op);

static void forget_handles(struct qemu *qemu)
{
	while (qemu->n_handles > 0)
		free(qemu->handles[--qemu->n_handles]);
}

/* Ops */

static void free_op(void *data)
{
	free(data);
}

static struct op *op_new(struct qemu *qemu, enum op_kind kind, struct device *device,
			 const char *handle)
{
	struct op *op = calloc(1, sizeof(*op)), **at = &qemu->ops;

	if (!op)
		return NULL;
	op->qemu = qemu;
	op->kind = kind;
	op->device = device;
	op->fd = -1;
	snprintf(op->handle, sizeof(op->handle), "%s", handle);
	while (*at)
		at = &(*at)->next;
	*at = op;
	return op;
}

static void set_result(struct op *op, enum vmm_outcome outcome, const char *detail)
{
	op->result.outcome = outcome;
	text_copy(op->result.detail, sizeof(op->result.detail), detail);
}

/* Others want the monitor too, unless QEMU has dialled in: that connection is ours alone. */
static void close_when_idle(struct qemu *qemu)
{
	if (qemu->ops || qemu->vm->listen[0])
		return;
	loop_timer_stop(&qemu->busy);
	qemu->qmp = qmp_close(qemu->qmp);
}

static void unlink_op(struct op *op)
{
	struct op **at = &op->qemu->ops;

	while (*at && *at != op)
		at = &(*at)->next;
	if (*at)
		*at = op->next;
	op->done = true;
	op->fd = close_fd(op->fd);
	loop_timer_stop(&op->deadline);
	loop_discard(op->qemu->vm->loop, &op->garbage, free_op, op);
}

static void set_usb_port(struct qemu *qemu, const char *bus, unsigned port, bool used)
{
	for (size_t i = 0; i < qemu->n_buses; i++)
		if (streq(qemu->buses[i].name, bus)) {
			if (used)
				qemu->buses[i].used |= UINT64_C(1) << port;
			else
				qemu->buses[i].used &= ~(UINT64_C(1) << port);
		}
}

static void set_pci_port(struct qemu *qemu, const char *name, bool used)
{
	for (size_t i = 0; i < qemu->n_ports; i++)
		if (streq(qemu->ports[i].name, name))
			qemu->ports[i].used = used;
}

/* Marks the place of a device, by the names it is plugged in with. */
static void set_place(struct qemu *qemu, const char *bus, unsigned port, bool used)
{
	if (port > 0)
		set_usb_port(qemu, bus, port, used);
	else
		set_pci_port(qemu, bus, used);
}

static void finish_probe(struct op *op)
{
	struct qemu *qemu = op->qemu;

	if (op->result.outcome != VMM_OK) {
		vm_probed(qemu->vm, -ECONNRESET, op->result.detail, NULL, 0);
		return;
	}
	memcpy(qemu->buses, qemu->found, sizeof(qemu->buses));
	qemu->n_buses = qemu->n_found;
	memcpy(qemu->ports, qemu->found_ports, sizeof(qemu->ports));
	qemu->n_ports = qemu->n_found_ports;
	/* What is being attached right now may not have been there when QEMU was asked. */
	for (struct op *other = qemu->ops; other; other = other->next)
		if (other->kind == OP_ATTACH)
			set_place(qemu, other->bus, other->port, true);
	vm_probed(qemu->vm, 0, "", qemu->handles, qemu->n_handles);
}

static void note_place(struct op *op)
{
	struct device *device = op->device;

	snprintf(device->guest_bus, sizeof(device->guest_bus), "%s", op->bus);
	device->guest_port = op->port;
	if (op->port > 0)
		snprintf(op->result.detail, sizeof(op->result.detail), "on port %u of %s", op->port,
			 op->bus);
}

static void forget_place(struct op *op)
{
	struct device *device = op->device;

	set_place(op->qemu, device->guest_bus, device->guest_port, false);
	device->guest_port = 0;
}

/* Ends OP with its result. The answer may start new requests, so the connection is looked
 * at last.
 */
static void op_finish(struct op *op)
{
	struct qemu *qemu = op->qemu;

	if (op->done)
		return;
	unlink_op(op);
	switch (op->kind) {
	case OP_PROBE:
		finish_probe(op);
		break;
	case OP_ATTACH:
		if (op->result.outcome != VMM_OK)
			set_place(qemu, op->bus, op->port, false);
		if (op->result.outcome == VMM_OK)
			note_place(op);
		vm_attached(qemu->vm, op->device, &op->result);
		break;
	case OP_DETACH:
		if (op->device && op->result.outcome != VMM_RETRY &&
		    op->result.outcome != VMM_PENDING)
			forget_place(op);
		vm_detached(qemu->vm, op->device, op->handle, &op->result);
		break;
	}
	close_when_idle(qemu);
}

/* The connection */

static void session_ready(void *data)
{
	struct qemu *qemu = data;

	loop_timer_stop(&qemu->busy);
	if (qemu->busy_told)
		vm_set_reason(qemu->vm, "%s", "");
	qemu->busy_told = false;
}

static void session_busy(void *data)
{
	struct qemu *qemu = data;

	qemu->busy_told = true;
	vm_set_reason(
		qemu->vm, "the monitor of %s does not answer: %s, or QEMU hangs", qemu->vm->name,
		qemu->vm->listen[0] ? "it is not in control mode" : "another client holds it");
}

static void session_event(void *data, const char *name, const json_t *event)
{
	struct qemu *qemu = data;
	const char *handle = json_string_value(json_object_get(event, "device"));

	if (!streq(name, "DEVICE_DELETED") || !handle)
		return;
	for (struct op *op = qemu->ops; op; op = op->next)
		if (op->kind == OP_DETACH && streq(op->handle, handle)) {
			op->deleted = true;
			if (op->replies == 0)
				op_step(op);
			return;
		}
}

static void session_down(void *data, const char *why)
{
	struct qemu *qemu = data;
	struct op *op = qemu->ops;

	qemu->qmp = qmp_close(qemu->qmp);
	loop_timer_stop(&qemu->busy);
	qemu->busy_told = false;
	/* Those with commands under way hear of it by their replies; the others wait for an
	 * event.
	 */
	while (op) {
		struct op *next = op->next;

		if (op->replies == 0 && !op->done) {
			set_result(op, VMM_RETRY, why);
			op_finish(op);
			next = qemu->ops;
		}
		op = next;
	}
}

static const struct qmp_handler session_handler = {
	.ready = session_ready,
	.event = session_event,
	.down = session_down,
};

/* Ends the connection and, for now, everything that goes over it. */
static void qemu_drop_session(struct qemu *qemu, const char *why)
{
	qemu->qmp = qmp_close(qemu->qmp);
	loop_timer_stop(&qemu->busy);
	qemu->busy_told = false;
	while (qemu->ops) {
		set_result(qemu->ops, VMM_RETRY, why);
		op_finish(qemu->ops);
	}
}

/* Makes sure there is a connection to a monitor that may be trusted. */
static int open_session(struct qemu *qemu, char *reason, size_t size)
{
	_cleanup_close_ int fd = -1;
	int r;

	reason[0] = 0;
	if (qemu->qmp)
		return 0;
	if (qemu->vm->listen[0])
		return -ENOTCONN;
	r = qmp_connect(qemu->vm->socket, &fd);
	if (r == 0)
		r = vm_check_peer(qemu->vm, fd, reason, size);
	if (r == 0)
		r = qmp_new(qemu->vm->loop, fd, &session_handler, qemu, &qemu->qmp);
	if (r < 0)
		return r;
	TAKE_FD(fd);
	loop_timer_start(qemu->vm->loop, &qemu->busy, BUSY_MS, session_busy, qemu);
	return 0;
}

/* Queues a command of OP's; FN must call op_reply first. A command that can't be queued is
 * answered as if the connection were down. */
static void op_command(struct op *op, const char *command, json_t *arguments, qmp_reply_fn fn,
		       void *data)
{
	op->replies++;
	if (!op->qemu->qmp) {
		json_decref(arguments);
		fn(data, NULL, "down", "the connection broke");
	} else if (qmp_command(op->qemu->qmp, command, arguments, fn, data) < 0)
		fn(data, NULL, "down", "out of memory");
}

/* Books one reply; remembers the first error. Returns false when it was one. */
static bool op_reply(struct op *op, const json_t *reply, const char *error_class, const char *text)
{
	op->replies--;
	if (reply)
		return true;
	if (streq(error_class, "down"))
		set_result(op, VMM_RETRY, text);
	else if (op->result.outcome == VMM_OK && op->kind != OP_PROBE)
		set_result(op, streq(error_class, "DeviceNotFound") ? VMM_GONE : VMM_FAILED, text);
	return false;
}

static void plain_reply(void *data, const json_t *reply, const char *error_class, const char *text)
{
	struct op *op = data;

	if (op->done)
		return;
	op_reply(op, reply, error_class, text);
	if (op->replies == 0)
		op_step(op);
}

static void op_flush(struct op *op, int fd)
{
	int r = op->qemu->qmp ? qmp_flush(op->qemu->qmp, fd) : 0;

	/* A broken connection also ends all commands by their replies; this is for the log.
	 */
	if (r < 0)
		log_warning("%s: sending to its monitor failed: %s", op->qemu->vm->name,
			    strerror(-r));
}

/* Probe: our handles, and the USB buses with their ports */

static void probe_port_reply(void *data, const json_t *reply, const char *error_class,
			     const char *text)
{
	struct usb_bus *bus = data;
	struct op *op = bus->op;

	if (op->done)
		return;
	if (op_reply(op, reply, error_class, text)) {
		/* "" for a device that QEMU put somewhere itself; that port is found by
		 * trying. */
		long port =
			strtol(json_string_value(reply) ? json_string_value(reply) : "", NULL, 10);

		if (port > 0 && port < 64)
			bus->used |= UINT64_C(1) << port;
	}
	if (op->replies == 0)
		op_step(op);
}

static void probe_children_reply(void *data, const json_t *reply, const char *error_class,
				 const char *text)
{
	struct usb_bus *bus = data;
	struct op *op = bus->op;
	size_t i;
	json_t *entry;

	if (op->done)
		return;
	if (op_reply(op, reply, error_class, text)) {
		json_array_foreach((json_t *) reply, i, entry)
		{
			const char *name = json_string_value(json_object_get(entry, "name"));
			char path[300];

			if (!name || !startswith(name, "child["))
				continue;
			snprintf(path, sizeof(path), "%s/%s/%s", bus->path, bus->name, name);
			op_command(op, "qom-get",
				   json_pack("{s:s, s:s}", "path", path, "property", "port"),
				   probe_port_reply, bus);
		}
		op_flush(op, -1);
	}
	if (op->replies == 0)
		op_step(op);
}

static void probe_ports_2_reply(void *data, const json_t *reply, const char *error_class,
				const char *text)
{
	struct usb_bus *bus = data;

	if (bus->op->done)
		return;
	if (op_reply(bus->op, reply, error_class, text))
		bus->ports_2 = (unsigned) json_integer_value(reply);
	if (bus->op->replies == 0)
		op_step(bus->op);
}

static void probe_ports_3_reply(void *data, const json_t *reply, const char *error_class,
				const char *text)
{
	struct usb_bus *bus = data;

	if (bus->op->done)
		return;
	if (op_reply(bus->op, reply, error_class, text))
		bus->ports_3 = (unsigned) json_integer_value(reply);
	if (bus->op->replies == 0)
		op_step(bus->op);
}

static void probe_controller_reply(void *data, const json_t *reply, const char *error_class,
				   const char *text)
{
	struct usb_bus *bus = data;
	struct op *op = bus->op;
	size_t i;
	json_t *entry;

	if (op->done)
		return;
	if (op_reply(op, reply, error_class, text)) {
		json_array_foreach((json_t *) reply, i, entry)
		{
			const char *type = json_string_value(json_object_get(entry, "type"));
			const char *name = json_string_value(json_object_get(entry, "name"));

			if (type && name && streq(type, "child<usb-bus>"))
				snprintf(bus->name, sizeof(bus->name), "%s", name);
		}
		if (bus->name[0]) {
			char path[200];

			snprintf(path, sizeof(path), "%s/%s", bus->path, bus->name);
			op_command(op, "qom-list", json_pack("{s:s}", "path", path),
				   probe_children_reply, bus);
			op_flush(op, -1);
		}
	}
	if (op->replies == 0)
		op_step(op);
}

static void probe_controller(struct op *op, const char *parent, const char *name, const char *type)
{
	struct qemu *qemu = op->qemu;

	if (qemu->n_found >= MAX_BUSES)
		return;
	struct usb_bus *bus = &qemu->found[qemu->n_found++];
	*bus = (struct usb_bus){.op = op};
	snprintf(bus->path, sizeof(bus->path), "%s/%s", parent, name);
	op_command(op, "qom-list", json_pack("{s:s}", "path", bus->path), probe_controller_reply,
		   bus);
	if (!strstr(type, "xhci"))
		return;
	op_command(op, "qom-get", json_pack("{s:s, s:s}", "path", bus->path, "property", "p2"),
		   probe_ports_2_reply, bus);
	op_command(op, "qom-get", json_pack("{s:s, s:s}", "path", bus->path, "property", "p3"),
		   probe_ports_3_reply, bus);
}

static void probe_hotplug_reply(void *data, const json_t *reply, const char *error_class,
				const char *text)
{
	struct pci_port *port = data;

	if (port->op->done)
		return;
	if (op_reply(port->op, reply, error_class, text) && json_is_false(reply))
		port->used = true;
	if (port->op->replies == 0)
		op_step(port->op);
}

static void probe_port_children_reply(void *data, const json_t *reply, const char *error_class,
				      const char *text)
{
	struct pci_port *port = data;
	size_t i;
	json_t *entry;

	if (port->op->done)
		return;
	if (op_reply(port->op, reply, error_class, text))
		json_array_foreach((json_t *) reply, i, entry)
		{
			const char *name = json_string_value(json_object_get(entry, "name"));

			if (name && startswith(name, "child["))
				port->used = true;
		}
	if (port->op->replies == 0)
		op_step(port->op);
}

/* query-pci does not know what is behind a port before firmware has run; QOM always does.
 * The bus of a port is called like the port. */
static void probe_pci_port(struct op *op, const char *name)
{
	struct qemu *qemu = op->qemu;
	char path[200];

	if (qemu->n_found_ports >= MAX_PCI_PORTS)
		return;
	struct pci_port *port = &qemu->found_ports[qemu->n_found_ports++];
	*port = (struct pci_port){.op = op};
	snprintf(port->name, sizeof(port->name), "%s", name);
	snprintf(path, sizeof(path), "/machine/peripheral/%s", name);
	op_command(op, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", "hotplug"),
		   probe_hotplug_reply, port);
	snprintf(path, sizeof(path), "/machine/peripheral/%s/%s", name, name);
	op_command(op, "qom-list", json_pack("{s:s}", "path", path), probe_port_children_reply,
		   port);
}

static bool is_pci_port(const char *type)
{
	return strstr(type, "pcie-root-port") || strstr(type, "ioh3420") ||
	       strstr(type, "xio3130-downstream");
}

static bool is_usb_controller(const char *type)
{
	return strstr(type, "xhci") || strstr(type, "ehci") || strstr(type, "uhci") ||
	       strstr(type, "ohci");
}

static void probe_devices(struct op *op, const char *parent, const json_t *reply)
{
	struct qemu *qemu = op->qemu;
	size_t i;
	json_t *entry;

	json_array_foreach((json_t *) reply, i, entry)
	{
		const char *type = json_string_value(json_object_get(entry, "type"));
		const char *name = json_string_value(json_object_get(entry, "name"));

		if (!type || !name)
			continue;
		if (startswith(name, QEMU_HANDLE_PREFIX) && qemu->n_handles < MAX_HANDLES) {
			char *copy = strdup(name);

			if (copy)
				qemu->handles[qemu->n_handles++] = copy;
		} else if (is_usb_controller(type)) {
			probe_controller(op, parent, name, type);
		} else if (is_pci_port(type) && streq(parent, "/machine/peripheral")) {
			probe_pci_port(op, name);
		}
	}
	op_flush(op, -1);
}

static void probe_named_reply(void *data, const json_t *reply, const char *error_class,
			      const char *text)
{
	struct op *op = data;

	if (op->done)
		return;
	if (op_reply(op, reply, error_class, text))
		probe_devices(op, "/machine/peripheral", reply);
	else
		set_result(op, VMM_RETRY, text);
	if (op->replies == 0)
		op_step(op);
}

static void probe_nameless_reply(void *data, const json_t *reply, const char *error_class,
				 const char *text)
{
	struct op *op = data;

	if (op->done)
		return;
	if (op_reply(op, reply, error_class, text))
		probe_devices(op, "/machine/peripheral-anon", reply);
	if (op->replies == 0)
		op_step(op);
}

static int qemu_dialled(struct vm *vm, int fd)
{
	struct qemu *qemu = vm->backend;
	struct qmp *qmp;
	int r = qmp_new(vm->loop, fd, &session_handler, qemu, &qmp);

	if (r < 0)
		return r;
	/* QEMU dials again after it has lost the former connection. */
	qemu_drop_session(qemu, "QEMU has dialled in anew");
	qemu->qmp = qmp;
	loop_timer_start(vm->loop, &qemu->busy, BUSY_MS, session_busy, qemu);
	return 0;
}

static void qemu_probe(struct vm *vm)
{
	struct qemu *qemu = vm->backend;
	char reason[300];
	int r = open_session(qemu, reason, sizeof(reason));
	struct op *op = r == 0 ? op_new(qemu, OP_PROBE, NULL, "") : NULL;

	if (!op) {
		vm_probed(vm, r < 0 ? r : -ENOMEM, reason, NULL, 0);
		return;
	}
	qemu->n_found = qemu->n_found_ports = 0;
	forget_handles(qemu);
	op_command(op, "qom-list", json_pack("{s:s}", "path", "/machine/peripheral"),
		   probe_named_reply, op);
	op_command(op, "qom-list", json_pack("{s:s}", "path", "/machine/peripheral-anon"),
		   probe_nameless_reply, op);
	op_flush(op, -1);
}

/* Attach */

/* The highest free port of BUS that is fast enough; QEMU itself starts from the lowest. 0:
 * none. */
static unsigned free_port(const struct usb_bus *bus, unsigned speed)
{
	unsigned last = speed >= SUPER_SPEED ? bus->ports_3 : bus->ports_2;

	for (unsigned port = last < 63 ? last : 63; port > 0; port--)
		if (!(bus->used & UINT64_C(1) << port))
			return port;
	return 0;
}

static struct usb_bus *find_bus(struct qemu *qemu, const char *name)
{
	for (size_t i = 0; i < qemu->n_buses; i++)
		if (streq(qemu->buses[i].name, name))
			return &qemu->buses[i];
	return NULL;
}

static bool try_bus(struct op *op, struct usb_bus *bus)
{
	bool counted = bus->ports_2 > 0 || bus->ports_3 > 0;
	unsigned port = counted ? free_port(bus, op->device->speed) : 0;

	if (!bus->name[0] || (counted && port == 0))
		return false;
	snprintf(op->bus, sizeof(op->bus), "%s", bus->name);
	op->port = port;
	if (port > 0)
		bus->used |= UINT64_C(1) << port;
	return true;
}

/* The name of the Nth bus that OP may use: the config's in order, or all there are. NULL: no more.
 */
static const char *candidate_bus(const struct qemu *qemu, size_t n)
{
	if (!qemu->vm->usb_bus)
		return n < qemu->n_buses ? qemu->buses[n].name : NULL;
	for (size_t i = 0; i < n; i++)
		if (!qemu->vm->usb_bus[i])
			return NULL;
	return qemu->vm->usb_bus[n];
}

/* Chooses bus and port for OP, from its first_bus on. Ports of other than xHCI controllers are left
 * to QEMU, and those of a bus that the probe has not seen too. */
static bool choose_port(struct op *op)
{
	struct qemu *qemu = op->qemu;
	const char *name;

	op->bus[0] = 0;
	op->port = 0;
	for (; (name = candidate_bus(qemu, op->first_bus)); op->first_bus++) {
		struct usb_bus *bus = find_bus(qemu, name);

		if (!bus) {
			snprintf(op->bus, sizeof(op->bus), "%s", name);
			return true;
		}
		if (try_bus(op, bus))
			return true;
	}
	return op->first_bus == 0;
}

static bool try_pci_port(struct op *op, struct pci_port *port)
{
	if (port->used)
		return false;
	port->used = true;
	snprintf(op->bus, sizeof(op->bus), "%s", port->name);
	return true;
}

/* A free root port for OP: the config's in order, or any. A machine without such ports
 * takes the device on its root bus, if it can. */
static bool choose_pci_port(struct op *op)
{
	struct qemu *qemu = op->qemu;
	struct vm *vm = qemu->vm;

	op->bus[0] = 0;
	op->port = 0;
	if (vm->use_root_bus || (qemu->n_ports == 0 && !vm->pci_bus))
		return true;
	for (char **name = vm->pci_bus; name && *name; name++)
		for (size_t i = 0; i < qemu->n_ports; i++)
			if (streq(qemu->ports[i].name, *name) && try_pci_port(op, &qemu->ports[i]))
				return true;
	for (size_t i = 0; !vm->pci_bus && i < qemu->n_ports; i++)
		if (try_pci_port(op, &qemu->ports[i]))
			return true;
	return false;
}

static bool choose_place(struct op *op)
{
	return op->device->kind == DEVICE_USB ? choose_port(op) : choose_pci_port(op);
}

static json_t *pci_arguments(const struct op *op)
{
	const struct device *device = op->device;
	bool vfio = device->kind == DEVICE_PCI;
	json_t *arguments = json_pack(
		"{s:s, s:s, s:s}", "driver", vfio ? "vfio-pci" : "virtio-input-host-pci", "id",
		op->handle, vfio ? "host" : "evdev", vfio ? device->kernel_name : device->node);

	if (arguments && op->bus[0]) {
		json_object_set_new(arguments, "bus", json_string(op->bus));
		/* Without it QEMU puts a second device where the guest never looks. */
		json_object_set_new(arguments, "addr", json_string("0"));
	}
	return arguments;
}

static json_t *device_arguments(struct op *op, uint32_t fdset)
{
	char path[64];
	unsigned bus = 0, address = 0;
	json_t *arguments = json_pack("{s:s, s:s}", "driver", "usb-host", "id", op->handle);

	if (!arguments)
		return NULL;
	if (op->qemu->no_hostdevice) {
		sscanf(op->device->node, "/dev/bus/usb/%u/%u", &bus, &address);
		json_object_set_new(arguments, "hostbus", json_integer(bus));
		json_object_set_new(arguments, "hostaddr", json_integer(address));
	} else {
		snprintf(path, sizeof(path), "/dev/fdset/%u", fdset);
		json_object_set_new(arguments, "hostdevice", json_string(path));
	}
	if (op->bus[0])
		json_object_set_new(arguments, "bus", json_string(op->bus));
	if (op->port > 0) {
		snprintf(path, sizeof(path), "%u", op->port);
		json_object_set_new(arguments, "port", json_string(path));
	}
	return arguments;
}

/* Sends the whole attach as one packet. */
static void send_attach(struct op *op)
{
	struct qemu *qemu = op->qemu;
	uint32_t fdset = qemu->next_fdset;

	if (op->device->kind != DEVICE_USB) {
		op_command(op, "device_add", pci_arguments(op), plain_reply, op);
		op_flush(op, -1);
		return;
	}

	/* QEMU takes ids up to INT32_MAX; one is never used twice in a row. */
	qemu->next_fdset = fdset < INT32_MAX ? fdset + 1 : 1;
	op_command(op, "add-fd",
		   json_pack("{s:i, s:s}", "fdset-id", (int) fdset, "opaque", op->device->node),
		   plain_reply, op);
	op_command(op, "device_add", device_arguments(op, fdset), plain_reply, op);
	op_command(op, "remove-fd", json_pack("{s:i}", "fdset-id", (int) fdset), plain_reply, op);
	op_flush(op, op->fd);
}

enum vmm_outcome qemu_classify(const char *text)
{
	static const struct {
		const char *part;
		enum vmm_outcome outcome;
	} known[] = {
		{"Duplicate device ID", VMM_OK}, /* the id is this very instance's */
		{"not a valid device model", VMM_FAILED},
		{"' bus found for device", VMM_FAILED},
		{"Property '", VMM_FAILED},
		{"does not support hotplugging", VMM_FAILED},
	};

	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strstr(text, known[i].part))
			return known[i].outcome;
	if (startswith(text, "Bus '") && strstr(text, "' not found"))
		return VMM_FAILED;
	return VMM_RETRY;
}

/* What a person can do about an error of device_add, or "". */
static const char *advice(const char *text)
{
	if (strstr(text, "not a valid device model"))
		return "; install QEMU's USB module (Debian: qemu-system-common)";
	if (strstr(text, "' bus found for device"))
		return "; give the VM a USB controller: -device qemu-xhci,p2=15,p3=15";
	if (strstr(text, "does not support hotplugging"))
		return "; give the VM ports to plug into: -device pcie-root-port,id=rp1";
	if (startswith(text, "Bus '"))
		return "; check usbBus and pciBus in the VM's section";
	if (strstr(text, "Permission denied") && strstr(text, "/dev/vfio"))
		return "; say in \"user =\" who QEMU runs as";
	if (strstr(text, "Cannot allocate memory"))
		return "; raise QEMU's limit of locked memory (RLIMIT_MEMLOCK) above the "
		       "guest's memory";
	return "";
}

static bool place_is_taken(const struct op *op, const char *text)
{
	if (op->device->kind == DEVICE_USB)
		return op->port > 0 && strstr(text, "not found (in use?)");
	return op->bus[0] &&
	       (strstr(text, "not available for") || strstr(text, "already occupied by"));
}

static bool is_wrong_speed(const struct op *op, const char *text)
{
	return op->device->kind == DEVICE_USB &&
	       startswith(text, "failed to open host usb device") &&
	       candidate_bus(op->qemu, op->first_bus + 1);
}

/* Tries the next port, or the way of an older QEMU. Returns false when OP is at its end. */
static bool attach_again(struct op *op)
{
	const char *text = op->result.detail;

	if (strstr(text, "Property 'usb-host.hostdevice' not found") && !op->qemu->no_hostdevice) {
		op->qemu->no_hostdevice = true;
	} else if (place_is_taken(op, text) && ++op->tries < MAX_PORT_TRIES) {
		/* It stays marked: somebody else's device is there. */
		if (!choose_place(op))
			return false;
	} else if (is_wrong_speed(op, text)) {
		/* QEMU says no more than this of a device that is too fast for the bus. */
		set_place(op->qemu, op->bus, op->port, false);
		op->first_bus++;
		if (!choose_port(op))
			return false;
	} else {
		return false;
	}
	op->result = (struct vmm_result){0};
	send_attach(op);
	return true;
}

static void step_attach(struct op *op)
{
	char detail[200];

	if (op->result.outcome == VMM_FAILED || op->result.outcome == VMM_GONE) {
		if (attach_again(op))
			return;
		snprintf(detail, sizeof(detail), "%s", op->result.detail);
		op->result.outcome = qemu_classify(detail);
		snprintf(op->result.detail, sizeof(op->result.detail), "QEMU: %s%s", detail,
			 advice(detail));
	}
	op_finish(op);
}

static void qemu_attach(struct vm *vm, struct device *device, int fd)
{
	struct qemu *qemu = vm->backend;
	char reason[300];
	int r = open_session(qemu, reason, sizeof(reason));
	struct op *op = op_new(qemu, OP_ATTACH, device, device->handle);

	if (!op) {
		struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};

		vm_attached(vm, device, &result);
		return;
	}
	if (r < 0) {
		set_result(op, VMM_RETRY,
			   *reason        ? reason
			   : r == -EAGAIN ? "the monitor is busy: several clients wait for it"
					  : strerror(-r));
		op_finish(op);
		return;
	}
	if (!choose_place(op)) {
		set_result(op, VMM_RETRY,
			   device->kind == DEVICE_USB
				   ? "the VM has no free USB port; give its controller more:"
				     " -device qemu-xhci,p2=15,p3=15"
				   : "the VM has no free PCIe port; give it more: -device "
				     "pcie-root-port");
		op_finish(op);
		/* Perhaps a port has become free behind our back: the next try will know. */
		vm_refresh(vm);
		return;
	}
	op->fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
	send_attach(op);
	if (!op->done)
		vm_attach_sent(vm, device);
}

/* Detach */

static void deleted_too_late(void *data)
{
	struct op *op = data;

	if (op->device && op->device->kind != DEVICE_USB)
		set_result(op, VMM_PENDING, "");
	else
		set_result(op, VMM_RETRY, "QEMU has not confirmed the removal (DEVICE_DELETED)");
	op_finish(op);
}

/* The request before this one is still with the guest. */
static bool is_unplugging(const char *text)
{
	return strstr(text, "in the process of unplug") || strstr(text, "guest is busy");
}

static void step_detach(struct op *op)
{
	bool pci = op->device && op->device->kind != DEVICE_USB;

	if (op->result.outcome == VMM_FAILED)
		op->result.outcome =
			pci && is_unplugging(op->result.detail) ? VMM_PENDING : VMM_RETRY;
	if (op->result.outcome != VMM_OK || op->deleted)
		op_finish(op);
	else
		loop_timer_start(op->qemu->vm->loop, &op->deadline,
				 pci ? PCI_DELETED_MS : DELETED_MS, deleted_too_late, op);
}

static void qemu_detach(struct vm *vm, struct device *device, const char *handle)
{
	struct qemu *qemu = vm->backend;
	char reason[300];
	int r = open_session(qemu, reason, sizeof(reason));
	struct op *op = op_new(qemu, OP_DETACH, device, handle);

	if (!op) {
		struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};

		vm_detached(vm, device, handle, &result);
		return;
	}
	if (r < 0) {
		set_result(op, VMM_RETRY, *reason ? reason : strerror(-r));
		op_finish(op);
		return;
	}
	op_command(op, "device_del", json_pack("{s:s}", "id", handle), plain_reply, op);
	op_flush(op, -1);
}

/* All replies of OP are in (or an event it waits for). */
static void op_step(struct op *op)
{
	if (op->done)
		return;
	switch (op->kind) {
	case OP_PROBE:
		op_finish(op);
		break;
	case OP_ATTACH:
		step_attach(op);
		break;
	case OP_DETACH:
		step_detach(op);
		break;
	}
}

static void qemu_reset(struct vm *vm)
{
	struct qemu *qemu = vm->backend;

	qemu->no_hostdevice = false;
	qemu->n_buses = qemu->n_ports = 0;
	qemu_drop_session(qemu, "the VM has ended");
}

static int qemu_init(struct vm *vm)
{
	struct qemu *qemu = calloc(1, sizeof(*qemu));

	if (!qemu)
		return -ENOMEM;
	qemu->vm = vm;
	/* Away from the small numbers that people and libvirt use. */
	qemu->next_fdset = 1000000 + (uint32_t) (now_realtime_ms() % 1000000000);
	vm->backend = qemu;
	return 0;
}

static void qemu_finish(struct vm *vm)
{
	struct qemu *qemu = vm->backend;

	qemu->qmp = qmp_close(qemu->qmp);
	loop_timer_stop(&qemu->busy);
	while (qemu->ops)
		unlink_op(qemu->ops);
	forget_handles(qemu);
	free(qemu);
	vm->backend = NULL;
}

const struct vmm vmm_qemu = {
	.init = qemu_init,
	.finish = qemu_finish,
	.probe = qemu_probe,
	.attach = qemu_attach,
	.detach = qemu_detach,
	.reset = qemu_reset,
	.dialled = qemu_dialled,
};
