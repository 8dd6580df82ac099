/* One device instance: what the broker knows of a device between its plug and its unplug.
 *
 * An instance is boot + devpath + inode of its sysfs directory: a replug makes a new one, a
 * retrigger does not. All instances are in one list (registry.h). What changes of a device are
 * facts; whoever changes one marks the device, and the next pass (reconcile.h) moves it.
 */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "broker/kept.h"
#include "broker/loop.h"
#include "broker/vmm.h"
#include "conf/options.h"
#include "helper/macro.h"

struct intake_client;
struct registry;
struct vm;

enum device_kind {
	DEVICE_USB,
	DEVICE_PCI,
	DEVICE_EVDEV,
};

enum device_state {
	DEVICE_WAITING,   /* wanted by a VM that can't take it now */
	DEVICE_HELD,      /* was plugged in already and attachConnected = no */
	DEVICE_CHOOSE,    /* several VMs may have it, and nobody has chosen one */
	DEVICE_DETACHED,  /* a person has taken it out */
	DEVICE_SUSPENDED, /* it is out until resume */
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
	CAUSE_LOST,
	CAUSE_USER,
};

/* Why a device is to be in no VM, whatever its rule says. */
enum device_away {
	AWAY_NOT,
	AWAY_DETACHED,     /* by hand, until it is attached by hand */
	AWAY_UNTIL_REPLUG, /* the same, for this instance */
	AWAY_SUSPENDED,    /* until resume, or its VM's end */
};

/* How many bytes a text of a device has at most. */
#define DEVICE_PATH_SIZE 512
#define DEVICE_WORD_SIZE 64 /* a name of the kernel's, of a VM, of a family; a node */
#define DEVICE_NAME_SIZE 128
#define DEVICE_LIST_SIZE 256 /* a rule, VMs, interfaces */
#define DEVICE_HANDLE_SIZE 96
#define DEVICE_CONFIG_SIZE 32

/* Who it is; does not change. Texts are printable UTF-8, and "" where there is none. */
struct device_identity {
	kept_text devpath; /* below /sys */
	uint64_t inode;    /* of /sys + devpath */
	enum device_kind kind;
	unsigned class; /* of the device: 0xCCSSPP */
	kept_text kernel_name;
	kept_text node; /* /dev/bus/usb/BBB/DDD, /dev/input/eventN; "" for PCI */
	kept_text name;
	kept_text vid_pid;
	unsigned speed; /* Mbit/s, rounded down; 0: unknown */
	int group;      /* PCI: the number of its IOMMU group; -1: it has none */

	/* For people and programs that ask, as class is; as udev has them, or "". */
	kept_text vendor_name, model_name;
	kept_text serial;
	kept_text interfaces; /* USB: ":030101:" */
};

/* What is wanted of it. */
struct device_wish {
	bool present;   /* plugged in, as far as we know */
	bool held;      /* was plugged in already and attachConnected = no */
	bool fence;     /* USB: while no VM has it, the host is to have it neither */
	bool unfenced;  /* USB, PCI: fence = no: while no VM has it, it is the host's */
	bool prepare;   /* PCI: its VM is about to be started with it: vfio-pci is to have it */
	unsigned order; /* of the rule in the config */
	kept_text rule; /* "" when no rule claims it */
	kept_text vms;  /* candidates, comma-separated, in order */
	kept_text config;
	kept_text family;    /* keeps its VM when it comes back as another device; "" */
	kept_text family_vm; /* the VM it was kept in for its family's sake; "" */
	kept_text own_vms;   /* of one with a family: what its rule says; "": not known */
	kept_text leader;    /* devpath of the device whose IOMMU group it is given with; "" */
	uint64_t seqnum;     /* of the newest event that counted */
	unsigned options;    /* enum config_option; OPTION_ASK: without a choice it goes to none */

	/* What people want of it (choice.h), and what the config says about that. */
	unsigned away; /* enum device_away */
	bool was_away; /* so it is on record, of a former broker */
	bool skips_suspend;
	kept_text chosen; /* one of vms; "": nobody has chosen */
	kept_text tag;
};

/* How its unplug is seen while a VM has it (unplug.h). */
struct device_unplug {
	struct registry *registry;
	struct loop_source *source; /* NULL: only udev will tell */
	int fd;
	bool asked; /* the worker was asked for it, whatever came of that */
};

