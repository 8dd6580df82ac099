/* A domain of libvirt behind vmm.h: requests go to vhotplug-libvirt (libvirt_program.h), one at a
 * time, and its news come back the same way.
 *
 * A device is known to libvirt by an alias of ours, "ua-" and the handle, so that what is ours is
 * told from what others have attached, after a restart of the broker too. The domain's process is
 * libvirt's: what tells one start of the domain from the next is libvirt's number for it.
 */
#include <jansson.h>

#include "broker/device.h"
#include "broker/libvirt_program.h"
#include "broker/log.h"
#include "broker/op.h"
#include "broker/vm.h"

#define DEFAULT_URI "qemu:///system"
#define ANSWER_MS 60000 /* libvirt waits 30 s for another request of the domain */
#define REMOVED_MS 3000 /* for the guest to let go; it is asked again later */
#define FIRST_PAUSE_MS 1000
#define MAX_PAUSE_MS 60000

struct libvirt {
	struct vm *vm;
	char *domain, *uri;
	struct op_queue ops;             /* serial */
	struct libvirt_program *program; /* NULL: to be started when there is something to ask */
	struct loop_timer pause;         /* pending: it has ended, and is not started yet */
	unsigned n_ends;                 /* since it has last answered */
	char why[200];                   /* it has ended */
	json_int_t last_id;              /* of a request */
	json_int_t run;                  /* the domain's start that is known; -1: none */
};

struct request {
	struct op base;
	struct libvirt *libvirt;
	void (*answered)(struct request *request, const json_t *answer);
	json_int_t id;  /* of what was asked; 0: nothing yet, or it has been answered */
	char **handles; /* look: of ours, in the domain */
	size_t n_handles;
	int error;      /* look: for vm_probed */
	json_int_t run; /* look: the domain's present start; -1: it does not run */
};

static struct request *request_of(struct op *op)
{
	return (struct request *) op;
}

static void finish_request(struct request *request, enum vmm_outcome outcome, const char *detail)
{
	op_set_result(&request->base, outcome, detail);
	op_finish(&request->base);
}

/* Aliases: letters, digits, '-' and '_'. Handles have '.' as well, and no '_'. */

static void swap_characters(char *text, char from, char to)
{
	for (char *c = text; *c; c++)
		if (*c == from)
			*c = to;
}

static json_t *alias_of(const char *handle)
{
	char alias[128];

	snprintf(alias, sizeof(alias), "ua-%s", handle);
	swap_characters(alias, '.', '_');
	return json_string(alias);
}

/* A new string, or NULL: out of memory, or it is none of ours. */
static char *handle_of(const char *alias)
{
	const char *rest = alias ? startswith(alias, "ua-") : NULL;
	char *handle = rest && startswith(rest, "vhp-") ? strdup(rest) : NULL;

	if (handle)
		swap_characters(handle, '_', '.');
	return handle;
}

/* The program */

static void try_again(void *data)
{
	struct libvirt *libvirt = data;

	vm_wake(libvirt->vm);
}

static void pause_program(struct libvirt *libvirt, const char *why)
{
	uint64_t delay = FIRST_PAUSE_MS << (libvirt->n_ends < 6 ? libvirt->n_ends : 6);

	libvirt->n_ends++;
	snprintf(libvirt->why, sizeof(libvirt->why), "%s", why);
	loop_timer_start(libvirt->vm->loop, &libvirt->pause,
			 delay < MAX_PAUSE_MS ? delay : MAX_PAUSE_MS, try_again, libvirt);
}

static void program_ended(void *data, const char *why)
{
	struct libvirt *libvirt = data;

	libvirt->program = NULL;
	log_warning("%s: %s", libvirt->vm->name, why);
	pause_program(libvirt, why);
	op_queue_fail(&libvirt->ops, why);
}

static void give_up_program(struct libvirt *libvirt, const char *why)
{
	libvirt->program = libvirt_program_stop(libvirt->program);
	program_ended(libvirt, why);
}

