/* Where the state is kept when its own place can't be used: a file system that is full, read-only
 * or broken must not keep devices from their VMs. The refuge is a database in the directory of run
 * time; the next start that finds the state's own place well again brings back what is in it. */
#pragma once

#include <sqlite3.h>

#include "helper/macro.h"

/* Opens the database at HOME, and brings back what is in the file REFUGE (NULL: there is none); or,
 * where HOME can't be used, the one at REFUGE, which takes along devices and people's choices, as
 * far as they can be read. A damaged file is set aside and begun anew. Returns 0, and *RET_IS_AWAY
 * for the refuge; or -errno. Everything is logged. */
int refuge_open(const char *home, const char *refuge, sqlite3 **ret_db,
		bool *ret_is_away) _must_check_;
/* Opens REFUGE for what can't be written to HOME. Returns 0 or -errno. */
int refuge_begin(const char *home, const char *refuge, sqlite3 **ret_db) _must_check_;
