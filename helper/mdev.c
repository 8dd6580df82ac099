/* What udev would say of a device, without udevd: see mdev.h. Called by vhotplug-mdev. */
#include "helper/mdev.h"

#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <time.h>

#include "conf/array.h"
#include "helper/root.h"
#include "helper/text.h"
#include "rules.d/evaluate.h"
#include "rules.d/outcome.h"

#define DATA "/run/udev/data"
#define TAGS "/run/udev/tags/vhotplug"
#define UDEV_TEXT 63    /* bytes that udev's usb_id keeps of a name */
#define UDEV_SERIAL 511 /* … of a serial number */
#define ATTRIBUTE 4096  /* bytes that sysfs has of an attribute at most */

/* Adds NAME=VALUE. Returns 0 or -ENOMEM. */
static int add_property(void *data, const char *name, const char *value)
{
	struct mdev_device *device = data;
	/* There is one element more than that, which stays NULL. */
	char **slot = device->n == 0 ? ARRAY_APPEND(device->properties, device->n)
				     : device->properties + device->n - 1;

	if (!slot || !ARRAY_APPEND(device->properties, device->n))
		return -ENOMEM;
	slot = device->properties + device->n - 2;
	if (asprintf(slot, "%s=%s", name, value) >= 0)
		return 0;
	*slot = NULL;
	return -ENOMEM;
}

static const char *find_property(const struct mdev_device *device, const char *name)
{
	size_t length = strlen(name);

	for (char **p = device->properties; p && *p; p++)
		if (strncmp(*p, name, length) == 0 && (*p)[length] == '=')
			return *p + length + 1;
	return NULL;
}

/* What the kernel says in an event, it also says in this file. */
static int add_uevent(struct mdev_device *device)
{
	_cleanup_fclose_ FILE *file = root_fopen("/sys%s/uevent", device->devpath);
	char line[1024], node[1100];
	int r = file ? 0 : -errno;

	while (r == 0 && fgets(line, sizeof(line), file)) {
		char *value = strchr(line, '=');

		line[strcspn(line, "\n")] = '\0';
		if (!value)
			continue;
		*value++ = '\0';
		snprintf(node, sizeof(node), "/dev/%s", value);
		r = add_property(device, line, streq(line, "DEVNAME") ? node : value);
	}
	return r;
}

/* How many bytes at S udev's usb_id leaves as they are: what may be in a name, the beginning of
 * \xNN, or a whole character beyond ASCII that is one. 0: the first becomes _. */
static size_t kept_bytes(const char *s)
{
	const unsigned char *u = (const unsigned char *) s;
	size_t n = utf8_length(s);
	bool is_3 = n == 3 && u[0] == 0xef, is_4 = n == 4 && (u[1] & 0x0f) == 0x0f;

	if (isalnum(u[0]) || strchr("#+-.:=@_", *s))
		return 1;
	if (s[0] == '\\' && s[1] == 'x')
		return 2;
	/* U+FDD0 to U+FDEF, and the last two of each plane, are no characters. */
	if ((is_3 && u[1] == 0xb7 && u[2] >= 0x90 && u[2] <= 0xaf) ||
	    (is_3 && u[1] == 0xbf && u[2] >= 0xbe) || (is_4 && u[2] == 0xbf && u[3] >= 0xbe))
		return 0;
	return n > 1 ? n : 0;
}

/* Makes a string of the device what udev's usb_id makes of it: of the first MAX bytes blanks at the
 * ends go (\v and \f at the front don't), those within become one _, and so does each byte that is
 * not to be in a name.
 * Source: systemd, udev_replace_whitespace() and udev_replace_chars(). */
static void make_safe(char *text, size_t max)
{
	char *to = text, *from;
	bool is_blank = false;

	text[strnlen(text, max)] = '\0';
	for (from = text + strspn(text, " \t\n\r"); *from; from++) {
		if (isspace((unsigned char) *from)) {
			is_blank = true;
			continue;
		}
		if (is_blank)
			*to++ = '_';
		is_blank = false;
		*to++ = *from;
	}
	*to = '\0';
	for (size_t n; *text; text += n > 0 ? n : 1) {
		n = kept_bytes(text);
		if (n == 0)
			*text = '_';
	}
}

