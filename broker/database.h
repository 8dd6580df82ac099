/* The store's file: what SQLite's errors mean, its schema, and whether it is whole. */
#pragma once

#include <sqlite3.h>
#include <stdint.h>

#include "helper/macro.h"

/* -EAGAIN for a locked file, -ENOSPC, -ENOMEM, -EUCLEAN for a damaged one, -EROFS, -EACCES, else
 * -EIO. */
int database_error(int sqlite_error);

/* Runs statements without parameters. Returns 0 or -errno. */
int database_execute(sqlite3 *db, const char *sql);
/* Ends the transaction that is open, if SQLite has not done that: what it said last would be that
 * there is none. */
void database_roll_back(sqlite3 *db);
/* Why something failed with R: what SQLite said last of DB (NULL: it is not open), or errno's words
 * where it has done something else since. */
void database_explain(sqlite3 *db, int r, char *reason, size_t size);
/* Asks for one number. Returns 0 or -errno. */
int database_query(sqlite3 *db, const char *sql, int64_t *ret_value) _must_check_;

/* Gives the parameter that STATEMENT calls NAME (":vm") its value; TEXT must stay until it has run.
 */
void database_bind_text(sqlite3_stmt *statement, const char *name, const char *text);
void database_bind_number(sqlite3_stmt *statement, const char *name, uint64_t number);

/* Opens (creates) the database at PATH: in WAL mode, up to date, whole, and writable. Returns 0; or
 * -errno (those of database_set_up and database_check, -EACCES and -EROFS among them) with the
 * REASON in words. */
int database_open(const char *path, sqlite3 **ret_db, char *reason, size_t size) _must_check_;

/* Makes the tables in a new file, or brings those of an older vhotplug up to date. Returns 0;
 * -EPROTO for the file (at PATH, for the log) of a newer vhotplug; another -errno. */
int database_set_up(sqlite3 *db, const char *path) _must_check_;
/* Damage behind the first page would otherwise show when the first event comes, and every event
 * would be refused. Takes some 80 ms for a full history. Returns 0, -EUCLEAN or another -errno. */
int database_check(sqlite3 *db) _must_check_;
/* A damaged file must not keep devices from their VMs: puts it aside as PATH.damaged. Returns 0 or
 * -errno. */
int database_set_aside(const char *path) _must_check_;
