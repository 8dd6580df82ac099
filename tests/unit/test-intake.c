/* Intake with a real socket, a real spool and a real database; the helpers are connections of the
 * test's own. */
#include <fcntl.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "broker/acted.h"
#include "broker/event.h"
#include "broker/intake.h"
#include "broker/store.h"
#include "helper/spool.h"
#include "tests/unit/spin.h"
#include "tests/unit/temp.h"

#define BOOT "11111111-2222-3333-4444-555555555555"
#define PATH_1 "/devices/pci0000:00/usb1/1-2"

struct office {
	struct loop *loop;
	struct store *store;
	struct intake *intake;
	sqlite3 *other; /* somebody else's connection to the database */
	char *dir;
	char log[8192]; /* "add 1;" for each event handed out */
	int n_events, n_reconciles;
	bool acknowledge_later;
	bool records; /* what an event is about */
	struct intake_client *waiting;
};

static void record_something(struct office *o)
{
	const struct history history = {
		.device = "1-2", .action = "attach", .cause = "plug", .result = "ok"};

	store_history(o->store, &history);
}

static void on_event(void *data, const struct event *event, const struct wire_msg *msg,
		     struct intake_client *client)
{
	struct office *o = data;
	size_t length = strlen(o->log);

	assert_string_equal(wire_get(msg, "DEVPATH"), event->devpath);
	snprintf(o->log + length, sizeof(o->log) - length, "%s %llu;", event->action,
		 (unsigned long long) event->seqnum);
	o->n_events++;
	if (o->records)
		record_something(o);
	if (o->acknowledge_later)
		o->waiting = intake_chain(client, o->waiting);
	else
		intake_acknowledge(client);
}

static void on_reconcile(void *data)
{
	((struct office *) data)->n_reconciles++;
}

static const struct intake_handler handler = {.event = on_event, .reconcile = on_reconcile};

static void pass_end(void *data)
{
	struct office *o = data;

	intake_flush(o->intake);
	store_flush(o->store);
	intake_settle(o->intake, store_lost_events(o->store) == 0);
}

static void office_open(struct office *o)
{
	assert_int_equal(intake_new(o->loop, o->dir, -1, o->store, &handler, o, &o->intake), 0);
	loop_set_pass_end(o->loop, pass_end, o);
}

static int setup(void **state)
{
	struct office *o = calloc(1, sizeof(*o));
	char path[100];

	o->dir = temp_new();
	snprintf(path, sizeof(path), "%s/db", o->dir);
	assert_int_equal(loop_new(&o->loop), 0);
	assert_int_equal(store_open(o->loop, path, NULL, BOOT, &o->store), 0);
	assert_int_equal(sqlite3_open(path, &o->other), SQLITE_OK);
	office_open(o);
	*state = o;
	return 0;
}

static int teardown(void **state)
{
	struct office *o = *state;

	intake_acknowledge_all(o->waiting);
	intake_free(o->intake);
	store_close(o->store);
	sqlite3_close(o->other);
	loop_free(o->loop);
	temp_remove(&o->dir);
	free(o);
	return 0;
}

static void lock_database(struct office *o, bool locked)
{
	assert_int_equal(
		sqlite3_exec(o->other, locked ? "begin immediate" : "rollback", NULL, NULL, NULL),
		SQLITE_OK);
}

/* Helpers */

static int dial(struct office *o)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", o->dir, WIRE_SOCKET_NAME);
	if (connect(fd, (struct sockaddr *) &address, sizeof(address)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void add(struct wire_msg *msg, const char *key, const char *value)
{
	if (value)
		assert_int_equal(wire_add(msg, key, value), 0);
}

static struct wire_msg message(const char *action, const char *devpath, const char *seqnum)
{
	struct wire_msg msg;

	wire_init(&msg);
	add(&msg, "ACTION", action);
	add(&msg, "DEVPATH", devpath);
	add(&msg, "SEQNUM", seqnum);
	add(&msg, "BOOT_ID", BOOT);
	add(&msg, "SYSFS_INODE", "4711");
	return msg;
}

static int helper(struct office *o, const struct wire_msg *msg)
{
	int fd = dial(o);

	assert_true(fd >= 0);
	assert_int_equal(send(fd, msg->data, msg->len, MSG_NOSIGNAL), msg->len);
	return fd;
}

/* The answer so far: 'T', 'R', 0 for hung up without one, -1 for none yet. */
static int answer(int fd)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, MSG_DONTWAIT);

	return n == 1 ? byte : n == 0 ? 0 : -1;
}

