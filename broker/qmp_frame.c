/* The ends of JSON values: see qmp_frame.h. Called by qmp.c. */
#include "broker/qmp_frame.h"

/* Does the value end with C? */
static bool ends_with(struct qmp_frame *frame, char c)
{
	if (frame->escaped) {
		frame->escaped = false;
	} else if (frame->in_string) {
		frame->escaped = c == '\\';
		frame->in_string = c != '"';
	} else if (c == '"') {
		frame->in_string = true;
	} else if (c == '{' || c == '[') {
		frame->depth++;
	} else if (c == '}' || c == ']') {
		return --frame->depth == 0;
	}
	return false;
}

int qmp_frame_next(struct qmp_frame *frame, const char *in, size_t length, size_t *start,
		   size_t *ret_end)
{
	while (frame->scanned < length) {
		char c = in[frame->scanned++];

		if (frame->depth == 0 && strchr(" \t\r\n", c) && c) {
			*start = frame->scanned;
			continue;
		}
		if (frame->depth == 0 && c != '{')
			return -EPROTO;
		if (ends_with(frame, c)) {
			*ret_end = frame->scanned;
			return 1;
		}
	}
	return 0;
}
