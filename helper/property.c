/* The table of properties. helper/collect.c and broker/udev.c walk it, rules.d/write.c takes from
 * it what a later event must not lose. */
#include "helper/property.h"

const struct property_row property_table[PROPERTIES] = {
	[PROPERTY_SUBSYSTEM] = {"SUBSYSTEM", false},
	[PROPERTY_DEVTYPE] = {"DEVTYPE", false},
	[PROPERTY_DEVNAME] = {"DEVNAME", false},
	[PROPERTY_MAJOR] = {"MAJOR", false},
	[PROPERTY_MINOR] = {"MINOR", false},
	[PROPERTY_BUSNUM] = {"BUSNUM", false},
	[PROPERTY_DEVNUM] = {"DEVNUM", false},
	[PROPERTY_RULE] = {"VHOTPLUG_RULE", true},
	[PROPERTY_VM] = {"VHOTPLUG_VM", true},
	[PROPERTY_CONFIG] = {"VHOTPLUG_CONFIG", true},
	[PROPERTY_FAMILY] = {"VHOTPLUG_FAMILY", true},
	[PROPERTY_OPTIONS] = {"VHOTPLUG_OPTIONS", true},
	[PROPERTY_FENCE] = {"VHOTPLUG_FENCE", true},
	[PROPERTY_PRODUCT] = {"PRODUCT", false},
	[PROPERTY_PCI_ID] = {"PCI_ID", false},
	[PROPERTY_PCI_CLASS] = {"PCI_CLASS", false},
	[PROPERTY_PCI_SLOT_NAME] = {"PCI_SLOT_NAME", false},
	[PROPERTY_SYNTH_UUID] = {"SYNTH_UUID", false},
	[PROPERTY_VENDOR_ID] = {"ID_VENDOR_ID", false},
	[PROPERTY_MODEL_ID] = {"ID_MODEL_ID", false},
	[PROPERTY_SERIAL_SHORT] = {"ID_SERIAL_SHORT", false},
	[PROPERTY_PATH] = {"ID_PATH", false},
	[PROPERTY_USB_INTERFACES] = {"ID_USB_INTERFACES", false},
	[PROPERTY_VENDOR_FROM_DATABASE] = {"ID_VENDOR_FROM_DATABASE", false},
	[PROPERTY_MODEL_FROM_DATABASE] = {"ID_MODEL_FROM_DATABASE", false},
	[PROPERTY_VENDOR] = {"ID_VENDOR", false},
	[PROPERTY_MODEL] = {"ID_MODEL", false},
	[PROPERTY_NAME] = {"NAME", false},
};
