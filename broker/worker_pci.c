/* The worker's jobs on PCI functions: taking an IOMMU group from its host drivers for vfio-pci, and
 * giving it back. Runs in a child of the worker: a driver may take for ever to let go.
 * Sources: kernel, Documentation/driver-api/vfio.rst; Documentation/ABI/testing/sysfs-bus-pci
 * (driver_override); Documentation/networking (proc/net/route). */
#include <fcntl.h>
#include <libkmod.h>
#include <net/route.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "broker/device.h"
#include "broker/pci.h"
#include "broker/worker.h"
#include "broker/worker_host.h"
#include "helper/root.h"

#define GROUP_NODE_MS 5000 /* for udevd to make /dev/vfio/GROUP */
#define CLOSING_TRIES 20   /* for a VMM that has just ended to close a group */
#define CLOSING_MS 100     /* between two looks */
#define MAX_DEPTH 12       /* of a disk below a PCI function */
#define MAX_LAYERS 4       /* of interfaces made of others */

static int write_attribute(const char *address, const char *attribute, const char *text)
{
	return root_write(text, "/sys/bus/pci/devices/%s/%s", address, attribute);
}

/* Loads the modules that NAME (a module or an alias) stands for. Nothing to load is fine: the
 * driver may be built in. Source: kmod, libkmod. */
static void load_module(const char *name)
{
	struct kmod_ctx *ctx = kmod_new(NULL, NULL);
	struct kmod_list *list = NULL, *entry;

	if (!ctx || kmod_module_new_from_lookup(ctx, name, &list) < 0) {
		kmod_unref(ctx);
		return;
	}
	kmod_list_foreach(entry, list)
	{
		struct kmod_module *module = kmod_module_get_module(entry);

		kmod_module_probe_insert_module(module, KMOD_PROBE_APPLY_BLACKLIST, NULL, NULL,
						NULL, NULL);
		kmod_module_unref(module);
	}
	kmod_module_unref_list(list);
	kmod_unref(ctx);
}

/* Safety */

/* Is the network interface NAME part of the function whose directory is PATH, or made of one that
 * is (a bridge, a bond, a VLAN)? */
static bool interface_is_below(const char *name, const char *path, int depth)
{
	char place[PATH_MAX];
	struct dirent *entry;
	bool found = false;

	if (root_resolve(place, "/sys/class/net/%s", name) < 0)
		return false;
	const char *rest = startswith(place, path);
	if (rest && *rest == '/')
		return true;
	DIR *dir = depth > 0 ? root_opendir("%s", place) : NULL;
	while (dir && !found && (entry = readdir(dir))) {
		const char *lower = startswith(entry->d_name, "lower_");

		found = lower && interface_is_below(lower, path, depth - 1);
	}
	if (dir)
		closedir(dir);
	return found;
}

static bool is_below_group(const char *interface, const struct pci_group *group)
{
	for (size_t i = 0; i < group->n_members; i++) {
		char path[PATH_MAX];

		if (root_resolve(path, "/sys/bus/pci/devices/%s", group->members[i]) == 0 &&
		    interface_is_below(interface, path, MAX_LAYERS))
			return true;
	}
	return false;
}

/* The interface that the default route in LINE of /proc/net/route goes out by; false: it is none.
 */
static bool parse_route(const char *line, char ret_interface[64])
{
	unsigned target, mask, flags;

	return sscanf(line, "%63s %x %*s %x %*d %*d %*d %x", ret_interface, &target, &flags,
		      &mask) == 4 &&
	       target == 0 && mask == 0 && flags & RTF_UP && !(flags & RTF_REJECT);
}

/* The same for /proc/net/ipv6_route. */
static bool parse_ipv6_route(const char *line, char ret_interface[64])
{
	char target[33];
	unsigned length, flags;

	return sscanf(line, "%32s %x %*s %*s %*s %*s %*s %*s %x %63s", target, &length, &flags,
		      ret_interface) == 4 &&
	       length == 0 && strspn(target, "0") == 32 && flags & RTF_UP && !(flags & RTF_REJECT);
}

