/* What a VM has had since its start becomes ours: see adopt.h. */
#include "broker/adopt.h"

#include "broker/attempt.h"
#include "broker/job.h"
#include "broker/record.h"

/* Its interfaces may be shut, or a host driver may have one: the VM could never claim them. */
static void open_for_vm(struct registry *registry, struct device *device)
{
	unsigned options = WORKER_FOUND | job_options(registry, device);

	device_touch(device);
	if (job_send(registry, device, WORKER_USB_RELEASE, options, &device->attempt.request) < 0)
		device->attempt.check = true;
}

void adopt_cold(struct registry *registry, struct device *device, struct vm *vm)
{
	struct device_place *place = &device->place;
	const struct cold *cold;

	if (registry_find_cold(registry, device, &cold) != vm)
		return;
	record_name_vm(device, vm->name);
	place->vm = vm_ref(vm);
	place->is_cold = true;
	kept_set(&place->handle, cold->handle);
	attempt_note_arrived(registry, device);
	if (device->id.kind == DEVICE_USB)
		open_for_vm(registry, device);
	else
		device->attempt.check = true;
}
