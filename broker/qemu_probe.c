/* What a VM has: our handles, its USB buses and PCIe ports, read from the QOM tree. See qemu.h. */
#include "broker/qemu.h"

void qemu_forget_handles(struct qemu *qemu)
{
	while (qemu->n_handles > 0)
		free(qemu->handles[--qemu->n_handles]);
	free(TAKE_PTR(qemu->handles));
}

/* Returns 0 or -ENOMEM. */
static int keep_handle(struct qemu *qemu, const char *name)
{
	char **handles = reallocarray(qemu->handles, qemu->n_handles + 1, sizeof(*handles));

	if (!handles)
		return -ENOMEM;
	qemu->handles = handles;
	handles[qemu->n_handles] = strdup(name);
	if (!handles[qemu->n_handles])
		return -ENOMEM;
	qemu->n_handles++;
	return 0;
}

/* Probe: our handles, and the USB buses with their ports */

static void probe_port_reply(void *data, const json_t *reply, const char *error_class,
			     const char *text)
{
	struct qemu_usb_bus *bus = data;
	struct qemu_op *op = bus->op;

	if (qemu_op_reply(op, reply, error_class, text)) {
		/* "" for a device that QEMU put somewhere itself; that port is found by
		 * trying. */
		long port =
			strtol(json_string_value(reply) ? json_string_value(reply) : "", NULL, 10);

		if (port > 0 && port < 64)
			bus->used |= UINT64_C(1) << port;
	}
	qemu_op_continue(op);
}

static void probe_children_reply(void *data, const json_t *reply, const char *error_class,
				 const char *text)
{
	struct qemu_usb_bus *bus = data;
	struct qemu_op *op = bus->op;
	size_t i;
	json_t *entry;

	if (qemu_op_reply(op, reply, error_class, text)) {
		json_array_foreach((json_t *) reply, i, entry)
		{
			const char *name = json_string_value(json_object_get(entry, "name"));
			char path[300];

			if (!name || !startswith(name, "child["))
				continue;
			snprintf(path, sizeof(path), "%s/%s/%s", bus->path, bus->name, name);
			qemu_op_command(op, "qom-get",
					json_pack("{s:s, s:s}", "path", path, "property", "port"),
					probe_port_reply, bus);
		}
		qemu_op_flush(op, -1);
	}
	qemu_op_continue(op);
}

static void probe_ports_2_reply(void *data, const json_t *reply, const char *error_class,
				const char *text)
{
	struct qemu_usb_bus *bus = data;

	if (qemu_op_reply(bus->op, reply, error_class, text))
		bus->ports_2 = (unsigned) json_integer_value(reply);
	qemu_op_continue(bus->op);
}

static void probe_ports_3_reply(void *data, const json_t *reply, const char *error_class,
				const char *text)
{
	struct qemu_usb_bus *bus = data;

	if (qemu_op_reply(bus->op, reply, error_class, text))
		bus->ports_3 = (unsigned) json_integer_value(reply);
	qemu_op_continue(bus->op);
}

static void probe_controller_reply(void *data, const json_t *reply, const char *error_class,
				   const char *text)
{
	struct qemu_usb_bus *bus = data;
	struct qemu_op *op = bus->op;
	size_t i;
	json_t *entry;

	if (qemu_op_reply(op, reply, error_class, text)) {
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
			qemu_op_command(op, "qom-list", json_pack("{s:s}", "path", path),
					probe_children_reply, bus);
			qemu_op_flush(op, -1);
		}
	}
	qemu_op_continue(op);
}

/* 0: it is no USB controller. */
static unsigned rank_controller(const char *type)
{
	static const char *const kinds[] = {"ohci", "uhci", "ehci", "xhci"};
	unsigned rank = ARRAY_SIZE(kinds);

	while (rank > 0 && !strstr(type, kinds[rank - 1]))
		rank--;
	return rank;
}

