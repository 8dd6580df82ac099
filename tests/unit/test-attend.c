/* The watchdog that is fed, and the end when there is nothing to do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cmocka.h>

#include "broker/attend.h"
#include "tests/unit/memory-double.h"
#include "tests/unit/spin.h"
#include "tests/unit/temp.h"

struct world {
	struct loop *loop;
	struct attend attend;
	bool busy;
	unsigned passes;
	/* A helper's event, which is acted upon when the pass is over, and takes its time. */
	int helper[2];
	bool received, done;
	struct loop_timer work;
};

static bool is_busy(void *data)
{
	return ((struct world *) data)->busy;
}

static void nothing(void *data)
{
	*(bool *) data = true;
}

static void pass_end(void *data)
{
	struct world *world = data;

	world->passes++;
	if (world->received)
		loop_timer_start(world->loop, &world->work, 30000, nothing, &world->done);
	world->received = false;
	attend_pass_end(&world->attend);
}

static int setup(void **state)
{
	static struct world world;

	world = (struct world){0};
	assert_int_equal(loop_new(&world.loop), 0);
	loop_set_pass_end(world.loop, pass_end, &world);
	*state = &world;
	return 0;
}

static int teardown(void **state)
{
	struct world *world = *state;

	attend_stop(&world->attend);
	loop_free(world->loop);
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
	unsetenv("NOTIFY_SOCKET");
	return 0;
}

static void start(struct world *world, bool exit_when_idle)
{
	attend_start(&world->attend, world->loop, exit_when_idle, is_busy, world);
	attend_pass_end(&world->attend);
}

static void be_free(void *data)
{
	((struct world *) data)->busy = false;
}

static void ends_when_there_is_nothing_to_do(void **state)
{
	struct world *world = *state;
	uint64_t before = now_monotonic_ms();

	start(world, true);
	assert_int_equal(loop_run(world->loop), 0);
	assert_in_range(now_monotonic_ms() - before, 2900, 4000);
}

static void waits_for_what_has_a_time(void **state)
{
	struct world *world = *state;
	struct loop_timer retry = {0};
	bool retried = false;

	loop_timer_start(world->loop, &retry, 60000, nothing, &retried);
	start(world, true);
	assert_int_equal(loop_run(world->loop), 0);
	assert_true(retried);
}

static void waits_for_answers(void **state)
{
	struct world *world = *state;
	struct loop_timer answer = {0};
	uint64_t before = now_monotonic_ms();

	/* Busy with something without a timer; the answer's own is none of the broker's. */
	world->busy = true;
	loop_timer_start(world->loop, &answer, 20000, be_free, world);
	start(world, true);
	assert_int_equal(loop_run(world->loop), 0);
	assert_false(world->busy);
	assert_true(now_monotonic_ms() - before >= 22900);
}

static void something_comes_at_the_last_moment(void **state)
{
	struct world *world = *state;
	struct loop_timer late = {0};
	bool came = false;

	start(world, true);
	spin_for(world->loop, 2000);
	loop_timer_start(world->loop, &late, 30000, nothing, &came);
	assert_int_equal(loop_run(world->loop), 0);
	assert_true(came);
}

static void helper_readable(void *data, uint32_t events)
{
	struct world *world = data;
	struct loop *meanwhile;
	char byte;

	(void) events;
	assert_int_equal(read(world->helper[0], &byte, 1), 1);
	world->received = true;
	/* It is too late by now. */
	assert_int_equal(loop_new(&meanwhile), 0);
	spin_for(meanwhile, 3000);
	loop_free(meanwhile);
}

static void an_event_comes_as_it_ends(void **state)
{
	struct world *world = *state;
	struct loop_source *source;

	assert_int_equal(pipe(world->helper), 0);
	assert_int_equal(
		loop_add(world->loop, world->helper[0], EPOLLIN, helper_readable, world, &source),
		0);
	start(world, true);
	assert_int_equal(write(world->helper[1], "x", 1), 1);
	assert_int_equal(loop_run(world->loop), 0);
	assert_true(world->done);
	loop_source_free(source);
	close(world->helper[0]);
	close(world->helper[1]);
}

static void stays_unless_told(void **state)
{
	struct world *world = *state;

	start(world, false);
	spin_for(world->loop, 60000);
	assert_int_equal(loop_count_timers(world->loop), 0);
}

/* After ten seconds in which nothing is to be done, once. */
static void memory_is_given_back(void **state)
{
	struct world *world = *state;
	struct loop_timer retry = {0};
	bool retried = false;

	n_forgotten = 0;
	start(world, false);
	spin_for(world->loop, 9900);
	loop_timer_start(world->loop, &retry, 20000, nothing, &retried);
	spin_for(world->loop, 29900);
	assert_true(retried);
	assert_int_equal(n_forgotten, 0);
	spin_for(world->loop, 60000);
	assert_int_equal(n_forgotten, 1);
	loop_timer_start(world->loop, &retry, 1, nothing, &retried);
	spin_for(world->loop, 60000);
	assert_int_equal(n_forgotten, 2);
	attend_stop(&world->attend);
	/* Who is about to end has it in no time. */
	start(world, true);
	assert_int_equal(loop_run(world->loop), 0);
	assert_int_equal(n_forgotten, 2);
}

/* Listens at NOTIFY_SOCKET. */
static int listen_to_notes(const char *directory)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/notify", directory);
	assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
	setenv("NOTIFY_SOCKET", address.sun_path, 1);
	return fd;
}

static unsigned count_notes(int fd)
{
	char text[64] = "";
	unsigned n = 0;

	while (recv(fd, text, sizeof(text) - 1, 0) > 0) {
		assert_string_equal(text, "WATCHDOG=1");
		n++;
	}
	return n;
}

static void watchdog_is_fed(void **state)
{
	struct world *world = *state;
	TEMP_DIR(directory);
	int fd = listen_to_notes(directory);

	setenv("WATCHDOG_USEC", "2000000", 1);
	start(world, false);
	spin_for(world->loop, 10500);
	assert_int_equal(count_notes(fd), 11);
	attend_stop(&world->attend);
	/* It alone is no reason to stay. */
	start(world, true);
	assert_int_equal(loop_run(world->loop), 0);
	attend_stop(&world->attend);
	count_notes(fd);
	/* Meant for somebody else. */
	setenv("WATCHDOG_PID", "1", 1);
	start(world, false);
	assert_null(world->attend.feed.loop);
	assert_int_equal(count_notes(fd), 0);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(ends_when_there_is_nothing_to_do, setup, teardown),
		cmocka_unit_test_setup_teardown(waits_for_what_has_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(waits_for_answers, setup, teardown),
		cmocka_unit_test_setup_teardown(something_comes_at_the_last_moment, setup,
						teardown),
		cmocka_unit_test_setup_teardown(an_event_comes_as_it_ends, setup, teardown),
		cmocka_unit_test_setup_teardown(stays_unless_told, setup, teardown),
		cmocka_unit_test_setup_teardown(memory_is_given_back, setup, teardown),
		cmocka_unit_test_setup_teardown(watchdog_is_fed, setup, teardown),
	};

	loop_skip_waiting(true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
