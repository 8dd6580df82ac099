/* Where events come in: the socket that helpers connect to, and the spool they leave messages in
 * when nobody answers.
 *
 * All events of one pass of the loop are committed in one transaction, with what they have changed
 * (store_flush); the helper is acknowledged by whoever has acted (intake_acknowledge), and hears it
 * when that is on disk. What can't be committed is acted upon all the same, and its helper is told
 * that it was not kept: it goes to the spool, and from there to the database when that can be
 * written again, and is not acted upon a second time: another config may have come meanwhile. What
 * a broker that is killed has acted upon before the commit is done once more by the next one, which
 * looks at udev's database before it moves anything.
 */
#pragma once

#include "broker/loop.h"
#include "helper/macro.h"
#include "helper/wire.h"

struct event;
struct intake;
struct intake_client;
struct store;

struct intake_handler {
	/* A new event, which will be on disk at the end of the pass, or is in the spool. CLIENT
	 * (NULL for one from the spool) must be given to intake_acknowledge at some time. */
	void (*event)(void *data, const struct event *event, const struct wire_msg *msg,
		      struct intake_client *client);
	/* The rules have changed. */
	void (*reconcile)(void *data);
};

/* Listens on LISTEN_FD (taken over), or if that is -1 on RUN_DIRECTORY/event.sock, which it makes.
 * Returns 0 or -errno; the reason is logged. */
int intake_new(struct loop *loop, const char *run_directory, int listen_fd, struct store *store,
	       const struct intake_handler *handler, void *data,
	       struct intake **ret_intake) _must_check_;
/* Hangs up on whoever is left: acknowledge before, not after. NULL is fine. */
void intake_free(struct intake *intake);

/* Handles what lies in the spool now; later arrivals are noticed. */
void intake_drain_spool(struct intake *intake);

/* Adds to the store what has come in, and hands it out; called at the end of every pass. */
void intake_flush(struct intake *intake);
/* What intake_flush has added is on disk (KEPT), or is not: called behind store_flush. */
void intake_settle(struct intake *intake, bool kept);

/* Tells the helper that its event is acted upon, and whether it is on disk, as soon as that is
 * known, and lets it go. NULL is fine. */
void intake_acknowledge(struct intake_client *client);
/* Chains clients that wait for the same thing: puts CLIENT before LIST, returns the new list. */
struct intake_client *intake_chain(struct intake_client *client, struct intake_client *list);
/* Acknowledges a whole chain; returns NULL. */
struct intake_client *intake_acknowledge_all(struct intake_client *list);
