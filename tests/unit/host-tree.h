/* What the tests of the worker's jobs make up in common: devices, programs that have a node open,
 * locks of others. ROOT is the tree's (tree.h). Include after cmocka.h. */
#pragma once

#include <sys/file.h>

#include "helper/text.h"
#include "tests/unit/tree.h"

#define NULL_NUMBERS "1:3" /* of /dev/null, which stands for a disk's node */

/* PATH of sysfs is a device of SUBSYSTEM with NUMBERS. */
static inline void add_device(const char *root, const char *path, const char *subsystem,
			      const char *numbers)
{
	char file[PATH_MAX], class[PATH_MAX];

	assert_int_equal(text_path(file, sizeof(file), "%s/dev", path), 0);
	if (numbers)
		tree_write(root, file, numbers);
	assert_int_equal(text_path(file, sizeof(file), "%s/subsystem", path), 0);
	snprintf(class, sizeof(class), "/sys/class/%s", subsystem);
	tree_mkdir(root, path);
	tree_link(root, file, class);
}

/* Process PID has NODE open, with FLAGS of open(2) in octal. */
static inline void add_opener_of(const char *root, int pid, const char *name, const char *flags,
				 const char *node)
{
	char path[64], link[PATH_MAX], text[64];

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	tree_write(root, path, name);
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/5", pid);
	snprintf(text, sizeof(text), "pos:\t0\nflags:\t%s\n", flags);
	tree_write(root, path, text);
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	tree_mkdir(root, path);
	assert_int_equal(text_path(link, sizeof(link), "%s%s/5", root, path), 0);
	assert_int_equal(symlink(node, link), 0);
}

/* The node with NULL_NUMBERS. */
static inline void add_opener(const char *root, int pid, const char *name, const char *flags)
{
	add_opener_of(root, pid, name, flags, "/dev/null");
}

/* Anybody may open a directory of sysfs, and so lock it. */
static inline int lock_as_others(const char *root, const char *path)
{
	char directory[PATH_MAX];

	tree_path(directory, root, path);
	int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX), 0);
	return fd;
}

/* Another job is at NAME. */
static inline int lock_as_job(const char *root, const char *name)
{
	char path[PATH_MAX], inside[PATH_MAX];

	tree_mkdir(root, VHOTPLUG_RUNDIR "/locks");
	tree_path(path, root, VHOTPLUG_RUNDIR "/locks");
	snprintf(inside, sizeof(inside), "%.2000s/%s", path, name);
	int fd = open(inside, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	return flock(fd, LOCK_EX | LOCK_NB) == 0 ? fd : close_fd(fd);
}

static inline void assert_only_root_locks(const char *root, const char *name)
{
	char path[PATH_MAX], inside[PATH_MAX];
	struct stat st;

	tree_path(path, root, VHOTPLUG_RUNDIR "/locks");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	snprintf(inside, sizeof(inside), "%.2000s/%s", path, name);
	assert_int_equal(stat(inside, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}
