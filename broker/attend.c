/* The watchdog and the end when idle: see attend.h. Used by main.
 *
 * Whatever is to happen later has a timer: a retry, a deadline, the next checkpoint. So without one
 * there is nothing to stay for, unless an answer is still to come. */
#include "broker/attend.h"

#include "broker/log.h"
#include "broker/service.h"

#define IDLE_MS 3000 /* devices come in flocks */

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

static void end_idle(void *data)
{
	struct attend *attend = data;

	log_info("nothing to do: ending");
	loop_quit(attend->loop);
}

void attend_pass_end(struct attend *attend)
{
	unsigned ours = (attend->feed.loop != NULL) + (attend->idle.loop != NULL);

	if (!attend->exit_when_idle)
		return;
	if (loop_count_timers(attend->loop) > ours || attend->is_busy(attend->data))
		loop_timer_stop(&attend->idle);
	else if (!attend->idle.loop)
		loop_timer_start(attend->loop, &attend->idle, IDLE_MS, end_idle, attend);
}

void attend_stop(struct attend *attend)
{
	loop_timer_stop(&attend->feed);
	loop_timer_stop(&attend->idle);
}
