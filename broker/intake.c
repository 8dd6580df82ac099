/* Where events come in: see intake.h. Owns the listening socket, the connections of helpers and
 * the watch on the spool. */
#include "broker/intake.h"

#include <limits.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "broker/acted.h"
#include "broker/event.h"
#include "broker/log.h"
#include "broker/socket.h"
#include "broker/store.h"
#include "broker/watch.h"
#include "helper/spool.h"

#define MAX_CLIENTS 256    /* more stay in the backlog */
#define CLIENT_MS 2000     /* for its message to arrive; a helper sends at once */
#define SPOOL_RETRY_MS 200 /* while the database can't be written: twice as long each time */
#define SPOOL_MAX_MS 5000
#define SPOOL_ERROR_MS 2000 /* while it can't be read: no descriptors left, say */
#define ACCEPT_RETRY_MS 1000
#define SPOOL_BATCH 128 /* events a transaction */

/* One connection of a helper. It is in the list from accept to the end. */
struct intake_client {
	struct intake_client *next;  /* in intake->clients */
	struct intake_client *chain; /* who waits for the same thing */
	struct intake *intake;
	struct loop_source *source;
	struct loop_timer limit;
	int fd;
	bool received, flushed;
	bool is_added;    /* its event is in a transaction, the end of which is still to come */
	bool is_kept;     /* its event is in the database */
	bool is_answered; /* … as soon as that is known */
	struct event event;
	struct wire_msg msg;
	struct loop_garbage garbage;
};

struct intake {
	struct loop *loop;
	struct store *store;
	const struct intake_handler *handler;
	void *data;
	int listen_fd;
	char path[sizeof(((struct sockaddr_un *) 0)->sun_path)]; /* ours to remove; or "" */
	char *run_directory;
	struct loop_source *source;
	struct watch *spool_watch, *socket_watch;
	ino_t inode; /* of our socket at PATH */
	struct loop_timer spool_retry, accept_retry, listen_retry;
	unsigned spool_ms; /* the pause before the last retry; 0: all went well */
	struct intake_client *clients;
	size_t n_clients, n_received;
	struct acted acted;
};

/* Clients */

static void free_client(void *data)
{
	free(data);
}

static void accept_more(struct intake *intake)
{
	if (intake->source && intake->n_clients == MAX_CLIENTS - 1)
		loop_source_set_events(intake->source, EPOLLIN);
}

static void client_close(struct intake_client *client)
{
	struct intake *intake = client->intake;
	struct intake_client **at = &intake->clients;

	while (*at != client)
		at = &(*at)->next;
	*at = client->next;
	intake->n_clients--;
	loop_timer_stop(&client->limit);
	client->source = loop_source_free(client->source);
	client->fd = close_fd(client->fd);
	loop_discard(intake->loop, &client->garbage, free_client, client);
	accept_more(intake);
}

