/* A VM that is started with its devices: which those are, and the arguments for its VMM. */
#pragma once

#include "broker/control_verbs.h"
#include "broker/registry.h"
#include "conf/config.h"

/* Gets the PCI devices that go to VM ready: vfio-pci is to have them before it starts, also those
 * that are held, unless it runs already. Calls FN for each. */
void vmm_args_prepare(struct registry *registry, const char *vm,
		      void (*fn)(void *data, const struct device *device), void *data);

/* The arguments, as a new array of strings: for PCI devices that vfio-pci has, and input devices,
 * in the order of their rules; what their groups and VM say besides: firmware, ACPI tables. */
json_t *vmm_args_list(const struct registry *registry, const struct config *config,
		      const struct config_vm *vm, const struct control_args *args);
