/* From the broker's facts to what is told: see control_fill.h. Used by control_broker.c. */
#include "broker/control_fill.h"

#include "broker/pci.h"
#include "broker/vm.h"

void control_device_id(const struct device *device, char *ret, size_t size)
{
	snprintf(ret, size, "%s@%llu", device->id.kernel_name,
		 (unsigned long long) device->id.inode);
}

/* "1-3.2" is behind port 3 of bus 1's root hub; a root hub itself is behind none. */
static void fill_usb(struct control_device *view, const struct device *device)
{
	if (sscanf(device->id.node, "/dev/bus/usb/%u/%u", &view->bus, &view->number) != 2)
		view->bus = view->number = 0;
	if (sscanf(device->id.kernel_name, "%*u-%u", &view->port) != 1)
		view->port = 0;
}

static void fill_pci(struct control_device *view, const struct device *device)
{
	static char driver[64]; /* until the next one is filled */

	if (!pci_driver(device->id.kernel_name, driver, sizeof(driver)))
		driver[0] = 0;
	view->driver = driver;
	if (pci_attribute(device->id.kernel_name, "subsystem_vendor", &view->subsystem_vendor) <
		    0 ||
	    pci_attribute(device->id.kernel_name, "subsystem_device", &view->subsystem) < 0)
		view->subsystem_vendor = view->subsystem = 0;
}

/* It may go to a VM, but the worker is still at its fence. */
static bool is_held_up(const struct device *device)
{
	return device->attempt.request != 0 && device->wish.away == AWAY_NOT;
}

/* The VM that it waits for is asked for the first time, and may have it in a moment. */
static bool is_vm_asked(const struct registry *registry, const struct device *device)
{
	const struct vm *vm = registry_find_vm(registry, device->record.vm);

	return vm && vm->state == VM_PROBING && !*vm->reason;
}

/* Something is under way that ends by itself: people are told what comes of it. */
static bool is_busy(const struct registry *registry, const struct device *device)
{
	const struct vm *vm = device->place.vm;

	switch (device->record.state) {
	case DEVICE_OPENING:
	case DEVICE_ATTACHING:
	case DEVICE_RELEASING:
	case DEVICE_DETACHING:
		return true;
	case DEVICE_ATTACHED:
		/* On record only, until its VM has been asked. */
		return device->place.unverified && vm->state != VM_DOWN;
	case DEVICE_WAITING:
		return device->marked || device->again.loop != NULL || is_held_up(device) ||
		       is_vm_asked(registry, device);
	case DEVICE_HELD:
	case DEVICE_CHOOSE:
	case DEVICE_DETACHED:
	case DEVICE_SUSPENDED:
	case DEVICE_REFUSED:
	case DEVICE_FAILED:
		return device->marked || is_held_up(device);
	}
	abort();
}

/* The VM has it still while the guest is asked to let go of it. */
static bool is_in_vm(const struct device *device)
{
	return device->place.vm && (device->record.state == DEVICE_ATTACHED ||
				    device->record.state == DEVICE_RELEASING ||
				    device->record.state == DEVICE_DETACHING);
}

static void fill_wish(struct control_device *view, const struct registry *registry,
		      const struct device *device)
{
	const struct device_wish *wish = &device->wish;

	view->is_claimed = wish->present && wish->rule[0];
	if (!view->is_claimed)
		return;
	view->is_group_member = wish->leader[0];
	view->rule = wish->rule;
	view->tag = wish->tag;
	view->vms = wish->vms;
	view->chosen = wish->chosen;
	view->asks = device->record.state == DEVICE_CHOOSE;
	view->is_detached = wish->away == AWAY_DETACHED || wish->away == AWAY_UNTIL_REPLUG;
	view->is_suspended = wish->away == AWAY_SUSPENDED;
	view->is_busy = is_busy(registry, device);
	view->vm = is_in_vm(device) ? device->place.vm->name : "";
	view->wanted_vm = device->place.vm ? device->place.vm->name : device->record.vm;
	view->state = device_state_name(device->record.state);
	view->reason = device->record.reason;
	view->since = device->record.since;
}

void control_fill(struct control_device *view, const struct registry *registry,
		  const struct device *device)
{
	const struct device_identity *id = &device->id;

	*view = (struct control_device){
		.kind = id->kind,
		.kernel_name = id->kernel_name,
		.devpath = id->devpath,
		.node = id->node,
		.name = id->name,
		.vendor_name = id->vendor_name,
		.model_name = id->model_name,
		.serial = id->serial,
		.interfaces = id->interfaces,
		.class = id->class >> 16 & 0xff,
		.subclass = id->class >> 8 & 0xff,
		.protocol = id->class & 0xff,
		.driver = "",
		.rule = "",
		.tag = "",
		.vms = "",
		.chosen = "",
		.vm = "",
		.wanted_vm = "",
		.state = "",
		.reason = "",
	};
	control_device_id(device, view->id, sizeof(view->id));
	if (sscanf(id->vid_pid, "%4x:%4x", &view->vendor, &view->model) != 2)
		view->vendor = view->model = 0;
	if (id->kind == DEVICE_USB)
		fill_usb(view, device);
	else if (id->kind == DEVICE_PCI)
		fill_pci(view, device);
	fill_wish(view, registry, device);
}