static int conversation(struct office *o, const struct wire_msg *msg)
{
	int fd = helper(o, msg), byte = -1;

	for (int i = 0; i < 100 && byte == -1; i++) {
		spin_for(o->loop, 1);
		byte = answer(fd);
	}
	close(fd);
	return byte;
}

static int event(struct office *o, const char *action, const char *seqnum)
{
	struct wire_msg msg = message(action, PATH_1, seqnum);

	return conversation(o, &msg);
}

static bool has_events(void *data)
{
	return ((struct office *) data)->n_events > 0;
}

/* Tests */

static void test_event(void **state)
{
	struct office *o = *state;

	assert_int_equal(event(o, "add", "1"), WIRE_TAKEN);
	assert_int_equal(event(o, "remove", "2"), WIRE_TAKEN);
	assert_string_equal(o->log, "add 1;remove 2;");
}

static void test_the_same_event_again(void **state)
{
	struct office *o = *state;

	assert_int_equal(event(o, "add", "1"), WIRE_TAKEN);
	assert_int_equal(event(o, "add", "1"), WIRE_TAKEN);
	assert_string_equal(o->log, "add 1;");
}

/* What the other connection sees. */
static bool is_true(struct office *o, const char *query)
{
	sqlite3_stmt *statement;

	assert_int_equal(sqlite3_prepare_v2(o->other, query, -1, &statement, NULL), SQLITE_OK);
	bool found = sqlite3_step(statement) == SQLITE_ROW && sqlite3_column_int(statement, 0);
	sqlite3_finalize(statement);
	return found;
}

/* Committed before it is answered: another connection sees it by then. */
static void test_on_disk_before_the_answer(void **state)
{
	struct office *o = *state;

	assert_int_equal(event(o, "add", "1"), WIRE_TAKEN);
	assert_true(is_true(o, "select seqnum = 1 from event"));
}

static void pass_without_commit(void *data)
{
	intake_flush(((struct office *) data)->intake);
}

/* It is acted upon before, and acknowledged, but the helper hears nothing of that until it is on
 * disk; or that it is not. */
static void test_no_answer_before_the_commit(void **state)
{
	struct office *o = *state;
	struct wire_msg one = message("add", PATH_1, "1"), two = message("add", PATH_1, "2");
	int a = helper(o, &one), b;

	loop_set_pass_end(o->loop, pass_without_commit, o);
	spin_until(o->loop, has_events, o);
	spin_for(o->loop, 5);
	assert_int_equal(answer(a), -1);
	store_flush(o->store);
	intake_settle(o->intake, true);
	assert_int_equal(answer(a), WIRE_TAKEN);
	b = helper(o, &two);
	o->n_events = 0;
	spin_until(o->loop, has_events, o);
	assert_int_equal(answer(b), -1);
	store_flush(o->store);
	intake_settle(o->intake, false);
	assert_int_equal(answer(b), WIRE_REFUSED);
	close(a);
	close(b);
}

/* What is to be done is done; the helper hears that its event is not kept. When it comes again it
 * is kept, and not done once more: it may have been overtaken. */
static void test_done_though_the_database_is_locked(void **state)
{
	struct office *o = *state;

	lock_database(o, true);
	assert_int_equal(event(o, "add", "1"), WIRE_REFUSED);
	assert_int_equal(o->n_events, 1);
	assert_int_equal(event(o, "add", "1"), WIRE_REFUSED);
	assert_int_equal(o->n_events, 1);
	lock_database(o, false);
	assert_int_equal(event(o, "add", "1"), WIRE_TAKEN);
	assert_int_equal(event(o, "add", "1"), WIRE_TAKEN);
	assert_int_equal(o->n_events, 1);
	assert_int_equal(event(o, "add", "2"), WIRE_TAKEN);
	assert_int_equal(o->n_events, 2);
}

