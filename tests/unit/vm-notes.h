/* What a VM has told its owner: the handler of the tests of a backend. */
#pragma once

#include <cmocka.h>

#include "broker/vm.h"

static struct vm_notes {
	unsigned n_up, n_exited, n_sent, n_answers;
	char handles[8][96]; /* at the last up */
	size_t n_handles;
	const char *handle; /* the one that is detached */
	struct vmm_result result;
} notes;

static inline void note_up(void *data, struct vm *vm, char *const *handles, size_t n)
{
	(void) data, (void) vm;
	notes.n_up++;
	notes.n_handles = n;
	for (size_t i = 0; i < n; i++)
		snprintf(notes.handles[i], sizeof(notes.handles[i]), "%s", handles[i]);
}

static inline void note_exited(void *data, struct vm *vm)
{
	(void) data, (void) vm;
	notes.n_exited++;
}

static inline void note_reason(void *data, struct vm *vm)
{
	(void) data, (void) vm;
}

static inline void note_handle_changed(void *data, struct device *device)
{
	(void) data, (void) device;
	fail_msg("the handle is ours");
}

static inline void note_attach_sent(void *data, struct device *device)
{
	(void) data, (void) device;
	notes.n_sent++;
}

static inline void note_attached(void *data, struct device *device, const struct vmm_result *result)
{
	(void) data, (void) device;
	notes.n_answers++;
	notes.result = *result;
}

static inline void note_detached(void *data, struct vm *vm, struct device *device,
				 const char *handle, const struct vmm_result *result)
{
	(void) vm;
	assert_string_equal(handle, notes.handle);
	note_attached(data, device, result);
}

static const struct vm_handler note_handler = {
	.up = note_up,
	.exited = note_exited,
	.reason = note_reason,
	.handle_changed = note_handle_changed,
	.attach_sent = note_attach_sent,
	.attached = note_attached,
	.detached = note_detached,
};