/* The guest has let go of the device that ALIAS stands for, or refuses to. */
static void note_device(struct libvirt *libvirt, const json_t *packet, bool is_removed)
{
	_cleanup_free_ char *handle =
		handle_of(json_string_value(json_object_get(packet, "alias")));
	struct op *op = libvirt->ops.first;

	if (handle && op && op->result.outcome == VMM_PENDING && streq(op->handle, handle))
		finish_request(request_of(op), is_removed ? VMM_OK : VMM_PENDING,
			       is_removed ? "" : "the guest has refused");
	else if (is_removed)
		vm_wake(libvirt->vm);
}

static void note_answer(struct libvirt *libvirt, const json_t *packet)
{
	struct request *request = request_of(libvirt->ops.first);
	json_int_t id = json_integer_value(json_object_get(packet, "id"));

	if (!request || request->id == 0 || request->id != id)
		return;
	request->id = 0;
	loop_timer_stop(&request->base.timer);
	request->answered(request, packet);
}

static void program_said(void *data, const json_t *packet)
{
	const char *event = json_string_value(json_object_get(packet, "event"));
	struct libvirt *libvirt = data;

	if (!event)
		note_answer(libvirt, packet);
	else if (streq(event, "changed"))
		vm_wake(libvirt->vm);
	else if (streq(event, "removed") || streq(event, "refused"))
		note_device(libvirt, packet, streq(event, "removed"));
}

static const struct libvirt_program_handler program_handler = {
	.said = program_said,
	.ended = program_ended,
};

/* Sees to it that the program runs. Returns 0, or -errno: libvirt->why says why not. */
static int start_program(struct libvirt *libvirt)
{
	const char *domain = libvirt->domain ? libvirt->domain : libvirt->vm->name;
	const char *uri = libvirt->uri ? libvirt->uri : DEFAULT_URI;
	char why[sizeof(libvirt->why)];
	int r;

	if (libvirt->program)
		return 0;
	if (libvirt->pause.loop)
		return -EAGAIN;
	r = libvirt_program_start(libvirt->vm->loop, uri, domain, &program_handler, libvirt,
				  &libvirt->program);
	if (r == 0)
		return 0;
	if (r == -ENOENT)
		snprintf(why, sizeof(why),
			 "vhotplug-libvirt is not installed, which type = libvirt needs; install "
			 "the package vhotplug-libvirt");
	else
		snprintf(why, sizeof(why), "vhotplug-libvirt can't be started: %s", strerror(-r));
	pause_program(libvirt, why);
	return r;
}

/* Asking */

/* A program that hangs is one whose libvirt hangs. */
static void too_late(void *data)
{
	struct op *op = data;

	give_up_program(request_of(op)->libvirt, "libvirt has not answered in a minute");
}

/* Sends WORDS (taken over): ANSWERED gets the answer. REQUEST ends where that can't be done. */
static void ask_program(struct request *request, json_t *words,
			void (*answered)(struct request *request, const json_t *answer))
{
	struct libvirt *libvirt = request->libvirt;
	int r = words ? start_program(libvirt) : -ENOMEM;

	if (r == 0) {
		request->id = ++libvirt->last_id;
		request->answered = answered;
		json_object_set_new(words, "id", json_integer(request->id));
		loop_timer_start(libvirt->vm->loop, &request->base.timer, ANSWER_MS, too_late,
				 request);
		r = libvirt_program_send(libvirt->program, words);
		if (r < 0)
			give_up_program(libvirt, "vhotplug-libvirt does not listen");
	} else {
		finish_request(request, VMM_RETRY, words ? libvirt->why : "out of memory");
	}
	json_decref(words);
}

static struct request *request_new(struct vm *vm, void (*step)(struct op *op),
				   void (*end)(struct op *op), struct device *device,
				   const char *handle)
{
	struct libvirt *libvirt = vm->backend;
	struct request *request =
		op_new(&libvirt->ops, sizeof(*request), step, end, device, handle);

	if (request) {
		request->libvirt = libvirt;
		request->error = -EHOSTUNREACH;
		request->run = -1;
	}
	return request;
}

/* The answer to an attach or a detach. */
static enum vmm_outcome read_outcome(const json_t *answer, const char **ret_detail)
{
	static const struct {
		const char *word;
		enum vmm_outcome outcome;
	} words[] = {{"ok", VMM_OK},       {"gone", VMM_GONE},     {"pending", VMM_PENDING},
		     {"retry", VMM_RETRY}, {"unknown", VMM_RETRY}, {"failed", VMM_FAILED}};
	const char *word = json_string_value(json_object_get(answer, "outcome"));
	const char *detail = json_string_value(json_object_get(answer, "detail"));

