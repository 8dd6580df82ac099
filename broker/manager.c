/* Turns edges into facts: events, udev's database, VMs that come and go, a new config. See
 * manager.h. */
#include "broker/manager.h"

#include "broker/arrival.h"
#include "broker/attempt.h"
#include "broker/choice.h"
#include "broker/control_host.h"
#include "broker/edition.h"
#include "broker/handover.h"
#include "broker/log.h"
#include "broker/look.h"
#include "broker/mark.h"
#include "broker/properties.h"
#include "broker/record.h"
#include "broker/tidings.h"
#include "broker/udev.h"
#include "conf/array.h"
#include "broker/unplug.h"

#define UDEV_BEHIND_MS 5000 /* udevd is not so far behind */

/* Devices that come and go */

/* The wish for DEVICE has changed. */
static void wish_changed(struct registry *registry, struct device *device)
{
	device_set_cause(device, CAUSE_CONFIG);
	device_renew_return(device);
	arrival_lead_followers(registry, device);
	record_save(registry, device);
	device_mark(device);
}

/* Every instance at DEVPATH has gone but the one with INODE, which is there now. */
static void former_instances_have_gone(struct registry *registry, const char *devpath,
				       uint64_t inode)
{
	for (struct device *d = NULL; (d = registry_find_next(registry, devpath, d));)
		if (d->id.inode != inode)
			unplug_note(registry, d);
}

/* What the config says of DEVICE's rule beyond what udev knows. One that was decided by an older
 * config, whose rule is no more, has nothing of that. */
static void read_config(struct manager *manager, struct device *device)
{
	struct device_wish *wish = &device->wish;
	const struct config_rule *rule = NULL;
	const struct config_group *group = config_find_rule(manager->config, wish->rule, &rule);
	const char *tag = !group ? NULL : rule->tag ? rule->tag : group->tag;

	if (wish->leader[0])
		return;
	/* Rules of a former version say nothing of that. */
	if (group && group->options & OPTION_ASK)
		wish->options |= OPTION_ASK;
	wish->skips_suspend = group && group->skip_on_suspend;
	kept_set(&wish->tag, tag ? tag : "");
}

/* attachConnected = no: it stays with the host until its plug is seen. That is on record before it
 * is decided about: a broker that ends meanwhile is followed by one that goes by the record. */
static void hold_if_connected(struct manager *manager, struct device *device)
{
	device->wish.held = !manager->config->general.attach_connected;
	if (device->wish.held)
		record_set(&manager->registry, device, DEVICE_HELD, "the broker has just seen it");
}

/* The plug of DEVICE, which was held, is seen. */
static void note_plug(struct registry *registry, struct device *device)
{
	device_set_cause(device, CAUSE_PLUG);
	device->wish.held = false;
	if (device->record.state == DEVICE_HELD)
		record_set(registry, device, DEVICE_WAITING, "has just been plugged in");
}

static bool read_known(struct manager *manager, struct device *device, property_fn property,
		       void *from)
{
	properties_read_identity(device, property, from);
	bool changed = properties_read_wish(device, property, from) || device->wish.leader[0];
	/* It has a rule of its own: nobody leads it any more. */
	kept_drop(&device->wish.leader);
	read_config(manager, device);
	return changed;
}

/* Events */

static const char *message_property(void *from, const char *key)
{
	return wire_get(from, key);
}

static bool is_about_what_is_there(const struct event *event, uint64_t inode,
				   const struct device *device)
{
	return event->inode != 0 && event->inode == inode &&
	       (!device || device->wish.seqnum <= event->seqnum);
}

/* Takes in the device of an "add". Returns NULL when it can't be. */
static struct device *take_in(struct manager *manager, const struct event *event,
			      struct wire_msg *msg)
{
	struct registry *registry = &manager->registry;
	enum device_cause cause = !wire_get(msg, "SYNTH_UUID") ? CAUSE_PLUG
				  : registry->started          ? CAUSE_CONFIG
							       : CAUSE_COLDPLUG;
	struct device *device = arrival_new(registry, event->devpath, event->inode,
					    message_property, msg, NULL, cause);

	if (!device)
		return NULL;
	hold_if_connected(manager, device);
	read_config(manager, device);
	log_info("%s (%s): plugged in, rule %s wants it in %s", device->id.kernel_name,
		 device->id.name, device->wish.rule, device->wish.vms);
	return device;
}

/* Is it being plugged in now? The kernel says so, and its helper waits, or has come to the spool
 * since the start, or has started the broker. What else is in the spool may be of long ago. */
