/* Puts the rules in force: one look at all devices by libudev, then an event for each whose answer
 * can change, and for no other. Called by main.c only.
 *
 * The events carry a UUID of ours, by which udevd's broadcasts of them are known: to wait for an
 * empty queue is to wait for everybody else's devices as well. */
#include "rules.d/apply.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <time.h>

#include "conf/array.h"
#include "helper/text.h"
#include "rules.d/udev.h"
#include "rules.d/write.h"

#define PATIENCE_S 180 /* what udevd gives a single event */
#define QUIET_MS 1000  /* twice nothing for so long, and nothing in the queue: it was lost */
#define BUFFER_BYTES (16 * 1024 * 1024)

struct pass {
	const struct config *config;
	struct udev *udev;
	struct udev_monitor *monitor;
	struct udev_enumerate *devices;
	struct udev_queue *queue;
	char uuid[37];
	char **changed; /* the syspaths of devices whose children follow them */
	size_t n_changed;
	size_t waiting; /* for so many broadcasts */
};

static void pass_finish(struct pass *pass)
{
	for (size_t i = 0; i < pass->n_changed; i++)
		free(pass->changed[i]);
	free(pass->changed);
	udev_queue_unref(pass->queue);
	udev_enumerate_unref(pass->devices);
	udev_monitor_unref(pass->monitor);
	udev_unref(pass->udev);
}

static int read_uuid(char ret[37])
{
	_cleanup_fclose_ FILE *file = fopen("/proc/sys/kernel/random/uuid", "re");

	return file && fgets(ret, 37, file) ? 0 : -EIO;
}

/* Everywhere that the rules reach: what they claim, and what lies below that. */
static int add_subsystems(struct pass *pass)
{
	_cleanup_free_ char *list = strdup("pci|" FENCED_SUBSYSTEMS);
	char *rest = list, *one;
	int r = list ? 0 : -ENOMEM;

	while (r >= 0 && (one = strsep(&rest, "|"))) {
		r = udev_enumerate_add_match_subsystem(pass->devices, one);
		if (r >= 0)
			r = udev_monitor_filter_add_match_subsystem_devtype(pass->monitor, one,
									    NULL);
	}
	return r;
}

static int pass_init(struct pass *pass, const struct config *config)
{
	int r = read_uuid(pass->uuid);

	pass->config = config;
	pass->udev = udev_new();
	pass->monitor = pass->udev ? udev_monitor_new_from_netlink(pass->udev, "udev") : NULL;
	pass->devices = pass->udev ? udev_enumerate_new(pass->udev) : NULL;
	pass->queue = pass->udev ? udev_queue_new(pass->udev) : NULL;
	if (!pass->monitor || !pass->devices || !pass->queue)
		return -ENOMEM;
	if (r == 0)
		r = add_subsystems(pass);
	/* Without the right to a larger one, the queue tells when something was lost. */
	(void) udev_monitor_set_receive_buffer_size(pass->monitor, BUFFER_BYTES);
	if (r >= 0)
		r = udev_monitor_enable_receiving(pass->monitor);
	return r < 0 ? r : udev_enumerate_scan_devices(pass->devices);
}

/* Whether a rule for KIND looks at a property that somebody else's rules make, or that ours ask
 * for: what udev's database says now is not what it will say. */
static bool looks_elsewhere(const struct config *config, enum config_kind kind)
{
	for (size_t g = 0; g < config->n_groups; g++)
		for (size_t i = 0; i < config->groups[g].n_rules; i++)
			if (config->groups[g].kind == kind &&
			    (config_rule_field(&config->groups[g].rules[i], MATCH_PROPERTY) ||
			     config_rule_field(&config->groups[g].rules[i], MATCH_PATH_TAG)))
				return true;
	return false;
}

/* Whether the rules can change what is said of DEVICE; what can't be known is a yes. What is below
 * it follows when the host is to keep its hands off from now on, or no longer. Returns 1, 0 or
 * -errno. */
static int can_change(const struct pass *pass, struct udev_device *device, bool *ret_below)
{
	_cleanup_(subject_finish) struct subject s = {0};
	const struct config_group *group;
	const struct config_rule *rule;
	int r = subject_from_udev(device, &s);
	const char *had = subject_property(&s, "VHOTPLUG_RULE");

	if (r <= 0)
		return r;
	*ret_below = true;
	if (!udev_device_get_is_initialized(device) || looks_elsewhere(pass->config, s.kind))
		return 1;
	r = config_decide(pass->config, &s, NULL, &group, &rule);
	if (r < 0)
		return r;
	*ret_below = (*had && !streq(subject_property(&s, "VHOTPLUG_FENCE"), "no")) !=
		     (rule && group->fence);
	return rule || *had;
}

