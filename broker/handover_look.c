/* The step that looks at a PCI device's IOMMU group before it may go: see handover.h. */
#include "broker/arrival.h"
#include "broker/attempt.h"
#include "broker/group.h"
#include "broker/handover.h"
#include "broker/look.h"
#include "broker/record.h"

struct group_search {
	struct registry *registry;
	struct device *device;
	char strangers[GROUP_WORDS_SIZE];
};

static void look_at_member(void *data, const char *address)
{
	struct group_search *search = data;
	struct device *device = search->device;
	unsigned options = device->wish.options;
	const struct device *member = registry_find_pci(search->registry, address);

	/* One that is on its way back to the host goes along as one that is the host's. */
	if (member &&
	    (member->wish.rule[0] || member->place.vm || !(options & OPTION_IOMMU_ADD_ALL)))
		return;
	if (options & OPTION_IOMMU_ADD_ALL && arrival_lead(search->registry, device, address))
		return;
	if (options & OPTION_IOMMU_SKIP_IF_SHARED || look_host_uses(address))
		look_describe(address, search->strangers, sizeof(search->strangers));
}

void handover_look(struct registry *registry, struct device *device, struct vm *vm)
{
	struct group_search search = {.registry = registry, .device = device};
	char words[100], bridge[GROUP_WORDS_SIZE] = "";

	/* When it was plugged in that could not be told, perhaps. */
	if (device->id.group < 0)
		device->id.group = look_up_group(device);
	device->attempt.group.looked = true;
	bool is_spoiled = look_for_bridge(device, bridge, sizeof(bridge));
	int r = is_spoiled ? 0 : look_at_members(device, look_at_member, &search);
	kept_set(&device->attempt.group.bridge, bridge);
	kept_set(&device->attempt.group.strangers, search.strangers);
	if (r == 0 || r == -E2BIG) { /* of such a group the worker takes none */
		device_mark(device);
		return;
	}
	snprintf(words, sizeof(words), "can't tell who shares its IOMMU group: %s", strerror(-r));
	record_name_vm(device, vm->name);
	attempt_fail(registry, device, DEVICE_WAITING, words, 0);
}
