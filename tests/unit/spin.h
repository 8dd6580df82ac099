/* Runs a loop until something has come true; fails the test when it does not within five seconds.
 * Include after cmocka.h. */
#pragma once

#include "broker/loop.h"

#define SPIN_LIMIT_MS 5000

struct spin {
	struct loop *loop;
	struct loop_timer timer;
	bool (*done)(void *data);
	void *data;
	uint64_t deadline;
	bool success;
};

static inline void spin_look(void *data)
{
	struct spin *spin = data;

	spin->success = spin->done && spin->done(spin->data);
	if (spin->success || now_monotonic_ms() >= spin->deadline)
		loop_quit(spin->loop);
	else
		loop_timer_start(spin->loop, &spin->timer, 1, spin_look, spin);
}

static inline bool spin_try(struct loop *loop, bool (*done)(void *data), void *data, uint64_t ms)
{
	struct spin spin = {
		.loop = loop, .done = done, .data = data, .deadline = now_monotonic_ms() + ms};

	loop_timer_start(loop, &spin.timer, 0, spin_look, &spin);
	assert_int_equal(loop_run(loop), 0);
	loop_timer_stop(&spin.timer);
	return spin.success;
}

#define spin_until(loop, done, data) assert_true(spin_try(loop, done, data, SPIN_LIMIT_MS))

/* Runs the loop for MS milliseconds, whatever happens. */
static inline void spin_for(struct loop *loop, uint64_t ms)
{
	spin_try(loop, NULL, NULL, ms);
}
