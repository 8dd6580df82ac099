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

int vfio_group_each_open(pid_t pid, void (*fn)(void *data, int group), void *data)
{
	char nodes[PATH_MAX], path[PATH_MAX], found[PATH_MAX];
	struct dirent *entry;
	int r = root_path(nodes, sizeof(nodes), NODES);

	if (r < 0)
		return r;
	DIR *dir = root_opendir("/proc/%d/fd", (int) pid);
	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		if (root_path(path, sizeof(path), "/proc/%d/fd/%s", (int) pid, entry->d_name) < 0)
			continue;
		ssize_t n = readlink(path, found, sizeof(found) - 1);
		found[n > 0 ? n : 0] = 0;
		const char *number = startswith(found, nodes);
		if (number && isdigit((unsigned char) *number))
			fn(data, atoi(number));
	}
	closedir(dir);
	return 0;
}

struct search {
	int group;
	bool found;
};

static void compare_group(void *data, int group)
{
	struct search *search = data;

	search->found |= group == search->group;
}

int vfio_group_is_open(pid_t pid, const char *address)
{
	struct search search = {0};
	char group[16];
	int r = root_link_name(group, sizeof(group), "/sys/bus/pci/devices/%s/iommu_group",
			       address);

	if (r < 0) /* The kernel takes a function away only when nobody has it any more. */
		return root_inode("/sys/bus/pci/devices/%s", address) ? r : 0;
	search.group = atoi(group);
	r = vfio_group_each_open(pid, compare_group, &search);
	return r < 0 ? r : search.found;
}