static void test_reconcile(void **state)
{
	struct office *o = *state;
	struct wire_msg msg;

	wire_init(&msg);
	add(&msg, "ACTION", "reconcile");
	assert_int_equal(conversation(o, &msg), WIRE_TAKEN);
	assert_int_equal(o->n_reconciles, 1);
	assert_int_equal(o->n_events, 0);
}

static void refused(struct office *o, const char *action, const char *devpath, const char *seqnum)
{
	struct wire_msg msg = message(action, devpath, seqnum);
	int byte = conversation(o, &msg);

	if (byte != 0)
		fail_msg("%s %s %s: %d", action, devpath ? devpath : "-", seqnum ? seqnum : "-",
			 byte);
}

static void test_what_is_no_event(void **state)
{
	struct office *o = *state;
	char path[600];

	refused(o, NULL, PATH_1, "1");
	refused(o, "", PATH_1, "1");
	refused(o, "change", PATH_1, "1");
	refused(o, "add", NULL, "1");
	refused(o, "add", "", "1");
	refused(o, "add", "relative", "1");
	refused(o, "add", "/etc/passwd", "1");
	refused(o, "add", "/devices/", "1");
	refused(o, "add", "/devices/x/", "1");
	refused(o, "add", "/devices/../../etc", "1");
	refused(o, "add", "/devices/x/../../..", "1");
	refused(o, "add", "/devices/..", "1");
	refused(o, "add", "/devices/x/..", "1");
	refused(o, "add", PATH_1, NULL);
	refused(o, "add", PATH_1, "");
	refused(o, "add", PATH_1, "-1");
	refused(o, "add", PATH_1, "+1");
	refused(o, "add", PATH_1, " 1");
	refused(o, "add", PATH_1, "1x");
	refused(o, "add", PATH_1, "0x1");
	refused(o, "add", PATH_1, "18446744073709551616");
	memset(path, 'x', sizeof(path));
	memcpy(path, "/devices/", 9);
	path[512] = 0;
	refused(o, "add", path, "1");
	assert_int_equal(o->n_events, 0);
	path[511] = 0;
	struct wire_msg msg = message("add", path, "18446744073709551615");
	assert_int_equal(conversation(o, &msg), WIRE_TAKEN);
	assert_int_equal(o->n_events, 1);
}

static void test_garbage(void **state)
{
	struct office *o = *state;
	static const char *const texts[] = {"x", "\0", "VHOTPLUG=2", "VHOTPLUG=1", "\xff\xff\xff"};
	struct wire_msg msg = message("add", PATH_1, "1");

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		struct wire_msg bad = {.len = strlen(texts[i]) + 1};

		memcpy(bad.data, texts[i], bad.len);
		assert_int_equal(conversation(o, &bad), 0);
	}
	msg.len--; /* the last string does not end */
	assert_int_equal(conversation(o, &msg), 0);
	assert_int_equal(o->n_events, 0);
}

static void test_too_long(void **state)
{
	struct office *o = *state;
	int fd = dial(o);
	struct wire_msg msg = message("add", PATH_1, "1");
	_cleanup_free_ char *big = calloc(1, WIRE_MAX + 1);

	/* Cut at WIRE_MAX it would be a good message. */
	memcpy(big, msg.data, msg.len);
	memset(big + msg.len, 'A', WIRE_MAX - 1 - msg.len);
	big[msg.len + 1] = '=';
	assert_int_equal(send(fd, big, WIRE_MAX + 1, MSG_NOSIGNAL), WIRE_MAX + 1);
	spin_for(o->loop, 20);
	assert_int_equal(answer(fd), 0);
	assert_int_equal(o->n_events, 0);
	close(fd);
	fd = dial(o);
	assert_int_equal(send(fd, big, WIRE_MAX, MSG_NOSIGNAL), WIRE_MAX);
	spin_until(o->loop, has_events, o);
	close(fd);
}

static void test_strings_too_long_for_their_fields(void **state)
{
	struct office *o = *state;
	struct wire_msg msg = message("add", PATH_1, "1");
	char text[301];

	memset(text, 'v', 300);
	text[300] = 0;
	add(&msg, "VHOTPLUG_VM", text);
	assert_int_equal(conversation(o, &msg), 0);
	assert_int_equal(o->n_events, 0);
}

