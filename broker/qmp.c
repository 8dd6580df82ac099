/* A QMP connection: see qmp.h. Used by vmm_qemu.c. */
#include "broker/qmp.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define MAX_LINE (1024 * 1024) /* a longer message breaks the protocol */
#define MAX_COMMANDS 1024

enum qmp_state {
	QMP_GREETING,
	QMP_CAPABILITIES,
	QMP_READY,
	QMP_DOWN,
};

struct command {
	struct command *next;
	uint64_t number;
	qmp_reply_fn fn;
	void *data;
};

/* Bytes that go out together, with the descriptor that must go with the first of them. */
struct packet {
	struct packet *next;
	int fd;
	size_t length, sent;
	char data[];
};

struct qmp {
	struct loop_source *source;
	int fd;
	enum qmp_state state;
	const struct qmp_handler *handler;
	void *data;
	uint64_t next_number;
	struct command *first, **last;
	size_t n_pending;
	struct packet *out, **out_last;
	char *queued; /* text of commands since the last flush */
	size_t queued_length;
	char *in;
	size_t in_length, in_size;
	struct loop *loop;
	struct loop_garbage garbage;
};

static void go_down(struct qmp *qmp, const char *why)
{
	if (qmp->state == QMP_DOWN)
		return;
	qmp->state = QMP_DOWN;
	qmp->source = loop_source_free(qmp->source);
	qmp->handler->down(qmp->data, why);
	while (qmp->first) {
		struct command *command = qmp->first;

		qmp->first = command->next;
		qmp->n_pending--;
		if (command->fn)
			command->fn(command->data, NULL, "down", why);
		free(command);
	}
	qmp->last = &qmp->first;
}

static void drop_packet(struct qmp *qmp)
{
	struct packet *packet = qmp->out;

	qmp->out = packet->next;
	if (!qmp->out)
		qmp->out_last = &qmp->out;
	close_fd(packet->fd);
	free(packet);
}

