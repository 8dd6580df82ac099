/* Looks at the device the way the rules do, for the patterns that udev's globs can't say. Called by
 * vhotplug-match. The environment is made of what the kernel and the device say: it is data, and
 * never decides where to look. */
#include "helper/match.h"

#include <ctype.h>
#include <fcntl.h>
#include <limits.h>
#include <strings.h>

#include <libkmod.h>

#include "conf/regex.h"

static const char *property_or_empty(const char *name)
{
	return getenv(name) ?: "";
}

/* The hardware database's name, and only where it has none the device's own. */
static const char *name_of(const char *database, const char *own)
{
	const char *name = property_or_empty(database);

	return *name ? name : property_or_empty(own);
}

/* Opens an attribute of the device. Returns the descriptor or -errno. */
static int open_attribute(const struct match_places *places, const char *attribute)
{
	const char *devpath = places->devpath ?: getenv("DEVPATH");
	const char *sysfs = places->sysfs ?: "/sys";
	char path[PATH_MAX];
	int fd;

	if (!devpath || !startswith(devpath, "/devices/") || strstr(devpath, "/.."))
		return -EINVAL;
	if ((size_t) snprintf(path, sizeof(path), "%s%s/%s", sysfs, devpath, attribute) >=
	    sizeof(path))
		return -ENAMETOOLONG;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

/* Reads an attribute as udev does: without blanks at the end. What is missing is empty. */
static int read_attribute(const struct match_places *places, const char *attribute, char *ret,
			  size_t size)
{
	_cleanup_close_ int fd = open_attribute(places, attribute);
	ssize_t n = fd >= 0 ? read(fd, ret, size - 1) : 0;

	if (n < 0)
		return -errno;
	if (fd < 0 && fd != -ENOENT)
		return fd;
	while (n > 0 && strchr(" \t\r\n", ret[n - 1]))
		n--;
	ret[n] = '\0';
	return 0;
}

static int match_text(const char *pattern, const char *text, const char **ret_why)
{
	char error[128];
	pcre2_code *code = regex_compile(pattern, error, sizeof(error));
	int r;

	if (!code) {
		*ret_why = "the pattern is no regular expression";
		return -EINVAL;
	}
	r = regex_match(code, text, strlen(text));
	if (r == -ELOOP)
		*ret_why = "the pattern needs too much work on this text";
	pcre2_code_free(code);
	return r;
}

/* What the kernel has of a device's descriptors. */
struct descriptors {
	unsigned char data[256 * 1024]; /* eight configurations of 64 KiB can't all be full */
	size_t size;
};

/* Reads all descriptors of the device; free what is returned in *RET. */
static int read_descriptors(const struct match_places *places, struct descriptors **ret)
{
	enum { DEVICE_BYTES = 18 };
	_cleanup_free_ struct descriptors *d = calloc(1, sizeof(*d));
	_cleanup_close_ int fd = open_attribute(places, "descriptors");
	ssize_t n;

	if (fd < 0 || !d)
		return fd < 0 ? fd : -ENOMEM;
	while ((n = read(fd, d->data + d->size, sizeof(d->data) - d->size)) > 0)
		d->size += (size_t) n;
	if (n < 0)
		return -errno;
	if (d->size < DEVICE_BYTES)
		return -EIO;
	if (d->size == sizeof(d->data))
		return -E2BIG;
	*ret = TAKE_PTR(d);
	return 0;
}

/* The first interface descriptor from *AT on (0: from the start), and *AT behind it. Returns 1, 0
 * at the end, or -EBADMSG: the kernel leaves out what it can't read, so nothing odd may be here. */
static int next_interface(const struct descriptors *d, size_t *at, const unsigned char **ret)
{
	enum { INTERFACE = 4, INTERFACE_BYTES = 9 };

	while (*at < d->size) {
		const unsigned char *found = d->data + *at;

		if (d->size - *at < 2 || found[0] < 2 || found[0] > d->size - *at)
			return -EBADMSG;
		*at += found[0];
		if (found[1] != INTERFACE)
			continue;
		if (found[0] < INTERFACE_BYTES)
			return -EBADMSG;
		*ret = found;
		return 1;
	}
	return 0;
}

/* The part of a modalias that all interfaces of a device share. */
static int device_alias(const struct match_places *places, char *ret, size_t size)
{
	static const char *const attributes[] = {"idVendor",        "idProduct",
						 "bcdDevice",       "bDeviceClass",
						 "bDeviceSubClass", "bDeviceProtocol"};
	static const char *const parts[] = {"usb:v", "p", "d", "dc", "dsc", "dp"};
	size_t n = 0;

	for (size_t i = 0; i < ARRAY_SIZE(attributes); i++) {
		char value[16];
		int r = read_attribute(places, attributes[i], value, sizeof(value));

		if (r < 0)
			return r;
		if (!*value)
			return -ENODEV;
		for (char *c = value; *c; c++)
			*c = (char) toupper((unsigned char) *c);
		n += (size_t) snprintf(ret + n, size - n, "%s%s", parts[i], value);
		if (n >= size)
			return -ENAMETOOLONG;
	}
	return 0;
}

/* Whether one of the modules that ALIAS resolves to lies at a path that PATTERN matches. */
static int match_alias(struct kmod_ctx *kmod, const char *alias, const char *pattern,
		       const char **ret_why)
{
	struct kmod_list *modules = NULL, *item;
	int r = kmod_module_new_from_lookup(kmod, alias, &modules);

	if (r < 0) {
		*ret_why = "the module index can't be read";
		return r;
	}
	r = 0;
	kmod_list_foreach(item, modules)
	{
		struct kmod_module *module = kmod_module_get_module(item);
		const char *path = kmod_module_get_path(module);

		if (r == 0 && path)
			r = match_text(pattern, path, ret_why);
		kmod_module_unref(module);
	}
	kmod_module_unref_list(modules);
	return r;
}

/* Whether an interface is of a class that says what it is: then no driver is looked up. */
static int has_known_class(const struct descriptors *d)
{
	const unsigned char *interface;
	size_t at = 0;
	int r;

	while ((r = next_interface(d, &at, &interface)) > 0)
		if (interface[5] != 0 && interface[5] != 0xff)
			return 1;
	return r;
}

/* One modalias for each interface. */
static int match_drivers(struct kmod_ctx *kmod, const struct descriptors *d, const char *device,
			 const char *pattern, const char **ret_why)
{
	const unsigned char *interface;
	size_t at = 0;
	int r = 0;

	while (r == 0 && (r = next_interface(d, &at, &interface)) > 0) {
		char alias[256];

		snprintf(alias, sizeof(alias), "%sic%02Xisc%02Xip%02Xin%02X", device, interface[5],
			 interface[6], interface[7], interface[2]);
		r = match_alias(kmod, alias, pattern, ret_why);
	}
	return r;
}

static int match_driver_path(const struct match_places *places, const char *pattern,
			     const char **ret_why)
{
	_cleanup_free_ struct descriptors *d = NULL;
	char device[128];
	struct kmod_ctx *kmod;
	int r = device_alias(places, device, sizeof(device));

	if (r == 0)
		r = read_descriptors(places, &d);
	if (r == 0)
		r = has_known_class(d);
	if (r < 0)
		*ret_why = "the device's attributes can't be read";
	if (r != 0)
		return r < 0 ? r : 0;
	kmod = kmod_new(places->modules, NULL);
	if (!kmod)
		return -ENOMEM;
	r = match_drivers(kmod, d, device, pattern, ret_why);
	kmod_unref(kmod);
	return r;
}

static int match_attribute(const struct match_places *places, const char *attribute,
			   const char *pattern, const char **ret_why)
{
	char text[4096];
	int r = read_attribute(places, attribute, text, sizeof(text));

	if (r < 0) {
		*ret_why = "the device's name can't be read";
		return r;
	}
	return match_text(pattern, text, ret_why);
}

int match_field(const struct match_places *places, const char *key, const char *property,
		const char *pattern, const char **ret_why)
{
	*ret_why = NULL;
	if (streq(key, "vendorName"))
		return match_text(pattern, name_of("ID_VENDOR_FROM_DATABASE", "ID_VENDOR"),
				  ret_why);
	if (streq(key, "productName"))
		return match_text(pattern, name_of("ID_MODEL_FROM_DATABASE", "ID_MODEL"), ret_why);
	if (streq(key, "vendorString"))
		return match_attribute(places, "manufacturer", pattern, ret_why);
	if (streq(key, "productString"))
		return match_attribute(places, "product", pattern, ret_why);
	if (streq(key, "pathTag"))
		return match_text(pattern, property_or_empty("ID_PATH_TAG"), ret_why);
	if (streq(key, "name"))
		return match_attribute(places, "device/name", pattern, ret_why);
	if (streq(key, "driverPath"))
		return match_driver_path(places, pattern, ret_why);
	if (streq(key, "value") && property)
		return strcasecmp(pattern, property_or_empty(property)) == 0;
	*ret_why = "unknown key";
	return -EINVAL;
}

/* Adds the interface as six hex digits, unless it is there. */
static int add_interface(char *list, const unsigned char *descriptor)
{
	char entry[9];
	size_t n = strlen(list);

	snprintf(entry, sizeof(entry), ":%02x%02x%02x:", descriptor[5], descriptor[6],
		 descriptor[7]);
	if (strstr(list, entry))
		return 0;
	if (n + sizeof(entry) > INTERFACES_MAX)
		return -E2BIG;
	strcpy(list + n - 1, entry);
	return 0;
}

int match_interfaces(const struct match_places *places, char ret[INTERFACES_MAX])
{
	_cleanup_free_ struct descriptors *d = NULL;
	const unsigned char *interface;
	size_t at = 0;
	int r = read_descriptors(places, &d);

	if (!d)
		return r;
	strcpy(ret, ":");
	while ((r = next_interface(d, &at, &interface)) > 0) {
		r = add_interface(ret, interface);
		if (r < 0)
			return r;
	}
	return r;
}