/* udev takes no serial number with odd bytes in it; 0x7f is none of them. */
static bool is_serial(const char *text)
{
	for (; *text; text++)
		if ((unsigned char) *text < ' ' || (unsigned char) *text > 0x7f || *text == ',')
			return false;
	return true;
}

/* Reads an attribute as udev does: its line breaks, but not those at the end. Returns 0 or -errno.
 * Source: systemd, sd_device_get_sysattr_value(). */
static int read_attribute(const struct mdev_device *device, const char *attribute,
			  char ret[ATTRIBUTE + 1])
{
	_cleanup_close_ int fd = root_open(O_RDONLY, "/sys%s/%s", device->devpath, attribute);
	ssize_t n = fd < 0 ? 0 : read(fd, ret, ATTRIBUTE);

	if (fd < 0 || n < 0)
		return fd < 0 ? fd : -errno;
	while (n > 0 && strchr("\r\n", ret[n - 1]))
		n--;
	ret[n] = '\0';
	return 0;
}

/* Where the device has no such string: what ATTRIBUTE udev puts in its place, if it does. */
static int add_string(struct mdev_device *device, const char *name, const char *attribute,
		      const char *otherwise)
{
	char value[ATTRIBUTE + 1];
	bool serial = streq(attribute, "serial");
	int r = read_attribute(device, attribute, value);

	if (r == -ENOENT)
		return otherwise ? add_string(device, name, otherwise, NULL) : 0;
	if (r < 0 || (serial && !is_serial(value)))
		return r;
	make_safe(value, serial ? UDEV_SERIAL : UDEV_TEXT);
	return *value ? add_property(device, name, value) : 0;
}

static int add_usb(struct mdev_device *device)
{
	static const char *const strings[][3] = {
		{"ID_VENDOR_ID", "idVendor"},
		{"ID_MODEL_ID", "idProduct"},
		{"ID_VENDOR", "manufacturer", "idVendor"},
		{"ID_MODEL", "product", "idProduct"},
		{"ID_SERIAL_SHORT", "serial"},
	};
	const struct match_places places = {.devpath = device->devpath};
	char interfaces[INTERFACES_MAX];
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(strings); i++)
		r = add_string(device, strings[i][0], strings[i][1], strings[i][2]);
	if (r == 0 && match_interfaces(&places, interfaces) == 0)
		r = add_property(device, "ID_USB_INTERFACES", interfaces);
	return r;
}

int mdev_read(struct mdev_device *device, const char *devpath)
{
	struct subject s;
	int r;

	*device = (struct mdev_device){0};
	if ((size_t) snprintf(device->devpath, sizeof(device->devpath), "%s", devpath) >=
	    sizeof(device->devpath))
		return -ENAMETOOLONG;
	r = root_link_name(device->subsystem, sizeof(device->subsystem), "/sys%s/subsystem",
			   devpath);
	if (r == 0)
		r = add_uevent(device);
	if (r < 0)
		return r;
	snprintf(device->devtype, sizeof(device->devtype), "%s",
		 find_property(device, "DEVTYPE") ?: "");
	r = subject_init(&s, device->devpath, device->subsystem, device->devtype, NULL, NULL);
	if (r <= 0)
		return r;
	r = add_property(device, "DEVPATH", devpath);
	if (r == 0)
		r = add_property(device, "SUBSYSTEM", device->subsystem);
	if (r == 0 && streq(device->subsystem, "usb"))
		r = add_usb(device);
	return r < 0 ? r : 1;
}

void mdev_finish(struct mdev_device *device)
{
	for (char **p = device->properties; p && *p; p++)
		free(*p);
	free(device->properties);
	*device = (struct mdev_device){0};
}

/* Whether a rule of GROUP looks at what only udev knows. */
static bool needs_udev(const struct config_group *group)
{
	for (size_t i = 0; i < group->n_rules; i++)
		if (!group->rules[i].disable &&
		    (config_rule_field(&group->rules[i], MATCH_PROPERTY) ||
		     config_rule_field(&group->rules[i], MATCH_PATH_TAG)))
			return true;
	return false;
}

