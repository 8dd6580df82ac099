/* Users and groups of this host. */
#pragma once

#include <sys/types.h>

#include "broker/loop.h"
#include "helper/macro.h"

/* The uid of the user NAME, which may be a number; (uid_t) -1 when there is no such user. Looks
 * into /etc/passwd alone: other sources may take their time, and the loop has none. */
uid_t account_find(const char *name);

/* The same for users and groups, and who is not in the files of the host (/etc/passwd, /etc/group)
 * is asked for wherever else it keeps users and groups (LDAP, say), for two seconds at most: a
 * server that does not answer holds up no device for longer. For a config that is being read.
 * (uid_t) -1, (gid_t) -1: there is none, or nobody answers. */
uid_t account_ask_user(const char *name);
gid_t account_ask_group(const char *name);

/* The same for a user, where nobody may wait: FN is called once, later, unless the question is
 * freed before; it is gone by then. Returns 0 or -errno. */
struct account_question;
typedef void (*account_fn)(void *data, uid_t user);
int account_question_new(struct loop *loop, const char *name, account_fn fn, void *data,
			 struct account_question **ret_question) _must_check_;
/* NULL is fine. */
void account_question_free(struct account_question *question);

/* For tests: LOOK is who is asked; it may hang. It is called in a process of its own. */
uid_t account_ask(uid_t (*look)(const char *name), const char *name);
