/* cloud-hypervisor behind vmm.h: PCI devices, over the API socket (HTTP, http.h).
 *
 * Each request begins with "vm.info", which has everything: config.devices is what the VM is to
 * have, device_tree what it has still. To remove a device is a request to the guest; what tells
 * that it has let go is that the process has the IOMMU group open no more, since a name may stay in
 * the tree; of several functions of one group the tree does (cloud_hypervisor_held.h). A name that
 * is taken for good is followed by others of the same device ("vhp-….2"), so that it comes back all
 * the same; outside of this file a device has one handle.
 *
 * One request at a time. Source: cloud-hypervisor, vmm/src/api/openapi/cloud-hypervisor.yaml.
 */
#include <jansson.h>
#include <stdarg.h>
#include <sys/socket.h>

#include "broker/cloud_hypervisor_held.h"
#include "broker/cloud_hypervisor_info.h"
#include "broker/device.h"
#include "broker/http.h"
#include "broker/op.h"
#include "broker/vm.h"
#include "helper/root.h"
#include "helper/text.h"

#define ANSWER_MS 10000 /* to map a big guest's memory takes its time */
#define MAX_NAMES 9     /* of one device: "vhp-…", "vhp-….2" to "vhp-….9" */
#define API "/api/v1/"
#define UNMAPPED                                                                            \
	"cloud-hypervisor gives the first card after one that failed no way to the guest's" \
	" memory: it is given once more"
#define NOT_BOOTED "it has not been booted"

struct cloud_hypervisor {
	struct vm *vm;
	struct op_queue ops;       /* serial */
	struct http *http;         /* of the op under way */
	bool is_known;             /* what has been tried before us was looked at */
	bool is_unmapped;          /* the next card could not reach the guest's memory */
	bool is_emptying;          /* … and did not, and is to leave before another comes */
	struct ch_handles handles; /* when they were looked at last */
};

struct request;
typedef void (*answer_fn)(struct request *request, const struct http_answer *answer);

struct request {
	struct op base;
	struct cloud_hypervisor *ch;
	answer_fn answered; /* gets the answer to what was asked last */
	void (*informed)(struct request *request, const struct ch_held *held);
	unsigned n_names;               /* attach: tried so far */
	bool is_first;                  /* attach: the VM has no other card */
	enum vmm_outcome without_guest; /* what it comes to while the VM does not run */
	int error;                      /* why it can't be asked, or 0 */
};

static struct request *request_of(struct op *op)
{
	return (struct request *) op;
}

/* Asking */

/* Ends REQUEST with an OUTCOME and words for people. */
static void finish_request(struct request *request, enum vmm_outcome outcome, const char *format,
			   ...) _printf_(3, 4);
static void finish_request(struct request *request, enum vmm_outcome outcome, const char *format,
			   ...)
{
	char detail[sizeof(request->base.result.detail)];
	va_list args;

	va_start(args, format);
	vsnprintf(detail, sizeof(detail), format, args);
	va_end(args);
	op_set_result(&request->base, outcome, detail);
	request->base.result.is_unknown = request->error < 0 && request->n_names > 0;
	op_finish(&request->base);
}

static void can_not_ask(struct request *request, int r, const char *reason)
{
	request->error = r;
	finish_request(
		request, VMM_RETRY, "%s",
		*reason            ? reason
		: r == -ETIMEDOUT  ? "cloud-hypervisor has not answered in time"
		: r == -ECONNRESET ? "cloud-hypervisor has closed the connection"
		: r == -EBADMSG || r == -EMSGSIZE
			? "what answers on the socket does not speak cloud-hypervisor's protocol"
			: strerror(-r));
}

static void has_answered(void *data, int r, const struct http_answer *answer)
{
	struct request *request = data;

	request->ch->http = NULL;
	if (r < 0)
		can_not_ask(request, r, "");
	else
		request->answered(request, answer);
}

/* Sends METHOD WHAT with BODY (taken over; NULL: none): ANSWERED gets the answer. REQUEST ends
 * where that can't be done. */
static void ask_vmm(struct request *request, const char *method, const char *what, json_t *body,
		    answer_fn answered)
{
	struct cloud_hypervisor *ch = request->ch;
	_cleanup_close_ int fd = -1;
	_cleanup_free_ char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
	char reason[300] = "", path[64];
	int r = peer_connect(ch->vm->socket, SOCK_STREAM, &fd);

	json_decref(body);
	snprintf(path, sizeof(path), API "%s", what);
	request->answered = answered;
	if (r == 0)
		r = vm_check_peer(ch->vm, fd, reason, sizeof(reason));
	if (request->base.is_done)
		return; /* another process was found, and everything was answered */
	if (r == 0)
		r = http_ask(ch->vm->loop, fd, method, path, text, ANSWER_MS, has_answered, request,
			     &ch->http);
	if (r < 0) {
		can_not_ask(request, r, reason);
		return;
	}
	TAKE_FD(fd);
	http_limit(ch->http, &ch->vm->input);
}