static bool is_plugged_now(const struct manager *manager, const struct wire_msg *msg,
			   const struct intake_client *client)
{
	return !wire_get(msg, "SYNTH_UUID") &&
	       (client || manager->registry.started || manager->spool_starts);
}

static void read_rules(void *data)
{
	struct manager *manager = data;

	log_info("the rules have changed: looking at every device");
	if (manager->reload)
		(void) manager->reload(manager->reload_data);
	else
		manager_resync(manager);
}

/* A config is being applied, udev goes by it, and we don't yet: the VM that a rule names may be
 * another one there. So nobody is moved until we have read that config, and then all decisions.
 * Whoever applies it says when udev is done. */
static void await_config(struct manager *manager, bool is_triggered)
{
	struct edition *edition = &manager->edition;

	manager->registry.halted = true;
	if (is_triggered || !edition->limit.loop)
		loop_timer_start(manager->registry.loop, &edition->limit, UDEV_BEHIND_MS,
				 read_rules, manager);
}

static void handle_add(struct manager *manager, const struct event *event, struct wire_msg *msg,
		       struct intake_client *client)
{
	struct registry *registry = &manager->registry;
	struct device *device = registry_find(registry, event->devpath, event->inode);

	uint64_t inode = sysfs_inode(event->devpath);
	former_instances_have_gone(registry, event->devpath, inode);
	if (!is_about_what_is_there(event, inode, device) ||
	    properties_kind(message_property, msg) < 0) {
		log_debug("%s: add %llu is not about what is there now", event->devpath,
			  (unsigned long long) event->seqnum);
		intake_acknowledge(client);
		return;
	}
	enum edition_age age =
		edition_compare(&manager->edition, manager->config, message_property, msg);
	/* What our config says of it is in udev's database. */
	if (!device && !client && registry->started && age != EDITION_OURS) {
		manager_resync(manager);
		return;
	}
	if (age == EDITION_NEXT)
		await_config(manager, wire_get(msg, "SYNTH_UUID"));
	else if (age == EDITION_OTHER && client)
		edition_tell(&manager->edition, manager->config);
	/* One that is not plugged in now is found when that config is read: that says whether it is
	 * held. */
	if (!device && (age != EDITION_NEXT || is_plugged_now(manager, msg, client)))
		device = take_in(manager, event, msg);
	else if (device && read_known(manager, device, message_property, msg))
		wish_changed(registry, device);
	if (!device) {
		intake_acknowledge(client);
		return;
	}
	if (device->wish.held && is_plugged_now(manager, msg, client))
		note_plug(registry, device);
	device->wish.seqnum = event->seqnum;
	device_mark(device);
	attempt_add_helper(registry, device, client);
}

/* A host driver has got an interface of a device that a VM has. */
static void handle_bind(struct manager *manager, const struct event *event)
{
	char devpath[sizeof(event->devpath)];

	strcpy(devpath, event->devpath);
	*strrchr(devpath, '/') = 0;
	for (struct device *d = NULL; (d = registry_find_next(&manager->registry, devpath, d));)
		if (d->record.state == DEVICE_ATTACHED) {
			d->attempt.check = true;
			device_mark(d);
		}
}

static void handle_event(void *data, const struct event *event, const struct wire_msg *msg,
			 struct intake_client *client)
{
	struct manager *manager = data;

	udev_overtaken(manager->query, event->devpath);
	if (!streq(event->boot_id, manager->boot_id)) {
		intake_acknowledge(client);
	} else if (streq(event->action, "add")) {
		handle_add(manager, event, (struct wire_msg *) msg, client);
	} else if (streq(event->action, "bind")) {
		handle_bind(manager, event);
		intake_acknowledge(client);
	} else {
		/* A hint only: "udevadm trigger --action=remove" says so of devices that are there.
		 */
		former_instances_have_gone(&manager->registry, event->devpath,
					   sysfs_inode(event->devpath));
		intake_acknowledge(client);
	}
}

const struct intake_handler manager_intake = {
	.event = handle_event,
	.reconcile = read_rules,
};

/* udev's database */

/* It goes by the number of an event node, and by the address of a PCI device: until udevd comes to
 * the unplug of the former one there, what it says of the next one is what the rules have said of
 * that. USB devices have new numbers. */
static bool is_said_of_former(const struct registry *registry, const char *devpath,
			      property_fn property, void *from)
{
	enum device_kind kind = (enum device_kind) properties_kind(property, from);
	const char *node = property(from, "DEVNAME");

	for (const struct device *d = registry->devices; d && kind != DEVICE_USB; d = d->next)
		if (d->id.kind == kind &&
		    (kind == DEVICE_EVDEV ? node && streq(d->id.node, node)
					  : streq(d->id.devpath, devpath)) &&
		    device_has_gone(d))
			return true;
	return false;
}

