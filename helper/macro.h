/* The few macros and inline functions that every part of vhotplug uses: variables that clean
 * themselves up, visible transfer of ownership, contracts the compiler checks. */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* The result must be looked at. */
#define _must_check_ __attribute__((warn_unused_result))
#define _printf_(fmt, args) __attribute__((format(printf, fmt, args)))

/* A variable so marked must be initialised; what it owns is released when it goes out of scope.
 * Holding it until then is a use (clang says otherwise). */
#define _cleanup_(fn) __attribute__((cleanup(fn), unused))
#define _cleanup_free_ _cleanup_(freep)
#define _cleanup_close_ _cleanup_(closep)
#define _cleanup_fclose_ _cleanup_(fclosep)

/* Hands the pointer (the descriptor) on and leaves NULL (-1) behind. */
#define TAKE_PTR(p)                                   \
	({                                            \
		__typeof__(p) *_pp = &(p), _p = *_pp; \
		*_pp = NULL;                          \
		_p;                                   \
	})

static inline int take_fd(int *fd)
{
	int r = *fd;
	*fd = -1;
	return r;
}
#define TAKE_FD(fd) take_fd(&(fd))

static inline void freep(void *p)
{
	free(*(void **) p);
}

/* Closes FD if it is one, keeps errno; always returns -1, for "fd = close_fd(fd)". */
static inline int close_fd(int fd)
{
	if (fd >= 0) {
		int saved = errno;
		close(fd);
		errno = saved;
	}
	return -1;
}

static inline void closep(int *fd)
{
	*fd = close_fd(*fd);
}

static inline void fclosep(FILE **f)
{
	if (*f) {
		int saved = errno;
		fclose(*f);
		errno = saved;
	}
}

static inline bool streq(const char *a, const char *b)
{
	return strcmp(a, b) == 0;
}

/* The rest of S after PREFIX, or NULL when S does not start with it. */
static inline const char *startswith(const char *s, const char *prefix)
{
	size_t n = strlen(prefix);
	return strncmp(s, prefix, n) == 0 ? s + n : NULL;
}
