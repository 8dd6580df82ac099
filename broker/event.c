/* What a message says: see event.h. Used by the intake. */
#include "broker/event.h"

static bool copy_field(char *to, size_t size, const char *value)
{
	if (!value)
		value = "";
	if (strlen(value) >= size)
		return false;
	strcpy(to, value);
	return true;
}

static bool read_number(const char *text, uint64_t *ret)
{
	char *end;

	if (!text || *text < '0' || *text > '9')
		return false;
	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno == 0 && *end == 0;
}

static bool has_suffix(const char *s, const char *suffix)
{
	size_t length = strlen(s), n = strlen(suffix);

	return length >= n && streq(s + length - n, suffix);
}

int event_read(const struct wire_msg *msg, struct event *ret_event)
{
	const char *action = wire_get(msg, "ACTION"), *devpath = wire_get(msg, "DEVPATH");
	struct event event = {0};

	if (!action ||
	    (!streq(action, "add") && !streq(action, "remove") && !streq(action, "bind")))
		return -EBADMSG;
	/* A device's path in sysfs: no way out of /sys. */
	if (!devpath || !startswith(devpath, "/devices/") || strstr(devpath, "/../") ||
	    has_suffix(devpath, "/..") || has_suffix(devpath, "/"))
		return -EBADMSG;
	if (!read_number(wire_get(msg, "SEQNUM"), &event.seqnum) ||
	    !read_number(wire_get(msg, "SYSFS_INODE"), &event.inode))
		return -EBADMSG;
	if (!copy_field(event.action, sizeof(event.action), action) ||
	    !copy_field(event.devpath, sizeof(event.devpath), devpath) ||
	    !copy_field(event.boot_id, sizeof(event.boot_id), wire_get(msg, "BOOT_ID")) ||
	    !copy_field(event.vms, sizeof(event.vms), wire_get(msg, "VHOTPLUG_VM")) ||
	    !copy_field(event.rule, sizeof(event.rule), wire_get(msg, "VHOTPLUG_RULE")))
		return -EBADMSG;
	*ret_event = event;
	return 0;
}
