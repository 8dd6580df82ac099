/* What the host may use below a device: see inuse.h. Here is the walk through sysfs; what counts as
 * use of a disk or a node is in inuse_disk.c and inuse_open.c. Called by the worker's jobs. */
#include "broker/inuse.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "conf/array.h"
#include "helper/root.h"

#define READER_TRIES 5 /* for who only looks what is on a disk */
#define READER_MS 500
#define CLAIM_TRIES 5 /* for who has just ended, or lets go of a device just now */
#define CLAIM_MS 100

/* Kinds of nodes by which a disk can be read and written, besides its own. */
static const char *const kinds[] = {"block", "scsi_generic", "bsg", "scsi_tape", "nvme-generic"};

/* Kinds of nodes that somebody has open all the time, and may: desktops and sound servers have all
 * there are, and lose them without harm. What is claimed by usbfs is looked at by itself. */
static const char *const public_kinds[] = {"input", "sound", "usb", "vfio-dev"};

void inuse_finish(struct inuse *inuse)
{
	while (inuse->n_disks > 0)
		close(inuse->disks[--inuse->n_disks]);
	if (inuse->has_lock)
		close(inuse->routes_lock);
	inuse->has_lock = false;
	while (inuse->n_paths > 0)
		free(inuse->paths[--inuse->n_paths]);
	free(inuse->paths);
	free(inuse->nodes.list);
	free(inuse->others.list);
	free(inuse->claimed.list);
}

int inuse_say(struct inuse *inuse, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(inuse->words, sizeof(inuse->words), format, args);
	va_end(args);
	return -EBUSY;
}

const struct node *nodes_find(const struct nodes *nodes, dev_t number, bool is_block)
{
	for (size_t i = 0; i < nodes->n; i++)
		if (nodes->list[i].number == number && nodes->list[i].is_block == is_block)
			return &nodes->list[i];
	return NULL;
}

int nodes_add(struct nodes *nodes, const char *path)
{
	char numbers[32], subsystem[64] = "";
	struct node node = {0};
	unsigned high, low;
	int r = root_read(numbers, sizeof(numbers), "%s/dev", path);

	if (r < 0)
		return r == -ENOENT ? 0 : r;
	if (sscanf(numbers, "%u:%u", &high, &low) != 2)
		return -EIO;
	r = root_link_name(subsystem, sizeof(subsystem), "%s/subsystem", path);
	if (r < 0 && r != -ENOENT)
		return r;
	snprintf(node.name, sizeof(node.name), "%s", strrchr(path, '/') + 1);
	/* The kernel writes '!' for a '/' in a name. */
	for (char *c = node.name; *c; c++)
		if (*c == '!')
			*c = '/';
	node.number = makedev(high, low);
	node.is_block = streq(subsystem, "block");
	struct node *slot = ARRAY_APPEND(nodes->list, nodes->n);
	if (!slot)
		return -ENOMEM;
	*slot = node;
	return 0;
}

/* "dri/card0": a node that is no disk's may be called otherwise than its device. */
static void read_node_name(const char *path, char *name, size_t size)
{
	char line[160];
	_cleanup_fclose_ FILE *f = root_fopen("%s/uevent", path);

	while (f && fgets(line, sizeof(line), f)) {
		const char *value = startswith(line, "DEVNAME=");

		if (value)
			snprintf(name, size, "%.*s", (int) strcspn(value, "\n"), value);
	}
}

int inuse_note_node(struct inuse *inuse, dev_t number, const char *format, ...)
{
	struct node *slot = ARRAY_APPEND(inuse->others.list, inuse->others.n);
	va_list args;

	if (!slot)
		return inuse_say(inuse, "can't tell who has it open: %s", strerror(ENOMEM));
	*slot = (struct node){.number = number};
	va_start(args, format);
	vsnprintf(slot->name, sizeof(slot->name), format, args);
	va_end(args);
	return 0;
}

/* A node of another kind than a disk's. */
static int note_other(struct inuse *inuse, const char *path)
{
	size_t before = inuse->others.n;
	int r = nodes_add(&inuse->others, path);

	if (r == 0 && inuse->others.n > before) {
		struct node *node = &inuse->others.list[before];

		read_node_name(path, node->name, sizeof(node->name));
	}
	return r;
}

static bool is_one_of(const char *const *kind, size_t n, const char *subsystem)
{
	for (size_t i = 0; i < n; i++)
		if (streq(subsystem, kind[i]))
			return true;
	return false;
}

/* An interface that a program has claimed by usbfs: its device is the directory above. */
static int note_claim(struct inuse *inuse, const char *path)
{
	char driver[64], device[PATH_MAX];
	int r = root_link_name(driver, sizeof(driver), "%s/driver", path);

	if (r < 0 || !streq(driver, "usbfs"))
		return r == -ENOENT ? 0 : r;
	strcpy(device, path);
	*strrchr(device, '/') = 0;
	return nodes_add(&inuse->claimed, device);
}

/* PATH is no device. The kernel makes "net" for network interfaces and takes it away with the last
 * one; those of other network namespaces are in there all the same, and not to be seen. */
static int note_hidden(struct inuse *inuse, const char *path)
{
	DIR *dir = streq(strrchr(path, '/'), "/net") ? root_opendir("%s", path) : NULL;
	const struct dirent *entry;
	bool is_empty = dir;

	while (is_empty && (entry = readdir(dir)))
		is_empty = entry->d_name[0] == '.';
	if (dir)
		closedir(dir);
	inuse->has_hidden |= is_empty;
	return 0;
}

