/* Any bytes as a config: refused or taken, never more; taken twice it has the same digest. */
#include <stdint.h>
#include <stdio.h>

#include "conf/load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_it(const uint8_t *data, size_t size, FILE *errors, struct config **ret)
{
	FILE *file = fmemopen((void *) (uintptr_t) data, size, "r");
	int r = config_read(file, "fuzz", errors, ret);

	fclose(file);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct config *first = NULL, *second = NULL;
	FILE *errors = size ? fopen("/dev/null", "we") : NULL;

	if (!errors)
		return 0;
	if (read_it(data, size, errors, &first) == 0) {
		if (read_it(data, size, errors, &second) != 0 ||
		    !streq(first->digest, second->digest))
			abort();
	}
	config_free(first);
	config_free(second);
	fclose(errors);
	return 0;
}
