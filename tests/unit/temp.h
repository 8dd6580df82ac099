/* A directory for one test, removed with all that is in it. */
#pragma once

#include <ftw.h>

#include "helper/macro.h"

static inline int temp_remove_one(const char *path, const struct stat *st, int type,
				  struct FTW *ftw)
{
	(void) st, (void) type, (void) ftw;
	return remove(path);
}

static inline void temp_remove(char **path)
{
	nftw(*path, temp_remove_one, 16, FTW_DEPTH | FTW_PHYS);
	free(*path);
}

/* Short, because a socket address below it has 107 bytes. */
static inline char *temp_new(void)
{
	/* In memory where that can be: what the store makes durable would be waited for otherwise.
	 */
	char *path =
		strdup(access("/dev/shm", W_OK) == 0 ? "/dev/shm/vhp-XXXXXX" : "/tmp/vhp-XXXXXX");

	if (!path || !mkdtemp(path))
		abort();
	return path;
}

#define TEMP_DIR(name) _cleanup_(temp_remove) char *name = temp_new()
