/* The text around the groups: see write-frame.h. */
#include "rules.d/write-frame.h"

#include "helper/property.h"
#include "helper/wire.h"
#include "rules.d/compile.h"
#include "rules.d/write.h"

#define BROKER VHOTPLUG_RUNDIR "/" WIRE_SOCKET_NAME

/* The name in the hardware database and, only where it has none, the device's own. */
#define NAME_LINES(private, database, own)                                                        \
	"ENV{" database                                                                           \
	"}==\"?*\", ENV{" private "}=\"$env{" database "}\"\n"                                    \
				  "ENV{" database                                                 \
				  "}==\"\", ENV{" private "}=\"$env{" own "}\"\n"                 \
							  "ENV{" private "}==\"\", ENV{" database \
									 "}==\"?*\", "            \
									 "GOTO=\"vhp_child\"\n"
/* What comes before the groups of each kind: what the kind never takes. A device that is gone
 * already has no attributes left to be denied by. */
static const char *const kind_prologue[CONFIG_KINDS] = {
	[CONFIG_USB] = "TEST!=\"idVendor\", GOTO=\"vhp_child\"\n"
		       "# udev may have lost the interfaces; what can't be known is not taken\n"
		       "ENV{" INTERFACES "}==\"" LOST_INTERFACES "\", IMPORT{program}=\"" MATCHER
		       " interfaces " INTERFACES "\", ENV{.VHOTPLUG_KNOWN}=\"1\"\n"
		       "ENV{" INTERFACES "}==\"" LOST_INTERFACES "\", "
		       "ENV{.VHOTPLUG_KNOWN}!=\"1\", GOTO=\"vhp_child\"\n"
		       "# hubs stay with the host\n"
		       "ATTR{bDeviceClass}==\"09\", GOTO=\"vhp_child\"\n"
		       "ENV{" INTERFACES "}==\"*:09????:*\", GOTO=\"vhp_child\"\n"
		       "# one name of each kind; udev takes none over 511 bytes\n" NAME_LINES(
			       VENDOR_NAME, "ID_VENDOR_FROM_DATABASE", "ID_VENDOR")
			       NAME_LINES(PRODUCT_NAME, "ID_MODEL_FROM_DATABASE", "ID_MODEL"),
	[CONFIG_PCI] = "TEST!=\"vendor\", GOTO=\"vhp_child\"\n"
		       "# bridges stay with the host\n"
		       "ATTR{class}==\"0x06????\", GOTO=\"vhp_child\"\n",
	[CONFIG_EVDEV] = "TEST!=\"device\", GOTO=\"vhp_child\"\n"
			 "# input devices on USB go with their USB device, but not what comes by\n"
			 "# another bus that begins there\n"
			 "SUBSYSTEMS==\"" BUSES_ON_USB "\", GOTO=\"vhp_evdev_own\"\n"
			 "SUBSYSTEMS==\"usb\", GOTO=\"vhp_child\"\n"
			 "LABEL=\"vhp_evdev_own\"\n",
};

void write_prologue(struct writer *w, enum config_kind kind)
{
	fprintf(w->out, "\nLABEL=\"vhp_%s\"\n%s", config_kind_name(kind), kind_prologue[kind]);
}

void write_head(struct writer *w, const bool is_live[static CONFIG_KINDS])
{
	static const char *const entry[CONFIG_KINDS] = {
		[CONFIG_USB] = "SUBSYSTEM==\"usb\", ENV{DEVTYPE}==\"usb_device\"",
		[CONFIG_PCI] = "SUBSYSTEM==\"pci\"",
		[CONFIG_EVDEV] = "SUBSYSTEM==\"input\", KERNEL==\"event*\"",
	};

	fputs("# an initramfs may have these rules without the helper\n"
	      "TEST!=\"" HELPER "\", GOTO=\"vhp_end\"\n"
	      "SUBSYSTEM!=\"usb|pci|input\", GOTO=\"vhp_child\"\n"
	      "ACTION==\"remove\", GOTO=\"vhp_remove\"\n"
	      "# keep what was decided: every event but add would wipe it, and on unbind\n"
	      "# there is nothing left to decide by\n"
	      "ACTION!=\"add\", IMPORT{db}=\"VHOTPLUG_RULE\", GOTO=\"vhp_keep\"\n"
	      "ACTION==\"unbind\", GOTO=\"vhp_child\"\n",
	      w->out);
	for (unsigned kind = 0; kind < CONFIG_KINDS; kind++)
		if (is_live[kind])
			fprintf(w->out, "%s, GOTO=\"vhp_%s\"\n", entry[kind],
				config_kind_name((enum config_kind) kind));
	fputs("GOTO=\"vhp_child\"\n", w->out);
}

