/* SQLite's file and its schema: see database.h. Called by the store. */
#include "broker/database.h"

#include <sys/stat.h>

#include <limits.h>

#include "broker/log.h"
#include "broker/schema.h"
#include "helper/macro.h"
#include "helper/text.h"

#define SCHEMA_VERSION 2

/* From the schema that had no choices of people. */
static const char migrate_1_sql[] = "alter table device add column away integer not null default 0;"
				    "alter table device add column chosen text not null default '';"
				    "create table choice (whom text primary key, vm text not null,"
				    " detached integer not null, time integer not null) strict;";

int database_error(int sqlite_error)
{
	switch (sqlite_error & 0xff) {
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return -EAGAIN;
	case SQLITE_FULL:
		return -ENOSPC;
	case SQLITE_NOMEM:
		return -ENOMEM;
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return -EUCLEAN;
	case SQLITE_READONLY:
		return -EROFS;
	case SQLITE_CANTOPEN:
	case SQLITE_PERM:
		return -EACCES;
	default:
		return -EIO;
	}
}

int database_execute(sqlite3 *db, const char *sql)
{
	int r = sqlite3_exec(db, sql, NULL, NULL, NULL);

	return r == SQLITE_OK ? 0 : database_error(r);
}

void database_roll_back(sqlite3 *db)
{
	if (!sqlite3_get_autocommit(db))
		database_execute(db, "rollback");
}

void database_explain(sqlite3 *db, int r, char *reason, size_t size)
{
	snprintf(reason, size, "%s",
		 db && sqlite3_errcode(db) != SQLITE_OK ? sqlite3_errmsg(db) : strerror(-r));
}

int database_query(sqlite3 *db, const char *sql, int64_t *ret)
{
	sqlite3_stmt *statement = NULL;
	int r = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);

	if (r == SQLITE_OK)
		r = sqlite3_step(statement);
	if (r == SQLITE_ROW)
		*ret = sqlite3_column_int64(statement, 0);
	sqlite3_finalize(statement);
	return r == SQLITE_ROW ? 0 : database_error(r);
}

static int find_parameter(sqlite3_stmt *statement, const char *name)
{
	int i = sqlite3_bind_parameter_index(statement, name);

	if (i == 0)
		abort(); /* a slip of ours: the statement has no such parameter */
	return i;
}

void database_bind_text(sqlite3_stmt *statement, const char *name, const char *text)
{
	sqlite3_bind_text(statement, find_parameter(statement, name), text, -1, SQLITE_STATIC);
}

void database_bind_number(sqlite3_stmt *statement, const char *name, uint64_t number)
{
	sqlite3_bind_int64(statement, find_parameter(statement, name), (sqlite3_int64) number);
}

int database_set_up(sqlite3 *db, const char *path)
{
	int64_t version;
	int r = database_query(db, "pragma user_version", &version);

	if (r < 0)
		return r;
	if (version > SCHEMA_VERSION) {
		log_error("%s was written by a newer vhotplug (schema %lld, this one knows %d): "
			  "install that one again, or move the file away",
			  path, (long long) version, SCHEMA_VERSION);
		return -EPROTO;
	}
	/* This writes to the file: whether that can be done shows now. */
	if (version == SCHEMA_VERSION)
		return database_execute(db, "pragma user_version = 2");
	if ((r = database_execute(db, "begin immediate")) < 0)
		return r;
	if ((r = database_execute(db, version == 0 ? schema_sql : migrate_1_sql)) < 0 ||
	    (r = database_execute(db, "pragma user_version = 2")) < 0 ||
	    (r = database_execute(db, "commit")) < 0)
		database_roll_back(db);
	return r;
}

int database_check(sqlite3 *db)
{
	sqlite3_stmt *statement = NULL;
	int r = sqlite3_prepare_v2(db, "pragma quick_check(1)", -1, &statement, NULL);
	bool good = false;

	if (r == SQLITE_OK)
		r = sqlite3_step(statement);
	if (r == SQLITE_ROW)
		good = streq((const char *) sqlite3_column_text(statement, 0), "ok");
	sqlite3_finalize(statement);
	if (r != SQLITE_ROW)
		return database_error(r);
	return good ? 0 : -EUCLEAN;
}

int database_set_aside(const char *path)
{
	static const char *const suffixes[] = {"", "-wal", "-shm"};

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		char from[PATH_MAX], to[PATH_MAX];

		if (text_path(from, sizeof(from), "%s%s", path, suffixes[i]) < 0 ||
		    text_path(to, sizeof(to), "%s.damaged%s", path, suffixes[i]) < 0)
			return -ENAMETOOLONG;
		if (rename(from, to) < 0 && errno != ENOENT)
			return -errno;
	}
	log_error("%s is damaged: it is now %s.damaged, and a new one is begun", path, path);
	return 0;
}

static int open_file(const char *path, sqlite3 **ret_db)
{
	int keep_wal = 1;
	int r = sqlite3_open_v2(path, ret_db,
				SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI, NULL);

	if (r != SQLITE_OK)
		return database_error(r);
	/* Readers without write permission need the -wal and -shm files while we are stopped. */
	sqlite3_file_control(*ret_db, NULL, SQLITE_FCNTL_PERSIST_WAL, &keep_wal);
	sqlite3_busy_timeout(*ret_db, 10000); /* only until the loop runs */
	sqlite3_extended_result_codes(*ret_db, 1);
	return database_execute(*ret_db, "pragma journal_mode = wal; pragma synchronous = full;"
					 "pragma wal_autocheckpoint = 0; pragma cache_size = -64;"
					 "pragma journal_size_limit = 1048576");
}

/* Locks between threads, and a count of all memory, are a tenth of what an event costs; pages in
 * advance for each file are a tenth of the memory. An event needs a dozen pages at a time: those
 * that many devices need together are in the kernel's memory anyway. */
static void be_modest(void)
{
	sqlite3_config(SQLITE_CONFIG_SINGLETHREAD);
	sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
	sqlite3_config(SQLITE_CONFIG_PAGECACHE, NULL, 0, 0);
}

int database_open(const char *path, sqlite3 **ret_db, char *reason, size_t size)
{
	sqlite3 *db = NULL;
	mode_t old_umask = umask(0077); /* root's alone, wherever it is: see home.h */

	be_modest();
	int r = open_file(path, &db);
	umask(old_umask);
	if (r == 0 && (r = database_set_up(db, path)) == 0)
		r = database_check(db);
	if (r == 0) {
		*ret_db = db;
		return 0;
	}
	database_explain(db, r, reason, size);
	sqlite3_close(db);
	return r;
}
