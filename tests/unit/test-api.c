/* broker/api*.c over socketpairs: recorded exchanges with vhotplug, and our own dialect. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
/* After sys/socket.h. */
#include <linux/vm_sockets.h>
#include <cmocka.h>

#include "broker/control_listen.h"
#include "tests/unit/api-double.h"
#include "tests/unit/spin.h"

struct test {
	struct loop *loop;
	struct double_broker broker;
	struct api *api;
	int fd, listener; /* the clients' ends; the second one wants events */
};

static void pass(void *data)
{
	struct test *t = data;

	api_pass(t->api);
}

/* The client's end of a new connection. */
static int join(struct test *t, enum control_dialect dialect, bool is_trusted)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	control_accept(api_control(t->api), pair[1], dialect, is_trusted);
	return pair[0];
}

static void write_all(int fd, const char *text)
{
	assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* What comes in at FD, lines and all, until nothing has for a moment. */
static char *hear(struct test *t, int fd)
{
	static char text[65536];
	size_t length = 0;

	for (int quiet = 0; quiet < 3;) {
		spin_for(t->loop, 2);
		ssize_t n = recv(fd, text + length, sizeof(text) - 1 - length, MSG_DONTWAIT);
		quiet = n > 0 ? 0 : quiet + 1;
		length += n > 0 ? (size_t) n : 0;
	}
	text[length] = 0;
	return text;
}

static char *ask(struct test *t, int fd, const char *text)
{
	write_all(fd, text);
	return hear(t, fd);
}

static int setup(void **state)
{
	struct test *t = calloc(1, sizeof(*t));

	loop_skip_waiting(true);
	assert_int_equal(loop_new(&t->loop), 0);
	assert_int_equal(api_new(t->loop, &double_verbs, &t->broker, &t->api), 0);
	loop_set_pass_end(t->loop, pass, t);
	t->fd = t->listener = -1;
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	struct test *t = *state;

	api_free(t->api);
	loop_free(t->loop);
	close_fd(t->fd);
	close_fd(t->listener);
	while (t->broker.n > 0)
		double_unplug(&t->broker, t->broker.devices[0].view.id);
	json_decref(t->broker.query);
	free(t);
	return 0;
}

/* Exchanges */

static void change_world(struct test *t, const json_t *line)
{
	const char *name;
	json_t *item;
	size_t i;

	json_array_foreach(json_object_get(line, "unplug"), i, item)
		double_unplug(&t->broker, json_string_value(item));
	json_array_foreach(json_object_get(line, "plug"), i, item) double_plug(&t->broker, item);
	json_object_foreach(json_object_get(line, "set"), name, item)
		double_set(double_find(&t->broker, name), item);
}

/* The JSON values in TEXT, one a line. */
static json_t *lines_of(const char *text)
{
	json_t *lines = json_array();

	while (*text) {
		size_t n = strcspn(text, "\n");

		assert_int_equal(text[n], '\n');
		json_t *value = json_loadb(text, n, 0, NULL);
		assert_non_null(value);
		json_array_append_new(lines, value);
		text += n + 1;
	}
	return lines;
}

/* Is all of HEARD in EXPECTED, and the other way round? */
static bool is_equal(const json_t *heard, json_t *expected, bool any_order)
{
	json_t *one, *other;
	size_t i, j;

	if (!any_order || json_array_size(heard) != json_array_size(expected))
		return json_equal(heard, expected);
	json_array_foreach(heard, i, one)
		json_array_foreach(expected, j, other) if (json_equal(one, other))
	{
		json_array_remove(expected, j);
		break;
	}
	return json_array_size(expected) == 0;
}

static void compare(const json_t *line, const char *what, const char *heard, const char *expected)
{
	json_t *ours = lines_of(heard), *theirs = lines_of(expected);

	if (!is_equal(ours, theirs, json_object_get(line, "any_order"))) {
		char *text = json_dumps(line, JSON_INDENT(1));
		fail_msg("%s\n%s of ours: %s", text, what, heard);
	}
	json_decref(ours);
	json_decref(theirs);
}

static void compare_events(struct test *t, const json_t *line)
{
	char expected[16384] = "";
	json_t *event;
	size_t i;

	json_array_foreach(json_object_get(line, "events"), i, event)
		strcat(expected, json_string_value(event));
	compare(line, "events", hear(t, t->listener), expected);
}

static void replay(struct test *t, const json_t *line)
{
	const char *request = json_string_value(json_object_get(line, "request"));
	const char *answer = json_string_value(json_object_get(line, "answer"));

	change_world(t, line);
	if (json_object_get(line, "note")) {
		close_fd(t->fd);
		t->fd = join(t, CONTROL_VHOTPLUG, true);
	}
	if (request)
		compare(line, "answer", ask(t, t->fd, request), answer ? answer : "");
	if (json_object_get(line, "events"))
		compare_events(t, line);
	else
		hear(t, t->listener);
}

static void test_exchanges(void **state)
{
	struct test *t = *state;
	_cleanup_fclose_ FILE *f = fopen(SOURCE_DIR "/tests/unit/api-exchanges.jsonl", "re");
	json_t *line;
	unsigned n = 0;

	assert_non_null(f);
	t->fd = join(t, CONTROL_VHOTPLUG, true);
	t->listener = join(t, CONTROL_VHOTPLUG, true);
	assert_string_equal(ask(t, t->listener, "{\"action\": \"enable_notifications\"}\n"),
			    "{\"result\": \"ok\"}\n");
	while ((line = json_loadf(f, JSON_DISABLE_EOF_CHECK, NULL))) {
		replay(t, line);
		json_decref(line);
		n++;
	}
	assert_true(n > 90);
}

/* What is on its way */

static const char stick[] = "{\"sys_name\": \"1-2\", \"device_node\": \"/dev/bus/usb/001/002\", "
			    "\"vid\": \"46f4\", \"pid\": \"0001\", \"vms\": \"vm1,vm2\", "
			    "\"vm\": \"vm1\"}";

static void plug_stick(struct test *t)
{
	json_t *json = json_loads(stick, 0, NULL);

	double_plug(&t->broker, json);
	json_decref(json);
}

/* The stick is in VM now, and moves or rests. */
static void set_stick(struct test *t, const char *vm, bool is_busy)
{
	json_t *json = json_pack("{s:s, s:b}", "vm", vm, "busy", is_busy);

	double_set(double_find(&t->broker, "1-2"), json);
	json_decref(json);
}

#define ATTACH_TO(vm)                                                                           \
	"{\"action\": \"usb_attach\", \"device_node\": \"/dev/bus/usb/001/002\", \"vm\": \"" vm \
	"\"}\n"
#define OK "{\"result\": \"ok\"}\n"

static void test_events_of_a_slow_move(void **state)
{
	struct test *t = *state;

	plug_stick(t);
	t->fd = join(t, CONTROL_VHOTPLUG, true);
	t->listener = join(t, CONTROL_VHOTPLUG, true);
	assert_string_equal(ask(t, t->listener, "{\"action\": \"enable_notifications\"}\n"), OK);
	t->broker.is_stuck = true;
	assert_string_equal(ask(t, t->fd, ATTACH_TO("vm2")), "");
	assert_string_equal(hear(t, t->listener), ""); /* vm1 has it still */
	set_stick(t, "", true);
	assert_non_null(strstr(hear(t, t->listener), "usb_detached"));
	set_stick(t, "vm2", false);
	assert_string_equal(hear(t, t->fd), OK);
	char *heard = hear(t, t->listener);
	assert_ptr_equal(strstr(heard, "{\"event\": \"usb_attached\""), heard);
	assert_ptr_equal(strchr(heard, '\n'), heard + strlen(heard) - 1);
}

/* What is told of a device is what it is then. */
static void test_events_say_what_is(void **state)
{
	struct test *t = *state;
	json_t *card = json_pack("{s:s, s:s, s:s}", "address", "0000:00:08.0", "driver", "e1000e",
				 "vms", "vm1");
	json_t *taken = json_pack("{s:s, s:s}", "driver", "vfio-pci", "vm", "vm1");
	json_t *out = json_pack("{s:s}", "vm", "");

	double_plug(&t->broker, card);
	t->listener = join(t, CONTROL_VHOTPLUG, true);
	assert_string_equal(ask(t, t->listener, "{\"action\": \"enable_notifications\"}\n"), OK);
	double_set(double_find(&t->broker, "0000:00:08.0"), taken);
	char *heard = hear(t, t->listener);
	assert_non_null(strstr(heard, "pci_attached"));
	assert_non_null(strstr(heard, "\"driver\": \"vfio-pci\""));
	double_set(double_find(&t->broker, "0000:00:08.0"), out);
	heard = hear(t, t->listener);
	assert_non_null(strstr(heard, "pci_detached"));
	assert_non_null(strstr(heard, "\"driver\": \"vfio-pci\""));
	json_decref(card);
	json_decref(taken);
	json_decref(out);
}

/* Its guest has been asked to let go of it, and still may. */
static void test_back_before_it_has_left(void **state)
{
	struct test *t = *state;

	plug_stick(t);
	t->fd = join(t, CONTROL_VHOTPLUG, true);
	t->broker.is_stuck = true;
	assert_string_equal(ask(t, t->fd, ATTACH_TO("vm1")), "");
	set_stick(t, "", true);
	assert_string_equal(hear(t, t->fd), "");
	set_stick(t, "vm1", false);
	assert_string_equal(hear(t, t->fd), OK);
}

/* One that goes along with its IOMMU group is claimed by no rule itself: a list of all has it, and
 * once. */
static void test_list_of_all_has_group_members(void **state)
{
	struct test *t = *state;
	json_t *card = json_pack("{s:s, s:s}", "address", "0000:00:08.0", "vms", "vm1");
	json_t *member = json_pack("{s:s, s:s}", "address", "0000:00:08.1", "vms", "vm1");

	double_plug(&t->broker, card);
	double_plug(&t->broker, member);
	double_find(&t->broker, "0000:00:08.1")->view.is_group_member = true;
	t->fd = join(t, CONTROL_OWN, false);
	assert_null(strstr(ask(t, t->fd, "{\"action\": \"list\"}\n"), "0000:00:08.1"));
	const char *first = strstr(ask(t, t->fd, "{\"action\": \"list\", \"all\": true}\n"),
				   "\"device\": \"0000:00:08.1\"");
	assert_non_null(first);
	assert_null(strstr(first + 1, "\"device\": \"0000:00:08.1\""));
	json_decref(card);
	json_decref(member);
}

/* Those who go */

static bool is_nobody_there(void *data)
{
	const struct test *t = data;

	return !control_clients(api_control(t->api));
}

static const char reload[] = "{\"action\": \"reload\"}\n";

/* Somebody sends a line that has to be waited for and N others behind it, and goes; with
 * UNREAD he has not read the answer to the one before. */
static void send_and_go(struct test *t, unsigned n, bool unread)
{
	char text[2 * CONTROL_LINE_MAX];

	t->broker.is_stuck = true;
	t->broker.reloads = 0;
	t->fd = join(t, CONTROL_OWN, true);
	if (unread) {
		write_all(t->fd, "{\"action\": \"status\"}\n");
		spin_for(t->loop, 2);
	}
	strcpy(text, ATTACH_TO("vm2"));
	for (unsigned i = 0; i < n; i++)
		strcat(text, reload);
	write_all(t->fd, text);
	t->fd = close_fd(t->fd);
	spin_for(t->loop, 10); /* for ever, if the loop did not rest */
	assert_int_equal(t->broker.reloads, 0);
	assert_false(is_nobody_there(t));
	set_stick(t, "vm2", false);
	spin_until(t->loop, is_nobody_there, t);
	assert_int_equal(t->broker.reloads, n);
}

static void test_lines_of_one_that_has_gone(void **state)
{
	struct test *t = *state;

	plug_stick(t);
	send_and_go(t, 1, false);
	send_and_go(t, 1, true);
	send_and_go(t, 5 * CONTROL_LINE_MAX / 4 / sizeof(reload), false);
	/* Half a line is none. */
	t->fd = join(t, CONTROL_OWN, true);
	assert_int_equal(send(t->fd, reload, strlen(reload) - 1, 0), strlen(reload) - 1);
	t->fd = close_fd(t->fd);
	t->broker.reloads = 0;
	spin_until(t->loop, is_nobody_there, t);
	assert_int_equal(t->broker.reloads, 0);
}

/* Who asks */

#define OTHER 31002 /* a user and a group that nobody is in */

/* A connection of somebody who is not root, in the group GID. */
static int join_as_other(struct test *t, gid_t gid)
{
	int pair[2];

	/* The kernel notes who makes them. */
	assert_int_equal(setegid(gid) | seteuid(OTHER), 0);
	int r = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);
	assert_int_equal(seteuid(0) | setegid(0), 0);
	assert_int_equal(r, 0);
	control_accept(api_control(t->api), pair[1], CONTROL_OWN, false);
	return pair[0];
}

