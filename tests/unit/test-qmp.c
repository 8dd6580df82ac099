/* The QMP client against a peer on a socketpair that says whatever a test wants, in whatever
 * pieces. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "broker/budget.h"
#include "broker/qmp.h"
#include "tests/unit/spin.h"

#define GREETING                                                                           \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, " \
	"\"package\": \"Debian\"}, \"capabilities\": [\"oob\"]}}\r\n"
#define CAPABLE "{\"return\": {}, \"id\": \"vhp0\"}\r\n"

/* Ids follow from the time of a connection: vhp0, vhp1, … here. */
static uint64_t connected_at;

uint64_t __wrap_now_realtime_ms(void);
uint64_t __wrap_now_realtime_ms(void)
{
	return connected_at;
}

struct session {
	struct loop *loop;
	struct qmp *qmp;
	int peer;
	int ready, downs;
	char why[128];
	char events[256]; /* names, in order */
	char log[512];    /* replies and events, in order */
	bool close_in_reply, close_in_event;
};

static void note(struct session *s, const char *what)
{
	size_t length = strlen(s->log);

	snprintf(s->log + length, sizeof(s->log) - length, "%s;", what);
}

static void on_ready(void *data)
{
	((struct session *) data)->ready++;
}

static void on_event(void *data, const char *name, const json_t *object)
{
	struct session *s = data;
	char text[128];

	snprintf(text, sizeof(text), "%s(%s)", name,
		 object ? json_string_value(json_object_get(object, "device")) : "-");
	note(s, text);
	if (s->close_in_event)
		s->qmp = qmp_close(s->qmp);
}

static void on_down(void *data, const char *why)
{
	struct session *s = data;

	s->downs++;
	snprintf(s->why, sizeof(s->why), "%s", why);
	note(s, "down");
	s->qmp = qmp_close(s->qmp);
}

static const struct qmp_handler handler = {.ready = on_ready, .event = on_event, .down = on_down};

/* One command of a test's. */
struct question {
	struct session *session;
	const char *name;
	int answers;
	char result[128];
};

static void on_reply(void *data, const json_t *reply, const char *error_class, const char *text)
{
	struct question *q = data;
	char line[256];

	q->answers++;
	if (reply)
		snprintf(q->result, sizeof(q->result), "%lld",
			 json_is_integer(reply) ? json_integer_value(reply) : -1);
	else
		snprintf(q->result, sizeof(q->result), "%s: %s", error_class, text);
	snprintf(line, sizeof(line), "%s=%s", q->name, q->result);
	note(q->session, line);
	if (q->session->close_in_reply)
		q->session->qmp = qmp_close(q->session->qmp);
}

static void ask(struct session *s, struct question *q, const char *name)
{
	*q = (struct question){.session = s, .name = name};
	assert_int_equal(qmp_command(s->qmp, name, NULL, on_reply, q), 0);
}

