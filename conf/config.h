/* The configuration as typed data: read once, checked completely, then never changed.
 *
 * vhotplug-gen-rules compiles the groups into udev rules; the broker needs [general] and the
 * VMs, and the digest to say "decided by an older config". conf/load.c fills it from the INI text
 * that conf/ini.c cuts into lines.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "conf/options.h"
#include "conf/vmms.h"
#include "helper/macro.h"

/* 16 hex digits and NUL: a digest of what the config means, not of its bytes. Comments, blank
 * lines and the order of VMs do not change it. */
#define CONFIG_DIGEST_SIZE 17

/* Buffers that hold any such text of a config, with its NUL. What would not fit is a mistake, by
 * line; conf/load.c ties them to the length of a line. */
#define CONFIG_NAME_SIZE 50   /* of a VM, a group, a rule */
#define CONFIG_VALUE_SIZE 200 /* any value: a path, a list of VMs */
#define CONFIG_SOCKET_SIZE 108
#define CONFIG_USER_SIZE 64
#define CONFIG_TAG_SIZE 41                                                /* a tag, a family */
#define CONFIG_RULE_SIZE (sizeof("evdev//") + 2 * (CONFIG_NAME_SIZE - 1)) /* VHOTPLUG_RULE */

/* What kind of device a group takes. */
enum config_kind {
	CONFIG_USB,
	CONFIG_PCI,
	CONFIG_EVDEV,
	CONFIG_KINDS,
};

#define VM_TYPE_ID(id, name, word, kinds, delay, ...) VM_##id,
enum vm_type {
	VMM_TABLE(VM_TYPE_ID) /* VM_QEMU, … */
	VM_TYPES,
};
#undef VM_TYPE_ID

struct config_vm_type {
	const char *word;     /* "type =" */
	unsigned kinds;       /* bit n: rules may give it devices of config_kind n */
	unsigned delay;       /* seconds, where the config does not say */
	const char *keys[10]; /* of [vm] besides "type"; NULL at the end */
};
extern const struct config_vm_type config_vm_types[VM_TYPES];
/* Does "KEY =" mean something to VMs of TYPE? */
bool config_vm_type_has(enum vm_type type, const char *key);

/* One [vm NAME] section. Strings are owned by the config; absent ones are NULL. */
struct config_vm {
	char *name;
	enum vm_type type;
	char *socket;   /* absolute path of the QMP or crosvm control socket; NULL only with listen,
			 * and for a type that has no such key */
	char *user;     /* who the VMM runs as: a user name or a numeric uid; NULL: not said */
	char **usb_bus; /* guest bus names in order of preference, NULL-terminated; NULL: not said
			 */
	char *listen;   /* absolute path of the socket that QEMU dials; NULL: not said */
	unsigned delay; /* seconds between the VM's start and the first device */
	char **pci_bus; /* guest PCI ports in order of preference, NULL-terminated; NULL: not said
			 */
	char *domain, *uri;     /* of libvirt; NULL: not said */
	bool qemu_use_root_bus; /* put PCI devices on the root bus; default no */
	char **acpi_tables;     /* files for QEMU's start, NULL-terminated; NULL: not said */
	unsigned line;          /* where the section starts in the file */
};

struct config_general {
	bool attach_connected; /* devices already plugged in when the broker starts; default yes */
	char *crosvm;          /* path of the crosvm binary; default /usr/bin/crosvm */
	char *group;           /* who may read the history; NULL: not said */
	char *control_group;   /* who may change things by the control socket besides root; NULL:
				  nobody */
	bool persistency;      /* people's choices outlive the broker; default yes */
	char *ovmf_code, *ovmf_vars; /* firmware for vmm-args; NULL: not said */
};

/* [api]: where clients of vhotplug are served. Nowhere without the section. */
struct config_api {
	bool unix_socket, tcp, vsock; /* which of them */
	char *path;                   /* of the unix socket */
	char *user, *group;           /* whose it is; NULL: the broker's own */
	unsigned mode;                /* 0: not said */
	char *host;                   /* an address to listen on by TCP */
	unsigned port;                /* TCP and vsock */
	unsigned *cids;               /* guests that are let in by vsock, ending with 0 */
	unsigned line;                /* 0: there is no such section */
};

