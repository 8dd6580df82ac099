/* The event loop: epoll, timers and one hook at the end of every pass.
 *
 * Anything may vanish inside a callback: freed sources are marked, not called any more, and freed
 * after the pass. No callback may block.
 */
#pragma once

#include <stdint.h>

#include "helper/macro.h"

struct loop;
struct loop_source;

/* EVENTS are those of epoll (EPOLLIN …). */
typedef void (*loop_source_fn)(void *data, uint32_t events);
typedef void (*loop_fn)(void *data);

/* Returns 0 or -errno. */
int loop_new(struct loop **ret_loop) _must_check_;
void loop_free(struct loop *loop);

/* Watches FD (borrowed: the caller closes it after loop_source_free). Returns 0 or -errno. */
int loop_add(struct loop *loop, int fd, uint32_t events, loop_source_fn fn, void *data,
	     struct loop_source **ret_source) _must_check_;
/* Replaces the watched events. */
void loop_source_set_events(struct loop_source *source, uint32_t events);
/* NULL is fine. Returns NULL. */
struct loop_source *loop_source_free(struct loop_source *source);

/* A timer lives in its owner's struct, zeroed; it is pending between loop_timer_start and the call
 * of its function or loop_timer_stop. Starting a pending timer moves it. */
struct loop_timer {
	struct loop_timer *next;
	struct loop *loop; /* NULL while not pending */
	uint64_t deadline; /* ms, CLOCK_MONOTONIC */
	loop_fn fn;
	void *data;
};
void loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms, loop_fn fn,
		      void *data);
void loop_timer_stop(struct loop_timer *timer);
/* How many are pending. */
unsigned loop_count_timers(const struct loop *loop);

/* Memory that a callback further up may still use: FN(DATA) is called after the pass. The garbage
 * lives in its owner's struct. */
struct loop_garbage {
	struct loop_garbage *next;
	loop_fn fn;
	void *data;
};
void loop_discard(struct loop *loop, struct loop_garbage *garbage, loop_fn fn, void *data);

/* FN is called at the end of every pass, before the loop sleeps. */
void loop_set_pass_end(struct loop *loop, loop_fn fn, void *data);

/* Runs until loop_quit. Returns 0 or -errno. */
int loop_run(struct loop *loop) _must_check_;
void loop_quit(struct loop *loop);

/* Milliseconds of CLOCK_MONOTONIC; of the wall clock since 1970. Nobody else reads a clock. */
uint64_t now_monotonic_ms(void);
uint64_t now_realtime_ms(void);

/* For tests. One pass, which waits for something to happen until the clock says UNTIL (UINT64_MAX:
 * for ever). Returns 0 or -errno. */
int loop_pass(struct loop *loop, uint64_t until) _must_check_;
/* From now on no loop of this process sleeps until a timer is due: both clocks stand still while
 * anything is to be done, and are put forward where nothing is. Only where nothing comes from
 * another process or thread, but for those that SETTLE looks after (NULL: none are there): it is
 * called before the clocks are put forward, waits until the others rest as well, and returns when
 * by now_monotonic_ms the first of them goes on by itself (UINT64_MAX: never). */
typedef uint64_t (*loop_settle_fn)(void);
void loop_skip_waiting(bool skip);
void loop_skip_waiting_with(loop_settle_fn settle);