/* The place of RULE among all of CONFIG. */
static unsigned rule_order(const struct config *config, const struct config_rule *rule)
{
	unsigned order = 0;

	for (size_t g = 0; g < config->n_groups; g++)
		for (size_t i = 0; i < config->groups[g].n_rules; i++, order++)
			if (&config->groups[g].rules[i] == rule)
				return order;
	return order;
}

int mdev_decide(struct mdev_device *device, const struct config *config)
{
	const struct config_group *group = NULL;
	const struct config_rule *rule = NULL;
	struct subject s;
	int r = subject_init(&s, device->devpath, device->subsystem, device->devtype,
			     device->properties, NULL);

	if (r > 0)
		r = config_decide(config, &s, needs_udev, &group, &rule);
	if (r < 0 || !rule)
		return r;
	r = outcome_of_rule(group, rule, rule_order(config, rule), add_property, device);
	if (r == 0)
		r = outcome_of_group(group, add_property, device);
	if (r == 0)
		r = add_property(device, "VHOTPLUG_CONFIG", config->digest);
	return r < 0 ? r : 1;
}

/* udev's name for a device: c189:3, or +pci:0000:00:03.0 for one without a number. */
static void device_id(char *ret, size_t size, const char *subsystem, const char *name,
		      const char *major, const char *minor)
{
	if (major && minor)
		snprintf(ret, size, "c%s:%s", major, minor);
	else
		snprintf(ret, size, "+%s:%s", subsystem, name);
}

static int make_directories(void)
{
	static const char *const directories[] = {"/run/udev", DATA, "/run/udev/tags", TAGS};
	char path[PATH_MAX];

	for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
		int r = root_path(path, sizeof(path), "%s", directories[i]);

		if (r < 0 || (mkdir(path, 0755) < 0 && errno != EEXIST))
			return r < 0 ? r : -errno;
	}
	return 0;
}

static void write_entry(const struct mdev_device *device, bool taken, FILE *out)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	fprintf(out, "I:%" PRId64 "\n", (int64_t) now.tv_sec * 1000000 + now.tv_nsec / 1000);
	for (char **p = device->properties; p && *p; p++)
		if (startswith(*p, "ID_") || startswith(*p, "VHOTPLUG_"))
			fprintf(out, "E:%s\n", *p);
	fputs(taken ? "G:vhotplug\nQ:vhotplug\nV:1\n" : "V:1\n", out);
}

/* Whoever reads sees the old entry or the new one. */
static int replace_entry(const struct mdev_device *device, bool taken, const char *id)
{
	char path[PATH_MAX], new[PATH_MAX];
	int r = root_path(path, sizeof(path), DATA "/%s", id);
	FILE *file;

	if (r == 0)
		r = root_path(new, sizeof(new), DATA "/.#%s.%d", id, (int) getpid());
	if (r < 0)
		return r;
	file = fopen(new, "we");
	if (!file)
		return -errno;
	write_entry(device, taken, file);
	if (fclose(file) != 0 || rename(new, path) < 0) {
		r = -errno;
		unlink(new);
	}
	return r;
}

static int set_tag(const char *id, bool taken)
{
	char path[PATH_MAX];
	int r = root_path(path, sizeof(path), TAGS "/%s", id);
	_cleanup_close_ int fd = -1;

	if (r < 0)
		return r;
	if (!taken)
		return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	return fd < 0 ? -errno : 0;
}

int mdev_store(const struct mdev_device *device, bool taken)
{
	char id[300];
	int r = make_directories();

	device_id(id, sizeof(id), device->subsystem, strrchr(device->devpath, '/') + 1,
		  find_property(device, "MAJOR"), find_property(device, "MINOR"));
	if (r == 0)
		r = replace_entry(device, taken, id);
	return r < 0 ? r : set_tag(id, taken);
}

void mdev_forget(const char *subsystem, const char *name, const char *major, const char *minor)
{
	char path[PATH_MAX], id[300];

	device_id(id, sizeof(id), subsystem, name, major, minor);
	if (strchr(id, '/'))
		return;
	if (root_path(path, sizeof(path), DATA "/%s", id) == 0)
		unlink(path);
	(void) set_tag(id, false);
}