/* Where it is. */
struct device_place {
	struct vm *vm;     /* counted reference while opening, attaching, …, detaching */
	kept_text handle;  /* id in the VMM; "" before the VMM has been asked */
	kept_text bus;     /* where it is in the guest, while that is known */
	unsigned port;     /* 0: not known */
	bool is_cold;      /* the VM has had it since its start, under a name of somebody else's */
	bool unverified;   /* attached on record; the VMM has not been asked yet */
	bool was_arriving; /* on record it was still on its way there */
	bool was_leaving;  /* on record it had been asked for: its guest may yet let go of it */
	bool was_lost;     /* so it is by the book of this broker, which has not heard the answer */
	struct device_unplug unplug;
};

/* A move from one VM to another. */
struct device_move {
	kept_text from;   /* "": it does not move */
	kept_text failed; /* the VM that it could not go to: not tried again for now */
	pid_t failed_pid; /* its process: another one may be tried */
	bool was_full;    /* it may be tried when another device has left it */
};

/* What a look at its IOMMU group has found, for one attempt. */
struct device_group {
	bool looked;
	kept_text strangers; /* members that no rule claims and that spoil the group; "" */
	kept_text bridge;    /* one that does; "" */
};

/* Its fence, since it is in no VM: up, or left down because the host uses it. */
struct device_fence {
	bool settled;
	unsigned n_tries;
	uint64_t not_before; /* ms, monotonic */
};

/* Its way back to the host, which no rule keeps it from any more; and from what the rules have set
 * aside, if it is held or refused. */
struct device_back {
	bool is_asked;    /* request is for that */
	bool is_outdated; /* so it is, but what is wanted has changed since */
	bool is_alone;    /* so it is, where no driver has it; that means nothing for the others */
	bool is_done;
	unsigned n_tries;
	uint64_t not_before; /* ms, monotonic */
};

/* What is under way. */
struct device_attempt {
	enum device_cause cause;
	int node_fd;      /* once the worker has opened it; -1 for a kind without */
	uint64_t started; /* ms, monotonic: when the cause arrived */
	uint64_t began;   /* ms, monotonic: when the present attempt began */
	uint64_t request; /* the worker's number; 0: none */
	int *disks;       /* held exclusively until the VMM has answered; NULL: none */
	unsigned n_disks;
	bool awaits_vm;   /* its VM was not running: the VM's start will be the cause */
	bool opened;      /* the worker has opened it: to be given to the VMM now */
	bool is_ahead;    /* opened before its VM runs, to be ready for its start */
	bool vmm_asked;   /* attach or detach: its answer is awaited */
	bool is_full;     /* so the VMM has answered: another one has to leave first */
	bool released;    /* the worker has done what it could about host drivers */
	bool check;       /* attached: is it really? */
	bool until_end;   /* releasing: its VM gives it back when its process ends, not before */
	bool gave_up;     /* nothing is tried until something changes */
	bool was_used;    /* by the host, when the worker last looked */
	bool taken;       /* from the host's drivers, for all we know, and not given back since */
	bool awaits_send; /* its attach is not on its way yet */
	unsigned n_retries;
	struct device_group group;
	struct device_fence fence;
	struct device_back back;
	kept_text host_driver; /* PCI: what held it when it was taken from the host; "". USB: why
				* the worker has left it to the host's driver */

	uint64_t not_before; /* ms, monotonic: nothing is tried before; 0: at once */
	kept_text failure;   /* why the last attempt came to nothing; the history has it once */
	struct device_move move;

	struct intake_client *helpers; /* to acknowledge when it is */
	struct loop_timer helpers_limit;
};

/* What people see of it. record.c alone writes this. */
struct device_record {
	int64_t row; /* in the table device; 0 before it is stored */
	enum device_state state;
	kept_text reason;
	uint64_t since;   /* ms, wall clock: when state was entered */
	kept_text vm;     /* the VM that state speaks of */
	kept_text handle; /* as in place, when it was stored */
};

/* Which of the registry's two short lists it is in: see device_touch. */
struct device_stir {
	struct device **touched; /* the list of those that were touched; NULL: no registry has it */
	struct device *next, **at; /* AT is NULL while it is in neither */
	bool is_touched;
};

struct device {
	struct device *next, **at;   /* in the registry's list */
	struct device *next_in_path; /* of those whose devpath has the same hash */
	struct device_stir stir;
	unsigned arrival; /* a number: who has come earlier has a lower one */
	struct device_identity id;
	struct device_wish wish;
	struct device_place place;
	struct device_attempt attempt;
	struct device_record record, saved; /* as it is, and as the store has it */
	enum device_state told;             /* the state that the observer knows (record.h) */
	bool changed;                       /* since then */
	bool dropped;                       /* is about to leave the list */

