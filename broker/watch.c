/* A path under observation: see watch.h. One inotify descriptor each; used for VM sockets and for
 * the spool. */
#include "broker/watch.h"

#include <limits.h>
#include <sys/epoll.h>
#include <sys/inotify.h>

#include "broker/log.h"

#define ENTRIES (IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM | IN_ATTRIB)
#define DIRECTORY (IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)

struct watch {
	int fd;
	int descriptor;
	struct loop_source *source;
	loop_fn fn;
	void *data;
	char *path;
	bool whole_directory;
	size_t watched; /* length of the part of PATH that is the watched directory */
};

/* The length of PATH's directory part; "/" for "/x". */
static size_t parent_length(const char *path, size_t length)
{
	while (length > 0 && path[length - 1] != '/')
		length--;
	while (length > 1 && path[length - 1] == '/')
		length--;
	return length > 0 ? length : 1;
}

/* Watches the deepest existing directory above the path. */
static int arm(struct watch *watch)
{
	char directory[PATH_MAX];
	size_t length = strlen(watch->path);

	if (!watch->whole_directory)
		length = parent_length(watch->path, length);

	for (;;) {
		snprintf(directory, sizeof(directory), "%.*s", (int) length, watch->path);
		int descriptor = inotify_add_watch(watch->fd, directory, ENTRIES | DIRECTORY);

		if (descriptor >= 0) {
			/* The same directory keeps its descriptor. */
			if (watch->descriptor >= 0 && watch->descriptor != descriptor)
				inotify_rm_watch(watch->fd, watch->descriptor);
			watch->descriptor = descriptor;
			watch->watched = length;
			return 0;
		}
		if ((errno != ENOENT && errno != ENOTDIR) || length <= 1)
			return -errno;
		length = parent_length(watch->path, length);
	}
}

/* Does an entry called NAME in the watched directory lie on the way to the path? */
static bool concerns(const struct watch *watch, const char *name)
{
	const char *rest = watch->path + watch->watched;

	if (watch->whole_directory)
		return true;
	while (*rest == '/')
		rest++;
	size_t length = strcspn(rest, "/");
	return strlen(name) == length && strncmp(rest, name, length) == 0;
}

static void readable(void *data, uint32_t events)
{
	struct watch *watch = data;
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	bool changed = false;
	ssize_t n;

	(void) events;
	while ((n = read(watch->fd, buffer, sizeof(buffer))) > 0)
		for (char *at = buffer; at < buffer + n;) {
			const struct inotify_event *event = (const struct inotify_event *) at;

			/* IN_IGNORED of a descriptor that was replaced says nothing. */
			if (event->wd == watch->descriptor &&
			    (event->len == 0 || concerns(watch, event->name)))
				changed = true;
			if (event->mask & IN_Q_OVERFLOW)
				changed = true;
			at += sizeof(*event) + event->len;
		}
	if (!changed)
		return;

	size_t before;
	do {
		/* A directory may have been made, and filled, before the new watch was there. */
		before = watch->watched;
		if (arm(watch) < 0)
			log_error("can't watch %s: %s", watch->path, strerror(errno));
	} while (watch->watched > before);
	watch->fn(watch->data);
}

static int make(struct loop *loop, const char *path, bool whole_directory, loop_fn fn, void *data,
		struct watch **ret_watch)
{
	struct watch *watch = calloc(1, sizeof(*watch));
	int r = -ENOMEM;

	if (!watch)
		return r;
	watch->descriptor = -1;
	watch->whole_directory = whole_directory;
	watch->fn = fn;
	watch->data = data;
	watch->path = strdup(path);
	watch->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (watch->fd < 0)
		r = -errno;
	else if (watch->path)
		r = arm(watch);
	if (r == 0)
		r = loop_add(loop, watch->fd, EPOLLIN, readable, watch, &watch->source);
	if (r < 0) {
		watch_free(watch);
		return r;
	}
	*ret_watch = watch;
	return 0;
}

int watch_new(struct loop *loop, const char *path, loop_fn fn, void *data, struct watch **ret_watch)
{
	return make(loop, path, false, fn, data, ret_watch);
}

int watch_new_directory(struct loop *loop, const char *path, loop_fn fn, void *data,
			struct watch **ret_watch)
{
	return make(loop, path, true, fn, data, ret_watch);
}

void watch_free(struct watch *watch)
{
	if (!watch)
		return;
	loop_source_free(watch->source);
	close_fd(watch->fd);
	free(watch->path);
	free(watch);
}