struct answers {
	int fd;
	size_t n, wanted;
};

static bool are_there(void *data)
{
	struct answers *answers = data;
	char text[4096];
	ssize_t n = recv(answers->fd, text, sizeof(text), MSG_DONTWAIT);

	for (ssize_t i = 0; i < n; i++)
		answers->n += text[i] == '\n';
	return answers->n == answers->wanted;
}

/* How many ms of the loop's clock it takes until N questions, sent at once, are answered. */
static uint64_t ask_often(struct test *t, size_t n)
{
	struct answers answers = {.fd = t->fd, .wanted = n};
	uint64_t start = now_monotonic_ms();

	for (size_t i = 0; i < n; i++)
		write_all(t->fd, "{\"action\": \"history\"}\n");
	spin_until(t->loop, are_there, &answers);
	return now_monotonic_ms() - start;
}

static void test_time_of_readers(void **state)
{
	struct test *t = *state;

	if (geteuid() != 0)
		skip();
	t->fd = join_as_other(t, OTHER);
	assert_in_range(ask_often(t, 20), 0, 1000);
	/* A fifth of the time in the long run, and a tenth of a second at once. */
	t->broker.history_us = 10000;
	assert_in_range(ask_often(t, 40), 1400, SPIN_LIMIT_MS);
	for (size_t i = 0; i < 40; i++)
		write_all(t->fd, "{\"action\": \"history\"}\n");
	close_fd(t->fd);
	spin_for(t->loop, 1);
	assert_true(is_nobody_there(t)); /* nobody would hear the answers */
	t->fd = join(t, CONTROL_OWN, false);
	assert_in_range(ask_often(t, 40), 0, 1000); /* root's is not counted */
}

