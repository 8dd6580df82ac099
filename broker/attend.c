/* The watchdog, the end when idle, the rest: see attend.h. Used by main.
 *
 * Whatever is to happen later has a timer: a retry, a deadline, the next checkpoint. So without one
 * there is nothing to stay for, unless an answer is still to come. */
#include "broker/attend.h"

#include "broker/log.h"
#include "broker/memory.h"
#include "broker/service.h"

#define IDLE_MS 3000 /* devices come in flocks */
/* Who comes later pays for the return of what was let go of, 0.2 ms; who comes sooner doesn't. */
#define REST_MS 10000

static void feed_watchdog(void *data)
{
	struct attend *attend = data;

	service_notify("WATCHDOG=1");
	loop_timer_start(attend->loop, &attend->feed, attend->feed_ms, feed_watchdog, attend);
}

void attend_start(struct attend *attend, struct loop *loop, bool exit_when_idle,
		  attend_busy_fn is_busy, void *data)
{
	*attend = (struct attend){.loop = loop,
				  .exit_when_idle = exit_when_idle,
				  .is_busy = is_busy,
				  .data = data,
				  .feed_ms = service_watchdog_ms() / 2};
	if (attend->feed_ms > 0)
		feed_watchdog(attend);
}

/* What has come in by this very pass is looked at before: nobody else knows of it. */
static void end_idle(void *data)
{
	struct attend *attend = data;

	attend->ends = true;
}

static void take_rest(void *data)
{
	struct attend *attend = data;

	attend->rests = true;
	memory_trim();
	memory_forget_code();
}

void attend_pass_end(struct attend *attend)
{
	unsigned ours = (attend->feed.loop != NULL) + (attend->idle.loop != NULL);

	if (loop_count_timers(attend->loop) > ours || attend->is_busy(attend->data)) {
		loop_timer_stop(&attend->idle);
		attend->rests = attend->ends = false;
		return;
	}
	if (attend->ends) {
		log_info("nothing to do: ending");
		loop_quit(attend->loop);
		return;
	}
	if (attend->idle.loop || attend->rests)
		return;
	if (attend->exit_when_idle)
		loop_timer_start(attend->loop, &attend->idle, IDLE_MS, end_idle, attend);
	else
		loop_timer_start(attend->loop, &attend->idle, REST_MS, take_rest, attend);
}

void attend_stop(struct attend *attend)
{
	loop_timer_stop(&attend->feed);
	loop_timer_stop(&attend->idle);
}
