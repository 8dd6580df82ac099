/* Names of states and causes, clean text, and the few sysfs facts about one device instance. */
#include "broker/device.h"

#include "helper/root.h"
#include "helper/text.h"

static const char *const kind_names[] = {
	[DEVICE_USB] = "usb",
	[DEVICE_PCI] = "pci",
	[DEVICE_EVDEV] = "evdev",
};

static const char *const state_names[] = {
	[DEVICE_RELEASING] = "releasing", [DEVICE_WAITING] = "waiting",
	[DEVICE_HELD] = "held",           [DEVICE_CHOOSE] = "choose",
	[DEVICE_DETACHED] = "detached",   [DEVICE_SUSPENDED] = "suspended",
	[DEVICE_OPENING] = "opening",     [DEVICE_ATTACHING] = "attaching",
	[DEVICE_ATTACHED] = "attached",   [DEVICE_DETACHING] = "detaching",
	[DEVICE_REFUSED] = "refused",     [DEVICE_FAILED] = "failed",
};

static const char *const cause_names[] = {
	[CAUSE_PLUG] = "plug",         [CAUSE_UNPLUG] = "unplug",   [CAUSE_COLDPLUG] = "coldplug",
	[CAUSE_VM_START] = "vm-start", [CAUSE_VM_EXIT] = "vm-exit", [CAUSE_CONFIG] = "config",
	[CAUSE_LOST] = "lost",         [CAUSE_USER] = "user",
};

/* Texts */

static const size_t identity_offsets[] = {
	offsetof(struct device_identity, devpath),    offsetof(struct device_identity, kernel_name),
	offsetof(struct device_identity, node),       offsetof(struct device_identity, name),
	offsetof(struct device_identity, vid_pid),    offsetof(struct device_identity, vendor_name),
	offsetof(struct device_identity, model_name), offsetof(struct device_identity, serial),
	offsetof(struct device_identity, interfaces),
};

static const size_t wish_offsets[] = {
	offsetof(struct device_wish, rule),    offsetof(struct device_wish, vms),
	offsetof(struct device_wish, config),  offsetof(struct device_wish, family),
	offsetof(struct device_wish, leader),  offsetof(struct device_wish, family_vm),
	offsetof(struct device_wish, chosen),  offsetof(struct device_wish, tag),
	offsetof(struct device_wish, own_vms),
};

static const size_t record_offsets[] = {
	offsetof(struct device_record, reason),
	offsetof(struct device_record, vm),
	offsetof(struct device_record, handle),
};

/* What is in no copy. */
static const size_t other_offsets[] = {
	offsetof(struct device, place.handle),
	offsetof(struct device, place.bus),
	offsetof(struct device, attempt.group.strangers),
	offsetof(struct device, attempt.group.bridge),
	offsetof(struct device, attempt.host_driver),
	offsetof(struct device, attempt.failure),
	offsetof(struct device, attempt.move.from),
	offsetof(struct device, attempt.move.failed),
};

#define FIELDS(offsets)                      \
	(struct kept_fields)                 \
	{                                    \
		offsets, ARRAY_SIZE(offsets) \
	}

void device_init(struct device *device)
{
	kept_init_fields(&device->id, FIELDS(identity_offsets));
	kept_init_fields(&device->wish, FIELDS(wish_offsets));
	kept_init_fields(&device->record, FIELDS(record_offsets));
	kept_init_fields(&device->saved, FIELDS(record_offsets));
	kept_init_fields(device, FIELDS(other_offsets));
}

void device_finish(struct device *device)
{
	identity_drop(&device->id);
	wish_drop(&device->wish);
	record_drop(&device->record);
	record_drop(&device->saved);
	kept_drop_fields(device, FIELDS(other_offsets));
}

void identity_copy(struct device_identity *to, const struct device_identity *from)
{
	*to = *from;
	kept_hold_fields(to, FIELDS(identity_offsets));
}

void identity_drop(struct device_identity *identity)
{
	kept_drop_fields(identity, FIELDS(identity_offsets));
}

void wish_copy(struct device_wish *to, const struct device_wish *from)
{
	*to = *from;
	kept_hold_fields(to, FIELDS(wish_offsets));
}

void wish_drop(struct device_wish *wish)
{
	kept_drop_fields(wish, FIELDS(wish_offsets));
}

void record_copy(struct device_record *to, const struct device_record *from)
{
	*to = *from;
	kept_hold_fields(to, FIELDS(record_offsets));
}

