/* One question over HTTP: what is taken for an answer, whole and in pieces, and what is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "broker/http.h"
#include "tests/unit/spin.h"

#define OK "HTTP/1.1 200 \r\nServer: x\r\n"

static int parse(const char *text, bool at_end, struct http_answer *ret)
{
	return http_parse(text, strlen(text), at_end, ret);
}

static void test_answers(void **state)
{
	static const struct {
		const char *text;
		unsigned status;
		const char *body;
	} cases[] = {
		{OK "Content-Length: 2\r\n\r\n{}", 200, "{}"},
		{"HTTP/1.1 200 OK\r\ncontent-length:2 \r\n\r\n{}", 200, "{}"},
		{OK "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 200, "{}"},
		{OK "Content-Length: 0\r\n\r\n", 200, ""},
		{"HTTP/1.1 204 \r\nConnection: keep-alive\r\n\r\n", 204, ""},
		{"HTTP/1.0 204 No Content\r\n\r\n", 204, ""},
		{"HTTP/1.1 500 \r\nContent-Length: 4\r\n\r\n[\"\"]", 500, "[\"\"]"},
		{"HTTP/1.1 404 \r\nConnection: keep-alive\r\n\r\n", 404, ""},
		{"HTTP/1.1 100 Continue\r\n\r\n" OK "Content-Length: 1\r\n\r\n1", 200, "1"},
	};
	struct http_answer answer;

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		const char *text = cases[i].text;

		/* In pieces it is the same, and never there too early. */
		for (size_t n = 0; n < strlen(text); n++)
			assert_int_equal(http_parse(text, n, false, &answer), -EAGAIN);
		assert_int_equal(parse(text, false, &answer), 0);
		assert_int_equal(answer.status, cases[i].status);
		assert_int_equal(answer.length, strlen(cases[i].body));
		assert_memory_equal(answer.body, cases[i].body, answer.length);
		/* One question has one answer. */
		char longer[200];
		snprintf(longer, sizeof(longer), "%s.", text);
		assert_int_equal(parse(longer, false, &answer), -EBADMSG);
	}
	/* Nothing but the end of the connection says how long this one is. */
	assert_int_equal(parse(OK "\r\nbody", false, &answer), -EAGAIN);
	assert_int_equal(parse(OK "\r\nbody", true, &answer), 0);
	assert_int_equal(answer.length, 4);
}

static void test_what_is_none(void **state)
{
	static const char *const texts[] = {
		"220 a mail server\r\n\r\n",
		"{\"QMP\": 1}\r\n\r\n",
		"\r\n\r\n",
		"HTTP/2 200 \r\n\r\n",
		"HTTP/1.1  200\r\n\r\n",
		"HTTP/1.1 20\r\n\r\n",
		"HTTP/1.1 2000\r\n\r\n",
		"HTTP/1.1 2x0 \r\n\r\n",
		"HTTP/1.1 099 \r\n\r\n",
		"HTTP/1.1 600 \r\n\r\n",
		OK "Content-Length: -1\r\n\r\n",
		OK "Content-Length: +1\r\n\r\n1",
		OK "Content-Length: \r\n\r\n",
		OK "Content-Length: 1 1\r\n\r\n1",
		OK "Content-Length: 0x1\r\n\r\n1",
		OK "Content-Length: 1\r\nContent-Length: 2\r\n\r\n11",
		OK "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		OK "no colon\r\n\r\n",
		OK ": no name\r\n\r\n",
		OK " folded: 1\r\n\r\n",
	};
	struct http_answer answer, before;

	(void) state;
	memset(&answer, 0x5a, sizeof(answer));
	before = answer;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		if (parse(texts[i], false, &answer) != -EBADMSG)
			fail_msg("accepted: %s", texts[i]);
		assert_memory_equal(&answer, &before, sizeof(answer));
	}
	assert_int_equal(parse(OK "Content-Length: 9999999999999999999999\r\n\r\n", false, &answer),
			 -EMSGSIZE);
	assert_int_equal(parse(OK "Content-Length: 1048577\r\n\r\n", false, &answer), -EMSGSIZE);
	assert_int_equal(parse(OK "Content-Length: 3\r\n\r\nab", true, &answer), -EBADMSG);
	assert_int_equal(parse("", true, &answer), -EBADMSG);
}

