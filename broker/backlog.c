/* What waits for the database: see backlog.h. Owned by the store. */
#include "broker/backlog.h"

#include "broker/log.h"

#define MAX_CHANGES 4096

void backlog_init(struct backlog *backlog)
{
	*backlog = (struct backlog){.last = &backlog->first};
}

static void free_change(struct change *change)
{
	row_finish(&change->row);
	free(change);
}

static void drop_change(struct backlog *backlog, struct change **at)
{
	struct change *change = *at;

	*at = change->next;
	if (!*at)
		backlog->last = at;
	backlog->n--;
	free_change(change);
}

void backlog_finish(struct backlog *backlog)
{
	while (backlog->first)
		drop_change(backlog, &backlog->first);
}

void backlog_each(const struct backlog *backlog, store_written_fn fn, void *data)
{
	for (const struct change *c = backlog->first; c; c = c->next)
		fn(data, c->save || c->forget ? c->row.record.row : 0);
}

void backlog_clear(struct backlog *backlog)
{
	for (const struct change *c = backlog->first; c; c = c->next)
		if (c->save && c->row.record.row > backlog->newest_row)
			backlog->newest_row = c->row.record.row;
	backlog_finish(backlog);
	backlog->n_lost = 0;
}

static bool is_void(const struct change *change)
{
	return !change->save && !change->forget && !change->has_history && !change->has_choice;
}

/* An earlier state of the device ROW needs no write of its own: the newest one stands for it. */
static void supersede_row(struct backlog *backlog, int64_t row)
{
	struct change **at = &backlog->first;

	while (*at) {
		if ((*at)->row.record.row == row)
			(*at)->save = false;
		if (is_void(*at))
			drop_change(backlog, at);
		else
			at = &(*at)->next;
	}
}

/* The same for what a person has chosen for WHOM. */
static void supersede_choice(struct backlog *backlog, const char *whom)
{
	struct change **at = &backlog->first;

	while (*at) {
		if ((*at)->has_choice && streq((*at)->choice.whom, whom))
			(*at)->has_choice = false;
		if (is_void(*at))
			drop_change(backlog, at);
		else
			at = &(*at)->next;
	}
}

static void lose_history(struct backlog *backlog, struct change *change)
{
	if (!change->has_history)
		return;
	if (backlog->n_lost++ == 0)
		log_error("too much waits for the database: history is being lost");
	change->has_history = false;
}

/* At the cap the oldest history rows are lost; what devices are now is not. */
static void make_room(struct backlog *backlog)
{
	struct change **at = &backlog->first;

	while (*at && backlog->n >= MAX_CHANGES) {
		lose_history(backlog, *at);
		if (is_void(*at))
			drop_change(backlog, at);
		else
			at = &(*at)->next;
	}
}

/* A new change with HISTORY unless NULL. */
static struct change *new_change(struct backlog *backlog, const struct history *history)
{
	struct change *change = calloc(1, sizeof(*change));

	if (!change) {
		log_error("a change is not recorded: out of memory");
		backlog->n_lost += history != NULL;
		return NULL;
	}
	change->time = now_realtime_ms();
	if (history) {
		change->history = *history;
		change->has_history = true;
	}
	return change;
}

static void add_change(struct backlog *backlog, struct change *change)
{
	if (is_void(change)) {
		free_change(change);
		return;
	}
	make_room(backlog);
	*backlog->last = change;
	backlog->last = &change->next;
	backlog->n++;
}

static void add_row(struct backlog *backlog, const struct device *device, bool forget,
		    const struct history *history)
{
	struct change *change = new_change(backlog, history);

	if (!change)
		return;
	if (device)
		supersede_row(backlog, device->record.row);
	/* What was never written needs no removal. */
	if (device && (!forget || device->record.row <= backlog->newest_row)) {
		row_copy(&change->row, device);
		change->save = !forget;
		change->forget = forget;
	}
	add_change(backlog, change);
}

void backlog_save(struct backlog *backlog, const struct device *device,
		  const struct history *history)
{
	add_row(backlog, device, false, history);
}

void backlog_forget(struct backlog *backlog, const struct device *device,
		    const struct history *history)
{
	add_row(backlog, device, true, history);
}

void backlog_note(struct backlog *backlog, const struct history *history)
{
	add_row(backlog, NULL, false, history);
}

void backlog_choose(struct backlog *backlog, const struct choice *choice)
{
	struct change *change = new_change(backlog, NULL);

	if (!change)
		return;
	supersede_choice(backlog, choice->whom);
	change->choice = *choice;
	change->has_choice = true;
	add_change(backlog, change);
}

bool backlog_needs_fsync(const struct backlog *backlog)
{
	bool needed = backlog->n_lost > 0;

	for (const struct change *c = backlog->first; c && !needed; c = c->next)
		needed = c->forget || c->has_choice || c->has_history;
	return needed;
}

bool backlog_may_wait(const struct backlog *backlog)
{
	bool may_wait = !backlog_needs_fsync(backlog);

	for (const struct change *c = backlog->first; c && may_wait; c = c->next)
		may_wait = c->save && c->row.record.state == DEVICE_DETACHING &&
			   c->row.wish.away == AWAY_NOT;
	return may_wait;
}

bool backlog_tell_loss(const struct backlog *backlog, struct history *ret_lost)
{
	if (backlog->n_lost == 0)
		return false;
	*ret_lost = (struct history){.action = "history", .cause = "database", .result = "lost"};
	snprintf(ret_lost->detail, sizeof(ret_lost->detail),
		 "%llu rows are missing here: the database could not be written for too long",
		 (unsigned long long) backlog->n_lost);
	return true;
}
