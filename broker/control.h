/* The sockets on which people and programs talk to the broker: one JSON value a line, both ways.
 *
 * This file frames lines and keeps connections in bounds; what a line means is the business of
 * whoever handles it (api.h). The kernel says who a client is before its first byte is read. A
 * client that does not read what it has asked for loses its connection, never the broker's time.
 * What one that may change things has sent before it went is done all the same, line by line.
 */
#pragma once

#include <sys/types.h>

#include "broker/loop.h"
#include "helper/macro.h"

#define CONTROL_SOCKET_NAME "control.sock" /* below VHOTPLUG_RUNDIR */
#define CONTROL_LINE_MAX 65536             /* bytes of a request */
#define CONTROL_EVENTS_MAX (256 * 1024)    /* unread bytes at which an event is one too many */
#define CONTROL_UNREAD_MAX (8 * 1024 * 1024)
#define CONTROL_TOTAL_MAX (64 * 1024 * 1024) /* the same, of all clients together */
#define CONTROL_CLIENTS_MAX 2048
#define CONTROL_READERS_MAX 512 /* of them may be such that may only read */
#define CONTROL_READERS_BURST                                                                \
	(4 * 1024 * 1024)                  /* bytes that those who may only read get at once \
					    */
#define CONTROL_READERS_RATE (1024 * 1024) /* and in the long run, a second, together */
#define CONTROL_READERS_LINE 4096          /* what a request of theirs costs at least */
#define CONTROL_READERS_TIME 100000        /* us of the broker's that they get at once */
#define CONTROL_READERS_SHARE 200000       /* and in the long run, a second, together */
#define CONTROL_STALL_MS 10000 /* for a client to read something of what is there for it */

struct control;
struct control_listener;

/* Two sockets, two ways to speak: see api.h. */
enum control_dialect {
	CONTROL_OWN,
	CONTROL_VHOTPLUG,
};

struct control_client {
	struct control_client *next;
	struct control *control;
	enum control_dialect dialect;
	bool may_change;       /* everybody who gets this far may look */
	bool may_read_history; /* what has been */
	bool wants_events;
	uid_t uid; /* (uid_t) -1: not known, it is not on this host, or on TCP */

	/* For control.c. */
	int fd;
	struct loop_source *source;
	struct loop_timer stall, pause;
	char *in, *out;
	size_t in_length, in_size, out_length, out_size;
	bool is_held;   /* its next line waits until the one before has been answered */
	bool has_ended; /* it sends nothing any more */
	bool is_deaf;   /* it hears nothing any more */
	bool is_closed;
	struct loop_garbage garbage;
};

struct control_handler {
	/* A line of CLIENT without its end: LENGTH bytes, a NUL behind them. */
	void (*line)(void *data, struct control_client *client, const char *line, size_t length);
	/* CLIENT has gone; its memory stays until the end of the pass. */
	void (*gone)(void *data, struct control_client *client);
};

/* Returns 0 or -errno. */
int control_new(struct loop *loop, const struct control_handler *handler, void *data,
		struct control **ret_control) _must_check_;
/* Closes everything. NULL is fine. */
void control_free(struct control *control);
/* Who may change things on sockets of the dialect CONTROL_OWN besides root; (gid_t) -1: nobody. It
 * counts for those who connect from now on. */
void control_set_group(struct control *control, gid_t group);
/* Who may read the history besides root and those who may change things; (gid_t) -1: everybody. It
 * counts for those who connect from now on. */
void control_set_readers(struct control *control, gid_t readers);

/* Takes over the connected socket FD; IS_TRUSTED: the way to the socket was barred to everybody
 * who may not change things. FD is closed when there is no room. Whoever may only read can be
 * anybody, as often as he likes: that is answered at a pace which leaves the others alone, by what
 * it sends and by the time it takes. */
void control_accept(struct control *control, int fd, enum control_dialect dialect, bool is_trusted);

/* Sends the LENGTH bytes of TEXT and the end of the line. */
void control_send(struct control_client *client, const char *text, size_t length);
/* The same, for what it has not asked for just now. */
void control_send_event(struct control_client *client, const char *text, size_t length);

/* Keeps the next lines of CLIENT back until it is released; they are handled then, before the call
 * returns. */
void control_hold(struct control_client *client);
void control_release(struct control_client *client);

/* Ends the connection of CLIENT, with what lies there for it. */
void control_hang_up(struct control_client *client);

/* The clients, one after the other; they stay valid for the pass. */
struct control_client *control_clients(const struct control *control);
