/* Which IOMMU groups a process has open, or functions of: the kernel's word, whatever the VMM says.
 * A group can be open once at a time, and not beside its functions. Source: kernel,
 * Documentation/driver-api/vfio.rst (group, and VFIO device cdev). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "helper/macro.h"

#define VFIO_MAX_GROUPS 64
#define VFIO_MAX_DESCRIPTORS 16384 /* a process may have far more: to tire us out, say */

struct vfio_groups {
	int error;          /* 0, or why there may be more of them: see vfio_groups_explain */
	bool has_container; /* it has opened one, whatever is in it */
	size_t n;
	int numbers[VFIO_MAX_GROUPS];
};

/* Fills *RET_GROUPS with what process PID has open, by one walk through its descriptors; those
 * behind the bounds are not looked at. */
void vfio_groups_read(pid_t pid, struct vfio_groups *ret_groups);

/* Is GROUP one of GROUPS? Returns 1, 0, or -errno when that can't be told. */
int vfio_groups_have(const struct vfio_groups *groups, int group) _must_check_;

/* Why something can't be told, R, in words for people. */
const char *vfio_groups_explain(int r);

/* The IOMMU group of the PCI function at ADDRESS, 0 or more; -ENODEV: the kernel has taken the
 * function away, so nobody has it any more; another -errno when that can't be told. */
int vfio_group_of(const char *address) _must_check_;
