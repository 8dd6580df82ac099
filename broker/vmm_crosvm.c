/* crosvm behind vmm.h: USB devices over its control socket, PCI devices by its program
 * (crosvm_vfio.h). See crosvm.h for the parts. */
#include "broker/crosvm.h"

#include "conf/array.h"

struct crosvm_pace crosvm_pace = {
	.answer = 5000, .command = 10000, .first_wait = 1000, .max_wait = 30000, .attempts = 20};

unsigned crosvm_wait_ms(unsigned n_before)
{
	unsigned long long wait = (unsigned long long) crosvm_pace.first_wait
				  << (n_before < 16 ? n_before : 16);

	return wait < crosvm_pace.max_wait ? (unsigned) wait : crosvm_pace.max_wait;
}

/* Probe */

struct handles {
	char **pointers;
	size_t n;
	int r; /* -ENOMEM: not all of them */
};

static void add_handle(struct handles *handles, const char *handle)
{
	char **place = ARRAY_APPEND(handles->pointers, handles->n);

	if (!place || !(*place = strdup(handle)))
		handles->r = -ENOMEM;
}

static void free_handles(struct handles *handles)
{
	for (size_t i = 0; i < handles->n; i++)
		free(handles->pointers[i]);
	free(handles->pointers);
}

static void list_ports(const struct crosvm_op *op, struct handles *handles)
{
	char handle[96];

	for (unsigned port = 1; port <= CROSVM_PORTS; port++) {
		const struct crosvm_port *at = &op->list.ports[port];

		if (!at->used)
			continue;
		crosvm_make_handle(op->crosvm, handle, sizeof(handle), port, at->vendor,
				   at->product);
		add_handle(handles, handle);
	}
}

static void list_functions(const struct crosvm *crosvm, struct handles *handles)
{
	for (const struct device *d = NULL; (d = vm_next_device(crosvm->vm, d));)
		if (crosvm_functions_has(&crosvm->functions, d) &&
		    !crosvm_vfio_is_lost(d->place.handle))
			add_handle(handles, d->place.handle);
}

static void end_probe(struct op *base)
{
	struct crosvm_op *op = crosvm_op_of(base);
	struct crosvm *crosvm = op->crosvm;
	struct handles handles = {0};

	if (base->result.outcome == VMM_OK) {
		list_ports(op, &handles);
		list_functions(crosvm, &handles);
		crosvm_start_look(crosvm->vm, &crosvm->cards);
		vm_probed(crosvm->vm, handles.r, "", handles.pointers, handles.n);
	} else {
		vm_probed(crosvm->vm, op->error < 0 ? op->error : -EIO, base->result.detail, NULL,
			  0);
	}
	crosvm_functions_clear(&crosvm->functions);
	free_handles(&handles);
}

static void functions_are_seen(void *data)
{
	op_finish(data);
}

static void note_ports(struct crosvm_op *op, const struct crosvm_reply *list)
{
	op->list = *list;
	op->answered = NULL;
	/* A device that is stuck in the kernel keeps the others waiting no longer. */
	loop_timer_start(op->crosvm->vm->loop, &op->base.timer, crosvm_pace.answer,
			 functions_are_seen, &op->base);
	crosvm_functions_look(&op->crosvm->functions, functions_are_seen, &op->base);
}

static void begin_probe(struct op *base)
{
	crosvm_ask_ports(crosvm_op_of(base));
}

static void crosvm_probe(struct vm *vm)
{
	struct crosvm *crosvm = vm->backend;

	struct crosvm_op *op = op_new(&crosvm->ops, sizeof(*op), begin_probe, end_probe, NULL, "");

	if (!op) {
		vm_probed(vm, -ENOMEM, "", NULL, 0);
		return;
	}
	op->crosvm = crosvm;
	op->listed = note_ports;
	op->without_usb = op->when_dead = VMM_OK; /* it runs, and has nothing */
	op_queue_run(&crosvm->ops);
}

