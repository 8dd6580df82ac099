/* Connections of people and programs: see control.h. broker/control_listen.c brings them. */
#include "broker/control.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#include "broker/budget.h"
#include "broker/log.h"

#define READ_SIZE 4096
#define PAUSE_MS 20
#define ROOM_KEPT 4096 /* bytes of a buffer that its client keeps in any case */

struct control {
	struct loop *loop;
	const struct control_handler *handler;
	void *data;
	gid_t group, readers;
	struct control_client *clients;
	size_t n_clients, n_readers;
	size_t unread;             /* bytes, of all clients */
	struct budget bytes, time; /* what those may have who may not change anything */
};

/* Has it gone? Then nothing comes of its socket but what it has sent before. */
static bool has_gone(const struct control_client *client)
{
	return !client->source;
}

static void watch_client(struct control_client *client)
{
	bool reads = !client->has_ended && !client->pause.loop &&
		     client->in_length < CONTROL_LINE_MAX &&
		     client->out_length < CONTROL_EVENTS_MAX;

	if (!has_gone(client))
		loop_source_set_events(client->source,
				       (reads ? EPOLLIN : 0U) |
					       (client->out_length > 0 ? EPOLLOUT : 0U));
}

static void client_free(void *data)
{
	struct control_client *client = data;

	free(client->in);
	free(client->out);
	free(client);
}

static void unlink_client(struct control_client *client)
{
	struct control_client **at = &client->control->clients;

	while (*at != client)
		at = &(*at)->next;
	*at = client->next;
	client->control->n_clients--;
	client->control->n_readers -= !client->may_change;
	client->control->unread -= client->out_length;
}

static void client_close(struct control_client *client)
{
	struct control *control = client->control;

	if (client->is_closed)
		return;
	client->is_closed = true;
	unlink_client(client);
	loop_timer_stop(&client->stall);
	loop_timer_stop(&client->pause);
	client->source = loop_source_free(client->source);
	client->fd = close_fd(client->fd);
	control->handler->gone(control->data, client);
	loop_discard(control->loop, &client->garbage, client_free, client);
}

void control_hang_up(struct control_client *client)
{
	client_close(client);
}

static void client_stalls(void *data)
{
	struct control_client *client = data;

	log_info("a client of uid %d does not read what it has asked for: hung up on it",
		 (int) client->uid);
	client_close(client);
}

/* Whoever has asked and hung up half its line still gets its answer. */
static bool is_done(const struct control_client *client)
{
	return client->has_ended && !client->is_held && !client->pause.loop &&
	       client->out_length == 0;
}

/* Room for N more bytes behind LENGTH in BUFFER. */
static bool make_room(char **buffer, size_t *size, size_t length, size_t n)
{
	size_t wanted = *size > 0 ? *size : 512;
	char *bigger;

	while (wanted < length + n)
		wanted *= 2;
	if (wanted == *size)
		return true;
	bigger = realloc(*buffer, wanted);
	if (!bigger)
		return false;
	*buffer = bigger;
	*size = wanted;
	return true;
}

/* The way back, with LENGTH bytes left in BUFFER: who has had one long answer and stays does not
 * keep the room for it. */
static void give_back_room(char **buffer, size_t *size, size_t length)
{
	size_t wanted = *size;
	char *smaller;

	while (wanted > ROOM_KEPT && length < wanted / 4)
		wanted /= 2;
	smaller = wanted < *size ? realloc(*buffer, wanted) : NULL;
	if (!smaller)
		return;
	*buffer = smaller;
	*size = wanted;
}

/* It hears no answer any more. What it has sent is done all the same, but for questions: those of
 * who may only look are for nobody now. */
static void client_goes_deaf(struct control_client *client)
{
	if (!client->may_change) {
		client_close(client);
		return;
	}
	client->is_deaf = true;
	client->control->unread -= client->out_length;
	client->out_length = 0;
	give_back_room(&client->out, &client->out_size, client->out_length);
	loop_timer_stop(&client->stall);
}

static void write_out(struct control_client *client)
{
	size_t sent = 0;

	while (sent < client->out_length) {
		ssize_t n = send(client->fd, client->out + sent, client->out_length - sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN) {
			client_goes_deaf(client);
			return;
		}
		if (n < 0)
			break;
		sent += (size_t) n;
	}
	client->control->unread -= sent;
	client->out_length -= sent;
	memmove(client->out, client->out + sent, client->out_length);
	give_back_room(&client->out, &client->out_size, client->out_length);
	if (client->out_length == 0)
		loop_timer_stop(&client->stall);
	else if (sent > 0 || !client->stall.loop)
		loop_timer_start(client->control->loop, &client->stall, CONTROL_STALL_MS,
				 client_stalls, client);
}

