/* What is on crosvm's ports, and whose it is: see crosvm.h. */
#include "broker/crosvm.h"

#include "broker/log.h"
#include "helper/text.h"

/* Handles */

void crosvm_make_handle(const struct crosvm *crosvm, char *handle, size_t size, unsigned port,
			unsigned vendor, unsigned product)
{
	const struct peer *peer = &crosvm->vm->peer;

	snprintf(handle, size, "crosvm-%u-%04x:%04x@%d.%llu", port, vendor, product,
		 (int) peer->pid, (unsigned long long) peer->start_time);
}

void crosvm_make_doubtful_handle(const struct crosvm *crosvm, char *handle, size_t size)
{
	const struct crosvm_doubt *doubt = &crosvm->doubt;
	const struct peer *peer = &crosvm->vm->peer;

	snprintf(handle, size, "crosvm-after-%05x-%04x:%04x@%d.%llu", doubt->before, doubt->vendor,
		 doubt->product, (int) peer->pid, (unsigned long long) peer->start_time);
}

static bool is_of_process(const struct crosvm *crosvm, int pid, unsigned long long start_time)
{
	return pid == crosvm->vm->peer.pid && start_time == crosvm->vm->peer.start_time;
}

/* If HANDLE stands for an attach to this very process whose outcome is not known, that is what is
 * in doubt now. */
static void recall_doubt(struct crosvm *crosvm, const char *handle)
{
	struct crosvm_doubt doubt = {.set = true};
	int pid;
	unsigned long long start_time;

	if (sscanf(handle, "crosvm-after-%5x-%4x:%4x@%d.%llu", &doubt.before, &doubt.vendor,
		   &doubt.product, &pid, &start_time) == 5 &&
	    is_of_process(crosvm, pid, start_time))
		crosvm->doubt = doubt;
}

unsigned crosvm_find_port(const struct crosvm *crosvm, const char *handle,
			  const struct crosvm_reply *list)
{
	unsigned port, vendor, product;
	int pid;
	unsigned long long start_time;

	if (sscanf(handle, "crosvm-%2u-%4x:%4x@%d.%llu", &port, &vendor, &product, &pid,
		   &start_time) != 5 ||
	    !is_of_process(crosvm, pid, start_time) || port < 1 || port > CROSVM_PORTS)
		return 0;

	const struct crosvm_port *at = &list->ports[port];
	return at->used && at->vendor == vendor && at->product == product ? port : 0;
}

unsigned crosvm_find_taken(const struct crosvm_doubt *doubt, const struct crosvm_reply *list,
			   unsigned *ret_port)
{
	unsigned n = 0;

	for (unsigned port = 1; doubt->set && port <= CROSVM_PORTS; port++) {
		const struct crosvm_port *at = &list->ports[port];

		if (at->used && !(doubt->before & 1U << port) && at->vendor == doubt->vendor &&
		    at->product == doubt->product) {
			*ret_port = port;
			n++;
		}
	}
	return n;
}

/* The ports */

/* Why crosvm refuses USB altogether. Returns false when that may pass. */
static bool describe_refusal(const struct crosvm *crosvm, const struct crosvm_reply *reply,
			     char *text, size_t size)
{
	const char *name = crosvm->vm->name;
	if (reply->error == ENODEV) {
		text_words(text, size,
			   "the crosvm of %s was built without USB; install another one", name);
		return true;
	}
	if (reply->error == EIO && crosvm->n_dead == 0) {
		text_words(text, size,
			   "crosvm has no USB for %s (%s): start it without --no-usb and not as a"
			   " protected VM; if it had USB before, restart it",
			   name, reply->text);
		return true;
	}
	text_words(text, size, "crosvm can't reach the USB controller of %s now: %s", name,
		   reply->text);
	return false;
}

static void end_without_list(struct crosvm_op *op, enum vmm_outcome outcome, const char *why)
{
	static const struct crosvm_reply nothing;

	op_set_result(&op->base, outcome, why);
	if (outcome == VMM_OK)
		op->listed(op, &nothing);
	else
		op_finish(&op->base);
}

static void list_was_refused(struct crosvm_op *op, const struct crosvm_reply *reply)
{
	char text[sizeof(op->base.result.detail)];
	bool is_off = describe_refusal(op->crosvm, reply, text, sizeof(text));

	end_without_list(op, is_off ? op->without_usb : VMM_RETRY, text);
}

void crosvm_ask_free(struct crosvm_op *op, unsigned port, crosvm_answer_fn answered)
{
	log_info("%s: taking back port %u, which an attach that came to nothing has left taken",
		 op->crosvm->vm->name, port);
	op->freeing = port;
	crosvm_ask_detach(op, port, answered);
}

static void port_was_freed(struct crosvm_op *op, const struct crosvm_reply *reply);

static void ports_were_listed(struct crosvm_op *op, const struct crosvm_reply *list)
{
	struct crosvm *crosvm = op->crosvm;
	unsigned port = 0;

	if (list->answer != CROSVM_DEVICES) {
		list_was_refused(op, list);
		return;
	}
	if (crosvm_find_taken(&crosvm->doubt, list, &port) == 1) {
		crosvm_ask_free(op, port, port_was_freed);
		return;
	}
	crosvm->doubt.set = false;
	op->listed(op, list);
}

/* NoSuchDevice: emptied, but there is no driver in the guest to tell. */
static void port_was_freed(struct crosvm_op *op, const struct crosvm_reply *reply)
{
	struct crosvm *crosvm = op->crosvm;

	if (reply->answer != CROSVM_ERROR) {
		crosvm->doubt.set = false;
		crosvm_ask_list(op, ports_were_listed);
		return;
	}
	log_warning("%s: port %u could not be freed: %s", crosvm->vm->name, op->freeing,
		    reply->text);
	vmm_set_result(&op->base.result, VMM_RETRY, "crosvm could not free port %u: %s",
		       op->freeing, reply->text);
	op_finish(&op->base); /* still in doubt: the next op tries again */
}

void crosvm_ask_ports(struct crosvm_op *op)
{
	char reason[300];
	int r = crosvm_open_session(op->crosvm, reason, sizeof(reason));

	if (op->base.is_done)
		return; /* another process was found, and everything was answered */
	if (r == 0 && crosvm_is_dead(op->crosvm)) {
		crosvm_describe_dead(op->crosvm, reason, sizeof(reason));
		end_without_list(op, op->when_dead, reason);
		return;
	}
	if (r < 0) {
		op->error = r;
		op_set_result(&op->base, VMM_RETRY, *reason ? reason : strerror(-r));
		op_finish(&op->base);
		return;
	}
	/* The handles of this broker's own attaches say so only while those are under way. */
	for (const struct device *d = NULL; (d = vm_next_device(op->crosvm->vm, d));)
		recall_doubt(op->crosvm, d->place.handle);
	crosvm_ask_list(op, ports_were_listed);
}
