/* The parts of the QEMU backend among themselves: qemu_session.c (the connection), qemu_place.c
 * (free ports), qemu_cold.c (what it has had since its start), qemu_probe.c (what the guest has),
 * qemu_attach.c, vmm_qemu.c (detach, and what
 * vmm.h asks for). Everybody else uses vmm.h. A file calls those named before it; what comes next
 * for a request is in its op (op.h).
 *
 * A monitor serves one client at a time, so a connection is opened for a request, shared by all
 * that come meanwhile, and closed when the last one has been answered. An attach is one packet:
 * add-fd, device_add, remove-fd, with the descriptor on it; nobody waits for the greeting. For that
 * the guest's free ports are known beforehand, from a probe when the VM comes up.
 * Sources: QEMU, qapi/qdev.json, qapi/misc.json (add-fd), qapi/qom.json; hw/usb/host-libusb.c.
 */
#pragma once

#include <jansson.h>

#include "broker/device.h"
#include "broker/op.h"
#include "broker/qmp.h"
#include "broker/vm.h"
#include "broker/vmm_qemu.h"

#define QEMU_MAX_BUSES 16
#define QEMU_MAX_PCI_PORTS 64
#define QEMU_MAX_COLD 32
#define QEMU_BUSY_MS 2000 /* without a greeting for so long: somebody else holds the monitor */

enum qemu_op_kind {
	QEMU_PROBE,
	QEMU_ATTACH,
	QEMU_DETACH,
};

struct qemu;

/* One request: some commands, answered together. STEP is called when all replies are in, or an
 * event that it waits for. */
struct qemu_op {
	struct op base;
	struct qemu *qemu;
	enum qemu_op_kind kind;
	unsigned replies; /* still to come */
	/* attach */
	char bus[64];
	unsigned port;
	size_t first_bus; /* the candidates before it have no room, or are of the wrong speed */
	unsigned tries;
	/* probe */
	bool stale; /* something was attached or detached meanwhile */
	/* detach */
	bool deleted;
	bool is_asked; /* the guest, which may let go of it at any time from now on */
};

/* A USB bus of the guest, by the name QEMU gives it. */
struct qemu_usb_bus {
	struct qemu_op *op; /* the probe that fills it in */
	char name[64];
	char path[128];            /* of the controller in the QOM tree */
	unsigned rank;             /* of the controller: a faster kind has a higher one */
	unsigned ports_2, ports_3; /* xHCI: how many ports can do USB 2, USB 3; 0: not known */
	uint64_t used;             /* bit n: port n */
};

/* A PCIe port that takes one hot-plugged device. */
struct qemu_pci_port {
	struct qemu_op *op;
	char name[64];
	bool used;
};

/* What is asked of a device that somebody else has given it. */
enum qemu_cold_property {
	QEMU_COLD_BUS,
	QEMU_COLD_ADDRESS,
	QEMU_COLD_VENDOR,
	QEMU_COLD_PRODUCT,
	QEMU_COLD_ATTACHED,
	QEMU_COLD_PORT,
	QEMU_COLD_NODE,
	QEMU_COLD_HOST,
	QEMU_COLD_SYSFS,
	QEMU_COLD_EVDEV,
	QEMU_COLD_PROPERTIES,
};

struct qemu_cold {
	struct qemu_op *op;
	enum device_kind kind;
	char handle[96]; /* its id, or its QOM path where it has none */
	long numbers[QEMU_COLD_PROPERTIES];
	char texts[QEMU_COLD_PROPERTIES][96];
	struct qemu_cold_ask {
		struct qemu_cold *cold;
		unsigned property;
	} asks[QEMU_COLD_PROPERTIES];
};

