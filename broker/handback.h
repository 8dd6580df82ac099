/* A device that is in no VM: kept from the host, given back to it, and whether the VM that it was
 * in still has it open. Steps and answers as in handover.h, for devices on the way out.
 */
#pragma once

#include "broker/registry.h"
#include "broker/worker.h"

/* Steps: see enum step. */

/* Keeps the host from DEVICE, which is in no VM, unless it uses it. */
void handback_fence(struct registry *registry, struct device *device);
/* Gives DEVICE, which is in no VM, back to its host driver, again and again until that has worked:
 * no rule wants it, or it is held, for what the rules have set aside, or it has no fence, for what
 * a VM has had. With a REASON it only says
 * why it is not done yet. */
void handback_return(struct registry *registry, struct device *device, const char *reason);
/* Removes DEVICE, which is the host's again, or unplugged. */
void handback_drop(struct registry *registry, struct device *device);

/* For handover. */

/* DEVICE was set aside for a VM by the rules, and is refused: the host is better off with it. It is
 * not turned to its VM again before the worker has answered. */
void handback_spare(struct registry *registry, struct device *device);
/* DEVICE is about to leave its VM, whose process lives on: does somebody keep its node open? The
 * answer is in the history and, as long as nothing else happens, in the reason. */
void handback_look(struct registry *registry, const struct device *device);

/* Answers. */

/* To what was asked for the sake of DEVICE, which is in no VM. */
void handback_note_answer(struct registry *registry, struct device *device,
			  const struct worker_answer *answer);
void handback_note_look(struct registry *registry, const struct worker_answer *answer);
