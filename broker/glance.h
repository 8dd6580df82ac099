/* A look at what is another process's: its program, what it has open, its own /dev.
 *
 * All that may lie on a file system of its user's own, whose server never answers (FUSE, or an
 * overlay above it). Nothing here asks one: only what the kernel has in memory is seen. So none of
 * it waits, and the loop may call it.
 */
#pragma once

#include <sys/types.h>

#include "helper/macro.h"

struct glance {
	mode_t mode;
	dev_t device; /* on which it lies */
	ino_t inode;
	dev_t number; /* of a node */
};

/* What the link NAME in the directory DIR leads to, where that is one of /proc/PID/exe or
 * /proc/PID/fd; NAME may be a whole path. Returns 0 or -errno. */
int glance_behind(int dir, const char *name, struct glance *ret_glance) _must_check_;

/* What process PID has at PATH, of which the last link is not followed. Returns 0; -EAGAIN when the
 * kernel would have to ask, so that the process has not opened it lately; another -errno, as of
 * open(2); -ENOSYS or -EINVAL before Linux 5.12. */
int glance_inside(pid_t pid, const char *path, struct glance *ret_glance) _must_check_;
