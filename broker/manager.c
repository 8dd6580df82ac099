/* Turns edges into changes: events, udev's database, VMs that come and go, a new config. Owns the
 * lists of devices and VMs. See manager.h; reconcile.c does the moving. */
#include "broker/manager.h"

#include "broker/log.h"
#include "broker/pci.h"
#include "broker/reconcile.h"
#include "broker/udev.h"
#include "helper/root.h"


#define UNSURE_MS 2000  /* for a program that the former broker has started to end */
#define FAMILY_MS 10000 /* a device that comes back so soon under another name is the same one */

/* Devices */

static struct device *find_device(struct manager *manager, const char *devpath, uint64_t inode)
{
	for (struct device *d = manager->devices; d; d = d->next)
		if (d->inode == inode && streq(d->devpath, devpath))
			return d;
	return NULL;
}

/* By the order of the rules, which PCI devices are attached in. */
static void link_device(struct manager *manager, struct device *device)
{
	struct device **at = &manager->devices;

	while (*at && (*at)->order <= device->order)
		at = &(*at)->next;
	device->next = *at;
	*at = device;
	device->manager = manager;
}

static void free_device(void *data)
{
	free(data);
}

/* The memory stays until the end of the pass: whoever walks the list goes on from there. */
static void unlink_device(struct manager *manager, struct device *device)
{
	struct device **at = &manager->devices;

	while (*at && *at != device)
		at = &(*at)->next;
	if (*at)
		*at = device->next;
	device->dropped = true;
	device->present = false;
	device->rule[0] = 0;
	device_let_go(device);
	loop_discard(manager->loop, &device->garbage, free_device, device);
}

void manager_drop_device(struct manager *manager, struct device *device)
{
	if (device->dropped)
		return;
	store_forget(manager->store, device, NULL);
	unlink_device(manager, device);
}

/* A text attribute of the device; "" when it has none. */
static void read_attribute(const char *devpath, const char *attribute, char *ret, size_t size)
{
	if (root_read(ret, size, "/sys%s/%s", devpath, attribute) < 0)
		*ret = 0;
}

/* The device's own word under KEY, where blanks have become '_'; udev puts the id there when the
 * device has none, and then the hardware database's word is better. (The device's attributes in
 * sysfs can't be read here: reading them waits for the device.) */
static void own_words(property_fn property, void *from, const char *key, const char *id_key,
		      const char *database_key, char *ret, size_t size)
{
	const char *own = property(from, key), *id = property(from, id_key);
	const char *known = property(from, database_key);

	if (known && (!own || (id && streq(own, id))))
		own = known;
	snprintf(ret, size, "%s", own ? own : "");
	for (char *c = ret; own != known && *c; c++)
		if (*c == '_')
			*c = ' ';
}

/* What a person would call it: the device's own words, else those of the hardware database. */
static void read_usb_name(struct device *d, property_fn property, void *from)
{
	char vendor[128], model[128], name[300];

	own_words(property, from, "ID_VENDOR", "ID_VENDOR_ID", "ID_VENDOR_FROM_DATABASE", vendor,
		  sizeof(vendor));
	own_words(property, from, "ID_MODEL", "ID_MODEL_ID", "ID_MODEL_FROM_DATABASE", model,
		  sizeof(model));
	/* Many products begin with their maker's name. */
	bool says_vendor = *vendor && strncasecmp(model, vendor, strlen(vendor)) == 0;
	snprintf(name, sizeof(name), "%s%s%s", says_vendor ? "" : vendor,
		 says_vendor || !*vendor || !*model ? "" : " ", model);
	text_copy(d->name, sizeof(d->name), *name ? name : "USB device");
}

static void read_usb(struct device *d, property_fn property, void *from)
{
	const char *product = property(from, "PRODUCT");
	unsigned vendor = 0, model = 0;
	char speed[16];

	read_usb_name(d, property, from);
	/* The kernel's own: "46d/c52b/1211", hexadecimal without zeros in front. */
	if (product && sscanf(product, "%4x/%4x/", &vendor, &model) == 2)
		snprintf(d->vid_pid, sizeof(d->vid_pid), "%04x:%04x", vendor, model);
	read_attribute(d->devpath, "speed", speed, sizeof(speed));
	d->speed = (unsigned) strtoul(speed, NULL, 10);
}

