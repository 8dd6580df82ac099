/* Who is there: the devices, the VMs, and the families that have just left a port; and by what
 * means something is done about them. The edges change it (manager.h), decide reads it, and
 * nothing here moves a device.
 */
#pragma once

#include "broker/device.h"
#include "broker/vm.h"
#include "helper/macro.h"

#define REGISTRY_FAMILIES 32
#define REGISTRY_LEFT 16
#define REGISTRY_CHAINS 256

struct choices;
struct store;
struct worker;

/* Who has left a port a moment ago: see "family" in vhotplug.conf(5). */
struct family {
	char devpath[512];
	char name[64];
	char vm[64];
	uint64_t left; /* ms, monotonic */
};

/* A device that has left a VM which runs on, until it is known whether somebody keeps it open. No
 * rule may want it any more by then. */
struct left_device {
	uint64_t request; /* the worker's number; 0: none */
	struct device_identity id;
	char vm[64];
	char rule[256];
	enum device_cause cause;
};

/* Told after a pass that DEVICE's record has changed (it is DEVICE->record now, and its state was
 * BEFORE), or that it is gone (DEVICE->dropped). Changes nothing. */
typedef void (*registry_observer_fn)(void *data, const struct device *device,
				     enum device_state before);

struct registry {
	/* All borrowed. */
	struct loop *loop;
	struct store *store;
	struct worker *worker;
	struct choices *choices; /* what people have chosen, for devices to come */

	struct device *devices; /* in the order of their arrival; to go on after a step, ask anew */
	struct device **last;   /* where the next one goes; NULL: nobody has come yet */
	unsigned n_arrivals;
	struct device *by_path[REGISTRY_CHAINS];
	/* Of the many that rest none is in these: those that were touched since the last pass, and
	 * those that were not and don't rest. */
	struct device *touched, *unsettled;
	struct vm *vms; /* of the config, in its order */
	struct family families[REGISTRY_FAMILIES];
	size_t next_family;
	struct left_device left[REGISTRY_LEFT]; /* the last ones */
	size_t next_left;
	struct vm_look *looks; /* job_look: not answered yet; borrowed */
	bool started;          /* nothing is moved before everything is known */
	bool halted;           /* nor while a config is applied, and only a part of it is known */
	registry_observer_fn observer;
	void *observer_data;
};

/* The next instance at DEVPATH after the one given (NULL: the first), or NULL. */
struct device *registry_find_next(const struct registry *registry, const char *devpath,
				  const struct device *after);
/* The instance, or NULL. */
struct device *registry_find(const struct registry *registry, const char *devpath, uint64_t inode);
/* The next device after the one given (NULL: the first) that is not at rest, or was touched. NULL:
 * no other. */
struct device *registry_find_unsettled(const struct registry *registry, const struct device *after);
/* The PCI function at ADDRESS that is plugged in, or NULL. */
struct device *registry_find_pci(const struct registry *registry, const char *address);
/* The device that the worker's request NUMBER is for, or NULL. */
struct device *registry_find_request(const struct registry *registry, uint64_t number);
/* The VM of that name in the config, or NULL. */
struct vm *registry_find_vm(const struct registry *registry, const char *name);

/* The VM that is up and has had DEVICE since its start, by its own word; sets *RET_COLD. NULL:
 * none.
 */
struct vm *registry_find_cold(const struct registry *registry, const struct device *device,
			      const struct cold **ret_cold);

/* Takes DEVICE (from calloc) into the list, marked. */
void registry_add(struct registry *registry, struct device *device);
/* Takes DEVICE out and frees it; it holds nothing any more. */
void registry_remove(struct registry *registry, struct device *device);
/* The pass is over: those that were touched are told apart. */
void registry_settle(struct registry *registry);

/* Marks the devices that may go to the VM called NAME, or are in it. */
void registry_mark_of_vm(struct registry *registry, const char *name);
/* Marks the other PCI devices: their turn, or their group, may have come. */
void registry_mark_pci(struct registry *registry, const struct device *except);
/* VM has got room: what waits for it may be tried at once. */
void registry_note_room(struct registry *registry, const struct vm *vm);

/* DEVICE has been unplugged: those of its family may take its place. */
void registry_remember_family(struct registry *registry, const struct device *device);
/* Keeps the new DEVICE in the VM that its family on this port was in a moment ago. Returns the
 * family, or NULL. */
const struct family *registry_join_family(struct registry *registry, struct device *device);

/* What holds for LEADER holds for DEVICE, which shares its IOMMU group. */
void registry_follow(struct device *device, const struct device *leader);
