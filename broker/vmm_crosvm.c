/* crosvm behind vmm.h: USB devices over its control socket, PCI devices by its program
 * (crosvm_vfio.h). See crosvm.h for the parts. */
#include "broker/crosvm.h"

struct crosvm_pace crosvm_pace = {
	.answer = 5000, .command = 10000, .first_wait = 1000, .max_wait = 30000, .attempts = 20};

unsigned crosvm_wait_ms(unsigned n_before)
{
	unsigned long long wait = (unsigned long long) crosvm_pace.first_wait
				  << (n_before < 16 ? n_before : 16);

	return wait < crosvm_pace.max_wait ? (unsigned) wait : crosvm_pace.max_wait;
}

/* Probe */

static void end_probe(struct op *base)
{
	struct crosvm_op *op = crosvm_op_of(base);
	struct crosvm *crosvm = op->crosvm;
	char handles[CROSVM_PORTS][96], *pointers[CROSVM_PORTS];
	size_t n = 0;

	if (base->result.outcome != VMM_OK) {
		vm_probed(crosvm->vm, op->error < 0 ? op->error : -EIO, base->result.detail, NULL,
			  0);
		return;
	}
	for (unsigned port = 1; port <= CROSVM_PORTS; port++) {
		const struct crosvm_port *at = &op->list.ports[port];

		if (!at->used)
			continue;
		crosvm_make_handle(crosvm, handles[n], sizeof(handles[n]), port, at->vendor,
				   at->product);
		pointers[n] = handles[n];
		n++;
	}
	vm_probed(crosvm->vm, 0, "", pointers, n);
}

static void note_ports(struct crosvm_op *op, const struct crosvm_reply *list)
{
	op->list = *list;
	op_finish(&op->base);
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
		break;
	case DEVICE_EVDEV:
		refuse_input(vm, device);
		break;
	}
}

static void crosvm_detach(struct vm *vm, struct device *device, const char *handle)
{
	struct crosvm *crosvm = vm->backend;

	if (crosvm_vfio_is_handle(handle))
		crosvm_vfio_detach(crosvm->vfio, device, handle);
	else
		crosvm_usb_detach(crosvm, device, handle);
}

/* The VM's life */

static void crosvm_reset(struct vm *vm)
{
	struct crosvm *crosvm = vm->backend;

	crosvm_vfio_reset(crosvm->vfio);
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
	crosvm->vm = vm;
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
	.is_doubtful = crosvm_is_doubtful,
	.is_unlisted = crosvm_vfio_is_current,
};