/* Asks for NAME to be taken away; NULL: there is nothing to be asked, and REQUEST ends. */
static void ask_to_remove(struct request *request, const char *name, answer_fn answered)
{
	if (name)
		ask_vmm(request, "PUT", "vm.remove-device", json_pack("{s:s}", "id", name),
			answered);
	else
		op_finish(&request->base);
}

/* Ends REQUEST with what was made out before. */
static void remove_was_answered(struct request *request, const struct http_answer *answer)
{
	char text[120];

	/* 404: it knows the name no more, but has not closed the group. */
	if (answer->status == 204 || answer->status == 200 || answer->status == 404) {
		op_finish(&request->base);
		return;
	}
	ch_describe_error(answer, text, sizeof(text));
	finish_request(request, VMM_RETRY, "cloud-hypervisor: %s", text);
}

/* The VM does not run: it has no card. */
static void end_without_guest(struct request *request, const char *why)
{
	/* Its other cards are to be known for gone too. */
	vm_check_by(request->ch->vm, 0);
	request->error = -EHOSTDOWN;
	finish_request(request, request->without_guest, "%s", why);
}

static void was_taken_off(struct request *request, const struct http_answer *answer)
{
	(void) answer; /* old versions refuse it */
	end_without_guest(request, NOT_BOOTED);
}

/* A VM that does not run opens what its config names when it is booted, and does not start if that
 * is the host's by then, or another VM's. */
static void take_off_config(struct request *request, const json_t *info)
{
	const char *handle = request->base.handle;
	const char *name = *handle ? ch_find_listed(info, handle) : ch_find_ours(info);

	if (name)
		ask_to_remove(request, name, was_taken_off);
	else
		end_without_guest(request, NOT_BOOTED);
}

/* Goes on with INFO, and what the kernel says to it. */
static void use_info(struct request *request, const json_t *info)
{
	struct ch_held held;
	int r = ch_held_read(&held, request->ch->vm->peer.pid, info);

	if (r < 0)
		can_not_ask(request, r, "it names more devices than a VM can have");
	else
		request->informed(request, &held);
}

static void info_is_there(struct request *request, const struct http_answer *answer)
{
	json_t *info = NULL;
	char text[200];

	if (answer->status != 200) {
		ch_describe_error(answer, text, sizeof(text));
		if (ch_has_no_vm(answer))
			end_without_guest(request, text);
		else
			can_not_ask(request, -EIO, text);
		return;
	}
	info = json_loadb(answer->body, answer->length, JSON_REJECT_DUPLICATES, NULL);
	const char *state = json_string_value(json_object_get(info, "state"));
	if (!state)
		can_not_ask(request, -EBADMSG, "");
	else if (ch_is_booted(state))
		use_info(request, info);
	else
		take_off_config(request, info);
	json_decref(info);
}

static void begin_request(struct op *op)
{
	ask_vmm(request_of(op), "GET", "vm.info", NULL, info_is_there);
}

static struct request *request_new(struct cloud_hypervisor *ch, void (*end)(struct op *op),
				   void (*informed)(struct request *request,
						    const struct ch_held *held),
				   struct device *device, const char *handle)
{
	struct request *request =
		op_new(&ch->ops, sizeof(*request), begin_request, end, device, handle);

	if (request) {
		request->ch = ch;
		request->informed = informed;
		request->without_guest = VMM_RETRY;
	}
	return request;
}

/* Probe */

static void note_devices(struct request *request, const struct ch_held *held)
{
	struct vm *vm = request->ch->vm;
	const json_t *devices = ch_devices_of(held->info), *device;
	size_t i;
	int r = ch_held_list(held, &request->ch->handles);

	/* Not to be on a list that is cut means to be taken for gone. */
	if (r < 0) {
		can_not_ask(request, r, "it names more devices of ours than are counted");
		return;
	}
	cold_clear(&vm->cold);
	json_array_foreach(devices, i, device)
	{
		ch_note_cold(&vm->cold, device);
	}
	op_finish(&request->base);
}

static void end_probe(struct op *op)
{
	struct request *request = request_of(op);
	struct vm *vm = request->ch->vm;
	struct ch_handles *had = &request->ch->handles;
	char *handles[CH_MAX_HANDLES];

	for (size_t i = 0; i < had->n; i++)
		handles[i] = had->items[i];
	if (op->result.outcome == VMM_OK)
		vm_probed(vm, 0, "", handles, had->n);
	else
		vm_probed(vm, request->error, op->result.detail, NULL, 0);
}

