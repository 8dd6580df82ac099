/* The broker's event loop on epoll: see loop.h. Owns sources and the list of pending timers. */
#include "broker/loop.h"

#include <sys/epoll.h>
#include <time.h>

#define EVENTS_PER_PASS 64

struct loop_source {
	struct loop *loop;
	struct loop_source *next_dead;
	int fd;
	uint32_t events; /* that are waited for */
	bool dead;
	loop_source_fn fn;
	void *data;
};

struct loop {
	int epoll_fd;
	bool quit;
	struct loop_source *dead;
	struct loop_garbage *garbage;
	struct loop_timer *timers; /* by deadline */
	loop_fn pass_end;
	void *pass_end_data;
};

/* loop_skip_waiting: what both clocks show beyond the system's; meanwhile the system's stand still.
 */
static bool skips_waiting;
static uint64_t skipped_ms, frozen_monotonic, frozen_realtime;
static loop_settle_fn settle_others;

static uint64_t clock_ms(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000;
}

uint64_t now_monotonic_ms(void)
{
	return skipped_ms + (skips_waiting ? frozen_monotonic : clock_ms(CLOCK_MONOTONIC));
}

uint64_t now_realtime_ms(void)
{
	return skipped_ms + (skips_waiting ? frozen_realtime : clock_ms(CLOCK_REALTIME));
}

int loop_new(struct loop **ret_loop)
{
	struct loop *loop = calloc(1, sizeof(*loop));

	if (!loop)
		return -ENOMEM;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0) {
		int r = -errno;

		free(loop);
		return r;
	}
	*ret_loop = loop;
	return 0;
}

/* Freeing garbage may make more of both. */
static void bury_dead(struct loop *loop)
{
	while (loop->dead || loop->garbage) {
		struct loop_source *source = loop->dead;
		struct loop_garbage *garbage = loop->garbage;

		if (source) {
			loop->dead = source->next_dead;
			free(source);
		} else {
			loop->garbage = garbage->next;
			garbage->fn(garbage->data);
		}
	}
}

void loop_discard(struct loop *loop, struct loop_garbage *garbage, loop_fn fn, void *data)
{
	garbage->fn = fn;
	garbage->data = data;
	garbage->next = loop->garbage;
	loop->garbage = garbage;
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	bury_dead(loop);
	close_fd(loop->epoll_fd);
	free(loop);
}

int loop_add(struct loop *loop, int fd, uint32_t events, loop_source_fn fn, void *data,
	     struct loop_source **ret_source)
{
	struct loop_source *source = calloc(1, sizeof(*source));
	struct epoll_event event = {.events = events, .data.ptr = source};

	if (!source)
		return -ENOMEM;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
		int r = -errno;

		free(source);
		return r;
	}
	source->loop = loop;
	source->fd = fd;
	source->events = events;
	source->fn = fn;
	source->data = data;
	*ret_source = source;
	return 0;
}

void loop_source_set_events(struct loop_source *source, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = source};

	if (events == source->events)
		return;
	source->events = events;
	epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_MOD, source->fd, &event);
}

struct loop_source *loop_source_free(struct loop_source *source)
{
	if (source && !source->dead) {
		epoll_ctl(source->loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
		source->dead = true;
		source->next_dead = source->loop->dead;
		source->loop->dead = source;
	}
	return NULL;
}

void loop_timer_stop(struct loop_timer *timer)
{
	if (!timer->loop)
		return;
	for (struct loop_timer **t = &timer->loop->timers; *t; t = &(*t)->next)
		if (*t == timer) {
			*t = timer->next;
			break;
		}
	timer->loop = NULL;
	timer->next = NULL;
}

void loop_timer_start(struct loop *loop, struct loop_timer *timer, uint64_t delay_ms, loop_fn fn,
		      void *data)
{
	struct loop_timer **at = &loop->timers;

	loop_timer_stop(timer);
	timer->deadline = now_monotonic_ms() + delay_ms;
	timer->fn = fn;
	timer->data = data;
	timer->loop = loop;
	while (*at && (*at)->deadline <= timer->deadline)
		at = &(*at)->next;
	timer->next = *at;
	*at = timer;
}

unsigned loop_count_timers(const struct loop *loop)
{
	unsigned n = 0;

	for (const struct loop_timer *timer = loop->timers; timer; timer = timer->next)
		n++;
	return n;
}

void loop_set_pass_end(struct loop *loop, loop_fn fn, void *data)
{
	loop->pass_end = fn;
	loop->pass_end_data = data;
}

static void fire_timers(struct loop *loop)
{
	uint64_t now = now_monotonic_ms();

	while (loop->timers && loop->timers->deadline <= now) {
		struct loop_timer *timer = loop->timers;

		loop_timer_stop(timer);
		timer->fn(timer->data);
	}
}

/* How long epoll may sleep: till the first timer or UNTIL, for ever when there is neither. */
static int sleep_ms(const struct loop *loop, uint64_t until)
{
	uint64_t now = now_monotonic_ms();

	if (loop->timers && loop->timers->deadline < until)
		until = loop->timers->deadline;
	if (until == UINT64_MAX)
		return -1;
	if (until <= now)
		return 0;
	return until - now > INT32_MAX ? INT32_MAX : (int) (until - now);
}

static int sleep_until_event(struct loop *loop, struct epoll_event *events, int ms)
{
	int n = epoll_wait(loop->epoll_fd, events, EVENTS_PER_PASS, ms);

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	return n;
}

/* loop_skip_waiting: puts the clocks forward by MS where nothing is to be done before. */
static int skip_until_event(struct loop *loop, struct epoll_event *events, int ms)
{
	int n = sleep_until_event(loop, events, 0);
	uint64_t left = (uint64_t) ms;

	if (n == 0 && settle_others) {
		uint64_t until = settle_others() - now_monotonic_ms();

		left = until < left ? until : left;
		n = sleep_until_event(loop, events, 0);
	}
	if (n == 0)
		skipped_ms += left;
	return n;
}

static int wait_for_events(struct loop *loop, struct epoll_event *events, uint64_t until)
{
	int ms = sleep_ms(loop, until);

	return skips_waiting && ms > 0 ? skip_until_event(loop, events, ms)
				       : sleep_until_event(loop, events, ms);
}

int loop_pass(struct loop *loop, uint64_t until)
{
	struct epoll_event events[EVENTS_PER_PASS];

	loop->quit = false;
	if (loop->pass_end)
		loop->pass_end(loop->pass_end_data);
	if (loop->quit)
		return 0;
	int n = wait_for_events(loop, events, until);
	for (int i = 0; i < n; i++) {
		struct loop_source *source = events[i].data.ptr;

		if (!source->dead)
			source->fn(source->data, events[i].events);
	}
	fire_timers(loop);
	bury_dead(loop);
	return n < 0 ? n : 0;
}

int loop_run(struct loop *loop)
{
	int r;

	do
		r = loop_pass(loop, UINT64_MAX);
	while (r == 0 && !loop->quit);
	return r;
}

void loop_skip_waiting(bool skip)
{
	frozen_monotonic = clock_ms(CLOCK_MONOTONIC);
	frozen_realtime = clock_ms(CLOCK_REALTIME);
	skips_waiting = skip;
	settle_others = NULL;
}

void loop_skip_waiting_with(loop_settle_fn settle)
{
	loop_skip_waiting(true);
	settle_others = settle;
}

void loop_quit(struct loop *loop)
{
	loop->quit = true;
}
