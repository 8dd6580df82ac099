/* libudev's view of a device, for explain.c and apply.c. */
#include "rules.d/udev.h"

/* The properties as NAME=VALUE in a new list, NULL-terminated also when memory ends in its midst.
 * Returns 0 or -ENOMEM. */
static int copy_properties(struct udev_device *device, char ***ret)
{
	struct udev_list_entry *first = udev_device_get_properties_list_entry(device), *entry;
	size_t n = 0, i = 0;

	udev_list_entry_foreach(entry, first) n++;
	*ret = calloc(n + 1, sizeof(**ret));
	if (!*ret)
		return -ENOMEM;
	udev_list_entry_foreach(entry, first)
	{
		if (asprintf(&(*ret)[i], "%s=%s", udev_list_entry_get_name(entry),
			     udev_list_entry_get_value(entry)) < 0) {
			(*ret)[i] = NULL;
			return -ENOMEM;
		}
		i++;
	}
	return 0;
}

int subject_from_udev(struct udev_device *device, struct subject *s)
{
	char **properties = NULL;
	int r = copy_properties(device, &properties);
	int taken = subject_init(s, udev_device_get_devpath(device),
				 udev_device_get_subsystem(device) ?: "",
				 udev_device_get_devtype(device) ?: "", properties, NULL);

	return r < 0 ? r : taken;
}
