/* The broker's control socket, from the side of vhotplugctl. One request at a time. */
#pragma once

#include "helper/ctl.h"

struct ctl_connection;

/* Connects to the socket at PATH. Returns 0, or an exit status after having said why. */
int ctl_connect(const char *path, struct ctl_connection **ret_connection) _must_check_;
void ctl_disconnect(struct ctl_connection *connection);
static inline void ctl_disconnectp(struct ctl_connection **connection)
{
	ctl_disconnect(*connection);
}

/* Asks REQUEST (taken over) and waits for the answer; on a terminal it says for how long. Returns 0
 * and a new reference when the broker says ok. Otherwise an exit status, after having said why. */
int ctl_ask(struct ctl_connection *connection, json_t *request, json_t **ret_answer) _must_check_;

/* The next event, waited for as long as it takes: a new reference, or NULL when the broker has gone
 * or a signal has come. */
json_t *ctl_next_event(struct ctl_connection *connection);