static void ch_probe(struct vm *vm)
{
	struct cloud_hypervisor *ch = vm->backend;

	if (request_new(ch, end_probe, note_devices, NULL, ""))
		op_queue_run(&ch->ops);
	else
		vm_probed(vm, -ENOMEM, "", NULL, 0);
}

/* Attach */

static void try_name(struct request *request);

static void add_was_refused(struct request *request, const struct http_answer *answer)
{
	char text[200], advice[300];

	ch_describe_error(answer, text, sizeof(text));
	ch_advise_on(text, &request->ch->vm->peer, advice, sizeof(advice));
	bool is_taken = strstr(text, "not unique") != NULL; /* 409, or 500 for one that leaves */
	if (answer->status == 500 && request->is_first && !is_taken)
		request->ch->is_unmapped = true;
	if (is_taken)
		try_name(request);
	else if (answer->status == 409)
		finish_request(request, VMM_FAILED,
			       "it is in the VM already, under a name of another's (%s); take it "
			       "out there",
			       text);
	else if (answer->status == 500 && !strstr(text, "DMA map"))
		finish_request(request, VMM_RETRY, "cloud-hypervisor: %s%s", text, advice);
	else
		finish_request(request, VMM_FAILED, "cloud-hypervisor: %s%s", text, advice);
}

static void unmapped_was_removed(struct request *request, const struct http_answer *answer)
{
	(void) answer;
	finish_request(request, VMM_RETRY, UNMAPPED);
}

/* Has the card left that could not reach the guest's memory, and its container with it? Else
 * REQUEST ends: the next one would get the same. */
static bool is_emptied(struct request *request, const struct ch_held *held)
{
	struct cloud_hypervisor *ch = request->ch;

	if (ch->is_emptying)
		ch->is_emptying = ch_held_list(held, &ch->handles) != 0 || ch->handles.n > 0;
	if (ch->is_emptying)
		finish_request(request, VMM_RETRY, UNMAPPED);
	return !ch->is_emptying;
}

/* An add that fails leaves the VFIO container behind, which the next card gets as it is; with its
 * last card the VM drops it. Seen with version 54. Source: cloud-hypervisor,
 * vmm/src/device_manager.rs (add_vfio_device, cleanup_vfio_ops). */
static void remove_unmapped(struct request *request)
{
	char name[96 + 8];

	request->ch->is_unmapped = false;
	request->ch->is_emptying = true;
	ch_make_name(name, sizeof(name), request->base.handle, request->n_names);
	ask_to_remove(request, name, unmapped_was_removed);
}

static void add_was_answered(struct request *request, const struct http_answer *answer)
{
	struct device *device = request->base.device;

	if (answer->status != 200 && answer->status != 204) {
		add_was_refused(request, answer);
		return;
	}
	if (request->ch->is_unmapped) {
		remove_unmapped(request);
		return;
	}
	json_t *reply = json_loadb(answer->body, answer->length, JSON_REJECT_DUPLICATES, NULL);
	const char *place = json_string_value(json_object_get(reply, "bdf"));
	kept_clean(&device->place.bus, DEVICE_WORD_SIZE, place);
	json_decref(reply);
	finish_request(request, VMM_OK, "%s", "");
}

/* Asks for the device under the next name of its own. */
static void try_name(struct request *request)
{
	static const char devices[] = "/sys/bus/pci/devices/";
	char name[96 + 8], path[sizeof(devices) + DEVICE_WORD_SIZE];

	if (request->n_names == MAX_NAMES) {
		finish_request(
			request, VMM_FAILED,
			"cloud-hypervisor keeps the names of its %d former stays; restart the VM",
			MAX_NAMES);
		return;
	}
	ch_make_name(name, sizeof(name), request->base.handle, ++request->n_names);
	snprintf(path, sizeof(path), "%s%s", devices, request->base.device->id.kernel_name);
	ask_vmm(request, "PUT", "vm.add-device", json_pack("{s:s, s:s}", "path", path, "id", name),
		add_was_answered);
}

/* Does the guest hold on to what it was to give back, or may it do so? Then REQUEST ends. */
static bool is_awaited(struct request *request, const struct ch_held *held)
{
	int r = ch_held_has(held, request->base.handle);
	char text[160];

	if (r == 0)
		return false;
	ch_held_explain(held, r, "its guest has not let go of it yet", text, sizeof(text));
	op_set_result(&request->base, VMM_RETRY, text);
	/* A guest that was just starting may not have heard it. */
	ask_to_remove(request, ch_find_registered(held->info, request->base.handle),
		      remove_was_answered);
	return true;
}

