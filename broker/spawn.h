/* Programs that the broker starts and does not wait for. */
#pragma once

#include <sys/types.h>

#include "helper/macro.h"

/* A descriptor of ours, and the number that it has in the program. */
struct spawn_fd {
	int ours, its;
};

/* Starts the program ARGV[0] (a path) in a process group of its own, so that all of it can be
 * killed. It has the N descriptors FDS and, as standard input, /dev/null; the signals that the
 * broker keeps for its loop are not blocked in it. Returns 0 or -errno, as of execve(2) too. */
int spawn_program(const char *const *argv, const struct spawn_fd *fds, size_t n,
		  pid_t *ret_pid) _must_check_;