	bool marked;             /* something has changed: it is looked at in this pass */
	unsigned n_looks;        /* in this pass */
	struct loop_timer again; /* marks it when time has changed something */
};

/* Gives DEVICE, which is zero but for what is known already, its empty texts. */
void device_init(struct device *device);
/* Lets go of its texts, and of nothing else. */
void device_finish(struct device *device);

/* *TO, which holds nothing yet, gets what FROM has, and holds its texts as well. */
void identity_copy(struct device_identity *to, const struct device_identity *from);
void identity_drop(struct device_identity *identity);
void wish_copy(struct device_wish *to, const struct device_wish *from);
void wish_drop(struct device_wish *wish);
void record_copy(struct device_record *to, const struct device_record *from);
void record_drop(struct device_record *record);

/* Something about DEVICE has changed: the end of the pass passes nobody by who was touched. Whoever
 * changes its state, asks the worker for it or lets its helpers go touches it; to mark it, or to
 * record something about it, is enough. */
void device_touch(struct device *device);
/* Puts DEVICE in front of LIST, out of the list that it is in; NULL: in none. */
void device_stir_to(struct device *device, struct device **list);
/* Is there nothing to do about DEVICE, and nobody to answer? Then those that look for devices on
 * their way need not find it. */
bool device_is_at_rest(const struct device *device);
/* Something about DEVICE has changed: it is looked at before the pass is over. */
void device_mark(struct device *device);
/* Marked, and what failed or waits for its time may be tried at once. */
void device_retry(struct device *device);

/* What is wanted of DEVICE has changed: whatever came of giving it back before counts no more. */
void device_renew_return(struct device *device);

/* Sets DEVICE's cause, and the time from which its history counts. */
void device_set_cause(struct device *device, enum device_cause cause);

/* The VMs that DEVICE may be in by its rule and by what people want: comma-separated, in order. */
const char *device_candidates(const struct device *device);
/* Does DEVICE's rule allow the VM called NAME, whatever people want of it? */
bool device_allows(const struct device *device, const char *name);
/* May DEVICE be in the VM called NAME, by the wish on record? */
bool device_may_be_in(const struct device *device, const char *name);

/* The same where that VM has had it since its start: it may stay unless somebody wants otherwise.
 */
bool device_may_stay_in(const struct device *device, const char *name);
/* Does it count that the VM called NAME has had DEVICE since its start? Also where it is to be
 * taken out again; not what a VM says that has no claim to it. */
bool device_may_be_found_in(const struct device *device, const char *name);

/* The name that DEVICE has in a VMM that does not make up its own: that of the instance, whatever
 * the VM, so that an attach that was sent twice is noticed. */
void device_make_handle(const struct device *device, char *ret_handle, size_t size);
/* Makes it the handle of where DEVICE is. */
void device_name_handle(struct device *device);

/* What is wrong with DEVICE between two passes, in words; NULL: nothing. */
const char *device_check(const struct device *device);

const char *device_kind_name(enum device_kind kind);
/* -1 for a name that is none. */
int device_kind_from_name(const char *name);
const char *device_state_name(enum device_state state);
/* -1 for a name that is none. */
int device_state_from_name(const char *name);
const char *device_cause_name(enum device_cause cause);

/* The inode of /sys + DEVPATH, or 0 when it is not there. */
uint64_t sysfs_inode(const char *devpath);
/* Is DEVICE no longer there, whatever has its place and its names by now? */
static inline bool device_has_gone(const struct device *device)
{
	return sysfs_inode(device->id.devpath) != device->id.inode;
}

/* Calls FN with the name of every interface of the USB device at DEVPATH, "1-2:1.0". */
void usb_each_interface(const char *devpath, void (*fn)(void *data, const char *interface),
			void *data);

/* The host driver bound to INTERFACE, or false when there is none. usbfs does not count: it is the
 * VMM's own claim. Source: kernel, drivers/usb/core/devio.c. */
bool usb_interface_driver(const char *devpath, const char *interface, char *ret_driver,
			  size_t size);

/* The same for the whole device, as "usbhid on 1-2:1.0". */
bool usb_host_driver(const char *devpath, char *ret_text, size_t size);
