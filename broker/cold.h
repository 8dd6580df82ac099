/* What a VM has had since its start: devices that its command line, or somebody at its monitor, has
 * given it, under names that are not ours. They count as attached; their names are whatever the VMM
 * takes them away by.
 */
#pragma once

#include "broker/device.h"
#include "helper/macro.h"

#define COLD_MAX 64 /* more of one VM are not noticed */

/* Which device of the host it is, by one of the two or by both; "": not by that. */
struct cold {
	char handle[96];
	enum device_kind kind;
	char node[64];        /* USB, evdev */
	char kernel_name[64]; /* USB: "1-3.2"; PCI: the address */
};

struct cold_list {
	struct cold *items;
	size_t n;
};

/* COLD is what PATH leads to, which the VM has named, if that is there: /dev/input/by-id/…, say.
 * Only below FOLDER, where nobody but root makes links: one that leads elsewhere could make us
 * wait. */
void cold_set_node(struct cold *cold, const char *folder, const char *path);
/* Adds a copy of COLD. Returns false when there is no room, or COLD does not say which device it
 * is. */
bool cold_add(struct cold_list *list, const struct cold *cold);
void cold_clear(struct cold_list *list);
/* Takes out what is called HANDLE, if it is there. */
void cold_forget(struct cold_list *list, const char *handle);

bool cold_is(const struct cold *cold, const struct device *device);
/* What is called HANDLE, or NULL. */
const struct cold *cold_find(const struct cold_list *list, const char *handle);
