/* From what a person types to a device: see ctl_select.h. */
#include "helper/ctl_select.h"

#include <strings.h>

static const char *text_of(const json_t *device, const char *key)
{
	const char *text = json_string_value(json_object_get(device, key));

	return text ? text : "";
}

static bool by_tag(const json_t *device, const char *text)
{
	const char *tag = startswith(text, "tag:");

	return tag && *tag && streq(text_of(device, "tag"), tag);
}

static bool by_place(const json_t *device, const char *text)
{
	const char *name = text_of(device, "device");
	const char *short_name = startswith(name, "0000:");

	return streq(name, text) || (short_name && streq(short_name, text)) ||
	       streq(text_of(device, "id"), text);
}

static bool by_node(const json_t *device, const char *text)
{
	const char *devpath = startswith(text, "/sys");

	return *text == '/' && (streq(text_of(device, "node"), text) ||
				streq(text_of(device, "devpath"), devpath ? devpath : text));
}

static bool by_ids(const json_t *device, const char *text)
{
	char ids[16];

	snprintf(ids, sizeof(ids), "%s:%s", text_of(device, "vid"), text_of(device, "pid"));
	return strlen(ids) == 9 && strcasecmp(ids, text) == 0;
}

static bool by_serial(const json_t *device, const char *text)
{
	return *text_of(device, "serial") && streq(text_of(device, "serial"), text);
}

static bool by_name(const json_t *device, const char *text)
{
	return strcasestr(text_of(device, "name"), text) != NULL;
}

typedef bool (*match_fn)(const json_t *device, const char *text);

json_t *select_devices(json_t *devices, const char *text)
{
	static const match_fn ways[] = {by_tag, by_place, by_node, by_ids, by_serial, by_name};
	json_t *found = json_array(), *device;
	size_t i;

	for (size_t way = 0; way < ARRAY_SIZE(ways) && *text; way++) {
		json_array_foreach(devices, i, device) if (ways[way](device, text))
			json_array_append(found, device);
		/* A tag is never anything else. */
		if (json_array_size(found) > 0 || startswith(text, "tag:"))
			break;
	}
	return found;
}

static void say_candidates(const json_t *found, const char *text)
{
	json_t *device;
	size_t i;

	ctl_fail(CTL_NO_DEVICE, "\"%s\" may be any of these; name one of them:", text);
	json_array_foreach(found, i, device)
		fprintf(stderr, "  %-12s %s:%s  %s%s%s\n", text_of(device, "device"),
			text_of(device, "vid"), text_of(device, "pid"), text_of(device, "name"),
			*text_of(device, "serial") ? "  serial " : "", text_of(device, "serial"));
}

static bool is_decided(const json_t *found, const char *text, bool takes_tags)
{
	size_t n = json_array_size(found);

	if (n == 0)
		ctl_fail(CTL_NO_DEVICE, "there is no device \"%s\"; see vhotplugctl list%s", text,
			 takes_tags ? "" : " --all");
	else if (n > 1 && !(takes_tags && startswith(text, "tag:")))
		say_candidates(found, text);
	else
		return true;
	return false;
}

json_t *select_one(json_t *devices, const char *text)
{
	json_t *found = select_devices(devices, text);
	json_t *one = is_decided(found, text, false) ? json_array_get(found, 0) : NULL;

	json_decref(found);
	return one;
}

json_t *select_some(json_t *devices, const char *text)
{
	json_t *found = select_devices(devices, text);

	if (is_decided(found, text, true))
		return found;
	json_decref(found);
	return NULL;
}

/* Buses that may begin at a USB device, and whose input devices are none of USB: rules.d/compile.h,
 * BUSES_ON_USB, as the names of their devices. */
static bool is_on_bus(const char *devpath)
{
	return strstr(devpath, "/bluetooth/") || strstr(devpath, "/serio") ||
	       strstr(devpath, "/i2c-");
}

bool select_is_usb(const json_t *device)
{
	const char *devpath = text_of(device, "devpath");
	const char *usb = streq(text_of(device, "kind"), "evdev") ? strstr(devpath, "/usb") : NULL;

	return usb && !is_on_bus(usb);
}
