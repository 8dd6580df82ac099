/* What every attempt to bring a device into a VM has in common: how it ends, well or badly, when
 * the next one may begin, and who waits for it.
 *
 * All of it changes facts, records what people are to see, and marks; nothing is asked for here.
 */
#pragma once

#include "broker/registry.h"

#define ATTEMPT_FIRST_RETRY_MS 200

/* DEVICE is in no VM, and on the way to none: lets go of all that it holds for one. */
void attempt_end(struct device *device);
/* The VMM has answered: the host's disks need not be held any more. */
void attempt_close_disks(struct device *device);
/* An attempt has come to nothing, and DEVICE is in STATE for that REASON. The next one is DELAY_MS
 * away or more; a move goes back where it came from. */
void attempt_fail(struct registry *registry, struct device *device, enum device_state state,
		  const char *reason, uint64_t delay_ms);
/* Tries again later, each time later, and not before AT_LEAST ms have passed. */
void attempt_back_off(struct device *device, uint64_t at_least);
/* DEVICE is in its VM. */
void attempt_note_arrived(struct registry *registry, struct device *device);
/* DEVICE is not in its VM any more: ends its stay there, in the history too. */
void attempt_note_left(struct registry *registry, struct device *device, enum device_cause cause,
		       const char *detail);

/* Marks DEVICE, and those that may have waited for it. */
void attempt_mark_all(struct registry *registry, struct device *device);

/* Helpers wait until their device's attach is on its way, or for some 300 ms: CLIENT (or NULL) is
 * acknowledged by attempt_release_helpers at the latest. */
void attempt_add_helper(struct registry *registry, struct device *device,
			struct intake_client *client);
void attempt_release_helpers(struct device *device);
/* DEVICE has been unplugged: nothing of it stays open until its VM answers. */
void attempt_note_unplugged(struct device *device);
/* Lets go of everything that DEVICE holds and waits for. */
void attempt_let_go(struct device *device);
