/* The configuration as typed data: read once, checked completely, then never changed.
 *
 * vhotplug-gen-rules compiles the groups into udev rules; the broker needs [general] and the
 * VMs, and the digest to say "decided by an older config". conf/config.c fills it from the INI
 * text that conf/ini.c cuts into lines.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "helper/macro.h"

/* 16 hex digits and NUL: a digest of what the config means, not of its bytes. Comments, blank
 * lines and the order of VMs do not change it. */
#define CONFIG_DIGEST_SIZE 17

enum vm_type {
	VM_QEMU,
	VM_CROSVM,
};

/* One [vm NAME] section. Strings are owned by the config; absent ones are NULL. */
struct config_vm {
	char *name;
	enum vm_type type;
	char *socket;   /* absolute path of the QMP or crosvm control socket */
	char *user;     /* who the VMM runs as: a user name or a numeric uid; NULL: not said */
	char **usb_bus; /* guest bus names in order of preference, NULL-terminated; NULL: not said
			 */
	unsigned line;  /* where the section starts in the file */
};

struct config_general {
	bool attach_connected; /* devices already plugged in when the broker starts; default yes */
	char *crosvm;          /* path of the crosvm binary; default /usr/bin/crosvm */
};

struct config {
	struct config_general general;
	struct config_vm *vms;
	size_t n_vms;
	struct config_group *groups;
	size_t n_groups;
	char digest[CONFIG_DIGEST_SIZE];
};

/* Reads and checks the config at PATH. Every mistake is one line "PATH:LINE: …" on ERRORS, all of
 * them in one run. Returns 0 and a new config in *RET_CONFIG (free it with config_free); -EINVAL
 * when there were mistakes; another -errno, said on ERRORS too, when the file can't be read. */
int config_load(const char *path, FILE *errors, struct config **ret_config) _must_check_;

/* NULL is fine. */
void config_free(struct config *config);
static inline void config_freep(struct config **config)
{
	config_free(*config);
}

/* The VM of that name, or NULL. */
const struct config_vm *config_find_vm(const struct config *config, const char *name);