static ssize_t send_packet(int fd, const struct packet *packet)
{
	struct iovec iov = {
		.iov_base = (void *) (packet->data + packet->sent),
		.iov_len = packet->length - packet->sent,
	};
	union {
		char buffer[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (packet->fd >= 0 && packet->sent == 0) {
		msg.msg_control = control.buffer;
		msg.msg_controllen = sizeof(control.buffer);
		struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &packet->fd, sizeof(int));
	}
	return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static int send_queued(struct qmp *qmp)
{
	while (qmp->out) {
		ssize_t n = send_packet(qmp->fd, qmp->out);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno != EAGAIN)
			return -errno;
		if (n < 0)
			break;
		qmp->out->sent += (size_t) n;
		if (qmp->out->sent == qmp->out->length)
			drop_packet(qmp);
	}
	loop_source_set_events(qmp->source, qmp->out ? EPOLLIN | EPOLLOUT : EPOLLIN);
	return 0;
}

int qmp_flush(struct qmp *qmp, int pass_fd)
{
	if (qmp->state == QMP_DOWN)
		return -ENOTCONN;
	if (qmp->queued_length == 0)
		return 0;

	struct packet *packet = calloc(1, sizeof(*packet) + qmp->queued_length);
	if (!packet)
		return -ENOMEM;
	packet->fd = -1;
	if (pass_fd >= 0 && (packet->fd = fcntl(pass_fd, F_DUPFD_CLOEXEC, 3)) < 0) {
		int r = -errno;

		free(packet);
		return r;
	}
	memcpy(packet->data, qmp->queued, qmp->queued_length);
	packet->length = qmp->queued_length;
	qmp->queued_length = 0;
	*qmp->out_last = packet;
	qmp->out_last = &packet->next;
	return send_queued(qmp);
}

static int queue_text(struct qmp *qmp, const char *text)
{
	size_t length = strlen(text);
	char *queued = realloc(qmp->queued, qmp->queued_length + length + 1);

	if (!queued)
		return -ENOMEM;
	memcpy(queued + qmp->queued_length, text, length);
	queued[qmp->queued_length + length] = '\n';
	qmp->queued = queued;
	qmp->queued_length += length + 1;
	return 0;
}

int qmp_command(struct qmp *qmp, const char *command, json_t *arguments, qmp_reply_fn fn,
		void *data)
{
	struct command *pending = calloc(1, sizeof(*pending));
	char id[32];
	json_t *message;
	char *text = NULL;
	int r = qmp->state == QMP_DOWN ? -ENOTCONN : -ENOMEM;

	/* Ids are strings: Jansson refuses a message with a number above INT64_MAX. */
	snprintf(id, sizeof(id), "vhp%llu", (unsigned long long) qmp->next_number);
	message = arguments ? json_pack("{s:s, s:o, s:s}", "execute", command, "arguments",
					arguments, "id", id)
			    : json_pack("{s:s, s:s}", "execute", command, "id", id);
	if (message)
		text = json_dumps(message, JSON_COMPACT);
	if (r == -ENOMEM && pending && text && qmp->n_pending < MAX_COMMANDS)
		r = queue_text(qmp, text);
	json_decref(message);
	free(text);
	if (r < 0) {
		free(pending);
		return r;
	}
	pending->number = qmp->next_number++;
	pending->fn = fn;
	pending->data = data;
	*qmp->last = pending;
	qmp->last = &pending->next;
	qmp->n_pending++;
	return 0;
}

static struct command *take_command(struct qmp *qmp, const char *id)
{
	char expected[32];

	for (struct command **c = &qmp->first; *c; c = &(*c)->next) {
		struct command *command = *c;

		snprintf(expected, sizeof(expected), "vhp%llu",
			 (unsigned long long) command->number);
		if (!streq(id, expected))
			continue;
		*c = command->next;
		if (!*c)
			qmp->last = c;
		qmp->n_pending--;
		return command;
	}
	return NULL;
}

static void handle_reply(struct qmp *qmp, const json_t *message)
{
	const char *id = json_string_value(json_object_get(message, "id"));
	const json_t *error = json_object_get(message, "error");
	struct command *command = id ? take_command(qmp, id) : NULL;

	if (!command)
		return;
	if (command->fn && error) {
		const char *class = json_string_value(json_object_get(error, "class"));
		const char *text = json_string_value(json_object_get(error, "desc"));

		command->fn(command->data, NULL, class ? class : "GenericError", text ? text : "");
	} else if (command->fn) {
		command->fn(command->data, json_object_get(message, "return"), NULL, NULL);
	}
	free(command);
}

static void capabilities_done(void *data, const json_t *reply, const char *error_class,
			      const char *error_text)
{
	struct qmp *qmp = data;

	(void) error_text;
	if (reply) {
		qmp->state = QMP_READY;
		qmp->handler->ready(qmp->data);
	} else if (!streq(error_class, "down")) {
		go_down(qmp, "it refuses qmp_capabilities");
	}
}

static void handle_message(struct qmp *qmp, const json_t *message)
{
	const char *event = json_string_value(json_object_get(message, "event"));

	if (qmp->state == QMP_GREETING) {
		if (!json_object_get(message, "QMP"))
			go_down(qmp, "what answers there is no QEMU monitor in control mode");
		else
			qmp->state = QMP_CAPABILITIES;
	} else if (event) {
		qmp->handler->event(qmp->data, event, json_object_get(message, "data"));
	} else {
		handle_reply(qmp, message);
	}
}

/* Parses one line. Returns false when the connection is down by now. */
static bool handle_line(struct qmp *qmp, const char *line, size_t length)
{
	json_error_t error;

	while (length > 0 && (line[length - 1] == '\r' || line[length - 1] == ' '))
		length--;
	if (length == 0)
		return true;
	json_t *message = json_loadb(line, length, JSON_REJECT_DUPLICATES, &error);
	if (json_is_object(message))
		handle_message(qmp, message);
	else
		go_down(qmp, "what answers there does not speak QMP");
	json_decref(message);
	return qmp->state != QMP_DOWN;
}

static void handle_input(struct qmp *qmp)
{
	char *start = qmp->in, *end;

	while ((end = memchr(start, '\n', qmp->in_length - (size_t) (start - qmp->in)))) {
		if (!handle_line(qmp, start, (size_t) (end - start)))
			return;
		start = end + 1;
	}
	qmp->in_length -= (size_t) (start - qmp->in);
	memmove(qmp->in, start, qmp->in_length);
}

static int grow_input(struct qmp *qmp)
{
	size_t size = qmp->in_size ? qmp->in_size * 2 : 4096;

	if (qmp->in_length < qmp->in_size)
		return 0;
	if (size > MAX_LINE)
		return -EMSGSIZE;
	char *in = realloc(qmp->in, size);
	if (!in)
		return -ENOMEM;
	qmp->in = in;
	qmp->in_size = size;
	return 0;
}

static void readable(void *data, uint32_t events)
{
	struct qmp *qmp = data;

	if (events & EPOLLOUT && send_queued(qmp) < 0) {
		go_down(qmp, "the connection broke");
		return;
	}
	if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return;
	if (grow_input(qmp) < 0) {
		go_down(qmp, "it sends a message of more than a megabyte");
		return;
	}
	ssize_t n = recv(qmp->fd, qmp->in + qmp->in_length, qmp->in_size - qmp->in_length,
			 MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		go_down(qmp, "it closed the connection");
		return;
	}
	qmp->in_length += (size_t) n;
	handle_input(qmp);
}

static void free_qmp(void *data)
{
	struct qmp *qmp = data;

	while (qmp->first) {
		struct command *command = qmp->first;

		qmp->first = command->next;
		free(command);
	}
	while (qmp->out)
		drop_packet(qmp);
	free(qmp->queued);
	free(qmp->in);
	free(qmp);
}

int qmp_new(struct loop *loop, int fd, const struct qmp_handler *handler, void *data,
	    struct qmp **ret_qmp)
{
	struct qmp *qmp = calloc(1, sizeof(*qmp));

	if (!qmp)
		return -ENOMEM;
	qmp->loop = loop;
	qmp->fd = fd;
	qmp->handler = handler;
	qmp->data = data;
	qmp->last = &qmp->first;
	qmp->out_last = &qmp->out;
	int r = loop_add(loop, fd, EPOLLIN, readable, qmp, &qmp->source);
	if (r == 0)
		r = qmp_command(qmp, "qmp_capabilities", NULL, capabilities_done, qmp);
	if (r < 0) {
		loop_source_free(qmp->source);
		free_qmp(qmp);
		return r;
	}
	*ret_qmp = qmp;
	return 0;
}

struct qmp *qmp_close(struct qmp *qmp)
{
	if (!qmp || qmp->fd < 0)
		return NULL;
	qmp->state = QMP_DOWN;
	qmp->source = loop_source_free(qmp->source);
	qmp->fd = close_fd(qmp->fd);
	loop_discard(qmp->loop, &qmp->garbage, free_qmp, qmp);
	return NULL;
}

bool qmp_is_ready(const struct qmp *qmp)
{
	return qmp->state == QMP_READY;
}

size_t qmp_pending(const struct qmp *qmp)
{
	return qmp->n_pending;
}