static void test_history_is_for_the_group(void **state)
{
	static const char question[] = "{\"action\": \"history\"}\n";
	struct test *t = *state;

	if (geteuid() != 0)
		skip();
	t->fd = join_as_other(t, OTHER);
	assert_non_null(strstr(ask(t, t->fd, question), "\"ok\""));
	close_fd(t->fd);
	control_set_readers(api_control(t->api), OTHER);
	t->fd = join_as_other(t, OTHER + 1);
	assert_non_null(strstr(ask(t, t->fd, question), "not permitted"));
	assert_non_null(strstr(ask(t, t->fd, "{\"action\": \"list\"}\n"), "\"ok\""));
	close_fd(t->fd);
	t->fd = join_as_other(t, OTHER);
	assert_non_null(strstr(ask(t, t->fd, question), "\"ok\""));
	close_fd(t->fd);
	control_set_group(api_control(t->api), OTHER + 1);
	t->fd = join_as_other(t, OTHER + 1);
	assert_non_null(strstr(ask(t, t->fd, question), "\"ok\""));
	close_fd(t->fd);
	t->fd = join(t, CONTROL_OWN, false);
	assert_non_null(strstr(ask(t, t->fd, question), "\"ok\""));
}

static bool has_ended(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

/* A question that comes behind HEAD; with HANGS_UP it is not answered. */
static void expect_behind(struct test *t, const char *head, bool hangs_up)
{
	for (int dialect = CONTROL_OWN; dialect <= CONTROL_VHOTPLUG; dialect++) {
		t->fd = join(t, (enum control_dialect) dialect, true);
		write_all(t->fd, head);
		char *heard = ask(t, t->fd, "{\"action\": \"usb_list\"}\n");
		assert_int_equal(strstr(heard, "\"ok\"") == NULL, hangs_up);
		assert_int_equal(has_ended(t->fd), hangs_up);
		t->fd = close_fd(t->fd);
	}
}

static void test_browsers(void **state)
{
	struct test *t = *state;

	expect_behind(t, "POST / HTTP/1.1\r\nHost: 127.0.0.1:2000\r\n\r\n", true);
	expect_behind(t, "GET /?x={} HTTP/1.0\n", true);
	expect_behind(t, "\n\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", true);
	expect_behind(t, "\x16\x03\x01\n", true);
	expect_behind(t, "", false);
	expect_behind(t, "hello\n\n", false);
	expect_behind(t, "GET up\n", false);
	expect_behind(t, "\"POST / HTTP/1.1\"\n", false);
}

/* What clients may hold */

static void plug_many(struct test *t, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		json_t *json =
			json_pack("{s:o, s:s}", "sys_name", json_sprintf("1-%u", i), "vms", "vm1");

		double_plug(&t->broker, json);
		json_decref(json);
	}
}

