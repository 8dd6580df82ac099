/* Connecting to a VM's socket: who is at its other end, and whether a descriptor opened by root may
 * go there. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "helper/macro.h"

struct peer {
	pid_t pid; /* 0: in a pid namespace that can't be seen from here */
	uint64_t
		start_time; /* of that process, clock ticks since boot; with the pid it is unique */
	uid_t listener_uid; /* who made the socket listen; nobody can make that up */
	uid_t uid;          /* effective, now */
};

/* Connects to the socket PATH, of TYPE SOCK_STREAM or SOCK_SEQPACKET, without waiting; *RET_FD does
 * not block. Of the links on the way only root's are followed. Returns 0; -ELOOP for another one's
 * link; -ENOENT when nothing is there, -ECONNREFUSED when nobody listens,
 * -EPROTOTYPE when it is of another type, -EAGAIN when too many clients wait already,
 * -ENAMETOOLONG; another -errno. Source: unix(7). */
int peer_connect(const char *path, int type, int *ret_fd) _must_check_;
/* The same, and *RET_NODE is the socket itself (O_PATH): its link below /proc/self/fd leads to who
 * answers on *RET_FD, whatever lies at PATH by then. */
int peer_connect_at(const char *path, int type, int *ret_fd, int *ret_node) _must_check_;

/* Fills *RET_PEER from the connected socket FD. The pid is the listener's (SO_PEERCRED), the uid
 * the one it has now: SO_PEERCRED's is that of listen time, which is 0 for "qemu -runas".
 * Sources: unix(7), proc(5) /proc/PID/status and stat. Returns 0 or -errno. */
int peer_get(int fd, struct peer *ret_peer) _must_check_;

/* The effective uid that process PID has now: whatever it has made of itself, the owner of
 * /proc/PID may be root. Returns 0; -ESRCH when it has ended; another -errno. */
int peer_uid_of(pid_t pid, uid_t *ret_uid) _must_check_;

/* Looks once more who that process runs as: "qemu -runas" listens and greets as root still, and is
 * somebody else when it obeys. What can't be told stays as it is. */
void peer_look_again(struct peer *peer);

/* How long ago that process has started, in ms; 0 when that is not known. */
uint64_t peer_age_ms(const struct peer *peer);

/* Is that process still the one in PEER? True when that can't be told: the pid is not known, or no
 * descriptor is left to look. */
bool peer_is_alive(const struct peer *peer);

/* May a descriptor be sent over a connection to the socket PATH, whose peer is PEER? USER is who
 * the config says the VMM runs as, or (uid_t) -1. A socket that root made is trusted. Returns 0,
 * or -EPERM with the reason in REASON. */
int peer_check(const char *path, const struct peer *peer, uid_t user, char *reason,
	       size_t size) _must_check_;
