/* Collects what is wrong in a config and prints it sorted by line. The line reader and the typed
 * reader of conf/ add to it; config_load prints. */
#include "conf/mistakes.h"

#include <stdarg.h>

#include "conf/array.h"

void mistakes_add(struct mistakes *mistakes, unsigned line, const char *format, ...)
{
	struct mistake *item = ARRAY_APPEND(mistakes->items, mistakes->n);
	va_list args;

	if (!item) {
		mistakes->lost = true;
		return;
	}
	item->line = line;
	va_start(args, format);
	if (vasprintf(&item->text, format, args) < 0) {
		item->text = NULL;
		mistakes->lost = true;
	}
	va_end(args);
}

int mistakes_print(struct mistakes *mistakes, FILE *out)
{
	/* An insertion sort keeps the order within a line; there are never many. */
	for (size_t i = 1; i < mistakes->n; i++)
		for (size_t j = i; j > 0 && mistakes->items[j - 1].line > mistakes->items[j].line;
		     j--) {
			struct mistake swap = mistakes->items[j];
			mistakes->items[j] = mistakes->items[j - 1];
			mistakes->items[j - 1] = swap;
		}
	for (size_t i = 0; i < mistakes->n; i++) {
		const struct mistake *m = &mistakes->items[i];

		if (m->line > 0)
			fprintf(out, "%s:%u: %s\n", mistakes->path, m->line, m->text ?: "?");
		else
			fprintf(out, "%s: %s\n", mistakes->path, m->text ?: "?");
	}
	if (mistakes->lost)
		return -ENOMEM;
	return mistakes->n > 0 ? -EINVAL : 0;
}

void mistakes_finish(struct mistakes *mistakes)
{
	for (size_t i = 0; i < mistakes->n; i++)
		free(mistakes->items[i].text);
	free(mistakes->items);
	mistakes->items = NULL;
	mistakes->n = 0;
}