static void read_pci(struct device *d)
{
	unsigned vendor = 0, model = 0;
	char name[300];

	if (pci_attribute(d->kernel_name, "vendor", &vendor) < 0 ||
	    pci_attribute(d->kernel_name, "device", &model) < 0)
		return;
	snprintf(d->vid_pid, sizeof(d->vid_pid), "%04x:%04x", vendor, model);
	pci_name(vendor, model, name, sizeof(name));
	text_copy(d->name, sizeof(d->name), *name ? name : "PCI device");
}

static void read_evdev(struct device *d)
{
	char name[128], vendor[16], product[16];

	read_attribute(d->devpath, "device/name", name, sizeof(name));
	read_attribute(d->devpath, "device/id/vendor", vendor, sizeof(vendor));
	read_attribute(d->devpath, "device/id/product", product, sizeof(product));
	text_copy(d->name, sizeof(d->name), *name ? name : "input device");
	snprintf(d->vid_pid, sizeof(d->vid_pid), "%.4s:%.4s", vendor, product);
}

static bool is_usb_node(const char *node)
{
	unsigned bus, address;
	char rest;

	return node && sscanf(node, "/dev/bus/usb/%3u/%3u%c", &bus, &address, &rest) == 2;
}

static bool is_event_node(const char *node)
{
	unsigned number;
	char rest;

	return node && sscanf(node, "/dev/input/event%5u%c", &number, &rest) == 1;
}

/* Which kind of device we can move this is, or -1. */
static int kind_of(property_fn property, void *from)
{
	const char *subsystem = property(from, "SUBSYSTEM"), *type = property(from, "DEVTYPE");
	const char *node = property(from, "DEVNAME");

	if (!subsystem)
		return -1;
	if (streq(subsystem, "usb"))
		return type && streq(type, "usb_device") && is_usb_node(node) ? DEVICE_USB : -1;
	if (streq(subsystem, "pci"))
		return DEVICE_PCI;
	if (streq(subsystem, "input"))
		return is_event_node(node) ? DEVICE_EVDEV : -1;
	return -1;
}

