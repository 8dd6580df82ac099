/* Where one JSON value ends and the next begins, in a stream that comes in pieces. A monitor may be
 * set to write its values over several lines (pretty=on), so a line says nothing. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "helper/macro.h"

/* How far the stream has been looked at; zeroed at its beginning. */
struct qmp_frame {
	size_t scanned; /* bytes, from the buffer's start; its owner moves it with the buffer */
	unsigned depth; /* of braces and brackets; 0: between two values */
	bool in_string, escaped;
};

/* Looks for the end of the value that begins at *START in the LENGTH bytes of IN, from where the
 * last look ended; blanks before it move *START. Returns 1 with *RET_END behind it; 0 when more
 * must come; -EPROTO when what is there begins no object. */
int qmp_frame_next(struct qmp_frame *frame, const char *in, size_t length, size_t *start,
		   size_t *ret_end) _must_check_;
