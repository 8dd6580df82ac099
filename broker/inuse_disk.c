/* Is a disk in use, and by what: see inuse.h. The kernel decides, by an exclusive open; the mount
 * table, sysfs and udev's database only supply the words.
 * Sources: proc(5), /proc/PID/mountinfo; kernel, Documentation/ABI/testing/sysfs-block (holders,
 * hidden), sysfs-block-dm, Documentation/ABI/testing/sysfs-block-loop; Documentation/nvme. */
#include <fcntl.h>
#include <glob.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "broker/inuse.h"
#include "helper/root.h"
#include "helper/text.h"

#define MAX_LAYERS 8 /* of disks made of others; what lies above is not said */

/* Where the kernel says which files it has opened for itself. */
static const char *const kernel_files[] = {
	"/sys/block/loop*/loop/backing_file",
	"/sys/kernel/config/target/core/*/*/udev_path",
	"/sys/kernel/config/nvmet/subsystems/*/namespaces/*/device_path",
	"/sys/kernel/config/usb_gadget/*/functions/*/lun.*/file",
};

/* Words */

/* Is the line FROM a mount table about NODE? A file system over several disks has a number of its
 * own; then its source is the first of them. */
static bool is_mount_of(const char *line, const struct node *node, char ret_target[512])
{
	const char *tail = strstr(line, " - ");
	unsigned high, low;
	char source[256];

	if (!tail || sscanf(line, "%*s %*s %u:%u %*s %511s", &high, &low, ret_target) != 3 ||
	    sscanf(tail, " - %*s %255s", source) != 1)
		return false;
	const char *name = startswith(source, "/dev/");
	return makedev(high, low) == node->number || (name && streq(name, node->name));
}

/* By the mount table of process PID ("self"). */
static bool find_mount(const char *pid, const struct node *node, char *ret_where, size_t size)
{
	char line[1024], target[512];
	_cleanup_fclose_ FILE *f = root_fopen("/proc/%s/mountinfo", pid);

	while (f && fgets(line, sizeof(line), f))
		if (is_mount_of(line, node, target)) {
			text_words(ret_where, size, "%s", target);
			return true;
		}
	return false;
}