/* One directory on the way. Returns 0, or -EBUSY with words. */
static int look_at(struct inuse *inuse, const char *path)
{
	char subsystem[64];
	int r = root_link_name(subsystem, sizeof(subsystem), "%s/subsystem", path);

	if (r == -ENOENT)
		return note_hidden(inuse, path);
	if (r == 0 && is_one_of(kinds, ARRAY_SIZE(kinds), subsystem))
		r = nodes_add(&inuse->nodes, path);
	else if (r == 0 && streq(subsystem, "usb"))
		r = note_claim(inuse, path);
	else if (r == 0 && streq(subsystem, "net"))
		inuse->has_interface = true;
	else if (r == 0 && !is_one_of(public_kinds, ARRAY_SIZE(public_kinds), subsystem))
		r = note_other(inuse, path);
	if (r < 0)
		return inuse_say(inuse, "can't tell whether %s is in use: %s", path, strerror(-r));
	if (streq(subsystem, "block") && root_exists("%s/partition", path) == -ENOENT)
		return inuse_hold_disk(inuse, path);
	return 0;
}

static int walk_below(struct inuse *inuse, char path[PATH_MAX]);

/* Appends NAME to PATH and goes on there. */
static int walk_into(struct inuse *inuse, char path[PATH_MAX], const char *name)
{
	size_t length = strlen(path);
	int r;

	if (length + 1 + strlen(name) >= PATH_MAX)
		return inuse_say(inuse, "can't tell whether it is in use: what is below it lies too"
					" deep");
	sprintf(path + length, "/%s", name);
	r = look_at(inuse, path);
	if (r == 0)
		r = walk_below(inuse, path);
	path[length] = 0;
	return r;
}

static bool is_directory(DIR *dir, const struct dirent *entry)
{
	struct stat st;

	if (entry->d_type != DT_UNKNOWN)
		return entry->d_type == DT_DIR;
	return fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISDIR(st.st_mode);
}

/* Everything below PATH. sysfs has no loops but by links, which are not followed. What vanishes
 * meanwhile is not in use. */
static int walk_below(struct inuse *inuse, char path[PATH_MAX])
{
	const struct dirent *entry;
	int r = 0;
	DIR *dir = root_opendir("%s", path);

	if (!dir && errno == ENOENT)
		return 0;
	errno = dir ? 0 : errno;
	while (dir && r == 0 && (entry = readdir(dir))) {
		if (entry->d_name[0] != '.' && is_directory(dir, entry))
			r = walk_into(inuse, path, entry->d_name);
		errno = 0;
	}
	if (r == 0 && errno != 0 && errno != ENOENT)
		r = inuse_say(inuse, "can't tell whether it is in use: %s: %s", path,
			      strerror(errno));
	if (dir)
		closedir(dir);
	return r;
}

int inuse_below(struct inuse *inuse, const char *path)
{
	char buffer[PATH_MAX];
	char **slot = ARRAY_APPEND(inuse->paths, inuse->n_paths);

	if (!slot || !(*slot = strdup(path)))
		return inuse_say(inuse, "can't tell whether it is in use: out of memory");
	if (strlen(path) >= sizeof(buffer))
		return inuse_say(inuse, "can't tell whether it is in use: its path is too long");
	strcpy(buffer, path);
	return walk_below(inuse, buffer);
}

/* Who writes is there to stay. Who reads may be looking what is on a disk that has just come. */
static int by_openers(struct inuse *inuse, const struct nodes *nodes, const char *advice)
{
	const struct node *node = NULL;
	char who[96];
	int r = 0;

	for (int tries = 0; nodes->n > 0 && tries < READER_TRIES; tries++) {
		r = inuse_find_opener(nodes, &node, who, sizeof(who));
		if (r != OPENER_READS)
			break;
		usleep(READER_MS * 1000);
	}
	if (r < 0)
		return inuse_say(inuse, "can't tell who has it open: %s%s", strerror(-r), advice);
	if (r > 0)
		return inuse_say(inuse, "/dev/%s is in use on the host: %s has it open%s%s",
				 node->name, who, r == OPENER_READS ? "" : " for writing", advice);
	return 0;
}

static int by_claims(struct inuse *inuse)
{
	const struct node *node = inuse->claimed.list;
	char who[96];
	int r = 0;

	if (inuse->claimed.n == 0)
		return 0;
	strcpy(who, "a program that is not to be seen");
	for (int tries = 0; r == 0 && tries < CLAIM_TRIES; tries++) {
		r = inuse_find_opener(&inuse->claimed, &node, who, sizeof(who));
		if (r == 0)
			usleep(CLAIM_MS * 1000);
	}
	if (r < 0)
		return inuse_say(inuse, "can't tell who has it: %s", strerror(-r));
	return inuse_say(inuse, "the USB device %s is held by %s", node->name, who);
}

int inuse_by_readers(struct inuse *inuse)
{
	int r = inuse_by_kernel(inuse);

	return r < 0 ? r : by_openers(inuse, &inuse->nodes, "");
}

int inuse_by_processes(struct inuse *inuse)
{
	int r = inuse_by_readers(inuse);

	return r < 0 ? r : by_claims(inuse);
}

int inuse_by_holders(struct inuse *inuse)
{
	return by_openers(inuse, &inuse->others,
			  "; force = yes in its rule gives it away all the same");
}
