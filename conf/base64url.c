/* base64url, RFC 4648 section 5. The generator encodes, vhotplug-match decodes. */
#include "conf/base64url.h"

#include <stdint.h>

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

char *base64url_encode(const char *text)
{
	size_t len = strlen(text), n = 0;
	char *out = malloc(len / 3 * 4 + 5);
	uint32_t bits = 0;
	unsigned have = 0;

	if (!out)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		bits = bits << 8 | (unsigned char) text[i];
		for (have += 8; have >= 6; have -= 6)
			out[n++] = digits[bits >> (have - 6) & 63];
	}
	if (have > 0)
		out[n++] = digits[bits << (6 - have) & 63];
	out[n] = '\0';
	return out;
}

int base64url_decode(const char *encoded, char **ret)
{
	size_t len = strlen(encoded), n = 0;
	_cleanup_free_ char *out = malloc(len / 4 * 3 + 4);
	uint32_t bits = 0;
	unsigned have = 0;

	if (!out)
		return -ENOMEM;
	for (size_t i = 0; i < len; i++) {
		const char *digit = strchr(digits, encoded[i]);

		if (!digit)
			return -EINVAL;
		bits = bits << 6 | (uint32_t) (digit - digits);
		have += 6;
		if (have >= 8) {
			have -= 8;
			out[n] = (char) (bits >> have & 255);
			if (out[n++] == '\0')
				return -EINVAL;
		}
	}
	/* Nothing may be left over: an encoding has one spelling. */
	if (have == 6 || (bits & ((1u << have) - 1)) != 0)
		return -EINVAL;
	out[n] = '\0';
	*ret = TAKE_PTR(out);
	return 0;
}
