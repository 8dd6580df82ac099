/* The history, for those who ask over a socket: rows as the view has them, in JSON. */
#pragma once

#include <jansson.h>

#include "broker/store.h"

/* The newest LIMIT rows (or, after a row's ID, the next LIMIT ones), the oldest first, that fit: of
 * DEVICE and VM unless NULL, and not before SINCE, ms since 1970. Returns 0 and a new array; or
 * -errno. */
struct history_query {
	int64_t after; /* 0: not given */
	int64_t since;
	int64_t limit;
	const char *device, *vm;
};
int store_query_history(struct store *store, const struct history_query *query,
			json_t **ret_rows) _must_check_;
