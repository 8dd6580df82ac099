/* A QMP connection: see qmp.h. Used by vmm_qemu.c. */
#include "broker/qmp.h"

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "broker/budget.h"
#include "broker/qmp_frame.h"
#include "broker/socket.h"

#define MAX_VALUE QMP_BURST /* bytes; a longer message breaks the protocol */
#define MAX_COMMANDS 1024
#define ID_PREFIX "vhp"
#define NO_QMP "what answers there does not speak QMP"
#define RESEND_MS 50      /* while the kernel takes no descriptors */
#define ANSWER_MS 60000   /* since the last answer; pinning a guest's memory takes some seconds */
#define PER_MS 10         /* ids */
#define CYCLE_MS 10000000 /* until they begin anew: nearly three hours, and they stay short */
#define PAUSE_MS 50       /* at least, so that a flood is read in pieces worth their while */

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
	uint64_t first_queued; /* number of the first of them, qmp_capabilities left out */
	size_t kept_length;    /* how much of the text is qmp_capabilities */
	char *in;
	size_t in_length, in_size;
	struct qmp_frame frame;
	struct budget own_input, *input;
	struct loop_timer resend, pause, patience;
	struct loop *loop;
	struct loop_garbage garbage;
};

static void stop_timers(struct qmp *qmp)
{
	loop_timer_stop(&qmp->resend);
	loop_timer_stop(&qmp->pause);
	loop_timer_stop(&qmp->patience);
}

/* What of COMMANDS has not been answered never will be. */
static void fail_commands(struct command *commands, const char *why)
{
	while (commands) {
		struct command *command = commands;

		commands = command->next;
		if (command->fn)
			command->fn(command->data, NULL, "down", why);
		free(command);
	}
}

static void go_down(struct qmp *qmp, const char *why)
{
	if (qmp->state == QMP_DOWN)
		return;
	qmp->state = QMP_DOWN;
	qmp->source = loop_source_free(qmp->source);
	stop_timers(qmp);
	qmp->handler->down(qmp->data, why);
	struct command *commands = qmp->first;
	qmp->first = NULL;
	qmp->last = &qmp->first;
	qmp->n_pending = 0;
	fail_commands(commands, why);
}

static void lose_patience(void *data)
{
	go_down(data, "it does not answer any more");
}

/* As long as another client has the monitor nobody can say how long an answer takes. */
static void await_answers(struct qmp *qmp)
{
	if (qmp->n_pending > 0 && qmp->state != QMP_GREETING && qmp->state != QMP_DOWN)
		loop_timer_start(qmp->loop, &qmp->patience, ANSWER_MS, lose_patience, qmp);
	else
		loop_timer_stop(&qmp->patience);
}

/* Sending */