static bool has_line(void *data)
{
	const struct control_client *client = data;

	return client->in_length == CONTROL_LINE_MAX - 2;
}

/* Everybody may ask for something long, and then stay. */
static void test_buffers_are_given_back(void **state)
{
	struct test *t = *state;
	char line[CONTROL_LINE_MAX - 1];

	plug_many(t, 1000);
	t->fd = join(t, CONTROL_OWN, true);
	const struct control_client *client = control_clients(api_control(t->api));
	write_all(t->fd, "{\"action\": \"list\"}\n");
	spin_for(t->loop, 1);
	assert_true(client->out_length > 65536);
	while (*hear(t, t->fd))
		;
	assert_in_range(client->out_size, 0, 4096);
	memset(line, 'x', sizeof(line) - 1);
	line[sizeof(line) - 1] = 0;
	write_all(t->fd, line);
	spin_until(t->loop, has_line, (void *) client);
	assert_non_null(strstr(ask(t, t->fd, "\n"), "not JSON"));
	assert_in_range(client->in_size, 0, 4096);
}

/* Guests */

static int guest_fd = -1; /* who is there came by vsock, with the CID 7 */

int __real_getpeername(int fd, struct sockaddr *address, socklen_t *size);
int __wrap_getpeername(int fd, struct sockaddr *address, socklen_t *size);
int __wrap_getpeername(int fd, struct sockaddr *address, socklen_t *size)
{
	const struct sockaddr_vm guest = {.svm_family = AF_VSOCK, .svm_cid = 7};

	if (fd != guest_fd)
		return __real_getpeername(fd, address, size);
	assert_true(*size >= sizeof(guest));
	memcpy(address, &guest, sizeof(guest));
	*size = sizeof(guest);
	return 0;
}

