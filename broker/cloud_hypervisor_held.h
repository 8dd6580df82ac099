/* Which of our devices a cloud-hypervisor holds on to. The kernel tells it by the IOMMU group that
 * the process has open; of several functions of one group, or where the process can't be seen, what
 * the VM says itself ("vm.info", its device_tree) is all there is. */
#pragma once

#include <jansson.h>

#include "broker/pci.h"
#include "broker/vfio_group.h"

/* More than 16 segments of 32 slots can hold. */
#define CH_MAX_LISTED 512
#define CH_MAX_NODES 2048
#define CH_MAX_HANDLES 64

/* A function that the VM is to have. */
struct ch_listed {
	char address[PCI_ADDRESS_SIZE];
	int group; /* or -errno */
};

struct ch_held {
	const json_t *info;
	bool is_unseen; /* the process is in a pid namespace that can't be seen from here */
	struct vfio_groups open;
	size_t n_listed;
	struct ch_listed listed[CH_MAX_LISTED];
};

struct ch_handles {
	size_t n, n_listed; /* of n, those that the config names; they come first */
	char items[CH_MAX_HANDLES][96];
};

/* Looks once at what process PID has open, for all that is asked afterwards. INFO is borrowed for
 * as long. Returns 0, or -E2BIG when INFO names more than a VM can have. */
int ch_held_read(struct ch_held *ret_held, pid_t pid, const json_t *info) _must_check_;

/* Does the VM hold on to the device that HANDLE stands for, though its config may name it no more?
 * Returns 1, 0, or -errno (vfio_groups_explain) when that can't be told. */
int ch_held_has(const struct ch_held *held, const char *handle) _must_check_;

/* Has the VM a VFIO container and no card, as after an add that failed? Before version 49, which
 * drops it with the last card, also when it has had one. */
bool ch_held_has_leftover(const struct ch_held *held);

/* Why it takes its time, where ch_held_has has said R: else OTHERWISE. */
void ch_held_explain(const struct ch_held *held, int r, const char *otherwise, char *ret_text,
		     size_t size);

/* All handles of ours that the VM is to have by its config, or has still, or may have. Returns 0,
 * or -E2BIG when there are more than *RET_HANDLES has room for. */
int ch_held_list(const struct ch_held *held, struct ch_handles *ret_handles) _must_check_;
/* Is HANDLE one of HANDLES that the config does not name any more? */
bool ch_handles_leave(const struct ch_handles *handles, const char *handle);
