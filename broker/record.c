/* State, reason, since and history of devices: see record.h. */
#include "broker/record.h"

#include <stdarg.h>

#include "broker/log.h"
#include "broker/store.h"
#include "helper/text.h"

static void fill_identity(struct history *history, const struct device_identity *id, const char *vm,
			  const char *rule)
{
	snprintf(history->device, sizeof(history->device), "%s", id->kernel_name);
	snprintf(history->name, sizeof(history->name), "%s", id->name);
	snprintf(history->vid_pid, sizeof(history->vid_pid), "%s", id->vid_pid);
	snprintf(history->vm, sizeof(history->vm), "%s", vm);
	snprintf(history->rule, sizeof(history->rule), "%s", rule);
}

static void fill_history(struct history *history, const struct device *device, const char *action,
			 enum device_cause cause, const char *result, const char *detail)
{
	*history = (struct history){
		.action = action,
		.cause = device_cause_name(cause),
		.result = result,
		.milliseconds =
			device->attempt.started ? now_monotonic_ms() - device->attempt.started : 0,
	};
	fill_identity(history, &device->id, device->record.vm, device->wish.rule);
	text_clean(history->detail, sizeof(history->detail), detail);
}

static void queue_row(struct registry *registry, struct device *device,
		      const struct history *history)
{
	kept_set(&device->record.handle, device->place.handle);
	store_device(registry->store, device, history);
	record_drop(&device->saved);
	record_copy(&device->saved, &device->record);
	device->changed = true;
	device_touch(device);
}

static bool is_news(const struct device *device)
{
	const struct device_record *now = &device->record, *before = &device->saved;

	return now->state != before->state || !streq(now->reason, before->reason) ||
	       !streq(now->vm, before->vm) || !streq(device->place.handle, before->handle);
}

static void enter_state(struct device *device, enum device_state state)
{
	struct device_record *record = &device->record;

	if (state == record->state && record->since != 0)
		return;
	device_touch(device);
	record->state = state;
	/* It has only passed through others meanwhile. */
	record->since = state == device->saved.state && device->saved.since != 0
				? device->saved.since
				: now_realtime_ms();
}

static void set_reason(struct device *device, const char *format, va_list args) _printf_(2, 0);
static void set_reason(struct device *device, const char *format, va_list args)
{
	char reason[VMM_DETAIL_SIZE];

	vsnprintf(reason, sizeof(reason), format, args);
	kept_set(&device->record.reason, reason);
}

static void set_state(struct device *device, enum device_state state, const char *format, ...)
	_printf_(3, 4);
static void set_state(struct device *device, enum device_state state, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	set_reason(device, format, args);
	va_end(args);
	enter_state(device, state);
}

void record_set(struct registry *registry, struct device *device, enum device_state state,
		const char *format, ...)
{
	va_list args;

	va_start(args, format);
	set_reason(device, format, args);
	va_end(args);
	enter_state(device, state);
	if (is_news(device))
		queue_row(registry, device, NULL);
}

void record_name_vm(struct device *device, const char *name)
{
	kept_set(&device->record.vm, name);
}

void record_pass_through(struct device *device, enum device_state state)
{
	enter_state(device, state);
}

void record_save(struct registry *registry, struct device *device)
{
	queue_row(registry, device, NULL);
}

void record_arrived(struct registry *registry, struct device *device, const char *detail)
{
	const struct device_move *move = &device->attempt.move;
	const char *vm = device->record.vm;
	struct history history;

	fill_history(&history, device, "attach", device->attempt.cause, "ok", detail);
	log_info("%s (%s): attached to %s after %llu ms (%s), rule %s", device->id.kernel_name,
		 device->id.name, vm, (unsigned long long) history.milliseconds,
		 device_cause_name(device->attempt.cause), device->wish.rule);
	if (move->failed[0])
		set_state(device, DEVICE_ATTACHED,
			  "back in %.60s; the move to %.60s failed: %.360s", vm, move->failed,
			  device->attempt.failure);
	else
		set_state(device, DEVICE_ATTACHED, "%s has it%s%s", vm, *detail ? " " : "", detail);
	queue_row(registry, device, &history);
}

void record_left(struct registry *registry, struct device *device, enum device_cause cause,
		 const char *detail)
{
	struct history history;

	fill_history(&history, device, "detach", cause, "ok", detail);
	log_info("%s (%s): has left %s (%s)", device->id.kernel_name, device->id.name,
		 device->record.vm, device_cause_name(cause));
	set_state(device, DEVICE_WAITING, "has left %s", device->record.vm);
	queue_row(registry, device, &history);
}

void record_left_open(struct registry *registry, const struct left_device *left,
		      struct device *device, const char *who)
{
	char words[200], reason[VMM_DETAIL_SIZE];
	struct history history = {
		.action = "detach", .cause = device_cause_name(left->cause), .result = "open"};

	snprintf(words, sizeof(words), "%.100s still has it open, as %.60s had it", who, left->vm);
	log_warning("%s (%s): has left %s, but %s still has it open", left->id.kernel_name,
		    left->id.name, left->vm, who);
	fill_identity(&history, &left->id, left->vm, left->rule);
	text_clean(history.detail, sizeof(history.detail), words);
	if (!device) {
		store_history(registry->store, &history);
		return;
	}
	snprintf(reason, sizeof(reason), "%s", device->record.reason);
	set_state(device, device->record.state, "%.90s; %s", reason, history.detail);
	queue_row(registry, device, &history);
}

void record_failed(struct registry *registry, struct device *device, enum device_state state,
		   const char *reason)
{
	struct history history;

	set_state(device, state, "%s", reason);
	if (streq(device->attempt.failure, reason)) {
		if (is_news(device))
			queue_row(registry, device, NULL);
		return;
	}
	kept_clean(&device->attempt.failure, VMM_DETAIL_SIZE, reason);
	fill_history(&history, device, "attach", device->attempt.cause,
		     state == DEVICE_REFUSED ? "refused" : "failed", reason);
	log_warning("%s (%s): not attached to %s: %s", device->id.kernel_name, device->id.name,
		    device->record.vm, reason);
	queue_row(registry, device, &history);
}

static void tell_one(struct registry *registry, struct device *device)
{
	if (registry->observer)
		registry->observer(registry->observer_data, device, device->told);
	device->told = device->record.state;
	device->changed = false;
}

void record_forget(struct registry *registry, struct device *device)
{
	store_forget(registry->store, device, NULL);
	device->dropped = true;
	tell_one(registry, device);
}

void record_observe(struct registry *registry, registry_observer_fn fn, void *data)
{
	registry->observer = fn;
	registry->observer_data = data;
}

void record_tell(struct registry *registry)
{
	for (struct device *d = registry->touched; d; d = d->stir.next)
		if (d->changed)
			tell_one(registry, d);
}
