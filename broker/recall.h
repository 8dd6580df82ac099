/* What a former broker has left in the database: read once, at the start, by the store.
 *
 * Each returns 0; -ENOMEM, or what FN returned; or why the database could not be read, or not to
 * its end (database_error): what FN has been called with by then is true all the same.
 */
#pragma once

#include <sqlite3.h>

#include "broker/store.h"

/* A reboot closes what was open: the VMs of that boot are gone, and with them the devices. */
int recall_close_boots(sqlite3 *db, const char *boot_id) _must_check_;
/* See store_load. */
int recall_devices(sqlite3 *db, store_device_fn fn, void *data) _must_check_;
/* See store_load_choices. */
int recall_choices(sqlite3 *db, store_choice_fn fn, void *data) _must_check_;
