/* Paths under observation: see watch.h. One inotify descriptor for all of a loop's, since a user
 * may have few (128): they share a hub. Used for VM sockets, the spool, and what the broker itself
 * has on disk.
 * Sources: inotify(7); proc(5), /proc/PID/mounts, for who polls it. */
#include "broker/watch.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/epoll.h>
#include <sys/inotify.h>

#include "broker/log.h"

#define ENTRIES (IN_CREATE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM | IN_ATTRIB)
#define DIRECTORY (IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR)
#define RETRY_MS 1000 /* while the kernel has no watch to give */
#define MAX_LOOKS 100 /* at directories that come and go as fast as we look */

struct hub {
	struct hub *next;
	struct loop *loop;
	int fd, mounts_fd;
	struct loop_source *source, *mounts;
	struct watch *watches;
};

struct watch {
	struct watch *next;
	struct hub *hub;
	int descriptor; /* of the directory; several watches may have the same. -1: none */
	loop_fn fn;
	void *data;
	char *path;
	bool whole_directory;
	bool changed;
	size_t watched; /* length of the part of PATH that is the watched directory */
	struct loop_timer retry;
};

static struct hub *hubs; /* one a loop */

/* The length of PATH's directory part; "/" for "/x". */
static size_t parent_length(const char *path, size_t length)
{
	while (length > 0 && path[length - 1] != '/')
		length--;
	while (length > 1 && path[length - 1] == '/')
		length--;
	return length > 0 ? length : 1;
}

/* Stops observing DESCRIPTOR unless another watch needs it. */
static void drop_descriptor(struct hub *hub, int descriptor)
{
	for (struct watch *w = hub->watches; w; w = w->next)
		if (w->descriptor == descriptor)
			return;
	inotify_rm_watch(hub->fd, descriptor);
}

static void set_descriptor(struct watch *watch, int descriptor)
{
	int former = watch->descriptor;

	watch->descriptor = descriptor;
	if (former >= 0 && former != descriptor)
		drop_descriptor(watch->hub, former);
}

/* Observes the deepest existing directory above the path. */
static int look_at_path(struct watch *watch)
{
	char directory[PATH_MAX];
	size_t length = strlen(watch->path);

	if (!watch->whole_directory)
		length = parent_length(watch->path, length);
	for (;;) {
		memcpy(directory, watch->path, length);
		directory[length] = 0;
		int descriptor = inotify_add_watch(watch->hub->fd, directory, ENTRIES | DIRECTORY);

		if (descriptor >= 0) {
			set_descriptor(watch, descriptor);
			watch->watched = length;
			return 0;
		}
		if ((errno != ENOENT && errno != ENOTDIR) || length <= 1)
			return -errno;
		length = parent_length(watch->path, length);
	}
}

/* A directory may be made, removed and made again while we look: only when a second look finds the
 * same one, observed since before, nothing can have happened that is not told. */
static int arm_watch(struct watch *watch)
{
	int before, r, n = 0;

	do {
		before = watch->descriptor;
		r = look_at_path(watch);
	} while (r == 0 && watch->descriptor != before && ++n < MAX_LOOKS);
	if (n == MAX_LOOKS)
		return -EAGAIN;
	if (r < 0)
		set_descriptor(watch, -1);
	return r;
}

static void look_again(void *data);

static void arm_or_retry(struct watch *watch)
{
	int r = arm_watch(watch);

	if (r == 0)
		return;
	if (r != -EAGAIN)
		log_error("can't watch %s: %s", watch->path, strerror(-r));
	loop_timer_start(watch->hub->loop, &watch->retry, r == -EAGAIN ? 0 : RETRY_MS, look_again,
			 watch);
}

static void look_again(void *data)
{
	struct watch *watch = data;

	arm_or_retry(watch);
	watch->fn(watch->data);
}

/* Does an entry called NAME in the watched directory lie on the way to the path? */
static bool name_concerns(const struct watch *watch, const char *name)
{
	const char *rest = watch->path + watch->watched;

	if (watch->whole_directory)
		return true;
	while (*rest == '/')
		rest++;
	size_t length = strcspn(rest, "/");
	return strlen(name) == length && strncmp(rest, name, length) == 0;
}

static void mark_changed(struct hub *hub, const struct inotify_event *event)
{
	for (struct watch *w = hub->watches; w; w = w->next)
		if (event->mask & IN_Q_OVERFLOW ||
		    (event->wd == w->descriptor &&
		     (event->len == 0 || name_concerns(w, event->name))))
			w->changed = true;
}

static struct watch *take_changed(struct hub *hub)
{
	for (struct watch *w = hub->watches; w; w = w->next)
		if (w->changed) {
			w->changed = false;
			return w;
		}
	return NULL;
}

