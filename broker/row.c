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
	size_t offset; /* of the member of struct row */
	size_t size;   /* of a text at most */
};

#define COLUMN(name, kind, member)                          \
	{                                                   \
		name, kind, offsetof(struct row, member), 0 \
	}
#define TEXT(name, size, member)                                      \
	{                                                             \
		name, COLUMN_TEXT, offsetof(struct row, member), size \
	}

#define FIXED_COLUMNS 3 /* what the row is about; there is an index of them */

/* Besides these it has boot_id. */
static const struct column columns[] = {
	COLUMN("id", COLUMN_INT64, record.row),
	TEXT("devpath", DEVICE_PATH_SIZE, id.devpath),
	COLUMN("inode", COLUMN_INT64, id.inode),
	COLUMN("kind", COLUMN_KIND, id.kind),
	TEXT("device", DEVICE_WORD_SIZE, id.kernel_name),
	TEXT("node", DEVICE_WORD_SIZE, id.node),
	TEXT("name", DEVICE_NAME_SIZE, id.name),
	TEXT("vid_pid", DEVICE_WORD_SIZE, id.vid_pid),
	TEXT("rule", DEVICE_LIST_SIZE, wish.rule),
	TEXT("vms", DEVICE_LIST_SIZE, wish.vms),
	TEXT("config", DEVICE_CONFIG_SIZE, wish.config),
	COLUMN("seqnum", COLUMN_INT64, wish.seqnum),
	COLUMN("state", COLUMN_STATE, record.state),
	TEXT("reason", VMM_DETAIL_SIZE, record.reason),
	TEXT("vm", DEVICE_WORD_SIZE, record.vm),
	TEXT("handle", DEVICE_HANDLE_SIZE, record.handle),
	COLUMN("since", COLUMN_INT64, record.since),
	COLUMN("options", COLUMN_UNSIGNED, wish.options),
	COLUMN("rank", COLUMN_UNSIGNED, wish.order),
	TEXT("family", DEVICE_WORD_SIZE, wish.family),
	TEXT("family_vm", DEVICE_WORD_SIZE, wish.family_vm),
	TEXT("leader", DEVICE_PATH_SIZE, wish.leader),
	COLUMN("away", COLUMN_UNSIGNED, wish.away),
	TEXT("chosen", DEVICE_WORD_SIZE, wish.chosen),
};

void row_copy(struct row *ret_row, const struct device *device)
{
	identity_copy(&ret_row->id, &device->id);
	wish_copy(&ret_row->wish, &device->wish);
	record_copy(&ret_row->record, &device->record);
}

void row_finish(struct row *row)
{
	identity_drop(&row->id);
	wish_drop(&row->wish);
	record_drop(&row->record);
}

void row_list_columns(char ret[ROW_SQL_SIZE], enum row_list which)
{
	size_t at = 0;

	*ret = 0;
	for (size_t i = which == ROW_UPDATES ? FIXED_COLUMNS : 0;
	     i < ARRAY_SIZE(columns) && at < ROW_SQL_SIZE; i++) {
		const char *name = columns[i].name;

		at += (size_t) snprintf(ret + at, ROW_SQL_SIZE - at, "%s%s%s%s", at > 0 ? "," : "",
					which == ROW_MARKS ? "?" : name,
					which == ROW_UPDATES ? "=excluded." : "",
					which == ROW_UPDATES ? name : "");
	}
}

void row_bind(sqlite3_stmt *statement, int first, const struct row *row)
{
	for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
		const struct column *column = &columns[i];
		const void *from = (const char *) row + column->offset;
		int at = first + (int) i;

		switch (column->kind) {
		case COLUMN_TEXT:
			sqlite3_bind_text(statement, at, *(const kept_text *) from, -1,
					  SQLITE_STATIC);
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

static void read_text(kept_text *at, size_t size, const char *text)
{
	char cut[KEPT_SIZE];

	snprintf(cut, size, "%s", text);
	kept_set(at, cut);
}

void row_read(sqlite3_stmt *statement, struct row *row)
{
	for (size_t i = 0; i < ARRAY_SIZE(columns); i++) {
		const struct column *column = &columns[i];
		void *to = (char *) row + column->offset;
		const char *text = (const char *) sqlite3_column_text(statement, (int) i);
		int value;

		switch (column->kind) {
		case COLUMN_TEXT:
			read_text(to, column->size, text);
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
