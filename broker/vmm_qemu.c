/* QEMU behind vmm.h: what the config says of it, detach, its end. See qemu.h for the parts. */
#include "broker/qemu.h"

/* How long DEVICE_DELETED is waited for. USB needs no guest for it; for PCI the connection is given
 * up then, and the guest is asked again later. */
#define DELETED_MS 10000
#define PCI_DELETED_MS 3000

/* Detach */

static void deleted_too_late(void *data)
{
	struct op *op = data;

	if (op->device && op->device->id.kind != DEVICE_USB)
		op_set_result(op, VMM_PENDING, "");
	else
		op_set_result(op, VMM_RETRY, "QEMU has not confirmed the removal (DEVICE_DELETED)");
	op_finish(op);
}

/* The request before this one is still with the guest. */
static bool is_unplugging(const char *text)
{
	return strstr(text, "in the process of unplug") || strstr(text, "guest is busy");
}

/* An input-linux of the command line: it goes at once, and without an event. */
static const char *is_object(const char *handle)
{
	return startswith(handle, "/objects/");
}

static void step_detach(struct op *base)
{
	struct qemu_op *op = qemu_op_of(base);
	bool pci = op->base.device && op->base.device->id.kind != DEVICE_USB;

	if (op->base.result.outcome == VMM_FAILED)
		op->base.result.outcome =
			pci && is_unplugging(op->base.result.detail) ? VMM_PENDING : VMM_RETRY;
	if (op->base.result.outcome != VMM_OK || op->deleted || is_object(op->base.handle)) {
		op_finish(&op->base);
		return;
	}
	op->is_asked = pci;
	loop_timer_start(op->qemu->vm->loop, &op->base.timer, pci ? PCI_DELETED_MS : DELETED_MS,
			 deleted_too_late, base);
}

static void end_detach(struct op *base)
{
	struct qemu_op *op = qemu_op_of(base);
	struct vmm_result *result = &base->result;

	/* A guest that has been asked does not forget it when the monitor is lost. */
	if (op->is_asked && result->outcome == VMM_RETRY)
		result->outcome = VMM_PENDING;
	bool has_left = result->outcome == VMM_OK || result->outcome == VMM_GONE;
	bool was_placed = base->device && base->device->place.bus[0];

	if (has_left && was_placed)
		qemu_forget_place(op);
	qemu_places_have_changed(op->qemu);
	/* A former broker, or somebody else, has put it where it was. */
	op->qemu->misses_room |= has_left && !was_placed;
	vm_detached(op->qemu->vm, base->device, base->handle, result);
	if (has_left && !was_placed)
		vm_refresh(op->qemu->vm);
}

static void qemu_detach(struct vm *vm, struct device *device, const char *handle)
{
	struct qemu *qemu = vm->backend;
	char reason[300];
	struct qemu_op *op =
		op_new(&qemu->ops, sizeof(*op), step_detach, end_detach, device, handle);

	if (!op) {
		struct vmm_result result = {.outcome = VMM_RETRY, .detail = "out of memory"};

		vm_detached(vm, device, handle, &result);
		return;
	}
	op->qemu = qemu;
	op->kind = QEMU_DETACH;
	int r = qemu_open_session(qemu, reason, sizeof(reason));
	if (op->base.is_done)
		return; /* another process was found, and everything was answered */
	if (r < 0) {
		qemu_op_unreachable(op, r, reason);
		return;
	}
	const char *object = is_object(handle);
	qemu_op_command(op, object ? "object-del" : "device_del",
			json_pack("{s:s}", "id", object ? object : handle), qemu_plain_reply, op);
	qemu_op_flush(op, -1);
}

/* The VM's life */

static void free_list(char **list)
{
	for (char **s = list; s && *s; s++)
		free(*s);
	free(list);
}

/* LIST may be NULL. Returns 0 or -ENOMEM. */
static int copy_list(char *const *list, char ***ret_copy)
{
	size_t n = 0;
	char **copy = NULL;

	while (list && list[n])
		n++;
	if (list && !(copy = calloc(n + 1, sizeof(*copy))))
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		if (!(copy[i] = strdup(list[i]))) {
			free_list(copy);
			return -ENOMEM;
		}
	*ret_copy = copy;
	return 0;
}

static int qemu_configure(struct vm *vm, const struct config_general *general,
			  const struct config_vm *config)
{
	struct qemu *qemu = vm->backend;
	char **usb_bus = NULL, **pci_bus = NULL;

	(void) general;
	if (copy_list(config->usb_bus, &usb_bus) < 0 || copy_list(config->pci_bus, &pci_bus) < 0) {
		free_list(usb_bus);
		return -ENOMEM;
	}
	free_list(qemu->usb_bus);
	free_list(qemu->pci_bus);
	qemu->usb_bus = usb_bus;
	qemu->pci_bus = pci_bus;
	qemu->use_root_bus = config->qemu_use_root_bus;
	return 0;
}

static void qemu_reset(struct vm *vm)
{
	struct qemu *qemu = vm->backend;

	qemu->no_hostdevice = qemu->misses_room = false;
	qemu->n_buses = qemu->n_ports = 0;
	qemu_drop_session(qemu, "the VM has ended");
}

static void qemu_unplugged(struct vm *vm, const struct device *device)
{
	op_queue_close(&((struct qemu *) vm->backend)->ops, device);
}

static int qemu_init(struct vm *vm)
{
	struct qemu *qemu = calloc(1, sizeof(*qemu));

	if (!qemu)
		return -ENOMEM;
	qemu->vm = vm;
	qemu->ops = (struct op_queue){.loop = vm->loop, .idle = qemu_close_session};
	/* Away from the small numbers that people and libvirt use. */
	qemu->next_fdset = 1000000 + (uint32_t) (now_realtime_ms() % 1000000000);
	vm->backend = qemu;
	return 0;
}

static void qemu_finish(struct vm *vm)
{
	struct qemu *qemu = vm->backend;

	qemu->qmp = qmp_close(qemu->qmp);
	loop_timer_stop(&qemu->busy);
	op_queue_clear(&qemu->ops);
	qemu_forget_handles(qemu);
	free_list(qemu->usb_bus);
	free_list(qemu->pci_bus);
	for (size_t i = 0; i < QEMU_MAX_COLD; i++)
		free(qemu->found_cold[i]);
	free(qemu);
	vm->backend = NULL;
}

const struct vmm vmm_qemu = {
	.init = qemu_init,
	.configure = qemu_configure,
	.finish = qemu_finish,
	.probe = qemu_probe,
	.attach = qemu_attach,
	.detach = qemu_detach,
	.reset = qemu_reset,
	.unplugged = qemu_unplugged,
	.dialled = qemu_dialled,
};
