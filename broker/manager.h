/* The one owner of devices and VMs, and the one path that brings a device from what is to what
 * should be.
 *
 * Desired: the wish on record (from udev's database, by event or by listing it) and which VMs run.
 * Actual: what the VMM reports. Recorded: the store. Every edge (a plug, an unplug, a VM that
 * starts or ends, new rules, a restart of the broker) changes one of the three and then calls
 * reconcile for the devices concerned; an edge that comes twice changes nothing.
 *
 * manager.c turns edges into changes, reconcile.c moves one device.
 */
#pragma once

#include "broker/device.h"
#include "broker/intake.h"
#include "broker/store.h"
#include "broker/vm.h"
#include "broker/worker.h"
#include "conf/config.h"
#include "helper/macro.h"

#define MANAGER_FAMILIES 32

/* Who has left a port a moment ago: see "family" in vhotplug.conf(5). */
struct family {
	char devpath[512];
	char name[64];
	char vm[64];
	uint64_t left; /* ms, monotonic */
};

struct manager {
	struct loop *loop;
	struct store *store;
	struct worker *worker;
	struct config *config;
	struct vm *vms;
	struct device *devices;
	bool started; /* nothing is moved before everything is known */
	char boot_id[40];
	struct family families[MANAGER_FAMILIES];
	size_t next_family;
	loop_fn reload; /* reads the config again and calls manager_set_config or manager_resync */
	void *reload_data;
};

/* Takes over CONFIG. Returns 0 or -errno. */
int manager_init(struct manager *manager, struct loop *loop, struct worker *worker,
		 struct store *store, struct config *config, const char *boot_id) _must_check_;
void manager_finish(struct manager *manager);

/* Intake's events: see intake.h. */
extern const struct intake_handler manager_intake;

/* Loads what is on record; call before the spool is drained. Returns 0 or -errno. */
int manager_load(struct manager *manager) _must_check_;
/* Everything is known: looks at udev's database and the VMs, and sets all devices going. */
void manager_start(struct manager *manager);
/* Compares every device with udev's database and every VM with what it says it has. */
void manager_resync(struct manager *manager);
/* Replaces the config (taken over) and resyncs. */
void manager_set_config(struct manager *manager, struct config *config);

/* For reconcile.c. */

/* The VM of that name in the config, or NULL. */
struct vm *manager_find_vm(struct manager *manager, const char *name);
/* The PCI function at ADDRESS, or NULL. */
struct device *manager_find_pci(struct manager *manager, const char *address);
/* Lets the function at ADDRESS go wherever LEADER goes, from the next reconcile on. */
void manager_add_follower(struct manager *manager, struct device *leader, const char *address);
/* Removes DEVICE from the list, and from the store, and frees it. */
void manager_drop_device(struct manager *manager, struct device *device);