	*ret_detail = detail ? detail : "";
	for (size_t i = 0; word && i < ARRAY_SIZE(words); i++)
		if (streq(word, words[i].word))
			return words[i].outcome;
	*ret_detail = "vhotplug-libvirt's answer is not understood; update all of vhotplug";
	return VMM_FAILED;
}

/* Probe */

static void free_handles(struct request *request)
{
	for (size_t i = 0; i < request->n_handles; i++)
		free(request->handles[i]);
	free(request->handles);
}

static int read_handles(struct request *request, const json_t *aliases)
{
	const json_t *alias;
	size_t i;

	request->handles = calloc(json_array_size(aliases) + 1, sizeof(char *));
	if (!request->handles)
		return -ENOMEM;
	json_array_foreach(aliases, i, alias)
	{
		char *handle = handle_of(json_string_value(alias));

		if (handle)
			request->handles[request->n_handles++] = handle;
	}
	return 0;
}

static void look_was_answered(struct request *request, const json_t *answer)
{
	const char *is = json_string_value(json_object_get(answer, "is"));
	const char *detail = json_string_value(json_object_get(answer, "detail"));

	request->libvirt->n_ends = 0;
	if (is && streq(is, "running")) {
		request->run = json_integer_value(json_object_get(answer, "run"));
		request->error = read_handles(request, json_object_get(answer, "aliases"));
	} else if (is && !streq(is, "unreachable")) {
		request->error = -ESHUTDOWN;
	}
	finish_request(request, VMM_OK, detail ? detail : "");
}

static void step_look(struct op *op)
{
	ask_program(request_of(op), json_pack("{ss}", "do", "look"), look_was_answered);
}

static void end_look(struct op *op)
{
	struct request *request = request_of(op);
	struct libvirt *libvirt = request->libvirt;

	if (request->run >= 0 && libvirt->run >= 0 && libvirt->run != request->run)
		vm_has_ended(libvirt->vm, "its domain has been started anew");
	if (request->run >= 0)
		libvirt->run = request->run;
	vm_probed(libvirt->vm, request->error, op->result.detail, request->handles,
		  request->n_handles);
	free_handles(request);
}

static void libvirt_probe(struct vm *vm)
{
	struct libvirt *libvirt = vm->backend;

	if (request_new(vm, step_look, end_look, NULL, ""))
		op_queue_run(&libvirt->ops);
	else
		vm_probed(vm, -EHOSTUNREACH, "out of memory", NULL, 0);
}

/* Attach */

/* The words for DEVICE, or NULL. */
static json_t *describe_device(const struct device *device)
{
	unsigned bus = 0, number = 0;

	switch (device->id.kind) {
	case DEVICE_USB:
		if (sscanf(device->id.node, "/dev/bus/usb/%u/%u", &bus, &number) != 2)
			return NULL;
		return json_pack("{ss ss si si ss}", "do", "attach", "kind", "usb", "bus",
				 (int) bus, "device", (int) number, "ids", device->id.vid_pid);
	case DEVICE_PCI:
		return json_pack("{ss ss ss}", "do", "attach", "kind", "pci", "address",
				 device->id.kernel_name);
	case DEVICE_EVDEV:
		return json_pack("{ss ss ss}", "do", "attach", "kind", "evdev", "node",
				 device->id.node);
	}
	abort();
}

static void attach_was_answered(struct request *request, const json_t *answer)
{
	const char *detail, *word = json_string_value(json_object_get(answer, "outcome"));
	enum vmm_outcome outcome = read_outcome(answer, &detail);

	op_set_result(&request->base, outcome, detail);
	request->base.result.is_unknown = word && streq(word, "unknown");
	op_finish(&request->base);
}

/* It may have waited for long: its node may be another device's by now. */
static void step_attach(struct op *op)
{
	if (device_has_gone(op->device)) {
		finish_request(request_of(op), VMM_GONE, "it has been unplugged");
		return;
	}
	json_t *words = describe_device(op->device);
	if (words)
		json_object_set_new(words, "alias", alias_of(op->handle));
	ask_program(request_of(op), words, attach_was_answered);
	if (!op->is_done)
		vm_attach_sent(request_of(op)->libvirt->vm, op->device);
}

