/* The host's devices: see control_host.h. Used by control_broker.c, and for what is not on record
 * of a device. */
#include "broker/control_host.h"

#include <dirent.h>

#include "broker/properties.h"
#include "helper/root.h"

#define MAX_PROPERTIES 64

/* One device's entry in udev's database. */
struct entry {
	char *text;
	size_t n;
	char *keys[MAX_PROPERTIES], *values[MAX_PROPERTIES];
};

static void add_property(struct entry *entry, const char *key, const char *value)
{
	if (entry->n == MAX_PROPERTIES)
		return;
	entry->keys[entry->n] = strdup(key);
	entry->values[entry->n] = strdup(value);
	if (entry->keys[entry->n] && entry->values[entry->n])
		entry->n++;
}

/* The file's lines "E:KEY=VALUE". Source: systemd, src/libsystemd/sd-device/sd-device.c; eudev has
 * the same. It is there for programs like libudev, which would wait for the device as well. */
static void read_entry(struct entry *entry, const char *id)
{
	_cleanup_fclose_ FILE *f = root_fopen("/run/udev/data/%s", id);
	_cleanup_free_ char *line = NULL;
	size_t size = 0;

	while (f && getline(&line, &size, f) > 0) {
		char *value = strchr(line, '=');

		line[strcspn(line, "\n")] = 0;
		if (line[0] != 'E' || line[1] != ':' || !value)
			continue;
		*value++ = 0;
		add_property(entry, line + 2, value);
	}
}

static void free_entry(struct entry *entry)
{
	while (entry->n > 0) {
		free(entry->keys[--entry->n]);
		free(entry->values[entry->n]);
	}
}

static const char *get_property(void *from, const char *key)
{
	const struct entry *entry = from;

	for (size_t i = 0; i < entry->n; i++)
		if (streq(entry->keys[i], key))
			return entry->values[i];
	return NULL;
}

/* What the kernel says in its uevent, without the file of that name, which waits for the device. */
static void add_kernel_properties(struct entry *entry, enum device_kind kind, const char *devpath)
{
	char bus[16], number[16], vendor[16], product[16], text[64];

	if (kind == DEVICE_PCI) {
		add_property(entry, "SUBSYSTEM", "pci");
		return;
	}
	if (kind == DEVICE_EVDEV) {
		add_property(entry, "SUBSYSTEM", "input");
		snprintf(text, sizeof(text), "/dev/input/%.40s", strrchr(devpath, '/') + 1);
		add_property(entry, "DEVNAME", text);
		return;
	}
	add_property(entry, "SUBSYSTEM", "usb");
	add_property(entry, "DEVTYPE", "usb_device");
	if (root_read(bus, sizeof(bus), "/sys%s/busnum", devpath) == 0 &&
	    root_read(number, sizeof(number), "/sys%s/devnum", devpath) == 0) {
		snprintf(text, sizeof(text), "/dev/bus/usb/%03d/%03d", atoi(bus), atoi(number));
		add_property(entry, "DEVNAME", text);
	}
	if (root_read(vendor, sizeof(vendor), "/sys%s/idVendor", devpath) == 0 &&
	    root_read(product, sizeof(product), "/sys%s/idProduct", devpath) == 0) {
		snprintf(text, sizeof(text), "%s/%s/0", vendor, product);
		add_property(entry, "PRODUCT", text);
	}
}

static void find_entry(struct entry *entry, enum device_kind kind, const char *devpath)
{
	char number[32], id[64];

	if (kind == DEVICE_PCI) {
		snprintf(id, sizeof(id), "+pci:%s", strrchr(devpath, '/') + 1);
		read_entry(entry, id);
	} else if (root_read(number, sizeof(number), "/sys%s/dev", devpath) == 0) {
		snprintf(id, sizeof(id), "c%s", number);
		read_entry(entry, id);
	}
}

void host_describe_device(struct device *device)
{
	struct entry entry = {0};

	if (device_has_gone(device))
		return;
	find_entry(&entry, device->id.kind, device->id.devpath);
	properties_read_description(device, get_property, &entry);
	free_entry(&entry);
}

static void read_device(enum device_kind kind, const char *devpath, struct device *ret_device)
{
	struct entry entry = {0};

	find_entry(&entry, kind, devpath);
	add_kernel_properties(&entry, kind, devpath);
	memset(ret_device, 0, sizeof(*ret_device));
	device_init(ret_device);
	kept_set(&ret_device->id.devpath, devpath);
	ret_device->id.inode = sysfs_inode(devpath);
	if (properties_kind(get_property, &entry) >= 0)
		properties_read_identity(ret_device, get_property, &entry);
	free_entry(&entry);
}

static int compare_paths(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

static bool is_device(enum device_kind kind, const char *name)
{
	if (kind == DEVICE_USB)
		return name[0] != '.' && !strchr(name, ':');
	return name[0] != '.' && (kind == DEVICE_PCI || startswith(name, "event"));
}

/* The paths below /sys of the entries of DIRECTORY, sorted. */
static size_t list_paths(enum device_kind kind, const char *directory, char ***ret_paths)
{
	DIR *dir = root_opendir("%s", directory);
	char path[PATH_MAX], **paths = NULL, **bigger;
	struct dirent *entry;
	size_t n = 0;

	while (dir && (entry = readdir(dir))) {
		if (!is_device(kind, entry->d_name) ||
		    root_resolve(path, "%s/%s", directory, entry->d_name) < 0 ||
		    !startswith(path, "/sys/devices/"))
			continue;
		bigger = reallocarray(paths, n + 1, sizeof(*paths));
		if (!bigger)
			break;
		paths = bigger;
		paths[n] = strdup(path + strlen("/sys"));
		n += paths[n] != NULL;
	}
	if (dir)
		closedir(dir);
	if (n > 0)
		qsort(paths, n, sizeof(*paths), compare_paths);
	*ret_paths = paths;
	return n;
}

void host_each_device(enum device_kind kind, void (*fn)(void *data, const struct device *device),
		      void *data)
{
	static const char *const directories[] = {
		[DEVICE_USB] = "/sys/bus/usb/devices",
		[DEVICE_PCI] = "/sys/bus/pci/devices",
		[DEVICE_EVDEV] = "/sys/class/input",
	};
	char **paths = NULL;
	size_t n = list_paths(kind, directories[kind], &paths);

	for (size_t i = 0; i < n; i++) {
		struct device device;

		read_device(kind, paths[i], &device);
		if (device.id.kernel_name[0])
			fn(data, &device);
		device_finish(&device);
		free(paths[i]);
	}
	free(paths);
}
