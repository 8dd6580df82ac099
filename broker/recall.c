/* Reads what a former broker has left: see recall.h. Called by the store. */
#include "broker/recall.h"

#include "broker/database.h"
#include "broker/row.h"

static struct device *read_device(sqlite3_stmt *statement)
{
	struct device *d = calloc(1, sizeof(*d));
	struct row row = {0};

	if (!d)
		return NULL;
	/* What the row holds is the device's now. */
	row_read(statement, &row);
	d->id = row.id;
	d->wish = row.wish;
	d->record = row.record;
	record_copy(&d->saved, &d->record);
	device_init(d);
	d->told = d->record.state;
	return d;
}

int recall_close_boots(sqlite3 *db, const char *boot_id)
{
	static const char sql[] =
		"begin immediate;"
		"insert into action (time, device, name, vid_pid, vm, action, cause, rule, result,"
		" milliseconds, detail) select unixepoch() * 1000, device, name, vid_pid, vm, "
		"'detach',"
		" 'reboot', rule, 'ok', 0, '' from device where handle <> '' and boot_id <> '%s';"
		"delete from device where boot_id <> '%s';"
		"commit";
	char text[800];

	snprintf(text, sizeof(text), sql, boot_id, boot_id);
	return database_execute(db, text);
}

/* Takes what FN says, or else how the last step of a statement ended, in errno's words. */
static int end_of_reading(int r, int step)
{
	if (r < 0 || step == SQLITE_DONE)
		return r;
	return database_error(step);
}

int recall_devices(sqlite3 *db, store_device_fn fn, void *data)
{
	sqlite3_stmt *statement = NULL;
	char names[ROW_SQL_SIZE], sql[ROW_SQL_SIZE + 100];
	int r = 0;

	row_list_columns(names, ROW_NAMES);
	snprintf(sql, sizeof(sql), "select %s from device order by id", names);
	int step = sqlite3_prepare_v2(db, sql, -1, &statement, NULL);
	if (step != SQLITE_OK)
		return database_error(step);
	while (r == 0 && (step = sqlite3_step(statement)) == SQLITE_ROW) {
		struct device *device = read_device(statement);

		r = device ? fn(data, device) : -ENOMEM;
	}
	sqlite3_finalize(statement);
	return end_of_reading(r, step);
}

int recall_choices(sqlite3 *db, store_choice_fn fn, void *data)
{
	sqlite3_stmt *statement = NULL;
	int step = sqlite3_prepare_v2(db, "select whom, vm, detached from choice", -1, &statement,
				      NULL);

	if (step != SQLITE_OK)
		return database_error(step);
	while ((step = sqlite3_step(statement)) == SQLITE_ROW) {
		struct choice choice = {.is_detached = sqlite3_column_int(statement, 2)};

		snprintf(choice.whom, sizeof(choice.whom), "%s",
			 (const char *) sqlite3_column_text(statement, 0));
		snprintf(choice.vm, sizeof(choice.vm), "%s",
			 (const char *) sqlite3_column_text(statement, 1));
		fn(data, &choice);
	}
	sqlite3_finalize(statement);
	return end_of_reading(0, step);
}
