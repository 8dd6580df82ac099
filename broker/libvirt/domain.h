/* One domain of libvirt: the connection, what the domain is doing, and its devices.
 *
 * libvirt's calls block, which is why all of this is a process of its own; its events come by
 * libvirt's event loop (virEventRunDefaultImpl), which must have been registered before. What
 * libvirt says in an error is passed on as libvirt's.
 *
 * Source: libvirt API reference, libvirt-domain and virterror.
 */
#pragma once

#include <libvirt/libvirt.h>

#include "helper/macro.h"

enum domain_condition {
	DOMAIN_RUNNING,
	DOMAIN_OFF,         /* defined, and not running */
	DOMAIN_ABSENT,      /* libvirt knows none of that name or UUID */
	DOMAIN_UNREACHABLE, /* libvirt does not answer */
};

enum domain_outcome {
	DOMAIN_OK,      /* attach: it has it */
	DOMAIN_GONE,    /* detach: it has no such device */
	DOMAIN_PENDING, /* detach: under way; handler.device tells */
	DOMAIN_RETRY,   /* may heal by itself */
	DOMAIN_UNKNOWN, /* attach: it may have it, and can't be asked */
	DOMAIN_FAILED,  /* will not heal by waiting */
};

struct domain_handler {
	/* It has started or ended, come or gone; or libvirt has. */
	void (*changed)(void *data);
	/* The guest has let go of ALIAS (IS_REMOVED), or refuses to. */
	void (*device)(void *data, const char *alias, bool is_removed);
};

struct domain {
	const char *uri, *name; /* name or UUID */
	const struct domain_handler *handler;
	void *data;
	virConnectPtr connection; /* NULL while libvirt can't be reached */
	bool is_settled;          /* nothing that a former connection asked for is under way */
	int callbacks[4];
	int retry; /* libvirt's timer, while there is no connection */
};

struct domain_view {
	enum domain_condition condition;
	int run;          /* libvirt's id of this start; -1 when it is not running */
	char detail[256]; /* why it is not running */
	char **aliases;   /* of ours, in the running domain */
	size_t n_aliases;
};

/* Sets up DOMAIN; URI, NAME, HANDLER stay the caller's. Nothing is connected yet. */
void domain_init(struct domain *domain, const char *uri, const char *name,
		 const struct domain_handler *handler, void *data);
void domain_finish(struct domain *domain);

/* Looks what it is doing and what it has of ours; connects first if need be. The first look of a
 * connection waits for what libvirt is doing for the domain, 30 s at most. When libvirt can't be
 * reached, or is not done by then, it is tried again by itself, and handler.changed tells.
 * domain_view_finish frees what is in the view. */
void domain_look(struct domain *domain, struct domain_view *ret_view);
void domain_view_finish(struct domain_view *view);
const char *domain_condition_name(enum domain_condition condition);
const char *domain_outcome_name(enum domain_outcome outcome);

/* Hands the device of XML, which has this ALIAS, to the running domain, and to nothing else: its
 * definition stays as it is. DETAIL gets libvirt's words when it does not work. */
enum domain_outcome domain_attach(struct domain *domain, const char *alias, const char *xml,
				  char *detail, size_t size);
/* Takes the device of that alias out of the running domain; never DOMAIN_OK. */
enum domain_outcome domain_detach(struct domain *domain, const char *alias, char *detail,
				  size_t size);
