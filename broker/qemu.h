/* The parts of the QEMU backend among themselves: vmm_qemu.c (requests and their ends),
 * qemu_session.c (the connection), qemu_probe.c (what the guest has), qemu_place.c (free ports),
 * qemu_attach.c. Everybody else uses vmm.h.
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
#include "broker/qmp.h"
#include "broker/vm.h"
#include "broker/vmm_qemu.h"

#define QEMU_MAX_BUSES 16
#define QEMU_MAX_PCI_PORTS 64
#define QEMU_MAX_HANDLES 256
#define QEMU_BUSY_MS 2000 /* without a greeting for so long: somebody else holds the monitor */

enum qemu_op_kind {
	QEMU_PROBE,
	QEMU_ATTACH,
	QEMU_DETACH,
};

struct qemu;

/* One request of the manager's: some commands, answered together. Its memory outlives the pass in
 * which it is done, because replies to its commands may still be on their way up. */
struct qemu_op {
	struct qemu_op *next;
	struct loop_garbage garbage;
	struct qemu *qemu;
	enum qemu_op_kind kind;
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
	/* probe */
	bool stale; /* something was attached or detached meanwhile */
	/* detach */
	bool deleted;
};

/* A USB bus of the guest, by the name QEMU gives it. */
struct qemu_usb_bus {
	struct qemu_op *op; /* the probe that fills it in */
	char name[64];
	char path[128];            /* of the controller in the QOM tree */
	unsigned ports_2, ports_3; /* xHCI: how many ports can do USB 2, USB 3; 0: not known */
	uint64_t used;             /* bit n: port n */
};

/* A PCIe port that takes one hot-plugged device. */
struct qemu_pci_port {
	struct qemu_op *op;
	char name[64];
	bool used;
};

struct qemu {
	struct vm *vm;
	struct qmp *qmp;
	struct loop_timer busy;
	bool busy_told;
	bool no_hostdevice; /* before QEMU 5.1 */
	struct qemu_op *ops;
	uint32_t next_fdset;
	struct qemu_usb_bus buses[QEMU_MAX_BUSES], found[QEMU_MAX_BUSES];
	size_t n_buses, n_found;
	struct qemu_pci_port ports[QEMU_MAX_PCI_PORTS], found_ports[QEMU_MAX_PCI_PORTS];
	size_t n_ports, n_found_ports;
	char *handles[QEMU_MAX_HANDLES];
	size_t n_handles;
};

/* vmm_qemu.c */

/* A new request, last in the list. Returns NULL when out of memory. */
struct qemu_op *qemu_op_new(struct qemu *qemu, enum qemu_op_kind kind, struct device *device,
			    const char *handle);
void qemu_op_set_result(struct qemu_op *op, enum vmm_outcome outcome, const char *detail);
/* Takes OP out of the list, without an answer. Its memory stays until the end of the pass. */
void qemu_op_unlink(struct qemu_op *op);
/* Ends OP with its result: answers the manager. Does nothing for one that is done. */
void qemu_op_finish(struct qemu_op *op);
/* All replies of OP are in (or an event it waits for): its next step. */
void qemu_op_step(struct qemu_op *op);

/* qemu_session.c */

extern const struct qmp_handler qemu_session_handler;
/* Makes sure there is a connection to a monitor that may be trusted. Returns 0 or -errno, with the
 * reason in REASON where errno does not say it. */
int qemu_open_session(struct qemu *qemu, char *reason, size_t size) _must_check_;
/* Ends the connection and, for now, everything that goes over it. */
void qemu_drop_session(struct qemu *qemu, const char *why);
/* Lets other clients have the monitor when no request is left. */
void qemu_close_when_idle(struct qemu *qemu);
/* The timer's function: no greeting for QEMU_BUSY_MS. */
void qemu_session_busy(void *data);
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

/* qemu_probe.c */

void qemu_probe(struct vm *vm);
void qemu_finish_probe(struct qemu_op *op);
void qemu_forget_handles(struct qemu *qemu);

/* qemu_place.c */

/* Marks a place as used or free: a port of the USB bus BUS, or with PORT 0 the PCIe port BUS. */
void qemu_set_place(struct qemu *qemu, const char *bus, unsigned port, bool used);
/* Notes in OP's device where it is; marks that as free again. */
void qemu_note_place(struct qemu_op *op);
void qemu_forget_place(struct qemu_op *op);
/* Chooses a free place for OP's device and marks it. Returns false when there is none. */
bool qemu_choose_place(struct qemu_op *op);
/* The name of the Nth USB bus that a device may go to: the config's in order, or all there are.
 * NULL: no more. */
const char *qemu_candidate_bus(const struct qemu *qemu, size_t n);

/* qemu_attach.c */

void qemu_attach(struct vm *vm, struct device *device, int fd);
void qemu_step_attach(struct qemu_op *op);
