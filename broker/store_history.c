/* Reads the history for the control sockets: see store_history.h. A reader of its own writer's
 * connection: nothing waits for a lock. */
#include "broker/store_history.h"

#include <sqlite3.h>

#include "broker/control_view.h"
#include "broker/database.h"

/* Every condition holds when what it is about was not given. */
#define WHERE                                                           \
	" where id > ?1 and time >= ?2 and (?3 is null or device = ?3)" \
	" and (?4 is null or vm = ?4)"

static const char columns[] =
	"id, device, name, vid_pid, vm, action, cause, rule, result, milliseconds, detail, time";

static json_t *view_row(sqlite3_stmt *statement)
{
	static const char *const names[] = {"device", "name",  "vid_pid", "vm",
					    "action", "cause", "rule",    "result"};
	json_t *row = json_object();

	json_object_set_new(row, "id", json_integer(sqlite3_column_int64(statement, 0)));
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		json_object_set_new(
			row, names[i],
			json_string((const char *) sqlite3_column_text(statement, (int) i + 1)));
	json_object_set_new(row, "milliseconds", json_integer(sqlite3_column_int64(statement, 9)));
	json_object_set_new(row, "detail",
			    json_string((const char *) sqlite3_column_text(statement, 10)));
	json_object_set_new(row, "time", view_time((uint64_t) sqlite3_column_int64(statement, 11)));
	return row;
}

static void bind_query(sqlite3_stmt *statement, const struct history_query *query)
{
	sqlite3_bind_int64(statement, 1, query->after);
	sqlite3_bind_int64(statement, 2, query->since);
	if (query->device)
		sqlite3_bind_text(statement, 3, query->device, -1, SQLITE_STATIC);
	if (query->vm)
		sqlite3_bind_text(statement, 4, query->vm, -1, SQLITE_STATIC);
	sqlite3_bind_int64(statement, 5, query->limit);
}

int store_query_history(struct store *store, const struct history_query *query, json_t **ret_rows)
{
	sqlite3_stmt *statement = NULL;
	char sql[512];
	json_t *rows;

	if (query->after > 0)
		snprintf(sql, sizeof(sql), "select %s from action" WHERE " order by id limit ?5",
			 columns);
	else
		snprintf(sql, sizeof(sql),
			 "select * from (select %s from action" WHERE
			 " order by id desc limit ?5) order by id",
			 columns);
	int r = sqlite3_prepare_v2(store_database(store), sql, -1, &statement, NULL);
	if (r != SQLITE_OK)
		return -EIO;
	bind_query(statement, query);
	rows = json_array();
	while ((r = sqlite3_step(statement)) == SQLITE_ROW)
		json_array_append_new(rows, view_row(statement));
	sqlite3_finalize(statement);
	if (database_error(r) == -EUCLEAN)
		store_distrust(store);
	*ret_rows = rows;
	return 0;
}
