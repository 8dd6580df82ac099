/* A check of a rules file before anyone uses it. Debian 12 has no `udevadm verify`, and what a udev
 * does not understand it drops or, worse, half understands. */
#pragma once

#include <stdio.h>

#include "helper/macro.h"

/* Checks TEXT, which must be what vhotplug-gen-rules writes: only the keys that it uses, with the
 * operators that it uses; every GOTO has its LABEL further down; no line is too long, for eudev's
 * limits too (63 tokens, 1023 bytes of alternatives); no commands but our own, with harmless
 * arguments; no substitutions. Says each mistake on ERRORS as "rules:LINE: …". Returns how many
 * there are. */
unsigned rules_check(const char *text, FILE *errors) _must_check_;
