/* The one way in which vhotplug understands a regular expression. */
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stddef.h>

#include "helper/macro.h"

/* Compiles PATTERN: PCRE2 over bytes, "." and "[^a]" match any byte, case folded in ASCII only,
 * anchored at the start, open at the end, "$" is the very end. Returns the code (free it with
 * pcre2_code_free) or NULL with the reason as text in ERROR of ERROR_SIZE bytes. */
pcre2_code *regex_compile(const char *pattern, char *error, size_t error_size) _must_check_;

/* How much work a match may be. A pattern that needs more on some subject has no answer there:
 * regex_match says -ELOOP. */
#define REGEX_MATCH_LIMIT 1000000u
#define REGEX_DEPTH_LIMIT 10000u

/* Whether CODE matches SUBJECT of LEN bytes: 1 or 0; -ELOOP when the limits above are reached,
 * -ENOMEM. */
int regex_match(const pcre2_code *code, const char *subject, size_t len) _must_check_;
