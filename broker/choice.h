/* What people want of devices: a person's attach, detach, choice of a VM, suspend and resume. Each
 * is one more edge: it changes facts and marks the device.
 *
 * A choice is remembered for the device, however often it comes: by its ids and its serial number,
 * or where it has none, by its ids and its place. It is applied to an instance when that arrives,
 * and never to others that are plugged in: two of the same make are two devices. Only those of its
 * IOMMU group that may be in the same VM go along: a VM takes a group as a whole.
 */
#pragma once

#include "broker/registry.h"
#include "helper/macro.h"

struct choices;

/* Reads what is on record; unless IS_KEPT, which is [general] persistency, forgets it. Returns 0 or
 * -errno. */
int choices_new(struct store *store, bool is_kept, struct choices **ret_choices) _must_check_;
/* NULL is fine. */
void choices_free(struct choices *choices);

/* Stores them all, for a new database. */
void choices_save(const struct choices *choices);

/* DEVICE has arrived: what was chosen for it before holds again. */
void choice_recall(struct registry *registry, struct device *device);

/* The broker that was told of DEVICE's choices has ended, and with it they have. What is in a VM
 * stays there, and what is suspended goes back. */
void choice_forget(struct device *device);

/* Whether choice_forget would change what DEVICE is to do. */
bool choice_would_end(const struct device *device);

/* VM is one of DEVICE's, or NULL: as chosen, or the first. IS_KEPT: it is a choice; it is one in
 * any case where DEVICE goes to none without. */
void choice_attach(struct registry *registry, struct device *device, const char *vm, bool is_kept);
void choice_detach(struct registry *registry, struct device *device, bool until_replug);
/* The devices of KINDS (1 << enum device_kind) that are in the VM called NAME, or any for NULL. */
void choice_suspend(struct registry *registry, const char *name, unsigned kinds);
void choice_resume(struct registry *registry, const char *name, unsigned kinds);
/* VM has ended: what was suspended in it goes to the next one that is started. */
void choice_vm_has_exited(struct registry *registry, const struct vm *vm);
/* VM runs, perhaps since a former broker has ended: then the same. */
void choice_vm_was_found(struct registry *registry, const struct vm *vm);
