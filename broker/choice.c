/* People's wishes: see choice.h. Called by the control sockets and at arrival. */
#include "broker/choice.h"

#include "broker/group.h"
#include "broker/log.h"
#include "broker/record.h"
#include "broker/store.h"

struct choices {
	struct store *store;
	struct choice *list;
	size_t n;
};

static struct choice *find_choice(const struct choices *choices, const char *whom)
{
	for (size_t i = 0; i < choices->n; i++)
		if (streq(choices->list[i].whom, whom))
			return &choices->list[i];
	return NULL;
}

static void put_choice(void *data, const struct choice *choice)
{
	struct choices *choices = data;
	struct choice *known = find_choice(choices, choice->whom);

	if (!known) {
		struct choice *bigger =
			reallocarray(choices->list, choices->n + 1, sizeof(*bigger));

		if (!bigger)
			return;
		choices->list = bigger;
		known = &bigger[choices->n++];
	}
	*known = *choice;
}

int choices_new(struct store *store, bool is_kept, struct choices **ret_choices)
{
	struct choices *choices = calloc(1, sizeof(*choices));
	int r;

	if (!choices)
		return -ENOMEM;
	choices->store = store;
	r = is_kept ? store_load_choices(store, put_choice, choices) : store_forget_choices(store);
	if (r < 0) {
		choices_free(choices);
		return r;
	}
	*ret_choices = choices;
	return 0;
}

void choices_free(struct choices *choices)
{
	if (!choices)
		return;
	free(choices->list);
	free(choices);
}

void choices_save(const struct choices *choices)
{
	for (size_t i = 0; i < choices->n; i++)
		store_choice(choices->store, &choices->list[i]);
}

/* The name of DEVICE that outlives its instance. */
static void name_device(const struct device *device, char *ret, size_t size)
{
	const struct device_identity *id = &device->id;

	if (id->kind == DEVICE_USB && id->serial[0])
		snprintf(ret, size, "usb %s serial %s", id->vid_pid, id->serial);
	else if (id->kind == DEVICE_EVDEV) /* the number is another one at every boot */
		snprintf(ret, size, "evdev %s %s", id->vid_pid, id->name);
	else
		snprintf(ret, size, "%s %s at %s", device_kind_name(id->kind), id->vid_pid,
			 id->kernel_name);
}

void choice_recall(struct registry *registry, struct device *device)
{
	char whom[sizeof(((struct choice *) 0)->whom)];
	const struct choice *choice;

	name_device(device, whom, sizeof(whom));
	choice = registry->choices ? find_choice(registry->choices, whom) : NULL;
	if (!choice)
		return;
	kept_set(&device->wish.chosen, choice->vm);
	if (choice->is_detached)
		device->wish.away = AWAY_DETACHED;
}

bool choice_would_end(const struct device *device)
{
	return device->wish.away == AWAY_DETACHED || device->wish.away == AWAY_UNTIL_REPLUG ||
	       (device->wish.chosen[0] && !device->record.handle[0]);
}

void choice_forget(struct device *device)
{
	if (!device->record.handle[0])
		kept_drop(&device->wish.chosen);
	if (device->wish.away != AWAY_SUSPENDED)
		device->wish.away = AWAY_NOT;
}

static void remember_choice(struct registry *registry, const struct device *device)
{
	struct choice choice = {.is_detached = device->wish.away == AWAY_DETACHED};

	name_device(device, choice.whom, sizeof(choice.whom));
	snprintf(choice.vm, sizeof(choice.vm), "%s", device->wish.chosen);
	put_choice(registry->choices, &choice);
	store_choice(registry->store, &choice);
}

/* What is wanted of DEVICE has changed: of those that go with it too. */
static void wish_changed(struct registry *registry, struct device *device)
{
	kept_drop(&device->attempt.move.failed);
	kept_drop(&device->attempt.failure);
	device_set_cause(device, CAUSE_USER);
	record_save(registry, device);
	device_retry(device);
	for (struct device *d = registry->devices; d && device->id.kind == DEVICE_PCI;
	     d = d->next) {
		if (!streq(d->wish.leader, device->id.devpath))
			continue;
		registry_follow(d, device);
		device_set_cause(d, CAUSE_USER);
		record_save(registry, d);
		device_retry(d);
	}
}

/* The one that decides for DEVICE: itself, or the one whose IOMMU group it goes with. */
static struct device *leader_of(struct registry *registry, struct device *device)
{
	for (struct device *d = registry->devices; d && device->wish.leader[0]; d = d->next)
		if (streq(d->id.devpath, device->wish.leader))
			return d;
	return device;
}

/* A VM takes an IOMMU group as a whole: what people say of DEVICE and VM ("": any) holds for the
 * others of its group that other rules allow there. This is the next one after AT (NULL: the
 * first), or NULL. Those that are led follow anyway. */
static struct device *next_along(const struct registry *registry, const struct device *device,
				 const char *vm, struct device *at)
{
	while ((at = group_next_member(registry, device, at)) &&
	       (!at->wish.rule[0] || at->wish.leader[0] || (*vm && !device_allows(at, vm))))
		;
	return at;
}

