/* The state's other place: see refuge.h. Used by the store. */
#include "broker/refuge.h"

#include "broker/database.h"
#include "broker/log.h"

/* Opens the database at PATH; one that is damaged is set aside, and a new one begun. */
static int open_or_begin_anew(const char *path, sqlite3 **ret_db, char *reason, size_t size)
{
	int r = database_open(path, ret_db, reason, size);

	if (r == -EUCLEAN && database_set_aside(path) == 0)
		r = database_open(path, ret_db, reason, size);
	return r;
}

static int attach_database(sqlite3 *db, const char *path, const char *how)
{
	char *sql = sqlite3_mprintf("attach 'file:%q%s' as other", path, how);
	int r = sql ? database_execute(db, sql) : -ENOMEM;

	sqlite3_free(sql);
	return r;
}

static void detach_database(sqlite3 *db)
{
	database_roll_back(db);
	database_execute(db, "detach other");
}

/* Devices and choices of the database at HOME, into the new one DB, which has a table more then: it
 * says that what is missing in DB has been forgotten there. Without the files beside it, and
 * without the right to make them, it can be read only as a file that nobody changes. */
static int take_along(sqlite3 *db, const char *home)
{
	static const char *const ways[] = {"?mode=ro", "?immutable=1"};
	int r = -EIO;

	for (size_t i = 0; r < 0 && i < ARRAY_SIZE(ways); i++) {
		r = attach_database(db, home, ways[i]);
		if (r < 0)
			continue;
		r = database_execute(db, "begin; insert into device select * from other.device;"
					 "insert into choice select * from other.choice;"
					 "create table taken_along (time); commit");
		detach_database(db);
	}
	return r;
}

int refuge_begin(const char *home, const char *refuge, sqlite3 **ret_db)
{
	bool is_new = access(refuge, F_OK) < 0;
	char reason[200];
	int r = open_or_begin_anew(refuge, ret_db, reason, sizeof(reason));

	if (r < 0)
		log_error("nor the one at %s: %s", refuge, reason);
	else if (is_new && take_along(*ret_db, home) < 0)
		log_error("what people have chosen until now can't be read from %s", home);
	return r;
}

/* Its history behind that of DB, and its devices and choices in the place of those. */
static int bring_back(sqlite3 *db, const char *refuge)
{
	static const char columns[] =
		"time, device, name, vid_pid, vm, action, cause, rule, result,"
		" milliseconds, detail";
	char sql[700];
	int r = attach_database(db, refuge, "");

	if (r < 0)
		return r;
	snprintf(sql, sizeof(sql),
		 "begin immediate;"
		 "insert into action (%s) select %s from other.action order by id;"
		 "delete from device; insert into device select * from other.device;"
		 "delete from choice where exists"
		 " (select 1 from other.sqlite_master where name = 'taken_along');"
		 "insert or replace into choice select * from other.choice; commit",
		 columns, columns);
	r = database_execute(db, sql);
	detach_database(db);
	return r;
}

static void remove_refuge(const char *refuge)
{
	static const char *const suffixes[] = {"", "-wal", "-shm"};
	char path[600];

	for (size_t i = 0; i < ARRAY_SIZE(suffixes); i++) {
		snprintf(path, sizeof(path), "%s%s", refuge, suffixes[i]);
		unlink(path);
	}
}

static int open_home(const char *home, const char *refuge, sqlite3 **ret_db, char *reason,
		     size_t size)
{
	sqlite3 *db = NULL;
	int r = open_or_begin_anew(home, &db, reason, size);

	if (r < 0)
		return r;
	if (refuge && access(refuge, F_OK) == 0) {
		r = bring_back(db, refuge);
		if (r == 0) {
			remove_refuge(refuge);
			log_info("the state is in %s again, with what was kept in %s", home,
				 refuge);
		} else if (r == -EUCLEAN) {
			log_error("%s is damaged: what was kept in it is lost", refuge);
			r = database_set_aside(refuge);
		}
	}
	if (r < 0) {
		database_explain(db, r, reason, size);
		sqlite3_close(db);
		return r;
	}
	*ret_db = db;
	return 0;
}

int refuge_open(const char *home, const char *refuge, sqlite3 **ret_db, bool *ret_is_away)
{
	char reason[200];
	int r = open_home(home, refuge, ret_db, reason, sizeof(reason));

	*ret_is_away = false;
	if (r == 0 || r == -EPROTO)
		return r;
	/* A lock, or a lack of memory, says nothing about the place. */
	if (!refuge || r == -EAGAIN || r == -ENOMEM) {
		log_error("can't use the database %s: %s", home, reason);
		return r;
	}
	log_error("can't use the database %s: %s; until the next start the state is kept in %s",
		  home, reason, refuge);
	*ret_is_away = true;
	return refuge_begin(home, refuge, ret_db);
}
