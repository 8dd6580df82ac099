/* Regular expressions of Python's re, as other tools have them, in our way of writing. */
#pragma once

#include <stddef.h>

#include "helper/macro.h"

/* Writes into RET, SIZE bytes, what means for us what PATTERN means for Python's re.match with
 * IGNORECASE, and still does when it is read from a line of our config. Returns NULL, or why there
 * is no such pattern, a constant text (RET is undefined then). */
const char *import_regex(const char *pattern, char *ret, size_t size) _must_check_;