static bool has_hung_up(void *data)
{
	return answer(*(int *) data) == 0;
}

static void test_client_that_says_nothing(void **state)
{
	struct office *o = *state;
	int fd = dial(o);

	spin_for(o->loop, 1000);
	assert_int_equal(answer(fd), -1);
	assert_int_equal(event(o, "add", "1"), WIRE_TAKEN); /* nobody waits for him */
	spin_until(o->loop, has_hung_up, &fd);
	close(fd);
}

static void test_client_that_leaves_at_once(void **state)
{
	struct office *o = *state;
	struct wire_msg msg = message("add", PATH_1, "1");

	close(dial(o));
	close(helper(o, &msg)); /* its event counts all the same */
	spin_for(o->loop, 20);
	assert_int_equal(o->n_events, 1);
}

static void test_client_that_leaves_while_it_waits(void **state)
{
	struct office *o = *state;
	struct wire_msg one = message("add", PATH_1, "1"), two = message("add", PATH_1, "2");
	int a, b;

	o->acknowledge_later = true;
	a = helper(o, &one);
	b = helper(o, &two);
	spin_for(o->loop, 20);
	assert_int_equal(o->n_events, 2);
	assert_int_equal(answer(b), -1);
	close(a);
	spin_for(o->loop, 20); /* the loop must not spin, nor forget it twice */
	o->waiting = intake_acknowledge_all(o->waiting);
	assert_null(o->waiting);
	spin_for(o->loop, 5);
	assert_int_equal(answer(b), WIRE_TAKEN);
	close(b);
}

static void test_two_messages_on_one_connection(void **state)
{
	struct office *o = *state;
	struct wire_msg one = message("add", PATH_1, "1"), two = message("add", PATH_1, "2");
	int fd = helper(o, &one);

	assert_int_equal(send(fd, two.data, two.len, MSG_NOSIGNAL), two.len);
	spin_for(o->loop, 20);
	assert_string_equal(o->log, "add 1;"); /* the other one is not read */
	close(fd);
}

static bool has_256_events(void *data)
{
	return ((struct office *) data)->n_events >= 256;
}

static bool has_300_events(void *data)
{
	return ((struct office *) data)->n_events == 300;
}

/* More at once than the broker takes: the rest waits in the backlog, and all get their answer. */
static void test_300_clients(void **state)
{
	struct office *o = *state;
	int fds[300], answered = 0;

	o->acknowledge_later = true;
	for (int i = 0; i < 300; i++) {
		char number[16];

		snprintf(number, sizeof(number), "%d", i + 1);
		struct wire_msg msg = message("add", PATH_1, number);
		fds[i] = helper(o, &msg);
	}
	spin_until(o->loop, has_256_events, o);
	spin_for(o->loop, 20);
	assert_int_equal(o->n_events, 256); /* the cap */
	o->acknowledge_later = false;
	o->waiting = intake_acknowledge_all(o->waiting);
	spin_until(o->loop, has_300_events, o);
	spin_for(o->loop, 20);
	for (int i = 0; i < 300; i++) {
		answered += answer(fds[i]) == WIRE_TAKEN;
		close(fds[i]);
	}
	assert_int_equal(answered, 300);
	assert_int_equal(event(o, "add", "301"), WIRE_TAKEN);
}

/* Another user reaches the socket only if somebody opened its directory and mode; he is not heard.
 */
static void test_other_users(void **state)
{
	struct office *o = *state;
	char path[100];
	int status;

	if (geteuid() != 0)
		skip();
	snprintf(path, sizeof(path), "%s/%s", o->dir, WIRE_SOCKET_NAME);
	struct stat st;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(chmod(o->dir, 0755), 0);
	for (int mode = 0600; mode <= 0666; mode += 066) {
		assert_int_equal(chmod(path, (mode_t) mode), 0);
		pid_t pid = fork();
		if (pid == 0) {
			struct wire_msg msg = message("add", PATH_1, "1");

			if (setresuid(31001, 31001, 31001) < 0)
				_exit(3);
			int fd = dial(o);
			if (fd < 0)
				_exit(1);
			if (send(fd, msg.data, msg.len, MSG_NOSIGNAL) < 0)
				_exit(2);
			fcntl(fd, F_SETFL, 0);
			char byte;
			_exit(recv(fd, &byte, 1, 0) == 1 ? 4 : 2);
		}
		while (waitpid(pid, &status, WNOHANG) == 0)
			spin_for(o->loop, 5);
		assert_int_equal(WEXITSTATUS(status), mode == 0600 ? 1 : 2);
	}
	assert_int_equal(o->n_events, 0);
}

