/* /sys, /proc and /dev behind one root: the system's own, or a made-up tree in tests.
 *
 * Paths are handed around as the system names them ("/sys/devices/…"); the root is put in front
 * here and nowhere else. Each FORMAT makes one such path. One that is too long is -ENAMETOOLONG,
 * never cut.
 */
#pragma once

#include <dirent.h>
#include <limits.h>
#include <stdint.h>

#include "helper/macro.h"

/* DIRECTORY is in front of every path from now on; "" is the system itself. Borrowed. */
void root_set(const char *directory);

/* The path with the root in front, for a call that is not below. Returns 0 or -ENAMETOOLONG. */
int root_path(char *ret_path, size_t size, const char *format, ...) _printf_(3, 4) _must_check_;

/* open(2) with O_CLOEXEC. Returns the descriptor or -errno. */
int root_open(int flags, const char *format, ...) _printf_(2, 3) _must_check_;
/* For reading. NULL: see errno. */
FILE *root_fopen(const char *format, ...) _printf_(1, 2) _must_check_;
DIR *root_opendir(const char *format, ...) _printf_(1, 2) _must_check_;
/* The inode, links followed; 0: it is not there. */
uint64_t root_inode(const char *format, ...) _printf_(1, 2);
/* access(2) for F_OK. Returns 0 or -errno. */
int root_exists(const char *format, ...) _printf_(1, 2) _must_check_;

/* The first line of a file, without its line feed. Returns 0; -ENAMETOOLONG when it has no room;
 * another -errno. */
int root_read(char *ret_line, size_t size, const char *format, ...) _printf_(3, 4) _must_check_;
/* Writes TEXT into a file that is there, in one go. Returns 0 or -errno. */
int root_write(const char *text, const char *format, ...) _printf_(2, 3);
/* The name of what a link leads to, the last part of its target: the driver behind "driver", say.
 * Returns 0; -ENAMETOOLONG when it has no room; another -errno. */
int root_link_name(char *ret_name, size_t size, const char *format, ...)
	_printf_(3, 4) _must_check_;
/* realpath(3), the root taken off again. Returns 0 or -errno; -EXDEV when it leads out of the root.
 */
int root_resolve(char ret_path[PATH_MAX], const char *format, ...) _printf_(2, 3) _must_check_;
