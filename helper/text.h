/* Text from devices and people: bytes until somebody has looked. */
#pragma once

#include <stddef.h>

#include "helper/macro.h"

/* The length of the UTF-8 character that the NUL-terminated text S starts with, by RFC 3629: no
 * overlong form (e0 80 af), no surrogate (ed a0 80), nothing above U+10FFFF (f4 90 80 80). 0 when
 * it starts with none, and at its end. */
size_t utf8_length(const char *s);

/* The same, and 0 as well for a character that text_clean replaces. */
size_t text_plain(const char *s);

/* Puts a copy of FROM into TO that can be shown to a person: what is not UTF-8, is a control
 * character (of a terminal, or of the direction of writing), or is a line's end becomes '?'. Cut at
 * SIZE - 1 bytes, never inside a character. FROM may be NULL. Everything that a device, a VM or a
 * process says of itself goes through here before it is logged, stored or printed. */
void text_clean(char *to, size_t size, const char *from);

/* Words for people, by FORMAT as in printf: cut where they don't fit, never inside a character. */
void text_words(char *to, size_t size, const char *format, ...) _printf_(3, 4);
/* A path, or another name that must be whole. Returns 0, or -ENAMETOOLONG with TO empty. */
int text_path(char *to, size_t size, const char *format, ...) _printf_(3, 4) _must_check_;