/* Requests */

static void refuse_input(struct vm *vm, struct device *device)
{
	struct vmm_result result = {
		.outcome = VMM_FAILED,
		.detail = "crosvm takes no input devices while it runs; start it with --input "
			  "evdev[path=…]",
	};

	vm_attached(vm, device, &result);
}

static void crosvm_attach(struct vm *vm, struct device *device, int fd)
{
	struct crosvm *crosvm = vm->backend;

	switch (device->id.kind) {
	case DEVICE_USB:
		crosvm_usb_attach(crosvm, device, fd);
		break;
	case DEVICE_PCI:
		crosvm_vfio_attach(crosvm->vfio, device);
		crosvm_functions_forget(&crosvm->functions, device->place.handle);
		break;
	case DEVICE_EVDEV:
		refuse_input(vm, device);
		break;
	}
}

static void crosvm_detach(struct vm *vm, struct device *device, const char *handle)
{
	struct crosvm *crosvm = vm->backend;

	if (crosvm_vfio_is_handle(handle) || crosvm_start_is_handle(handle))
		crosvm_vfio_detach(crosvm->vfio, device, handle);
	else
		crosvm_usb_detach(crosvm, device, handle);
}

static bool crosvm_takes_card(const struct vm *vm, const struct device *device, char *reason,
			      size_t size)
{
	const struct crosvm *crosvm = vm->backend;

	return crosvm_start_takes(vm, &crosvm->cards, device, reason, size);
}

/* The VM's life */

static void crosvm_reset(struct vm *vm)
{
	struct crosvm *crosvm = vm->backend;

	crosvm_vfio_reset(crosvm->vfio);
	crosvm_functions_clear(&crosvm->functions);
	crosvm->cards = (struct crosvm_cards){0};
	crosvm_close_session(crosvm);
	crosvm->doubt.set = false;
	crosvm->is_silent = false;
	crosvm->n_not_ready = 0;
	crosvm->n_dead = 0;
	crosvm->not_before = 0;
	op_queue_fail(&crosvm->ops, "the VM has ended");
}

static int crosvm_configure(struct vm *vm, const struct config_general *general,
			    const struct config_vm *config)
{
	struct crosvm *crosvm = vm->backend;

	(void) config;
	return crosvm_vfio_set_program(crosvm->vfio, general->crosvm);
}

static void crosvm_unplugged(struct vm *vm, const struct device *device)
{
	op_queue_close(&((struct crosvm *) vm->backend)->ops, device);
}

static int crosvm_init(struct vm *vm)
{
	struct crosvm *crosvm = calloc(1, sizeof(*crosvm));

	if (!crosvm || crosvm_vfio_new(vm, &crosvm->vfio) < 0) {
		free(crosvm);
		return -ENOMEM;
	}
	crosvm->vm = crosvm->functions.vm = vm;
	crosvm->fd = -1;
	crosvm->ops = (struct op_queue){
		.loop = vm->loop, .is_serial = true, .idle = crosvm_session_is_idle};
	vm->backend = crosvm;
	return 0;
}

static void crosvm_finish(struct vm *vm)
{
	struct crosvm *crosvm = vm->backend;

	crosvm_close_session(crosvm);
	op_queue_clear(&crosvm->ops);
	crosvm_functions_clear(&crosvm->functions);
	crosvm_vfio_free(crosvm->vfio);
	free(crosvm);
	vm->backend = NULL;
}

const struct vmm vmm_crosvm = {
	.init = crosvm_init,
	.configure = crosvm_configure,
	.finish = crosvm_finish,
	.probe = crosvm_probe,
	.attach = crosvm_attach,
	.detach = crosvm_detach,
	.reset = crosvm_reset,
	.unplugged = crosvm_unplugged,
	.wants_reset = true,
	.gives_handles = true,
	.keeps_one_card = true,
	.takes_card = crosvm_takes_card,
};
