/* The one place that knows what UTF-8 is. */
#include "helper/text.h"

#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

static bool is_between(unsigned char byte, unsigned char low, unsigned char high)
{
	return byte >= low && byte <= high;
}

/* Whether B may follow the leading byte A. Table 3-7 of the Unicode standard. */
static bool is_second(unsigned char a, unsigned char b)
{
	return is_between(b,
			  a == 0xe0   ? 0xa0
			  : a == 0xf0 ? 0x90
				      : 0x80,
			  a == 0xed   ? 0x9f
			  : a == 0xf4 ? 0x8f
				      : 0xbf);
}

size_t utf8_length(const char *text)
{
	const unsigned char *s = (const unsigned char *) text;
	size_t n = is_between(*s, 0x01, 0x7f)   ? 1
		   : is_between(*s, 0xc2, 0xdf) ? 2
		   : is_between(*s, 0xe0, 0xef) ? 3
		   : is_between(*s, 0xf0, 0xf4) ? 4
						: 0;

	if (n > 1 && !is_second(s[0], s[1]))
		return 0;
	for (size_t i = 2; i < n; i++)
		if (!is_between(s[i], 0x80, 0xbf))
			return 0;
	return n;
}

static unsigned code_point(const unsigned char *s, size_t length)
{
	static const unsigned char masks[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
	unsigned code = s[0] & masks[length];

	for (size_t i = 1; i < length; i++)
		code = code << 6 | (s[i] & 0x3f);
	return code;
}

/* Would it steer the reader's terminal, begin a line, or turn the direction of what follows?
 * Unicode: categories Cc, Zl, Zp, and the property Bidi_Control; with them the invisible ones that
 * make two names look like one. */
static bool is_steering(unsigned code)
{
	static const struct {
		unsigned first, last;
	} ranges[] = {
		{0x00, 0x1f},     {0x7f, 0x9f},       {0xad, 0xad},     {0x61c, 0x61c},
		{0x200b, 0x200f}, {0x2028, 0x202e},   {0x2060, 0x206f}, {0xfeff, 0xfeff},
		{0xfff9, 0xfffb}, {0xe0000, 0xe007f},
	};

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++)
		if (code >= ranges[i].first && code <= ranges[i].last)
			return true;
	return false;
}

size_t text_plain(const char *s)
{
	size_t length = utf8_length(s);

	return length > 0 && !is_steering(code_point((const unsigned char *) s, length)) ? length
											 : 0;
}

void text_clean(char *to, size_t size, const char *from)
{
	const char *s = from ? from : "";
	size_t at = 0;

	while (*s) {
		size_t length = utf8_length(s);
		bool good = text_plain(s) > 0;
		size_t n = good ? length : 1;

		if (at + n >= size)
			break;
		if (good)
			memcpy(to + at, s, n);
		else
			to[at] = '?';
		at += n;
		s += length > 0 ? length : 1;
	}
	to[at] = 0;
}

void text_words(char *to, size_t size, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	int n = vsnprintf(to, size, format, args);
	va_end(args);
	if (n < 0 || (size_t) n < size)
		return;
	/* The last character may have lost its end. */
	size_t at = size - 1;
	while (at > 0 && (to[at - 1] & 0xc0) == 0x80)
		at--;
	if (at > 0 && (to[at - 1] & 0x80) && utf8_length(to + at - 1) == 0)
		to[at - 1] = 0;
}

int text_path(char *to, size_t size, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	int n = vsnprintf(to, size, format, args);
	va_end(args);
	if (n >= 0 && (size_t) n < size)
		return 0;
	to[0] = 0;
	return -ENAMETOOLONG;
}
