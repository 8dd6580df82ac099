/* Names of states and causes, clean text, and the few sysfs facts about one device instance. */
#include "broker/device.h"

#include "helper/root.h"

static const char *const kind_names[] = {
	[DEVICE_USB] = "usb",
	[DEVICE_PCI] = "pci",
	[DEVICE_EVDEV] = "evdev",
};

static const char *const state_names[] = {
	[DEVICE_RELEASING] = "releasing", [DEVICE_WAITING] = "waiting",
	[DEVICE_HELD] = "held",           [DEVICE_OPENING] = "opening",
	[DEVICE_ATTACHING] = "attaching", [DEVICE_ATTACHED] = "attached",
	[DEVICE_DETACHING] = "detaching", [DEVICE_REFUSED] = "refused",
	[DEVICE_FAILED] = "failed",
};

static const char *const cause_names[] = {
	[CAUSE_PLUG] = "plug",         [CAUSE_UNPLUG] = "unplug",   [CAUSE_COLDPLUG] = "coldplug",
	[CAUSE_VM_START] = "vm-start", [CAUSE_VM_EXIT] = "vm-exit", [CAUSE_CONFIG] = "config",
	[CAUSE_RETRY] = "retry",       [CAUSE_REBOOT] = "reboot",   [CAUSE_LOST] = "lost",
};

const char *device_kind_name(enum device_kind kind)
{
	return kind_names[kind];
}

int device_kind_from_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(kind_names); i++)
		if (streq(kind_names[i], name))
			return (int) i;
	return -1;
}

const char *device_state_name(enum device_state state)
{
	return state_names[state];
}

int device_state_from_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(state_names); i++)
		if (streq(state_names[i], name))
			return (int) i;
	return -1;
}

const char *device_cause_name(enum device_cause cause)
{
	return cause_names[cause];
}

/* The length of the UTF-8 character at S (RFC 3629), or 0 when there is none. */
static size_t utf8_length(const unsigned char *s)
{
	size_t n = s[0] < 0x80                   ? 1
		   : s[0] >= 0xc2 && s[0] < 0xe0 ? 2
		   : s[0] >= 0xe0 && s[0] < 0xf0 ? 3
		   : s[0] >= 0xf0 && s[0] < 0xf5 ? 4
						 : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return n;
}

/* C0, DEL and C1 control characters: they could steer the reader's terminal. */
static bool is_control(const unsigned char *s)
{
	return s[0] < 0x20 || s[0] == 0x7f || (s[0] == 0xc2 && s[1] < 0xa0);
}

void text_copy(char *to, size_t size, const char *from)
{
	const unsigned char *s = (const unsigned char *) (from ? from : "");
	size_t at = 0;

	while (*s) {
		size_t n = utf8_length(s);
		bool good = n > 0 && !is_control(s);

		if (at + (good ? n : 1) >= size)
			break;
		if (good)
			memcpy(to + at, s, n);
		else
			to[at] = '?';
		at += good ? n : 1;
		s += n > 0 ? n : 1;
	}
	to[at] = 0;
}

uint64_t sysfs_inode(const char *devpath)
{
	return root_inode("/sys%s", devpath);
}

void usb_each_interface(const char *devpath, void (*fn)(void *data, const char *interface),
			void *data)
{
	const char *kernel_name = strrchr(devpath, '/') + 1;
	size_t length = strlen(kernel_name);
	struct dirent *entry;

	DIR *dir = root_opendir("/sys%s", devpath);
	while (dir && (entry = readdir(dir)))
		if (strncmp(entry->d_name, kernel_name, length) == 0 &&
		    entry->d_name[length] == ':')
			fn(data, entry->d_name);
	if (dir)
		closedir(dir);
}

bool usb_interface_driver(const char *devpath, const char *interface, char *ret_driver, size_t size)
{
	char driver[256];

	if (root_link_name(driver, sizeof(driver), "/sys%s/%s/driver", devpath, interface) < 0 ||
	    streq(driver, "usbfs"))
		return false;
	snprintf(ret_driver, size, "%s", driver);
	return true;
}

struct driver_search {
	const char *devpath;
	char *text;
	size_t size;
	bool found;
};

static void note_driver(void *data, const char *interface)
{
	struct driver_search *search = data;
	char driver[64];

	if (usb_interface_driver(search->devpath, interface, driver, sizeof(driver))) {
		snprintf(search->text, search->size, "%s on %s", driver, interface);
		search->found = true;
	}
}

bool usb_host_driver(const char *devpath, char *ret_text, size_t size)
{
	struct driver_search search = {.devpath = devpath, .text = ret_text, .size = size};

	usb_each_interface(devpath, note_driver, &search);
	return search.found;
}