/* In our namespace, or in another process's. */
static bool describe_mount(const struct node *node, char *ret_text, size_t size)
{
	const struct dirent *entry;
	char where[200];
	bool found = false;

	if (find_mount("self", node, where, sizeof(where))) {
		text_words(ret_text, size, "mounted on %s", where);
		return true;
	}
	DIR *proc = root_opendir("/proc");
	while (proc && !found && (entry = readdir(proc)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
		    find_mount(entry->d_name, node, where, sizeof(where))) {
			text_words(ret_text, size,
				   "mounted on %s in the mount namespace of process %s", where,
				   entry->d_name);
			found = true;
		}
	if (proc)
		closedir(proc);
	return found;
}

static bool describe_swap(const struct node *node, char *ret_text, size_t size)
{
	char line[512], name[256];
	_cleanup_fclose_ FILE *f = root_fopen("/proc/swaps");

	while (f && fgets(line, sizeof(line), f)) {
		const char *rest =
			sscanf(line, "%255s", name) == 1 ? startswith(name, "/dev/") : NULL;

		if (rest && streq(rest, node->name)) {
			snprintf(ret_text, size, "swap space");
			return true;
		}
	}
	return false;
}

/* "the LVM volume vg-root (dm-0)", for what lies on top of a disk. */
static void name_holder(const char *holder, char *ret_text, size_t size)
{
	static const struct {
		const char *prefix, *words;
	} mapped[] = {
		{"LVM-", "LVM volume"},
		{"CRYPT-", "unlocked LUKS device"},
		{"mpath-", "multipath device"},
		{"", "device-mapper device"},
	};
	char uuid[160], name[64];

	if (root_read(uuid, sizeof(uuid), "/sys/block/%s/dm/uuid", holder) == 0 &&
	    root_read(name, sizeof(name), "/sys/block/%s/dm/name", holder) == 0) {
		size_t i = 0;

		while (!startswith(uuid, mapped[i].prefix))
			i++;
		text_words(ret_text, size, "the %s %s (%s)", mapped[i].words, name, holder);
	} else if (root_exists("/sys/block/%s/md", holder) == 0) {
		text_words(ret_text, size, "the RAID %s", holder);
	} else {
		text_words(ret_text, size, "%s", holder);
	}
}

static bool describe_use(const char *path, int layers, char *ret_text, size_t size);

/* "part of the RAID md0, which is mounted on /srv". */
static bool describe_holder(const char *path, int layers, char *ret_text, size_t size)
{
	char name[128], above[128], top[PATH_MAX];
	const struct dirent *entry;
	bool found = false;
	DIR *dir = root_opendir("%s/holders", path);

	while (dir && !found && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		found = true;
		name_holder(entry->d_name, name, sizeof(name));
		bool is_used = layers > 0 &&
			       root_resolve(top, "/sys/block/%s", entry->d_name) == 0 &&
			       describe_use(top, layers - 1, above, sizeof(above));
		snprintf(ret_text, size, "part of %s%s%s", name, is_used ? ", which is " : "",
			 is_used ? above : "");
	}
	if (dir)
		closedir(dir);
	if (!found && root_exists("%s/bcache", path) == 0) {
		snprintf(ret_text, size, "part of a bcache");
		found = true;
	}
	return found;
}

/* The use of the one disk or partition whose directory PATH is. */
static bool describe_one(const char *path, int layers, char *ret_text, size_t size)
{
	struct nodes nodes = {0};
	bool found = nodes_add(&nodes, path) == 0 && nodes.n == 1 &&
		     (describe_mount(nodes.list, ret_text, size) ||
		      describe_swap(nodes.list, ret_text, size));

	free(nodes.list);
	return found || describe_holder(path, layers, ret_text, size);
}

/* The use of the disk whose directory PATH is, or of one of its partitions. */
static bool describe_use(const char *path, int layers, char *ret_text, size_t size)
{
	const struct dirent *entry;
	bool found = describe_one(path, layers, ret_text, size);
	DIR *dir = found ? NULL : root_opendir("%s", path);

	while (dir && !found && (entry = readdir(dir))) {
		char partition[PATH_MAX];

		if (snprintf(partition, sizeof(partition), "%s/%s", path, entry->d_name) <
			    (int) sizeof(partition) &&
		    root_exists("%s/partition", partition) == 0)
			found = describe_one(partition, layers, ret_text, size);
	}
	if (dir)
		closedir(dir);
	return found;
}

/* What udev has found on the disk, "zfs_member"; "" when it knows nothing. */
static void read_contents(const struct node *node, char *ret_type, size_t size)
{
	char line[512];
	_cleanup_fclose_ FILE *f =
		root_fopen("/run/udev/data/b%u:%u", major(node->number), minor(node->number));

	*ret_type = 0;
	while (f && fgets(line, sizeof(line), f)) {
		const char *type = startswith(line, "E:ID_FS_TYPE=");

		if (type)
			snprintf(ret_type, size, "%.*s", (int) strcspn(type, "\n"), type);
	}
}

/* Nothing in the tables: a program, or the kernel itself, as for ZFS. */
static void describe_unknown(struct node *node, char *ret_text, size_t size)
{
	struct nodes disk = {.n = 1, .list = node};
	char who[96], type[32];

	if (inuse_find_opener(&disk, NULL, who, sizeof(who)) <= 0)
		strcpy(who, "the kernel or another process");
	read_contents(node, type, sizeof(type));
	snprintf(ret_text, size, "%s has it for itself alone%s%s%s", who,
		 *type ? " (it holds: " : "", type, *type ? ")" : "");
}

/* Holding */

static bool is_hidden(const char *path)
{
	char value[8];

	return root_read(value, sizeof(value), "%s/hidden", path) == 0 && streq(value, "1");
}

/* Has the node at INDEX been met before? */
static bool is_known(const struct nodes *nodes, size_t index)
{
	return index < nodes->n &&
	       nodes_find(nodes, nodes->list[index].number, true) != &nodes->list[index];
}

/* One way of several to an NVMe disk has no node: nvme0c1n2 is a way to nvme0n2, which lies
 * elsewhere and may have been met already. */
static int hold_head(struct inuse *inuse, const char *path)
{
	char head[PATH_MAX];
	unsigned subsystem, space;
	const char *name = strrchr(path, '/') + 1;

	if (sscanf(name, "nvme%uc%*un%u", &subsystem, &space) != 2 ||
	    root_resolve(head, "/sys/block/nvme%un%u", subsystem, space) < 0)
		return inuse_say(inuse,
				 "can't tell whether %s is in use: the disk that it leads to is"
				 " not to be seen",
				 name);
	size_t before = inuse->nodes.n;
	int r = nodes_add(&inuse->nodes, head);
	if (r < 0)
		return inuse_say(inuse, "can't tell whether %s is in use: %s", name, strerror(-r));
	if (is_known(&inuse->nodes, before)) {
		inuse->nodes.n = before;
		return 0;
	}
	r = inuse_hold_disk(inuse, head);
	return r < 0 ? r : inuse_below(inuse, head);
}

/* PATH's node is the last of the nodes. */
static int open_disk(struct inuse *inuse, const char *path)
{
	struct node *node = &inuse->nodes.list[inuse->nodes.n - 1];
	char use[200];

	if (inuse->n_disks >= INUSE_MAX_DISKS)
		return inuse_say(inuse, "it has more than %d disks", INUSE_MAX_DISKS);
	int fd = root_open(O_RDONLY | O_EXCL | O_NONBLOCK | O_NOFOLLOW, "/dev/%s", node->name);
	if (fd >= 0) {
		if (inuse->glances)
			close_fd(fd);
		else
			inuse->disks[inuse->n_disks++] = fd;
		return 0;
	}
	/* No medium, or just pulled out: nobody can use it. */
	if (fd == -ENOMEDIUM || fd == -ENXIO || fd == -ENODEV)
		return 0;
	if (fd != -EBUSY)
		return inuse_say(inuse, "can't tell whether /dev/%s is in use: %s", node->name,
				 strerror(-fd));
	if (!describe_use(path, MAX_LAYERS, use, sizeof(use)))
		describe_unknown(node, use, sizeof(use));
	return inuse_say(inuse, "/dev/%s is in use on the host: %s", node->name, use);
}

int inuse_hold_disk(struct inuse *inuse, const char *path)
{
	if (is_hidden(path))
		return hold_head(inuse, path);
	if (root_exists("%s/dev", path) < 0)
		return inuse_say(inuse, "can't tell whether %s is in use: it has no node", path);
	return open_disk(inuse, path);
}

/* The kernel's own */

/* The node of the file at TARGET, as a kernel's attribute names it. */
static const struct node *node_at(const struct nodes *nodes, const char *target)
{
	char path[PATH_MAX];
	struct stat st;
	const char *name = startswith(target, "/dev/");

	for (size_t i = 0; name && i < nodes->n; i++)
		if (streq(name, nodes->list[i].name))
			return &nodes->list[i];
	if (target[0] != '/' || root_path(path, sizeof(path), "%s", target) < 0 ||
	    stat(path, &st) < 0 || !S_ISBLK(st.st_mode))
		return NULL;
	return nodes_find(nodes, st.st_rdev, true);
}

/* "loop0" in /sys/block/loop0/loop/backing_file; else the whole path of the attribute. */
static int by_kernel_file(struct inuse *inuse, const char *attribute)
{
	char target[PATH_MAX], who[64];
	const char *loop = strstr(attribute, "/sys/block/loop");
	_cleanup_fclose_ FILE *f = fopen(attribute, "re");

	if (!f && errno != ENOENT)
		return inuse_say(inuse, "can't tell whether it is in use: %s: %s", attribute,
				 strerror(errno));
	if (!f || !fgets(target, sizeof(target), f))
		return 0;
	target[strcspn(target, "\n")] = 0;
	const struct node *node = node_at(&inuse->nodes, target);
	if (!node)
		return 0;
	if (loop)
		loop += strlen("/sys/block/");
	snprintf(who, sizeof(who), "%.*s", loop ? (int) strcspn(loop, "/") : (int) sizeof(who),
		 loop ? loop : attribute);
	return inuse_say(inuse, "/dev/%s is in use on the host: %s is made of it", node->name, who);
}

int inuse_by_kernel(struct inuse *inuse)
{
	int r = 0;

	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(kernel_files); i++) {
		char pattern[PATH_MAX];
		glob_t found;

		if (inuse->nodes.n == 0 ||
		    root_path(pattern, sizeof(pattern), "%s", kernel_files[i]) < 0 ||
		    glob(pattern, 0, NULL, &found) != 0)
			continue;
		for (size_t j = 0; r == 0 && j < found.gl_pathc; j++)
			r = by_kernel_file(inuse, found.gl_pathv[j]);
		globfree(&found);
	}
	return r;
}
