/* A device that is in no VM: kept from the host, given back to it, and whether the VM that it was
 * in still has it open. Steps and answers as in handover.h, for devices on the way out.
 */
#pragma once

#include "broker/registry.h"
#include "broker/worker.h"

/* Steps: see enum step. */

/* Keeps the host from DEVICE, which is in no VM, unless it uses it. */
void handback_fence(struct registry *registry, struct device *device);
/* Gives DEVICE, which is in no VM, back to the host if it is there, and removes it. */
void handback_drop(struct registry *registry, struct device *device);

/* For handover. */

/* DEVICE was set aside for a VM by the rules, and is refused: the host is better off with it. */
void handback_spare(struct registry *registry, const struct device *device);
/* DEVICE is about to leave its VM, whose process lives on: does somebody keep its node open? The
 * answer is in the history and, as long as nothing else happens, in the reason. */
void handback_look(struct registry *registry, const struct device *device);

/* Answers. */

void handback_note_fenced(struct device *device, const struct worker_answer *answer);
void handback_note_look(struct registry *registry, const struct worker_answer *answer);