static void say(struct session *s, const char *text)
{
	assert_int_equal(send(s->peer, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* What the client has said so far. */
static const char *hear(struct session *s)
{
	static char text[8192];
	ssize_t n = recv(s->peer, text, sizeof(text) - 1, MSG_DONTWAIT);

	text[n > 0 ? n : 0] = 0;
	return text;
}

static void connect_session(struct session *s)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	s->peer = pair[1];
	assert_int_equal(qmp_new(s->loop, pair[0], &handler, s, &s->qmp), 0);
}

static int setup(void **state)
{
	struct session *s = calloc(1, sizeof(*s));

	assert_int_equal(loop_new(&s->loop), 0);
	connected_at = 0;
	connect_session(s);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct session *s = *state;

	qmp_close(s->qmp);
	loop_free(s->loop);
	close_fd(s->peer);
	free(s);
	return 0;
}

static bool is_ready(void *data)
{
	return ((struct session *) data)->ready > 0;
}

static bool is_down(void *data)
{
	return ((struct session *) data)->downs > 0;
}

static bool is_answered(void *data)
{
	return ((struct question *) data)->answers > 0;
}

static void become_ready(struct session *s)
{
	say(s, GREETING CAPABLE);
	spin_until(s->loop, is_ready, s);
}

/* Tests */

static void test_commands_go_out_before_the_greeting(void **state)
{
	struct session *s = *state;
	struct question q;

	ask(s, &q, "query-status");
	assert_int_equal(qmp_pending(s->qmp), 2);
	assert_string_equal(hear(s), "");
	assert_int_equal(qmp_flush(s->qmp, -1), 0);
	assert_string_equal(hear(s), "{\"execute\":\"qmp_capabilities\",\"id\":\"vhp0\"}\n"
				     "{\"execute\":\"query-status\",\"id\":\"vhp1\"}\n");
	assert_false(qmp_is_ready(s->qmp));
	say(s, GREETING CAPABLE "{\"return\": 7, \"id\": \"vhp1\"}\r\n");
	spin_until(s->loop, is_answered, &q);
	assert_true(qmp_is_ready(s->qmp));
	assert_string_equal(q.result, "7");
	assert_int_equal(qmp_pending(s->qmp), 0);
}

static void test_byte_by_byte(void **state)
{
	static const char text[] = GREETING CAPABLE "{\"return\": 7, \"id\": \"vhp1\"}\r\n";
	struct session *s = *state;
	struct question q;

	ask(s, &q, "x");
	assert_int_equal(qmp_flush(s->qmp, -1), 0);
	for (const char *c = text; *c; c++) {
		assert_int_equal(q.answers, c >= text + strlen(text) - 2); /* the line feed */
		assert_int_equal(send(s->peer, c, 1, 0), 1);
		spin_for(s->loop, 0);
		if (c == text + strlen(GREETING CAPABLE) - 4)
			assert_int_equal(s->ready, 0); /* the value has not ended */
	}
	spin_until(s->loop, is_answered, &q);
	assert_int_equal(s->ready, 1);
}

static void test_arguments(void **state)
{
	struct session *s = *state;

	assert_int_equal(
		qmp_command(s->qmp, "device_del", json_pack("{s:s}", "id", "a\"b\n"), NULL, NULL),
		0);
	assert_int_equal(qmp_flush(s->qmp, -1), 0);
	assert_string_equal(strchr(hear(s), '\n') + 1,
			    "{\"execute\":\"device_del\",\"arguments\":{\"id\":\"a\\\"b\\n\"},"
			    "\"id\":\"vhp1\"}\n");
}

static void test_event_before_reply(void **state)
{
	struct session *s = *state;
	struct question q;

	become_ready(s);
	ask(s, &q, "del");
	say(s, "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\":"
	       " \"DEVICE_DELETED\", \"data\": {\"device\": \"vhp-1\"}}\r\n"
	       "{\"event\": \"STOP\"}\r\n"
	       "{\"return\": 1, \"id\": \"vhp1\"}\r\n");
	spin_until(s->loop, is_answered, &q);
	assert_string_equal(s->log, "DEVICE_DELETED(vhp-1);STOP(-);del=1;");
}

static void test_replies_out_of_order(void **state)
{
	struct session *s = *state;
	struct question a, b, c;

	become_ready(s);
	ask(s, &a, "a");
	ask(s, &b, "b");
	ask(s, &c, "c");
	say(s, "{\"return\": 3, \"id\": \"vhp3\"}\r\n{\"return\": 1, \"id\": \"vhp1\"}\r\n");
	spin_until(s->loop, is_answered, &a);
	assert_int_equal(b.answers, 0);
	/* The list's end must have survived: another command still gets its answer. */
	say(s, "{\"return\": 2, \"id\": \"vhp2\"}\r\n");
	spin_until(s->loop, is_answered, &b);
	ask(s, &a, "d");
	say(s, "{\"return\": 4, \"id\": \"vhp4\"}\r\n");
	spin_until(s->loop, is_answered, &a);
	assert_string_equal(s->log, "c=3;a=1;b=2;d=4;");
}

static void test_replies_to_nobody(void **state)
{
	struct session *s = *state;
	struct question q;

	become_ready(s);
	ask(s, &q, "a");
	say(s, "{\"return\": 9, \"id\": \"vhp9\"}\r\n{\"return\": 9, \"id\": 1}\r\n"
	       "{\"return\": 9}\r\n{}\r\n\r\n   \r\n{\"return\": 9, \"id\": \"vhp0\"}\r\n"
	       "{\"return\": 5, \"id\": \"vhp1\"}\r\n{\"return\": 6, \"id\": \"vhp1\"}\r\n");
	spin_until(s->loop, is_answered, &q);
	spin_for(s->loop, 5);
	assert_string_equal(s->log, "a=5;");
	assert_int_equal(s->ready, 1);
}

/* QEMU tells whoever is connected now what came of a command of the connection before. */
static void test_answer_to_the_one_before(void **state)
{
	struct session *s = *state;
	struct question q;

	qmp_close(s->qmp);
	close_fd(s->peer);
	connected_at = 1;
	connect_session(s);
	ask(s, &q, "qom-list");
	assert_int_equal(qmp_flush(s->qmp, -1), 0);
	assert_string_equal(hear(s), "{\"execute\":\"qmp_capabilities\",\"id\":\"vhp10\"}\n"
				     "{\"execute\":\"qom-list\",\"id\":\"vhp11\"}\n");
	say(s,
	    GREETING "{\"return\": {}, \"id\": \"vhp1\"}\r\n{\"return\": {}, \"id\": \"vhp10\"}\r\n"
		     "{\"return\": 7, \"id\": \"vhp11\"}\r\n");
	spin_until(s->loop, is_answered, &q);
	assert_string_equal(s->log, "qom-list=7;");
}

static void test_errors(void **state)
{
	struct session *s = *state;
	struct question a, b;

	become_ready(s);
	ask(s, &a, "a");
	ask(s, &b, "b");
	say(s, "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"Device 'k1' not found\"},"
	       " \"id\": \"vhp1\"}\r\n{\"error\": 5, \"id\": \"vhp2\"}\r\n");
	spin_until(s->loop, is_answered, &b);
	assert_string_equal(a.result, "DeviceNotFound: Device 'k1' not found");
	assert_string_equal(b.result, "GenericError: it gives no reason");
}

/* Neither "return" nor "error", and whatever else is no answer, is an error; it comes once. */
static void test_answers_that_say_nothing(void **state)
{
	static const char *const ends[] = {
		"",
		", \"error\": null",
		", \"error\": {\"class\": 1, \"desc\": []}",
		", \"return\": 1, \"error\": {}",
	};
	struct session *s = *state;
	struct question q;
	char text[128];

	become_ready(s);
	for (int i = 0; i < (int) ARRAY_SIZE(ends); i++) {
		ask(s, &q, "q");
		snprintf(text, sizeof(text), "{\"id\": \"vhp%d\"%s}", i + 1, ends[i]);
		say(s, text);
		say(s, text);
		spin_until(s->loop, is_answered, &q);
		spin_for(s->loop, 5);
		assert_int_equal(q.answers, 1);
		assert_string_equal(q.result, "GenericError: it gives no reason");
	}
	assert_int_equal(s->downs, 0);
}

/* The same for the capabilities: the monitor is not used then. */
static void test_capabilities_answered_with_nothing(void **state)
{
	struct session *s = *state;

	say(s, GREETING "{\"id\": \"vhp0\"}");
	spin_until(s->loop, is_down, s);
	assert_string_equal(s->why, "it refuses qmp_capabilities");
}

static void test_odd_messages(void **state)
{
	struct session *s = *state;
	_cleanup_free_ char *big = malloc(300001);
	struct question q;

	become_ready(s);
	ask(s, &q, "q");
	memset(big, 'x', 300000);
	big[300000] = 0;
	say(s, "{\"event\": 5}{\"event\": {}}{\"id\": {}, \"return\": 1}{\"id\": \"vhp\"}"
	       "{\"id\": \"vhp1x\", \"return\": 1}{\"id\": \"vhp-1\", \"return\": 1}"
	       "{\"id\": \"vhp99999999999999999999\", \"return\": 1}{\"id\": \"");
	fcntl(s->peer, F_SETFL, O_NONBLOCK);
	for (size_t at = 0; at < 300000;) {
		ssize_t n = send(s->peer, big + at, 300000 - at, MSG_NOSIGNAL);

		at += n > 0 ? (size_t) n : 0;
		spin_for(s->loop, 0);
	}
	say(s, "\", \"return\": 1}{\"event\": \"E\", \"data\": []}"
	       "{\"id\": \"vhp1\", \"return\": 8}");
	spin_until(s->loop, is_answered, &q);
	assert_string_equal(s->log, "E((null));q=8;");
}

/* "pretty=on": a value goes over several lines. Braces and quotes in strings end nothing. */
static void test_values_over_lines(void **state)
{
	struct session *s = *state;
	struct question q;

	ask(s, &q, "q");
	say(s, "{\r\n    \"QMP\": {\r\n        \"capabilities\": [\r\n        ]\r\n    }\r\n}\r\n"
	       "{\r\n    \"return\": {\r\n    },\r\n    \"id\": \"vhp0\"\r\n}\r\n");
	say(s, "{\n\t\"event\": \"}]{\\\"[\\\\\"\n}\n");
	say(s, "{\n\"return\":\n7, \"id\":\n\"vhp1\"\n}");
	spin_until(s->loop, is_answered, &q);
	assert_int_equal(s->ready, 1);
	assert_string_equal(s->log, "}]{\"[\\(-);q=7;");
}

static void goes_down(struct session *s, const char *text, const char *why)
{
	struct question q;

	ask(s, &q, "q");
	say(s, text);
	spin_until(s->loop, is_down, s);
	assert_int_equal(s->downs, 1);
	assert_string_equal(s->why, why);
	/* The handler hears first, then each pending command, once. */
	assert_int_equal(q.answers, 1);
	assert_true(startswith(s->log, "down;q=down: ") != NULL);
	spin_for(s->loop, 5);
	assert_int_equal(s->downs, 1);
	assert_int_equal(q.answers, 1);
}

static void test_no_monitor(void **state)
{
	goes_down(*state, "{\"return\": {}, \"id\": \"vhp0\"}\r\n",
		  "what answers there is no QEMU monitor in control mode");
}

static void test_human_monitor(void **state)
{
	goes_down(*state, "QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ",
		  "what answers there does not speak QMP");
}

static void test_capabilities_refused(void **state)
{
	goes_down(*state,
		  GREETING
		  "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}, \"id\": "
		  "\"vhp0\"}\r\n",
		  "it refuses qmp_capabilities");
}

static void test_not_an_object(void **state)
{
	goes_down(*state, GREETING CAPABLE "[1, 2]\r\n", "what answers there does not speak QMP");
}

static void test_duplicate_keys(void **state)
{
	goes_down(*state, GREETING CAPABLE "{\"return\": 1, \"return\": 2, \"id\": \"vhp1\"}\r\n",
		  "what answers there does not speak QMP");
}

static void test_two_values_on_a_line(void **state)
{
	struct session *s = *state;
	struct question q;

	become_ready(s);
	ask(s, &q, "q");
	say(s, "{\"event\": \"A\"} {\"event\": \"B\"}{\"return\": 1, \"id\": \"vhp1\"}\n");
	spin_until(s->loop, is_answered, &q);
	assert_string_equal(s->log, "A(-);B(-);q=1;");
}

static void test_closed_too_often(void **state)
{
	become_ready(*state);
	goes_down(*state, "{\"id\": 1}}", "what answers there does not speak QMP");
}

static void test_bad_utf8(void **state)
{
	goes_down(*state, GREETING CAPABLE "{\"return\": \"\xff\", \"id\": \"vhp1\"}\r\n",
		  "what answers there does not speak QMP");
}

static void test_deep_nesting(void **state)
{
	char text[6000] = GREETING CAPABLE;
	size_t length = strlen(text);

	memset(text + length, '[', 5000);
	strcpy(text + length + 5000, "\r\n");
	goes_down(*state, text, "what answers there does not speak QMP");
}

static void test_value_of_more_than_a_megabyte(void **state)
{
	struct session *s = *state;
	struct question q;
	size_t sent = 0;
	char chunk[4096];

	become_ready(s);
	ask(s, &q, "q");
	memset(chunk, ' ', sizeof(chunk));
	say(s, "{");
	while (!s->downs && sent < 4 * 1024 * 1024) {
		ssize_t n = send(s->peer, chunk, sizeof(chunk), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0)
			sent += (size_t) n;
		spin_for(s->loop, 1);
	}
	assert_int_equal(s->downs, 1);
	assert_int_equal(q.answers, 1);
	assert_string_equal(s->why, "it sends a message of more than a megabyte");
	assert_in_range(sent, 1024 * 1024, 2 * 1024 * 1024);
}

/* A second of a monitor that says what it can; returns how many bytes were taken. */
static size_t hear_a_second(struct session *s, const char *chunk, size_t size)
{
	size_t taken = 0;

	for (int ms = 0; ms < 1000; ms++) {
		ssize_t n;

		while ((n = send(s->peer, chunk, size, MSG_DONTWAIT | MSG_NOSIGNAL)) > 0)
			taken += (size_t) n;
		spin_for(s->loop, 1);
	}
	return taken;
}

static void test_flood_of_events(void **state)
{
	static const char event[] = "{\"event\": \"E\", \"data\": {\"device\": \"x\"}}\r\n";
	struct session *s = *state;
	char chunk[100 * sizeof(event)] = "";
	struct question q;

	become_ready(s);
	for (int i = 0; i < 100; i++)
		strcat(chunk, event);
	hear_a_second(s, chunk, strlen(chunk)); /* the burst */
	for (int i = 0; i < 10; i++) {
		s->log[0] = 0;
		assert_true(hear_a_second(s, chunk, strlen(chunk)) < 200 * 1024);
	}
	/* It is heard all the same, what came before first, and its end at once. */
	ask(s, &q, "q");
	assert_int_equal(s->downs, 0);
	close(s->peer);
	s->peer = -1;
	spin_until(s->loop, is_down, s);
}

static void test_shared_budget(void **state)
{
	struct session *s = *state;
	struct budget budget;
	struct question q;

	become_ready(s);
	budget_init(&budget, 100, 1);
	budget_use(&budget, 100, now_monotonic_ms());
	qmp_limit(s->qmp, &budget);
	ask(s, &q, "q");
	say(s, "{\"return\": 1, \"id\": \"vhp1\"}");
	spin_for(s->loop, 900);
	assert_int_equal(q.answers, 0);
	spin_until(s->loop, is_answered, &q);
}

/* Half a message, or none, for ever. */
static void test_silence(void **state)
{
	struct session *s = *state;
	struct question q;

	become_ready(s);
	spin_for(s->loop, 300000); /* nothing is owed */
	ask(s, &q, "q");
	say(s, "{\"return\": 1, \"id\"");
	spin_for(s->loop, 59000);
	assert_int_equal(s->downs, 0);
	spin_until(s->loop, is_down, s);
	assert_string_equal(s->why, "it does not answer any more");
	assert_string_equal(q.result, "down: it does not answer any more");
}

/* Before the greeting another client may have the monitor, for hours. */
static void test_patience_with_a_busy_monitor(void **state)
{
	struct session *s = *state;
	struct question q;

	ask(s, &q, "q");
	spin_for(s->loop, 4 * 3600 * 1000);
	assert_int_equal(s->downs, 0);
	say(s, GREETING CAPABLE "{\"return\": 1, \"id\": \"vhp1\"}");
	spin_until(s->loop, is_answered, &q);
}

static void test_long_lines_are_fine(void **state)
{
	struct session *s = *state;
	struct question q;
	size_t size = 900 * 1024, sent = 0;
	_cleanup_free_ char *text = malloc(size);

	become_ready(s);
	ask(s, &q, "q");
	memset(text, ' ', size);
	memcpy(text, "{\"return\": 5,", 13);
	memcpy(text + size - 16, "\"id\": \"vhp1\" }\r\n", 16);
	while (sent < size) {
		ssize_t n = send(s->peer, text + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n > 0)
			sent += (size_t) n;
		spin_for(s->loop, 0);
	}
	spin_until(s->loop, is_answered, &q);
	assert_string_equal(q.result, "5");
}

static void test_peer_vanishes(void **state)
{
	struct session *s = *state;
	struct question a, b;

	become_ready(s);
	ask(s, &a, "a");
	ask(s, &b, "b");
	s->peer = close_fd(s->peer);
	spin_until(s->loop, is_down, s);
	assert_string_equal(s->log, "down;a=down: it closed the connection;"
				    "b=down: it closed the connection;");
}

static void test_last_words_are_heard(void **state)
{
	struct session *s = *state;
	struct question a, b;

	become_ready(s);
	ask(s, &a, "a");
	ask(s, &b, "b");
	say(s, "{\"return\": 1, \"id\": \"vhp1\"}\r\n{\"return\": 2, ");
	s->peer = close_fd(s->peer);
	spin_until(s->loop, is_down, s);
	assert_string_equal(s->log, "a=1;down;b=down: it closed the connection;");
}

static void test_stays_down(void **state)
{
	struct session *s = *state;
	struct qmp *qmp = s->qmp;
	json_t *arguments = json_pack("{s:s}", "id", "x");

	s->peer = close_fd(s->peer);
	/* The qmp itself lives until the end of the pass in which it was closed: close it here. */
	qmp_close(qmp);
	assert_int_equal(qmp_command(qmp, "x", arguments, NULL, NULL), -ENOTCONN);
	assert_int_equal(qmp_flush(qmp, -1), -ENOTCONN);
	assert_false(qmp_is_ready(qmp));
	assert_null(qmp_close(qmp));
	s->qmp = NULL;
}

static void test_closed_in_a_reply(void **state)
{
	struct session *s = *state;
	struct question a, b;

	become_ready(s);
	ask(s, &a, "a");
	ask(s, &b, "b");
	s->close_in_reply = true;
	say(s, "{\"return\": 1, \"id\": \"vhp1\"}\r\n{\"return\": 2, \"id\": \"vhp2\"}\r\n");
	spin_until(s->loop, is_answered, &a);
	spin_for(s->loop, 5);
	/* Closed by ourselves: what was pending is dropped without a call. */
	assert_string_equal(s->log, "a=1;");
}

static void test_closed_in_an_event(void **state)
{
	struct session *s = *state;

	become_ready(s);
	s->close_in_event = true;
	say(s, "{\"event\": \"A\"}\r\n{\"event\": \"B\"}\r\n");
	spin_for(s->loop, 10);
	assert_string_equal(s->log, "A(-);");
}

static void test_too_many_commands(void **state)
{
	struct session *s = *state;
	int n = 0;

	while (qmp_command(s->qmp, "x", NULL, NULL, NULL) == 0)
		assert_true(++n < 10000);
	assert_int_equal(qmp_pending(s->qmp), n + 1);
	assert_int_equal(qmp_command(s->qmp, "x", json_pack("{s:s}", "a", "b"), NULL, NULL),
			 -ENOMEM);
}

/* Descriptors */

/* Receives exactly one byte; returns whether a descriptor came with it, in *RET_FD. */
static bool receive_byte(int fd, char *byte, int *ret_fd)
{
	struct iovec iov = {.iov_base = byte, .iov_len = 1};
	union {
		char buffer[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control.buffer,
			     .msg_controllen = sizeof(control.buffer)};

	if (recvmsg(fd, &msg, MSG_DONTWAIT) != 1) {
		*byte = 0;
		return false;
	}
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	if (!cmsg)
		return false;
	memcpy(ret_fd, CMSG_DATA(cmsg), sizeof(int));
	return true;
}

static void same_file(int a, int b)
{
	struct stat sa, sb;

	assert_int_equal(fstat(a, &sa), 0);
	assert_int_equal(fstat(b, &sb), 0);
	assert_int_equal(sa.st_dev, sb.st_dev);
	assert_int_equal(sa.st_ino, sb.st_ino);
}

static void test_descriptor_with_the_first_byte(void **state)
{
	struct session *s = *state;
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), got = -1;
	char byte;

	assert_int_equal(qmp_command(s->qmp, "add-fd", NULL, NULL, NULL), 0);
	assert_int_equal(qmp_flush(s->qmp, file), 0);
	assert_true(receive_byte(s->peer, &byte, &got));
	assert_int_equal(byte, '{');
	same_file(file, got);
	close(got);
	while (receive_byte(s->peer, &byte, &got), byte)
		;
	close(file);
}

static void test_descriptor_after_a_full_buffer(void **state)
{
	struct session *s = *state;
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), got = -1, n_got = 0;
	size_t size = 700 * 1024, at = 0, first_of_second = 0;
	_cleanup_free_ char *big = malloc(size), *all = calloc(2, size + 4096);
	char byte;

	memset(big, 'x', size);
	big[size - 1] = 0;
	assert_int_equal(qmp_command(s->qmp, "big", json_pack("{s:s}", "a", big), NULL, NULL), 0);
	assert_int_equal(qmp_flush(s->qmp, -1), 0);
	assert_int_equal(qmp_command(s->qmp, "add-fd", json_pack("{s:s}", "a", big), NULL, NULL),
			 0);
	assert_int_equal(qmp_flush(s->qmp, file), 0);
	close(file); /* it was duplicated */
	file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	/* The peer is slow: what did not fit follows by itself, in order, the descriptor with the
	 * first byte of its own packet. */
	for (int idle = 0; idle < 200;) {
		bool with_fd = receive_byte(s->peer, &byte, &got);

		if (!byte) {
			spin_for(s->loop, 0);
			idle++;
			continue;
		}
		idle = 0;
		if (with_fd) {
			n_got++;
			first_of_second = at;
			same_file(file, got);
			close(got);
		}
		assert_true(at < 2 * size + 4096);
		all[at++] = byte;
	}
	assert_int_equal(n_got, 1);
	assert_non_null(startswith(all + first_of_second, "{\"execute\":\"add-fd\","));
	assert_string_equal(all + at - strlen("\"id\":\"vhp2\"}\n"), "\"id\":\"vhp2\"}\n");
	assert_int_equal(all[first_of_second - 1], '\n');
	assert_true(at > 2 * size);
	close(file);
}

/* A's command can't be sent for want of a descriptor: it must not leave with B's. */
static void test_command_without_its_descriptor(void **state)
{
	struct session *s = *state;
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), got = -1, probe = dup(0);
	struct rlimit limit, none;
	struct question a, b;
	char byte;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	close(probe);
	ask(s, &a, "add-fd-a");
	none = (struct rlimit){.rlim_cur = (rlim_t) probe, .rlim_max = limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	assert_int_equal(qmp_flush(s->qmp, file), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(a.answers, 1);
	assert_string_equal(a.result, "down: Too many open files");
	assert_string_equal(hear(s), "");
	assert_int_equal(qmp_pending(s->qmp), 1); /* the capabilities */

	ask(s, &b, "add-fd-b");
	assert_int_equal(qmp_flush(s->qmp, file), 0);
	assert_true(receive_byte(s->peer, &byte, &got));
	same_file(file, got);
	close(got);
	close(file);
	assert_string_equal(hear(s), "\"execute\":\"qmp_capabilities\",\"id\":\"vhp0\"}\n"
				     "{\"execute\":\"add-fd-b\",\"id\":\"vhp2\"}\n");
	say(s, GREETING CAPABLE "{\"return\": 4, \"id\": \"vhp2\"}");
	spin_until(s->loop, is_answered, &b);
	assert_int_equal(a.answers, 1);
}

static void test_nothing_to_flush(void **state)
{
	struct session *s = *state;

	assert_int_equal(qmp_flush(s->qmp, -1), 0); /* the capabilities */
	hear(s);
	assert_int_equal(qmp_flush(s->qmp, -1), 0);
	assert_string_equal(hear(s), "");
}

static void test_bad_descriptor(void **state)
{
	struct session *s = *state;

	assert_int_equal(qmp_flush(s->qmp, 9999), -EBADF);
}

int main(void)
{
#define QMP_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		QMP_TEST(test_commands_go_out_before_the_greeting),
		QMP_TEST(test_byte_by_byte),
		QMP_TEST(test_arguments),
		QMP_TEST(test_event_before_reply),
		QMP_TEST(test_replies_out_of_order),
		QMP_TEST(test_replies_to_nobody),
		QMP_TEST(test_answer_to_the_one_before),
		QMP_TEST(test_errors),
		QMP_TEST(test_answers_that_say_nothing),
		QMP_TEST(test_capabilities_answered_with_nothing),
		QMP_TEST(test_odd_messages),
		QMP_TEST(test_values_over_lines),
		QMP_TEST(test_closed_too_often),
		QMP_TEST(test_flood_of_events),
		QMP_TEST(test_shared_budget),
		QMP_TEST(test_silence),
		QMP_TEST(test_patience_with_a_busy_monitor),
		QMP_TEST(test_command_without_its_descriptor),
		QMP_TEST(test_no_monitor),
		QMP_TEST(test_human_monitor),
		QMP_TEST(test_capabilities_refused),
		QMP_TEST(test_not_an_object),
		QMP_TEST(test_duplicate_keys),
		QMP_TEST(test_two_values_on_a_line),
		QMP_TEST(test_bad_utf8),
		QMP_TEST(test_deep_nesting),
		QMP_TEST(test_value_of_more_than_a_megabyte),
		QMP_TEST(test_long_lines_are_fine),
		QMP_TEST(test_peer_vanishes),
		QMP_TEST(test_last_words_are_heard),
		QMP_TEST(test_stays_down),
		QMP_TEST(test_closed_in_a_reply),
		QMP_TEST(test_closed_in_an_event),
		QMP_TEST(test_too_many_commands),
		QMP_TEST(test_descriptor_with_the_first_byte),
		QMP_TEST(test_descriptor_after_a_full_buffer),
		QMP_TEST(test_nothing_to_flush),
		QMP_TEST(test_bad_descriptor),
	};

	loop_skip_waiting(true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
