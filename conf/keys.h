/* What may stand in each kind of section, and how each value is checked and stored: the tables
 * that conf/load.c walks. */
#pragma once

#include "conf/config.h"
#include "conf/ini.h"

struct key_place {
	const struct ini_key *key;
	struct mistakes *mistakes;
};

/* Checks the value and stores it at TARGET. Returns 0 (a mistake is recorded and TARGET left alone)
 * or -ENOMEM. */
typedef int (*key_store_fn)(const struct key_place *place, void *target);

/* A key that fills one member of a struct. The table ends with a NULL name. */
struct key_setting {
	const char *name;
	key_store_fn store;
	size_t offset;
};

extern const struct key_setting general_settings[], api_settings[], vm_settings[], rule_settings[];

/* Returns the canonical form of VALUE as a new string in *RET, or 0 and NULL after recording a
 * mistake, or -ENOMEM. */
typedef int (*key_check_fn)(const struct key_place *place, char **ret);

/* A key that a rule matches by, indexed by enum config_match; config_match_name has its name. */
struct key_match {
	key_check_fn check;
	unsigned kinds; /* bit 1 << enum config_kind: where it is allowed */
};

extern const struct key_match match_keys[MATCH_KEYS];

/* Fills RET_LIST with the types of VM that take devices of KINDS (bits 1 << enum config_kind),
 * "qemu or crosvm". */
void key_list_vm_types(unsigned kinds, char *ret_list, size_t size);

/* Whether udev sets the property NAME only behind 66-vhotplug.rules, by the rules files of systemd
 * and libinput: there a comparison never holds. */
bool key_is_late_property(const char *name);

/* Whether NAME may name a VM, a guest bus, …: letters, digits, . _ - */
bool key_is_name(const char *name);
/* Those of a group for devices of KIND. */
const struct key_setting *key_group_settings(enum config_kind kind);
/* Is PATH one that can be a part of an argument for a VMM? */
bool key_is_argument(const char *path);
