/* The columns of the table device: see row.h. Called by the store. */
#include "broker/row.h"

enum column_kind {
	COLUMN_TEXT,
	COLUMN_INT64,
	COLUMN_UNSIGNED,
	COLUMN_KIND,  /* enum device_kind, by name */
	COLUMN_STATE, /* enum device_state, by name */
};

struct column {
	const char *name;
	enum column_kind kind;
	size_t offset, size; /* of the member of struct row */
};

#define COLUMN(name, kind, member)                                                           \
	{                                                                                    \
		name, kind, offsetof(struct row, member), sizeof(((struct row *) 0)->member) \
	}

/* Besides these it has boot_id. */
static const struct column columns[] = {
	COLUMN("id", COLUMN_INT64, record.row),
	COLUMN("devpath", COLUMN_TEXT, id.devpath),
	COLUMN("inode", COLUMN_INT64, id.inode),
	COLUMN("kind", COLUMN_KIND, id.kind),
	COLUMN("device", COLUMN_TEXT, id.kernel_name),
	COLUMN("node", COLUMN_TEXT, id.node),
	COLUMN("name", COLUMN_TEXT, id.name),
	COLUMN("vid_pid", COLUMN_TEXT, id.vid_pid),
	COLUMN("rule", COLUMN_TEXT, wish.rule),
	COLUMN("vms", COLUMN_TEXT, wish.vms),
	COLUMN("config", COLUMN_TEXT, wish.config),
	COLUMN("seqnum", COLUMN_INT64, wish.seqnum),
	COLUMN("state", COLUMN_STATE, record.state),
	COLUMN("reason", COLUMN_TEXT, record.reason),
	COLUMN("vm", COLUMN_TEXT, record.vm),
	COLUMN("handle", COLUMN_TEXT, record.handle),
	COLUMN("since", COLUMN_INT64, record.since),
	COLUMN("options", COLUMN_UNSIGNED, wish.options),
	COLUMN("rank", COLUMN_UNSIGNED, wish.order),
	COLUMN("family", COLUMN_TEXT, wish.family),
	COLUMN("family_vm", COLUMN_TEXT, wish.family_vm),
	COLUMN("leader", COLUMN_TEXT, wish.leader),
	COLUMN("away", COLUMN_UNSIGNED, wish.away),
	COLUMN("chosen", COLUMN_TEXT, wish.chosen),
};

void row_list_columns(char ret[ROW_SQL_SIZE], bool marks)
{
	size_t at = 0;

	*ret = 0;
	for (size_t i = 0; i < ARRAY_SIZE(columns) && at < ROW_SQL_SIZE; i++)
		at += (size_t) snprintf(ret + at, ROW_SQL_SIZE - at, "%s%s", i > 0 ? "," : "",
					marks ? "?" : columns[i].name);
}

void row_bind(sqlite3_stmt *statement, int first, const struct row *row)
{
	for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
		const struct column *column = &columns[i];
		const void *from = (const char *) row + column->offset;
		int at = first + (int) i;

		switch (column->kind) {
		case COLUMN_TEXT:
			sqlite3_bind_text(statement, at, from, -1, SQLITE_STATIC);
			break;
		case COLUMN_INT64:
			sqlite3_bind_int64(statement, at, *(const int64_t *) from);
			break;
		case COLUMN_UNSIGNED:
			sqlite3_bind_int64(statement, at, *(const unsigned *) from);
			break;
		case COLUMN_KIND:
			sqlite3_bind_text(statement, at,
					  device_kind_name(*(const enum device_kind *) from), -1,
					  SQLITE_STATIC);
			break;
		case COLUMN_STATE:
			sqlite3_bind_text(statement, at,
					  device_state_name(*(const enum device_state *) from), -1,
					  SQLITE_STATIC);
			break;
		}
	}
}

void row_read(sqlite3_stmt *statement, struct row *ret_row)
{
	for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
		const struct column *column = &columns[i];
		void *to = (char *) ret_row + column->offset;
		const char *text = (const char *) sqlite3_column_text(statement, (int) i);
		int value;

		switch (column->kind) {
		case COLUMN_TEXT:
			snprintf(to, column->size, "%s", text);
			break;
		case COLUMN_INT64:
			*(int64_t *) to = sqlite3_column_int64(statement, (int) i);
			break;
		case COLUMN_UNSIGNED:
			*(unsigned *) to = (unsigned) sqlite3_column_int64(statement, (int) i);
			break;
		case COLUMN_KIND:
			value = device_kind_from_name(text);
			*(enum device_kind *) to =
				value < 0 ? DEVICE_USB : (enum device_kind) value;
			break;
		case COLUMN_STATE:
			value = device_state_from_name(text);
			*(enum device_state *) to =
				value < 0 ? DEVICE_WAITING : (enum device_state) value;
			break;
		}
	}
}
