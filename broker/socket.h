/* UNIX sockets: a packet with descriptors, and a socket that others connect to. */
#pragma once

#include <sys/types.h>

#include "helper/macro.h"

#define SOCKET_MAX_FDS 64

/* One sendmsg that does not wait, with the N descriptors in FDS on its first byte. Returns how many
 * bytes went out, or -errno; -EAGAIN also when the kernel can't take descriptors just now: too many
 * are on their way (ETOOMANYREFS) or it has no memory. */
ssize_t socket_send(int fd, const void *data, size_t size, const int *fds, size_t n) _must_check_;

/* One recvmsg that does not wait. FDS gets the descriptors that come along, at most MAX, the
 * caller's from then on. Returns how many bytes came, 0 at the end, or -errno; -EMFILE when not all
 * descriptors had room: then the bytes are in DATA and none is left open. */
ssize_t socket_receive(int fd, void *data, size_t size, int *ret_fds, size_t max,
		       size_t *ret_n) _must_check_;

/* Binds the UNIX socket FD at PATH, in place of a socket that may be there, with MODE from the
 * beginning; then it is given to UID and GID (-1: stays). The directory may be somebody else's:
 * links of others are not followed (walk.h). Returns 0; -EADDRINUSE where something else lies;
 * another -errno. */
int socket_bind(int fd, const char *path, mode_t mode, uid_t uid, gid_t gid) _must_check_;
/* The inode of what lies at PATH; 0: nothing does. */
ino_t socket_inode(const char *path);
/* Removes what lies at PATH if it is INODE (0: none). */
void socket_remove(const char *path, ino_t inode);

/* A socket of TYPE that listens at PATH, in place of the one that may be there. OWNER alone may
 * connect ((uid_t) -1: who we are). Returns the descriptor, which does not block, or -errno. */
int socket_listen(const char *path, int type, int backlog, uid_t owner) _must_check_;