/* FN may free watches, the last one and with it the hub included. */
static void tell_changed(struct loop *loop)
{
	for (;;) {
		struct hub *hub = hubs;

		while (hub && hub->loop != loop)
			hub = hub->next;
		struct watch *watch = hub ? take_changed(hub) : NULL;
		if (!watch)
			return;
		arm_or_retry(watch);
		watch->fn(watch->data);
	}
}

static void read_events(void *data, uint32_t events)
{
	struct hub *hub = data;
	char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
	ssize_t n;

	(void) events;
	do {
		n = read(hub->fd, buffer, sizeof(buffer));
		for (char *at = buffer; at < buffer + n;) {
			const struct inotify_event *event = (const struct inotify_event *) at;

			mark_changed(hub, event);
			at += sizeof(*event) + event->len;
		}
		/* As long as there was room for one more there are no others. */
	} while (n > (ssize_t) (sizeof(buffer) - sizeof(struct inotify_event) - NAME_MAX - 1));
	tell_changed(hub->loop);
}

/* What is mounted over a directory hides it, and the directory itself knows nothing of that. */
static void mounts_have_changed(void *data, uint32_t events)
{
	struct hub *hub = data;

	(void) events;
	for (struct watch *w = hub->watches; w; w = w->next) {
		int before = w->descriptor;

		arm_or_retry(w);
		w->changed = w->changed || w->descriptor != before;
	}
	tell_changed(hub->loop);
}

static void free_hub(struct hub *hub)
{
	struct hub **at = &hubs;

	while (*at && *at != hub)
		at = &(*at)->next;
	if (*at)
		*at = hub->next;
	loop_source_free(hub->source);
	loop_source_free(hub->mounts);
	close_fd(hub->fd);
	close_fd(hub->mounts_fd);
	free(hub);
}

static int open_hub(struct hub *hub)
{
	hub->fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (hub->fd < 0)
		return -errno;
	hub->mounts_fd = open("/proc/self/mounts", O_RDONLY | O_CLOEXEC);
	if (hub->mounts_fd < 0)
		return -errno;
	int r = loop_add(hub->loop, hub->fd, EPOLLIN, read_events, hub, &hub->source);
	/* Nothing is to be read there: that it is polled is enough. */
	return r < 0 ? r
		     : loop_add(hub->loop, hub->mounts_fd, EPOLLPRI, mounts_have_changed, hub,
				&hub->mounts);
}

/* The hub of LOOP, a new one if need be. */
static int get_hub(struct loop *loop, struct hub **ret_hub)
{
	int r;

	for (struct hub *h = hubs; h; h = h->next)
		if (h->loop == loop) {
			*ret_hub = h;
			return 0;
		}
	struct hub *hub = calloc(1, sizeof(*hub));
	if (!hub)
		return -ENOMEM;
	hub->loop = loop;
	hub->fd = hub->mounts_fd = -1;
	r = open_hub(hub);
	if (r < 0) {
		free_hub(hub);
		return r;
	}
	hub->next = hubs;
	hubs = hub;
	*ret_hub = hub;
	return 0;
}

static int make_watch(struct loop *loop, const char *path, bool whole_directory, loop_fn fn,
		      void *data, struct watch **ret_watch)
{
	struct watch *watch;
	struct hub *hub;
	int r;

	if (strlen(path) >= PATH_MAX)
		return -ENAMETOOLONG;
	if ((r = get_hub(loop, &hub)) < 0)
		return r;
	watch = calloc(1, sizeof(*watch));
	if (!watch)
		return -ENOMEM;
	watch->descriptor = -1;
	watch->whole_directory = whole_directory;
	watch->fn = fn;
	watch->data = data;
	watch->hub = hub;
	watch->next = hub->watches;
	hub->watches = watch;
	watch->path = strdup(path);
	r = watch->path ? arm_watch(watch) : -ENOMEM;
	if (r < 0) {
		watch_free(watch);
		return r;
	}
	*ret_watch = watch;
	return 0;
}

int watch_new(struct loop *loop, const char *path, loop_fn fn, void *data, struct watch **ret_watch)
{
	return make_watch(loop, path, false, fn, data, ret_watch);
}

int watch_new_directory(struct loop *loop, const char *path, loop_fn fn, void *data,
			struct watch **ret_watch)
{
	return make_watch(loop, path, true, fn, data, ret_watch);
}

void watch_free(struct watch *watch)
{
	if (!watch)
		return;
	struct hub *hub = watch->hub;
	struct watch **at = &hub->watches;

	while (*at != watch)
		at = &(*at)->next;
	*at = watch->next;
	set_descriptor(watch, -1);
	loop_timer_stop(&watch->retry);
	free(watch->path);
	free(watch);
	if (!hub->watches)
		free_hub(hub);
}
