/* Which IOMMU groups a process has open: see vfio_group.h. Used by the VMM backends. */
#include "broker/vfio_group.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "helper/root.h"

#define NODES "/dev/vfio/"

static bool is_noted(const struct vfio_groups *groups, int group)
{
	for (size_t i = 0; i < groups->n; i++)
		if (groups->numbers[i] == group)
			return true;
	return false;
}

/* Returns 0, or -E2BIG when there is no room. */
static int note_group(struct vfio_groups *groups, int group)
{
	if (is_noted(groups, group))
		return 0;
	if (groups->n == VFIO_MAX_GROUPS)
		return -E2BIG;
	groups->numbers[groups->n++] = group;
	return 0;
}

/* Notes the group of NAME, a node below NODES: "12", "vfio" for a container, or "devices/vfio3"
 * where a VMM opens functions one by one (iommufd). Returns 0 or -errno. */
static int note_node(struct vfio_groups *groups, const char *name)
{
	const char *device = startswith(name, "devices/");
	char group[16];
	int r;

	groups->has_container |= streq(name, "vfio");
	if (isdigit((unsigned char) *name))
		return note_group(groups, atoi(name));
	if (!device)
		return 0;
	r = root_link_name(group, sizeof(group), "/sys/class/vfio-dev/%s/device/iommu_group",
			   device);
	if (r == -ENOENT) /* the function has gone */
		return 0;
	return r < 0 ? r : note_group(groups, atoi(group));
}

/* Notes what the descriptors in DIR lead to, where that is below NODES. Returns 0 or -errno. */
static int note_descriptors(struct vfio_groups *groups, DIR *dir, const char *nodes)
{
	char found[PATH_MAX];
	struct dirent *entry;
	int r = 0;

	for (unsigned n = 0; r == 0 && (entry = readdir(dir)); n++) {
		if (n == VFIO_MAX_DESCRIPTORS)
			return -E2BIG;
		ssize_t length = readlinkat(dirfd(dir), entry->d_name, found, sizeof(found) - 1);
		found[length > 0 ? length : 0] = 0;
		const char *name = startswith(found, nodes);
		if (name)
			r = note_node(groups, name);
	}
	return r;
}

void vfio_groups_read(pid_t pid, struct vfio_groups *ret_groups)
{
	char nodes[PATH_MAX];
	int r = pid == 0 ? -ESRCH : root_path(nodes, sizeof(nodes), NODES);
	DIR *dir = r < 0 ? NULL : root_opendir("/proc/%d/fd", (int) pid);

	ret_groups->n = 0;
	ret_groups->has_container = false;
	if (dir)
		r = note_descriptors(ret_groups, dir, nodes);
	else if (r == 0)
		r = -errno;
	ret_groups->error = r;
	if (dir)
		closedir(dir);
}

int vfio_groups_have(const struct vfio_groups *groups, int group)
{
	return is_noted(groups, group) ? 1 : groups->error;
}

const char *vfio_groups_explain(int r)
{
	return r == -E2BIG ? "it has more open than is looked at" : strerror(-r);
}

int vfio_group_of(const char *address)
{
	char name[16];
	int r = root_link_name(name, sizeof(name), "/sys/bus/pci/devices/%s/iommu_group", address);

	if (r == 0)
		return atoi(name);
	/* It goes away only when nobody has it any more. */
	return root_inode("/sys/bus/pci/devices/%s", address) ? r : -ENODEV;
}
