/* The few lines between us and a service manager, without its library.
 * Sources: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3), systemd.exec(5)
 * RUNTIME_DIRECTORY and friends. */
#pragma once

#include <stdint.h>

#include "helper/macro.h"

/* The listening socket that was passed to this process (LISTEN_PID, LISTEN_FDS=1), made
 * close-on-exec; -1 when none was; -EINVAL when what was passed is not one SOCK_SEQPACKET listener.
 * Unsets the variables. */
int service_listen_fd(void) _must_check_;

/* How long the service manager waits for a sign of life (WATCHDOG_USEC, unless WATCHDOG_PID is
 * another process), in milliseconds; 0: it does not. */
uint64_t service_watchdog_ms(void);

/* Sends STATE ("READY=1") to NOTIFY_SOCKET; does nothing when that is unset. Returns 0 or -errno.
 */
int service_notify(const char *state);

/* The first directory of the environment variable NAME (a colon-separated list), or FALLBACK when
 * it is unset or not absolute. Copied to RET. Returns 0 or -ENAMETOOLONG. */
int service_directory(const char *name, const char *fallback, char *ret, size_t size) _must_check_;