static void client_answer(struct intake_client *client, char byte)
{
	/* A helper that has given up in the meantime has spooled its event: seen already then. */
	if (send(client->fd, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		log_debug("a helper did not wait for its answer: %s", strerror(errno));
	client_close(client);
}

void intake_acknowledge(struct intake_client *client)
{
	if (client && client->is_added)
		client->is_answered = true;
	else if (client)
		client_answer(client, client->is_kept ? WIRE_TAKEN : WIRE_REFUSED);
}

struct intake_client *intake_chain(struct intake_client *client, struct intake_client *list)
{
	if (!client)
		return list;
	client->chain = list;
	return client;
}

struct intake_client *intake_acknowledge_all(struct intake_client *list)
{
	while (list) {
		struct intake_client *next = list->chain;

		intake_acknowledge(list);
		list = next;
	}
	return NULL;
}

/* Events */

static void client_timeout(void *data)
{
	log_debug("a connection brought no message");
	client_close(data);
}

static void client_readable(void *data, uint32_t events)
{
	struct intake_client *client = data;
	ssize_t n;

	(void) events;
	if (client->received) {
		/* Gone, or talking out of turn; its event is on its way all the same. */
		client->source = loop_source_free(client->source);
		return;
	}
	n = recv(client->fd, client->msg.data, sizeof(client->msg.data), MSG_DONTWAIT | MSG_TRUNC);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	client->msg.len = n > 0 ? (size_t) n : 0;
	const char *action = NULL;
	if (n > 0 && wire_check(&client->msg) == 0)
		action = wire_get(&client->msg, "ACTION");
	if (action && streq(action, "reconcile")) {
		client->received = client->flushed = client->is_kept = true;
		client->intake->handler->reconcile(client->intake->data);
		intake_acknowledge(client);
		return;
	}
	if (!action || event_read(&client->msg, &client->event) < 0) {
		if (n > 0)
			log_warning("refused a message that is no event");
		client_close(client);
		return;
	}
	client->received = true;
	client->intake->n_received++;
	loop_timer_stop(&client->limit);
}

static void client_new(struct intake *intake, int fd)
{
	struct intake_client *client = calloc(1, sizeof(*client)), **at = &intake->clients;

	if (!client) {
		close(fd);
		return;
	}
	client->intake = intake;
	client->fd = fd;
	while (*at)
		at = &(*at)->next;
	*at = client;
	intake->n_clients++;
	if (loop_add(intake->loop, fd, EPOLLIN, client_readable, client, &client->source) < 0) {
		client_close(client);
		return;
	}
	loop_timer_start(intake->loop, &client->limit, CLIENT_MS, client_timeout, client);
	client_readable(client, EPOLLIN);
}

/* Only who we are, and root: the message decides where descriptors opened by root go. */
static bool may_talk(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) < 0)
		return false;
	if (peer.uid == 0 || peer.uid == geteuid())
		return true;
	log_warning("refused a connection of uid %u, process %d", (unsigned) peer.uid,
		    (int) peer.pid);
	return false;
}

static void accept_again(void *data)
{
	struct intake *intake = data;

	if (intake->source)
		loop_source_set_events(intake->source, EPOLLIN);
}

static void listener_readable(void *data, uint32_t events)
{
	struct intake *intake = data;

	(void) events;
	while (intake->n_clients < MAX_CLIENTS) {
		int fd = accept4(intake->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd < 0 && errno == EAGAIN)
			return;
		if (fd < 0) {
			/* No descriptors left, say. The helpers spool meanwhile. */
			log_warning("can't accept a helper: %s", strerror(errno));
			loop_source_set_events(intake->source, 0);
			loop_timer_start(intake->loop, &intake->accept_retry, ACCEPT_RETRY_MS,
					 accept_again, intake);
			return;
		}
		if (may_talk(fd))
			client_new(intake, fd);
		else
			close(fd);
	}
	loop_source_set_events(intake->source, 0);
}

/* Marks what has been received as on its way; collects at most MAX of it. */
static size_t take_received(struct intake *intake, struct intake_client **clients, size_t max)
{
	size_t n = 0;

	for (struct intake_client *c = intake->clients; c && n < max; c = c->next)
		if (c->received && !c->flushed) {
			c->flushed = true;
			clients[n++] = c;
		}
	intake->n_received -= n;
	return n;
}

/* The job comes first: what the database can't take is done all the same. The event itself is in
 * the spool then, or its helper, whose event is refused, puts it there; it is not done once more
 * from there. */
static void take_as_new(struct event **events, size_t n)
{
	for (size_t i = 0; i < n; i++)
		events[i]->is_new = true;
}

void intake_flush(struct intake *intake)
{
	struct intake_client *clients[MAX_CLIENTS];
	struct event *events[MAX_CLIENTS];
	size_t n = intake->n_received > 0 ? take_received(intake, clients, MAX_CLIENTS) : 0;

	if (n == 0)
		return;
	for (size_t i = 0; i < n; i++)
		events[i] = &clients[i]->event;
	bool is_added = store_add_events(intake->store, events, n) == 0;
	if (!is_added)
		take_as_new(events, n);
	for (size_t i = 0; i < n; i++) {
		clients[i]->is_added = is_added;
		if (acted_note(&intake->acted, &clients[i]->event, is_added))
			intake->handler->event(intake->data, &clients[i]->event, &clients[i]->msg,
					       clients[i]);
		else
			intake_acknowledge(clients[i]);
	}
}

void intake_settle(struct intake *intake, bool kept)
{
	struct intake_client *next;

	for (struct intake_client *c = intake->clients; c; c = next) {
		next = c->next;
		if (!c->is_added)
			continue;
		c->is_added = false;
		c->is_kept = kept;
		if (!kept)
			acted_note(&intake->acted, &c->event, false);
		if (c->is_answered)
			intake_acknowledge(c);
	}
}

