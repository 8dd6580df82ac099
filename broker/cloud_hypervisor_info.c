/* What a cloud-hypervisor says of itself: see cloud_hypervisor_info.h. Called by
 * vmm_cloud_hypervisor.c. */
#include "broker/cloud_hypervisor_info.h"

#include <string.h>

#include "broker/confinement.h"
#include "helper/macro.h"
#include "helper/root.h"
#include "helper/text.h"

/* Names */

/* Is NAME, as the VM has it, one of HANDLE's: "vhp-…" or "vhp-….2"? */
static bool is_name_of(const char *name, const char *handle)
{
	const char *rest = startswith(name, handle);

	return rest && (!*rest || (rest[0] == '.' && rest[1] && !rest[2]));
}

void ch_make_name(char *ret_name, size_t size, const char *handle, unsigned n)
{
	if (n <= 1)
		snprintf(ret_name, size, "%s", handle);
	else
		snprintf(ret_name, size, "%s.%u", handle, n);
}

void ch_handle_of(const char *name, char *ret_handle, size_t size)
{
	const char *last = strrchr(name, '-'), *dot = strchr(last, '.');

	snprintf(ret_handle, size, "%.*s", (int) (dot ? dot - name : (ptrdiff_t) strlen(name)),
		 name);
}

bool ch_address_of(const char *handle, char *ret_address, size_t size)
{
	char domain[9], bus[3], slot[3], function[2];

	if (sscanf(handle, CH_PREFIX "%8[0-9a-f].%2[0-9a-f].%2[0-9a-f].%1[0-7]-", domain, bus, slot,
		   function) != 4)
		return false;
	snprintf(ret_address, size, "%s:%s:%s.%s", domain, bus, slot, function);
	return true;
}

void ch_address_in(const char *path, char *ret_address, size_t size)
{
	size_t length = strlen(path), start;

	while (length > 0 && path[length - 1] == '/')
		length--;
	for (start = length; start > 0 && path[start - 1] != '/';)
		start--;
	snprintf(ret_address, size, "%.*s", (int) (length - start), path + start);
}

/* What it answers */

void ch_describe_error(const struct http_answer *answer, char *ret_text, size_t size)
{
	json_t *texts = json_loadb(answer->body, answer->length, JSON_REJECT_DUPLICATES, NULL);
	size_t n = json_array_size(texts);
	const char *cause = json_string_value(json_array_get(texts, n - 1));
	const char *before = json_string_value(json_array_get(texts, n - 2));
	_cleanup_free_ char *body = texts ? NULL : strndup(answer->body, answer->length);

	if (cause && before && strstr(before, cause))
		cause = before;
	if (cause)
		text_clean(ret_text, size, cause);
	else if (body && *body)
		text_clean(ret_text, size, body);
	else
		snprintf(ret_text, size, "status %u", answer->status);
	json_decref(texts);
}

void ch_advise_on(const char *text, const struct peer *peer, char *ret, size_t size)
{
	*ret = 0;
	if (strstr(text, "DMA map"))
		snprintf(ret, size,
			 "; if the host's IOMMU has fewer address bits than the guest, start it "
			 "with "
			 "--cpus …,max_phys_bits=39");
	else if (strstr(text, "annot allocate memory"))
		snprintf(ret, size,
			 "; raise its limit of locked memory (RLIMIT_MEMLOCK) above the "
			 "guest's memory");
	else
		confinement_explain(peer, text, ret, size);
}

bool ch_has_no_vm(const struct http_answer *answer)
{
	static const char words[] = "VM is not created";

	return answer->status == 404 ||
	       memmem(answer->body, answer->length, words, sizeof(words) - 1);
}

bool ch_is_booted(const char *state)
{
	return !streq(state, "Created") && !streq(state, "Shutdown");
}

/* What the VM has */

const json_t *ch_devices_of(const json_t *info)
{
	return json_object_get(json_object_get(info, "config"), "devices");
}

const char *ch_find_listed(const json_t *info, const char *handle)
{
	const json_t *devices = ch_devices_of(info), *device;
	size_t i;

	json_array_foreach(devices, i, device)
	{
		const char *name = json_string_value(json_object_get(device, "id"));

		if (name && is_name_of(name, handle))
			return name;
	}
	return NULL;
}

const char *ch_find_ours(const json_t *info)
{
	const json_t *devices = ch_devices_of(info), *device;
	size_t i;

	json_array_foreach(devices, i, device)
	{
		const char *name = json_string_value(json_object_get(device, "id"));

		if (name && startswith(name, CH_PREFIX))
			return name;
	}
	return NULL;
}

const char *ch_find_registered(const json_t *info, const char *handle)
{
	json_t *tree = json_object_get(info, "device_tree"), *node;
	const char *name;

	json_object_foreach(tree, name, node) if (is_name_of(name, handle)) return name;
	return NULL;
}

/* Does PATH, perhaps with slashes at its end, lead to the function at ADDRESS? */
static bool is_path_of(const char *path, const char *address)
{
	size_t length = strlen(path), n = strlen(address);

	while (length > 0 && path[length - 1] == '/')
		length--;
	return length > n && path[length - n - 1] == '/' &&
	       strncmp(path + length - n, address, n) == 0;
}

const char *ch_find_function(const json_t *info, const char *address)
{
	const json_t *devices = ch_devices_of(info), *device;
	size_t i;

	json_array_foreach(devices, i, device)
	{
		const char *path = json_string_value(json_object_get(device, "path"));
		const char *name = json_string_value(json_object_get(device, "id"));

		if (path && is_path_of(path, address))
			return name ? name : "";
	}
	return NULL;
}

void ch_note_cold(struct cold_list *list, const json_t *device)
{
	const char *path = json_string_value(json_object_get(device, "path"));
	const char *name = json_string_value(json_object_get(device, "id"));
	struct cold cold = {.kind = DEVICE_PCI};

	if (!name || startswith(name, CH_PREFIX) || strlen(name) >= sizeof(cold.handle))
		return;
	strcpy(cold.handle, name);
	ch_address_in(path ? path : "", cold.kernel_name, sizeof(cold.kernel_name));
	cold_add(list, &cold);
}
