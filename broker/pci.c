/* PCI functions, their names and groups: see pci.h. Used by the manager, reconcile and the worker.
 */
#include "broker/pci.h"

#include <pci/pci.h>
#include <setjmp.h>

#include "helper/root.h"

#define CLASS_BRIDGE 0x06
#define BRIDGE_TO_PCI 0x04
#define BRIDGE_TO_CARDBUS 0x07
#define BRIDGE_TO_PCI_BY_HALF 0x09

static jmp_buf after_error;

/* The library's own would end the program, on a line of its database that it can't read say. */
static void give_up(char *format, ...) __attribute__((noreturn));
static void give_up(char *format, ...)
{
	(void) format;
	longjmp(after_error, 1);
}

static void say_nothing(char *format, ...)
{
	(void) format;
}

/* To look up a name no way to the hardware is needed, and so no pci_init. */
static struct pci_access *open_database(void)
{
	struct pci_access *access = pci_alloc();
	char path[PATH_MAX];

	access->error = give_up;
	access->warning = access->debug = say_nothing;
	if (root_path(path, sizeof(path), "%s", access->id_file_name) == 0)
		pci_set_name_list_path(access, strdup(path), 1);
	return access;
}

void pci_name(unsigned vendor, unsigned device, char *ret_name, size_t size)
{
	static bool is_broken; /* what the library had open when it met the error is lost */
	static struct pci_access *access;

	*ret_name = 0;
	if (is_broken)
		return;
	access = open_database();
	if (setjmp(after_error) != 0) {
		is_broken = true;
		*ret_name = 0;
		return;
	}
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

int pci_is_bridge(const char *address)
{
	unsigned class;
	int r = pci_attribute(address, "class", &class);

	return r < 0 ? r : class >> 16 == CLASS_BRIDGE;
}

bool pci_driver(const char *address, char *ret_driver, size_t size)
{
	return root_link_name(ret_driver, size, "/sys/bus/pci/devices/%s/driver", address) == 0;
}

/* A bridge to another bus of PCI's is nothing to the kernel; one of another kind (to ISA, say) is a
 * function like any other there: with a driver of the host's it keeps its group from VMs. Sources:
 * kernel, drivers/iommu/iommu.c, iommu_group_claim_dma_owner; before 5.18 drivers/vfio/vfio.c,
 * vfio_dev_viable. */
static bool keeps_group(const char *address, unsigned class)
{
	unsigned kind = class >> 8 & 0xff;
	char driver[64];

	if (kind == BRIDGE_TO_PCI || kind == BRIDGE_TO_CARDBUS || kind == BRIDGE_TO_PCI_BY_HALF)
		return false;
	return pci_driver(address, driver, sizeof(driver)) && !streq(driver, "pci-stub") &&
	       !streq(driver, "vfio-pci");
}

/* A member that can't be looked at may be anything: then the group is not known. */
static int add_member(struct pci_group *group, const char *address)
{
	unsigned class;
	int r = pci_attribute(address, "class", &class);

	if (r == 0 && class >> 16 == CLASS_BRIDGE && keeps_group(address, class))
		snprintf(group->bridge, sizeof(group->bridge), "%.23s", address);
	if (r < 0 || class >> 16 == CLASS_BRIDGE)
		return r;
	if (group->n_members >= PCI_MAX_GROUP)
		return -E2BIG;
	if (strlen(address) >= PCI_ADDRESS_SIZE)
		return -ENAMETOOLONG;
	strcpy(group->members[group->n_members++], address);
	return 0;
}

int pci_get_group(const char *address, struct pci_group *ret_group)
{
	char number[16];
	struct pci_group group = {0};
	struct dirent *entry;
	int r = 0;

	r = root_link_name(number, sizeof(number), "/sys/bus/pci/devices/%s/iommu_group", address);
	if (r < 0)
		return r;
	group.number = atoi(number);
	DIR *dir = root_opendir("/sys/kernel/iommu_groups/%d/devices", group.number);
	if (!dir)
		return errno == ENOENT ? -EAGAIN : -errno;
	while (r == 0 && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			r = add_member(&group, entry->d_name);
	closedir(dir);
	if (r == 0)
		*ret_group = group;
	return r == -ENOENT ? -EAGAIN : r;
}
