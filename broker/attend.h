/* What a service manager wants of the broker: its watchdog fed, and an end when there is nothing to
 * do (--exit-when-idle), or else little memory. */
#pragma once

#include "broker/loop.h"

/* Whether something is under way that no timer speaks of. */
typedef bool (*attend_busy_fn)(void *data);

struct attend {
	struct loop *loop;
	struct loop_timer feed, idle;
	uint64_t feed_ms; /* 0: no watchdog */
	bool exit_when_idle;
	bool rests; /* its memory has been given back, and nothing has been done since */
	bool ends;  /* at the end of this pass, unless that brings something to do */
	attend_busy_fn is_busy;
	void *data;
};

/* Begins to feed the watchdog, if the environment asks for it. */
void attend_start(struct attend *attend, struct loop *loop, bool exit_when_idle,
		  attend_busy_fn is_busy, void *data);
/* Call it at the end of each pass: when no timer but ours has been pending and nobody busy for a
 * while it quits the loop, or gives back the memory of what is not needed now. */
void attend_pass_end(struct attend *attend);
/* Stops the timers. Fine when it was never started. */
void attend_stop(struct attend *attend);
