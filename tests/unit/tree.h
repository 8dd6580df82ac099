/* A made-up /sys, /proc and /dev for one test: directories, attributes and links below a directory
 * of its own (temp.h), which root_set (helper/root.h) puts in front. Paths are named as the system
 * names them. Include after cmocka.h. */
#pragma once

#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>

#include "tests/unit/temp.h"

static inline void tree_path(char ret[PATH_MAX], const char *root, const char *path)
{
	assert_true(snprintf(ret, PATH_MAX, "%s%s", root, path) < PATH_MAX);
}

/* Makes the directory PATH and those above it. */
static inline void tree_mkdir(const char *root, const char *path)
{
	char whole[PATH_MAX];

	tree_path(whole, root, path);
	for (char *c = whole + strlen(root) + 1; *c; c++)
		if (*c == '/') {
			*c = 0;
			assert_true(mkdir(whole, 0755) == 0 || errno == EEXIST);
			*c = '/';
		}
	assert_true(mkdir(whole, 0755) == 0 || errno == EEXIST);
}

/* Makes what is above PATH. */
static inline void tree_parent(const char *root, const char *path)
{
	char parent[PATH_MAX];

	tree_path(parent, "", path);
	*strrchr(parent, '/') = 0;
	tree_mkdir(root, parent);
}

/* The file PATH holds TEXT from now on. */
static inline void tree_write(const char *root, const char *path, const char *text)
{
	char whole[PATH_MAX];

	tree_parent(root, path);
	tree_path(whole, root, path);
	FILE *f = fopen(whole, "we");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

/* What the code under test has written to PATH. */
static inline const char *tree_read(const char *root, const char *path)
{
	static char text[4096];
	char whole[PATH_MAX];

	tree_path(whole, root, path);
	FILE *f = fopen(whole, "re");
	assert_non_null(f);
	text[fread(text, 1, sizeof(text) - 1, f)] = 0;
	fclose(f);
	return text;
}

/* PATH is a link to TARGET, a path of the tree. */
static inline void tree_link(const char *root, const char *path, const char *target)
{
	char whole[PATH_MAX], to[PATH_MAX] = "";

	tree_parent(root, path);
	for (const char *c = strchr(path + 1, '/'); c; c = strchr(c + 1, '/'))
		strcat(to, "../");
	strcat(to, target + 1);
	tree_path(whole, root, path);
	assert_int_equal(symlink(to, whole), 0);
}
