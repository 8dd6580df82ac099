/* What the programs that udevd runs have to say. */
#pragma once

#include "helper/macro.h"

/* Says it on stderr, which udevd shows only when it debugs, as "PROGRAM: …"; what has a PRIORITY of
 * LOG_WARNING or worse also to syslog. That may get lost, but never waits: syslog(3) does when the
 * daemon does not read, and udevd waits for us. */
void report_line(const char *program, int priority, const char *format, ...) _printf_(3, 4);
