/* The parts of the crosvm backend among themselves, as far as USB goes: crosvm_session.c (the
 * connection), crosvm_ports.c (what is on the ports, and whose it is), crosvm_usb.c (attach and
 * detach), vmm_crosvm.c (what vmm.h asks for). A file calls those named before it; what comes next
 * for a request is in its op (op.h). PCI devices are crosvm_vfio.h's and crosvm_functions.h's.
 *
 * The port that crosvm answers is the only name a device has in it, and it is given to the next
 * device once it is free. So the handle on record is the port with the device's ids and the
 * crosvm process ("crosvm-9-046d:c52b@4711.12345"), and it is compared with crosvm's own list
 * before it is used. While an attach is under way, the handle says which ports were taken before
 * it ("crosvm-after-0003-…"): whatever happens to the broker meanwhile, a port that the attach has
 * taken can be found and freed. Ports that are not on record are somebody else's.
 *
 * Requests go out one at a time for each VM, because what a new port means is known only then. A
 * crosvm that does not answer keeps its own devices waiting and no others.
 * Sources: crosvm, devices/src/usb/backend/device_provider.rs (what is answered when),
 * devices/src/usb/xhci/usb_hub.rs (ports; the guest without driver), vm_control/src/lib.rs.
 */
#pragma once

#include "broker/crosvm_functions.h"
#include "broker/crosvm_socket.h"
#include "broker/crosvm_start.h"
#include "broker/crosvm_vfio.h"
#include "broker/device.h"
#include "broker/op.h"
#include "broker/vm.h"
#include "broker/vmm_crosvm.h"

/* An attach that may have taken a port without our knowing which. */
struct crosvm_doubt {
	bool set;
	unsigned before; /* bit n: port n was taken before it */
	unsigned vendor, product;
};

struct crosvm {
	struct vm *vm;
	struct crosvm_vfio *vfio;
	struct crosvm_functions functions;
	struct crosvm_cards cards;
	struct op_queue ops; /* serial; the first one is under way */
	struct crosvm_doubt doubt;

	/* crosvm_session.c */
	int fd;
	struct loop_source *source;
	struct loop_timer deadline; /* of the answer that is waited for */
	uint64_t asked;             /* ms, monotonic */
	bool is_silent;             /* and a person has been told */
	bool is_pinged;             /* a list was sent after the unanswered request */
	unsigned n_owed;            /* lists that will be answered, and whose answer nobody wants */
	unsigned n_pushes;

	unsigned n_dead; /* time-outs of its USB controller without an answer in between */

	/* A guest without USB driver. */
	unsigned n_not_ready;
	uint64_t not_before; /* ms, monotonic: no attach until then */
};

struct crosvm_op;
typedef void (*crosvm_answer_fn)(struct crosvm_op *op, const struct crosvm_reply *reply);

struct crosvm_op {
	struct op base;
	struct crosvm *crosvm;
	/* What was asked last: NULL for nothing yet. */
	crosvm_answer_fn answered;
	bool wants_list;
	crosvm_answer_fn
		ignored; /* crosvm will never answer it; the reply is a list. May be NULL */
	/* crosvm_ask_ports */
	crosvm_answer_fn listed;
	enum vmm_outcome without_usb; /* what it comes to in a crosvm that has no USB; VMM_OK: goes
				       * on with an empty list */
	enum vmm_outcome when_dead;   /* … whose USB controller has died */
	unsigned freeing;             /* the port that is taken back */
	/* probe */
	int error; /* why crosvm could not be asked, or 0 */
	struct crosvm_reply list;
	/* attach */
	bool is_sent;
	bool no_port; /* … and was answered by NoAvailablePort */
};

/* What OP is the beginning of. */
static inline struct crosvm_op *crosvm_op_of(struct op *op)
{
	return (struct crosvm_op *) op;
}

/* crosvm_session.c */

/* Makes sure there is a connection to a crosvm that may be trusted. Returns 0, or -errno with the
 * reason in REASON where errno does not say it; OP may have ended then. */
int crosvm_open_session(struct crosvm *crosvm, char *reason, size_t size) _must_check_;
void crosvm_close_session(struct crosvm *crosvm);
/* OPS is empty: no connection is needed. */
void crosvm_session_is_idle(struct op_queue *ops);
/* Asks something for OP, the first in the queue: ANSWERED gets the answer. A connection that breaks
 * ends OP with VMM_RETRY. */
void crosvm_ask_list(struct crosvm_op *op, crosvm_answer_fn answered);
void crosvm_ask_attach(struct crosvm_op *op, crosvm_answer_fn answered);
void crosvm_ask_detach(struct crosvm_op *op, unsigned port, crosvm_answer_fn answered);
/* Has crosvm's USB controller died? It does when the guest starts its driver while a device is on a
 * port; nothing but another VM process mends that, and each request would keep crosvm for two
 * seconds. */
bool crosvm_is_dead(const struct crosvm *crosvm);
void crosvm_describe_dead(const struct crosvm *crosvm, char *ret_text, size_t size);

/* crosvm_ports.c */

void crosvm_make_handle(const struct crosvm *crosvm, char *handle, size_t size, unsigned port,
			unsigned vendor, unsigned product);
void crosvm_make_doubtful_handle(const struct crosvm *crosvm, char *handle, size_t size);
/* The port that HANDLE stands for, if LIST still has its device there; else 0. */
unsigned crosvm_find_port(const struct crosvm *crosvm, const char *handle,
			  const struct crosvm_reply *list);
/* Ports that were empty before the attach in doubt and have a device of its kind now. Returns how
 * many, and the last of them. */
unsigned crosvm_find_taken(const struct crosvm_doubt *doubt, const struct crosvm_reply *list,
			   unsigned *ret_port);
/* Empties PORT, which an attach has left taken: ANSWERED gets the answer. */
void crosvm_ask_free(struct crosvm_op *op, unsigned port, crosvm_answer_fn answered);
/* Connects and asks what is on the ports; OP->listed gets the list once nothing is in doubt any
 * more, an attach of a former broker's included. Ends OP where that can't be had. */
void crosvm_ask_ports(struct crosvm_op *op);

/* crosvm_usb.c */

void crosvm_usb_attach(struct crosvm *crosvm, struct device *device, int fd);
void crosvm_usb_detach(struct crosvm *crosvm, struct device *device, const char *handle);
