/* What vhotplug-helper does, but for its command line. */
#pragma once

#include "helper/macro.h"

/* udevd waits for the helper: the broker has this long to commit and answer, in milliseconds. */
#define HELPER_TIMEOUT_MS 800

/* Closes every descriptor from 3 on (eudev leaks some of its own into what it runs) and makes sure
 * that 0, 1 and 2 are open, so that no socket becomes somebody's stderr. */
void helper_close_inherited(void);

/* Brings the event in the environment to the broker, whose directory is RUN_DIR, or to the spool
 * there. Returns the exit status: 0 when the event is safe (or none the broker wants), 1 when it
 * is lost, which has been said on stderr and to syslog. RET_ALONE: whether no broker runs. */
int helper_run(const char *run_dir, bool *ret_alone);
