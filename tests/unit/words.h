/* Texts of devices, for tests. */
#pragma once

#include <stdarg.h>

#include "broker/kept.h"

static inline void set_words(kept_text *at, const char *format, ...) _printf_(2, 3);
static inline void set_words(kept_text *at, const char *format, ...)
{
	char words[KEPT_SIZE];
	va_list args;

	va_start(args, format);
	vsnprintf(words, sizeof(words), format, args);
	va_end(args);
	kept_set(at, words);
}
