/* Reading udev's database: see udev.h. Used by the manager at start and after the rules changed. */
#include "broker/udev.h"

#include <libudev.h>

static void unrefp(struct udev **udev)
{
	udev_unref(*udev);
}

static void device_unrefp(struct udev_device **device)
{
	udev_device_unref(*device);
}

static void enumerate_unrefp(struct udev_enumerate **enumerate)
{
	udev_enumerate_unref(*enumerate);
}

static const char *get_property(void *device, const char *key)
{
	return udev_device_get_property_value(device, key);
}

static void hand_out(struct udev *udev, const char *syspath, udev_device_fn fn, void *data)
{
	_cleanup_(device_unrefp) struct udev_device *device =
		udev_device_new_from_syspath(udev, syspath);

	/* A device may vanish while it is looked at. */
	if (device && udev_device_get_property_value(device, "VHOTPLUG_RULE"))
		fn(data, udev_device_get_devpath(device), get_property, device);
}

int udev_list_claimed(udev_device_fn fn, void *data)
{
	_cleanup_(unrefp) struct udev *udev = udev_new();
	_cleanup_(enumerate_unrefp) struct udev_enumerate *enumerate = NULL;
	struct udev_list_entry *entry;
	int r;

	if (!udev || !(enumerate = udev_enumerate_new(udev)))
		return -ENOMEM;
	r = udev_enumerate_add_match_tag(enumerate, "vhotplug");
	if (r >= 0)
		r = udev_enumerate_scan_devices(enumerate);
	if (r < 0)
		return r;
	udev_list_entry_foreach(entry, udev_enumerate_get_list_entry(enumerate))
		hand_out(udev, udev_list_entry_get_name(entry), fn, data);
	return 0;
}

enum udev_claim udev_get_claim(const char *devpath)
{
	char syspath[600];
	_cleanup_(unrefp) struct udev *udev = udev_new();
	_cleanup_(device_unrefp) struct udev_device *device = NULL;

	snprintf(syspath, sizeof(syspath), "/sys%s", devpath);
	if (udev)
		device = udev_device_new_from_syspath(udev, syspath);
	if (!device || udev_device_get_is_initialized(device) <= 0)
		return UDEV_UNKNOWN;
	return udev_device_get_property_value(device, "VHOTPLUG_RULE") ? UDEV_CLAIMED
								       : UDEV_UNCLAIMED;
}
