/* What the worker's jobs share: answers in words, locks, and nodes. For worker_*.c only. */
#pragma once

#include "broker/inuse.h"
#include "broker/worker.h"

/* Fills ANSWER; returns RESULT. */
int worker_fail(struct worker_answer *answer, int result, const char *format, ...) _printf_(3, 4);

/* Jobs on the same NAME come after each other, by a file that only root may open: what anybody may
 * open, a directory of sysfs say, anybody may lock. One that was given up may still be at it.
 * Returns a descriptor whose end is the lock's, or -errno with ANSWER filled: then nothing is to be
 * done. Source: flock(2). */
int worker_lock(const char *name, struct worker_answer *answer) _must_check_;

/* Has REQUEST's instance gone? Another one may have its place by now. Then ANSWER is filled. */
bool worker_has_gone(const struct worker_request *request, struct worker_answer *answer);

/* The host used the device at the last look, and does not at this one, which INUSE has: perhaps it
 * is being mounted anew, or its file system checked, so this one is to be a glance. Two seconds
 * later that must still be so: blocks that long, and returns true with INUSE as new; false, at
 * once: this look is enough. */
bool worker_looks_again(const struct worker_request *request, struct inuse *inuse);

/* What force gives away: nodes below INUSE's devices that somebody has open, and the host's way to
 * the network. Where there is a network interface, INUSE holds a lock from now on: of two that are
 * looked at at the same time, each would be the way that is left without the other. Waits a little
 * for the lock. Returns 0, or -EBUSY with words. */
int worker_check_needs(const struct worker_request *request, struct inuse *inuse) _must_check_;

/* Loads the modules that NAME (a module or an alias) stands for, as the kernel itself does. Nothing
 * to load is fine: the driver may be built in. */
void worker_load_module(const char *name);
/* Loads the host's driver for what is at DEVICE, "/sys/…": while it was claimed, udevd was kept
 * from doing that. It binds when it is asked to probe, or by itself. */
void worker_load_driver(const char *device);

/* Opens REQUEST's node for reading and writing, and makes sure that it belongs to the instance that
 * was meant. Returns a descriptor that the caller closes, or -errno with ANSWER filled. */
int worker_open_node(const struct worker_request *request, struct worker_answer *answer);

/* Opens it once more, to see its unplug, and adds that to ANSWER and FDS. Does nothing where it
 * can't. */
void worker_open_watch(const struct worker_request *request, struct worker_answer *answer,
		       int *fds);
