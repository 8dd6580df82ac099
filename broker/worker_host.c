/* What the worker's jobs share: see worker_host.h. Runs in a child of the worker: may block. */
#include "broker/worker_host.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "broker/device.h"
#include "helper/root.h"

int worker_fail(struct worker_answer *answer, int result, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(answer->detail, sizeof(answer->detail), format, args);
	va_end(args);
	answer->result = result;
	return result;
}

/* Is NODE, "/dev/sda1 …", the disk "sda" or a partition of it (and not of "sdaa")? */
static bool is_part_of(const char *node, const char *disk)
{
	const char *name = startswith(node, "/dev/");
	const char *rest = name ? startswith(name, disk) : NULL;

	return rest && (*rest == 0 || *rest == ' ' || *rest == '\t' || *rest == 'p' ||
			(*rest >= '0' && *rest <= '9'));
}

/* Where DISK or a partition of it is mounted, by the mount table of process PID ("self").
 * Source: proc(5), /proc/PID/mountinfo. */
static bool find_mount(const char *pid, const char *disk, char *ret_where, size_t size)
{
	char line[1024];
	_cleanup_fclose_ FILE *f = root_fopen("/proc/%s/mountinfo", pid);

	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		char target[512], source[256];
		const char *tail = strstr(line, " - ");

		if (!tail || sscanf(line, "%*s %*s %*s %*s %511s", target) != 1 ||
		    sscanf(tail, " - %*s %255s", source) != 1)
			continue;
		if (is_part_of(source, disk)) {
			snprintf(ret_where, size, "%s", target);
			return true;
		}
	}
	return false;
}

/* The words for "mounted": in our namespace, or in another process's. */
static bool describe_mount(const char *disk, char *ret_text, size_t size)
{
	char where[200];
	struct dirent *entry;
	bool found = false;

	if (find_mount("self", disk, where, sizeof(where))) {
		snprintf(ret_text, size, "mounted on %s", where);
		return true;
	}
	DIR *proc = root_opendir("/proc");
	while (proc && !found && (entry = readdir(proc)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
		    find_mount(entry->d_name, disk, where, sizeof(where))) {
			snprintf(ret_text, size,
				 "mounted on %s in the mount namespace of process %s", where,
				 entry->d_name);
			found = true;
		}
	if (proc)
		closedir(proc);
	return found;
}

static bool is_swap(const char *disk)
{
	char line[512];
	_cleanup_fclose_ FILE *f = root_fopen("/proc/swaps");

	while (f && fgets(line, sizeof(line), f))
		if (is_part_of(line, disk))
			return true;
	return false;
}

/* The first device-mapper or md device on top of the disk at SYSPATH or one of its partitions. */
static bool find_holder(const char *syspath, int depth, char *ret_name, size_t size)
{
	struct dirent *entry;
	bool found = false;

	DIR *dir = root_opendir("%s/holders", syspath);
	while (dir && !found && (entry = readdir(dir)))
		if (entry->d_name[0] != '.') {
			snprintf(ret_name, size, "%s", entry->d_name);
			found = true;
		}
	if (dir)
		closedir(dir);
	if (found || depth == 0 || !(dir = root_opendir("%s", syspath)))
		return found;
	while (!found && (entry = readdir(dir)))
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.') {
			char partition[1000];

			snprintf(partition, sizeof(partition), "%s/%s", syspath, entry->d_name);
			found = find_holder(partition, 0, ret_name, size);
		}
	closedir(dir);
	return found;
}

static void describe_use(const char *syspath, const char *disk, char *ret_text, size_t size)
{
	char holder[64];

	if (describe_mount(disk, ret_text, size))
		return;
	if (is_swap(disk))
		snprintf(ret_text, size, "swap space");
	else if (find_holder(syspath, 1, holder, sizeof(holder)))
		snprintf(ret_text, size, "part of %s (LVM, LUKS or md)", holder);
	else
		snprintf(ret_text, size, "opened exclusively by another process");
}

static int hold_disk(const char *syspath, struct worker_answer *answer, int *fds)
{
	const char *disk = strrchr(syspath, '/') + 1;
	char node[300], use[300];

	if (answer->n_fds >= WORKER_MAX_FDS)
		return worker_fail(answer, -EBUSY, "it has more than %d disks", WORKER_MAX_FDS - 1);
	snprintf(node, sizeof(node), "/dev/%s", disk);
	/* The kernel writes '!' for a '/' in a disk's name. */
	for (char *c = node; *c; c++)
		if (*c == '!')
			*c = '/';
	int fd = root_open(O_RDONLY | O_EXCL | O_NONBLOCK | O_NOFOLLOW, "%s", node);
	if (fd >= 0) {
		fds[answer->n_fds++] = fd;
		return 0;
	}
	/* No medium, or just pulled out: nobody can use it. */
	if (fd == -ENOMEDIUM || fd == -ENXIO || fd == -ENODEV)
		return 0;
	if (fd != -EBUSY)
		return worker_fail(answer, -EBUSY, "can't tell whether %s is in use: %s", node,
				   strerror(-fd));
	describe_use(syspath, disk, use, sizeof(use));
	return worker_fail(answer, -EBUSY, "%s is in use on the host: %s", node, use);
}

/* Is the directory PATH of sysfs a whole disk? Most are in a folder "block", NVMe's are not. */
static bool is_disk(const char *path)
{
	char subsystem[64];

	return root_link_name(subsystem, sizeof(subsystem), "%s/subsystem", path) == 0 &&
	       streq(subsystem, "block") && root_exists("%s/partition", path) < 0;
}

int hold_disks(const char *path, int depth, struct worker_answer *answer, int *fds)
{
	struct dirent *entry;
	int r = 0;

	DIR *dir = depth > 0 ? root_opendir("%s", path) : NULL;
	while (dir && r == 0 && (entry = readdir(dir))) {
		char below[900];

		if (entry->d_type != DT_DIR || entry->d_name[0] == '.')
			continue;
		snprintf(below, sizeof(below), "%s/%s", path, entry->d_name);
		r = is_disk(below) ? hold_disk(below, answer, fds)
				   : hold_disks(below, depth - 1, answer, fds);
	}
	if (dir)
		closedir(dir);
	return r;
}

/* Is NODE still the node of the instance that was meant? Buses reuse device numbers. */
static int check_instance(const struct worker_request *request, int fd)
{
	char expected[32], found[32];
	struct stat st;

	if (fstat(fd, &st) < 0 || !S_ISCHR(st.st_mode))
		return -ENODEV;
	if (root_read(found, sizeof(found), "/sys%s/dev", request->devpath) < 0)
		return -ENODEV;
	snprintf(expected, sizeof(expected), "%u:%u", major(st.st_rdev), minor(st.st_rdev));
	if (!streq(found, expected) || sysfs_inode(request->devpath) != request->inode)
		return -ENODEV;
	return 0;
}

int worker_open_node(const struct worker_request *request, struct worker_answer *answer)
{
	int fd = root_open(O_RDWR | O_NOFOLLOW, "%s", request->node);

	if (fd < 0) {
		int r = fd == -ENOENT || fd == -ENXIO ? -ENODEV : fd;

		return worker_fail(answer, r, "can't open %s: %s", request->node, strerror(-fd));
	}
	if (check_instance(request, fd) < 0) {
		close(fd);
		return worker_fail(answer, -ENODEV, "the device has been unplugged");
	}
	return fd;
}
