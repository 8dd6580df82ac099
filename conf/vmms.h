/* The virtual machine monitors that devices can be moved into, one row each.
 *
 * A new one is its row here and its file in broker/, which defines vmm_NAME (broker/vmm.h). All
 * else that depends on the kind of a VM is made from this table.
 */
#pragma once

/* ROW(ID, NAME, WORD, KINDS, DELAY, KEYS …)
 *   VM_ID is its enum vm_type, vmm_NAME its struct vmm, WORD its "type =" in the config;
 *   KINDS are the devices that rules may give it, by enum config_kind;
 *   DELAY is its "delay =" where that is not said, in seconds;
 *   KEYS are those of [vm] besides "type" that mean something to it. */
#define VMM_TABLE(ROW)                                                                             \
	ROW(QEMU, qemu, "qemu", 1 << CONFIG_USB | 1 << CONFIG_PCI | 1 << CONFIG_EVDEV, 0,          \
	    "socket", "user", "delay", "listen", "usbBus", "pciBus", "qemuUseRootBus",             \
	    "acpiTable")                                                                           \
	/* Its USB controller dies when a device is there before the guest's driver. */            \
	ROW(CROSVM, crosvm, "crosvm", 1 << CONFIG_USB | 1 << CONFIG_PCI | 1 << CONFIG_EVDEV, 20,   \
	    "socket", "user", "delay")                                                             \
	ROW(CLOUD_HYPERVISOR, cloud_hypervisor, "cloud-hypervisor", 1 << CONFIG_PCI, 0, "socket",  \
	    "user", "delay")                                                                       \
	/* It is reached through libvirt, which knows where its monitor is. */                     \
	ROW(LIBVIRT, libvirt, "libvirt", 1 << CONFIG_USB | 1 << CONFIG_PCI | 1 << CONFIG_EVDEV, 0, \
	    "domain", "uri")