static void append_text(struct control_client *client, const char *text, size_t length)
{
	if (client->control->unread + length > CONTROL_TOTAL_MAX ||
	    client->out_length + length > CONTROL_UNREAD_MAX ||
	    !make_room(&client->out, &client->out_size, client->out_length, length + 1)) {
		log_info("too much lies unread for a client of uid %d: hung up on it",
			 (int) client->uid);
		client_close(client);
		return;
	}
	memcpy(client->out + client->out_length, text, length);
	client->out[client->out_length + length] = '\n';
	client->out_length += length + 1;
	client->control->unread += length + 1;
	if (!client->may_change)
		budget_use(&client->control->bytes, length, now_monotonic_ms());
	write_out(client);
	if (!client->is_closed)
		watch_client(client);
}

void control_send(struct control_client *client, const char *text, size_t length)
{
	if (!client->is_closed && !client->is_deaf)
		append_text(client, text, length);
}

void control_send_event(struct control_client *client, const char *text, size_t length)
{
	if (client->is_closed || client->is_deaf)
		return;
	if (client->out_length > CONTROL_EVENTS_MAX) {
		client_stalls(client);
		return;
	}
	append_text(client, text, length);
}

static void client_go_on(struct control_client *client);

static void pause_is_over(void *data)
{
	client_go_on(data);
}

/* In how many ms the next line of those who may only read is answered; 0: now. */
static uint64_t readers_wait(struct control *control)
{
	uint64_t now = now_monotonic_ms();
	uint64_t bytes = budget_wait(&control->bytes, CONTROL_READERS_LINE, now);
	uint64_t time = budget_wait(&control->time, 0, now);

	return bytes > time ? bytes : time;
}

/* It has a line: may that be answered now? Otherwise later. */
static bool may_ask(struct control_client *client)
{
	struct control *control = client->control;
	uint64_t wait = client->may_change ? 0 : readers_wait(control);

	if (wait == 0)
		return true;
	loop_timer_start(control->loop, &client->pause, wait < PAUSE_MS ? PAUSE_MS : wait,
			 pause_is_over, client);
	return false;
}

/* The system's own clock: the loop's counts whole milliseconds, and most answers take less. */
static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t) now.tv_sec * 1000000 + (uint64_t) now.tv_nsec / 1000;
}

/* A short question can be a long search: the time counts, too. */
static void handle_line(struct control_client *client, const char *line, size_t length)
{
	struct control *control = client->control;
	uint64_t start = now_us();

	control->handler->line(control->data, client, line, length);
	if (client->may_change)
		return;
	budget_use(&control->bytes, CONTROL_READERS_LINE, now_monotonic_ms());
	budget_use(&control->time, now_us() - start, now_monotonic_ms());
}

/* Hands out whole lines as long as nothing has to be waited for. */
static void handle_lines(struct control_client *client)
{
	size_t from = 0;

	while (!client->is_closed && !client->is_held && client->out_length < CONTROL_EVENTS_MAX) {
		char *line = client->in + from;
		char *end = client->in_length > from ? memchr(line, '\n', client->in_length - from)
						     : NULL;
		if (!end || !may_ask(client))
			break;
		*end = 0;
		from += (size_t) (end - line) + 1;
		handle_line(client, line, (size_t) (end - line));
	}
	client->in_length -= from;
	if (from > 0) {
		memmove(client->in, client->in + from, client->in_length);
		give_back_room(&client->in, &client->in_size, client->in_length);
	}
}

static void read_in(struct control_client *client)
{
	ssize_t n;

	if (!make_room(&client->in, &client->in_size, client->in_length, READ_SIZE)) {
		client_close(client);
		return;
	}
	n = recv(client->fd, client->in + client->in_length, READ_SIZE, MSG_DONTWAIT);
	if (n > 0)
		client->in_length += (size_t) n;
	else if (n == 0)
		client->has_ended = true;
	else if (errno != EAGAIN && errno != EINTR)
		client_close(client);
}

/* The rest of what one that has gone has sent, up to a line that has to be waited for. */
static void handle_rest(struct control_client *client)
{
	while (has_gone(client) && !client->is_closed && !client->has_ended && !client->is_held &&
	       client->in_length < CONTROL_LINE_MAX) {
		size_t before = client->in_length;

		read_in(client);
		client->has_ended = client->in_length == before;
		handle_lines(client);
	}
}

