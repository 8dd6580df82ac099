/* PCRE2 with our options. Used by the config reader (is it valid?), by vhotplug-match (does it
 * match?) and by the tests. */
#include "conf/regex.h"

pcre2_code *regex_compile(const char *pattern, char *error, size_t error_size)
{
	/* The pattern can't change what a byte is: a device's name need not be UTF-8, and a match
	 * that fails with an error would be neither yes nor no. */
	uint32_t options = PCRE2_ANCHORED | PCRE2_CASELESS | PCRE2_DOTALL | PCRE2_DOLLAR_ENDONLY |
			   PCRE2_NEVER_UTF | PCRE2_NEVER_UCP | PCRE2_NEVER_BACKSLASH_C;
	PCRE2_SIZE offset;
	int code;
	pcre2_code *compiled = pcre2_compile((PCRE2_SPTR) pattern, PCRE2_ZERO_TERMINATED, options,
					     &code, &offset, NULL);

	if (!compiled) {
		unsigned char text[100];

		if (pcre2_get_error_message(code, text, sizeof(text)) < 0)
			text[0] = '\0';
		snprintf(error, error_size, "%s at byte %zu", text, offset);
	}
	return compiled;
}

int regex_match(const pcre2_code *code, const char *subject, size_t len)
{
	pcre2_match_data *data = pcre2_match_data_create(1, NULL);
	pcre2_match_context *context = pcre2_match_context_create(NULL);
	int r = PCRE2_ERROR_NOMEMORY;

	if (data && context) {
		pcre2_set_match_limit(context, REGEX_MATCH_LIMIT);
		pcre2_set_depth_limit(context, REGEX_DEPTH_LIMIT);
		r = pcre2_match(code, (PCRE2_SPTR) subject, len, 0, 0, data, context);
	}
	pcre2_match_context_free(context);
	pcre2_match_data_free(data);
	if (r >= 0)
		return 1;
	if (r == PCRE2_ERROR_NOMATCH)
		return 0;
	return r == PCRE2_ERROR_NOMEMORY ? -ENOMEM : -ELOOP;
}
