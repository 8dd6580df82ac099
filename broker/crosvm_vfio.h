/* PCI devices of one crosvm VM, through crosvm's own program: "crosvm vfio add" and "vfio remove".
 *
 * The program must be the one that runs the VM ("crosvm =" in [general]): the request behind it has
 * been renamed three times, and one that crosvm does not know is never answered. Neither answer
 * says what the guest makes of it, an error does not mean that crosvm has not got the device, and
 * there is no list to ask for; whether crosvm has it open is the kernel's to say (vm_ask_open). So
 * the kernel is asked when the program has ended, and for a probe (crosvm_functions.h). Sources:
 * crosvm, src/main.rs (vfio), src/crosvm/sys/linux.rs (handle_hotplug_command),
 * devices/src/pci/pcie/pcie_rp.rs (hot_plug, hot_unplug).
 */
#pragma once

#include "broker/vm.h"

struct crosvm_vfio;

/* Returns 0 or -ENOMEM. VM must outlive it. */
int crosvm_vfio_new(struct vm *vm, struct crosvm_vfio **ret_vfio) _must_check_;
/* What is under way is dropped without an answer. NULL is fine. */
void crosvm_vfio_free(struct crosvm_vfio *vfio);

/* The crosvm that runs the VM. Returns 0 or -ENOMEM. */
int crosvm_vfio_set_program(struct crosvm_vfio *vfio, const char *program) _must_check_;

/* As attach, detach and reset in vmm.h; one request at a time, in the order they come. */
void crosvm_vfio_attach(struct crosvm_vfio *vfio, struct device *device);
void crosvm_vfio_detach(struct crosvm_vfio *vfio, struct device *device, const char *handle);
void crosvm_vfio_reset(struct crosvm_vfio *vfio);

/* Is HANDLE one of a PCI device? */
bool crosvm_vfio_is_handle(const char *handle);
/* … of one that the guest will never see? It is in no list: given again, it is refused again. */
bool crosvm_vfio_is_lost(const char *handle);
/* Was it given by the process that VM is now? */
bool crosvm_vfio_is_current(const struct vm *vm, const char *handle);
