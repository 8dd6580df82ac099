/* Text for people: tables that fit the terminal, ages, colours. */
#pragma once

#include <stdint.h>

#include "helper/macro.h"

#define TABLE_COLUMNS 8

/* Rows of texts. The last column is cut where the line would be too long; the others are as wide as
 * their widest text, up to their limit. */
struct table {
	const char *heads[TABLE_COLUMNS];
	unsigned limits[TABLE_COLUMNS]; /* 0: no column any more */
	char ***rows;
	size_t n_rows, room;
};

/* Copies TEXTS, one for each column. */
void table_add(struct table *table, const char *const *texts);
/* Prints to stdout, and empties the table. */
void table_print(struct table *table);

/* Columns of the terminal; 80 when there is none. */
unsigned terminal_width(void);

/* "3 min" for the MS since 1970 at which something was, seen from now; "-" for 0. */
void text_age(uint64_t ms, char *ret, size_t size);
/* The MS since 1970 of an ISO 8601 text (UTC with Z, local without), of "2 h", "10min" (ago); -1
 * when it is neither. */
int64_t text_time(const char *text);
