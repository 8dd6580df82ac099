/* The event loop: sources that vanish inside callbacks, timers, garbage, the end of a pass. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <sys/epoll.h>
#include <sys/time.h>

#include <cmocka.h>

#include "tests/unit/spin.h"

static int setup(void **state)
{
	return loop_new((struct loop **) state);
}

static int teardown(void **state)
{
	loop_free(*state);
	return 0;
}

/* Sources */

struct end {
	struct loop_source *source;
	struct end *victim; /* freed by the callback */
	int fds[2];
	int calls;
	uint32_t events;
};

static void end_called(void *data, uint32_t events)
{
	struct end *end = data;

	end->calls++;
	end->events = events;
	if (end->victim)
		end->victim->source = loop_source_free(end->victim->source);
}

static void end_open(struct loop *loop, struct end *end, uint32_t events)
{
	assert_int_equal(pipe(end->fds), 0);
	assert_int_equal(loop_add(loop, end->fds[0], events, end_called, end, &end->source), 0);
}

static void end_close(struct end *end)
{
	end->source = loop_source_free(end->source);
	close_fd(end->fds[0]);
	close_fd(end->fds[1]);
}

static void test_source_freed_by_another(void **state)
{
	struct end a = {0}, b = {0};

	/* Both are ready in the same pass; whichever comes first frees the other. */
	end_open(*state, &a, EPOLLIN);
	end_open(*state, &b, EPOLLIN);
	a.victim = &b;
	b.victim = &a;
	assert_int_equal(write(a.fds[1], "x", 1), 1);
	assert_int_equal(write(b.fds[1], "x", 1), 1);
	spin_for(*state, 5);
	assert_true((a.calls > 0) != (b.calls > 0));
	end_close(&a);
	end_close(&b);
}

static void test_source_frees_itself(void **state)
{
	struct end a = {.victim = &a};

	end_open(*state, &a, EPOLLIN);
	assert_int_equal(write(a.fds[1], "x", 1), 1);
	spin_for(*state, 5);
	assert_int_equal(a.calls, 1);
	assert_null(a.source);
	end_close(&a);
}

static void test_source_freed_twice(void **state)
{
	struct end a = {0};
	struct loop_source *source;

	end_open(*state, &a, EPOLLIN);
	source = a.source;
	assert_null(loop_source_free(source));
	assert_null(loop_source_free(source));
	assert_null(loop_source_free(NULL));
	a.source = NULL;
	end_close(&a);
}

static bool called_twice(void *data)
{
	return ((struct end *) data)->calls > 1;
}

static void test_events(void **state)
{
	struct end a = {0};

	end_open(*state, &a, 0);
	assert_int_equal(write(a.fds[1], "x", 1), 1);
	spin_for(*state, 5);
	assert_int_equal(a.calls, 0);
	loop_source_set_events(a.source, EPOLLIN);
	spin_until(*state, called_twice, &a); /* level-triggered */
	assert_int_equal(a.events, EPOLLIN);
	a.fds[1] = close_fd(a.fds[1]);
	spin_for(*state, 5);
	assert_int_equal(a.events, EPOLLIN | EPOLLHUP);
	end_close(&a);
}

static void test_source_of_a_bad_descriptor(void **state)
{
	struct loop_source *source = (struct loop_source *) 1;

	assert_int_equal(loop_add(*state, -1, EPOLLIN, end_called, NULL, &source), -EBADF);
	assert_ptr_equal(source, 1);
}

/* Timers */

struct alarm {
	struct loop_timer timer;
	struct alarm *victim; /* stopped by the call */
	struct loop *again;   /* started again by the call */
	int calls, rank;
};

static int rank;

static void alarm_called(void *data)
{
	struct alarm *alarm = data;

	alarm->calls++;
	alarm->rank = ++rank;
	assert_null(alarm->timer.loop);
	if (alarm->victim)
		loop_timer_stop(&alarm->victim->timer);
	if (alarm->again && alarm->calls < 3)
		loop_timer_start(alarm->again, &alarm->timer, 1, alarm_called, alarm);
}

static void alarm_start(struct loop *loop, struct alarm *alarm, uint64_t ms)
{
	loop_timer_start(loop, &alarm->timer, ms, alarm_called, alarm);
}

static bool rang(void *data)
{
	return ((struct alarm *) data)->calls == (((struct alarm *) data)->again ? 3 : 1);
}

static void test_timers_in_order(void **state)
{
	struct alarm a = {0}, b = {0}, c = {0}, d = {0};

	rank = 0;
	alarm_start(*state, &a, 20);
	alarm_start(*state, &b, 5);
	alarm_start(*state, &c, 10);
	alarm_start(*state, &d, 10);
	spin_until(*state, rang, &a);
	assert_int_equal(b.rank, 1);
	assert_int_equal(c.rank, 2);
	assert_int_equal(d.rank, 3);
	assert_int_equal(a.rank, 4);
}

static void test_timer_is_not_early(void **state)
{
	struct alarm a = {0};
	uint64_t start = now_monotonic_ms();

	alarm_start(*state, &a, 30);
	while (!a.calls)
		spin_for(*state, 1);
	assert_true(now_monotonic_ms() - start >= 30);
}