/* For what is there to be done. */
static void watch_socket(struct qmp *qmp)
{
	bool send = qmp->out && !qmp->resend.loop;

	if (qmp->source)
		loop_source_set_events(qmp->source,
				       (qmp->pause.loop ? 0 : EPOLLIN) | (send ? EPOLLOUT : 0));
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

static void send_queued(struct qmp *qmp);

static void send_again(void *data)
{
	send_queued(data);
}

/* How much of the packet went out, or -errno. */
static ssize_t send_packet(const struct qmp *qmp, const struct packet *packet)
{
	bool with_fd = packet->fd >= 0 && packet->sent == 0;

	return socket_send(qmp->fd, packet->data + packet->sent, packet->length - packet->sent,
			   &packet->fd, with_fd ? 1 : 0);
}

/* A connection that is broken says so by EPOLLHUP. */
static void send_queued(struct qmp *qmp)
{
	ssize_t n = 0;

	while (qmp->out && (n = send_packet(qmp, qmp->out)) >= 0) {
		qmp->out->sent += (size_t) n;
		if (qmp->out->sent == qmp->out->length)
			drop_packet(qmp);
	}
	/* A socket with room for more refuses descriptors only: there is no event for that. */
	if (qmp->out && n == -EAGAIN && qmp->out->fd >= 0 && qmp->out->sent == 0)
		loop_timer_start(qmp->loop, &qmp->resend, RESEND_MS, send_again, qmp);
	watch_socket(qmp);
}

/* Takes back what has been queued since the last flush: nothing of it may go with another packet's
 * descriptor. */
static void take_back(struct qmp *qmp, const char *why)
{
	struct command **c = &qmp->first, *taken;

	while (*c && (*c)->number < qmp->first_queued)
		c = &(*c)->next;
	taken = *c;
	*c = NULL;
	qmp->last = c;
	for (struct command *t = taken; t; t = t->next)
		qmp->n_pending--;
	qmp->queued_length = qmp->kept_length;
	await_answers(qmp);
	fail_commands(taken, why);
}

static int make_packet(struct qmp *qmp, int pass_fd)
{
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
	*qmp->out_last = packet;
	qmp->out_last = &packet->next;
	return 0;
}

int qmp_flush(struct qmp *qmp, int pass_fd)
{
	if (qmp->state == QMP_DOWN)
		return -ENOTCONN;
	if (qmp->queued_length == 0)
		return 0;
	int r = make_packet(qmp, pass_fd);
	if (r < 0) {
		take_back(qmp, strerror(-r));
		return r;
	}
	qmp->queued_length = qmp->kept_length = 0;
	qmp->first_queued = qmp->next_number;
	send_queued(qmp);
	return 0;
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
	snprintf(id, sizeof(id), ID_PREFIX "%llu", (unsigned long long) qmp->next_number);
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
	await_answers(qmp);
	return 0;
}

/* Receiving */

/* The number in one of our ids, "vhp17"; false for anything else. */
static bool parse_id(const char *id, uint64_t *ret_number)
{
	const char *digits = id ? startswith(id, ID_PREFIX) : NULL;
	char *end;

	if (!digits || strlen(digits) > 18 || !*digits ||
	    strspn(digits, "0123456789") != strlen(digits))
		return false;
	*ret_number = strtoull(digits, &end, 10);
	return true;
}

static struct command *take_command(struct qmp *qmp, uint64_t number)
{
	for (struct command **c = &qmp->first; *c; c = &(*c)->next) {
		struct command *command = *c;

		if (command->number != number)
			continue;
		*c = command->next;
		if (!*c)
			qmp->last = c;
		qmp->n_pending--;
		return command;
	}
	return NULL;
}

/* Who answers is not trusted: what has no "return" is an error. */
static void hand_reply(const struct command *command, const json_t *message)
{
	const json_t *reply = json_object_get(message, "return");
	const json_t *error = json_object_get(message, "error");
	const char *class = json_string_value(json_object_get(error, "class"));
	const char *text = json_string_value(json_object_get(error, "desc"));

	if (!command->fn)
		return;
	if (reply && !error)
		command->fn(command->data, reply, NULL, NULL);
	else
		command->fn(command->data, NULL, class ? class : "GenericError",
			    text ? text : "it gives no reason");
}

static void handle_reply(struct qmp *qmp, const json_t *message)
{
	uint64_t number;
	bool is_ours = parse_id(json_string_value(json_object_get(message, "id")), &number);
	struct command *command = is_ours ? take_command(qmp, number) : NULL;

	if (!command)
		return;
	await_answers(qmp);
	hand_reply(command, message);
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

static void take_greeting(struct qmp *qmp)
{
	qmp->state = QMP_CAPABILITIES;
	await_answers(qmp);
}

static void handle_message(struct qmp *qmp, const json_t *message)
{
	const char *event = json_string_value(json_object_get(message, "event"));

	if (qmp->state == QMP_GREETING) {
		if (!json_object_get(message, "QMP"))
			go_down(qmp, "what answers there is no QEMU monitor in control mode");
		else
			take_greeting(qmp);
	} else if (event) {
		qmp->handler->event(qmp->data, event, json_object_get(message, "data"));
	} else {
		handle_reply(qmp, message);
	}
}

/* Parses one value. Returns false when the connection is down by now. */
static bool handle_value(struct qmp *qmp, const char *value, size_t length)
{
	json_t *message = json_loadb(value, length, JSON_REJECT_DUPLICATES, NULL);

	if (json_is_object(message))
		handle_message(qmp, message);
	else
		go_down(qmp, NO_QMP);
	json_decref(message);
	return qmp->state != QMP_DOWN;
}

static void handle_input(struct qmp *qmp)
{
	size_t start = 0, end;
	int r;

	while ((r = qmp_frame_next(&qmp->frame, qmp->in, qmp->in_length, &start, &end)) > 0) {
		if (!handle_value(qmp, qmp->in + start, end - start))
			return;
		start = end;
	}
	if (r < 0) {
		go_down(qmp, NO_QMP);
		return;
	}
	qmp->in_length -= start;
	qmp->frame.scanned -= start;
	memmove(qmp->in, qmp->in + start, qmp->in_length);
}

static int grow_input(struct qmp *qmp)
{
	size_t size = qmp->in_size ? qmp->in_size * 2 : 4096;

	if (qmp->in_length < qmp->in_size)
		return 0;
	if (size > MAX_VALUE)
		return -EMSGSIZE;
	char *in = realloc(qmp->in, size);
	if (!in)
		return -ENOMEM;
	qmp->in = in;
	qmp->in_size = size;
	return 0;
}

static void read_again(void *data)
{
	watch_socket(data);
}

/* A monitor that talks without end is heard at a pace that costs the others nothing: what it says
 * meanwhile waits in its own socket. */
static bool may_read(struct qmp *qmp)
{
	uint64_t wait = budget_wait(qmp->input, 1, now_monotonic_ms());

	if (wait == 0)
		return true;
	loop_timer_start(qmp->loop, &qmp->pause, wait < PAUSE_MS ? PAUSE_MS : wait, read_again,
			 qmp);
	watch_socket(qmp);
	return false;
}

static void receive_bytes(struct qmp *qmp)
{
	int r = grow_input(qmp);

	if (r < 0) {
		go_down(qmp, r == -ENOMEM ? "out of memory"
					  : "it sends a message of more than a megabyte");
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
	budget_use(qmp->input, n < BUDGET_MIN_READ ? BUDGET_MIN_READ : (uint64_t) n,
		   now_monotonic_ms());
	qmp->in_length += (size_t) n;
	handle_input(qmp);
}

static void handle_events(void *data, uint32_t events)
{
	struct qmp *qmp = data;

	if (events & EPOLLOUT)
		send_queued(qmp);
	/* What is left of a monitor that has gone is little, and its end must be heard. */
	if (events & (EPOLLHUP | EPOLLERR) || (events & EPOLLIN && may_read(qmp)))
		receive_bytes(qmp);
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
	/* Ids that no former connection had, of no former broker either: QEMU tells whoever is
	 * connected when it is done what came of a command, also of one that went before it
	 * (monitor_qmp_respond in monitor/qmp.c). */
	qmp->next_number = now_realtime_ms() % CYCLE_MS * PER_MS;
	budget_init(&qmp->own_input, QMP_BURST, QMP_RATE);
	qmp->input = &qmp->own_input;
	int r = loop_add(loop, fd, EPOLLIN, handle_events, qmp, &qmp->source);
	if (r == 0)
		r = qmp_command(qmp, "qmp_capabilities", NULL, capabilities_done, qmp);
	qmp->kept_length = qmp->queued_length;
	qmp->first_queued = qmp->next_number;
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
	stop_timers(qmp);
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

void qmp_limit(struct qmp *qmp, struct budget *input)
{
	qmp->input = input;
}