/* Spool */

struct spooled {
	uint64_t number; /* the file */
	struct event event;
	struct wire_msg msg;
};

/* Reads up to SPOOL_BATCH events from *AT on; what can't be one is said and removed. What can't be
 * read now is left for later: an event may come after all that follow it, but is never lost.
 * Returns 0 or the first such error. */
static int read_batch(int dir_fd, const uint64_t *numbers, size_t n, size_t *at,
		      struct spooled *batch, size_t *ret_got)
{
	size_t got = 0;
	int result = 0;

	for (; *at < n && got < SPOOL_BATCH && result == 0; (*at)++) {
		struct spooled *s = &batch[got];
		int r = spool_read(dir_fd, numbers[*at], &s->msg);

		if (r == 0)
			r = event_read(&s->msg, &s->event);
		s->number = numbers[*at];
		if (r == 0) {
			got++;
		} else if (r != -EPERM && r != -EBADMSG) {
			result = r == -ENOENT ? 0 : r;
		} else {
			log_warning("spool: dropped %llu, which is no event: %s",
				    (unsigned long long) s->number, strerror(-r));
			spool_remove(dir_fd, s->number);
		}
	}
	*ret_got = got;
	return result;
}

/* What can't be kept stays in the spool; and so does the rest until it is on disk, with what it has
 * changed. */
static int drain_batch(struct intake *intake, int dir_fd, struct spooled *batch, size_t n)
{
	struct event *events[SPOOL_BATCH];

	for (size_t i = 0; i < n; i++)
		events[i] = &batch[i].event;
	int r = store_add_events(intake->store, events, n);
	bool is_added = r == 0;
	if (!is_added)
		take_as_new(events, n);
	for (size_t i = 0; i < n; i++)
		if (acted_note(&intake->acted, events[i], is_added))
			intake->handler->event(intake->data, events[i], &batch[i].msg, NULL);
	store_flush(intake->store);
	if (is_added)
		r = store_lost_events(intake->store);
	for (size_t i = 0; i < n; i++)
		if (r == 0)
			spool_remove(dir_fd, batch[i].number);
		else
			acted_note(&intake->acted, events[i], false);
	return r;
}

static void retry_spool(void *data)
{
	intake_drain_spool(data);
}

/* Reads all of it. Returns 0 or why it could not be read; *RET_KEPT: why the database could not be
 * written, or 0. */
static int drain_all(struct intake *intake, int *ret_kept)
{
	_cleanup_close_ int dir_fd = -1;
	_cleanup_free_ uint64_t *numbers = NULL;
	_cleanup_free_ struct spooled *batch = calloc(SPOOL_BATCH, sizeof(*batch));
	size_t n = 0, at = 0, got;
	int r = spool_open(intake->run_directory, &dir_fd);

	*ret_kept = 0;
	if (r == 0)
		r = batch ? spool_list(dir_fd, &numbers, &n) : -ENOMEM;
	if (n > 0 && intake->spool_ms == 0)
		log_info("spool: %zu events were waiting", n);
	while (r == 0 && at < n) {
		r = read_batch(dir_fd, numbers, n, &at, batch, &got);
		int kept = drain_batch(intake, dir_fd, batch, got);
		*ret_kept = *ret_kept < 0 ? *ret_kept : kept;
	}
	if (r == 0 && *ret_kept == 0 && spool_take_lost(dir_fd) == 1) {
		log_warning("spool: it was full and an event was lost; looking at every device");
		intake->handler->reconcile(intake->data);
	}
	return r;
}

void intake_drain_spool(struct intake *intake)
{
	unsigned pause = intake->spool_ms;
	int kept, r = drain_all(intake, &kept);

	intake->spool_ms = 0;
	if (r == 0 && kept == 0)
		return;
	if (r < 0) {
		log_error("can't read the spool below %s: %s", intake->run_directory, strerror(-r));
		pause = SPOOL_ERROR_MS;
	} else if (pause == 0 || kept == -EAGAIN) {
		pause = SPOOL_RETRY_MS;
	} else {
		pause = pause * 2 < SPOOL_MAX_MS ? pause * 2 : SPOOL_MAX_MS;
	}
	intake->spool_ms = pause;
	loop_timer_start(intake->loop, &intake->spool_retry, pause, retry_spool, intake);
}

