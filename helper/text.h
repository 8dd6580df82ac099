/* Text from devices and people: bytes until somebody has looked. */
#pragma once

#include <stddef.h>

/* The length of the UTF-8 character that the NUL-terminated text S starts with, by RFC 3629: no
 * overlong form (e0 80 af), no surrogate (ed a0 80), nothing above U+10FFFF (f4 90 80 80). 0 when
 * it starts with none, and at its end. */
size_t utf8_length(const char *s);

/* Puts a copy of FROM into TO that can be shown to a person: what is not UTF-8, is a control
 * character (of a terminal, or of the direction of writing), or is a line's end becomes '?'. Cut at
 * SIZE - 1 bytes, never inside a character. FROM may be NULL. Everything that a device, a VM or a
 * process says of itself goes through here before it is logged, stored or printed. */
void text_clean(char *to, size_t size, const char *from);
