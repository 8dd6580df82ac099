/* PCI functions, their names and groups: see pci.h. Used by the manager, reconcile and the worker.
 */
#include "broker/pci.h"

#include <dirent.h>
#include <pci/pci.h>

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
	char path[300];
	unsigned value;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", address, attribute);
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	if (!f)
		return -errno;
	if (fscanf(f, "%x", &value) != 1)
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
	char path[300], target[300];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/driver", address);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return false;
	target[n] = 0;
	snprintf(ret_driver, size, "%s", strrchr(target, '/') ? strrchr(target, '/') + 1 : target);
	return true;
}

int pci_get_group(const char *address, struct pci_group *ret_group)
{
	char path[300], target[300];
	struct pci_group group = {0};
	struct dirent *entry;
	int r = 0;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return -ENOENT;
	target[n] = 0;
	group.number = strrchr(target, '/') ? atoi(strrchr(target, '/') + 1) : -1;
	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%d/devices", group.number);
	DIR *dir = opendir(path);
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