/* The spool */

static void spool(struct office *o, const char *seqnum)
{
	_cleanup_close_ int fd = -1;
	struct wire_msg msg = message("add", PATH_1, seqnum);

	assert_int_equal(spool_open(o->dir, &fd), 0);
	assert_int_equal(spool_put(fd, &msg), 0);
}

static size_t n_spooled(struct office *o)
{
	_cleanup_close_ int fd = -1;
	_cleanup_free_ uint64_t *list = NULL;
	size_t n;

	assert_int_equal(spool_open(o->dir, &fd), 0);
	assert_int_equal(spool_list(fd, &list, &n), 0);
	return n;
}

static void test_spool_at_start(void **state)
{
	struct office *o = *state;

	intake_free(o->intake);
	for (int i = 300; i > 0; i--) { /* more than a batch, written backwards */
		char number[16];

		snprintf(number, sizeof(number), "%d", i * 7);
		spool(o, number);
	}
	office_open(o);
	intake_drain_spool(o->intake);
	assert_int_equal(o->n_events, 300);
	assert_true(startswith(o->log, "add 7;add 14;add 21;") != NULL);
	assert_non_null(strstr(o->log, "add 2093;add 2100;"));
	assert_int_equal(n_spooled(o), 0);
}

/* An event that is not in the spool any more has had its effect, whenever the broker is killed. */
static void test_spool_until_it_has_been_acted_upon(void **state)
{
	struct office *o = *state;

	o->records = true;
	spool(o, "1");
	spool(o, "2");
	intake_drain_spool(o->intake);
	assert_int_equal(o->n_events, 2);
	assert_int_equal(n_spooled(o), 0);
	assert_true(is_true(o, "select count(*) = 2 from action"));
}

static void test_spool_while_running(void **state)
{
	struct office *o = *state;

	spool(o, "5");
	spin_until(o->loop, has_events, o);
	assert_string_equal(o->log, "add 5;");
	assert_int_equal(n_spooled(o), 0);
	/* The spool's directory goes and comes back: a helper made it anew. */
	char path[100];
	snprintf(path, sizeof(path), "%s/%s", o->dir, WIRE_SPOOL_NAME);
	assert_int_equal(rmdir(path), 0);
	spin_for(o->loop, 20);
	o->n_events = 0;
	spool(o, "6");
	spin_until(o->loop, has_events, o);
}

static void test_spool_and_socket_bring_the_same(void **state)
{
	struct office *o = *state;

	assert_int_equal(event(o, "add", "1"), WIRE_TAKEN);
	spool(o, "1");
	spin_for(o->loop, 50);
	assert_string_equal(o->log, "add 1;");
	assert_int_equal(n_spooled(o), 0);
}

static bool is_drained(void *data)
{
	return n_spooled(data) == 0;
}

static void test_spool_waits_for_the_database(void **state)
{
	struct office *o = *state;

	lock_database(o, true);
	spool(o, "1");
	spin_for(o->loop, 1000);               /* some retries */
	assert_string_equal(o->log, "add 1;"); /* it is done all the same, once */
	assert_int_equal(n_spooled(o), 1);
	lock_database(o, false);
	spin_until(o->loop, is_drained, o);
	assert_string_equal(o->log, "add 1;");
}

/* Its helper has taken it to the spool, as it was told. */
static void test_spool_has_what_was_done(void **state)
{
	struct office *o = *state;

	lock_database(o, true);
	assert_int_equal(event(o, "add", "1"), WIRE_REFUSED);
	spool(o, "1");
	spool(o, "2");
	spin_for(o->loop, 1000);
	assert_string_equal(o->log, "add 1;add 2;");
	lock_database(o, false);
	spin_until(o->loop, is_drained, o);
	assert_string_equal(o->log, "add 1;add 2;");
}

