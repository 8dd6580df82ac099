/* The one place that knows what UTF-8 is. */
#include "helper/text.h"

#include <stdbool.h>

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
