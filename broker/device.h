/* One device instance: what the broker knows of a device between its plug and its unplug.
 *
 * An instance is boot + devpath + inode of its sysfs directory: a replug makes a new one, a
 * retrigger does not. All instances are in one list, owned by struct manager (manager.h), which is
 * the only one to change them.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "broker/intake.h"
#include "broker/loop.h"
#include "broker/vmm.h"
#include "helper/macro.h"

struct manager;
struct vm;

enum device_kind {
	DEVICE_USB,
	DEVICE_PCI,
	DEVICE_EVDEV,
};

/* What the rule says beyond the VM; VHOTPLUG_OPTIONS. */
enum device_option {
	DEVICE_FORCE = 1 << 0,
	DEVICE_IOMMU_ADD_ALL = 1 << 1,
	DEVICE_IOMMU_SKIP_IF_SHARED = 1 << 2,
};

enum device_state {
	DEVICE_WAITING,   /* wanted by a VM that can't take it now */
	DEVICE_HELD,      /* was plugged in already and attachConnected = no */
	DEVICE_OPENING,   /* the worker opens its node */
	DEVICE_ATTACHING, /* the VMM has been asked */
	DEVICE_ATTACHED,  /* the VMM has it and no host driver holds it */
	DEVICE_RELEASING, /* PCI: the guest has been asked to let go and has not yet */
	DEVICE_DETACHING, /* the VMM has been asked to let go */
	DEVICE_REFUSED,   /* the host uses it: it is not handed over */
	DEVICE_FAILED,    /* will not heal by waiting; the reason says what to do */
};

/* What made a device move; "cause" in the history. */
enum device_cause {
	CAUSE_PLUG,
	CAUSE_UNPLUG,
	CAUSE_COLDPLUG,
	CAUSE_VM_START,
	CAUSE_VM_EXIT,
	CAUSE_CONFIG,
	CAUSE_RETRY,
	CAUSE_REBOOT,
	CAUSE_LOST,
};

struct device {
	struct device *next;
	int64_t row; /* in the table device; 0 before it is stored */

	/* Who it is. Strings are printable UTF-8. */
	char devpath[512]; /* below /sys */
	uint64_t inode;    /* of /sys + devpath */
	enum device_kind kind;
	char kernel_name[64];
	char node[64]; /* /dev/bus/usb/BBB/DDD, /dev/input/eventN; "" for PCI */
	char name[128];
	char vid_pid[16];
	unsigned speed; /* Mbit/s, rounded down; 0: unknown */

	/* What is wanted. */
	bool present;   /* plugged in, as far as we know */
	char rule[256]; /* "" when no rule claims it */
	char vms[256];  /* candidates, comma-separated, in order */
	char config[32];
	unsigned options;   /* enum device_option */
	unsigned order;     /* of the rule in the config: PCI devices are attached in this order */
	char family[64];    /* keeps its VM when it comes back as another device; "" */
	char family_vm[64]; /* the VM it was kept in for its family's sake; "" */
	char host_driver[64]; /* PCI: what held it when it was taken from the host; "" */
	char leader[512];   /* devpath of the device whose IOMMU group this one is given with; "" */
	char former_vm[64]; /* where it was before a move */
	char unreachable[64];     /* the VM that the move to failed: not tried again for now */
	pid_t unreachable_pid;    /* its process: another one may be tried */
	bool unreachable_is_full; /* it may be tried when another device has left it */
	uint64_t seqnum;          /* of the newest event that counted */

	/* What is. */
	enum device_state state;
	struct vm *vm;       /* counted reference while opening, attaching, attached, detaching */
	char vm_name[64];    /* the VM that state speaks of */
	char handle[96];     /* id in the VMM; "" while it has none */
	char guest_bus[64];  /* QEMU: where it is in the guest, while that is known */
	unsigned guest_port; /* 0: not known */
	bool was_arriving;   /* on record it was still on its way there */
	bool unverified;     /* attached on record; the VMM has not been asked yet */
	char reason[256];
	uint64_t since; /* ms, wall clock: when state was entered */

	/* What is under way. */
	enum device_cause cause;
	uint64_t started;          /* ms, monotonic: when the cause arrived */
	bool awaits_vm;            /* its VM was not running: the VM's start will be the cause */
	uint64_t attempted;        /* ms, monotonic: when the present attempt began */
	uint64_t request;          /* the worker's number; 0: none */
	struct vmm_result verdict; /* on an attach, while the kernel is asked what came of it */
	int held_fds[16];          /* disks held exclusively until the VMM has answered */
	size_t n_held_fds;
	struct loop_timer slow; /* while opening: then a person should know what takes so long */
	struct loop_timer retry;
	unsigned n_retries;
	char failure[256]; /* why the last attempt came to nothing; the history has it once */
	struct intake_client *waiting; /* helpers to acknowledge once the attach is on its way */
	struct loop_timer waiting_limit;
	struct manager *manager; /* for the timers */
	bool dropped; /* not in the list any more; the memory stays to the end of the pass */
	struct loop_garbage garbage;
};

const char *device_kind_name(enum device_kind kind);
/* -1 for a name that is none. */
int device_kind_from_name(const char *name);
const char *device_state_name(enum device_state state);
/* -1 for a name that is none. */
int device_state_from_name(const char *name);
const char *device_cause_name(enum device_cause cause);

/* Puts a printable copy of FROM into TO: what is not UTF-8 or is a control character becomes '?';
 * cut at SIZE - 1 bytes, never inside a character. FROM may be NULL. */
void text_copy(char *to, size_t size, const char *from);

/* The inode of /sys + DEVPATH, or 0 when it is not there. */
uint64_t sysfs_inode(const char *devpath);

/* Calls FN with the name of every interface of the USB device at DEVPATH, "1-2:1.0". */
void usb_each_interface(const char *devpath, void (*fn)(void *data, const char *interface),
			void *data);

/* The host driver bound to INTERFACE, or false when there is none. usbfs does not count: it is the
 * VMM's own claim. Source: kernel, drivers/usb/core/devio.c. */
bool usb_interface_driver(const char *devpath, const char *interface, char *ret_driver,
			  size_t size);

/* The same for the whole device, as "usbhid on 1-2:1.0". */
bool usb_host_driver(const char *devpath, char *ret_text, size_t size);
