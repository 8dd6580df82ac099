/* The device's properties that travel: what the rules decide, the helper sends and the broker
 * reads. One table for all three, so that none of them can lack one. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* The most important first: what comes last is left out when a message is full. */
enum property {
	PROPERTY_SUBSYSTEM,
	PROPERTY_DEVTYPE,
	PROPERTY_DEVNAME,
	PROPERTY_MAJOR,
	PROPERTY_MINOR,
	PROPERTY_BUSNUM,
	PROPERTY_DEVNUM,
	PROPERTY_RULE,    /* kind/group/rule */
	PROPERTY_VM,      /* candidates, comma-separated, in order */
	PROPERTY_CONFIG,  /* the digest of the config that decided */
	PROPERTY_FAMILY,  /* keeps its VM when it comes back as another device */
	PROPERTY_OPTIONS, /* words of conf/options.h, and order=N */
	PROPERTY_FENCE,   /* yes or no */
	PROPERTY_PRODUCT,
	PROPERTY_PCI_ID,
	PROPERTY_PCI_CLASS,
	PROPERTY_PCI_SLOT_NAME,
	PROPERTY_SYNTH_UUID,
	PROPERTY_VENDOR_ID,
	PROPERTY_MODEL_ID,
	PROPERTY_SERIAL_SHORT,
	PROPERTY_PATH,
	PROPERTY_USB_INTERFACES,
	PROPERTY_VENDOR_FROM_DATABASE,
	PROPERTY_MODEL_FROM_DATABASE,
	PROPERTY_VENDOR,
	PROPERTY_MODEL,
	PROPERTY_NAME,
	PROPERTY_TYPE, /* of a USB device: its class, as the kernel says it */
	PROPERTIES,
};

struct property_row {
	const char *name; /* in udev's database and in the message */
	bool decided;     /* the rules set it, and keep it on every event but add */
};

extern const struct property_row property_table[PROPERTIES];
