/* PCI functions, their names and groups: see pci.h. Used by the manager, reconcile and the worker.
 */
#include "broker/pci.h"

#include <pci/pci.h>

#include "helper/root.h"

void pci_name(unsigned vendor, unsigned device, char *ret_name, size_t size)
{
	struct pci_access *access = pci_alloc();

	*ret_name = 0;
	pci_init(access);
	char *name = pci_lookup_name(access, ret_name, (int) size,
				     PCI_LOOKUP_VENDOR | PCI_LOOKUP_DEVICE | PCI_LOOKUP_NO_NUMBERS,
				     (int) vendor, (int) device);
	if (!name)
		*ret_name = 0;
	else if (name != ret_name)
		snprintf(ret_name, size, "%s", name);
	pci_cleanup(access);
}

int pci_attribute(const char *address, const char *attribute, unsigned *ret_value)
{
	char line[64];
	unsigned value;
	int r = root_read(line, sizeof(line), "/sys/bus/pci/devices/%s/%s", address, attribute);

	if (r < 0)
		return r;
	if (sscanf(line, "%x", &value) != 1)
		return -EIO;
	*ret_value = value;
	return 0;
}

bool pci_is_bridge(const char *address)
{
	unsigned class;

	return pci_attribute(address, "class", &class) == 0 && class >> 16 == 0x06;
}

bool pci_driver(const char *address, char *ret_driver, size_t size)
{
	return root_link_name(ret_driver, size, "/sys/bus/pci/devices/%s/driver", address) == 0;
}

int pci_get_group(const char *address, struct pci_group *ret_group)
{
	char number[16];
	struct pci_group group = {0};
	struct dirent *entry;
	int r = 0;

	if (root_link_name(number, sizeof(number), "/sys/bus/pci/devices/%s/iommu_group", address) <
	    0)
		return -ENOENT;
	group.number = atoi(number);
	DIR *dir = root_opendir("/sys/kernel/iommu_groups/%d/devices", group.number);
	if (!dir)
		return -ENOENT;
	while (r == 0 && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || pci_is_bridge(entry->d_name))
			continue;
		if (group.n_members >= PCI_MAX_GROUP)
			r = -E2BIG;
		else
			snprintf(group.members[group.n_members++], PCI_ADDRESS_SIZE, "%s",
				 entry->d_name);
	}
	closedir(dir);
	if (r == 0)
		*ret_group = group;
	return r;
}
