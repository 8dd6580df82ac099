/* The commands of vhotplugctl that only look: list, status, history, watch. Each returns the exit
 * status. */
#pragma once

#include "helper/ctl.h"

int ctl_list(const struct ctl_options *options);
int ctl_status(const struct ctl_options *options);
int ctl_history(const struct ctl_options *options);
int ctl_watch(const struct ctl_options *options);

/* For other commands: the text under KEY, "" when there is none; all that the broker lists, with
 * ALL also what no rule claims. */
const char *json_text(const json_t *object, const char *key);
int ctl_get_devices(const struct ctl_options *options, bool all, json_t **ret_devices) _must_check_;
/* The value under KEY of the answer to REQUEST, which is taken over. Returns 0 or an exit status.
 */
int ctl_ask_for(const struct ctl_options *options, json_t *request, const char *key,
		json_t **ret_value) _must_check_;
/* Prints rows of the history. */
void ctl_print_history(const struct ctl_options *options, const json_t *rows);
/* Prints VALUE for programs. */
void ctl_print_json(const json_t *value);
