/* The rules file on disk, and everyone who has to hear of it. */
#pragma once

#include "helper/macro.h"

/* Replaces the file at PATH with TEXT: whoever reads sees the old one or the new one, also after a
 * power loss. The new file is readable by all. Where PATH is a link the file that it leads to is
 * replaced. Returns 0 or -errno. */
int rules_install(const char *path, const char *text) _must_check_;

/* Makes the rules as a new string in *RET_TEXT. Returns 0, or -ECANCELED with the reason said. */
typedef int (*rules_make_fn)(void *data, char **ret_text);

/* The same with what MAKE makes of the file SOURCE, and again while that has changed meanwhile: of
 * several who install at once, the last one leaves what SOURCE says by then. (Not by a lock:
 * whoever may read a file may keep it locked.) When MAKE fails at a later try, what it has made
 * before stays in place. Returns 0; MAKE's error; another -errno. */
int rules_install_of(const char *source, const char *path, rules_make_fn make,
		     void *data) _must_check_;

/* The contents of the file at PATH as a new string; an absent file is the empty string. Returns 0
 * or -errno. */
int rules_installed(const char *path, char **ret) _must_check_;

/* Prints the difference between the file at PATH and TEXT on standard output, by diff(1). Returns 0
 * or -errno. */
int rules_print_diff(const char *path, const char *text) _must_check_;

/* Makes udevd read its rules. What fails is said on standard error. Returns 0 or -EIO. */
int rules_reload(void) _must_check_;

/* Asks the broker at SOCKET_PATH to bring all devices in line, and waits up to TIMEOUT_MS for it to
 * listen and as long for its answer. Returns 0; -ECONNREFUSED or -ENOENT when no broker runs;
 * -EBUSY when it refused; -ETIMEDOUT; another -errno. */
int rules_tell_broker(const char *socket_path, int timeout_ms) _must_check_;