/* The same where it was the end of the transaction that failed. */
static void test_spool_has_what_was_done_and_not_committed(void **state)
{
	struct office *o = *state;
	struct wire_msg msg = message("add", PATH_1, "1");
	int fd = helper(o, &msg);

	loop_set_pass_end(o->loop, pass_without_commit, o);
	spin_until(o->loop, has_events, o);
	store_distrust(o->store); /* what was begun is lost with it */
	assert_true(store_mend(o->store));
	intake_settle(o->intake, false);
	assert_int_equal(answer(fd), WIRE_REFUSED);
	close(fd);
	loop_set_pass_end(o->loop, pass_end, o);
	spool(o, "1");
	spin_until(o->loop, is_drained, o);
	assert_string_equal(o->log, "add 1;");
}

/* As many are remembered as the spool holds. */
static void test_what_was_done_is_forgotten_in_the_end(void **state)
{
	struct acted *acted = calloc(1, sizeof(*acted));
	struct event event = {.is_new = true};

	(void) state;
	for (event.seqnum = 1; event.seqnum <= SPOOL_MAX + 1; event.seqnum++)
		assert_true(acted_note(acted, &event, false));
	event.seqnum = 2;
	assert_false(acted_note(acted, &event, false));
	event.seqnum = 1;
	assert_true(acted_note(acted, &event, true));
	event.seqnum = SPOOL_MAX + 1;
	assert_false(acted_note(acted, &event, true)); /* kept: now the database knows */
	assert_true(acted_note(acted, &event, true));
	free(acted);
}

static void write_file(struct office *o, const char *name, const char *text, size_t size)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/%s/%s", o->dir, WIRE_SPOOL_NAME, name);
	int fd = open(path, O_WRONLY | O_CREAT, 0600);
	assert_int_equal(write(fd, text, size), size);
	close(fd);
}

static void test_garbage_in_the_spool(void **state)
{
	struct office *o = *state;
	_cleanup_free_ char *big = calloc(1, 100000);
	struct wire_msg no_event;
	char path[200];

	intake_free(o->intake);
	write_file(o, "00000000000000000001", "", 0);
	write_file(o, "00000000000000000002", "garbage", 7);
	write_file(o, "00000000000000000003", big, 100000);
	wire_init(&no_event);
	add(&no_event, "ACTION", "change");
	add(&no_event, "SEQNUM", "4");
	add(&no_event, "DEVPATH", PATH_1);
	write_file(o, "00000000000000000004", no_event.data, no_event.len);
	snprintf(path, sizeof(path), "%s/%s/00000000000000000005", o->dir, WIRE_SPOOL_NAME);
	assert_int_equal(mkfifo(path, 0600), 0);
	write_file(o, ".tmp-1", "half", 4);
	write_file(o, "notes", "of a person", 11);
	spool(o, "6");
	office_open(o);
	intake_drain_spool(o->intake);
	assert_string_equal(o->log, "add 6;");
	assert_int_equal(n_spooled(o), 0);
}

static void test_lost_events_mean_a_look_at_everything(void **state)
{
	struct office *o = *state;
	_cleanup_close_ int fd = -1;

	assert_int_equal(spool_open(o->dir, &fd), 0);
	assert_int_equal(spool_mark_lost(fd), 1);
	intake_drain_spool(o->intake);
	assert_int_equal(o->n_reconciles, 1);
	intake_drain_spool(o->intake);
	assert_int_equal(o->n_reconciles, 1);
}

/* Set-up */

/* A helper could not be accepted, and before it is tried again the socket has gone, for good. */
static void test_no_descriptors_and_no_socket(void **state)
{
	struct office *o = *state;
	struct rlimit limit, few;
	char path[100];
	int fd = dial(o);

	snprintf(path, sizeof(path), "%s/%s", o->dir, WIRE_SOCKET_NAME);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	few = limit;
	few.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	spin_for(o->loop, 100); /* accept */
	assert_int_equal(unlink(path), 0);
	spin_for(o->loop, 1500); /* accept again, and listen again */
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	close(fd);
	spin_for(o->loop, 1500);
	assert_int_equal(event(o, "add", "1"), WIRE_TAKEN);
}

