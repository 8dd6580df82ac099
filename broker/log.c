/* Log lines on stderr; used by everything in the broker that decides something. */
#include "broker/log.h"

#include <stdarg.h>

static bool log_with_debug;
static bool log_to_journal;

void log_init(bool debug)
{
	log_with_debug = debug;
	log_to_journal = getenv("JOURNAL_STREAM") != NULL;
}

void log_line(enum log_level level, const char *format, ...)
{
	char line[1024];
	int saved = errno;
	va_list args;

	if (level == LOG_LEVEL_DEBUG && !log_with_debug)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);

	/* One write a line, and no line feed from a device's name. */
	for (char *c = line; *c; c++)
		if ((unsigned char) *c < ' ')
			*c = '?';
	if (log_to_journal)
		dprintf(STDERR_FILENO, "<%d>%s\n", (int) level, line);
	else
		dprintf(STDERR_FILENO, "vhotplug-broker: %s\n", line);
	errno = saved;
}