static void say_along(const struct device *member, const struct device *device)
{
	log_info("%s (%s): goes with %s, whose IOMMU group it shares", member->id.kernel_name,
		 member->id.name, device->id.kernel_name);
}

/* One that is held stays the host's until somebody says so of itself. */
static void attach_along(struct registry *registry, const struct device *device, bool is_kept)
{
	const char *chosen = device->wish.chosen, *vm = *chosen ? chosen : device->record.vm;

	for (struct device *d = NULL; (d = next_along(registry, device, vm, d));) {
		d->wish.away = AWAY_NOT;
		if (is_kept)
			kept_set(&d->wish.chosen, chosen);
		remember_choice(registry, d);
		if (*chosen)
			kept_set(&d->wish.chosen, chosen);
		say_along(d, device);
		wish_changed(registry, d);
	}
}

static void choose_first(struct device_wish *wish)
{
	char first[DEVICE_WORD_SIZE];

	snprintf(first, sizeof(first), "%.*s", (int) strcspn(wish->vms, ","), wish->vms);
	kept_set(&wish->chosen, first);
}

void choice_attach(struct registry *registry, struct device *device, const char *vm, bool is_kept)
{
	struct device_wish *wish;

	device = leader_of(registry, device);
	wish = &device->wish;
	wish->away = AWAY_NOT;
	wish->held = false;
	/* It is not held again by a broker that comes while it is on its way. */
	if (device->record.state == DEVICE_HELD)
		record_set(registry, device, DEVICE_WAITING, "attached by hand");
	/* Where it is asked for it is a choice, even of one. */
	is_kept = vm && (is_kept || wish->options & OPTION_ASK);
	if (is_kept)
		kept_set(&wish->chosen, vm);
	remember_choice(registry, device);
	/* Somebody who does not say which VM takes the first one; it is not asked for again while
	 * it is plugged in. */
	if (!vm && !*device_candidates(device))
		choose_first(wish);
	log_info("%s (%s): attached by hand%s%s", device->id.kernel_name, device->id.name,
		 vm ? " to " : "", vm ? vm : "");
	wish_changed(registry, device);
	attach_along(registry, device, is_kept);
}

static void keep_out(struct registry *registry, struct device *device, enum device_away away)
{
	device->wish.away = away;
	remember_choice(registry, device);
	wish_changed(registry, device);
}

void choice_detach(struct registry *registry, struct device *device, bool until_replug)
{
	enum device_away away = until_replug ? AWAY_UNTIL_REPLUG : AWAY_DETACHED;

	device = leader_of(registry, device);
	log_info("%s (%s): detached by hand", device->id.kernel_name, device->id.name);
	keep_out(registry, device, away);
	for (struct device *d = NULL; (d = next_along(registry, device, device->record.vm, d));) {
		say_along(d, device);
		keep_out(registry, d, away);
	}
}

void choice_suspend(struct registry *registry, const char *name, unsigned kinds)
{
	for (struct device *d = registry->devices; d; d = d->next) {
		if (!d->place.vm || !(kinds & (1U << d->id.kind)) || d->wish.leader[0] ||
		    d->wish.skips_suspend || d->wish.away != AWAY_NOT ||
		    (name && !streq(d->place.vm->name, name)))
			continue;
		d->wish.away = AWAY_SUSPENDED;
		wish_changed(registry, d);
	}
}

/* The state of a suspended device speaks of the VM that it was in. */
void choice_resume(struct registry *registry, const char *name, unsigned kinds)
{
	for (struct device *d = registry->devices; d; d = d->next) {
		if (d->wish.away != AWAY_SUSPENDED || !(kinds & (1U << d->id.kind)) ||
		    d->wish.leader[0] || (name && !streq(d->record.vm, name)))
			continue;
		d->wish.away = AWAY_NOT;
		wish_changed(registry, d);
	}
}

static bool is_suspended_from(const struct device *device, const struct vm *vm)
{
	return device->wish.away == AWAY_SUSPENDED && streq(device->record.vm, vm->name);
}

static void go_on(struct registry *registry, struct device *device)
{
	device->wish.away = AWAY_NOT;
	record_save(registry, device);
	device_mark(device);
}

void choice_vm_has_exited(struct registry *registry, const struct vm *vm)
{
	for (struct device *d = registry->devices; d; d = d->next)
		if (is_suspended_from(d, vm))
			go_on(registry, d);
}

void choice_vm_was_found(struct registry *registry, const struct vm *vm)
{
	uint64_t age = peer_age_ms(&vm->peer), now = now_realtime_ms();

	for (struct device *d = registry->devices; d; d = d->next) {
		bool is_new = age > 0 && d->record.since < now - age;

		if (is_suspended_from(d, vm) && d->wish.was_away && is_new)
			go_on(registry, d);
		if (streq(d->record.vm, vm->name))
			d->wish.was_away = false;
	}
}
