/* The attach: one packet, and what QEMU's errors mean. See qemu.h. */
#include "broker/qemu.h"

#include <fcntl.h>

#include "broker/confinement.h"
#include "helper/text.h"

#define MAX_PORT_TRIES 40   /* places found taken before giving up for now */
#define FDSET "/dev/fdset/" /* and its number: a descriptor that QEMU was passed */
#define ASKED_MS 200        /* what a probe takes */
/* A port without an id can't be named; two of one chassis and slot QEMU refuses. */
#define ONE_MORE_PORT "-device pcie-root-port,id=rp9,chassis=9,slot=9"

static json_t *pci_arguments(const struct qemu_op *op)
{
	const struct device *device = op->base.device;
	bool vfio = device->id.kind == DEVICE_PCI;
	json_t *arguments =
		json_pack("{s:s, s:s, s:s}", "driver", vfio ? "vfio-pci" : "virtio-input-host-pci",
			  "id", op->base.handle, vfio ? "host" : "evdev",
			  vfio ? device->id.kernel_name : device->id.node);

	if (arguments && op->bus[0]) {
		json_object_set_new(arguments, "bus", json_string(op->bus));
		/* Without it QEMU puts a second device where the guest never looks. */
		json_object_set_new(arguments, "addr", json_string("0"));
	}
	return arguments;
}