void record_drop(struct device_record *record)
{
	kept_drop_fields(record, FIELDS(record_offsets));
}

/* Names */

const char *device_kind_name(enum device_kind kind)
{
	return kind_names[kind];
}

int device_kind_from_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(kind_names); i++)
		if (streq(kind_names[i], name))
			return (int) i;
	return -1;
}

const char *device_state_name(enum device_state state)
{
	return state_names[state];
}

int device_state_from_name(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(state_names); i++)
		if (streq(state_names[i], name))
			return (int) i;
	return -1;
}

const char *device_cause_name(enum device_cause cause)
{
	return cause_names[cause];
}

/* What has changed */

void device_stir_to(struct device *device, struct device **list)
{
	struct device_stir *stir = &device->stir;

	if (stir->at && (*stir->at = stir->next))
		stir->next->stir.at = stir->at;
	stir->at = list;
	stir->next = list ? *list : NULL;
	if (list)
		*list = device;
	if (stir->next)
		stir->next->stir.at = &stir->next;
}

void device_touch(struct device *device)
{
	struct device_stir *stir = &device->stir;

	if (stir->is_touched || !stir->touched)
		return;
	stir->is_touched = true;
	device_stir_to(device, stir->touched);
}

bool device_is_at_rest(const struct device *device)
{
	return device->record.state == DEVICE_ATTACHED && !device->marked &&
	       device->attempt.request == 0 && !device->attempt.helpers &&
	       !device->attempt.move.failed[0];
}

void device_mark(struct device *device)
{
	device->marked = true;
	device_touch(device);
}

void device_retry(struct device *device)
{
	device->attempt.not_before = 0;
	device->attempt.gave_up = false;
	device->attempt.back.not_before = 0;
	device_mark(device);
}

void device_renew_return(struct device *device)
{
	struct device_back *back = &device->attempt.back;

	*back = (struct device_back){.is_asked = back->is_asked, .is_outdated = back->is_asked};
}

void device_set_cause(struct device *device, enum device_cause cause)
{
	device->attempt.cause = cause;
	device->attempt.started = now_monotonic_ms();
}

static bool list_has(const char *list, const char *name)
{
	size_t length = strlen(name);

	for (const char *s = list; *s; s += strcspn(s, ","), s += *s == ',')
		if (strcspn(s, ",") == length && strncmp(s, name, length) == 0)
			return true;
	return false;
}

const char *device_candidates(const struct device *device)
{
	const struct device_wish *wish = &device->wish;

	if (wish->away != AWAY_NOT)
		return "";
	/* A choice that the config does not allow any more is none. */
	if (wish->chosen[0] && list_has(wish->vms, wish->chosen))
		return wish->chosen;
	/* A family stays together. */
	return wish->options & OPTION_ASK && !wish->family_vm[0] ? "" : wish->vms;
}

bool device_allows(const struct device *device, const char *name)
{
	return device->wish.rule[0] && list_has(device->wish.vms, name);
}

bool device_may_be_in(const struct device *device, const char *name)
{
	if (!device->wish.present || !device->wish.rule[0])
		return false;
	/* A move to where it should be has failed: where it was is as good for now. */
	if (device->attempt.move.failed[0])
		return streq(device->attempt.move.from, name);
	return list_has(device_candidates(device), name);
}

bool device_may_stay_in(const struct device *device, const char *name)
{
	const struct device_wish *wish = &device->wish;

	if (device_may_be_in(device, name))
		return true;
	/* Nobody has chosen: the command line has. */
	return wish->present && wish->rule[0] && wish->away == AWAY_NOT &&
	       !device->attempt.move.failed[0] && !*device_candidates(device) &&
	       list_has(wish->vms, name);
}

bool device_may_be_found_in(const struct device *device, const char *name)
{
	const struct device_wish *wish = &device->wish;

	return device_may_stay_in(device, name) ||
	       (wish->present && wish->rule[0] && wish->away != AWAY_NOT &&
		list_has(wish->vms, name));
}

void device_make_handle(const struct device *device, char *ret_handle, size_t size)
{
	snprintf(ret_handle, size, "vhp-%s-%llu", device->id.kernel_name,
		 (unsigned long long) device->id.inode);
	/* Letters, digits, '-', '.', '_': what QEMU accepts in an id. */
	for (char *c = ret_handle; *c; c++)
		if (*c == ':')
			*c = '.';
}

