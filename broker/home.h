/* What the broker has on disk: its two directories, the lock that keeps a second broker out, and
 * who may read the state. Used by main. */
#pragma once

#include <sys/types.h>

#include "broker/loop.h"
#include "broker/watch.h"
#include "helper/macro.h"

#define HOME_PATH_SIZE 256

struct home {
	char run_directory[HOME_PATH_SIZE];
	char state_directory[HOME_PATH_SIZE];
	char database[HOME_PATH_SIZE + 16];
	char refuge[HOME_PATH_SIZE + 16];      /* for the state when its directory can't be used */
	char public_copy[HOME_PATH_SIZE + 16]; /* of the database, for everybody */
	int run_lock, state_lock;
	gid_t readers; /* who may read the copy; (gid_t) -1: everybody */
	ino_t database_inode;
	struct watch *run_watch, *state_watch;
	void (*lost)(void *data, const char *why);
	void *data;
};

/* Finds the directories by the service manager's variables, and makes them. One for the state that
 * can't be made is no reason to stop. Returns 0 or -errno; the reason is logged. */
int home_init(struct home *home) _must_check_;

/* Takes the lock, in both directories (where nothing can be written, that of run time alone). A
 * broker that has just been killed may hold it for a moment more. Returns 0 or -errno; the reason
 * is logged. */
int home_lock(struct home *home) _must_check_;

/* Lets GROUP (NULL: adm where there is one, else root's) see what is in the directory of the state,
 * which everybody may go through: the socket of [api] may lie there; a GROUP that is named is also
 * the only one to read the copy (HOME->readers). The config may have changed.
 */
void home_admit(struct home *home, const char *group);

/* Makes the database's file if there is none, and all of its files root's alone: whoever may read
 * them may lock them, and keep the WAL growing. Not while it is open: whoever closes one of its
 * files gives up the locks that SQLite has on it. Source: fcntl(2), record locks. */
void home_protect(const struct home *home);

/* Notices when somebody clears the directories: a lock that was removed is taken again. LOST is
 * called when the broker can't go on: its database, which is at PATH, has gone, or another broker
 * has the lock. */
int home_watch(struct home *home, struct loop *loop, const char *path,
	       void (*lost)(void *data, const char *why), void *data) _must_check_;
/* The database is another file now, at PATH. Returns 0 or -errno. */
int home_follow(struct home *home, struct loop *loop, const char *path) _must_check_;

void home_finish(struct home *home);