static void query_again(void *data)
{
	manager_resync(data);
}

static void note_new(struct manager *manager, const char *devpath, uint64_t inode,
		     property_fn property, void *from)
{
	struct registry *registry = &manager->registry;
	struct device *device;

	/* Its own event is still to come, if it has not been lost. */
	if (registry->started && is_said_of_former(registry, devpath, property, from)) {
		log_debug("%s: udev may not have heard of the unplug of a former device there",
			  devpath);
		loop_timer_start(registry->loop, &manager->query_again, UDEV_BEHIND_MS, query_again,
				 manager);
		return;
	}
	device = arrival_new(registry, devpath, inode, property, from, NULL, manager->query_cause);
	if (!device)
		return;
	hold_if_connected(manager, device);
	read_config(manager, device);
}

static void note_claimed(struct manager *manager, const char *devpath, uint64_t inode,
			 property_fn property, void *from)
{
	struct registry *registry = &manager->registry;
	struct device *device = registry_find(registry, devpath, inode);

	if (properties_kind(property, from) < 0)
		return;
	enum edition_age age = edition_compare(&manager->edition, manager->config, property, from);
	if (age == EDITION_NEXT)
		await_config(manager, false);
	if (!device && age != EDITION_NEXT)
		note_new(manager, devpath, inode, property, from);
	else if (device && read_known(manager, device, property, from))
		wish_changed(registry, device);
}

static void note_unclaimed(struct registry *registry, const char *devpath, uint64_t inode)
{
	struct device *device = registry_find(registry, devpath, inode);

	if (!device || !device->wish.rule[0] || device->wish.leader[0])
		return;
	log_info("%s (%s): no rule wants it any more", device->id.kernel_name, device->id.name);
	kept_drop(&device->wish.rule);
	wish_changed(registry, device);
}

static void note_database(void *data, const char *devpath, property_fn property, void *from)
{
	struct manager *manager = data;
	uint64_t inode = sysfs_inode(devpath);

	if (inode == 0)
		return;
	if (property(from, "VHOTPLUG_RULE"))
		note_claimed(manager, devpath, inode, property, from);
	else if (property(from, UDEV_KNOWN))
		note_unclaimed(&manager->registry, devpath, inode);
}

/* Whatever has kept DEVICE from its VM may have changed. */
static void try_anew(struct manager *manager, struct device *device)
{
	kept_drop(&device->attempt.move.failed);
	if (device->wish.held && manager->config->general.attach_connected) {
		device_set_cause(device, CAUSE_CONFIG);
		device->wish.held = false;
	}
	device_retry(device);
}

/* All of the database has been heard. Nothing is moved before the first time: the VMs, which are
 * asked now, are to meet all that may be theirs. */
static void database_is_heard(void *data, int r)
{
	struct manager *manager = data;
	struct registry *registry = &manager->registry;

	manager->query = udev_query_free(manager->query);
	if (r < 0)
		log_error("can't read udev's database: %s", strerror(-r));
	registry->started = true;
	registry->halted = manager->edition.limit.loop;
	for (struct device *d = registry->devices; d; d = d->next)
		if (d->id.inode != sysfs_inode(d->id.devpath))
			unplug_note(registry, d);
	for (struct vm *vm = registry->vms; vm; vm = vm->next)
		vm_check(vm);
	for (struct device *d = registry->devices; d; d = d->next)
		try_anew(manager, d);
}

static const struct udev_listener database_listener = {
	.device = note_database,
	.done = database_is_heard,
};

/* The devices that we know of are asked for, whatever tags they have. */
static int ask_database(struct manager *manager)
{
	struct registry *registry = &manager->registry;
	_cleanup_free_ const char **devpaths = NULL;
	size_t n = 0;

	for (struct device *d = registry->devices; d; d = d->next) {
		const char **place = ARRAY_APPEND(devpaths, n);

		if (!place)
			return -ENOMEM;
		*place = d->id.devpath;
	}
	return udev_ask(registry->loop, devpaths, n, &database_listener, manager, &manager->query);
}

static void resync_all(struct manager *manager, enum device_cause cause)
{
	/* One that is under way has not found all that was there at the start. */
	if (!manager->query)
		manager->query_cause = cause;
	manager->query = udev_query_free(manager->query);
	int r = ask_database(manager);
	if (r < 0)
		database_is_heard(manager, r);
}

void manager_resync(struct manager *manager)
{
	if (manager->registry.started || manager->query)
		resync_all(manager, CAUSE_CONFIG);
}

void manager_start(struct manager *manager)
{
	resync_all(manager, CAUSE_COLDPLUG);
}