static void test_guests_that_may_no_more(void **state)
{
	static const unsigned cids[] = {3, 7};
	struct test *t = *state;
	struct control *control = api_control(t->api);

	t->listener = join(t, CONTROL_VHOTPLUG, true);
	t->fd = join(t, CONTROL_VHOTPLUG, true);
	guest_fd = control_clients(control)->fd;
	control_drop_guests(control, cids, 2);
	assert_non_null(strstr(ask(t, t->fd, "{\"action\": \"usb_list\"}\n"), "\"ok\""));
	control_drop_guests(control, cids, 1);
	guest_fd = -1;
	assert_true(has_ended(t->fd));
	assert_non_null(strstr(ask(t, t->listener, "{\"action\": \"usb_list\"}\n"), "\"ok\""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_exchanges, setup, teardown),
		cmocka_unit_test_setup_teardown(test_events_of_a_slow_move, setup, teardown),
		cmocka_unit_test_setup_teardown(test_events_say_what_is, setup, teardown),
		cmocka_unit_test_setup_teardown(test_back_before_it_has_left, setup, teardown),
		cmocka_unit_test_setup_teardown(test_list_of_all_has_group_members, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_lines_of_one_that_has_gone, setup, teardown),
		cmocka_unit_test_setup_teardown(test_time_of_readers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_history_is_for_the_group, setup, teardown),
		cmocka_unit_test_setup_teardown(test_browsers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_buffers_are_given_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_guests_that_may_no_more, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