/* After whatever has happened to CLIENT: goes on, waits for more, or ends. */
static void client_go_on(struct control_client *client)
{
	static const char words[] =
		"{\"result\": \"failed\", \"error\": "
		"\"a request has at most 65536 bytes, and ends with a newline\"}";

	handle_lines(client);
	handle_rest(client);
	if (client->is_closed)
		return;
	if (client->in_length >= CONTROL_LINE_MAX && !client->is_held &&
	    !memchr(client->in, '\n', client->in_length)) {
		control_send(client, words, sizeof(words) - 1);
		client_close(client);
		return;
	}
	if (is_done(client))
		client_close(client);
	else
		watch_client(client);
}

/* Who closes a unix socket while answers lie there unread leaves an error behind, not only an end.
 * Source: kernel, net/unix/af_unix.c, unix_release_sock. */
static void client_event(void *data, uint32_t events)
{
	struct control_client *client = data;

	if (events & (EPOLLHUP | EPOLLERR)) {
		client_goes_deaf(client);
		/* It would be told at every pass. */
		client->source = loop_source_free(client->source);
	} else {
		if (events & EPOLLOUT)
			write_out(client);
		if (!client->is_closed && (events & EPOLLIN))
			read_in(client);
	}
	if (!client->is_closed)
		client_go_on(client);
}

void control_hold(struct control_client *client)
{
	client->is_held = true;
}

void control_release(struct control_client *client)
{
	client->is_held = false;
	if (!client->is_closed)
		client_go_on(client);
}

struct control_client *control_clients(const struct control *control)
{
	return control->clients;
}

/* Is the process behind FD in GROUP? */
static bool is_member(int fd, gid_t gid, gid_t group)
{
	gid_t groups[256];
	socklen_t size = sizeof(groups);

	if (group == (gid_t) -1 || gid == group)
		return group != (gid_t) -1;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) < 0)
		return false;
	for (size_t i = 0; i < size / sizeof(*groups); i++)
		if (groups[i] == group)
			return true;
	return false;
}

/* What the process behind the client may do. The kernel has noted who it is at connect(2).
 * Source: socket(7), SO_PEERCRED, SO_PEERGROUPS. */
static void note_rights(struct control_client *client, bool is_trusted)
{
	const struct control *control = client->control;
	struct ucred peer;
	socklen_t size = sizeof(peer);
	bool is_known = getsockopt(client->fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0;

	client->uid = is_known ? peer.uid : (uid_t) -1;
	client->may_change = is_trusted;
	if (is_known && !is_trusted)
		client->may_change = peer.uid == 0 || peer.uid == geteuid() ||
				     is_member(client->fd, peer.gid, control->group);
	client->may_read_history = client->may_change || control->readers == (gid_t) -1 ||
				   (is_known && is_member(client->fd, peer.gid, control->readers));
}

static bool is_full(const struct control *control, const struct control_client *client)
{
	return control->n_clients >= CONTROL_CLIENTS_MAX ||
	       (!client->may_change && control->n_readers >= CONTROL_READERS_MAX);
}

static void refuse_caller(int fd)
{
	static const char words[] =
		"{\"result\": \"failed\", \"error\": \"too many clients are connected\"}\n";

	if (send(fd, words, sizeof(words) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		log_debug("a client too many has gone already");
	close(fd);
}

void control_accept(struct control *control, int fd, enum control_dialect dialect, bool is_trusted)
{
	struct control_client *client = calloc(1, sizeof(*client));

	if (!client) {
		close(fd);
		return;
	}
	client->control = control;
	client->dialect = dialect;
	client->fd = fd;
	note_rights(client, is_trusted);
	if (is_full(control, client) ||
	    loop_add(control->loop, fd, EPOLLIN, client_event, client, &client->source) < 0) {
		refuse_caller(fd);
		free(client);
		return;
	}
	client->next = control->clients;
	control->clients = client;
	control->n_clients++;
	control->n_readers += !client->may_change;
}

void control_set_group(struct control *control, gid_t group)
{
	control->group = group;
}

void control_set_readers(struct control *control, gid_t readers)
{
	control->readers = readers;
}

int control_new(struct loop *loop, const struct control_handler *handler, void *data,
		struct control **ret_control)
{
	struct control *control = calloc(1, sizeof(*control));

	if (!control)
		return -ENOMEM;
	control->loop = loop;
	control->handler = handler;
	control->data = data;
	control->group = control->readers = (gid_t) -1;
	budget_init(&control->bytes, CONTROL_READERS_BURST, CONTROL_READERS_RATE);
	budget_init(&control->time, CONTROL_READERS_TIME, CONTROL_READERS_SHARE);
	*ret_control = control;
	return 0;
}

void control_free(struct control *control)
{
	if (!control)
		return;
	while (control->clients)
		client_close(control->clients);
	free(control);
}