static void probe_controller(struct qemu_op *op, const char *parent, const char *name,
			     const char *type)
{
	struct qemu *qemu = op->qemu;

	if (qemu->n_found >= QEMU_MAX_BUSES)
		return;
	struct qemu_usb_bus *bus = &qemu->found[qemu->n_found++];
	*bus = (struct qemu_usb_bus){.op = op, .rank = rank_controller(type)};
	snprintf(bus->path, sizeof(bus->path), "%s/%s", parent, name);
	qemu_op_command(op, "qom-list", json_pack("{s:s}", "path", bus->path),
			probe_controller_reply, bus);
	if (!strstr(type, "xhci"))
		return;
	qemu_op_command(op, "qom-get", json_pack("{s:s, s:s}", "path", bus->path, "property", "p2"),
			probe_ports_2_reply, bus);
	qemu_op_command(op, "qom-get", json_pack("{s:s, s:s}", "path", bus->path, "property", "p3"),
			probe_ports_3_reply, bus);
}

static void probe_hotplug_reply(void *data, const json_t *reply, const char *error_class,
				const char *text)
{
	struct qemu_pci_port *port = data;

	if (qemu_op_reply(port->op, reply, error_class, text) && json_is_false(reply))
		port->used = true;
	qemu_op_continue(port->op);
}

static void probe_port_children_reply(void *data, const json_t *reply, const char *error_class,
				      const char *text)
{
	struct qemu_pci_port *port = data;
	size_t i;
	json_t *entry;

	if (qemu_op_reply(port->op, reply, error_class, text))
		json_array_foreach((json_t *) reply, i, entry)
		{
			const char *name = json_string_value(json_object_get(entry, "name"));

			if (name && startswith(name, "child["))
				port->used = true;
		}
	qemu_op_continue(port->op);
}

/* query-pci does not know what is behind a port before firmware has run; QOM always does.
 * The bus of a port is called like the port. */
static void probe_pci_port(struct qemu_op *op, const char *name)
{
	struct qemu *qemu = op->qemu;
	char path[200];

	if (qemu->n_found_ports >= QEMU_MAX_PCI_PORTS)
		return;
	struct qemu_pci_port *port = &qemu->found_ports[qemu->n_found_ports++];
	*port = (struct qemu_pci_port){.op = op};
	snprintf(port->name, sizeof(port->name), "%s", name);
	snprintf(path, sizeof(path), "/machine/peripheral/%s", name);
	qemu_op_command(op, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", "hotplug"),
			probe_hotplug_reply, port);
	snprintf(path, sizeof(path), "/machine/peripheral/%s/%s", name, name);
	qemu_op_command(op, "qom-list", json_pack("{s:s}", "path", path), probe_port_children_reply,
			port);
}

static bool is_pci_port(const char *type)
{
	return strstr(type, "pcie-root-port") || strstr(type, "ioh3420") ||
	       strstr(type, "xio3130-downstream");
}

/* Has the broker attached what is called NAME? What "vmm-args" has named was there at the VM's
 * start. */
static bool is_handle(const char *name)
{
	const char *rest = startswith(name, QEMU_HANDLE_PREFIX);

	return rest && !startswith(rest, "pci-") && !startswith(rest, "evdev-");
}

static void probe_devices(struct qemu_op *op, const char *parent, const json_t *reply)
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
		if (is_handle(name)) {
			/* One that is not named would be taken for gone. */
			if (keep_handle(qemu, name) < 0)
				op_set_result(&op->base, VMM_RETRY, strerror(ENOMEM));
		} else if (qemu_cold_ask(op, parent, name, type)) {
			continue;
		} else if (rank_controller(type) > 0) {
			probe_controller(op, parent, name, type);
		} else if (is_pci_port(type) && streq(parent, "/machine/peripheral")) {
			probe_pci_port(op, name);
		}
	}
	qemu_op_flush(op, -1);
}