/* What a rule may look at. Some names mean the same for USB and PCI. */
enum config_match {
	MATCH_VENDOR_ID, /* four lower-case hex digits */
	MATCH_PRODUCT_ID,
	MATCH_VENDOR_NAME, /* a regular expression */
	MATCH_PRODUCT_NAME,
	MATCH_VENDOR_STRING, /* a regular expression; the device's own words */
	MATCH_PRODUCT_STRING,
	MATCH_SERIAL,          /* exactly as udev's ID_SERIAL_SHORT */
	MATCH_BUS,             /* decimal */
	MATCH_PORT,            /* decimal: the root port */
	MATCH_PORT_PATH,       /* the kernel's 3-1.4, or *-1.4; several separated by | */
	MATCH_DEVPATH,         /* /devices/…, without a slash at the end */
	MATCH_INTERFACE_CLASS, /* two lower-case hex digits */
	MATCH_INTERFACE_SUBCLASS,
	MATCH_INTERFACE_PROTOCOL,
	MATCH_DEVICE_CLASS,
	MATCH_DEVICE_SUBCLASS,
	MATCH_DEVICE_PROTOCOL,
	MATCH_REMOVABLE,   /* one or more of fixed, removable, unknown, separated by | */
	MATCH_DRIVER_PATH, /* a regular expression */
	MATCH_ADDRESS,     /* 0000:00:14.3, lower case; the domain may be longer */
	MATCH_DEVICE_ID,
	MATCH_SUBSYSTEM_VENDOR_ID,
	MATCH_SUBSYSTEM_ID,
	MATCH_DEVICE_PROG_IF,
	MATCH_NAME,     /* a regular expression */
	MATCH_PATH_TAG, /* a regular expression */
	MATCH_PROPERTY, /* the name of a udev property; comes with MATCH_VALUE */
	MATCH_VALUE,    /* its value, case ignored */
	MATCH_KEYS,
};

/* One field of a rule. VALUE is checked and in the form that the enum above says. */
struct config_field {
	enum config_match match;
	char *value;
	unsigned line;
};

/* One [allow NAME] or [deny NAME]. All fields must match; none only with match_all. */
struct config_rule {
	char *name;
	bool deny;
	bool disable;
	bool match_all;
	struct config_field *fields; /* in the order of the file */
	size_t n_fields;
	char *description; /* for people; NULL: not said */
	char *tag;         /* for people and programs that read the config; NULL: not said */
	char *family;      /* NULL: not said */
	unsigned options;  /* enum config_option, the group's included */
	unsigned line;
};

/* One [usb NAME], [pci NAME] or [evdev NAME] with the rules that follow it. */
struct config_group {
	enum config_kind kind;
	char *name;
	bool disable;
	bool fence; /* keep the host away from what is claimed; default yes */
	char **vms; /* candidates in order, NULL-terminated, at least one; all of them exist */
	struct config_rule *rules; /* in the order of the file */
	size_t n_rules;
	char *description;
	char *tag;
	char *family;         /* for rules that say none */
	unsigned options;     /* enum config_option */
	bool skip_on_suspend; /* its devices stay in the VM while that sleeps; default no */
	/* PCI, for vmm-args. */
	bool auto_ovmf;           /* a graphics card of NVIDIA's brings OVMF; default no */
	bool qemu_use_root_bus;   /* default no */
	bool crosvm_use_root_bus; /* no: in a slot that it can be taken out of; default yes */
	unsigned line;
	unsigned vms_line; /* where targetVm or allowedVms is */
};

struct config {
	struct config_general general;
	struct config_api api;
	struct config_vm *vms; /* in the order of the file */
	size_t n_vms;
	struct config_group *groups; /* in the order of the file */
	size_t n_groups;
	char digest[CONFIG_DIGEST_SIZE];
};

/* NULL is fine. */
void config_free(struct config *config);
static inline void config_freep(struct config **config)
{
	config_free(*config);
}

/* The VM of that name, or NULL. */
const struct config_vm *config_find_vm(const struct config *config, const char *name);

/* The group that RULE names, as VHOTPLUG_RULE does, and in *RET_RULE the rule; NULL when the config
 * has no such rule any more. */
const struct config_group *config_find_rule(const struct config *config, const char *rule,
					    const struct config_rule **ret_rule);
/* A copy of NAME without what means something in a udev rule ("\$%), slashes, broken UTF-8 and what
 * text_clean (helper/text.h) would replace: those bytes become _. NULL when there is no memory. */
char *config_safe_name(const char *name) _must_check_;
/* Whether config_safe_name makes one name of both: then nobody could tell the two apart. */
bool config_same_name(const char *a, const char *b);

/* The word for KIND ("usb") and the key for MATCH ("vendorId") as they are in the file. */
const char *config_kind_name(enum config_kind kind);
const char *config_match_name(enum config_match match);

/* The field of RULE that looks at MATCH, or NULL. */
const struct config_field *config_rule_field(const struct config_rule *rule,
					     enum config_match match);
