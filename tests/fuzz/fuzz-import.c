/* Any bytes as another tool's config: refused, or turned into something without a crash. */
#include <stdint.h>
#include <stdio.h>

#include "rules.d/import.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);
	FILE *out = fopen("/dev/null", "we");

	memcpy(text, data, size);
	text[size] = '\0';
	(void) !config_import(text, size % 2, out, out);
	fclose(out);
	free(text);
	return 0;
}
