/* Where clients come in: unix, TCP and vsock sockets. See control.h for what becomes of them. */
#pragma once

#include "broker/control.h"
#include "helper/macro.h"

struct control_listeners;

/* Returns 0 or -errno. */
int control_listeners_new(struct loop *loop, struct control *control,
			  struct control_listeners **ret_listeners) _must_check_;
/* Closes them, and takes unix sockets away. NULL is fine. */
void control_listeners_free(struct control_listeners *listeners);
/* Closes those of DIALECT. */
void control_listeners_close(struct control_listeners *listeners, enum control_dialect dialect);

/* One for each kind. The socket at PATH replaces one that nobody listens on any more, and is made
 * again when somebody removes it. One that can't be made yet is tried again until it can. All
 * return 0 or -errno, where that would not help, and the reason is logged. */
struct control_unix {
	const char *path;
	const char *user;  /* who owns it; NULL: the broker's own */
	const char *group; /* the same */
	mode_t mode;
	enum control_dialect dialect;
	bool is_trusted; /* whoever may open it may change things */
};
int control_listen_unix(struct control_listeners *listeners,
			const struct control_unix *place) _must_check_;
/* HOST is an address. Beyond the loopback device anybody on the network is let in: it is said. */
int control_listen_tcp(struct control_listeners *listeners, const char *host,
		       unsigned port) _must_check_;
/* Only the N guests in CIDS are let in. */
int control_listen_vsock(struct control_listeners *listeners, unsigned port, const unsigned *cids,
			 size_t n) _must_check_;
/* Hangs up on the guests that have come in by vsock and are not among the N in CIDS. */
void control_drop_guests(struct control *control, const unsigned *cids, size_t n);
