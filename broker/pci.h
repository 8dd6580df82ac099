/* What sysfs and the PCI id database say of PCI functions and their IOMMU groups.
 * Sources: kernel, Documentation/ABI/testing/sysfs-bus-pci and sysfs-kernel-iommu_groups; libpci.
 *
 * An address is "0000:00:05.0", a directory's name below /sys/bus/pci/devices.
 */
#pragma once

#include "helper/macro.h"

#define PCI_ADDRESS_SIZE 24
#define PCI_MAX_GROUP 512

/* "Realtek Semiconductor Co., Ltd. RTL-8100/8101L/8139" for the ids VENDOR and DEVICE, or "" where
 * the database is not installed, or is none. */
void pci_name(unsigned vendor, unsigned device, char *ret_name, size_t size);

/* A number from an attribute of ADDRESS ("class", "vendor"), as sysfs writes it: 0x….
 * Returns 0 or -errno. */
int pci_attribute(const char *address, const char *attribute, unsigned *ret_value) _must_check_;

/* Is it a bridge (class 06)? Such are never given away and do not count in a group. Returns 0, 1,
 * or -errno when that can't be told. */
int pci_is_bridge(const char *address) _must_check_;

/* The driver bound to ADDRESS; false when there is none. */
bool pci_driver(const char *address, char *ret_driver, size_t size);

struct pci_group {
	int number;
	char bridge[PCI_ADDRESS_SIZE]; /* one that keeps the group from VMs, by its driver; "" */
	size_t n_members;              /* bridges left out */
	char members[PCI_MAX_GROUP][PCI_ADDRESS_SIZE];
};
/* The IOMMU group of ADDRESS. Returns 0; -ENOENT when it has none (no IOMMU, or it is off); -E2BIG
 * for a group of more than PCI_MAX_GROUP functions; another -errno when it can't be told who is in
 * it, -EAGAIN while one of them is just going. */
int pci_get_group(const char *address, struct pci_group *ret_group) _must_check_;
