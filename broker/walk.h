/* Paths that lead through a VM's user's directories. Of the links on the way only root's (and our
 * own) are followed: another one's could lead to another VM, or to what only root may touch.
 */
#pragma once

#include "helper/macro.h"

/* Opens (O_PATH) what lies at PATH: nobody can put something else there between a look at it and
 * its use. Returns 0; -ELOOP for another one's link, -ENAMETOOLONG, another -errno. */
int walk_open(const char *path, int *ret_fd) _must_check_;
/* The same for the directory that PATH's last part, *RET_NAME, lies in. */
int walk_open_parent(const char *path, int *ret_fd, const char **ret_name) _must_check_;