static void spool_changed(void *data)
{
	struct intake *intake = data;

	/* Our own removals are changes too: only look when nothing is to be retried anyway. */
	if (!intake->spool_retry.loop)
		loop_timer_start(intake->loop, &intake->spool_retry, 0, retry_spool, intake);
}

/* Set-up */

static void look_at_socket(void *data);

static int make_listener(struct intake *intake)
{
	struct stat st;

	if (mkdir(intake->run_directory, 0755) < 0 && errno != EEXIST)
		return -errno;
	if ((size_t) snprintf(intake->path, sizeof(intake->path), "%s/%s", intake->run_directory,
			      WIRE_SOCKET_NAME) >= sizeof(intake->path)) {
		intake->path[0] = 0;
		return -ENAMETOOLONG;
	}
	/* A broker that was killed leaves its socket; that no other one runs is certain by now. */
	int fd = socket_listen(intake->path, SOCK_SEQPACKET, SOMAXCONN, (uid_t) -1);
	if (fd < 0)
		return fd;
	intake->inode = stat(intake->path, &st) == 0 ? st.st_ino : 0;
	intake->listen_fd = fd;
	return loop_add(intake->loop, fd, EPOLLIN, listener_readable, intake, &intake->source);
}

static void listen_again(void *data)
{
	look_at_socket(data);
}

/* Somebody has cleared the directory: without its socket the broker is deaf. */
static void look_at_socket(void *data)
{
	struct intake *intake = data;
	struct stat st;

	if (stat(intake->path, &st) == 0 && st.st_ino == intake->inode)
		return;
	log_warning("%s was removed: making it again", intake->path);
	intake->source = loop_source_free(intake->source);
	intake->listen_fd = close_fd(intake->listen_fd);
	int r = make_listener(intake);
	if (r == 0) {
		intake_drain_spool(intake);
		return;
	}
	log_error("can't take events below %s: %s", intake->run_directory, strerror(-r));
	intake->inode = 0;
	loop_timer_start(intake->loop, &intake->listen_retry, ACCEPT_RETRY_MS, listen_again,
			 intake);
}

static int watch_spool(struct intake *intake)
{
	char path[PATH_MAX];
	_cleanup_close_ int dir_fd = -1;
	int r = spool_open(intake->run_directory, &dir_fd);

	if (r < 0)
		return r;
	if ((size_t) snprintf(path, sizeof(path), "%s/%s", intake->run_directory,
			      WIRE_SPOOL_NAME) >= sizeof(path))
		return -ENAMETOOLONG;
	return watch_new_directory(intake->loop, path, spool_changed, intake, &intake->spool_watch);
}

int intake_new(struct loop *loop, const char *run_directory, int listen_fd, struct store *store,
	       const struct intake_handler *handler, void *data, struct intake **ret_intake)
{
	struct intake *intake = calloc(1, sizeof(*intake));
	int r = 0;

	if (!intake)
		return -ENOMEM;
	intake->loop = loop;
	intake->store = store;
	intake->handler = handler;
	intake->data = data;
	intake->listen_fd = listen_fd;
	intake->run_directory = strdup(run_directory);
	if (!intake->run_directory)
		r = -ENOMEM;
	if (r == 0 && listen_fd < 0) {
		r = make_listener(intake);
		if (r == 0)
			r = watch_new(loop, intake->path, look_at_socket, intake,
				      &intake->socket_watch);
	} else if (r == 0) {
		r = loop_add(loop, listen_fd, EPOLLIN, listener_readable, intake, &intake->source);
	}
	if (r == 0)
		r = watch_spool(intake);
	if (r < 0) {
		log_error("can't take events below %s: %s", run_directory, strerror(-r));
		intake_free(intake);
		return r;
	}
	*ret_intake = intake;
	return 0;
}

void intake_free(struct intake *intake)
{
	if (!intake)
		return;
	intake->source = loop_source_free(intake->source);
	while (intake->clients)
		client_close(intake->clients);
	loop_timer_stop(&intake->spool_retry);
	loop_timer_stop(&intake->accept_retry);
	loop_timer_stop(&intake->listen_retry);
	watch_free(intake->spool_watch);
	watch_free(intake->socket_watch);
	close_fd(intake->listen_fd);
	if (intake->path[0])
		unlink(intake->path);
	free(intake->run_directory);
	free(intake);
}
