/* Tells when something appears at a path, or goes, wherever its directories come from: the deepest
 * directory that exists is watched (inotify). */
#pragma once

#include "broker/loop.h"
#include "helper/macro.h"

struct watch;

/* FN is called when PATH may have appeared, been replaced or gone; with spurious calls now and
 * then, never with a missing one. Returns 0 or -errno. */
int watch_new(struct loop *loop, const char *path, loop_fn fn, void *data,
	      struct watch **ret_watch) _must_check_;
/* The same, called when anything in the directory PATH changes; the directory exists. */
int watch_new_directory(struct loop *loop, const char *path, loop_fn fn, void *data,
			struct watch **ret_watch) _must_check_;
/* NULL is fine, and so is a call inside FN. Before the loop is freed. */
void watch_free(struct watch *watch);
