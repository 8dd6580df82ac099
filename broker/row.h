/* A row of the table device: which columns there are, and where in the broker their values live.
 * One table for writing and reading; boot_id is the store's own.
 */
#pragma once

#include <sqlite3.h>

#include "broker/device.h"

/* What is on disk of a device, and nothing else. */
struct row {
	struct device_identity id;
	struct device_wish wish;
	struct device_record record;
};

/* *RET_ROW gets what DEVICE is now. */
void row_copy(struct row *ret_row, const struct device *device);
/* Lets go of the texts of ROW, which may be zero. */
void row_finish(struct row *row);

#define ROW_SQL_SIZE 1000 /* has room for any list */

enum row_list {
	ROW_NAMES,   /* "NAME,NAME,…": the columns */
	ROW_MARKS,   /* a question mark for each */
	ROW_UPDATES, /* "NAME=excluded.NAME,…": those that may change as long as the row is there */
};

void row_list_columns(char ret_list[ROW_SQL_SIZE], enum row_list which);
/* Binds the columns of ROW, from parameter FIRST on; ROW must stay until STATEMENT has run. */
void row_bind(sqlite3_stmt *statement, int first, const struct row *row);
/* Reads them, in the same order from the first column of the result on, into a row of zeros. */
void row_read(sqlite3_stmt *statement, struct row *row);
