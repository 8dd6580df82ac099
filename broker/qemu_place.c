/* Where in the guest a device is plugged in: an explicit free port, never left to chance. See
 * qemu.h. */
#include "broker/qemu.h"

#define SUPER_SPEED 5000 /* Mbit/s */

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
void qemu_set_place(struct qemu *qemu, const char *bus, unsigned port, bool used)
{
	if (port > 0)
		set_usb_port(qemu, bus, port, used);
	else
		set_pci_port(qemu, bus, used);
}

void qemu_note_place(struct qemu_op *op)
{
	struct device *device = op->base.device;

	kept_set(&device->place.bus, op->bus);
	device->place.port = op->port;
	if (op->port > 0)
		snprintf(op->base.result.detail, sizeof(op->base.result.detail), "on port %u of %s",
			 op->port, op->bus);
}

void qemu_forget_place(struct qemu_op *op)
{
	struct device *device = op->base.device;

	qemu_set_place(op->qemu, device->place.bus, device->place.port, false);
	device->place.port = 0;
}

void qemu_places_have_changed(struct qemu *qemu)
{
	for (struct op *op = qemu->ops.first; op; op = op->next)
		qemu_op_of(op)->stale = true;
}

/* The highest free port of BUS that is fast enough; QEMU itself starts from the lowest. 0:
 * none. */
static unsigned free_port(const struct qemu_usb_bus *bus, unsigned speed)
{
	unsigned last = speed >= SUPER_SPEED ? bus->ports_3 : bus->ports_2;

	for (unsigned port = last < 63 ? last : 63; port > 0; port--)
		if (!(bus->used & UINT64_C(1) << port))
			return port;
	return 0;
}

static struct qemu_usb_bus *find_bus(struct qemu *qemu, const char *name)
{
	for (size_t i = 0; i < qemu->n_buses; i++)
		if (streq(qemu->buses[i].name, name))
			return &qemu->buses[i];
	return NULL;
}

static bool try_bus(struct qemu_op *op, struct qemu_usb_bus *bus)
{
	bool counted = bus->ports_2 > 0 || bus->ports_3 > 0;
	unsigned port = counted ? free_port(bus, op->base.device->id.speed) : 0;

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
const char *qemu_candidate_bus(const struct qemu *qemu, size_t n)
{
	if (!qemu->usb_bus)
		return n < qemu->n_buses ? qemu->buses[n].name : NULL;
	for (size_t i = 0; i < n; i++)
		if (!qemu->usb_bus[i])
			return NULL;
	return qemu->usb_bus[n];
}

/* Chooses bus and port for OP, from its first_bus on. Ports of other than xHCI controllers are left
 * to QEMU, and those of a bus that the probe has not seen too. */
static bool choose_port(struct qemu_op *op)
{
	struct qemu *qemu = op->qemu;
	const char *name;

	op->bus[0] = 0;
	op->port = 0;
	for (; (name = qemu_candidate_bus(qemu, op->first_bus)); op->first_bus++) {
		struct qemu_usb_bus *bus = find_bus(qemu, name);

		if (!bus) {
			snprintf(op->bus, sizeof(op->bus), "%s", name);
			return true;
		}
		if (try_bus(op, bus))
			return true;
	}
	return op->first_bus == 0;
}

static bool try_pci_port(struct qemu_op *op, struct qemu_pci_port *port)
{
	if (port->used)
		return false;
	port->used = true;
	snprintf(op->bus, sizeof(op->bus), "%s", port->name);
	return true;
}

/* A free root port for OP: the config's in order, or any. A machine without such ports
 * takes the device on its root bus, if it can. */
static bool choose_pci_port(struct qemu_op *op)
{
	struct qemu *qemu = op->qemu;

	op->bus[0] = 0;
	op->port = 0;
	if (qemu->use_root_bus || (qemu->n_ports == 0 && !qemu->pci_bus))
		return true;
	for (char **name = qemu->pci_bus; name && *name; name++)
		for (size_t i = 0; i < qemu->n_ports; i++)
			if (streq(qemu->ports[i].name, *name) && try_pci_port(op, &qemu->ports[i]))
				return true;
	for (size_t i = 0; !qemu->pci_bus && i < qemu->n_ports; i++)
		if (try_pci_port(op, &qemu->ports[i]))
			return true;
	return false;
}

bool qemu_names_no_port(const struct qemu *qemu)
{
	for (char **name = qemu->pci_bus; name && *name; name++)
		for (size_t i = 0; i < qemu->n_ports; i++)
			if (streq(qemu->ports[i].name, *name))
				return false;
	return qemu->pci_bus != NULL;
}

bool qemu_choose_place(struct qemu_op *op)
{
	return op->base.device->id.kind == DEVICE_USB ? choose_port(op) : choose_pci_port(op);
}
