/* What people see of a device: its state, the reason, since when, and the history. The only writer
 * of all these; what has changed is queued for the store, and nothing else is.
 */
#pragma once

#include "broker/registry.h"

/* DEVICE is in STATE, for the reason given. A state that is entered anew gets a new "since". */
void record_set(struct registry *registry, struct device *device, enum device_state state,
		const char *format, ...) _printf_(4, 5);
/* The state is to be about the VM called NAME from now on; record_set tells. */
void record_name_vm(struct device *device, const char *name);
/* DEVICE passes through STATE: nobody is told unless it lasts (record_set), and whoever returns to
 * the state before has never left it. */
void record_pass_through(struct device *device, enum device_state state);
/* The wish or the handle has changed. */
void record_save(struct registry *registry, struct device *device);

/* Its VM has it: DETAIL says where. */
void record_arrived(struct registry *registry, struct device *device, const char *detail);
/* It has left its VM, and waits. */
void record_left(struct registry *registry, struct device *device, enum device_cause cause,
		 const char *detail);
/* LEFT is out of its VM, but WHO has it open all the same. DEVICE is what it is now; NULL:
 * forgotten.
 */
void record_left_open(struct registry *registry, const struct left_device *left,
		      struct device *device, const char *who);
/* An attach has come to nothing: it is in STATE now. The history has the same reason once, however
 * often it is tried. */
void record_failed(struct registry *registry, struct device *device, enum device_state state,
		   const char *reason);

/* DEVICE is about to leave the list. */
void record_forget(struct registry *registry, struct device *device);

/* FN is called after each pass for every device whose record has changed; for one that is gone, at
 * once. There is one observer; NULL: none. */
void record_observe(struct registry *registry, registry_observer_fn fn, void *data);
/* Tells the observer; called at the end of a pass. */
void record_tell(struct registry *registry);