static void probe_named_reply(void *data, const json_t *reply, const char *error_class,
			      const char *text)
{
	struct qemu_op *op = data;

	if (qemu_op_reply(op, reply, error_class, text))
		probe_devices(op, "/machine/peripheral", reply);
	else if (!op->base.is_done)
		op_set_result(&op->base, VMM_RETRY, text);
	qemu_op_continue(op);
}

static void probe_nameless_reply(void *data, const json_t *reply, const char *error_class,
				 const char *text)
{
	struct qemu_op *op = data;

	if (qemu_op_reply(op, reply, error_class, text))
		probe_devices(op, "/machine/peripheral-anon", reply);
	qemu_op_continue(op);
}

static void probe_objects_reply(void *data, const json_t *reply, const char *error_class,
				const char *text)
{
	struct qemu_op *op = data;

	if (qemu_op_reply(op, reply, error_class, text))
		probe_devices(op, "/objects", reply);
	qemu_op_continue(op);
}

static int compare_buses(const void *a, const void *b)
{
	const struct qemu_usb_bus *x = a, *y = b;

	return x->rank != y->rank ? (x->rank < y->rank ? 1 : -1) : strcmp(x->name, y->name);
}

/* QEMU lists them in no order at all, and lets a stick run at a hundredth of its speed where there
 * is no better port: the fastest kind comes first. */
static void note_buses(struct qemu *qemu)
{
	memcpy(qemu->buses, qemu->found, sizeof(qemu->buses));
	qemu->n_buses = qemu->n_found;
	qsort(qemu->buses, qemu->n_buses, sizeof(qemu->buses[0]), compare_buses);
}

static void end_probe(struct op *base)
{
	struct qemu_op *op = qemu_op_of(base);
	struct qemu *qemu = op->qemu;

	if (op->base.result.outcome != VMM_OK) {
		vm_probed(qemu->vm, -ECONNRESET, op->base.result.detail, NULL, 0);
		return;
	}
	if (op->stale) {
		qemu_probe(qemu->vm);
		return;
	}
	note_buses(qemu);
	memcpy(qemu->ports, qemu->found_ports, sizeof(qemu->ports));
	qemu->n_ports = qemu->n_found_ports;
	qemu->misses_room = false;
	qemu_cold_note(qemu);
	/* What is being attached right now may not have been there when QEMU was asked. */
	for (struct op *other = qemu->ops.first; other; other = other->next)
		if (qemu_op_of(other)->kind == QEMU_ATTACH)
			qemu_set_place(qemu, qemu_op_of(other)->bus, qemu_op_of(other)->port, true);
	vm_probed(qemu->vm, 0, "", qemu->handles, qemu->n_handles);
}

void qemu_probe(struct vm *vm)
{
	struct qemu *qemu = vm->backend;
	char reason[300];
	int r = qemu_open_session(qemu, reason, sizeof(reason));
	struct qemu_op *op =
		r == 0 ? op_new(&qemu->ops, sizeof(*op), op_finish, end_probe, NULL, "") : NULL;

	if (!op) {
		vm_probed(vm, r < 0 ? r : -ENOMEM, reason, NULL, 0);
		return;
	}
	op->qemu = qemu;
	op->kind = QEMU_PROBE;
	qemu->n_found = qemu->n_found_ports = qemu->n_found_cold = 0;
	qemu->is_paused = false;
	qemu_forget_handles(qemu);
	qemu_op_command(op, "qom-list", json_pack("{s:s}", "path", "/machine/peripheral"),
			probe_named_reply, op);
	qemu_op_command(op, "qom-list", json_pack("{s:s}", "path", "/machine/peripheral-anon"),
			probe_nameless_reply, op);
	qemu_op_command(op, "qom-list", json_pack("{s:s}", "path", "/objects"), probe_objects_reply,
			op);
	qemu_op_flush(op, -1);
}