static void test_a_dead_brokers_socket_is_replaced(void **state)
{
	struct office *o = *state;
	struct intake *second = NULL;

	/* Not freed before: as if killed. That no other one runs is main's to know. */
	assert_int_equal(intake_new(o->loop, o->dir, -1, o->store, &handler, o, &second), 0);
	intake_free(o->intake);
	o->intake = second;
}

static void test_socket_is_removed_at_the_end(void **state)
{
	struct office *o = *state;

	intake_free(o->intake);
	assert_int_equal(dial(o), -1);
	assert_int_equal(errno, ENOENT);
	office_open(o);
}

static void test_passed_socket_stays(void **state)
{
	struct office *o = *state;
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	intake_free(o->intake);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", o->dir, WIRE_SOCKET_NAME);
	assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 5), 0);
	assert_int_equal(intake_new(o->loop, o->dir, fd, o->store, &handler, o, &o->intake), 0);
	assert_int_equal(event(o, "add", "1"), WIRE_TAKEN);
	intake_free(o->intake);
	assert_int_equal(access(address.sun_path, F_OK), 0); /* the service manager's */
	unlink(address.sun_path);
	office_open(o);
}

static void test_bad_directories(void **state)
{
	struct office *o = *state;
	struct intake *intake = NULL;
	char path[400];

	assert_true(intake_new(o->loop, "/nosuch/dir", -1, o->store, &handler, o, &intake) < 0);
	snprintf(path, sizeof(path), "%s/", o->dir);
	memset(path + strlen(path), 'x', 120);
	path[130] = 0;
	assert_true(intake_new(o->loop, path, -1, o->store, &handler, o, &intake) < 0);
	/* A spool that others could write to is no spool. */
	snprintf(path, sizeof(path), "%s/run", o->dir);
	assert_int_equal(mkdir(path, 0755), 0);
	snprintf(path, sizeof(path), "%s/run/%s", o->dir, WIRE_SPOOL_NAME);
	assert_int_equal(mkdir(path, 0755), 0);
	assert_int_equal(chmod(path, 0777), 0);
	snprintf(path, sizeof(path), "%s/run", o->dir);
	assert_true(intake_new(o->loop, path, -1, o->store, &handler, o, &intake) < 0);
	assert_null(intake);
}

int main(void)
{
#define INTAKE_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		INTAKE_TEST(test_event),
		INTAKE_TEST(test_the_same_event_again),
		INTAKE_TEST(test_on_disk_before_the_answer),
		INTAKE_TEST(test_no_answer_before_the_commit),
		INTAKE_TEST(test_done_though_the_database_is_locked),
		INTAKE_TEST(test_reconcile),
		INTAKE_TEST(test_what_is_no_event),
		INTAKE_TEST(test_garbage),
		INTAKE_TEST(test_too_long),
		INTAKE_TEST(test_strings_too_long_for_their_fields),
		INTAKE_TEST(test_client_that_says_nothing),
		INTAKE_TEST(test_client_that_leaves_at_once),
		INTAKE_TEST(test_client_that_leaves_while_it_waits),
		INTAKE_TEST(test_two_messages_on_one_connection),
		INTAKE_TEST(test_300_clients),
		INTAKE_TEST(test_other_users),
		INTAKE_TEST(test_spool_at_start),
		INTAKE_TEST(test_spool_until_it_has_been_acted_upon),
		INTAKE_TEST(test_spool_while_running),
		INTAKE_TEST(test_spool_and_socket_bring_the_same),
		INTAKE_TEST(test_spool_waits_for_the_database),
		INTAKE_TEST(test_spool_has_what_was_done),
		INTAKE_TEST(test_spool_has_what_was_done_and_not_committed),
		cmocka_unit_test(test_what_was_done_is_forgotten_in_the_end),
		INTAKE_TEST(test_garbage_in_the_spool),
		INTAKE_TEST(test_lost_events_mean_a_look_at_everything),
		INTAKE_TEST(test_no_descriptors_and_no_socket),
		INTAKE_TEST(test_a_dead_brokers_socket_is_replaced),
		INTAKE_TEST(test_socket_is_removed_at_the_end),
		INTAKE_TEST(test_passed_socket_stays),
		INTAKE_TEST(test_bad_directories),
	};

	loop_skip_waiting(true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
