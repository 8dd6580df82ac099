/* Arguments for a VMM: see vmm_args.h. Called by the control sockets.
 *
 * Source of the words: QEMU, vfio-pci and virtio-input-host-pci; crosvm, src/crosvm/cmdline.rs,
 * --vfio and --input; cloud-hypervisor, --device. The names are those that clients of vhotplug
 * expect. */
#include "broker/vmm_args.h"

#include "broker/log.h"
#include "broker/pci.h"
#include "helper/root.h"

#define NVIDIA "10de"
#define CLASS_DISPLAY 0x03

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
	const struct vm *asked = registry_find_vm(registry, vm);
	bool is_starting = !asked || asked->state == VM_DOWN;

	for (struct device *d = registry->devices; d; d = d->next) {
		if (d->id.kind != DEVICE_PCI || !goes_to(d, vm))
			continue;
		/* attachConnected = no is about what moves by itself. */
		if (is_starting && d->wish.held && !d->place.vm) {
			d->wish.held = false;
			device_retry(d);
		}
		if (!has_vfio(d) && !d->place.vm) {
			d->wish.prepare = true;
			device_retry(d);
		}
		fn(data, d);
	}
}

static int compare_order(const void *a, const void *b)
{
	const struct device *x = *(struct device *const *) a, *y = *(struct device *const *) b;

	if (x->wish.order != y->wish.order)
		return x->wish.order < y->wish.order ? -1 : 1;
	return strcmp(x->id.kernel_name, y->id.kernel_name);
}

/* The devices of KIND for VM, sorted: a new array with NULL at its end, or NULL. */
static const struct device **sort_devices(const struct registry *registry, enum device_kind kind,
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
		qsort(list, n, sizeof(struct device *), compare_order);
	return list;
}

static void add_option(json_t *list, const char *option, json_t *value)
{
	json_array_append_new(list, json_string(option));
	json_array_append_new(list, value);
}

/* What DEVICE's group says; for a rule that is no more, as if it said nothing. */
static const struct config_group *group_of(const struct config *config, const struct device *device)
{
	static const struct config_group nothing = {.crosvm_use_root_bus = true};
	const struct config_rule *rule;
	const struct config_group *group = config_find_rule(config, device->wish.rule, &rule);

	return group ? group : &nothing;
}

static void add_pci(json_t *list, const struct config_vm *vm, const struct config_group *group,
		    const char *address)
{
	if (vm->type == VM_CROSVM) {
		add_option(list, "--vfio",
			   json_sprintf("/sys/bus/pci/devices/%s,iommu=viommu%s", address,
					group->crosvm_use_root_bus ? "" : ",removable=true"));
		return;
	}
	/* One option for all of them. */
	if (json_array_size(list) == 0)
		json_array_append_new(list, json_string("--device"));
	json_array_append_new(list, json_sprintf("path=/sys/bus/pci/devices/%s", address));
}

static void add_qemu_pci(json_t *list, const struct config_vm *vm, const struct config_group *group,
			 const char *address, const struct control_args *args, unsigned number)
{
	char bus[128] = "";

	if (args->bus_prefix && !vm->qemu_use_root_bus && !group->qemu_use_root_bus)
		snprintf(bus, sizeof(bus), ",bus=%.100s%u", args->bus_prefix, number);
	add_option(list, "-device",
		   json_sprintf("vfio-pci,host=%s,multifunction=on,id=vhp-pci-%u%s", address,
				number, bus));
}

static void add_evdev(json_t *list, const struct config_vm *vm, const char *node, unsigned number)
{
	if (vm->type == VM_CROSVM)
		add_option(list, "--input", json_sprintf("evdev[path=%s]", node));
	else
		add_option(list, "-device",
			   json_sprintf("virtio-input-host-pci,evdev=%s,id=vhp-evdev-%u", node,
					number));
}

/* A graphics card of NVIDIA's: its own firmware wants a UEFI to talk to. */
static bool wants_ovmf(const struct device *device, const struct config_group *group)
{
	return group->auto_ovmf && startswith(device->id.vid_pid, NVIDIA ":") &&
	       device->id.class >> 16 == CLASS_DISPLAY;
}

static void add_ovmf(json_t *list, const struct config_general *general)
{
	add_option(list, "-drive",
		   json_sprintf("if=pflash,format=raw,unit=0,readonly=on,file=%s",
				general->ovmf_code));
	add_option(list, "-drive",
		   json_sprintf("if=pflash,format=raw,unit=1,readonly=on,file=%s",
				general->ovmf_vars));
}

/* QEMU does not start without a file that it is given. */
static void add_acpi(json_t *list, const struct config_vm *vm)
{
	for (char **table = vm->acpi_tables; table && *table; table++)
		if (root_exists("%s", *table) == 0)
			add_option(list, "-acpitable", json_sprintf("file=%s", *table));
		else
			log_warning("%s: left out of the arguments for %s: there is no such file",
				    *table, vm->name);
}

/* Those of DEVICES that vfio-pci has; true if one of them wants firmware. */
static bool add_all_pci(json_t *list, const struct config *config, const struct config_vm *vm,
			const struct control_args *args, const struct device **devices)
{
	unsigned number = args->start;
	bool ovmf = false;

	for (const struct device **d = devices; d && *d; d++) {
		const struct config_group *group = group_of(config, *d);
		const char *address = (*d)->id.kernel_name;

		if (!has_vfio(*d)) {
			log_warning("%s (%s): left out of the arguments for %s: vfio-pci does not "
				    "have it (%s)",
				    address, (*d)->id.name, vm->name, (*d)->record.reason);
			continue;
		}
		if (vm->type == VM_QEMU)
			add_qemu_pci(list, vm, group, address, args, number++);
		else
			add_pci(list, vm, group, address);
		ovmf = ovmf || wants_ovmf(*d, group);
	}
	return ovmf;
}

json_t *vmm_args_list(const struct registry *registry, const struct config *config,
		      const struct config_vm *vm, const struct control_args *args)
{
	_cleanup_free_ const struct device **pci = sort_devices(registry, DEVICE_PCI, vm->name);
	_cleanup_free_ const struct device **evdev = sort_devices(registry, DEVICE_EVDEV, vm->name);
	json_t *list = json_array(), *devices = json_array();
	unsigned number = args->start;

	if (add_all_pci(devices, config, vm, args, pci) && vm->type == VM_QEMU)
		add_ovmf(list, &config->general);
	json_array_extend(list, devices);
	json_decref(devices);
	add_acpi(list, vm);
	for (const struct device **d = evdev; d && *d; d++)
		add_evdev(list, vm, (*d)->id.node, number++);
	return list;
}
