/* Picks the properties that the broker wants (helper/property.h) out of the environment. Used by
 * the helper alone. Nothing here trusts a value: the kernel and the device choose them. */
#include <inttypes.h>
#include <stdint.h>

#include "helper/collect.h"
#include "helper/property.h"
#include "helper/root.h"

/* A path below /devices that can be appended to the sysfs mount as it is. */
static bool devpath_valid(const char *s)
{
	size_t n = strlen(s);

	return startswith(s, "/devices/") && !strstr(s, "/../") &&
	       !(n >= 3 && streq(s + n - 3, "/.."));
}

/* What ACTION is to the broker: add, remove, the bind of an interface, or NULL for none of its. For
 * a device that is claimed the rules have us run at another event only when they have not claimed
 * it before, so that it comes to the broker now. Interfaces have no rule. */
static const char *told_action(const char *action)
{
	if (streq(action, "add") || streq(action, "remove"))
		return action;
	if (getenv("VHOTPLUG_RULE"))
		return "add";
	return streq(action, "bind") ? action : NULL;
}

static int add_mandatory(struct wire_msg *msg, const char *key, const char *value)
{
	if (!value || !*value)
		return -EINVAL;
	return wire_add(msg, key, value);
}

static int add_boot_id(struct wire_msg *msg)
{
	char id[64];
	int r = root_read(id, sizeof(id), "/proc/sys/kernel/random/boot_id");

	if (r < 0)
		return r;
	return *id ? wire_add(msg, "BOOT_ID", id) : -ENODATA;
}

/* Is what is at DEVPATH another device by now? An event that udevd comes to late, behind the unplug
 * and the next plug, still names the node of the one that it was about. (The database udevd then
 * looks for is that of the new one: to the rules the old one has never been decided about.) */
static bool is_followed(const char *devpath)
{
	const char *major = getenv("MAJOR"), *minor = getenv("MINOR");
	char expected[32], found[32];

	if (!major || !minor || root_read(found, sizeof(found), "/sys%s/dev", devpath) < 0)
		return false;
	snprintf(expected, sizeof(expected), "%s:%s", major, minor);
	return !streq(found, expected);
}

/* The inode tells this device from the next one at the same path; 0: it is gone already. */
static int add_inode(struct wire_msg *msg, const char *devpath)
{
	uint64_t inode = root_inode("/sys%s", devpath);
	char number[24];

	/* In this order: who comes in between has another number. */
	snprintf(number, sizeof(number), "%" PRIu64, is_followed(devpath) ? 0 : inode);
	return wire_add(msg, "SYSFS_INODE", number);
}

static int add_identity(struct wire_msg *msg, const char *action)
{
	uint64_t seqnum;
	int r = add_mandatory(msg, "ACTION", action);

	if (r == 0)
		r = add_mandatory(msg, "DEVPATH", getenv("DEVPATH"));
	if (r == 0)
		r = add_mandatory(msg, "SEQNUM", getenv("SEQNUM"));
	if (r < 0)
		return r;
	if (!devpath_valid(wire_get(msg, "DEVPATH")) || wire_get_number(msg, "SEQNUM", &seqnum) < 0)
		return -EINVAL;
	r = add_boot_id(msg);
	if (r < 0)
		return r;
	return add_inode(msg, wire_get(msg, "DEVPATH"));
}

int collect_event(struct wire_msg *ret_msg)
{
	const char *action = getenv("ACTION");
	struct wire_msg msg;
	int r;

	if (action && !(action = told_action(action)))
		return 0;
	wire_init(&msg);
	r = add_identity(&msg, action);
	if (r < 0)
		return r;

	for (size_t i = 0; i < PROPERTIES; i++) {
		const char *value = getenv(property_table[i].name);

		if (!value || !*value || strlen(value) > COLLECT_VALUE_MAX)
			continue;
		r = wire_add(&msg, property_table[i].name, value);
		if (r < 0 && r != -EMSGSIZE)
			return r;
	}
	*ret_msg = msg;
	return 1;
}
