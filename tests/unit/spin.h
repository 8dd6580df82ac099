/* Runs a loop until something has come true; fails the test when it does not within a minute
 * of the loop's clock. Where everything happens in the test's own process, loop_skip_waiting
 * (broker/loop.h) makes that no time at all. Include after cmocka.h. */
#pragma once

#include "broker/loop.h"

#define SPIN_LIMIT_MS 60000 /* a busy machine is no reason to fail */
#define SPIN_LOOK_MS 1      /* what is waited for may not come through the loop */

static inline bool spin_try(struct loop *loop, bool (*done)(void *data), void *data, uint64_t ms)
{
	uint64_t now = now_monotonic_ms(), deadline = now + ms;

	do {
		uint64_t look = done ? now + SPIN_LOOK_MS : deadline;

		if (done && done(data))
			return true;
		assert_int_equal(loop_pass(loop, look < deadline ? look : deadline), 0);
		now = now_monotonic_ms();
	} while (now < deadline);
	return done && done(data);
}

#define spin_until(loop, done, data) assert_true(spin_try(loop, done, data, SPIN_LIMIT_MS))

/* Runs the loop for MS milliseconds, whatever happens. */
static inline void spin_for(struct loop *loop, uint64_t ms)
{
	spin_try(loop, NULL, NULL, ms);
}
