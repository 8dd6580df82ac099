/* One question over HTTP: see http.h. */
#include "broker/http.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#define ROOM 16384 /* read at once */
#define PAUSE_MS 50

struct http {
	struct loop *loop;
	struct loop_garbage garbage;
	struct loop_source *source;
	struct loop_timer deadline, pause;
	struct budget *input; /* NULL: no limit */
	int fd;
	char *out;
	size_t n_out, n_sent;
	char *in;
	size_t n_in;
	http_fn fn;
	void *data;
};

static void free_http(void *data)
{
	struct http *http = data;

	free(http->out);
	free(http->in);
	free(http);
}

struct http *http_cancel(struct http *http)
{
	if (!http)
		return NULL;
	loop_timer_stop(&http->deadline);
	loop_timer_stop(&http->pause);
	http->source = loop_source_free(http->source);
	http->fd = close_fd(http->fd);
	loop_discard(http->loop, &http->garbage, free_http, http);
	return NULL;
}

/* The memory, and so ANSWER, stays until the end of the pass. */
static void end_exchange(struct http *http, int r, const struct http_answer *answer)
{
	http_cancel(http);
	http->fn(http->data, r, r == 0 ? answer : NULL);
}

static void is_too_late(void *data)
{
	end_exchange(data, -ETIMEDOUT, NULL);
}

/* An error is seen by who receives. */
static void send_rest(struct http *http)
{
	while (http->n_sent < http->n_out) {
		ssize_t n = send(http->fd, http->out + http->n_sent, http->n_out - http->n_sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0)
			break;
		http->n_sent += (size_t) n;
	}
	loop_source_set_events(http->source, EPOLLIN);
}

/* Takes what is there. Returns 1 at the end of the connection, 0, or -errno. */
static int receive_answer(struct http *http)
{
	for (;;) {
		char *in = realloc(http->in, http->n_in + ROOM);
		ssize_t n;

		if (!in)
			return -ENOMEM;
		http->in = in;
		n = recv(http->fd, in + http->n_in, ROOM, MSG_DONTWAIT);
		if (http->input && n > 0)
			budget_use(http->input,
				   n < BUDGET_MIN_READ ? BUDGET_MIN_READ : (uint64_t) n,
				   now_monotonic_ms());
		if (n == 0)
			return 1;
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		http->n_in += n > 0 ? (size_t) n : 0;
		if (http->n_in > HTTP_MAX_ANSWER)
			return -EMSGSIZE;
	}
}

static void read_again(void *data)
{
	struct http *http = data;

	loop_source_set_events(http->source,
			       EPOLLIN | (http->n_sent < http->n_out ? EPOLLOUT : 0U));
}

/* Whoever answers without end is heard at a pace that costs the others nothing. What is left of one
 * that has hung up is little. */
static bool may_read(struct http *http, uint32_t events)
{
	uint64_t wait = http->input ? budget_wait(http->input, 1, now_monotonic_ms()) : 0;

	if (wait == 0 || events & (EPOLLHUP | EPOLLERR))
		return true;
	loop_source_set_events(http->source, 0);
	loop_timer_start(http->loop, &http->pause, wait < PAUSE_MS ? PAUSE_MS : wait, read_again,
			 http);
	return false;
}

static void socket_is_ready(void *data, uint32_t events)
{
	struct http *http = data;
	struct http_answer answer;

	if (events & EPOLLOUT)
		send_rest(http);
	if (!may_read(http, events))
		return;
	/* Who hangs up before he has read everything may have answered all the same. */
	int at_end = receive_answer(http);
	if (at_end < 0) {
		end_exchange(http, at_end, NULL);
		return;
	}
	int r = http_parse(http->in, http->n_in, false, &answer);
	if (r == -EAGAIN && at_end) {
		r = http_parse(http->in, http->n_in, true, &answer);
		r = r == -EBADMSG ? -ECONNRESET : r;
	}
	if (r != -EAGAIN)
		end_exchange(http, r, &answer);
}

static int write_request(struct http *http, const char *method, const char *path, const char *body)
{
	char length[80] = "";
	int n;

	if (body)
		snprintf(length, sizeof(length),
			 "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(body));
	n = asprintf(&http->out, "%s %s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n%s\r\n%s",
		     method, path, length, body ? body : "");
	if (n < 0) {
		http->out = NULL;
		return -ENOMEM;
	}
	http->n_out = (size_t) n;
	return 0;
}

void http_limit(struct http *http, struct budget *input)
{
	http->input = input;
}

int http_ask(struct loop *loop, int fd, const char *method, const char *path, const char *body,
	     unsigned deadline_ms, http_fn fn, void *data, struct http **ret_http)
{
	struct http *http = calloc(1, sizeof(*http));
	int r = -ENOMEM;

	if (http) {
		*http = (struct http){.loop = loop, .fd = -1, .fn = fn, .data = data};
		r = write_request(http, method, path, body);
	}
	if (r == 0)
		r = loop_add(loop, fd, EPOLLIN | EPOLLOUT, socket_is_ready, http, &http->source);
	if (r < 0) {
		if (http)
			free_http(http);
		return r;
	}
	http->fd = fd;
	loop_timer_start(loop, &http->deadline, deadline_ms, is_too_late, http);
	*ret_http = http;
	return 0;
}
