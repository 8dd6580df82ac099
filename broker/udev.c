/* Reading udev's database: see udev.h. Used by the manager at start and after the rules changed.
 *
 * libudev also reads the device's uevent file, and that waits for the device's lock, which a device
 * may hold for as long as it likes. So a child process does the reading, and what it does not tell
 * in time is left as it is. */
#include "broker/udev.h"

#include <libudev.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "broker/log.h"
#include "broker/worker.h"
#include "conf/array.h"
#include "helper/property.h"
#include "helper/root.h"
#include "helper/wire.h"

#define TAGGED "/run/udev/tags/vhotplug" /* one entry a device, by its device id */
#define PATIENCE_MS 500                  /* for one device */

struct udev_query {
	struct loop *loop;
	char **ids;     /* device ids, and paths in sysfs */
	size_t n, next; /* next: the one that is being told of */
	int fd;         /* of who tells, or -1 */
	struct loop_source *source;
	struct loop_timer patience;
	struct overtaken {
		struct overtaken *next;
		char devpath[];
	} * overtaken;
	const struct udev_listener *listener;
	void *data;
};

/* The child */

/* What has no room in the message is left out, as the helper does it (helper/collect.c). */
static int add_properties(struct wire_msg *msg, struct udev_device *device)
{
	int r = wire_add(msg, "DEVPATH", udev_device_get_devpath(device));

	if (r == 0 && udev_device_get_is_initialized(device) > 0)
		r = wire_add(msg, UDEV_KNOWN, "1");
	for (size_t i = 0; r == 0 && i < PROPERTIES; i++) {
		const char *name = property_table[i].name;
		const char *value = udev_device_get_property_value(device, name);

		if (value && (r = wire_add(msg, name, value)) == -EMSGSIZE)
			r = 0;
	}
	return r;
}

/* One message about the device ID, a device id or a path in sysfs. An empty one when there is no
 * such device. */
static void tell_device(struct udev *udev, const char *id, int fd)
{
	struct udev_device *device = *id == '/' ? udev_device_new_from_syspath(udev, id)
						: udev_device_new_from_device_id(udev, id);
	struct wire_msg msg;

	wire_init(&msg);
	if (device && add_properties(&msg, device) < 0)
		wire_init(&msg);
	if (send(fd, msg.data, msg.len, MSG_NOSIGNAL) < 0)
		_exit(0); /* nobody waits any more */
	udev_device_unref(device);
}

/* Starts a process that tells about the N devices in IDS, one after the other. It is nobody's
 * child, so that nobody has to wait for it when it is stuck. Returns the socket it talks on, or
 * -errno. */
static int start_teller(char *const *ids, size_t n)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0) {
		if (fork() == 0) {
			struct udev *udev = udev_new();
			int fd = worker_keep_only(pair[1]);

			for (size_t i = 0; udev && i < n; i++)
				tell_device(udev, ids[i], fd);
		}
		_exit(0);
	}
	close(pair[1]);
	if (pid < 0) {
		close(pair[0]);
		return -EAGAIN;
	}
	waitpid(pid, NULL, 0);
	return pair[0];
}

/* The question */

static void stop_listening(struct udev_query *query)
{
	loop_timer_stop(&query->patience);
	query->source = loop_source_free(query->source);
	query->fd = close_fd(query->fd);
}

static void udev_is_silent(void *data);

static void await_next(struct udev_query *query)
{
	loop_timer_start(query->loop, &query->patience, PATIENCE_MS, udev_is_silent, query);
}

static const char *get_property(void *device, const char *key)
{
	return wire_get(device, key);
}

static bool is_overtaken(const struct udev_query *query, const char *devpath)
{
	for (const struct overtaken *o = query->overtaken; o; o = o->next)
		if (streq(o->devpath, devpath))
			return true;
	return false;
}

static void hear_device(struct udev_query *query, struct wire_msg *msg)
{
	const char *devpath = wire_check(msg) == 0 ? wire_get(msg, "DEVPATH") : NULL;

	query->next++;
	if (devpath && !is_overtaken(query, devpath))
		query->listener->device(query->data, devpath, get_property, msg);
}

static void answer_is_readable(void *data, uint32_t events)
{
	struct udev_query *query = data;
	struct wire_msg msg;
	ssize_t n = 0;

	(void) events;
	while (query->next < query->n &&
	       (n = recv(query->fd, msg.data, sizeof(msg.data), MSG_DONTWAIT)) > 0) {
		msg.len = (size_t) n;
		hear_device(query, &msg);
	}
	if (query->next < query->n && n < 0 && errno == EAGAIN) {
		await_next(query);
		return;
	}
	/* At its end, or who tells has died of a device. */
	stop_listening(query);
	if (query->next < query->n)
		udev_is_silent(query);
	else
		query->listener->done(query->data, 0);
}

/* Has somebody tell of the next device and those after it. */
static void go_on(struct udev_query *query)
{
	int r = 0;

	if (query->next < query->n) {
		int fd = start_teller(query->ids + query->next, query->n - query->next);

		query->fd = fd < 0 ? -1 : fd;
		r = fd < 0 ? fd
			   : loop_add(query->loop, fd, EPOLLIN, answer_is_readable, query,
				      &query->source);
		if (r == 0) {
			await_next(query);
			return;
		}
		stop_listening(query);
	}
	query->listener->done(query->data, r);
}

static void udev_is_silent(void *data)
{
	struct udev_query *query = data;

	log_warning("%s does not respond: what udev says of it can't be read now",
		    query->ids[query->next++]);
	stop_listening(query);
	go_on(query);
}

static void begin_query(void *data)
{
	go_on(data);
}

static int add_id(struct udev_query *query, const char *before, const char *id)
{
	char **place = ARRAY_APPEND(query->ids, query->n);

	if (place && asprintf(place, "%s%s", before, id) >= 0)
		return 0;
	if (place)
		*place = NULL;
	return -ENOMEM;
}

/* Not by udev_enumerate, which reads the devices as well. */
static int add_tagged(struct udev_query *query)
{
	const struct dirent *entry;
	DIR *dir = root_opendir(TAGGED);
	int r = 0;

	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	while (r == 0 && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			r = add_id(query, "", entry->d_name);
	closedir(dir);
	return r;
}

int udev_ask(struct loop *loop, const char *const *devpaths, size_t n,
	     const struct udev_listener *listener, void *data, struct udev_query **ret_query)
{
	struct udev_query *query = calloc(1, sizeof(*query));

	if (!query)
		return -ENOMEM;
	query->loop = loop;
	query->fd = -1;
	query->listener = listener;
	query->data = data;
	int r = add_tagged(query);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = add_id(query, "/sys", devpaths[i]);
	if (r < 0) {
		udev_query_free(query);
		return r;
	}
	loop_timer_start(loop, &query->patience, 0, begin_query, query);
	*ret_query = query;
	return 0;
}

void udev_overtaken(struct udev_query *query, const char *devpath)
{
	struct overtaken *o;

	if (!query || is_overtaken(query, devpath))
		return;
	o = malloc(sizeof(*o) + strlen(devpath) + 1);
	if (!o)
		return;
	strcpy(o->devpath, devpath);
	o->next = query->overtaken;
	query->overtaken = o;
}

struct udev_query *udev_query_free(struct udev_query *query)
{
	if (!query)
		return NULL;
	stop_listening(query);
	while (query->overtaken) {
		struct overtaken *next = query->overtaken->next;

		free(query->overtaken);
		query->overtaken = next;
	}
	while (query->n > 0)
		free(query->ids[--query->n]);
	free(query->ids);
	free(query);
	return NULL;
}