static bool is_below_changed(const struct pass *pass, const char *path)
{
	for (size_t i = 0; i < pass->n_changed; i++) {
		const char *rest = startswith(path, pass->changed[i]);

		if (rest && *rest == '/')
			return true;
	}
	return false;
}

static int note_changed(struct pass *pass, const char *path)
{
	char **slot =
		is_below_changed(pass, path) ? NULL : ARRAY_APPEND(pass->changed, pass->n_changed);

	if (slot)
		*slot = strdup(path);
	return slot && !*slot ? -ENOMEM : 0;
}

/* Whether DEVICE is to be looked at again. Parents come before their children. Returns 1, 0 or
 * -errno. */
static int must_look(struct pass *pass, struct udev_device *device)
{
	const char *path = udev_device_get_syspath(device);
	const char *subsystem = udev_device_get_subsystem(device) ?: "";
	bool is_claimable =
		streq(subsystem, "usb") || streq(subsystem, "pci") || streq(subsystem, "input");
	bool below = false;
	int r;

	/* Nothing virtual lies below what can be claimed. */
	if (!is_claimable && startswith(path, "/sys/devices/virtual/"))
		return 0;
	r = can_change(pass, device, &below);
	if (r == 0 && (udev_device_get_property_value(device, "VHOTPLUG_FENCED") ||
		       (is_claimable && is_below_changed(pass, path))))
		r = 1;
	return r > 0 && below ? note_changed(pass, path) ?: 1 : r;
}

/* Has the kernel send an event of the device at PATH. One that has gone meanwhile is no mistake. */
static int send_event(struct pass *pass, const char *path)
{
	char file[PATH_MAX], words[64];
	_cleanup_close_ int fd = -1;
	int n = snprintf(words, sizeof(words), "add %s", pass->uuid);

	if (text_path(file, sizeof(file), "%s/uevent", path) < 0)
		return -ENAMETOOLONG;
	fd = open(file, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || write(fd, words, (size_t) n) < 0)
		return errno == ENOENT || errno == ENODEV ? 0 : -errno;
	pass->waiting++;
	return 0;
}

static int send_events(struct pass *pass)
{
	struct udev_list_entry *entry;
	int r = 0;

	udev_list_entry_foreach(entry, udev_enumerate_get_list_entry(pass->devices))
	{
		const char *path = udev_list_entry_get_name(entry);
		struct udev_device *device = udev_device_new_from_syspath(pass->udev, path);

		if (device)
			r = must_look(pass, device);
		udev_device_unref(device);
		if (device && r > 0)
			r = send_event(pass, path);
		if (r < 0)
			return r;
	}
	return 0;
}

/* Takes in what udevd has told. Returns whether it was anything. */
static bool take_broadcasts(struct pass *pass)
{
	struct udev_device *device;
	bool any = false;

	while (pass->waiting > 0 && (device = udev_monitor_receive_device(pass->monitor))) {
		const char *uuid = udev_device_get_property_value(device, "SYNTH_UUID");

		if (uuid && streq(uuid, pass->uuid))
			pass->waiting--;
		udev_device_unref(device);
		any = true;
	}
	return any;
}

static int wait_for_broadcasts(struct pass *pass)
{
	struct pollfd p = {.fd = udev_monitor_get_fd(pass->monitor), .events = POLLIN};
	time_t end = time(NULL) + PATIENCE_S;

	for (unsigned quiet = 0; pass->waiting > 0 && quiet < 2;) {
		if (time(NULL) > end)
			return -ETIMEDOUT;
		if (poll(&p, 1, QUIET_MS) < 0 && errno != EINTR)
			return -errno;
		if (take_broadcasts(pass) || !udev_queue_get_queue_is_empty(pass->queue))
			quiet = 0;
		else
			quiet++;
	}
	return 0;
}

int rules_apply(const struct config *config)
{
	_cleanup_(pass_finish) struct pass pass = {0};
	int r = pass_init(&pass, config);

	if (r >= 0)
		r = send_events(&pass);
	if (r >= 0)
		r = wait_for_broadcasts(&pass);
	if (r < 0)
		fprintf(stderr,
			"vhotplug-gen-rules: the rules are written, but not in force for every "
			"device: %s\n",
			strerror(-r));
	return r < 0 ? r : 0;
}