/* A disk that the host needs, for its start or because somebody has mounted it, must not become one
 * that systemd waits for in vain. So a disk is fenced only if it comes while the broker is there to
 * take it, which is after the host's own file systems, and not when an event is made up for one
 * that was there before. What the fence has once been on keeps it, until the broker refuses the
 * device and says so in a file. */
#define EARLY_STORAGE "SUBSYSTEM==\"usb\", ATTR{bInterfaceClass}==\"08\", TEST!=\"" BROKER
#define SPARE_DISKS                                                                         \
	"# a disk that the host may need to start: not before the broker is there to take " \
	"it\n" EARLY_STORAGE "\", GOTO=\"vhp_end\"\n"                                       \
	"SUBSYSTEM!=\"block|scsi|mmc\", GOTO=\"vhp_fence\"\n"                               \
	"IMPORT{db}=\"VHOTPLUG_FENCED\"\n"                                                  \
	"ENV{VHOTPLUG_FENCED}==\"1\", GOTO=\"vhp_refused\"\n"                               \
	"ACTION!=\"add\", GOTO=\"vhp_end\"\n"                                               \
	"ENV{SYNTH_UUID}==\"?*\", GOTO=\"vhp_end\"\n"                                       \
	"TEST!=\"" BROKER "\", GOTO=\"vhp_end\"\n"                                          \
	"LABEL=\"vhp_refused\"\n"                                                           \
	"SUBSYSTEMS==\"usb\", ATTRS{devnum}==\"?*\", TEST==\"" REFUSED                      \
	"\", ENV{VHOTPLUG_FENCED}=\"\", GOTO=\"vhp_end\"\n"

/* What was shut and is nobody's any more goes back to the host, also where no broker runs. */
#define OPEN_INTERFACE                                                           \
	"SUBSYSTEM==\"usb\", ENV{DEVTYPE}==\"usb_interface\", ACTION==\"add\", " \
	"ENV{VHOTPLUG_FENCE}!=\"yes\", ATTR{authorized}==\"0\", "                \
	"IMPORT{db}=\"VHOTPLUG_FENCED\", ENV{VHOTPLUG_FENCED}=\"\", "            \
	"ATTR{authorized}=\"1\", ATTR{subsystem/drivers_probe}=\"$kernel\"\n"

/* The kernel shuts a USB interface for all drivers and programs. Here that is done when it appears;
 * the broker does it to those that were there before, if the host does not use them. */
#define SHUT_INTERFACE                                                                     \
	"# the interfaces of a USB device that no VM has are shut\n"                       \
	"SUBSYSTEM!=\"usb\", GOTO=\"vhp_below\"\n"                                         \
	"ENV{DEVTYPE}!=\"usb_interface\", GOTO=\"vhp_below\"\n"                            \
	"IMPORT{parent}=\"VHOTPLUG_FENCE\"\n" EARLY_STORAGE "\", GOTO=\"vhp_open\"\n"      \
	"ACTION==\"add\", ATTR{authorized}==\"1\", ENV{SYNTH_UUID}==\"\", "                \
	"ENV{VHOTPLUG_FENCE}==\"yes\", "                                                   \
	"ATTRS{idVendor}==\"?*\", TEST!=\"" GIVEN "\", ATTR{authorized}=\"0\"\n"           \
	"# the broker may have been giving it meanwhile\n"                                 \
	"ACTION==\"add\", ENV{VHOTPLUG_FENCE}==\"yes\", ATTRS{idVendor}==\"?*\", "         \
	"TEST==\"" GIVEN "\", ATTR{authorized}=\"1\"\n"                                    \
	"LABEL=\"vhp_open\"\n"                                                             \
	"# a host driver has got what a VM has: the broker sees to that\n"                 \
	"ACTION==\"bind\", DRIVER!=\"usbfs\", TEST==\"driver\", ATTRS{idVendor}==\"?*\", " \
	"TEST==\"" GIVEN "\", RUN+=\"" HELPER "\"\n"                                       \
	"# what no rule claims any more is opened\n" OPEN_INTERFACE "LABEL=\"vhp_below\"\n"

/* The classes of what disks and networks are on: of disks and of networks; SD cards; FireWire, SSA,
 * USB, Fibre Channel and InfiniBand; wireless networks. Source: pci.ids(5). */
#define NEEDED_CARDS "0x01????|0x02????|0x0805??|0x0c0[02346]??|0x0d????"

/* The kernel puts a device into its IOMMU group before it tells of it: device_add has the bus
 * notifier, then the uevent. Where the firmware describes the IOMMU (ARM, virtio-iommu), Linux
 * before 6.15 does so only when a driver comes. What was set aside there would never have a group;
 * so the host's driver comes first, and the broker takes the device from it.
 * Source: kernel, drivers/base/core.c, drivers/iommu/iommu.c. */