static void test_timer_moved_and_stopped(void **state)
{
	struct alarm moved = {0}, stopped = {0};

	alarm_start(*state, &moved, 1);
	alarm_start(*state, &moved, 60000);
	alarm_start(*state, &stopped, 1);
	loop_timer_stop(&stopped.timer);
	loop_timer_stop(&stopped.timer);
	spin_for(*state, 10);
	assert_int_equal(moved.calls, 0);
	assert_int_equal(stopped.calls, 0);
	assert_non_null(moved.timer.loop);
	loop_timer_stop(&moved.timer);
	assert_null(moved.timer.loop);
}

static void test_timer_in_timer(void **state)
{
	struct alarm victim = {0}, stopper = {.victim = &victim}, again = {.again = *state};

	/* Both are due in the same pass. */
	alarm_start(*state, &stopper, 0);
	alarm_start(*state, &victim, 0);
	alarm_start(*state, &again, 0);
	spin_until(*state, rang, &again);
	assert_int_equal(stopper.calls, 1);
	assert_int_equal(victim.calls, 0);
}

/* Garbage */

struct rubbish {
	struct loop_garbage garbage;
	struct loop *loop;
	struct rubbish *more;
	int calls;
};

static void rubbish_freed(void *data)
{
	struct rubbish *rubbish = data;

	rubbish->calls++;
	if (rubbish->more)
		loop_discard(rubbish->loop, &rubbish->more->garbage, rubbish_freed, rubbish->more);
}

static void rubbish_discard(void *data)
{
	struct rubbish *rubbish = data;

	loop_discard(rubbish->loop, &rubbish->garbage, rubbish_freed, rubbish);
	assert_int_equal(rubbish->calls, 0);
}

static void test_discard_waits_for_the_end_of_the_pass(void **state)
{
	struct rubbish more = {.loop = *state}, rubbish = {.loop = *state, .more = &more};
	struct loop_timer timer = {0};

	loop_timer_start(*state, &timer, 0, rubbish_discard, &rubbish);
	spin_for(*state, 5);
	assert_int_equal(rubbish.calls, 1);
	assert_int_equal(more.calls, 1);
}

static void test_loop_free_buries(void **state)
{
	struct rubbish more = {0}, rubbish = {.more = &more};
	struct loop *loop;

	(void) state;
	assert_int_equal(loop_new(&loop), 0);
	rubbish.loop = more.loop = loop;
	rubbish_discard(&rubbish);
	loop_free(loop);
	assert_int_equal(rubbish.calls, 1);
	assert_int_equal(more.calls, 1);
	loop_free(NULL);
}

/* The loop itself */

static void count(void *data)
{
	(*(int *) data)++;
}

static void quit(void *data)
{
	loop_quit(data);
}

static void test_pass_end_before_sleep(void **state)
{
	struct loop_timer timer = {0};
	int passes = 0;

	/* Once before the first sleep, although nothing is ready; then once a pass. */
	loop_set_pass_end(*state, count, &passes);
	loop_timer_start(*state, &timer, 1, quit, *state);
	assert_int_equal(loop_run(*state), 0);
	assert_in_range(passes, 1, 3);
}

static void test_quit_at_the_end_of_a_pass(void **state)
{
	loop_set_pass_end(*state, quit, *state);
	assert_int_equal(loop_run(*state), 0);
}

static void ignore(int signal)
{
	(void) signal;
}

static void test_interrupted_sleep(void **state)
{
	struct itimerval soon = {.it_value.tv_usec = 2000};

	signal(SIGALRM, ignore);
	assert_int_equal(setitimer(ITIMER_REAL, &soon, NULL), 0);
	spin_for(*state, 20);
}

/* An hour of the loop's clock takes no hour: what is due comes in order, the wall clock goes along,
 * and what can be done at once is done before any of it. */
static void test_waiting_is_skipped(void **state)
{
	struct alarm late = {0}, early = {0};
	struct timespec start, end;
	uint64_t wall = now_realtime_ms();

	rank = 0;
	clock_gettime(CLOCK_MONOTONIC, &start);
	loop_skip_waiting(true);
	alarm_start(*state, &late, 3600000);
	alarm_start(*state, &early, 1800000);
	assert_int_equal(loop_pass(*state, UINT64_MAX), 0);
	assert_int_equal(early.rank, 1);
	assert_int_equal(late.calls, 0);
	assert_int_equal(loop_pass(*state, now_monotonic_ms() + 60000), 0);
	assert_int_equal(late.calls, 0);
	assert_int_equal(loop_pass(*state, UINT64_MAX), 0);
	assert_int_equal(late.rank, 2);
	loop_skip_waiting(false);
	clock_gettime(CLOCK_MONOTONIC, &end);
	assert_true(end.tv_sec - start.tv_sec < 600);
	assert_true(now_realtime_ms() - wall >= 3600000);
}

int main(void)
{
#define LOOP_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		LOOP_TEST(test_source_freed_by_another),
		LOOP_TEST(test_source_frees_itself),
		LOOP_TEST(test_source_freed_twice),
		LOOP_TEST(test_events),
		LOOP_TEST(test_source_of_a_bad_descriptor),
		LOOP_TEST(test_timers_in_order),
		LOOP_TEST(test_timer_is_not_early),
		LOOP_TEST(test_timer_moved_and_stopped),
		LOOP_TEST(test_timer_in_timer),
		LOOP_TEST(test_discard_waits_for_the_end_of_the_pass),
		cmocka_unit_test(test_loop_free_buries),
		LOOP_TEST(test_pass_end_before_sleep),
		LOOP_TEST(test_quit_at_the_end_of_a_pass),
		LOOP_TEST(test_interrupted_sleep),
		LOOP_TEST(test_waiting_is_skipped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
