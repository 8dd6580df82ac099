/* Any config that is taken gives rules that pass the checker, whatever its names and patterns are:
 * nothing in it becomes a line, a key or an argument of its own. */
#include <stdint.h>
#include <stdio.h>

#include "conf/load.h"
#include "rules.d/check.h"
#include "rules.d/write.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_and_check(const struct config *config)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (rules_write(config, "/etc/vhotplug/\nRUN+=\"x\" \\", out, NULL) < 0)
		abort();
	fclose(out);
	if (strlen(text) != size || rules_check(text, stderr) > 0) {
		fputs(text, stderr);
		abort();
	}
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	FILE *file = size ? fmemopen((void *) (uintptr_t) data, size, "r") : NULL;
	FILE *errors = file ? fopen("/dev/null", "we") : NULL;
	struct config *config = NULL;

	if (errors && config_read(file, "fuzz", errors, &config) == 0)
		write_and_check(config);
	config_free(config);
	if (errors)
		fclose(errors);
	if (file)
		fclose(file);
	return 0;
}
