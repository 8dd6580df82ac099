/* Users of this host. */
#pragma once

#include <sys/types.h>

/* The uid of the user NAME, which may be a number; (uid_t) -1 when there is no such user. Looks
 * into /etc/passwd alone: other sources may take their time, and the loop has none. */
uid_t account_find(const char *name);
