/* Looks at sysfs: see look.h. Called by handover and the manager. */
#include "broker/look.h"

#include "broker/pci.h"
#include "helper/root.h"

int look_up_group(const struct device *device)
{
	struct pci_group group;

	if (device->id.kind != DEVICE_PCI || pci_get_group(device->id.kernel_name, &group) < 0)
		return -1;
	return group.number;
}

static unsigned read_number(const struct device *device, const char *attribute)
{
	char text[16];

	if (root_read(text, sizeof(text), "/sys%s/%s", device->id.devpath, attribute) < 0)
		return 0;
	return (unsigned) strtoul(text, NULL, 10);
}

static bool is_numbered_zero(const char *node)
{
	const char *number = strrchr(node, '/');

	return number && streq(number, "/000");
}

void look_up_node(struct device *device)
{
	char node[DEVICE_WORD_SIZE];
	unsigned bus, number;

	if (device->id.kind != DEVICE_USB || !is_numbered_zero(device->id.node))
		return;
	bus = read_number(device, "busnum");
	number = read_number(device, "devnum");
	if (bus == 0 || number == 0)
		return;
	snprintf(node, sizeof(node), "/dev/bus/usb/%03u/%03u", bus, number);
	kept_set(&device->id.node, node);
}

int look_at_members(const struct device *device, void (*fn)(void *data, const char *address),
		    void *data)
{
	struct pci_group group;
	int r = pci_get_group(device->id.kernel_name, &group);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	for (size_t i = 0; i < group.n_members; i++)
		if (!streq(group.members[i], device->id.kernel_name))
			fn(data, group.members[i]);
	return 0;
}

bool look_for_bridge(const struct device *device, char *names, size_t size)
{
	struct pci_group group;

	if (pci_get_group(device->id.kernel_name, &group) < 0 || !group.bridge[0])
		return false;
	look_describe(group.bridge, names, size);
	return true;
}

void look_describe(const char *address, char *names, size_t size)
{
	unsigned vendor = 0, model = 0;
	char name[128] = "", driver[64] = "no driver";
	size_t length = strlen(names);

	if (pci_attribute(address, "vendor", &vendor) == 0 &&
	    pci_attribute(address, "device", &model) == 0)
		pci_name(vendor, model, name, sizeof(name));
	pci_driver(address, driver, sizeof(driver));
	snprintf(names + length, size - length, "%s%s (%.60s, %s)", length ? ", " : "", address,
		 *name ? name : "?", driver);
}

bool look_host_uses(const char *address)
{
	char driver[64];

	return pci_driver(address, driver, sizeof(driver)) && !streq(driver, "vfio-pci");
}

void look_at_pci_driver(struct device *device)
{
	char driver[DEVICE_WORD_SIZE];
	bool is_held = pci_driver(device->id.kernel_name, driver, sizeof(driver)) &&
		       !streq(driver, "vfio-pci");

	kept_set(&device->attempt.host_driver, is_held ? driver : "");
}
