/* Moves one device: from what is to what should be. See manager.h for the idea. */
#pragma once

#include "broker/manager.h"

/* Brings DEVICE in line, as far as nothing else is under way for it; the answer to whatever is
 * under way comes back here. DEVICE may be freed. */
void reconcile(struct manager *manager, struct device *device);

/* The same, and what failed or waits for its time is tried at once. */
void reconcile_now(struct manager *manager, struct device *device);

/* Sets DEVICE's cause, and the time from which its history counts. */
void device_set_cause(struct device *device, enum device_cause cause);

/* Records the end of DEVICE's stay in its VM: history, handle, reference. It waits then. */
void device_has_left(struct manager *manager, struct device *device, enum device_cause cause,
		     const char *detail);

/* Records that its VM has it. */
void device_has_arrived(struct manager *manager, struct device *device, const char *detail);

/* The name that DEVICE has in a VMM: that of the instance, whatever the VM, so that an attach that
 * was sent twice is noticed. */
void device_make_handle(const struct device *device, char *ret_handle, size_t size);

/* Did a former broker begin to attach DEVICE, and nobody knows what came of it? It is detached,
 * whatever it was, and attached anew. */
bool device_is_doubtful(const struct device *device);

/* Is DEVICE in its VM by our book, while its VMM keeps no list that could tell? */
bool device_is_unlisted(const struct device *device);
/* DEVICE is in its VM by what the VMM says: asks the kernel what the VMM can't know. Has the VM
 * really opened it still, and has no host driver taken it? */
void reconcile_check(struct manager *manager, struct device *device);

/* May DEVICE be in the VM called NAME, by the wish on record? */
bool device_may_be_in(const struct device *device, const char *name);

/* Acknowledges CLIENT (or NULL) once DEVICE's attach is on its way, or at once when there is none.
 */
void reconcile_await(struct manager *manager, struct device *device, struct intake_client *client);

/* Lets go of everything DEVICE holds and waits for, before it is dropped. */
void device_let_go(struct device *device);

/* Answers of the worker and of the VMs. */
void reconcile_worker_answer(void *data, const struct worker_answer *answer, int *fds);
void reconcile_attach_sent(struct manager *manager, struct device *device);
void reconcile_attached(struct manager *manager, struct device *device,
			const struct vmm_result *result);
void reconcile_detached(struct manager *manager, struct device *device,
			const struct vmm_result *result);
/* Why DEVICE's VM can't be used has changed. */
void reconcile_vm_reason(struct manager *manager, struct device *device, struct vm *vm);