/* Do all default routes in the table at PATH, and at least one, go through GROUP? */
static bool needs_group(const char *path, bool (*parse)(const char *, char *),
			const struct pci_group *group)
{
	char line[512], interface[64];
	unsigned below = 0, other = 0;
	_cleanup_fclose_ FILE *f = root_fopen("%s", path);

	while (f && fgets(line, sizeof(line), f)) {
		if (!parse(line, interface))
			continue;
		if (is_below_group(interface, group))
			below++;
		else
			other++;
	}
	return below > 0 && other == 0;
}

/* The group must hold no disk in use, and not the host's last way to the network. Its disks are
 * held in DISKS (ANSWER->n_fds of them), so that nobody begins to use one before it has gone. */
static int check_group(const struct worker_request *request, const struct pci_group *group,
		       struct worker_answer *answer, int *disks)
{
	for (size_t i = 0; i < group->n_members; i++) {
		char path[PATH_MAX];

		if (root_resolve(path, "/sys/bus/pci/devices/%s", group->members[i]) < 0)
			continue;
		int r = hold_disks(path, MAX_DEPTH, answer, disks);
		if (r < 0)
			return r;
	}
	if (!(request->options & WORKER_FORCE) &&
	    (needs_group("/proc/1/net/route", parse_route, group) ||
	     needs_group("/proc/1/net/ipv6_route", parse_ipv6_route, group)))
		return worker_fail(
			answer, -EBUSY,
			"the host's only default route goes through it; force = yes in its rule"
			" gives it away all the same");
	return 0;
}

/* Drivers */

/* By the name of DRIVER: "driver" of the function may lead to another one by now. */
static int unbind(const char *address, const char *driver)
{
	int r = root_write(address, "/sys/bus/pci/drivers/%s/unbind", driver);

	return r == -ENOENT || r == -ENODEV ? 0 : r;
}

static int bind_to_vfio(const char *address, struct worker_answer *answer)
{
	char driver[64];
	int r = write_attribute(address, "driver_override", "vfio-pci");

	if (r < 0)
		return worker_fail(answer, r, "can't set driver_override of %s: %s", address,
				   strerror(-r));
	if (pci_driver(address, driver, sizeof(driver)) && !streq(driver, "vfio-pci") &&
	    (r = unbind(address, driver)) < 0)
		return worker_fail(answer, r, "%s does not let go of %s: %s", driver, address,
				   strerror(-r));
	r = root_write(address, "/sys/bus/pci/drivers_probe");
	if (!pci_driver(address, driver, sizeof(driver)) || !streq(driver, "vfio-pci"))
		return worker_fail(answer, r < 0 ? r : -EIO, "vfio-pci does not take %s: %s",
				   address, r < 0 ? strerror(-r) : "see the kernel's log");
	return 0;
}

static void return_member(const char *address)
{
	char driver[64], alias[256];

	write_attribute(address, "driver_override", "\n");
	if (pci_driver(address, driver, sizeof(driver)) && streq(driver, "vfio-pci"))
		unbind(address, driver);
	/* While the device was claimed, udevd was kept from loading the host's module for it. */
	if (root_read(alias, sizeof(alias), "/sys/bus/pci/devices/%s/modalias", address) == 0)
		load_module(alias);
	root_write(address, "/sys/bus/pci/drivers_probe");
}

/* Waits for the node of the group, and makes it accessible to the VMM's user. */
static int open_group_node(int group, uid_t uid, struct worker_answer *answer)
{
	char node[PATH_MAX];
	int r = root_path(node, sizeof(node), "/dev/vfio/%d", group);

	if (r < 0)
		return worker_fail(answer, r, "/dev/vfio/%d: %s", group, strerror(-r));
	for (int waited = 0; access(node, F_OK) < 0; waited += 20) {
		if (waited >= GROUP_NODE_MS)
			return worker_fail(answer, -ETIMEDOUT,
					   "%s has not appeared; see the kernel's log", node);
		usleep(20000);
	}
	/* udevd may still be setting its own ownership: ours must be the last word. */
	if (chown(node, uid, (gid_t) -1) < 0)
		return worker_fail(answer, -errno, "can't give %s to uid %u: %s", node,
				   (unsigned) uid, strerror(errno));
	return 0;
}

/* The jobs */

/* One job at a time for each group: a request that was given up may still be at it. Returns a
 * descriptor whose end is the lock's, or -1. Source: flock(2). */
