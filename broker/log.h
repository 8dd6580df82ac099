/* Messages for people, on stderr: one line each, logged once, where the decision is made.
 *
 * A line begins with what it is about, a VM's or a device's name. A line is cleaned (text_clean),
 * never waits for its reader, and is left out, and counted, when the same place in the code has
 * said too much about the same subject.
 */
#pragma once

#include "helper/macro.h"

enum log_level {
	LOG_LEVEL_ERROR = 3, /* the numbers of syslog, which journald understands as "<3>" */
	LOG_LEVEL_WARNING = 4,
	LOG_LEVEL_INFO = 6,
	LOG_LEVEL_DEBUG = 7,
};

/* Debug lines are dropped unless DEBUG. When stderr is the journal, lines carry their level. */
void log_init(bool debug);

void log_line(enum log_level level, const char *format, ...) _printf_(2, 3);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)
