/* Which IOMMU groups a process has open: the kernel's word, whatever the VMM says. A group can be
 * open once at a time. Source: kernel, Documentation/driver-api/vfio.rst. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "helper/macro.h"

/* Has process PID the IOMMU group of the PCI function at ADDRESS open? Returns 1, 0, or -errno when
 * that can't be told. */
int vfio_group_is_open(pid_t pid, const char *address) _must_check_;

/* Calls FN for each group that process PID has open. Returns 0 or -errno. */
int vfio_group_each_open(pid_t pid, void (*fn)(void *data, int group), void *data) _must_check_;