#define SET_ASIDE                                                                     \
	"# before the host's driver comes, but not what can go to no VM; disks and\n" \
	"# networks, which the host may need to start, only with force\n"             \
	"ACTION!=\"add\", GOTO=\"vhp_fence\"\n"                                       \
	"SUBSYSTEM!=\"pci\", GOTO=\"vhp_fence\"\n"                                    \
	"TEST!=\"iommu_group\", GOTO=\"vhp_fence\"\n"                                 \
	"ENV{VHOTPLUG_OPTIONS}==\"*iommu-skip-if-shared*\", GOTO=\"vhp_fence\"\n"     \
	"ATTR{class}==\"" NEEDED_CARDS "\", ENV{VHOTPLUG_OPTIONS}!=\"*force*\", "     \
	"GOTO=\"vhp_fence\"\n"                                                        \
	"ATTR{driver_override}=\"vfio-pci\", GOTO=\"vhp_fence\"\n"

void write_tail(struct writer *w)
{
	fputc('\n', w->out);
	write_label(w, &w->hit);
	/* Only who is claimed now comes by here, at whatever event: the rules may be others than
	 * those that saw it come. The late file has to know. */
	fprintf(w->out,
		"ENV{VHOTPLUG_CONFIG}=\"%s\"\n"
		"ENV{.VHOTPLUG_NEW}=\"1\", RUN+=\"" HELPER "\"\n"
		"GOTO=\"vhp_claimed\"\n",
		w->config->digest);
	fputs("\nLABEL=\"vhp_keep\"\n", w->out);
	for (size_t i = 0; i < PROPERTIES; i++)
		if (property_table[i].decided && i != PROPERTY_RULE)
			fprintf(w->out, "IMPORT{db}=\"%s\"\n", property_table[i].name);
	fputs("\nLABEL=\"vhp_claimed\"\n"
	      "TAG+=\"vhotplug\"\n"
	      "ENV{VHOTPLUG_FENCE}==\"no\", GOTO=\"vhp_end\"\n"
	      "TAG+=\"vhotplug-fence\"\n" SET_ASIDE "\nLABEL=\"vhp_remove\"\n"
	      "ENV{VHOTPLUG_RULE}==\"?*\", RUN+=\"" HELPER "\"\n"
	      "GOTO=\"vhp_end\"\n"
	      "\n# below a claimed device: the host keeps its hands off\n"
	      "LABEL=\"vhp_child\"\n"
	      "SUBSYSTEM!=\"" FENCED_SUBSYSTEMS "\", GOTO=\"vhp_end\"\n"
	      "DEVPATH==\"/devices/virtual/*\", GOTO=\"vhp_end\"\n" SHUT_INTERFACE
	      "TAGS==\"vhotplug-fence\", GOTO=\"vhp_spare\"\n"
	      "GOTO=\"vhp_end\"\n"
	      "LABEL=\"vhp_spare\"\n" SPARE_DISKS "\nLABEL=\"vhp_fence\"\n"
	      "ENV{VHOTPLUG_FENCED}=\"1\"\n"
	      "# libmtp asks before the late file\n"
	      "SUBSYSTEM==\"usb\", ENV{MTP_NO_PROBE}=\"1\"\n"
	      "SUBSYSTEM==\"usb|tty|net|usbmisc|wwan\", ENV{ID_MM_DEVICE_IGNORE}=\"1\", "
	      "ENV{ID_MM_PORT_IGNORE}=\"1\"\n"
	      "SUBSYSTEM==\"block\", ENV{UDISKS_IGNORE}=\"1\", ENV{SYSTEMD_READY}=\"0\", "
	      "ENV{DM_UDEV_DISABLE_OTHER_RULES_FLAG}=\"1\"\n"
	      "SUBSYSTEM==\"input\", ENV{LIBINPUT_IGNORE_DEVICE}=\"1\"\n"
	      "SUBSYSTEM==\"input\", ENV{ID_INPUT_KEY}==\"1\", ENV{ID_INPUT_KEY}=\"0\"\n"
	      "SUBSYSTEM==\"input\", ENV{ID_INPUT_SWITCH}==\"1\", ENV{ID_INPUT_SWITCH}=\"0\"\n"
	      "SUBSYSTEM==\"net\", ENV{NM_UNMANAGED}=\"1\"\n"
	      "SUBSYSTEM==\"sound\", ENV{PULSE_IGNORE}=\"1\", ENV{ACP_IGNORE}=\"1\"\n"
	      "\nLABEL=\"vhp_end\"\n",
	      w->out);
}

void write_nothing(struct writer *w)
{
	fputs("# It gives nothing away.\n" OPEN_INTERFACE, w->out);
}
