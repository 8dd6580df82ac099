/* The broker's side of the control sockets: struct control_verbs over the registry and the store,
 * and the sockets themselves as the config wants them. */
#pragma once

#include "broker/api.h"
#include "broker/manager.h"

struct control_broker;

/* Listens on RUN_DIRECTORY/control.sock, and where the config says. MANAGER is borrowed. A socket
 * that can't be made is logged; devices are moved all the same. READERS is the group that may read
 * the history there, as in the copy of the database, or (gid_t) -1: everybody. Returns 0 or
 * -errno. */
int control_broker_new(struct manager *manager, const char *run_directory, const char *config_path,
		       gid_t readers, struct control_broker **ret_broker) _must_check_;
/* NULL is fine. */
void control_broker_free(struct control_broker *broker);
/* The config may be another one, and READERS too. NULL is fine. */
void control_broker_reload(struct control_broker *broker, gid_t readers);
/* Whether somebody is connected. NULL is fine. */
bool control_broker_is_used(const struct control_broker *broker);
/* At the end of a pass, after reconcile_pass. Returns whether that is to be called again. NULL is
 * fine. */
bool control_broker_pass(struct control_broker *broker);