static void add_device(struct request *request, const struct ch_held *held)
{
	const char *other;
	const json_t *info = held->info;
	struct device *device = request->base.device;

	if (ch_find_listed(info, request->base.handle)) {
		finish_request(request, VMM_OK, "%s",
			       ""); /* by a request that nobody heard the answer of */
		return;
	}
	if ((other = ch_find_function(info, device->id.kernel_name))) {
		finish_request(request, VMM_FAILED,
			       "it is in the VM already, as \"%s\" (--device); take it out there",
			       other);
		return;
	}
	if (is_awaited(request, held) || !is_emptied(request, held))
		return;
	if (device_has_gone(device)) {
		finish_request(request, VMM_GONE, "it has been unplugged");
		return;
	}
	request->is_first = held->n_listed == 0;
	request->ch->is_unmapped |= !request->ch->is_known && ch_held_has_leftover(held);
	request->ch->is_known = true;
	try_name(request);
	if (!request->base.is_done)
		vm_attach_sent(request->ch->vm, device);
}

static void end_attach(struct op *op)
{
	vm_attached(request_of(op)->ch->vm, op->device, &op->result);
}

static void refuse_device(struct vm *vm, struct device *device, enum vmm_outcome outcome,
			  const char *detail)
{
	struct vmm_result result;

	vmm_set_result(&result, outcome, "%s", detail);
	vm_attached(vm, device, &result);
}

static void ch_attach(struct vm *vm, struct device *device, int fd)
{
	struct cloud_hypervisor *ch = vm->backend;

	(void) fd;
	if (device->id.kind != DEVICE_PCI)
		refuse_device(
			vm, device, VMM_FAILED,
			"cloud-hypervisor takes PCI devices only: give it the USB controller");
	else if (request_new(ch, end_attach, add_device, device, device->place.handle))
		op_queue_run(&ch->ops);
	else
		refuse_device(vm, device, VMM_RETRY, "out of memory");
}

/* Detach */

static void remove_device(struct request *request, const struct ch_held *held)
{
	const char *name = ch_find_listed(held->info, request->base.handle);
	int r = name ? 1 : ch_held_has(held, request->base.handle);
	char detail[160];

	if (r == 0) {
		finish_request(request, VMM_OK, "%s", "");
		return;
	}
	/* Asked before, as in is_awaited. */
	if (!name)
		name = ch_find_registered(held->info, request->base.handle);
	ch_held_explain(held, r, "", detail, sizeof(detail));
	op_set_result(&request->base, VMM_PENDING, detail);
	ask_to_remove(request, name, remove_was_answered);
}

static void end_detach(struct op *op)
{
	vm_detached(request_of(op)->ch->vm, op->device, op->handle, &op->result);
}

static void ch_detach(struct vm *vm, struct device *device, const char *handle)
{
	struct cloud_hypervisor *ch = vm->backend;
	struct request *request = request_new(ch, end_detach, remove_device, device, handle);

	if (request) {
		request->without_guest = VMM_GONE;
		op_queue_run(&ch->ops);
		return;
	}
	struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};
	vm_detached(vm, device, handle, &result);
}

/* The VM's life */

static bool ch_is_leaving(const struct vm *vm, const char *handle)
{
	const struct cloud_hypervisor *ch = vm->backend;

	return ch_handles_leave(&ch->handles, handle);
}

static void ch_reset(struct vm *vm)
{
	struct cloud_hypervisor *ch = vm->backend;

	ch->http = http_cancel(ch->http);
	ch->is_known = ch->is_unmapped = ch->is_emptying = false;
	op_queue_fail(&ch->ops, "the VM has ended");
}

static int ch_init(struct vm *vm)
{
	struct cloud_hypervisor *ch = calloc(1, sizeof(*ch));

	if (!ch)
		return -ENOMEM;
	ch->vm = vm;
	ch->ops = (struct op_queue){.loop = vm->loop, .is_serial = true};
	vm->backend = ch;
	return 0;
}

static void ch_finish(struct vm *vm)
{
	struct cloud_hypervisor *ch = vm->backend;

	http_cancel(ch->http);
	op_queue_clear(&ch->ops);
	free(ch);
	vm->backend = NULL;
}

const struct vmm vmm_cloud_hypervisor = {
	.init = ch_init,
	.finish = ch_finish,
	.probe = ch_probe,
	.attach = ch_attach,
	.detach = ch_detach,
	.reset = ch_reset,
	.is_leaving = ch_is_leaving,
};