static json_t *device_arguments(struct qemu_op *op, uint32_t fdset)
{
	char path[64];
	unsigned bus = 0, address = 0;
	json_t *arguments = json_pack("{s:s, s:s}", "driver", "usb-host", "id", op->base.handle);

	if (!arguments)
		return NULL;
	if (op->qemu->no_hostdevice) {
		sscanf(op->base.device->id.node, "/dev/bus/usb/%u/%u", &bus, &address);
		json_object_set_new(arguments, "hostbus", json_integer(bus));
		json_object_set_new(arguments, "hostaddr", json_integer(address));
	} else {
		snprintf(path, sizeof(path), FDSET "%u", fdset);
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
static void send_attach(struct qemu_op *op)
{
	struct qemu *qemu = op->qemu;
	uint32_t fdset = qemu->next_fdset;

	if (op->base.device->id.kind != DEVICE_USB) {
		qemu_op_command(op, "device_add", pci_arguments(op), qemu_plain_reply, op);
		qemu_op_flush(op, -1);
		return;
	}

	/* QEMU takes ids up to INT32_MAX; one is never used twice in a row. */
	qemu->next_fdset = fdset < INT32_MAX ? fdset + 1 : 1;
	qemu_op_command(op, "add-fd",
			json_pack("{s:i, s:s}", "fdset-id", (int) fdset, "opaque",
				  op->base.device->id.node),
			qemu_plain_reply, op);
	qemu_op_command(op, "device_add", device_arguments(op, fdset), qemu_plain_reply, op);
	qemu_op_command(op, "remove-fd", json_pack("{s:i}", "fdset-id", (int) fdset),
			qemu_plain_reply, op);
	qemu_op_flush(op, op->base.fd);
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

/* What a person can do about an error of device_add; "" where nothing is known. */
static void add_advice(const struct qemu_op *op, const char *text, char *ret, size_t size)
{
	static const struct {
		const char *part, *advice;
	} known[] = {
		{"not a valid device model",
		 "; install QEMU's USB module (Debian: qemu-system-common)"},
		{"' bus found for device",
		 "; give the VM a USB controller: -device qemu-xhci,p2=15,p3=15"},
		{"does not support hotplugging",
		 "; give the VM ports to plug into: -device pcie-root-port,id=rp1"},
		{"Property '", "; use another version of QEMU: this one lacks what is needed"},
		{"Bus '", "; check usbBus and pciBus in the VM's section"},
		{"Cannot allocate memory", "; raise QEMU's limit of locked memory "
					   "(RLIMIT_MEMLOCK) above the guest's memory"},
	};

	*ret = 0;
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (strstr(text, known[i].part)) {
			snprintf(ret, size, "%s", known[i].advice);
			return;
		}
	confinement_explain(&op->qemu->vm->peer, text, ret, size);
}

/* Puts a copy of QEMU's TEXT into TO, with the device's node for the descriptor that QEMU had: its
 * number says nothing to a person, and is another one with each try, so that each would be news. */
static void name_node(const struct qemu_op *op, const char *text, char *to, size_t size)
{
	const char *set = strstr(text, FDSET);
	int before = set ? (int) (set - text) : (int) strlen(text);
	const char *rest = set ? set + strlen(FDSET) : "";

	text_words(to, size, "%.*s%s%s", before, text, set ? op->base.device->id.node : "",
		   rest + strspn(rest, "0123456789"));
}

/* QEMU's words with what can be done: that is never what has no room. */
static void say_error(struct qemu_op *op, const char *said)
{
	char advice[300], whole[sizeof(op->base.result.detail)], text[sizeof(whole)];

	name_node(op, said, text, sizeof(text));
	add_advice(op, text, advice, sizeof(advice));
	int room = (int) (sizeof(whole) - sizeof("QEMU: ") - strlen(advice));
	snprintf(whole, sizeof(whole), "QEMU: %.*s%s", room > 0 ? room : 0, text, advice);
	op_set_result(&op->base, op->base.result.outcome, whole);
}

static bool place_is_taken(const struct qemu_op *op, const char *text)
{
	if (op->base.device->id.kind == DEVICE_USB)
		return op->port > 0 && strstr(text, "not found (in use?)");
	return op->bus[0] &&
	       (strstr(text, "not available for") || strstr(text, "already occupied by"));
}

static bool is_wrong_speed(const struct qemu_op *op, const char *text)
{
	return op->base.device->id.kind == DEVICE_USB &&
	       startswith(text, "failed to open host usb device") &&
	       qemu_candidate_bus(op->qemu, op->first_bus + 1);
}

/* Tries the next port, or the way of an older QEMU. Returns false when OP is at its end. */
static bool attach_again(struct qemu_op *op)
{
	const char *text = op->base.result.detail;

	if (strstr(text, "Property 'usb-host.hostdevice' not found") && !op->qemu->no_hostdevice) {
		op->qemu->no_hostdevice = true;
	} else if (place_is_taken(op, text) && ++op->tries < MAX_PORT_TRIES) {
		/* It stays marked: somebody else's device is there. */
		if (!qemu_choose_place(op))
			return false;
	} else if (is_wrong_speed(op, text)) {
		/* QEMU says no more than this of a device that is too fast for the bus. */
		qemu_set_place(op->qemu, op->bus, op->port, false);
		op->first_bus++;
		if (!qemu_choose_place(op))
			return false;
	} else {
		return false;
	}
	op->base.result = (struct vmm_result){0};
	send_attach(op);
	return true;
}

static void step_attach(struct op *base)
{
	struct qemu_op *op = qemu_op_of(base);
	char detail[sizeof(op->base.result.detail)];

	if (op->base.result.outcome == VMM_FAILED || op->base.result.outcome == VMM_GONE) {
		if (attach_again(op))
			return;
		snprintf(detail, sizeof(detail), "%s", op->base.result.detail);
		op->base.result.outcome = qemu_classify(detail);
		/* There already, but where is not known. */
		if (op->base.result.outcome == VMM_OK) {
			qemu_set_place(op->qemu, op->bus, op->port, false);
			op->bus[0] = 0;
			op->port = 0;
		}
		say_error(op, detail);
	}
	op_finish(&op->base);
}

static void end_attach(struct op *base)
{
	struct qemu_op *op = qemu_op_of(base);
	struct qemu *qemu = op->qemu;

	if (base->result.outcome == VMM_OK)
		qemu_note_place(op);
	else
		qemu_set_place(qemu, op->bus, op->port, false);
	qemu_places_have_changed(qemu);
	vm_attached(qemu->vm, base->device, &base->result);
	/* Somebody at the monitor may have given it the device: the next try will know. */
	if (base->result.outcome == VMM_RETRY)
		vm_refresh(qemu->vm);
}

static const char *no_room_text(const struct qemu_op *op)
{
	if (op->base.device->id.kind == DEVICE_USB)
		return "the VM has no free USB port; give its controller more: -device "
		       "qemu-xhci,p2=15,p3=15";
	if (op->qemu->pci_bus)
		return "the VM has no free PCIe port in pciBus; give it more, and name them "
		       "there: " ONE_MORE_PORT;
	return "the VM has no free PCIe port; give it more: " ONE_MORE_PORT;
}

/* A move ends where there is no room, so that must be known: until the probe has been answered it
 * is only put off. */
static void say_no_room(struct qemu_op *op)
{
	struct vmm_result *result = &op->base.result;

	if (op->qemu->misses_room) {
		op_set_result(&op->base, VMM_RETRY,
			      "the VM is being asked which of its ports are free");
		result->delay_ms = ASKED_MS;
	} else if (op->base.device->id.kind != DEVICE_USB && qemu_names_no_port(op->qemu)) {
		op_set_result(&op->base, VMM_FAILED,
			      "pciBus names no PCIe port of the VM; correct it, or start the VM "
			      "with a port of that id: " ONE_MORE_PORT);
	} else {
		op_set_result(&op->base, VMM_RETRY, no_room_text(op));
		result->is_full = true;
	}
}

void qemu_attach(struct vm *vm, struct device *device, int fd)
{
	struct qemu *qemu = vm->backend;
	char reason[300];
	struct qemu_op *op = op_new(&qemu->ops, sizeof(*op), step_attach, end_attach, device,
				    device->place.handle);

	if (!op) {
		struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};

		vm_attached(vm, device, &result);
		return;
	}
	op->qemu = qemu;
	op->kind = QEMU_ATTACH;
	int r = qemu_open_session(qemu, reason, sizeof(reason));
	if (op->base.is_done)
		return; /* another process was found, and everything was answered */
	if (r < 0) {
		qemu_op_unreachable(op, r, reason);
		return;
	}
	if (!qemu_choose_place(op)) {
		say_no_room(op);
		op_finish(&op->base);
		/* Perhaps a port has become free behind our back: the next try will know. */
		vm_refresh(vm);
		return;
	}
	op->base.fd = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
	send_attach(op);
	if (!op->base.is_done)
		vm_attach_sent(vm, device);
}
