/* What the broker needs of a virtual machine monitor, one implementation per kind.
 *
 * Every request is asynchronous and is answered exactly once, perhaps before the call returns.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "conf/vmms.h"
#include "helper/macro.h"

struct config_general;
struct config_vm;
struct device;
struct vm;

enum vmm_outcome {
	VMM_OK,
	VMM_GONE, /* detach: nothing of that name is there any more; attach: the device has gone */
	VMM_PENDING, /* detach: the guest has been asked, and has not let go yet */
	VMM_RETRY,   /* may heal by itself */
	VMM_FAILED,  /* will not heal by waiting; the detail says what to do */
};

/* A VMM's own words, and what to do about them. */
#define VMM_DETAIL_SIZE 512

struct vmm_result {
	enum vmm_outcome outcome;
	unsigned delay_ms; /* VMM_RETRY: not before so many ms have passed; 0: as usual */
	bool is_full;      /* attach: it may work when another device has left the VM */
	bool is_unknown;   /* attach, VMM_RETRY: the answer was lost; the VM may have it */
	bool until_end;    /* attach, VMM_FAILED: it has it open all the same; detach, VMM_PENDING:
			    * nobody is asked again. What ends that is the end of its process. */
	char detail[VMM_DETAIL_SIZE];
};

/* Fills *RESULT: the detail in words, cut. */
void vmm_set_result(struct vmm_result *result, enum vmm_outcome outcome, const char *format, ...)
	_printf_(3, 4);

struct vmm {
	/* Sets up VM->backend. Returns 0 or -errno. */
	int (*init)(struct vm *vm);
	/* Takes over what GENERAL and CONFIG say of this kind of VM, now and whenever they have
	 * changed. Returns 0, or -errno with the former config kept. NULL: nothing to be said. */
	int (*configure)(struct vm *vm, const struct config_general *general,
			 const struct config_vm *config);
	/* Does CONFIG lead to the same VM as it does now? Otherwise another one takes its place.
	 * NULL: its name, its socket and its user say it all. */
	bool (*is_same)(const struct vm *vm, const struct config_vm *config);
	/* Frees VM->backend; requests under way are dropped without an answer. */
	void (*finish)(struct vm *vm);
	/* Asks what the VM has: vm_probed (vm.h) is the answer. One at a time. What a former broker
	 * began, and nobody knows what came of it, is undone before or listed. */
	void (*probe)(struct vm *vm);
	/* Gives it DEVICE, whose node is open as FD (borrowed for the call), under DEVICE->handle.
	 * Calls vm_attach_sent once the request is on its way, then vm_attached. A VMM that makes
	 * up its own names puts the one it gave into DEVICE->handle before it answers. */
	void (*attach)(struct vm *vm, struct device *device, int fd);
	/* Takes HANDLE away; DEVICE may be NULL. Answer: vm_detached. */
	void (*detach)(struct vm *vm, struct device *device, const char *handle);
	/* DEVICE has been unplugged while the answer to its attach is awaited: what is open of it
	 * is closed. NULL where nothing is. */
	void (*unplugged)(struct vm *vm, const struct device *device);
	/* The VM's process has ended: answer what is under way with VMM_RETRY, forget what was
	 * known of it. */
	void (*reset)(struct vm *vm);
	/* The VMM has connected to VM->listen; the peer has been checked. Takes over FD and returns
	 * 0, or -errno. NULL for a kind that does not dial. */
	int (*dialled)(struct vm *vm, int fd);
	/* Has VM, by its answer to the last probe, been asked before to give HANDLE back? NULL:
	 * that can't be told. */
	bool (*is_leaving)(const struct vm *vm, const char *handle);

	/* The VMM does not reset a USB device that it gets: what a former VM has left on it (an
	 * endpoint that is stalled, say) would stay. */
	bool wants_reset;
	/* The VMM makes up the handles: a free one is given to the next device, and one that is not
	 * on record is somebody else's. Otherwise handles are ours alone (device_make_handle). */
	bool gives_handles;
	/* PCI: one process of it takes one card while it runs, and keeps it. */
	bool keeps_one_card;
	/* Might VM, which is up and keeps one card, take DEVICE as its one? By what is known of it,
	 * since this is asked at every decision. Returns false with the REASON. NULL: any. */
	bool (*takes_card)(const struct vm *vm, const struct device *device, char *reason,
			   size_t size);
};

/* vmm_qemu, vmm_crosvm …: one for each row of the table in conf/vmms.h. */
#define VMM_DECLARE(id, name, word, kinds, delay, ...) extern const struct vmm vmm_##name;
VMM_TABLE(VMM_DECLARE)
#undef VMM_DECLARE
