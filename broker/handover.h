/* The steps of a device on its way into a VM and back, and the answers of worker and VMMs to them.
 *
 * Every function changes facts, records what people are to see, asks worker or VMM for something,
 * and marks the devices concerned. None decides what is next, and none calls back up: an answer
 * that comes before the question has returned is one more mark.
 */
#pragma once

#include "broker/registry.h"
#include "broker/worker.h"

/* Steps: see enum step. */

/* Looks at the IOMMU group of DEVICE, which is to go to VM; with pciIommuAddAll those of it that no
 * rule claims are led along. */
void handover_look(struct registry *registry, struct device *device, struct vm *vm);
void handover_refuse(struct registry *registry, struct device *device, struct vm *vm,
		     const char *reason);
void handover_open(struct registry *registry, struct device *device, struct vm *vm);
void handover_abandon(struct registry *registry, struct device *device);
void handover_give(struct registry *registry, struct device *device);
/* What was prepared is not given: REASON says why. */
void handover_end(struct registry *registry, struct device *device, const char *reason);
void handover_verify(struct registry *registry, struct device *device);
void handover_take(struct registry *registry, struct device *device);
void handover_repeat(struct registry *registry, struct device *device);

/* Facts that edges have learnt. */

/* DEVICE was on its way to its VM when the former broker ended, or when the answer was lost
 * (device_place.was_lost), and has not arrived. */
void handover_note_never_arrived(struct registry *registry, struct device *device);
/* The same, and the VM has it: goes on there. */
void handover_resume(struct registry *registry, struct device *device);
/* VM has DEVICE, as a former broker has left it and did not live to record. */
void handover_adopt(struct registry *registry, struct device *device, struct vm *vm);

/* Answers. */

void handover_worker_answered(void *data, const struct worker_answer *answer, int *fds);
void handover_attach_sent(struct registry *registry, struct device *device);
void handover_attached(struct registry *registry, struct device *device,
		       const struct vmm_result *result);
void handover_detached(struct registry *registry, struct device *device,
		       const struct vmm_result *result);
