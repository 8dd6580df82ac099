/* The edges: whatever happens to devices, VMs and the config becomes a fact here, and the devices
 * concerned are marked. Nothing is moved: reconcile_pass (reconcile.h) does that when the pass of
 * the loop is at its end.
 *
 * Desired: the wish on record (from udev's database, by event or by listing it) and which VMs run.
 * Actual: what the VMM reports. Recorded: the store. An edge that comes twice changes nothing.
 *
 * Who is there, how to find, list and mark it: registry.h and device.h. Who wants to be told of
 * changes: record_observe (record.h).
 */
#pragma once

#include "broker/edition.h"
#include "broker/intake.h"
#include "broker/registry.h"
#include "broker/store.h"
#include "broker/udev.h"
#include "broker/worker.h"
#include "conf/config.h"
#include "helper/macro.h"

struct manager {
	struct registry registry;
	struct config *config;
	char boot_id[40];
	struct udev_query *query;      /* to udev's database, while it is under way */
	enum device_cause query_cause; /* of what it finds */
	struct loop_timer query_again; /* what it could not tell is asked for once more */
	struct edition edition;        /* its is_in_file and data are the caller's to set */
	bool spool_starts; /* the broker was started for what is in the spool at its start */
	/* Reads the config again and calls manager_set_config or, where that has mistakes, which
	 * are said, manager_resync. Returns 0, or -errno then. */
	int (*reload)(void *data);
	void *reload_data;
};

/* MANAGER is zero: most of it is room that is hardly ever needed, and takes no memory until it is
 * written. Takes over CONFIG. Returns 0 or -errno. */
int manager_init(struct manager *manager, struct loop *loop, struct worker *worker,
		 struct store *store, struct config *config, const char *boot_id) _must_check_;
void manager_finish(struct manager *manager);

/* Intake's events: see intake.h. */
extern const struct intake_handler manager_intake;

/* Loads what is on record; call before the spool is drained. Returns 0 or -errno. */
int manager_load(struct manager *manager) _must_check_;
/* Everything is known: looks at udev's database, then at the VMs, and sets all devices going. */
void manager_start(struct manager *manager);
/* Compares every device with udev's database, and then every VM with what it says it has. */
void manager_resync(struct manager *manager);
/* Replaces the config (taken over) and resyncs. */
void manager_set_config(struct manager *manager, struct config *config);