struct qemu {
	struct vm *vm;
	char **usb_bus;    /* copy of the config's list, or NULL */
	char **pci_bus;    /* copy of the config's list, or NULL */
	bool use_root_bus; /* put PCI devices on the machine's root bus */
	struct qmp *qmp;
	struct loop_timer busy;
	bool busy_told;
	bool no_hostdevice; /* before QEMU 5.1 */
	struct op_queue ops;
	uint32_t next_fdset;
	struct qemu_usb_bus buses[QEMU_MAX_BUSES], found[QEMU_MAX_BUSES];
	size_t n_buses, n_found;
	struct qemu_pci_port ports[QEMU_MAX_PCI_PORTS], found_ports[QEMU_MAX_PCI_PORTS];
	size_t n_ports, n_found_ports;
	bool misses_room; /* something has left that was nobody knows where: a probe will find it */
	char **handles;   /* ours that it has, as the last probe saw them */
	size_t n_handles;
	struct qemu_cold *found_cold[QEMU_MAX_COLD]; /* made when one is found, and kept */
	size_t n_found_cold;
	bool is_paused; /* asked only where it matters to what it has had since its start */
};

/* What OP is the beginning of. */
static inline struct qemu_op *qemu_op_of(struct op *op)
{
	return (struct qemu_op *) op;
}

/* qemu_session.c */

/* Makes sure there is a connection to a monitor that may be trusted. Returns 0 or -errno, with the
 * reason in REASON where errno does not say it. */
int qemu_open_session(struct qemu *qemu, char *reason, size_t size) _must_check_;
/* Ends OP, for which there is no connection: R and REASON are qemu_open_session's. */
void qemu_op_unreachable(struct qemu_op *op, int r, const char *reason);
/* Ends the connection and, for now, everything that goes over it. */
void qemu_drop_session(struct qemu *qemu, const char *why);
/* QEMU has dialled in: takes over FD and returns 0, or -errno. */
int qemu_dialled(struct vm *vm, int fd) _must_check_;
/* OPS is empty: lets other clients have the monitor. */
void qemu_close_session(struct op_queue *ops);
/* Queues a command of OP's with ARGUMENTS (taken over); FN must call qemu_op_reply first and
 * qemu_op_continue last. A command that can't be queued is answered as if the connection were down.
 */
void qemu_op_command(struct qemu_op *op, const char *command, json_t *arguments, qmp_reply_fn fn,
		     void *data);
/* Books one reply; remembers the first error. Returns false when it was one, or OP is done already:
 * then there is nothing to be taken from REPLY. */
bool qemu_op_reply(struct qemu_op *op, const json_t *reply, const char *error_class,
		   const char *text);
/* Takes OP's next step if all its replies are in. */
void qemu_op_continue(struct qemu_op *op);
/* A reply of which only success or failure counts; DATA is the op. */
void qemu_plain_reply(void *data, const json_t *reply, const char *error_class, const char *text);
/* Sends what is queued, with FD (or -1). */
void qemu_op_flush(struct qemu_op *op, int fd);

/* qemu_place.c */

/* Marks a place as used or free: a port of the USB bus BUS, or with PORT 0 the PCIe port BUS. */
void qemu_set_place(struct qemu *qemu, const char *bus, unsigned port, bool used);
/* Notes in OP's device where it is; marks that as free again. */
void qemu_note_place(struct qemu_op *op);
void qemu_forget_place(struct qemu_op *op);
/* What a probe has heard so far may be from before a change. */
void qemu_places_have_changed(struct qemu *qemu);
/* Are there names in pciBus, and none of them is a port of the VM? */
bool qemu_names_no_port(const struct qemu *qemu);
/* Chooses a free place for OP's device and marks it. Returns false when there is none. */
bool qemu_choose_place(struct qemu_op *op);
/* The name of the Nth USB bus that a device may go to: the config's in order, or all there are.
 * NULL: no more. */
const char *qemu_candidate_bus(const struct qemu *qemu, size_t n);

/* qemu_cold.c */

/* Asks what NAME below PARENT in the QOM tree is, if its TYPE is one of a device of the host.
 * Returns false when it is not. Nothing is sent yet. */
bool qemu_cold_ask(struct qemu_op *op, const char *parent, const char *name, const char *type);
/* All has been answered: fills the VM's list. */
void qemu_cold_note(struct qemu *qemu);

/* qemu_probe.c */

void qemu_probe(struct vm *vm);
void qemu_forget_handles(struct qemu *qemu);

/* qemu_attach.c */

void qemu_attach(struct vm *vm, struct device *device, int fd);
