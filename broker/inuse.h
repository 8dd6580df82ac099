/* Does the host use what lies below a device? Looked at before the device is handed over.
 *
 * Whatever can't be told counts as in use. For the jobs of the worker only: may block.
 */
#pragma once

#include <sys/types.h>

#include "helper/macro.h"

#define INUSE_MAX_DISKS 256

/* A device that has a node: /dev/NAME and its numbers. */
struct node {
	char name[64];
	dev_t number;
	bool is_block;
};

struct nodes {
	size_t n;
	struct node *list;
};

struct inuse {
	size_t n_paths;
	char **paths;         /* of what was looked at, "/sys/devices/…" */
	struct nodes nodes;   /* disks, their partitions, and other ways to them (sg, bsg, st) */
	struct nodes others;  /* nodes of any other kind: a serial line's, a camera's, a screen's */
	struct nodes claimed; /* USB devices of which somebody has claimed an interface by usbfs */
	bool has_interface;   /* a network interface */
	bool has_hidden;      /* one in another network namespace */
	bool glances;         /* its disks are not held: somebody may be about to mount them */
	bool was_used;        /* at the last look */
	bool was_needed;      /* by the host's only default route, when it was refused for that */
	bool is_needed;       /* so it is now: set by inuse_by_routes */
	unsigned n_elsewhere; /* default routes that don't go through it, nor through a tunnel */
	bool has_lock;        /* routes_lock is one (worker_host.h) */
	int routes_lock;      /* no other job takes a network interface from the host meanwhile */
	size_t n_disks;
	int disks[INUSE_MAX_DISKS]; /* whole disks, open exclusively: nobody mounts them meanwhile
				     */
	char words[256];
};

/* Closes the disks and the lock, and frees what a zeroed struct has got since. */
void inuse_finish(struct inuse *inuse);

/* In this order; each returns 0, or -EBUSY with words for the use. The first may be called for
 * several paths. It looks at everything below PATH, however deep, and holds its disks; the next
 * finds the programs that use them, or have claimed a USB device. What the last two find, force
 * gives away: nodes that somebody has open, and the host's way to the network (the only default
 * route of a table, a tunnel that may go through them, a file system or a disk of another machine,
 * an interface that a container has).
 * Where there was such a use, and there is no way at all just now, that can't be told. */
int inuse_below(struct inuse *inuse, const char *path) _must_check_;
int inuse_by_processes(struct inuse *inuse) _must_check_;
/* The same without those that have claimed a USB device: the programs that use its disks. */
int inuse_by_readers(struct inuse *inuse) _must_check_;
int inuse_by_holders(struct inuse *inuse) _must_check_;
int inuse_by_routes(struct inuse *inuse) _must_check_;

/* Adds a node of no disk that sysfs does not know: NUMBER, called as FORMAT says. Returns 0, or
 * -EBUSY with words. */
int inuse_note_node(struct inuse *inuse, dev_t number, const char *format, ...)
	_printf_(3, 4) _must_check_;

/* Sets the words; returns -EBUSY. */
int inuse_say(struct inuse *inuse, const char *format, ...) _printf_(2, 3);

/* The parts. */

/* Adds the device whose directory PATH is. Returns 0, also when it has no number; or -errno. */
int nodes_add(struct nodes *nodes, const char *path) _must_check_;
/* The one with NUMBER, or NULL. */
const struct node *nodes_find(const struct nodes *nodes, dev_t number, bool is_block);

/* inuse_disk.c: opens the whole disk whose directory PATH is exclusively and appends it to INUSE,
 * or closes it at once, if that only glances.
 * Returns 0; or -EBUSY with the words for its use.
 * Source: open(2), O_EXCL without O_CREAT on block devices. */
int inuse_hold_disk(struct inuse *inuse, const char *path) _must_check_;
/* What the kernel itself has opened, not exclusively: loop devices, targets and gadgets. The same
 * returns. */
int inuse_by_kernel(struct inuse *inuse) _must_check_;

enum opener { OPENER_NONE, OPENER_READS, OPENER_WRITES };

/* inuse_open.c: finds who has one of NODES open, besides the broker and its worker: first who can
 * write. Returns an enum opener, with "NAME (process N)" in RET_WHO and, where not NULL, the node
 * in RET_NODE; or -errno when that can't be told. */
int inuse_find_opener(const struct nodes *nodes, const struct node **ret_node, char *ret_who,
		      size_t size) _must_check_;
/* The same with the process's number. */
int inuse_find_process(const struct nodes *nodes, pid_t *ret_pid, char *ret_who,
		       size_t size) _must_check_;
/* Has process PID one of NODES open? The same returns. */
int inuse_is_open_in(const struct nodes *nodes, pid_t pid) _must_check_;
/* Has another process than PID, and those that it has started, one of NODES open, and PID none? 1,
 * with RET_WHO; 0, also where nobody is seen to have it; or -errno when that can't be told. */
int inuse_find_stranger(const struct nodes *nodes, pid_t pid, char *ret_who,
			size_t size) _must_check_;