static void test_a_head_without_end(void **state)
{
	char head[HTTP_MAX_HEAD + 1];
	struct http_answer answer;

	(void) state;
	memset(head, 'a', sizeof(head));
	memcpy(head, OK, strlen(OK));
	assert_int_equal(http_parse(head, HTTP_MAX_HEAD - 1, false, &answer), -EAGAIN);
	assert_int_equal(http_parse(head, HTTP_MAX_HEAD, false, &answer), -EMSGSIZE);
}

/* The connection */

static struct {
	struct loop *loop;
	struct http *http;
	int peer;
	unsigned n_calls, status;
	int r;
	char body[64];
} t;

static void on_answer(void *data, int r, const struct http_answer *answer)
{
	(void) data;
	t.http = NULL;
	t.n_calls++;
	t.r = r;
	assert_int_equal(r == 0, answer != NULL);
	if (answer) {
		t.status = answer->status;
		snprintf(t.body, sizeof(t.body), "%.*s", (int) answer->length, answer->body);
	}
}

static int setup(void **state)
{
	int fds[2];

	(void) state;
	memset(&t, 0, sizeof(t));
	assert_int_equal(loop_new(&t.loop), 0);
	loop_skip_waiting(t.loop);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds),
			 0);
	t.peer = fds[1];
	assert_int_equal(
		http_ask(t.loop, fds[0], "PUT", "/a", "{}", 3000, on_answer, NULL, &t.http), 0);
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	http_cancel(t.http);
	close_fd(t.peer);
	loop_free(t.loop);
	return 0;
}

static void say(const char *text)
{
	assert_int_equal(send(t.peer, text, strlen(text), MSG_NOSIGNAL), strlen(text));
	spin_for(t.loop, 5);
}

static void test_question_and_answer(void **state)
{
	char request[300] = "";

	(void) state;
	spin_for(t.loop, 5);
	assert_true(recv(t.peer, request, sizeof(request) - 1, 0) > 0);
	assert_non_null(startswith(request, "PUT /a HTTP/1.1\r\nHost: "));
	assert_non_null(
		strstr(request, "\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"));
	assert_non_null(strstr(request, "\r\n\r\n{}"));
	say(OK "Content-Le");
	say("ngth: 4\r\n\r\nab");
	assert_int_equal(t.n_calls, 0);
	say("cd");
	assert_int_equal(t.n_calls, 1);
	assert_int_equal(t.r, 0);
	assert_int_equal(t.status, 200);
	assert_string_equal(t.body, "abcd");
	/* It has hung up. */
	assert_int_equal(recv(t.peer, request, 1, 0), 0);
}

static void test_no_answer(void **state)
{
	(void) state;
	spin_for(t.loop, 2900);
	assert_int_equal(t.n_calls, 0);
	spin_for(t.loop, 200);
	assert_int_equal(t.n_calls, 1);
	assert_int_equal(t.r, -ETIMEDOUT);
}

static void test_half_an_answer(void **state)
{
	(void) state;
	say(OK "Content-Length: 4\r\n\r\nab");
	t.peer = close_fd(t.peer);
	spin_for(t.loop, 5);
	assert_int_equal(t.n_calls, 1);
	assert_int_equal(t.r, -ECONNRESET);
}

static void test_another_protocol(void **state)
{
	(void) state;
	say("{\"QMP\": {}}\r\n\r\n");
	assert_int_equal(t.n_calls, 1);
	assert_int_equal(t.r, -EBADMSG);
}

static void test_cancel(void **state)
{
	(void) state;
	t.http = http_cancel(t.http);
	send(t.peer, OK, strlen(OK), MSG_NOSIGNAL);
	spin_for(t.loop, 4000);
	assert_int_equal(t.n_calls, 0);
}

int main(void)
{
#define CONNECTION(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_what_is_none),
		cmocka_unit_test(test_a_head_without_end),
		CONNECTION(test_question_and_answer),
		CONNECTION(test_no_answer),
		CONNECTION(test_half_an_answer),
		CONNECTION(test_another_protocol),
		CONNECTION(test_cancel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
