/* What "vm.info" of a cloud-hypervisor says of our devices, by the names they have there. A name
 * that is taken for good is followed by others of the same device ("vhp-….2"); a device has one
 * handle. Source: cloud-hypervisor,
 * vmm/src/api/openapi/cloud-hypervisor.yaml. */
#pragma once

#include <jansson.h>

#include "broker/http.h"
#include "broker/vm.h"

#define CH_PREFIX "vhp-"

/* The Nth name for HANDLE, from 1. */
void ch_make_name(char *ret_name, size_t size, const char *handle, unsigned n);
/* The handle behind NAME, which begins with CH_PREFIX: without the ".2" after its last part. */
void ch_handle_of(const char *name, char *ret_handle, size_t size);
/* The PCI address in "vhp-0000.01.00.0-4436"; false when there is none. */
bool ch_address_of(const char *handle, char *ret_address, size_t size);
/* The last part of PATH, a function's directory perhaps with slashes at its end. */
void ch_address_in(const char *path, char *ret_address, size_t size);

/* What went wrong, in its own words: an array of texts, the cause last, perhaps again at the end of
 * the one before it, which says more; one text, not in JSON, before version 48. */
void ch_describe_error(const struct http_answer *answer, char *ret_text, size_t size);
/* What a person can do about an error of PEER's, whose words TEXT are; "" where nothing is known.
 */
void ch_advise_on(const char *text, const struct peer *peer, char *ret_advice, size_t size);
/* Has it answered so because there is no VM in it? That is 404 since version 53, and 500 before. */
bool ch_has_no_vm(const struct http_answer *answer);
/* Has a VM in STATE cards? Also one that is paused, or at a breakpoint. Source: cloud-hypervisor,
 * vmm/src/lib.rs (vm_shutdown drops the VM, and vm_info says Created then). */
bool ch_is_booted(const char *state);

/* What the VM is to have: an array, or NULL. */
const json_t *ch_devices_of(const json_t *info);
/* The name that INFO's config has for HANDLE's device, or NULL; INFO's own, like those below. */
const char *ch_find_listed(const json_t *info, const char *handle);
/* The first name of ours there, or NULL. */
const char *ch_find_ours(const json_t *info);
/* The name of HANDLE's device in what the VM has still (device_tree). */
const char *ch_find_registered(const json_t *info, const char *handle);
/* The name that the config has for the function at ADDRESS, "" for one without, or NULL. */
const char *ch_find_function(const json_t *info, const char *address);

/* DEVICE, of the config's, goes into LIST if it has a name that is not ours: from --device, say. */
void ch_note_cold(struct cold_list *list, const json_t *device);