static void end_attach(struct op *op)
{
	vm_attached(request_of(op)->libvirt->vm, op->device, &op->result);
}

/* libvirt opens the node itself: as a path, in the domain's own /dev, labelled. */
static void libvirt_attach(struct vm *vm, struct device *device, int fd)
{
	struct libvirt *libvirt = vm->backend;
	struct vmm_result result;

	(void) fd;
	if (request_new(vm, step_attach, end_attach, device, device->place.handle)) {
		op_queue_run(&libvirt->ops);
		return;
	}
	vmm_set_result(&result, VMM_RETRY, "out of memory");
	vm_attached(vm, device, &result);
}

/* Detach */

static void has_not_let_go(void *data)
{
	op_finish(data); /* pending */
}

static void detach_was_answered(struct request *request, const json_t *answer)
{
	struct op *op = &request->base;
	const char *detail;
	enum vmm_outcome outcome = read_outcome(answer, &detail);

	if (outcome != VMM_PENDING) {
		finish_request(request, outcome, detail);
		return;
	}
	op_set_result(op, VMM_PENDING, detail);
	loop_timer_start(request->libvirt->vm->loop, &op->timer, REMOVED_MS, has_not_let_go, op);
}

static void step_detach(struct op *op)
{
	json_t *words = json_pack("{ss so}", "do", "detach", "alias", alias_of(op->handle));

	ask_program(request_of(op), words, detach_was_answered);
}

static void end_detach(struct op *op)
{
	vm_detached(request_of(op)->libvirt->vm, op->device, op->handle, &op->result);
}

static void libvirt_detach(struct vm *vm, struct device *device, const char *handle)
{
	struct libvirt *libvirt = vm->backend;
	struct vmm_result result;

	if (request_new(vm, step_detach, end_detach, device, handle)) {
		op_queue_run(&libvirt->ops);
		return;
	}
	vmm_set_result(&result, VMM_RETRY, "out of memory");
	vm_detached(vm, device, handle, &result);
}

/* The VM's life */

static void libvirt_reset(struct vm *vm)
{
	struct libvirt *libvirt = vm->backend;

	libvirt->run = -1;
	op_queue_fail(&libvirt->ops, "the VM has ended");
}

static bool is_said(const char *now, const char *config)
{
	return streq(now ? now : "", config ? config : "");
}

static bool libvirt_is_same(const struct vm *vm, const struct config_vm *config)
{
	const struct libvirt *libvirt = vm->backend;

	return is_said(libvirt->domain, config->domain) && is_said(libvirt->uri, config->uri);
}

/* Nothing of it changes in the life of a VM: see libvirt_is_same. */
static int libvirt_configure(struct vm *vm, const struct config_general *general,
			     const struct config_vm *config)
{
	struct libvirt *libvirt = vm->backend;

	(void) general;
	if (config->domain && !libvirt->domain && !(libvirt->domain = strdup(config->domain)))
		return -ENOMEM;
	if (config->uri && !libvirt->uri && !(libvirt->uri = strdup(config->uri)))
		return -ENOMEM;
	return 0;
}

static int libvirt_init(struct vm *vm)
{
	struct libvirt *libvirt = calloc(1, sizeof(*libvirt));

	if (!libvirt)
		return -ENOMEM;
	libvirt->vm = vm;
	libvirt->run = -1;
	libvirt->ops = (struct op_queue){.loop = vm->loop, .is_serial = true};
	vm->backend = libvirt;
	return 0;
}

static void libvirt_finish(struct vm *vm)
{
	struct libvirt *libvirt = vm->backend;

	libvirt_program_stop(libvirt->program);
	loop_timer_stop(&libvirt->pause);
	op_queue_clear(&libvirt->ops);
	free(libvirt->domain);
	free(libvirt->uri);
	free(libvirt);
	vm->backend = NULL;
}

const struct vmm vmm_libvirt = {
	.init = libvirt_init,
	.is_same = libvirt_is_same,
	.configure = libvirt_configure,
	.finish = libvirt_finish,
	.probe = libvirt_probe,
	.attach = libvirt_attach,
	.detach = libvirt_detach,
	.reset = libvirt_reset,
};