/* VHOTPLUG_OPTIONS: "force,order=3,…". */
static void read_options(struct device *d, const char *text)
{
	char copy[256], *save = NULL;

	d->options = 0;
	d->order = 0;
	snprintf(copy, sizeof(copy), "%s", text ? text : "");
	for (char *word = strtok_r(copy, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
		const char *order = startswith(word, "order=");

		if (streq(word, "force"))
			d->options |= DEVICE_FORCE;
		else if (streq(word, "iommu-add-all"))
			d->options |= DEVICE_IOMMU_ADD_ALL;
		else if (streq(word, "iommu-skip-if-shared"))
			d->options |= DEVICE_IOMMU_SKIP_IF_SHARED;
		else if (order)
			d->order = (unsigned) strtoul(order, NULL, 10);
	}
}

/* Sets the wish. Returns whether it has changed. */
static bool read_wish(struct device *d, property_fn property, void *from)
{
	char rule[sizeof(d->rule)], vms[sizeof(d->vms)];

	text_copy(d->config, sizeof(d->config), property(from, "VHOTPLUG_CONFIG"));
	text_copy(d->family, sizeof(d->family), property(from, "VHOTPLUG_FAMILY"));
	text_copy(rule, sizeof(rule), property(from, "VHOTPLUG_RULE"));
	text_copy(vms, sizeof(vms), property(from, "VHOTPLUG_VM"));
	if (d->family_vm[0] && d->family[0])
		strcpy(vms, d->family_vm);
	read_options(d, property(from, "VHOTPLUG_OPTIONS"));
	bool changed = !streq(rule, d->rule) || !streq(vms, d->vms);
	strcpy(d->rule, rule);
	strcpy(d->vms, vms);
	if (changed)
		d->unreachable[0] = 0;
	return changed;
}

/* Sets what udev says of DEVICE: who it is, and the wish. Returns whether the wish has changed. */
static bool read_properties(struct device *d, property_fn property, void *from)
{
	const char *node = property(from, "DEVNAME");

	snprintf(d->kernel_name, sizeof(d->kernel_name), "%s", strrchr(d->devpath, '/') + 1);
	d->kind = (enum device_kind) kind_of(property, from);
	if (node && d->kind != DEVICE_PCI)
		snprintf(d->node, sizeof(d->node), "%s", node);
	switch (d->kind) {
	case DEVICE_USB:
		read_usb(d, property, from);
		break;
	case DEVICE_PCI:
		read_pci(d);
		break;
	case DEVICE_EVDEV:
		read_evdev(d);
		break;
	}
	return read_wish(d, property, from);
}

/* A stick in its boot loader, say: it leaves and comes back on the same port with other ids. */
static void remember_family(struct manager *manager, const struct device *device)
{
	struct family *family = &manager->families[manager->next_family++ % MANAGER_FAMILIES];

	*family = (struct family){0};
	if (!device->family[0] || !device->vm)
		return;
	snprintf(family->devpath, sizeof(family->devpath), "%s", device->devpath);
	snprintf(family->name, sizeof(family->name), "%s", device->family);
	snprintf(family->vm, sizeof(family->vm), "%s", device->vm->name);
	family->left = now_monotonic_ms();
}

/* Keeps a new device with the VM that its family on this port was in a moment ago. */
static void join_family(struct manager *manager, struct device *device)
{
	for (size_t i = 0; device->family[0] && i < MANAGER_FAMILIES; i++) {
		const struct family *family = &manager->families[i];

		if (!streq(family->name, device->family) ||
		    !streq(family->devpath, device->devpath) ||
		    now_monotonic_ms() - family->left > FAMILY_MS)
			continue;
		log_info("%s (%s): stays in %s with its family %s", device->kernel_name,
			 device->name, family->vm, family->name);
		snprintf(device->family_vm, sizeof(device->family_vm), "%s", family->vm);
		strcpy(device->vms, device->family_vm);
	}
}

/* What holds for LEADER holds for those that share its IOMMU group. */
static void follow(struct device *device, const struct device *leader)
{
	snprintf(device->leader, sizeof(device->leader), "%s", leader->devpath);
	snprintf(device->rule, sizeof(device->rule), "%s", leader->rule);
	snprintf(device->vms, sizeof(device->vms), "%s", leader->vms);
	snprintf(device->config, sizeof(device->config), "%s", leader->config);
	device->options = leader->options;
	device->order = leader->order;
}

/* LEADER: the device whose IOMMU group it is given with, or NULL. */
static struct device *new_device(struct manager *manager, const char *devpath, uint64_t inode,
				 property_fn property, void *from, const struct device *leader,
				 enum device_cause cause)
{
	struct device *d = calloc(1, sizeof(*d));

	if (!d || strlen(devpath) >= sizeof(d->devpath)) {
		log_error("%s is ignored: %s", devpath,
			  d ? "its path is too long" : "out of memory");
		free(d);
		return NULL;
	}
	strcpy(d->devpath, devpath);
	d->inode = inode;
	d->present = true;
	d->state = DEVICE_WAITING;
	d->since = now_realtime_ms();
	snprintf(d->reason, sizeof(d->reason), "the broker has just seen it");
	read_properties(d, property, from);
	if (leader)
		follow(d, leader);
	join_family(manager, d);
	device_set_cause(d, cause);
	link_device(manager, d);
	store_device(manager->store, d, NULL);
	return d;
}

/* Those that share DEVICE's IOMMU group and go where it goes. */
static void lead_followers(struct manager *manager, const struct device *leader)
{
	for (struct device *d = manager->devices, *next; d; d = next) {
		bool wanted = leader->present && leader->options & DEVICE_IOMMU_ADD_ALL;

		next = d->next;
		if (!streq(d->leader, leader->devpath))
			continue;
		follow(d, leader);
		if (!wanted)
			d->rule[0] = 0;
		device_set_cause(d, leader->cause);
		reconcile_now(manager, d);
	}
}

static const char *follower_property(void *from, const char *key)
{
	(void) from;
	return streq(key, "SUBSYSTEM") ? "pci" : NULL;
}

struct device *manager_find_pci(struct manager *manager, const char *address)
{
	for (struct device *d = manager->devices; d; d = d->next)
		if (d->kind == DEVICE_PCI && d->present && streq(d->kernel_name, address))
			return d;
	return NULL;
}

void manager_add_follower(struct manager *manager, struct device *leader, const char *address)
{
	char path[PATH_MAX];
	struct device *follower = manager_find_pci(manager, address);

	if (!follower && root_resolve(path, "/sys/bus/pci/devices/%s", address) == 0 &&
	    startswith(path, "/sys/devices/"))
		follower = new_device(manager, path + strlen("/sys"),
				      sysfs_inode(path + strlen("/sys")), follower_property, NULL,
				      leader, leader->cause);
	if (!follower)
		return;
	log_info("%s (%s): goes with %s, whose IOMMU group it shares", address, follower->name,
		 leader->kernel_name);
}

static void device_has_gone(struct manager *manager, struct device *device)
{
	if (!device->present)
		return;
	log_info("%s (%s): unplugged", device->kernel_name, device->name);
	device->present = false;
	device_set_cause(device, CAUSE_UNPLUG);
	lead_followers(manager, device);
	remember_family(manager, device);
	reconcile_now(manager, device);
}

/* Every instance at DEVPATH that is not the one that is there now has gone. */
static void former_instances_have_gone(struct manager *manager, const char *devpath)
{
	uint64_t inode = sysfs_inode(devpath);

	for (struct device *d = manager->devices, *next; d; d = next) {
		next = d->next;
		if (streq(d->devpath, devpath) && d->inode != inode)
			device_has_gone(manager, d);
	}
}

/* attachConnected = no: only what is plugged in from now on leaves the host. */
static void hold_if_connected(struct manager *manager, struct device *device)
{
	if (manager->config->general.attach_connected ||
	    (manager->started && device->cause == CAUSE_PLUG))
		return;
	device->state = DEVICE_HELD;
	snprintf(device->reason, sizeof(device->reason),
		 "was plugged in already (attachConnected = no); plug it in again");
	store_device(manager->store, device, NULL);
}

/* Events */

static const char *message_property(void *from, const char *key)
{
	return wire_get(from, key);
}

static void added(struct manager *manager, const struct event *event, struct wire_msg *msg,
		  struct intake_client *client)
{
	struct device *device = find_device(manager, event->devpath, event->inode);
	bool is_plug = !wire_get(msg, "SYNTH_UUID");

	former_instances_have_gone(manager, event->devpath);
	if (event->inode == 0 || event->inode != sysfs_inode(event->devpath) ||
	    (device && device->seqnum > event->seqnum) || kind_of(message_property, msg) < 0) {
		log_debug("%s: add %llu is not about what is there now", event->devpath,
			  (unsigned long long) event->seqnum);
		intake_acknowledge(client);
		return;
	}
	if (!device) {
		device = new_device(manager, event->devpath, event->inode, message_property, msg,
				    NULL,
				    is_plug            ? CAUSE_PLUG
				    : manager->started ? CAUSE_CONFIG
						       : CAUSE_COLDPLUG);
		if (device)
			hold_if_connected(manager, device);
		if (device)
			log_info("%s (%s): plugged in, rule %s wants it in %s", device->kernel_name,
				 device->name, device->rule, device->vms);
	} else if (read_properties(device, message_property, msg)) {
		device_set_cause(device, CAUSE_CONFIG);
		lead_followers(manager, device);
		store_device(manager->store, device, NULL);
	}
	/* udev's database was read before its helper could tell. */
	if (device && device->state == DEVICE_HELD && is_plug && manager->started) {
		device_set_cause(device, CAUSE_PLUG);
		device->state = DEVICE_WAITING;
	}
	if (!device) {
		intake_acknowledge(client);
		return;
	}
	device->seqnum = event->seqnum;
	reconcile(manager, device);
	reconcile_await(manager, device, client);
}

static void handle_event(void *data, const struct event *event, const struct wire_msg *msg,
			 struct intake_client *client)
{
	struct manager *manager = data;

	if (!streq(event->boot_id, manager->boot_id)) {
		intake_acknowledge(client);
	} else if (streq(event->action, "add")) {
		added(manager, event, (struct wire_msg *) msg, client);
	} else {
		/* A hint only: "udevadm trigger --action=remove" says so of devices that are there.
		 */
		former_instances_have_gone(manager, event->devpath);
		intake_acknowledge(client);
	}
}

static void handle_reconcile(void *data)
{
	struct manager *manager = data;

	log_info("the rules have changed: looking at every device");
	if (manager->reload)
		manager->reload(manager->reload_data);
	else
		manager_resync(manager);
}

const struct intake_handler manager_intake = {
	.event = handle_event,
	.reconcile = handle_reconcile,
};

/* udev's database */

struct listing {
	struct manager *manager;
	enum device_cause cause;
};

static void listed(void *data, const char *devpath, property_fn property, void *from)
{
	struct listing *listing = data;
	struct manager *manager = listing->manager;
	uint64_t inode = sysfs_inode(devpath);
	struct device *device = find_device(manager, devpath, inode);

	if (inode == 0 || kind_of(property, from) < 0)
		return;
	if (!device) {
		device = new_device(manager, devpath, inode, property, from, NULL, listing->cause);
		if (device)
			hold_if_connected(manager, device);
	} else if (read_properties(device, property, from)) {
		device_set_cause(device, CAUSE_CONFIG);
		device->leader[0] = 0;
		lead_followers(manager, device);
		store_device(manager->store, device, NULL);
	}
}

/* Devices we know of may have gone, or may be wanted by no rule any more. */
static void compare_known(struct manager *manager)
{
	for (struct device *d = manager->devices, *next; d; d = next) {
		next = d->next;
		if (d->inode != sysfs_inode(d->devpath)) {
			device_has_gone(manager, d);
		} else if (d->rule[0] && !d->leader[0] &&
			   udev_get_claim(d->devpath) == UDEV_UNCLAIMED) {
			log_info("%s (%s): no rule wants it any more", d->kernel_name, d->name);
			d->rule[0] = 0;
			device_set_cause(d, CAUSE_CONFIG);
			lead_followers(manager, d);
			store_device(manager->store, d, NULL);
		}
	}
}

static void resync(struct manager *manager, enum device_cause cause)
{
	struct listing listing = {.manager = manager, .cause = cause};
	int r = udev_list_claimed(listed, &listing);

	if (r < 0)
		log_error("can't read udev's database: %s", strerror(-r));
	compare_known(manager);
	for (struct vm *vm = manager->vms; vm; vm = vm->next)
		vm_check(vm);
	for (struct device *d = manager->devices, *next; d; d = next) {
		next = d->next;
		d->unreachable[0] = 0;
		reconcile_now(manager, d);
	}
}

void manager_resync(struct manager *manager)
{
	if (manager->started)
		resync(manager, CAUSE_CONFIG);
}

void manager_start(struct manager *manager)
{
	manager->started = true;
	resync(manager, CAUSE_COLDPLUG);
}

/* What is on record */

static int loaded(void *data, struct device *device)
{
	struct manager *manager = data;

	device->present = true;
	device_set_cause(device, device->rule[0] ? CAUSE_COLDPLUG : CAUSE_CONFIG);
	link_device(manager, device);
	if (!device->handle[0]) {
		if (device->state != DEVICE_HELD)
			device->state = DEVICE_WAITING;
		return 0;
	}
	/* Under way or done when the former broker ended: its VM will tell. */
	struct vm *vm = manager_find_vm(manager, device->vm_name);
	device->was_arriving = device->state == DEVICE_OPENING || device->state == DEVICE_ATTACHING;
	device->state = DEVICE_ATTACHED;
	device->unverified = true;
	if (vm)
		device->vm = vm_ref(vm);
	else
		device_has_left(manager, device, CAUSE_LOST, "its VM is no longer in the config");
	return 0;
}

int manager_load(struct manager *manager)
{
	return store_load(manager->store, loaded, manager);
}

/* VMs */

struct vm *manager_find_vm(struct manager *manager, const char *name)
{
	for (struct vm *vm = manager->vms; vm; vm = vm->next)
		if (streq(vm->name, name))
			return vm;
	return NULL;
}

static bool has_handle(char *const *handles, size_t n, const char *handle)
{
	for (size_t i = 0; i < n; i++)
		if (streq(handles[i], handle))
			return true;
	return false;
}

/* The VM has DEVICE. What the former broker did not live to record is recorded now. */
static void confirm(struct manager *manager, struct device *d)
{
	struct vmm_result result = {.outcome = VMM_OK};
	bool was_arriving = d->was_arriving;

	if (!d->unverified)
		return;
	d->unverified = d->was_arriving = false;
	if (was_arriving) {
		if (device_is_unlisted(d)) {
			vmm_set_result(&result, VMM_RETRY,
				       "the former broker has ended before it had attached it");
			result.is_unsure = true;
			result.delay_ms = UNSURE_MS;
		}
		d->state = DEVICE_ATTACHING;
		reconcile_attached(manager, d, &result);
	} else {
		store_device(manager->store, d, NULL);
	}
}

/* DEVICE was on its way to its VM when the former broker ended, and has not arrived. */
static void never_arrived(struct manager *manager, struct device *d)
{
	device_let_go(d);
	d->state = DEVICE_WAITING;
	store_device(manager->store, d, NULL);
}

/* DEVICE is in VM by our book: is it by the VM's? */
static void verify_attached(struct manager *manager, struct device *d, char *const *handles,
			    size_t n)
{
	bool was_unverified = d->unverified;

	if (has_handle(handles, n, d->handle) || device_is_unlisted(d)) {
		confirm(manager, d);
		reconcile_check(manager, d);
		return;
	}
	if (d->unverified && device_is_doubtful(d)) {
		d->unverified = false;
		device_set_cause(d, CAUSE_LOST);
		return;
	}
	if (d->was_arriving) {
		never_arrived(manager, d);
		return;
	}
	enum device_cause cause = !d->present      ? CAUSE_UNPLUG
				  : was_unverified ? CAUSE_VM_EXIT
						   : CAUSE_LOST;
	device_has_left(manager, d, cause, cause == CAUSE_LOST ? "the VM no longer had it" : "");
	d->awaits_vm = was_unverified;
	device_set_cause(d, CAUSE_VM_START);
}

/* HANDLE is in VM: adopts it for the device it belongs to, or takes it out. */
static void adopt_or_remove(struct manager *manager, struct vm *vm, const char *handle)
{
	for (struct device *d = manager->devices; d; d = d->next) {
		char own[sizeof(d->handle)];

		device_make_handle(d, own, sizeof(own));
		if (!streq(own, handle))
			continue;
		if (d->vm == vm)
			return;
		if (d->vm || d->state == DEVICE_OPENING)
			break;
		/* The attach of a broker that did not live to record it. */
		d->vm = vm_ref(vm);
		strcpy(d->vm_name, vm->name);
		strcpy(d->handle, own);
		device_has_arrived(manager, d, "");
		return;
	}
	log_warning("%s: has %s, which it should not have: taken away", vm->name, handle);
	vm->vmm->detach(vm, NULL, handle);
}

static void vm_is_up(void *data, struct vm *vm, char *const *handles, size_t n)
{
	struct manager *manager = data;

	for (struct device *d = manager->devices, *next; d; d = next) {
		next = d->next;
		if (d->vm == vm && d->state == DEVICE_ATTACHED)
			verify_attached(manager, d, handles, n);
		/* It has started anew: what failed may work now. */
		if (streq(d->unreachable, vm->name) && d->unreachable_pid != vm->peer.pid)
			d->unreachable[0] = 0;
	}
	for (size_t i = 0; i < n && !vm->vmm->gives_handles; i++)
		adopt_or_remove(manager, vm, handles[i]);
	for (struct device *d = manager->devices, *next; d; d = next) {
		next = d->next;
		/* One that has left just now, and that nobody wants, is dropped. */
		bool is_over = !d->vm && (!d->present || !d->rule[0]);
		if (d->vm == vm || device_may_be_in(d, vm->name) || is_over)
			reconcile_now(manager, d);
	}
}

static void vm_has_exited(void *data, struct vm *vm)
{
	struct manager *manager = data;

	for (struct device *d = manager->devices, *next; d; d = next) {
		next = d->next;
		/* Another process: what has failed may work, and there is no way back. */
		if (device_may_be_in(d, vm->name))
			d->n_retries = 0;
		if (streq(d->former_vm, vm->name))
			d->former_vm[0] = d->unreachable[0] = 0;
		/* Attaching still: the VM had it, but a host driver had not let go. */
		if (d->vm != vm || (d->state != DEVICE_ATTACHED && d->state != DEVICE_RELEASING &&
				    d->state != DEVICE_ATTACHING))
			continue;
		loop_timer_stop(&d->retry);
		d->request = 0;
		device_set_cause(d, CAUSE_VM_EXIT);
		device_has_left(manager, d, CAUSE_VM_EXIT, "");
		reconcile(manager, d);
	}
}

/* A VM that does not run has nothing, whatever was on record. */
static void vm_reason_changed(void *data, struct vm *vm)
{
	struct manager *manager = data;

	for (struct device *d = manager->devices, *next; d; d = next) {
		next = d->next;
		if (d->vm == vm && d->unverified && vm->state == VM_DOWN && vm->is_absent) {
			if (d->was_arriving) {
				never_arrived(manager, d);
			} else {
				device_set_cause(d, CAUSE_VM_EXIT);
				device_has_left(manager, d, CAUSE_VM_EXIT,
						"while the broker was not running");
			}
			reconcile(manager, d);
		} else {
			reconcile_vm_reason(manager, d, vm);
		}
	}
}

static void handle_changed(void *data, struct device *device)
{
	struct manager *manager = data;

	store_device(manager->store, device, NULL);
	store_flush(manager->store);
}

static void attach_sent(void *data, struct device *device)
{
	reconcile_attach_sent(data, device);
}

static void attached(void *data, struct device *device, const struct vmm_result *result)
{
	reconcile_attached(data, device, result);
}

/* Somebody may have waited for the room that is free now. */
static void room_in(struct manager *manager, struct vm *vm)
{
	for (struct device *d = manager->devices, *next; d; d = next) {
		next = d->next;
		if (streq(d->unreachable, vm->name) && d->unreachable_is_full) {
			d->unreachable[0] = 0;
			reconcile_now(manager, d);
		} else if (((d->state == DEVICE_WAITING && d->retry.loop) ||
			    d->state == DEVICE_FAILED) &&
			   device_may_be_in(d, vm->name)) {
			d->n_retries = 0;
			reconcile_now(manager, d);
		}
	}
}

static void detached(void *data, struct vm *vm, struct device *device, const char *handle,
		     const struct vmm_result *result)
{
	struct manager *manager = data;

	if (device)
		reconcile_detached(manager, device, result);
	else if (result->outcome == VMM_RETRY)
		log_warning("%s: could not take %s away: %s", vm->name, handle, result->detail);
	if (result->outcome != VMM_RETRY)
		room_in(manager, vm);
}

static const struct vm_handler vm_handler = {
	.up = vm_is_up,
	.exited = vm_has_exited,
	.reason = vm_reason_changed,
	.handle_changed = handle_changed,
	.attach_sent = attach_sent,
	.attached = attached,
	.detached = detached,
};

/* Takes the VMs of the config; those that are as before stay as they are. */
static void set_vms(struct manager *manager)
{
	struct vm *former = manager->vms, **at = &manager->vms;

	manager->vms = NULL;
	for (size_t i = 0; i < manager->config->n_vms; i++) {
		const struct config_vm *config = &manager->config->vms[i];
		struct vm **old = &former, *vm = NULL;

		while (*old && !vm_matches(*old, config))
			old = &(*old)->next;
		if (*old) {
			vm = *old;
			*old = vm->next;
			vm_update(vm, &manager->config->general, config);
		} else if (vm_new(manager->loop, &manager->config->general, config, &vm_handler,
				  manager, &vm) < 0) {
			continue;
		}
		vm->next = NULL;
		*at = vm;
		at = &vm->next;
	}
	while (former) {
		struct vm *next = former->next;

		vm_unref(former);
		former = next;
	}
}

void manager_set_config(struct manager *manager, struct config *config)
{
	config_free(manager->config);
	manager->config = config;
	set_vms(manager);
	manager_resync(manager);
}

int manager_init(struct manager *manager, struct loop *loop, struct worker *worker,
		 struct store *store, struct config *config, const char *boot_id)
{
	*manager = (struct manager){
		.loop = loop,
		.worker = worker,
		.store = store,
		.config = config,
	};
	snprintf(manager->boot_id, sizeof(manager->boot_id), "%s", boot_id);
	set_vms(manager);
	return worker_watch(worker, loop, reconcile_worker_answer, manager);
}

void manager_finish(struct manager *manager)
{
	while (manager->devices)
		unlink_device(manager, manager->devices);
	while (manager->vms) {
		struct vm *vm = manager->vms;

		manager->vms = vm->next;
		vm_unref(vm);
	}
	config_free(manager->config);
	manager->config = NULL;
}
