/* Requests and answers, one JSON value a line: see ctl_connection.h. Used by every command that
 * asks the broker. */
#include "helper/ctl_connection.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "helper/wire.h"

#define READ_SIZE 65536
#define LINE_MAX_BYTES (64 * 1024 * 1024)
#define WAKING_MS 10000 /* for a broker to start */
#define WAKING_STEP_MS 20

struct ctl_connection {
	int fd;
	char *in;
	size_t length, size;
};

/* Connects a socket of TYPE to PATH. Returns it, or -1 with errno set. */
static int connect_socket(int type, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path, path, strlen(path));
	if (fd >= 0 && connect(fd, (struct sockaddr *) &address, sizeof(address)) == 0)
		return fd;
	int error = errno;
	close_fd(fd);
	errno = error;
	return -1;
}

/* Where the event socket beside PATH is a service manager's, its broker starts by that, and makes
 * PATH. Returns a connection to it, or -1 with errno set. */
static int wake_broker(const char *path)
{
	char events[sizeof(((struct sockaddr_un *) 0)->sun_path)];
	size_t room = (size_t) (strrchr(path, '/') ? strrchr(path, '/') + 1 - path : 0);

	if (room + sizeof(WIRE_SOCKET_NAME) > sizeof(events))
		return -1;
	snprintf(events, sizeof(events), "%.*s" WIRE_SOCKET_NAME, (int) room, path);
	_cleanup_close_ int knocking = connect_socket(SOCK_SEQPACKET, events);
	for (int waited = 0; knocking >= 0 && waited < WAKING_MS; waited += WAKING_STEP_MS) {
		int fd = connect_socket(SOCK_STREAM, path);

		if (fd >= 0 || (errno != ENOENT && errno != ECONNREFUSED))
			return fd;
		usleep(WAKING_STEP_MS * 1000);
	}
	errno = ENOENT;
	return -1;
}

int ctl_connect(const char *path, struct ctl_connection **ret_connection)
{
	struct ctl_connection *connection;

	if (strlen(path) >= sizeof(((struct sockaddr_un *) 0)->sun_path))
		return ctl_fail(CTL_USAGE, "%s: too long for a socket", path);
	_cleanup_close_ int fd = connect_socket(SOCK_STREAM, path);
	if (fd < 0 && (errno == ENOENT || errno == ECONNREFUSED))
		fd = wake_broker(path);
	if (fd < 0)
		return ctl_fail(errno == EACCES ? CTL_NOT_ALLOWED : CTL_NO_BROKER,
				errno == ENOENT || errno == ECONNREFUSED
					? "the broker does not run (%s: %s)"
					: "can't reach the broker (%s: %s)",
				path, strerror(errno));
	connection = calloc(1, sizeof(*connection));
	if (!connection)
		return ctl_fail(CTL_FAILED, "no memory");
	connection->fd = TAKE_FD(fd);
	*ret_connection = connection;
	return 0;
}

void ctl_disconnect(struct ctl_connection *connection)
{
	if (!connection)
		return;
	close_fd(connection->fd);
	free(connection->in);
	free(connection);
}

static int send_line(struct ctl_connection *connection, json_t *request)
{
	_cleanup_free_ char *text = json_dumps(request, JSON_COMPACT);
	size_t length = text ? strlen(text) : 0, sent = 0;

	json_decref(request);
	if (!text)
		return -ENOMEM;
	text[length++] = '\n'; /* where the NUL was */
	while (sent < length) {
		ssize_t n = send(connection->fd, text + sent, length - sent, MSG_NOSIGNAL);

		if (n < 0 && errno != EINTR)
			return -errno;
		sent += n > 0 ? (size_t) n : 0;
	}
	return 0;
}

/* The first whole line that has come in, as JSON; NULL when there is none. */
static json_t *take_line(struct ctl_connection *connection)
{
	char *end =
		connection->length > 0 ? memchr(connection->in, '\n', connection->length) : NULL;
	size_t n;
	json_t *value;

	if (!end)
		return NULL;
	n = (size_t) (end - connection->in);
	value = json_loadb(connection->in, n, 0, NULL);
	connection->length -= n + 1;
	memmove(connection->in, end + 1, connection->length);
	return value ? value : json_null();
}

/* Reads what is there; waits for it. */
static int read_more(struct ctl_connection *connection)
{
	char *bigger;
	ssize_t n;

	if (connection->size - connection->length < READ_SIZE) {
		if (connection->size > LINE_MAX_BYTES)
			return -EMSGSIZE;
		bigger = realloc(connection->in, connection->size * 2 + READ_SIZE);
		if (!bigger)
			return -ENOMEM;
		connection->in = bigger;
		connection->size = connection->size * 2 + READ_SIZE;
	}
	n = recv(connection->fd, connection->in + connection->length,
		 connection->size - connection->length, 0);
	if (n <= 0)
		return n < 0 ? -errno : -ECONNRESET;
	connection->length += (size_t) n;
	return 0;
}

/* Waits for something to read; tells a person how long it has taken. */
static void wait_with_words(struct ctl_connection *connection)
{
	struct pollfd poll_fd = {.fd = connection->fd, .events = POLLIN};
	bool told = false;

	if (!isatty(STDERR_FILENO))
		return;
	for (unsigned seconds = 1; poll(&poll_fd, 1, 1000) == 0; seconds++) {
		fprintf(stderr, "\rwaiting for the broker: %u s", seconds);
		told = true;
	}
	if (told)
		fprintf(stderr, "\r%30s\r", "");
}

static int say_refused(const json_t *answer)
{
	const char *error = json_string_value(json_object_get(answer, "error"));

	error = error ? error : "the broker's answer is not understood";
	return ctl_fail(startswith(error, "not permitted") ? CTL_NOT_ALLOWED : CTL_FAILED, "%s",
			error);
}

int ctl_ask(struct ctl_connection *connection, json_t *request, json_t **ret_answer)
{
	int r = send_line(connection, request);
	json_t *answer = NULL;

	while (r == 0 && !answer) {
		answer = take_line(connection);
		/* One that watches hears of other things meanwhile. */
		if (json_object_get(answer, "event")) {
			json_decref(answer);
			answer = NULL;
		} else if (!answer) {
			wait_with_words(connection);
			r = read_more(connection);
		}
	}
	if (r < 0)
		return ctl_fail(CTL_NO_BROKER, "the broker has gone before it answered (%s)",
				strerror(-r));
	const char *result = json_string_value(json_object_get(answer, "result"));
	if (result && streq(result, "ok")) {
		*ret_answer = answer;
		return 0;
	}
	r = say_refused(answer);
	json_decref(answer);
	return r;
}

json_t *ctl_next_event(struct ctl_connection *connection)
{
	json_t *event;

	while (!(event = take_line(connection)))
		if (read_more(connection) < 0)
			return NULL;
	return event;
}