/* What is on record */

static int handle_loaded(void *data, struct device *device)
{
	struct manager *manager = data;
	struct registry *registry = &manager->registry;
	enum device_state state = device->record.state;
	struct vm *vm = registry_find_vm(registry, device->record.vm);

	/* People may ask for it, and for it by its serial number, before udev's database is heard.
	 */
	host_describe_device(device);
	device->wish.present = true;
	device->wish.held = state == DEVICE_HELD;
	device->wish.was_away = state == DEVICE_SUSPENDED;
	if (!manager->config->general.persistency)
		choice_forget(device);
	device->attempt.was_used = state == DEVICE_REFUSED;
	device->attempt.taken = device->record.handle[0] || state == DEVICE_OPENING ||
				mark_is_set(MARK_GIVEN, device->id.kernel_name, device->id.node);
	read_config(manager, device);
	device->id.group = look_up_group(device);
	device_set_cause(device, device->wish.rule[0] ? CAUSE_COLDPLUG : CAUSE_CONFIG);
	registry_add(registry, device);
	if (!device->record.handle[0]) {
		if (state == DEVICE_OPENING)
			record_pass_through(device, DEVICE_WAITING);
		return 0;
	}
	/* Under way or done when the former broker ended: its VM will tell. */
	kept_set(&device->place.handle, device->record.handle);
	device->place.was_arriving = state == DEVICE_ATTACHING;
	device->place.was_leaving = state == DEVICE_RELEASING || state == DEVICE_DETACHING;
	device->place.unverified = true;
	record_pass_through(device, DEVICE_ATTACHED);
	if (vm)
		device->place.vm = vm_ref(vm);
	else
		attempt_note_left(registry, device, CAUSE_LOST,
				  "its VM is no longer in the config");
	return 0;
}

int manager_load(struct manager *manager)
{
	return store_load(manager->registry.store, handle_loaded, manager);
}

/* The config */

/* The VM of CONFIG: the one among *FORMER that it was before, taken out, or a new one, or NULL. */
static struct vm *keep_or_make_vm(struct manager *manager, struct vm **former,
				  const struct config_vm *config)
{
	const struct config_general *general = &manager->config->general;
	struct vm *vm = NULL;

	while (*former && !vm_matches(*former, config))
		former = &(*former)->next;
	if (*former) {
		vm = *former;
		*former = vm->next;
		vm_update(vm, general, config);
	} else if (vm_new(manager->registry.loop, general, config, &tidings_handler,
			  &manager->registry, &vm) < 0) {
		return NULL;
	}
	vm->next = NULL;
	return vm;
}

/* Takes the VMs of the config; those that are as before stay as they are. */
static void set_vms(struct manager *manager)
{
	struct vm *former = manager->registry.vms, **at = &manager->registry.vms;

	manager->registry.vms = NULL;
	for (size_t i = 0; i < manager->config->n_vms; i++) {
		*at = keep_or_make_vm(manager, &former, &manager->config->vms[i]);
		if (*at)
			at = &(*at)->next;
	}
	while (former) {
		struct vm *next = former->next;

		vm_unref(former);
		former = next;
	}
}

void manager_set_config(struct manager *manager, struct config *config)
{
	loop_timer_stop(&manager->edition.limit);
	manager->edition.is_told = false;
	config_free(manager->config);
	manager->config = config;
	set_vms(manager);
	for (struct device *d = manager->registry.devices; d; d = d->next)
		read_config(manager, d);
	manager_resync(manager);
}

int manager_init(struct manager *manager, struct loop *loop, struct worker *worker,
		 struct store *store, struct config *config, const char *boot_id)
{
	manager->registry.loop = loop;
	manager->registry.worker = worker;
	manager->registry.store = store;
	manager->config = config;
	snprintf(manager->boot_id, sizeof(manager->boot_id), "%s", boot_id);
	set_vms(manager);
	return worker_watch(worker, loop, handover_worker_answered, &manager->registry);
}

void manager_finish(struct manager *manager)
{
	struct registry *registry = &manager->registry;

	manager->query = udev_query_free(manager->query);
	loop_timer_stop(&manager->query_again);
	loop_timer_stop(&manager->edition.limit);
	while (registry->devices) {
		attempt_let_go(registry->devices);
		registry_remove(registry, registry->devices);
	}
	for (size_t i = 0; i < REGISTRY_LEFT; i++)
		identity_drop(&registry->left[i].id);
	while (registry->vms) {
		struct vm *vm = registry->vms;

		registry->vms = vm->next;
		vm_unref(vm);
	}
	config_free(manager->config);
	manager->config = NULL;
}
