/* Who has a device node open, by /proc: see inuse.h. A node is known by its numbers, so one in a
 * container or a jail is seen as well. Sources: proc(5), /proc/PID/fd and fdinfo; kernel,
 * Documentation/filesystems/proc.rst (the size of /proc/PID/fd, from 6.2 on). */
#include <fcntl.h>
#include <sys/stat.h>

#include "broker/glance.h"
#include "broker/inuse.h"
#include "broker/peer.h"
#include "helper/root.h"

#define MAX_DEPTH 32 /* of processes that start processes */

struct search {
	const struct nodes *nodes;
	const struct node *found;
	bool are_counted; /* the kernel says how many descriptors a process has */
	enum opener best;
	pid_t pid; /* whose that is */
	char *who;
	size_t size;
};

/* How descriptor FD of process PID was opened; OPENER_NONE when it is closed by now. What can't be
 * read counts as written to. */
static enum opener open_mode(const char *pid, const char *fd)
{
	_cleanup_fclose_ FILE *f = root_fopen("/proc/%s/fdinfo/%s", pid, fd);
	char line[128];
	unsigned flags;

	if (!f)
		return errno == ENOENT ? OPENER_NONE : OPENER_WRITES;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "flags: %o", &flags) != 1)
			continue;
		if (flags & O_PATH)
			return OPENER_NONE;
		return (flags & O_ACCMODE) == O_RDONLY ? OPENER_READS : OPENER_WRITES;
	}
	return OPENER_WRITES;
}

static void note_opener(struct search *search, const char *pid, const struct node *node,
			enum opener mode)
{
	char name[32];

	if (mode <= search->best)
		return;
	if (root_read(name, sizeof(name), "/proc/%s/comm", pid) < 0)
		strcpy(name, "?");
	search->best = mode;
	search->pid = (pid_t) strtol(pid, NULL, 10);
	search->found = node;
	snprintf(search->who, search->size, "%s (process %s)", name, pid);
}

static const struct node *node_behind(const struct search *search, int dir, const char *fd)
{
	struct glance file;

	if (glance_behind(dir, fd, &file) < 0 || (!S_ISBLK(file.mode) && !S_ISCHR(file.mode)))
		return NULL;
	return nodes_find(search->nodes, file.number, S_ISBLK(file.mode));
}

static int glance_at_program(const char *pid, struct glance *ret_program)
{
	char path[PATH_MAX];
	int r = root_path(path, sizeof(path), "/proc/%s/exe", pid);

	return r < 0 ? r : glance_behind(AT_FDCWD, path, ret_program);
}

/* Is process PID one of the broker's? By its program, which all of them have in common, and its
 * user: anybody may start the program, and stop it with what he has open. */
static bool is_ours(const char *pid)
{
	struct glance own, its;
	uid_t uid;

	return glance_at_program("self", &own) == 0 && glance_at_program(pid, &its) == 0 &&
	       own.device == its.device && own.inode == its.inode &&
	       peer_uid_of((pid_t) atoi(pid), &uid) == 0 && uid == geteuid();
}

/* How many descriptors process PID has open; -1: that can't be told. Older kernels say 0 of all. */
static off_t count_descriptors(const char *pid)
{
	char path[PATH_MAX];
	struct stat st;

	if (root_path(path, sizeof(path), "/proc/%s/fd", pid) < 0 || stat(path, &st) < 0)
		return -1;
	return st.st_size;
}

static int look_at_process(struct search *search, const char *pid)
{
	const struct dirent *entry;
	DIR *dir;

	/* Most processes are the kernel's own, and have none. */
	if (search->are_counted && count_descriptors(pid) == 0)
		return 0;
	dir = root_opendir("/proc/%s/fd", pid);
	if (!dir)
		return errno == ENOENT || errno == ESRCH ? 0 : -errno;
	while ((entry = readdir(dir))) {
		const struct node *node = entry->d_name[0] == '.'
						  ? NULL
						  : node_behind(search, dirfd(dir), entry->d_name);

		if (node && !is_ours(pid))
			note_opener(search, pid, node, open_mode(pid, entry->d_name));
	}
	closedir(dir);
	return 0;
}

static int look_at_all(struct search *search)
{
	const struct dirent *entry;
	int r = 0;
	DIR *proc = root_opendir("/proc");

	if (!proc)
		return -errno;
	search->are_counted = count_descriptors("self") > 0;
	while (r == 0 && search->best != OPENER_WRITES && (entry = readdir(proc)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
			r = look_at_process(search, entry->d_name);
	closedir(proc);
	return r < 0 ? r : (int) search->best;
}

int inuse_find_opener(const struct nodes *nodes, const struct node **ret_node, char *ret_who,
		      size_t size)
{
	struct search search = {.nodes = nodes, .who = ret_who, .size = size};
	int r = look_at_all(&search);

	if (r > 0 && ret_node)
		*ret_node = search.found;
	return r;
}

int inuse_find_process(const struct nodes *nodes, pid_t *ret_pid, char *ret_who, size_t size)
{
	struct search search = {.nodes = nodes, .who = ret_who, .size = size};
	int r = look_at_all(&search);

	if (r > 0)
		*ret_pid = search.pid;
	return r;
}

int inuse_is_open_in(const struct nodes *nodes, pid_t pid)
{
	char name[16], who[32];
	struct search search = {.nodes = nodes, .who = who, .size = sizeof(who)};

	snprintf(name, sizeof(name), "%d", (int) pid);
	int r = look_at_process(&search, name);
	return r < 0 ? r : (int) search.best;
}

/* Who has started PID; 0 for the first processes; or -errno. */
static int parent_of(pid_t pid)
{
	char line[512];
	int parent;
	int r = root_read(line, sizeof(line), "/proc/%d/stat", (int) pid);
	/* Behind the program's name, which may have any character. */
	const char *rest = r < 0 ? NULL : strrchr(line, ')');

	if (r < 0)
		return r;
	return rest && sscanf(rest, ") %*c %d", &parent) == 1 ? parent : -EBADMSG;
}

/* Is PID the process ANCESTOR, or started by that, or by one that it has started …? */
static int is_below(pid_t pid, pid_t ancestor)
{
	for (int depth = 0; pid > 0 && depth < MAX_DEPTH; depth++) {
		if (pid == ancestor)
			return true;
		pid = parent_of(pid);
	}
	return pid < 0 ? pid : false;
}

int inuse_find_stranger(const struct nodes *nodes, pid_t pid, char *ret_who, size_t size)
{
	pid_t other;
	int r = inuse_is_open_in(nodes, pid);

	if (r != 0)
		return r < 0 ? r : 0;
	r = inuse_find_process(nodes, &other, ret_who, size);
	if (r <= 0)
		return r;
	r = is_below(other, pid);
	return r < 0 ? r : !r;
}