void device_name_handle(struct device *device)
{
	char handle[DEVICE_HANDLE_SIZE];

	device_make_handle(device, handle, sizeof(handle));
	kept_set(&device->place.handle, handle);
}

/* Invariants */

/* Has a VM of its own been asked for it, or may it be in one? */
static bool is_with_vmm(enum device_state state)
{
	return state == DEVICE_ATTACHING || state == DEVICE_ATTACHED || state == DEVICE_RELEASING ||
	       state == DEVICE_DETACHING;
}

static const char *check_place(const struct device *device)
{
	const struct device_place *place = &device->place;
	enum device_state state = device->record.state;

	if ((place->vm != NULL) != (state == DEVICE_OPENING || is_with_vmm(state)))
		return "it has a VM exactly while opening, attaching, …, detaching";
	if ((place->handle[0] != 0) != is_with_vmm(state))
		return "it has a handle exactly once the VMM was asked";
	if (place->unverified && state != DEVICE_ATTACHED)
		return "only what is attached on record is unverified";
	if (place->was_leaving && state != DEVICE_ATTACHED)
		return "what a former broker took out is asked for again";
	if (place->was_arriving && state != DEVICE_ATTACHED)
		return "what a former broker began is attached, as far as we know";
	return NULL;
}

static const char *check_attempt(const struct device *device)
{
	const struct device_attempt *attempt = &device->attempt;
	enum device_state state = device->record.state;

	if (attempt->n_disks > 0 && state != DEVICE_ATTACHING)
		return "its disks are held only until the VMM has answered";
	if (attempt->opened || attempt->node_fd >= 0)
		return "what was opened is given at once";
	if (attempt->vmm_asked && (!is_with_vmm(state) || state == DEVICE_ATTACHED))
		return "the VMM is asked only to attach or to detach";
	if (state == DEVICE_DETACHING && !attempt->vmm_asked)
		return "detaching means that the VMM is asked";
	if (state == DEVICE_OPENING && attempt->request == 0)
		return "opening means that the worker is asked";
	if (attempt->request != 0 && !device->place.vm && !device->wish.fence &&
	    !attempt->back.is_asked)
		return "the worker is asked only for a VM's sake, for the fence, or to give it"
		       " back";
	if (attempt->back.is_asked && (attempt->request == 0 || device->place.vm))
		return "what is given back is in no VM, and the worker is at it";
	if (attempt->helpers && !attempt->awaits_send)
		return "helpers wait only for an attach that is not on its way";
	if (attempt->move.failed[0] && !attempt->move.from[0])
		return "a move that failed began somewhere";
	return NULL;
}

const char *device_check(const struct device *device)
{
	const char *wrong = check_place(device);

	if (!wrong)
		wrong = check_attempt(device);
	if (!wrong && !device->record.reason[0])
		wrong = "every state has a reason";
	return wrong;
}

uint64_t sysfs_inode(const char *devpath)
{
	return root_inode("/sys%s", devpath);
}

void usb_each_interface(const char *devpath, void (*fn)(void *data, const char *interface),
			void *data)
{
	const char *kernel_name = strrchr(devpath, '/') + 1;
	size_t length = strlen(kernel_name);
	struct dirent *entry;

	DIR *dir = root_opendir("/sys%s", devpath);
	while (dir && (entry = readdir(dir)))
		if (strncmp(entry->d_name, kernel_name, length) == 0 &&
		    entry->d_name[length] == ':')
			fn(data, entry->d_name);
	if (dir)
		closedir(dir);
}

bool usb_interface_driver(const char *devpath, const char *interface, char *ret_driver, size_t size)
{
	char driver[256];

	if (root_link_name(driver, sizeof(driver), "/sys%s/%s/driver", devpath, interface) < 0 ||
	    streq(driver, "usbfs"))
		return false;
	snprintf(ret_driver, size, "%s", driver);
	return true;
}

struct driver_search {
	const char *devpath;
	char *text;
	size_t size;
	bool found;
};

static void note_driver(void *data, const char *interface)
{
	struct driver_search *search = data;
	char driver[64];

	if (usb_interface_driver(search->devpath, interface, driver, sizeof(driver))) {
		snprintf(search->text, search->size, "%s on %s", driver, interface);
		search->found = true;
	}
}

bool usb_host_driver(const char *devpath, char *ret_text, size_t size)
{
	struct driver_search search = {.devpath = devpath, .text = ret_text, .size = size};

	usb_each_interface(devpath, note_driver, &search);
	return search.found;
}
