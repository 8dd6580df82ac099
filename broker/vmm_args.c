/* Arguments for a VMM: see vmm_args.h. Called by the control sockets.
 *
 * Source of the words: QEMU, vfio-pci and virtio-input-host-pci; crosvm, src/crosvm/cmdline.rs,
 * --vfio and --input. The names are those that clients of vhotplug expect. */
#include "broker/vmm_args.h"

#include "broker/log.h"
#include "broker/pci.h"

/* Is VM the one that DEVICE goes to first? */
static bool goes_to(const struct device *device, const char *vm)
{
	const char *candidates = device_candidates(device);

	return device->wish.present && device->wish.rule[0] &&
	       strcspn(candidates, ",") == strlen(vm) && startswith(candidates, vm);
}

static bool has_vfio(const struct device *device)
{
	char driver[64];

	return pci_driver(device->id.kernel_name, driver, sizeof(driver)) &&
	       streq(driver, "vfio-pci");
}

void vmm_args_prepare(struct registry *registry, const char *vm,
		      void (*fn)(void *data, const struct device *device), void *data)
{
	for (struct device *d = registry->devices; d; d = d->next) {
		if (d->id.kind != DEVICE_PCI || !goes_to(d, vm))
			continue;
		if (!has_vfio(d) && !d->place.vm) {
			d->wish.prepare = true;
			device_retry(d);
		}
		fn(data, d);
	}
}

static int compare(const void *a, const void *b)
{
	const struct device *x = *(struct device *const *) a, *y = *(struct device *const *) b;

	if (x->wish.order != y->wish.order)
		return x->wish.order < y->wish.order ? -1 : 1;
	return strcmp(x->id.kernel_name, y->id.kernel_name);
}

/* The devices of KIND for VM, sorted: a new array with NULL at its end, or NULL. */
static const struct device **sort(const struct registry *registry, enum device_kind kind,
				  const char *vm)
{
	const struct device **list;
	size_t n = 0;

	for (const struct device *d = registry->devices; d; d = d->next)
		n++;
	list = calloc(n + 1, sizeof(struct device *));
	n = 0;
	for (const struct device *d = registry->devices; list && d; d = d->next)
		if (d->id.kind == kind && goes_to(d, vm))
			list[n++] = d;
	if (n > 1)
		qsort(list, n, sizeof(struct device *), compare);
	return list;
}

static void add(json_t *list, const char *option, json_t *value)
{
	json_array_append_new(list, json_string(option));
	json_array_append_new(list, value);
}

static void add_pci(json_t *list, const struct config_vm *vm, const char *address,
		    const struct control_args *args, unsigned number)
{
	char bus[128] = "";

	if (vm->type == VM_CROSVM) {
		add(list, "--vfio", json_sprintf("/sys/bus/pci/devices/%s,iommu=viommu", address));
		return;
	}
	if (args->bus_prefix && !vm->qemu_use_root_bus)
		snprintf(bus, sizeof(bus), ",bus=%.100s%u", args->bus_prefix, number);
	add(list, "-device",
	    json_sprintf("vfio-pci,host=%s,multifunction=on,id=vhp-pci-%u%s", address, number,
			 bus));
}

static void add_evdev(json_t *list, const struct config_vm *vm, const char *node, unsigned number)
{
	if (vm->type == VM_CROSVM)
		add(list, "--input", json_sprintf("evdev[path=%s]", node));
	else
		add(list, "-device",
		    json_sprintf("virtio-input-host-pci,evdev=%s,id=vhp-evdev-%u", node, number));
}

json_t *vmm_args_list(const struct registry *registry, const struct config_vm *vm,
		      const struct control_args *args)
{
	_cleanup_free_ const struct device **pci = sort(registry, DEVICE_PCI, vm->name);
	_cleanup_free_ const struct device **evdev = sort(registry, DEVICE_EVDEV, vm->name);
	json_t *list = json_array();
	unsigned number = args->start;

	for (const struct device **d = pci; d && *d; d++)
		if (has_vfio(*d))
			add_pci(list, vm, (*d)->id.kernel_name, args, number++);
		else
			log_warning("%s (%s): left out of the arguments for %s: vfio-pci does not "
				    "have it (%s)",
				    (*d)->id.kernel_name, (*d)->id.name, vm->name,
				    (*d)->record.reason);
	number = args->start;
	for (const struct device **d = evdev; d && *d; d++)
		add_evdev(list, vm, (*d)->id.node, number++);
	return list;
}
