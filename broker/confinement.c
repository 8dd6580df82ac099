/* What keeps a VMM from a device's node: see confinement.h. Used by the VMM backends. */
#include "broker/confinement.h"

#include <sys/stat.h>

#include "broker/glance.h"
#include "helper/root.h"
#include "helper/text.h"

/* The first path below /dev in TEXT. */
static bool find_node(const char *text, char *ret_node, size_t size)
{
	const char *start = strstr(text, "/dev/");
	size_t length = start ? strcspn(start, "'\": \n") : 0;

	if (length <= strlen("/dev/") || length >= size)
		return false;
	memcpy(ret_node, start, length);
	ret_node[length] = 0;
	/* Elsewhere below /dev a file system may be its user's own, and never answer. */
	return !strstr(ret_node, "..") &&
	       (startswith(ret_node, "/dev/bus/usb/") || startswith(ret_node, "/dev/input/") ||
		startswith(ret_node, "/dev/vfio/"));
}

/* What the host has at PATH: 0, or -errno. */
static int look_at(struct stat *ret_st, const char *path)
{
	char whole[PATH_MAX];
	int r = root_path(whole, sizeof(whole), "%s", path);

	if (r < 0)
		return r;
	return lstat(whole, ret_st) < 0 ? -errno : 0;
}

/* Root's own capabilities, and a group, are taken to be enough. */
static bool may_open(uid_t uid, const struct stat *st)
{
	return uid == 0 || st->st_uid == uid || (st->st_mode & 0006) == 0006 ||
	       (st->st_gid != 0 && (st->st_mode & 0060) == 0060);
}

/* "AppArmor's profile NAME" or "SELinux's type NAME", when it is enforced. */
static bool find_label(pid_t pid, char *ret_words, size_t size)
{
	char line[300], label[200], enforce[8] = "";

	if (root_read(line, sizeof(line), "/proc/%d/attr/current", (int) pid) < 0)
		return false;
	char *mode = strstr(line, " (");
	if (mode && (streq(mode, " (enforce)") || streq(mode, " (kill)"))) {
		*mode = 0;
		text_clean(label, sizeof(label), line);
		snprintf(ret_words, size, "AppArmor's profile %.100s", label);
		return true;
	}
	if (root_read(enforce, sizeof(enforce), "/sys/fs/selinux/enforce") < 0 ||
	    !streq(enforce, "1"))
		return false;
	text_clean(label, sizeof(label), line);
	snprintf(ret_words, size, "SELinux, by the label %.100s,", label);
	return true;
}

static void explain_refusal(const struct peer *peer, const struct stat *st, const char *node,
			    bool is_cgroup, char *ret, size_t size)
{
	char label[160];

	if (!may_open(peer->uid, st))
		snprintf(ret, size, "; %s is not for uid %u: say in \"user =\" who the VMM runs as",
			 node, (unsigned) peer->uid);
	else if (find_label(peer->pid, label, sizeof(label)))
		snprintf(ret, size, "; %s keeps process %d from %s: allow it there", label,
			 (int) peer->pid, node);
	else if (is_cgroup)
		snprintf(ret, size,
			 "; the cgroup of process %d allows no such device: add %s to "
			 "DeviceAllow= or, for libvirt, to cgroup_device_acl",
			 (int) peer->pid, node);
}

/* Has its process no such node? What the kernel does not know, the error says: the process has just
 * looked, and a node that is there stays known. */
static bool lacks_node(int r, const char *text)
{
	return r == -ENOENT || r == -ENOTDIR || (r == -EAGAIN && strstr(text, "No such file"));
}

void confinement_explain(const struct peer *peer, const char *text, char *ret_words, size_t size)
{
	char node[100];
	struct stat ours;
	struct glance theirs;

	*ret_words = 0;
	if (peer->pid == 0 || !find_node(text, node, sizeof(node)) || look_at(&ours, node) < 0)
		return;
	bool is_cgroup = strstr(text, "Operation not permitted");
	bool is_refusal = is_cgroup || strstr(text, "Permission denied");
	if (!is_refusal && !strstr(text, "No such file"))
		return;
	int r = glance_inside(peer->pid, node, &theirs);
	if (lacks_node(r, text))
		snprintf(ret_words, size,
			 "; process %d has a /dev of its own without %s: make it there, or start "
			 "the VM without that (libvirt: namespaces = [])",
			 (int) peer->pid, node);
	else if (r == 0 && (ours.st_dev != theirs.device || ours.st_ino != theirs.inode))
		snprintf(ret_words, size,
			 "; process %d has a /dev of its own with another %s: give it that one, or "
			 "start the VM without that (libvirt: namespaces = [])",
			 (int) peer->pid, node);
	else if (is_refusal)
		explain_refusal(peer, &ours, node, is_cgroup, ret_words, size);
}
