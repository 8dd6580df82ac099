/* Text from devices and people: bytes until somebody has looked. */
#pragma once

#include <stddef.h>

/* The length of the UTF-8 character that the NUL-terminated text S starts with, by RFC 3629: no
 * overlong form (e0 80 af), no surrogate (ed a0 80), nothing above U+10FFFF (f4 90 80 80). 0 when
 * it starts with none, and at its end. */
size_t utf8_length(const char *s);