static int lock_group(const struct pci_group *group)
{
	int fd = root_open(O_RDONLY | O_DIRECTORY, "/sys/kernel/iommu_groups/%d", group->number);

	if (fd >= 0)
		flock(fd, LOCK_EX);
	return fd;
}

/* Binds the whole group. TAKEN gets those that had to be taken for it, also when that failed: not
 * those that a VM may have already. */
static int take_group(const struct pci_group *group, struct pci_group *taken,
		      struct worker_answer *answer)
{
	char driver[64];
	int r = 0;

	taken->n_members = 0;
	for (size_t i = 0; r == 0 && i < group->n_members; i++) {
		const char *address = group->members[i];

		if (!pci_driver(address, driver, sizeof(driver)) || !streq(driver, "vfio-pci"))
			strcpy(taken->members[taken->n_members++], address);
		r = bind_to_vfio(address, answer);
	}
	return r;
}

static void return_members(const struct pci_group *group)
{
	for (size_t i = 0; i < group->n_members; i++)
		return_member(group->members[i]);
}

void worker_pci_take(const struct worker_request *request, struct worker_answer *answer)
{
	const char *address = strrchr(request->devpath, '/') + 1;
	struct pci_group group, taken = {0};
	int disks[WORKER_MAX_FDS], r;

	if (sysfs_inode(request->devpath) != request->inode) {
		worker_fail(answer, -ENODEV, "the device has been unplugged");
		return;
	}
	if (pci_is_bridge(address)) {
		worker_fail(answer, -EBUSY, "it is a bridge: such are never given away");
		return;
	}
	if ((r = pci_get_group(address, &group)) < 0) {
		if (r == -ENOENT)
			worker_fail(answer, -EOPNOTSUPP,
				    "it has no IOMMU group; switch the IOMMU on (firmware, and"
				    " intel_iommu=on on the kernel's command line)");
		else
			worker_fail(answer, r, "can't read its IOMMU group: %s", strerror(-r));
		return;
	}
	_cleanup_close_ int lock = lock_group(&group);
	if (check_group(request, &group, answer, disks) == 0) {
		load_module("vfio-pci");
		r = take_group(&group, &taken, answer);
	}
	while (answer->n_fds > 0)
		close(disks[--answer->n_fds]);
	if (answer->result == 0)
		open_group_node(group.number, request->uid, answer);
	else if (r < 0)
		return_members(&taken);
}

/* A group can be open once at a time: whoever has it is the VMM that it was made ready for. Source:
 * kernel, Documentation/driver-api/vfio.rst. */
void worker_pci_look(const struct worker_request *request, struct worker_answer *answer)
{
	struct pci_group group;

	if (sysfs_inode(request->devpath) != request->inode ||
	    pci_get_group(strrchr(request->devpath, '/') + 1, &group) < 0)
		return; /* it has gone */
	_cleanup_close_ int fd = root_open(O_RDWR, "/dev/vfio/%d", group.number);
	if (fd < 0 && fd != -ENOENT)
		worker_fail(answer, fd, "can't tell whether /dev/vfio/%d is open: %s", group.number,
			    strerror(-fd));
}

/* Waits a little for a VMM that has just ended to close the group. Returns false if it does not. */
static bool await_closed(const struct worker_request *request, struct worker_answer *answer)
{
	for (int tries = 0; tries < CLOSING_TRIES; tries++) {
		answer->result = 0;
		worker_pci_look(request, answer);
		if (answer->result == 0)
			return true;
		usleep(CLOSING_MS * 1000);
	}
	return false;
}

void worker_pci_return(const struct worker_request *request, struct worker_answer *answer)
{
	const char *address = strrchr(request->devpath, '/') + 1;
	char driver[64];
	struct pci_group group;

	if (pci_get_group(address, &group) < 0)
		return;
	_cleanup_close_ int lock = lock_group(&group);
	/* A VM may have another member by its own command line. To take that one from it would
	 * block, and a host driver beside it is what the kernel does not allow. */
	if (!await_closed(request, answer))
		write_attribute(address, "driver_override", "\n");
	else if (!(request->options & WORKER_ALONE))
		return_members(&group);
	else if (!pci_driver(address, driver, sizeof(driver)))
		return_member(address);
}
