/* Everything that can block in the kernel runs in a process of its own.
 *
 * A USB device node can't be opened while the kernel configures the device, a driver may take its
 * time to let go: the loop must not wait for that, and one such device must not delay another. At
 * start the broker forks the worker, which does one job after the other and answers. Only while all
 * that there are have a job does the next one get another process; when they have answered, one is
 * left. The worker is the part that needs root.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "broker/loop.h"
#include "helper/macro.h"

#define WORKER_MAX_DISKS 16
#define WORKER_MAX_FDS (WORKER_MAX_DISKS + 2)

enum worker_job {
	WORKER_USB_OPEN, /* open the node for reading and writing and hold its disks exclusively, if
			  * the host does not use it; take it from host drivers */
	WORKER_USB_RELEASE, /* take the device's interfaces from their host drivers. -EBUSY: one
			     * has its interface still; detail says why, where the host uses what
			     * is below it, and nothing was done */
	WORKER_USB_FENCE,  /* no VM has it: shut its interfaces for everybody. -EBUSY: the host uses
			    * it, nothing was done */
	WORKER_USB_RETURN, /* open its interfaces, and load and let host drivers have those that
			    * have none */
	WORKER_PCI_TAKE, /* bind the IOMMU group to vfio-pci, if nobody but its VM has that open */
	WORKER_PCI_RETURN, /* give the function back to its host driver, and those of its IOMMU
			    * group with it if nobody has the group open */
	WORKER_PCI_LOOK,   /* has anybody the IOMMU group open? -EBUSY: yes; where it is not
			    * the VMM, nor what that has started, detail says who */
	WORKER_LOOK_OPEN,  /* it has left its VM: does somebody keep its node open? -EBUSY: yes,
			    * detail says who; to be told from the next VM by its process */
	WORKER_EVDEV_TAKE, /* see that nobody has grabbed it, let the VMM open it */
	WORKER_EVDEV_RETURN,
	WORKER_WATCH, /* USB, input: open the node for unplug.h. -ENODEV: it can't be */
};

#define WORKER_FORCE (1u << 0) /* even the host's last way to the network */
#define WORKER_ALONE (1u << 1) /* PCI_RETURN: not the group, and only if it has no driver */
#define WORKER_RESET (1u << 2) /* USB_OPEN, PCI_TAKE: as if it had just been plugged in */
#define WORKER_FOUND (1u << 3) /* USB_RELEASE: a VM was found to have it; open it for that, too */
#define WORKER_MUST_RESET (1u << 4) /* the same, TAKE too: what can't be reset goes to no VM */
#define WORKER_WAS_USED                                                                            \
	(1u << 5) /* USB_OPEN, USB_FENCE, USB_RELEASE, PCI_TAKE: the host used it at the last look \
		   */

#define WORKER_GROUP_IS_OURS                                                \
	(1u << 6) /* PCI_TAKE: its VM may have the IOMMU group open already \
		   */

#define WORKER_IS_AHEAD (1u << 7)  /* PCI_TAKE: its VM is about to be started with it */
#define WORKER_NOT_GROUP (1u << 8) /* PCI_RETURN: not the others of its group */

struct worker_request {
	uint64_t number;
	enum worker_job job;
	char devpath[512]; /* below /sys */
	uint64_t inode;    /* of the instance meant: another one is answered with -ENODEV */
	char node[64];
	uid_t uid;        /* TAKE: who the VMM runs as */
	pid_t pid;        /* PCI_LOOK: the VMM; 0: not known */
	unsigned options; /* WORKER_FORCE … */
};

struct worker_answer {
	uint64_t number;
	int result; /* 0 or -errno; -EBUSY: the host uses the device, see detail */
	char detail[256];
	pid_t pid; /* WORKER_LOOK_OPEN: whose */
	/* The descriptors: the node for the VMM, one more for unplug.h, and the disks that are
	 * held. */
	bool has_node, has_watch;
	int n_fds;
};

struct worker;

/* FDS belong to the callee. */
typedef void (*worker_fn)(void *data, const struct worker_answer *answer, int *fds);

/* Forks the worker: call it first, before databases and other descriptors exist, so that it has
 * little memory. FN gets every answer, in the loop; a job whose process was killed has -EIO.
 * Returns 0 or -errno. */
int worker_start(struct worker **ret_worker) _must_check_;
int worker_watch(struct worker *worker, struct loop *loop, worker_fn fn, void *data) _must_check_;
/* NULL is fine. Each process ends with its socket; one that is stuck in the kernel when it can. */
void worker_free(struct worker *worker);

/* Hands out a job; sets REQUEST->number. Returns 0; -EAGAIN when too many are under way; another
 * -errno when there is no process to do it. */
int worker_send(struct worker *worker, struct worker_request *request) _must_check_;

/* For a process that was forked off and may get stuck: closes all descriptors but the standard ones
 * and FD, which gets another number; returns that. */
int worker_keep_only(int fd);

/* The jobs themselves, run in the worker (worker_usb.c, worker_pci.c …). They fill ANSWER and FDS,
 * and leave nothing behind but what is in there: the next job may be another device's. */
void worker_usb_open(const struct worker_request *request, struct worker_answer *answer, int *fds);
void worker_usb_release(const struct worker_request *request, struct worker_answer *answer);
void worker_usb_fence(const struct worker_request *request, struct worker_answer *answer);
void worker_usb_return(const struct worker_request *request, struct worker_answer *answer);
void worker_pci_take(const struct worker_request *request, struct worker_answer *answer);
void worker_pci_return(const struct worker_request *request, struct worker_answer *answer);
void worker_pci_look(const struct worker_request *request, struct worker_answer *answer);
void worker_look_open(const struct worker_request *request, struct worker_answer *answer);
void worker_evdev_take(const struct worker_request *request, struct worker_answer *answer,
		       int *fds);
void worker_evdev_return(const struct worker_request *request, struct worker_answer *answer);
void worker_watch_node(const struct worker_request *request, struct worker_answer *answer,
		       int *fds);
