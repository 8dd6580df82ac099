/* What people and programs may ask of the broker, and all that the sockets know of it: api.c and
 * api_own.c speak, whoever fills struct control_verbs does (control_broker.c; a double in the
 * tests).
 *
 * Every verb changes facts and returns at once. What comes of it shows in the devices afterwards.
 */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "broker/device.h"
#include "helper/macro.h"

#define CONTROL_ID_SIZE 96

/* One device as the sockets see it. Strings are borrowed for the call; "" where there is none. */
struct control_device {
	char id[CONTROL_ID_SIZE]; /* of the instance: another one after a replug */
	enum device_kind kind;
	const char *kernel_name; /* 1-3.2, 0000:00:14.3, event3 */
	const char *devpath;     /* below /sys */
	const char *node;
	const char *name; /* for people */
	const char *vendor_name, *model_name, *serial, *interfaces;
	const char *driver; /* PCI: the host's */
	unsigned vendor, model;
	unsigned class, subclass, protocol; /* of the device */
	unsigned bus, number, port;         /* USB; PORT is that of the root hub */
	unsigned subsystem_vendor, subsystem;

	bool is_claimed;      /* a rule gives it to somebody; all below is empty otherwise */
	bool is_group_member; /* PCI: it goes along with one that a rule claims */
	const char *rule, *tag;
	const char *vms;       /* that may have it: comma-separated, in order */
	bool asks;             /* somebody is to choose one of them */
	const char *chosen;    /* of them, by a person */
	bool is_detached;      /* by hand */
	bool is_suspended;     /* until resume */
	bool is_busy;          /* something is under way for it */
	const char *vm;        /* that has it */
	const char *wanted_vm; /* that has it or will have it */
	const char *state, *reason;
	uint64_t since; /* ms, wall clock */
};
typedef void (*control_device_fn)(void *data, const struct control_device *device);

/* The devices that a verb speaks of. */
enum control_scope {
	CONTROL_CLAIMED, /* those that a rule claims, in the order of the rules */
	CONTROL_USB,     /* all of the host's, in udev's order, hubs too */
	CONTROL_PCI,
	CONTROL_EVDEV,
};

/* How a VM is to be started. */
struct control_args {
	const char *vm;
	const char *bus_prefix; /* QEMU: what its PCIe ports are called, without the number; or NULL
				 */
	unsigned start;         /* of numbers */
};

/* Those that can be refused return 0, or -errno with the words for it in ERROR (SIZE bytes). */
struct control_verbs {
	void (*each)(void *data, enum control_scope scope, control_device_fn fn, void *fn_data);

	/* VM may be NULL: the one that was chosen, else the first. IS_KEPT: VM is remembered as a
	 * person's choice. */
	int (*attach)(void *data, const char *id, const char *vm, bool is_kept, char *error,
		      size_t size);
	/* UNTIL_REPLUG: not remembered. */
	int (*detach)(void *data, const char *id, bool until_replug, char *error, size_t size);
	/* Devices of the kinds in KINDS (1 << enum device_kind) that VM has, or any VM for NULL. */
	void (*suspend)(void *data, const char *vm, unsigned kinds);
	void (*resume)(void *data, const char *vm, unsigned kinds);
	bool (*has_vm)(void *data, const char *vm);
	/* Is VM started by somebody whom arguments can be given to? */
	bool (*takes_args)(void *data, const char *vm);

	/* Gets the PCI devices of VM, which is about to be started with them, ready: AWAIT is
	 * called with the id of each. */
	void (*prepare)(void *data, const char *vm, void (*await)(void *await_data, const char *id),
			void *await_data);
	/* A new array of strings: the arguments for what is ready. */
	json_t *(*vmm_args)(void *data, const struct control_args *args);

	/* For our own sockets: new values, see conf/control.schema.json. */
	json_t *(*status)(void *data);
	/* QUERY has what a person asked for, checked. */
	int (*history)(void *data, const json_t *query, json_t **ret_rows, char *error,
		       size_t size);
	int (*reload)(void *data, char *error, size_t size);
};
