/* The manager and its state machine against a scripted world: sysfs, udev's database, the worker
 * and the VMM are replaced at link time, the store is real. What this file defines is not taken
 * from the library; two functions of a file that is needed otherwise are wrapped
 * (tests/CMakeLists.txt).
 */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sqlite3.h>

#include <cmocka.h>

#include "broker/arrival.h"
#include "broker/choice.h"
#include "broker/handover.h"
#include "broker/manager.h"
#include "broker/mark.h"
#include "broker/pci.h"
#include "broker/reconcile.h"
#include "broker/udev.h"
#include "broker/vmm_args.h"
#include <poll.h>

#include "conf/load.h"
#include "helper/root.h"
#include "tests/unit/spin.h"
#include "tests/unit/tree.h"
#include "tests/unit/udev-double.h"

#define BOOT "11111111-2222-3333-4444-555555555555"
#define USB "/devices/pci0000:00/0000:00:04.0/usb1/"
#define PCI "/devices/pci0000:00/"
#define MAX 128

/* What the world does by itself. */
struct policy {
	bool worker_waits; /* the test answers the worker's jobs, otherwise they succeed */
	bool worker_full;  /* it takes no more */
	bool vmm_waits;    /* the test answers attach and detach, otherwise they succeed */
	bool probe_waits;
	bool udev_waits;     /* the test answers for udev's database */
	bool probes_refused; /* the VMs are not there */
	bool is_shut_down;   /* … but their VMMs are */
	bool watches;        /* the kernel tells of the unplug of what is attached, by pull_out() */
	bool leaves;         /* what a VM has it was asked to give back before */
	bool full; /* the VM has no free port; it asks for a probe then, as QEMU's backend does */
	enum vmm_outcome detach; /* when not vmm_waits */
};

struct call {
	char what; /* a, d, p */
	struct vm *vm;
	struct device *device;
	char handle[96];
};

static struct world {
	struct policy policy;
	struct loop *loop;
	struct store *store;
	struct manager manager;
	char *dir;
	sqlite3 *db;
	uint64_t seqnum;
	/* sysfs and udev */
	struct place {
		char devpath[200];
		uint64_t inode;
		char driver[64];
		bool claimed;
		const char *subsystem, *rule, *vms, *options, *fence, *family, *config, *serial;
	} places[MAX];
	const struct udev_listener *listener;
	/* the worker */
	struct worker_request jobs[MAX];
	size_t n_jobs, n_all_jobs, n_returns;
	int cord; /* the device's end of the last descriptor for unplug.h; 0: none */
	uint64_t number;
	struct worker_request look; /* the last one whether a VM keeps something open */
	/* VMMs */
	struct call calls[MAX];
	size_t n_calls, n_unplugged, n_attaches, n_detaches, n_probes;
	struct held {
		char vm[64], handle[96];
	} handles[MAX];
	size_t n_handles;
	int group_error;              /* nobody can look now */
	bool resets;                  /* the rules say reset = yes */
	bool grouped;                 /* the functions below share an IOMMU group */
	const char *bridge;           /* one in that group which keeps it from VMs */
	const char *cold;             /* vm1 has had the device of that name since its start */
	bool all_claim;               /* so say the others as well */
	struct intake_client *helper; /* of the next event; NULL: it comes from the spool */
	bool is_outdated;             /* an older config has decided the next event */
	struct config *next;          /* what the config's file says now */
} w;

/* sysfs */

static struct place *find_place(const char *devpath)
{
	for (size_t i = 0; i < MAX; i++)
		if (streq(w.places[i].devpath, devpath))
			return &w.places[i];
	return NULL;
}

uint64_t __wrap_sysfs_inode(const char *devpath);
uint64_t __wrap_sysfs_inode(const char *devpath)
{
	struct place *place = find_place(devpath);

	return place ? place->inode : 0;
}

bool __wrap_usb_host_driver(const char *devpath, char *ret, size_t size);
bool __wrap_usb_host_driver(const char *devpath, char *ret, size_t size)
{
	struct place *place = find_place(devpath);

	if (!place || !place->driver[0])
		return false;
	snprintf(ret, size, "%s", place->driver);
	return true;
}

#define FIRST "ffff:ff:1f.6"
#define SECOND "ffff:ff:1f.7"

int __wrap_pci_get_group(const char *address, struct pci_group *ret);
int __wrap_pci_get_group(const char *address, struct pci_group *ret)
{
	if (w.group_error < 0)
		return w.group_error;
	if (!w.grouped || (!streq(address, FIRST) && !streq(address, SECOND)))
		return -ENOENT;
	*ret = (struct pci_group){.number = 8, .n_members = 2, .members = {FIRST, SECOND}};
	snprintf(ret->bridge, sizeof(ret->bridge), "%s", w.bridge ? w.bridge : "");
	return 0;
}

/* udev */

static const char *place_property(void *from, const char *key)
{
	struct place *place = from;

	if (streq(key, "SUBSYSTEM"))
		return place->subsystem;
	if (streq(key, "DEVTYPE"))
		return "usb_device";
	if (streq(key, "DEVNAME"))
		return streq(place->subsystem, "usb")     ? "/dev/bus/usb/001/002"
		       : streq(place->subsystem, "input") ? "/dev/input/event3"
							  : NULL;
	if (streq(key, UDEV_KNOWN))
		return "1";
	if (streq(key, "VHOTPLUG_RULE"))
		return place->claimed ? place->rule : NULL;
	if (streq(key, "VHOTPLUG_VM"))
		return place->vms;
	if (streq(key, "PRODUCT"))
		return "46d/c52b/1211";
	if (streq(key, "VHOTPLUG_OPTIONS"))
		return place->options;
	if (streq(key, "VHOTPLUG_FENCE"))
		return place->fence;
	if (streq(key, "VHOTPLUG_FAMILY"))
		return place->family;
	if (streq(key, "VHOTPLUG_CONFIG"))
		return place->config;
	if (streq(key, "ID_MODEL"))
		return "Stick";
	if (streq(key, "ID_SERIAL_SHORT"))
		return place->serial;
	return NULL;
}

/* Answers at once, or when the test says so. */
static void udev_answers(const struct udev_listener *listener, void *data)
{
	for (size_t i = 0; i < MAX; i++)
		if (w.places[i].inode != 0)
			listener->device(data, w.places[i].devpath, place_property, &w.places[i]);
	listener->done(data, 0);
}

int udev_ask(struct loop *loop, const char *const *devpaths, size_t n,
	     const struct udev_listener *listener, void *data, struct udev_query **ret_query)
{
	(void) loop, (void) devpaths, (void) n, (void) ret_query;
	w.listener = listener;
	if (!w.policy.udev_waits)
		udev_answers(listener, data);
	return 0;
}

/* Helpers */

struct intake_client {
	struct intake_client *next;
	bool is_answered;
};

void intake_acknowledge(struct intake_client *client)
{
	if (client)
		client->is_answered = true;
}

struct intake_client *intake_chain(struct intake_client *client, struct intake_client *list)
{
	client->next = list;
	return client;
}

struct intake_client *intake_acknowledge_all(struct intake_client *list)
{
	for (; list; list = list->next)
		intake_acknowledge(list);
	return NULL;
}

/* The worker */

int worker_watch(struct worker *worker, struct loop *loop, worker_fn fn, void *data)
{
	(void) worker, (void) loop, (void) fn, (void) data;
	return 0;
}

int worker_send(struct worker *worker, struct worker_request *request)
{
	(void) worker;
	if (w.policy.worker_full)
		return -EAGAIN;
	request->number = ++w.number;
	if (request->job == WORKER_LOOK_OPEN) {
		w.look = *request;
		return 0;
	}
	assert_true(w.n_jobs < MAX);
	w.jobs[w.n_jobs++] = *request;
	w.n_all_jobs++;
	w.n_returns += request->job == WORKER_USB_RETURN || request->job == WORKER_PCI_RETURN;
	return 0;
}

static int open_cord(void)
{
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	w.cord = ends[1];
	return ends[0];
}

/* Answers the oldest job; a device that is opened comes with its node and one disk. */
static void job_answer(int result, const char *detail)
{
	struct worker_answer answer = {.number = w.jobs[0].number, .result = result};
	int fds[WORKER_MAX_FDS];

	assert_true(w.n_jobs > 0);
	snprintf(answer.detail, sizeof(answer.detail), "%s", detail);
	/* QEMU resets what it gets; a rule may not rely on that. */
	assert_int_equal(w.jobs[0].options & (WORKER_RESET | WORKER_MUST_RESET),
			 w.jobs[0].job == WORKER_USB_OPEN && w.resets
				 ? WORKER_RESET | WORKER_MUST_RESET
				 : 0);
	if (w.jobs[0].job == WORKER_USB_OPEN && result == 0) {
		answer.has_node = true;
		fds[answer.n_fds++] = open("/dev/null", O_RDWR | O_CLOEXEC);
		answer.has_watch = w.policy.watches;
		if (answer.has_watch)
			fds[answer.n_fds++] = open_cord();
		fds[answer.n_fds++] = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	}
	if (w.jobs[0].job == WORKER_WATCH) {
		answer.has_watch = w.policy.watches && result == 0;
		answer.result = answer.has_watch ? 0 : -ENODEV;
		if (answer.has_watch)
			fds[answer.n_fds++] = open_cord();
	}
	if (w.jobs[0].job == WORKER_USB_RELEASE)
		assert_int_equal(w.jobs[0].options & WORKER_FOUND, w.cold ? WORKER_FOUND : 0);
	if (w.jobs[0].job == WORKER_USB_RELEASE && result == 0)
		find_place(w.jobs[0].devpath)->driver[0] = 0;
	memmove(w.jobs, w.jobs + 1, --w.n_jobs * sizeof(w.jobs[0]));
	handover_worker_answered(&w.manager.registry, &answer, fds);
}

/* The VMM */

static struct call *note_call(char what, struct vm *vm, struct device *device, const char *handle)
{
	struct call *call = &w.calls[w.n_calls++];

	assert_true(w.n_calls < MAX);
	*call = (struct call){.what = what, .vm = vm, .device = device};
	snprintf(call->handle, sizeof(call->handle), "%s", handle);
	return call;
}

static void call_take(size_t i)
{
	memmove(w.calls + i, w.calls + i + 1, (--w.n_calls - i) * sizeof(w.calls[0]));
}

static size_t find_handle(const char *vm, const char *handle)
{
	size_t i = 0;

	while (i < w.n_handles &&
	       !(streq(w.handles[i].vm, vm) && streq(w.handles[i].handle, handle)))
		i++;
	return i;
}

static void handle_add(const char *vm, const char *handle)
{
	struct held *held = &w.handles[w.n_handles];

	assert_true(w.n_handles < MAX);
	if (find_handle(vm, handle) < w.n_handles)
		return;
	snprintf(held->vm, sizeof(held->vm), "%s", vm);
	snprintf(held->handle, sizeof(held->handle), "%s", handle);
	w.n_handles++;
}

static void handle_remove(const char *vm, const char *handle)
{
	size_t i = find_handle(vm, handle);

	if (i < w.n_handles)
		w.handles[i] = w.handles[--w.n_handles];
}

static void forget_handles(const char *vm)
{
	for (size_t i = 0; i < w.n_handles;)
		if (streq(w.handles[i].vm, vm))
			w.handles[i] = w.handles[--w.n_handles];
		else
			i++;
}

/* Answers the oldest call of kind WHAT; DELAY_MS is what the VMM asks for. */
static void answer_later(char what, enum vmm_outcome outcome, const char *detail, unsigned delay_ms)
{
	struct vmm_result result = {.outcome = outcome, .delay_ms = delay_ms};
	size_t i = 0;

	while (i < w.n_calls && w.calls[i].what != what)
		i++;
	assert_true(i < w.n_calls);
	struct call call = w.calls[i];
	call_take(i);
	snprintf(result.detail, sizeof(result.detail), "%s", detail);
	if (what == 'a') {
		if (outcome == VMM_OK)
			handle_add(call.vm->name, call.handle);
		vm_attached(call.vm, call.device, &result);
	} else {
		if (outcome == VMM_OK)
			handle_remove(call.vm->name, call.handle);
		vm_detached(call.vm, call.device, call.handle, &result);
	}
}

static void answer(char what, enum vmm_outcome outcome, const char *detail)
{
	answer_later(what, outcome, detail, 0);
}

static int fake_init(struct vm *vm)
{
	vm->backend = calloc(1, 1);
	return 0;
}

static void fake_finish(struct vm *vm)
{
	for (size_t i = w.n_calls; i-- > 0;)
		if (w.calls[i].vm == vm)
			call_take(i);
	free(vm->backend);
	vm->backend = NULL;
}

static void fake_probe(struct vm *vm)
{
	w.n_probes++;
	/* "One at a time." */
	for (size_t i = 0; i < w.n_calls; i++)
		if (w.calls[i].what == 'p' && w.calls[i].vm == vm)
			fail_msg("a second probe of %s while one is under way", vm->name);
	note_call('p', vm, NULL, "");
}

static void note_cold(struct vm *vm)
{
	struct cold cold = {.handle = "their-own"};

	cold_clear(&vm->cold);
	if (!w.cold || (!w.all_claim && !streq(vm->name, "vm1")))
		return;
	cold.kind = startswith(w.cold, "event") ? DEVICE_EVDEV
		    : strchr(w.cold, ':')       ? DEVICE_PCI
						: DEVICE_USB;
	snprintf(cold.kernel_name, sizeof(cold.kernel_name), "%s", w.cold);
	assert_true(cold_add(&vm->cold, &cold));
}

static void probe_answer(struct vm *vm)
{
	char *handles[MAX];
	size_t n = 0;

	for (size_t i = 0; i < w.n_calls; i++)
		if (w.calls[i].what == 'p' && w.calls[i].vm == vm) {
			call_take(i);
			if (w.policy.probes_refused) {
				vm_probed(vm, w.policy.is_shut_down ? -EHOSTDOWN : -ENOENT, "",
					  NULL, 0);
				return;
			}
			note_cold(vm);
			for (size_t h = 0; h < w.n_handles; h++)
				if (streq(w.handles[h].vm, vm->name))
					handles[n++] = w.handles[h].handle;
			vm_probed(vm, 0, "", handles, n);
			return;
		}
	fail_msg("no probe of %s", vm->name);
}

static void fake_attach(struct vm *vm, struct device *device, int fd)
{
	w.n_attaches++;
	assert_ptr_equal(device->place.vm, vm);
	assert_true(fd >= 0 || device->id.kind != DEVICE_USB);
	note_call('a', vm, device, device->place.handle);
	if (w.policy.full) {
		answer('a', VMM_RETRY, "the VM has no free USB port");
		vm_refresh(vm);
		return;
	}
	vm_attach_sent(vm, device);
}

static void fake_detach(struct vm *vm, struct device *device, const char *handle)
{
	w.n_detaches++;
	for (size_t i = 0; device && i < w.n_calls; i++)
		if (w.calls[i].what == 'd' && w.calls[i].device == device)
			fail_msg("%s is detached while that is under way", handle);
	note_call('d', vm, device, handle);
}

static void fake_reset(struct vm *vm)
{
	for (size_t i = 0; i < w.n_calls;)
		if (w.calls[i].vm == vm) {
			struct call call = w.calls[i];
			struct vmm_result result = {.outcome = VMM_RETRY,
						    .detail = "the VM has ended"};

			call_take(i);
			if (call.what == 'p')
				vm_probed(vm, -ECONNRESET, "the VM has ended", NULL, 0);
			else if (call.what == 'a')
				vm_attached(vm, call.device, &result);
			else
				vm_detached(vm, call.device, call.handle, &result);
			i = 0;
		} else {
			i++;
		}
	forget_handles(vm->name);
}

static void fake_unplugged(struct vm *vm, const struct device *device)
{
	(void) vm, (void) device;
	w.n_unplugged++;
}

static bool fake_is_leaving(const struct vm *vm, const char *handle)
{
	(void) vm, (void) handle;
	return w.policy.leaves;
}

const struct vmm vmm_qemu = {
	.init = fake_init,
	.is_leaving = fake_is_leaving,
	.unplugged = fake_unplugged,
	.finish = fake_finish,
	.probe = fake_probe,
	.attach = fake_attach,
	.detach = fake_detach,
	.reset = fake_reset,
};

/* The world goes on: what is to happen by itself happens, one thing at a time. */
static bool world_step(void)
{
	if (w.n_jobs > 0 && !w.policy.worker_waits) {
		job_answer(0, "");
		return true;
	}
	for (size_t i = 0; i < w.n_calls; i++) {
		if (w.calls[i].what == 'p' && !w.policy.probe_waits) {
			probe_answer(w.calls[i].vm);
			return true;
		}
		if (w.calls[i].what != 'p' && !w.policy.vmm_waits) {
			answer(w.calls[i].what, w.calls[i].what == 'd' ? w.policy.detach : VMM_OK,
			       "");
			return true;
		}
	}
	return false;
}

static void world_pass(void *data)
{
	(void) data;
	for (int i = 0; i < 50; i++) {
		reconcile_pass(&w.manager.registry);
		if (!world_step())
			break;
	}
	reconcile_pass(&w.manager.registry);
	store_flush(w.store);
}

static void run_for(uint64_t ms)
{
	spin_for(w.loop, ms);
}

static void run(void)
{
	run_for(3);
}

/* Set-up */

static struct config *read_config(const char *more)
{
	struct config *config = NULL;
	char text[2000];

	snprintf(text, sizeof(text),
		 "%s\n"
		 "[vm vm1]\ntype = qemu\nsocket = %s/vm1\n"
		 "[vm vm2]\ntype = qemu\nsocket = %s/vm2\n"
		 "[usb g]\ntargetVm = vm1\n[allow r]\nvendorId = 046d\n",
		 more, w.dir, w.dir);
	FILE *f = fmemopen(text, strlen(text), "r");
	assert_int_equal(config_read(f, "test", stderr, &config), 0);
	fclose(f);
	return config;
}

static void open_broker(const char *config)
{
	char path[100];

	snprintf(path, sizeof(path), "%s/db", w.dir);
	assert_int_equal(loop_new(&w.loop), 0);
	assert_int_equal(store_open(w.loop, path, NULL, BOOT, &w.store), 0);
	assert_int_equal(manager_init(&w.manager, w.loop, NULL, w.store, read_config(config), BOOT),
			 0);
	assert_int_equal(manager_load(&w.manager), 0);
	loop_set_pass_end(w.loop, world_pass, NULL);
	if (!w.db)
		assert_int_equal(sqlite3_open(path, &w.db), SQLITE_OK);
}

static void close_broker(void)
{
	manager_finish(&w.manager);
	memset(&w.manager, 0, sizeof(w.manager));
	store_close(w.store);
	assert_int_equal(kept_count(), 0);
	loop_free(w.loop);
	w.n_jobs = w.n_calls = 0;
}

static int setup(void **state)
{
	(void) state;
	memset(&w, 0, sizeof(w));
	w.dir = temp_new();
	open_broker("");
	return 0;
}

static int setup_started(void **state)
{
	setup(state);
	manager_start(&w.manager);
	run();
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	close_broker();
	sqlite3_close(w.db);
	temp_remove(&w.dir);
	return 0;
}

/* A place in sysfs where a device is, claimed by a rule for VMS. */
static struct place *place_new(const char *devpath, uint64_t inode, const char *vms)
{
	struct place *place = find_place("");

	if (!place)
		abort();
	snprintf(place->devpath, sizeof(place->devpath), "%s", devpath);
	place->inode = inode;
	place->claimed = vms != NULL;
	place->subsystem = startswith(devpath, USB) ? "usb" : "pci";
	place->rule = "usb/g/r";
	place->vms = vms;
	return place;
}

/* UUID: of the request, for an event that somebody has triggered; NULL for the kernel's own. */
static void event_of(const char *action, struct place *place, uint64_t seqnum, const char *uuid)
{
	struct event event = {.seqnum = seqnum, .boot_id = BOOT};
	struct wire_msg msg;

	snprintf(event.action, sizeof(event.action), "%s", action);
	snprintf(event.devpath, sizeof(event.devpath), "%s", place->devpath);
	event.inode = place->inode;
	wire_init(&msg);
	static const char *const keys[] = {
		"SUBSYSTEM",      "DEVTYPE",         "DEVNAME",         "VHOTPLUG_RULE",
		"PRODUCT",        "VHOTPLUG_VM",     "ID_MODEL",        "VHOTPLUG_OPTIONS",
		"VHOTPLUG_FENCE", "VHOTPLUG_FAMILY", "ID_SERIAL_SHORT", "VHOTPLUG_CONFIG"};
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (place_property(place, keys[i]))
			assert_int_equal(wire_add(&msg, keys[i], place_property(place, keys[i])),
					 0);
	if (uuid)
		assert_int_equal(wire_add(&msg, "SYNTH_UUID", uuid), 0);
	if (w.is_outdated) {
		assert_int_equal(wire_add(&msg, "VHOTPLUG_CONFIG", "former"), 0);
		if (!place->claimed)
			assert_int_equal(wire_add(&msg, "VHOTPLUG_RULE", place->rule), 0);
	}
	manager_intake.event(&w.manager, &event, &msg, TAKE_PTR(w.helper));
}

static void event(const char *action, struct place *place, uint64_t seqnum)
{
	event_of(action, place, seqnum, NULL);
}

static void trigger(struct place *place)
{
	event_of("add", place, ++w.seqnum, "0");
	run();
}

static struct place *plug(const char *name, uint64_t inode, const char *vms)
{
	char devpath[200];

	snprintf(devpath, sizeof(devpath), USB "%s", name);
	struct place *place = place_new(devpath, inode, vms);
	event("add", place, ++w.seqnum);
	run();
	return place;
}

static void unplug(struct place *place)
{
	struct place gone = *place;

	*place = (struct place){0};
	gone.inode = 0;
	event("remove", &gone, ++w.seqnum);
	run();
}

/* The kernel says that the device has gone, before udev does, and before sysfs shows it. */
static void pull_out(void)
{
	assert_true(w.cord > 0);
	close(w.cord);
	w.cord = 0;
	run();
}

/* Looks */

static struct device *device(const char *name)
{
	for (struct device *d = w.manager.registry.devices; d; d = d->next)
		if (streq(d->id.kernel_name, name))
			return d;
	return NULL;
}

/* One value from the database, as a reader sees it. */
static size_t count_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	size_t n = 0;

	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

static const char *sql(const char *query)
{
	static char value[512];
	sqlite3_stmt *statement;

	store_flush(w.store);
	assert_int_equal(sqlite3_prepare_v2(w.db, query, -1, &statement, NULL), SQLITE_OK);
	bool found = sqlite3_step(statement) == SQLITE_ROW;
	snprintf(value, sizeof(value), "%s",
		 found && sqlite3_column_text(statement, 0)
			 ? (const char *) sqlite3_column_text(statement, 0)
			 : "(none)");
	sqlite3_finalize(statement);
	return value;
}

/* "attached vm1", for one device. */
static void expect(const char *name, const char *state_and_vm)
{
	char query[200];

	snprintf(query, sizeof(query),
		 "select state || ' ' || vm from assignments where device = '%s'", name);
	assert_string_equal(sql(query), state_and_vm);
}

static void expect_history(const char *lines)
{
	assert_string_equal(sql("select group_concat(action || ' ' || cause || ' ' || vm || ' ' ||"
				" result, '; ') from history"),
			    lines);
}

static size_t n_held(void)
{
	size_t n = 0;

	for (struct device *d = w.manager.registry.devices; d; d = d->next)
		n += d->attempt.n_disks;
	return n;
}

static void vm_dies(const char *name)
{
	struct vm *vm = registry_find_vm(&w.manager.registry, name);

	/* What process_exited does, without a process: the next probe finds nobody. */
	w.policy.probes_refused = true;
	vm_check(vm);
	run();
	assert_int_equal(vm->state, VM_DOWN);
}

static void vm_starts(const char *name)
{
	w.policy.probes_refused = false;
	vm_check(registry_find_vm(&w.manager.registry, name));
	run();
}

/* The main job */

static void test_plug_and_unplug(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	expect("1-2", "attached vm1");
	assert_string_equal(sql("select name||','||vid_pid||','||port||','||rule from assignments"),
			    "Stick,046d:c52b,2,usb/g/r");
	assert_int_equal(n_held(), 0);
	assert_string_equal(w.handles[0].handle, "vhp-1-2-100");
	unplug(stick);
	assert_null(device("1-2"));
	expect("1-2", "(none)");
	assert_int_equal(w.n_handles, 0);
	expect_history("attach plug vm1 ok; detach unplug vm1 ok");
}

static void test_unplug_before_udev_tells(void **state)
{
	(void) state;
	w.policy.watches = true;
	struct place *stick = plug("1-2", 100, "vm1");

	pull_out();
	assert_null(device("1-2"));
	assert_int_equal(w.n_handles, 0);
	unplug(stick);
	assert_int_equal(w.n_detaches, 1);
	expect_history("attach plug vm1 ok; detach unplug vm1 ok");
}

static void test_unplug_before_udev_tells_while_attaching(void **state)
{
	(void) state;
	w.policy.watches = w.policy.vmm_waits = true;
	plug("1-2", 100, "vm1");
	pull_out();
	expect("1-2", "attaching vm1");
	answer('a', VMM_OK, "");
	run();
	answer('d', VMM_OK, "");
	run();
	assert_null(device("1-2"));
}

static void restart(void);

static void test_unplug_after_a_restart_before_udev_tells(void **state)
{
	(void) state;
	plug("1-2", 100, "vm1");
	restart();
	w.policy.watches = true;
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
	pull_out();
	assert_null(device("1-2"));
	assert_int_equal(w.n_detaches, 1);
}

/* What is in no VM is the host's: nothing of it is kept open. */
static void test_nothing_is_watched_in_no_vm(void **state)
{
	(void) state;
	w.policy.watches = true;
	plug("1-2", 100, "vm1");
	vm_dies("vm1");
	expect("1-2", "waiting vm1");
	struct pollfd cord = {.fd = w.cord};
	assert_int_equal(poll(&cord, 1, 0), 1);
	assert_true(cord.revents & POLLERR); /* nobody has the other end */
	close(w.cord);
}

static void test_the_same_event_twice(void **state)
{
	(void) state;
	w.seqnum = 1;
	struct place *stick = plug("1-2", 100, "vm1");

	event("add", stick, ++w.seqnum);    /* udevadm trigger */
	event("remove", stick, ++w.seqnum); /* udevadm trigger --action=remove: still there */
	stick->vms = "vm2";
	event("add", stick, 1); /* an old one from the spool, with an old wish */
	stick->vms = "vm1";
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_attaches, 1);
	assert_int_equal(w.n_detaches, 0);
	expect_history("attach plug vm1 ok");
}

static void test_stale_add_is_ignored(void **state)
{
	struct place gone = {
		.devpath = USB "1-9", .inode = 7, .subsystem = "usb", .rule = "r", .vms = "vm1"};

	(void) state;
	event("add", &gone, ++w.seqnum); /* the directory is not there any more */
	run();
	assert_null(device("1-9"));
	assert_int_equal(w.n_all_jobs, 0);
}

static void test_replug_without_a_remove_event(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	/* The remove got lost; the inode says it is another instance. */
	stick->inode = 101;
	event("add", stick, ++w.seqnum);
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_handles, 1);
	assert_string_equal(w.handles[0].handle, "vhp-1-2-101");
}

static void test_twins(void **state)
{
	(void) state;
	struct place *a = plug("1-2", 100, "vm1");
	struct place *b = plug("1-3", 200, "vm1");

	assert_int_equal(w.n_handles, 2);
	unplug(a);
	expect("1-3", "attached vm1");
	assert_int_equal(w.n_handles, 1);
	assert_string_equal(w.handles[0].handle, "vhp-1-3-200");
	unplug(b);
	assert_int_equal(w.n_handles, 0);
}

static void test_ids_have_separators(void **state)
{
	struct device a = {.id = {.kernel_name = "1-12", .inode = 3}},
		      b = {.id = {.kernel_name = "1-1", .inode = 23}};
	char one[96], two[96];

	(void) state;
	device_make_handle(&a, one, sizeof(one));
	device_make_handle(&b, two, sizeof(two));
	assert_string_not_equal(one, two);
}

/* Unplugged while something is under way */

static void test_unplug_while_opening(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	struct place *stick = plug("1-2", 100, "vm1");
	assert_int_equal(device("1-2")->record.state, DEVICE_OPENING);
	unplug(stick);
	/* The worker may be stuck with it: nothing waits for its answer. */
	assert_null(device("1-2"));
	job_answer(0, ""); /* and its descriptors are closed: ASan's exit or the count says so */
	run();
	assert_int_equal(w.n_attaches, 0);
	expect("1-2", "(none)");
}

static void test_unplug_while_attaching(void **state)
{
	(void) state;
	w.policy.vmm_waits = true;
	struct place *stick = plug("1-2", 100, "vm1");
	assert_int_equal(device("1-2")->record.state, DEVICE_ATTACHING);
	assert_int_equal(n_held(), 1);
	unplug(stick);
	assert_non_null(device("1-2"));
	answer('a', VMM_OK, "");
	run();
	/* The VM has it now, so it must be taken away again. */
	assert_int_equal(n_held(), 0);
	answer('d', VMM_OK, "");
	run();
	assert_null(device("1-2"));
	assert_int_equal(w.n_handles, 0);
}

static void test_unplug_while_attaching_in_vain(void **state)
{
	(void) state;
	w.policy.vmm_waits = true;
	struct place *stick = plug("1-2", 100, "vm1");
	unplug(stick);
	answer('a', VMM_RETRY, "failed to open");
	run();
	assert_null(device("1-2"));
	assert_int_equal(w.n_calls, 0);
}

static void test_replug_while_attaching(void **state)
{
	(void) state;
	w.policy.vmm_waits = true;
	struct place *stick = plug("1-2", 100, "vm1");
	unplug(stick);
	plug("1-2", 101, "vm1");
	assert_int_equal(w.n_attaches, 2); /* the new one does not wait for the old one */
	answer('a', VMM_OK, "");
	answer('a', VMM_OK, "");
	run();
	answer('d', VMM_OK, "");
	run();
	assert_int_equal(w.n_handles, 1);
	assert_string_equal(w.handles[0].handle, "vhp-1-2-101");
	expect("1-2", "attached vm1");
}

/* PCI */

static struct place *card(const char *address, const char *options)
{
	char devpath[200];

	snprintf(devpath, sizeof(devpath), "/devices/pci0/%s", address);
	struct place *place = place_new(devpath, 100, "vm1");
	place->options = options;
	return place;
}

/* The guest counts its devices in the order in which it gets them: the rules' order, whatever the
 * order of the plugs was. One that is stuck does not hold up the next for ever. */
static void test_cards_in_the_order_of_their_rules(void **state)
{
	(void) state;
	vm_dies("vm1");
	struct place *last = card("ffff:ff:1f.5", "order=3");
	struct place *first = card("ffff:ff:1f.6", "order=1");
	struct place *second = card("ffff:ff:1f.7", "order=2");
	event("add", last, ++w.seqnum);
	event("add", second, ++w.seqnum);
	event("add", first, ++w.seqnum);
	run();
	w.policy.worker_waits = true;
	vm_starts("vm1");
	assert_int_equal(device("ffff:ff:1f.6")->record.state, DEVICE_OPENING);
	expect("ffff:ff:1f.7", "waiting vm1");
	expect("ffff:ff:1f.5", "waiting vm1");
	assert_non_null(
		strstr(device("ffff:ff:1f.7")->record.reason, "its turn comes after ffff:ff:1f.6"));
	job_answer(0, "");
	run_for(300);
	expect("ffff:ff:1f.6", "attached vm1");
	assert_int_equal(device("ffff:ff:1f.7")->record.state, DEVICE_OPENING);
	expect("ffff:ff:1f.5", "waiting vm1");
	/* The second is stuck. */
	run_for(3500);
	assert_int_equal(device("ffff:ff:1f.7")->record.state, DEVICE_OPENING);
	assert_int_equal(device("ffff:ff:1f.5")->record.state, DEVICE_OPENING);
}

/* A device that goes and comes, its firmware in a hostile guest's hand, and a monitor that never
 * answers: each instance is one more that is on its way, and holds nothing once it has gone. */
static void test_vm_that_never_answers(void **state)
{
	(void) state;
	size_t before = count_descriptors();

	w.policy.vmm_waits = true;
	for (uint64_t i = 0; i < 100; i++)
		unplug(plug("1-2", 100 + i, "vm1"));
	assert_int_equal(w.n_attaches, 64);
	assert_int_equal(w.n_unplugged, 64);
	assert_in_range(count_descriptors(), 0, before + 2);
	plug("1-3", 500, "vm1");
	expect("1-3", "waiting vm1");
	assert_string_equal(device("1-3")->record.reason,
			    "vm1 has still to answer for 64 other devices");
	/* The others have nothing to do with that. */
	plug("1-4", 600, "vm2");
	assert_int_equal(device("1-4")->record.state, DEVICE_ATTACHING);
	/* And when it answers, its turn comes. */
	answer('a', VMM_RETRY, "unplugged");
	run_for(1000);
	assert_int_equal(device("1-3")->record.state, DEVICE_ATTACHING);
	vm_dies("vm1");
	run();
	expect("1-3", "waiting vm1");
	assert_in_range(count_descriptors(), 0, before + 4);
}

/* Between two VMs */

static void answer_look(int result, pid_t pid)
{
	struct worker_answer answer = {.number = w.look.number, .result = result, .pid = pid};

	snprintf(answer.detail, sizeof(answer.detail), "qemu (process 12)");
	handover_worker_answered(&w.manager.registry, &answer, NULL);
	run();
}

static const char *left_open(void)
{
	return sql("select group_concat(vm || ' ' || detail, '; ') from history"
		   " where result = 'open'");
}

/* What a VM has open it keeps: that is said, whoever has the device by then. */
static void test_left_open(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	stick->vms = "vm2";
	manager_resync(&w.manager);
	run();
	expect("1-2", "attached vm2");
	assert_string_equal(w.look.node, "/dev/bus/usb/001/002");
	answer_look(-EBUSY, 12);
	expect("1-2", "attached vm2");
	assert_non_null(strstr(device("1-2")->record.reason,
			       "; qemu (process 12) still has it open, as vm1 had it"));
	assert_string_equal(left_open(), "vm1 qemu (process 12) still has it open, as vm1 had it");
	/* An answer that comes twice says nothing new. */
	answer_look(-EBUSY, 12);
	assert_string_equal(left_open(), "vm1 qemu (process 12) still has it open, as vm1 had it");
}

/* Those that no rule wants any more are forgotten before it is known. */
static void test_left_open_and_forgotten(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	stick->claimed = false;
	manager_resync(&w.manager);
	run();
	assert_null(device("1-2"));
	answer_look(-EBUSY, 12);
	assert_string_equal(left_open(), "vm1 qemu (process 12) still has it open, as vm1 had it");
}

static void test_left_open_by_nobody(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	stick->vms = "vm2";
	manager_resync(&w.manager);
	run();
	answer_look(0, 0);
	assert_string_equal(left_open(), "(none)");
	stick->vms = "vm1";
	manager_resync(&w.manager);
	run();
	/* Its new VM is to have it open. */
	answer_look(-EBUSY, device("1-2")->place.vm->peer.pid);
	assert_string_equal(left_open(), "(none)");
	/* One that has been unplugged nobody looks for. */
	w.look.number = 0;
	unplug(stick);
	assert_int_equal(w.look.number, 0);
}

/* Not to know who shares a card's group is not that nobody does. */
static void test_group_can_not_be_seen(void **state)
{
	(void) state;
	w.group_error = -EMFILE;
	event("add", card(FIRST, "iommu-skip-if-shared"), ++w.seqnum);
	run();
	expect(FIRST, "waiting vm1");
	assert_string_equal(device(FIRST)->record.reason,
			    "can't tell who shares its IOMMU group: Too many open files");
	assert_int_equal(w.n_attaches, 0);
	w.group_error = 0;
	w.grouped = true;
	run_for(1000);
	/* Now it is known that there is another one. */
	assert_int_equal(w.n_attaches, 0);
	assert_non_null(strstr(device(FIRST)->record.reason, "it shares IOMMU group 8"));
}

static void test_reset_between_vms(void **state)
{
	(void) state;
	struct place *stick = place_new(USB "1-2", 100, "vm1");

	w.resets = true;
	stick->options = "reset";
	event("add", stick, ++w.seqnum);
	run();
	expect("1-2", "attached vm1");
	stick->vms = "vm2";
	manager_resync(&w.manager);
	run();
	expect("1-2", "attached vm2");
}

/* The wish */

/* No VM could have the group, and the host would lose what it takes from there. */
static void test_group_is_kept_by_a_bridge(void **state)
{
	(void) state;
	w.grouped = true;
	w.bridge = "ffff:ff:1f.0";
	event("add", card(FIRST, "iommu-add-all"), ++w.seqnum);
	run();
	expect(FIRST, "refused vm1");
	assert_non_null(strstr(device(FIRST)->record.reason, "holds the bridge ffff:ff:1f.0 ("));
	assert_null(device(SECOND));
	w.bridge = NULL;
	run_for(5000);
	expect(FIRST, "attached vm1");
}

static void test_wish_withdrawn(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	stick->claimed = false;
	manager_resync(&w.manager);
	run();
	assert_null(device("1-2"));
	assert_int_equal(w.n_handles, 0);
	/* Its host drivers may have it back. */
	assert_int_equal(w.n_all_jobs, 2);
	expect_history("attach plug vm1 ok; detach config vm1 ok");
}

static void test_wish_withdrawn_while_attaching(void **state)
{
	(void) state;
	w.policy.vmm_waits = true;
	struct place *stick = plug("1-2", 100, "vm1");
	stick->claimed = false;
	manager_resync(&w.manager);
	run();
	answer('a', VMM_OK, "");
	run();
	answer('d', VMM_OK, "");
	run();
	assert_null(device("1-2"));
}

static void test_wish_withdrawn_while_a_host_driver_holds_on(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	struct place *stick = plug("1-2", 100, "vm1");
	strcpy(stick->driver, "usb-storage on 1-2:1.0");
	job_answer(0, "");
	run();
	job_answer(-EBUSY, "");
	run();
	expect("1-2", "attaching vm1");
	stick->claimed = false;
	manager_resync(&w.manager);
	run();
	assert_int_equal(w.n_detaches, 1);
	assert_int_equal(w.n_handles, 0);
}

static void test_wish_moves_to_another_vm(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	stick->vms = "vm2";
	manager_resync(&w.manager);
	run();
	expect("1-2", "attached vm2");
	expect_history("attach plug vm1 ok; detach config vm1 ok; attach config vm2 ok");
}

static void test_new_wish_is_on_record(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	stick->rule = "usb/g/other";
	event("add", stick, ++w.seqnum);
	run();
	expect("1-2", "attached vm1");
	assert_string_equal(sql("select rule from assignments"), "usb/g/other");
}

static void test_two_candidates(void **state)
{
	(void) state;
	vm_dies("vm1");
	struct place *stick = plug("1-2", 100, "vm1,vm2");
	expect("1-2", "attached vm2");
	vm_starts("vm1"); /* it stays where it is */
	expect("1-2", "attached vm2");
	unplug(stick);
	plug("1-2", 101, "vm1,vm2");
	expect("1-2", "attached vm1");
}

static void test_names_that_begin_alike(void **state)
{
	(void) state;
	plug("1-2", 100, "vm12,vm");
	expect("1-2", "failed vm12,vm");
	assert_int_equal(w.n_attaches, 0);
}

/* VMs that come and go */

static void test_vm_starts_late(void **state)
{
	(void) state;
	vm_dies("vm1");
	plug("1-2", 100, "vm1");
	expect("1-2", "waiting vm1");
	assert_non_null(strstr(sql("select reason from assignments"), "vm1 is not running"));
	assert_int_equal(w.n_all_jobs, 0);
	vm_starts("vm1");
	expect("1-2", "attached vm1");
	expect_history("attach vm-start vm1 ok");
}

static void test_vm_exits_and_returns(void **state)
{
	(void) state;
	plug("1-2", 100, "vm1");
	vm_dies("vm1");
	expect("1-2", "waiting vm1");
	vm_starts("vm1");
	expect("1-2", "attached vm1");
	expect_history("attach plug vm1 ok; detach vm-exit vm1 ok; attach vm-start vm1 ok");
}

/* Its socket is there again, and nobody answers on it for a while. */
static void test_vm_returns_and_answers_late(void **state)
{
	(void) state;
	struct vm *vm = registry_find_vm(&w.manager.registry, "vm1");

	plug("1-2", 100, "vm1");
	vm_dies("vm1");
	vm->state = VM_PROBING;
	vm_set_reason(vm, "the monitor of vm1 does not answer");
	run();
	vm_set_reason(vm, "%s", "");
	run();
	expect("1-2", "waiting vm1");
	vm_starts("vm1");
	expect("1-2", "attached vm1");
	expect_history("attach plug vm1 ok; detach vm-exit vm1 ok; attach vm-start vm1 ok");
}

static void test_vm_exits_while_opening(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	plug("1-2", 100, "vm1");
	vm_dies("vm1");
	w.policy.vmm_waits = true;
	job_answer(0, "");
	run();
	if (w.n_calls > 0) /* the backend finds nobody there */
		answer('a', VMM_RETRY, "nobody listens");
	run();
	expect("1-2", "waiting vm1");
	w.policy.vmm_waits = w.policy.worker_waits = false;
	vm_starts("vm1");
	expect("1-2", "attached vm1");
}

static void test_vm_exits_while_attaching(void **state)
{
	(void) state;
	w.policy.vmm_waits = true;
	plug("1-2", 100, "vm1");
	vm_dies("vm1");
	expect("1-2", "waiting vm1");
	assert_int_equal(n_held(), 0);
	w.policy.vmm_waits = false;
	vm_starts("vm1");
	expect("1-2", "attached vm1");
}

/* The VM has it, a host driver has not let go yet, and then the VM goes. */
static void test_vm_exits_while_verifying(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	struct place *stick = plug("1-2", 100, "vm1");
	strcpy(stick->driver, "usb-storage on 1-2:1.0");
	job_answer(0, "");
	run();
	assert_int_equal(w.jobs[0].job, WORKER_USB_RELEASE);
	vm_dies("vm1");
	stick->driver[0] = 0;
	if (w.n_jobs > 0)
		job_answer(0, "");
	run();
	expect("1-2", "waiting vm1");
	w.policy.worker_waits = false;
	vm_starts("vm1");
	expect("1-2", "attached vm1");
}

static void test_vm_exits_while_detaching(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	w.policy.vmm_waits = true;
	unplug(stick);
	assert_int_equal(device("1-2")->record.state, DEVICE_DETACHING);
	vm_dies("vm1");
	assert_null(device("1-2"));
	expect("1-2", "(none)");
}

static void test_vm_lost_the_device(void **state)
{
	(void) state;
	plug("1-2", 100, "vm1");
	handle_remove("vm1", "vhp-1-2-100"); /* somebody said device_del */
	manager_resync(&w.manager);
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_handles, 1);
	assert_non_null(strstr(sql("select group_concat(cause) from history"), "plug,lost"));
}

static void test_vm_leaves_the_config(void **state)
{
	(void) state;
	plug("1-2", 100, "vm2");
	struct config *config = read_config("");
	config->n_vms = 1;
	struct config_vm vm2 = config->vms[1];
	manager_set_config(&w.manager, config);
	run();
	assert_int_equal(w.n_handles, 0); /* taken away from the VM we no longer know */
	expect("1-2", "failed vm2");
	assert_non_null(strstr(sql("select reason from assignments"), "no VM \"vm2\""));
	config->vms[1] = vm2;
	config->n_vms = 2; /* for config_free */
	manager_set_config(&w.manager, read_config(""));
	run();
	expect("1-2", "attached vm2");
}

/* Only one probe at a time: the backend fills in one table. fake_probe fails otherwise. */
static void test_probes_do_not_overlap(void **state)
{
	(void) state;
	w.policy.probe_waits = true;
	for (int i = 0; i < 5; i++) {
		vm_check(registry_find_vm(&w.manager.registry, "vm1"));
		run();
	}
	/* And what happened meanwhile is looked at afterwards. */
	size_t before = w.n_probes;
	probe_answer(registry_find_vm(&w.manager.registry, "vm1"));
	run_for(10);
	assert_int_equal(w.n_probes, before + 1);
}

/* Trouble */

static void test_retry_with_backoff(void **state)
{
	(void) state;
	w.policy.vmm_waits = true;
	plug("1-2", 100, "vm1");
	for (int i = 0; i < 3; i++) {
		uint64_t before = now_monotonic_ms();
		answer('a', VMM_RETRY, "failed to open host usb device");
		uint64_t after = now_monotonic_ms();
		assert_in_range(device("1-2")->attempt.not_before, before + (200u << i),
				after + (200u << i));
		run();
		expect("1-2", "waiting vm1");
		assert_string_equal(sql("select reason from assignments"),
				    "failed to open host usb device");
		assert_int_equal(w.n_calls, 0);
		size_t attaches = w.n_attaches;
		run_for((200u << i) + 50);
		assert_int_equal(w.n_attaches, attaches + 1);
	}
	answer('a', VMM_OK, "");
	run();
	expect("1-2", "attached vm1");
	/* The history has a failure once, however often it is tried. */
	expect_history("attach plug vm1 failed; attach plug vm1 ok");
}

/* A VM without a free port must not be asked all the time. */
static void test_full_vm_is_not_asked_all_the_time(void **state)
{
	(void) state;
	w.policy.full = true;
	plug("1-2", 100, "vm1");
	run_for(600);
	expect("1-2", "waiting vm1");
	assert_in_range(w.n_attaches, 2, 4); /* at 0, 200 and 600 ms */
	assert_true(w.n_probes < 10);
}

static void test_room_is_used_at_once(void **state)
{
	(void) state;
	struct place *first = plug("1-2", 100, "vm1");
	w.policy.full = true;
	plug("1-3", 200, "vm1");
	run_for(700); /* its next try is a while away */
	w.policy.full = false;
	unplug(first);
	expect("1-3", "attached vm1");
}

static void test_failed_for_good(void **state)
{
	(void) state;
	w.policy.vmm_waits = true;
	plug("1-2", 100, "vm1");
	answer('a', VMM_FAILED, "QEMU: No 'usb-bus' bus found");
	run_for(500);
	expect("1-2", "failed vm1");
	assert_int_equal(w.n_attaches, 1);
	/* A new config is a new chance. */
	w.policy.vmm_waits = false;
	manager_set_config(&w.manager, read_config("[general]\nattachConnected = yes\n"));
	run();
	expect("1-2", "attached vm1");
}

/* The other VM that may have it is up, and its own has ended. */
static void test_failed_for_good_at_one(void **state)
{
	(void) state;
	w.policy.vmm_waits = true;
	plug("1-2", 100, "vm1,vm2");
	answer('a', VMM_FAILED, "QEMU: No 'usb-bus' bus found");
	run();
	expect("1-2", "failed vm1");
	w.policy.vmm_waits = false;
	vm_dies("vm1");
	w.policy.probes_refused = false;
	run();
	expect("1-2", "attached vm2");
}

static void test_disk_in_use(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	plug("1-2", 100, "vm1");
	job_answer(-EBUSY, "/dev/sda is in use on the host: mounted on /mnt");
	run();
	expect("1-2", "refused vm1");
	assert_int_equal(w.n_attaches, 0);
	expect_history("attach plug vm1 refused");
	run_for(2100);
	/* The worker is to see for some time that it is free. */
	assert_true(w.jobs[0].options & WORKER_WAS_USED);
	job_answer(0, "");
	run();
	expect("1-2", "attached vm1");
	struct place *stick = plug("1-3", 101, "vm1");
	assert_false(w.jobs[0].options & WORKER_WAS_USED);
	unplug(stick);
}

/* A look that came to nothing has not seen that the host uses it no more. */
static void test_look_that_fails_while_a_disk_is_refused(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	plug("1-2", 100, "vm1");
	job_answer(-EBUSY, "/dev/sda is in use on the host: mounted on /mnt");
	run_for(2100);
	job_answer(-EIO, "the process that looked after it was killed");
	run_for(2100);
	assert_int_equal(w.jobs[0].job, WORKER_USB_OPEN);
	assert_true(w.jobs[0].options & WORKER_WAS_USED);
}

/* The former broker has seen it in use: that may be between an unmount and a mount now. */
static void test_restart_while_a_disk_is_refused(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	plug("1-2", 100, "vm1");
	job_answer(-EBUSY, "/dev/sda is in use on the host: mounted on /mnt");
	run();
	restart();
	manager_start(&w.manager);
	run();
	assert_true(w.jobs[0].options & WORKER_WAS_USED);
	job_answer(0, "");
	run();
	expect("1-2", "attached vm1");
}

/* How often the database has been written, as another connection sees it. */
static int n_commits(void)
{
	return atoi(sql("pragma data_version"));
}

/* A disk that stays in use is looked at again and again: that is no news, and costs no write. */
static void test_disk_that_stays_in_use(void **state)
{
	char since[40];

	(void) state;
	w.policy.worker_waits = true;
	plug("1-2", 100, "vm1");
	job_answer(-EBUSY, "/dev/sda is in use on the host: mounted on /mnt");
	run();
	snprintf(since, sizeof(since), "%s", sql("select since from assignments"));
	int before = n_commits();
	for (int i = 0; i < 3; i++) {
		run_for(2100);
		job_answer(-EBUSY, "/dev/sda is in use on the host: mounted on /mnt");
		run();
		expect("1-2", "refused vm1");
	}
	assert_string_equal(sql("select since from assignments"), since);
	assert_int_equal(n_commits(), before);
	expect_history("attach plug vm1 refused");
	/* Another reason is news, and the state is the same. */
	run_for(2100);
	job_answer(-EBUSY, "/dev/sda is in use on the host: swap");
	run();
	assert_string_equal(sql("select reason from assignments"),
			    "/dev/sda is in use on the host: swap");
	assert_string_equal(sql("select since from assignments"), since);
	assert_true(n_commits() != before);
}

static void test_unplug_of_a_refused_device(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	struct place *stick = plug("1-2", 100, "vm1");
	job_answer(-EBUSY, "in use");
	run();
	unplug(stick);
	assert_null(device("1-2"));
	run_for(10);
}

static void test_host_driver_does_not_let_go(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	struct place *stick = plug("1-2", 100, "vm1");
	strcpy(stick->driver, "usb-storage on 1-2:1.0");
	job_answer(0, "");
	run();
	job_answer(-EBUSY, "");
	run();
	expect("1-2", "attaching vm1");
	assert_non_null(strstr(sql("select reason from assignments"), "usb-storage"));
	assert_non_null(strstr(sql("select reason from assignments"), "is the fence off"));
	run_for(250);
	job_answer(-EBUSY, "/dev/sda is in use on the host");
	run();
	assert_non_null(strstr(sql("select reason from assignments"), ": /dev/sda is in use"));
	run_for(500);
	job_answer(0, ""); /* now it does */
	run();
	expect("1-2", "attached vm1");
	expect_history("attach plug vm1 ok");
}

/* As after a suspend in which the device has lost its power, and the VMM its claim. */
static void test_host_driver_takes_it_back(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	w.policy.worker_waits = true;
	strcpy(stick->driver, "usbhid on 1-2:1.0");
	manager_resync(&w.manager);
	run();
	stick->driver[0] = 0;
	job_answer(0, "");
	run();
	expect("1-2", "attached vm1");
	/* One that does not let go is told of. */
	strcpy(stick->driver, "usbhid on 1-2:1.0");
	manager_resync(&w.manager);
	run();
	job_answer(-EBUSY, "");
	run();
	expect("1-2", "attaching vm1");
	assert_non_null(strstr(sql("select reason from assignments"), "usbhid"));
	stick->driver[0] = 0;
	run_for(300);
	expect("1-2", "attached vm1");
}

static void test_detach_that_fails_is_repeated(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	w.policy.vmm_waits = true;
	unplug(stick);
	answer('d', VMM_RETRY, "QEMU has not confirmed the removal");
	run();
	expect("1-2", "attached vm1");
	assert_non_null(strstr(sql("select reason from assignments"), "still in vm1"));
	run_for(300);
	answer('d', VMM_GONE, "");
	run();
	assert_null(device("1-2"));
}

/* Also where its VMM says that it never will: it is not taken for gone. */
static void test_detach_that_is_refused(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	w.policy.vmm_waits = true;
	stick->claimed = false;
	manager_resync(&w.manager);
	run();
	answer('d', VMM_FAILED, "libvirt: Operation not supported");
	run();
	expect("1-2", "attached vm1");
	assert_non_null(strstr(sql("select reason from assignments"),
			       "still in vm1: libvirt: Operation not supported"));
	run_for(300);
	answer('d', VMM_OK, "");
	run();
	assert_null(device("1-2"));
}

static void test_detach_of_what_is_gone(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	w.policy.detach = VMM_GONE;
	unplug(stick);
	assert_null(device("1-2"));
	assert_string_equal(sql("select detail from history order by time desc, rowid desc"),
			    "the VM no longer had it");
}

/* The answer to an attach is lost, and meanwhile somebody has taken the device out by hand: whether
 * the VM has it is looked at, though nobody gives it the device again. */
static void test_attach_whose_answer_is_lost(void **state)
{
	struct vmm_result lost = {.outcome = VMM_RETRY, .is_unknown = true};

	(void) state;
	w.policy.vmm_waits = true;
	plug("1-2", 100, "vm1");
	assert_int_equal(w.n_calls, 1);
	struct call call = w.calls[0];
	call_take(0);
	handle_add("vm1", call.handle);
	device("1-2")->wish.away = AWAY_DETACHED;
	device_mark(device("1-2"));
	vm_attached(call.vm, call.device, &lost);
	w.policy.vmm_waits = false;
	run();
	expect("1-2", "detached vm1");
	assert_int_equal(w.n_handles, 0);
}

/* The oldest attach is carried out, if IS_DONE, and nobody hears the answer. */
static void lose_answer(bool is_done)
{
	struct vmm_result lost = {.outcome = VMM_RETRY, .is_unknown = true};
	struct call call = w.calls[0];

	assert_int_equal(call.what, 'a');
	call_take(0);
	if (is_done)
		handle_add(call.vm->name, call.handle);
	vm_attached(call.vm, call.device, &lost);
	w.policy.vmm_waits = false;
}

static void begin_move(struct place *stick);

/* Nobody else gets it before its VM has said whether it has it. */
static void test_move_whose_answer_is_lost(void **state)
{
	(void) state;
	begin_move(plug("1-2", 100, "vm1"));
	lose_answer(true);
	run();
	expect("1-2", "attached vm2");
	assert_int_equal(w.n_attaches, 2);
	assert_int_equal(w.n_handles, 1);
	expect_history("attach plug vm1 ok; detach config vm1 ok; attach config vm2 ok");
}

static void test_move_that_was_lost_and_failed(void **state)
{
	(void) state;
	begin_move(plug("1-2", 100, "vm1"));
	lose_answer(false);
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_handles, 1);
}

static void test_answer_is_lost_with_its_vm(void **state)
{
	(void) state;
	w.policy.vmm_waits = true;
	plug("1-2", 100, "vm1");
	w.policy.probe_waits = true;
	lose_answer(true);
	run();
	assert_int_equal(device("1-2")->record.state, DEVICE_ATTACHED);
	assert_true(device("1-2")->place.unverified);
	w.policy.probe_waits = false;
	forget_handles("vm1");
	w.policy.probes_refused = true;
	run();
	expect("1-2", "waiting vm1");
	w.policy.probes_refused = false;
	vm_starts("vm1");
	expect("1-2", "attached vm1");
	assert_string_equal(sql("select count(*) from history where action = 'detach'"), "0");
}

/* PCI: the guest is asked, and asked again; never twice at the same time, which fake_detach would
 * notice. */
static void test_guest_takes_its_time(void **state)
{
	(void) state;
	struct place *card = place_new(PCI "0000:00:05.0", 300, "vm1");
	event("add", card, ++w.seqnum);
	run();
	expect("0000:00:05.0", "attached vm1");
	w.policy.vmm_waits = true;
	card->claimed = false;
	manager_resync(&w.manager);
	run();
	answer('d', VMM_PENDING, "");
	run();
	expect("0000:00:05.0", "releasing vm1");
	/* Edges of all kinds meanwhile. */
	manager_resync(&w.manager);
	run();
	manager_resync(&w.manager);
	vm_check(registry_find_vm(&w.manager.registry, "vm1"));
	run_for(300);
	answer('d', VMM_PENDING, "");
	run_for(500); /* asked again by the timer */
	answer('d', VMM_OK, "");
	run();
	assert_null(device("0000:00:05.0"));
	run_for(10);
	assert_int_equal(w.n_calls, 0);
}

/* A card that its guest has been asked for, and that somebody wants back in its VM: the guest may
 * let go of it at any time, so it is asked until it has. */
static void release_and_want_back(void)
{
	struct place *card = place_new(PCI "0000:00:05.0", 300, "vm1");

	event("add", card, ++w.seqnum);
	run();
	w.policy.vmm_waits = true;
	device("0000:00:05.0")->wish.away = AWAY_DETACHED;
	device_mark(device("0000:00:05.0"));
	run();
	device("0000:00:05.0")->wish.away = AWAY_NOT;
	answer('d', VMM_PENDING, "");
	run_for(300);
	expect("0000:00:05.0", "releasing vm1");
}

static void expect_back(void)
{
	answer('d', VMM_GONE, "");
	run();
	answer('a', VMM_OK, "");
	run();
	expect("0000:00:05.0", "attached vm1");
	assert_int_equal(w.n_calls, 0);
}

static void test_monitor_fails_while_releasing(void **state)
{
	(void) state;
	release_and_want_back();
	answer('d', VMM_RETRY, "its monitor is busy");
	run();
	expect("0000:00:05.0", "releasing vm1");
	assert_non_null(strstr(sql("select reason from assignments"), "its monitor is busy"));
	run_for(1000);
	expect_back();
}

static void test_restart_while_releasing(void **state)
{
	(void) state;
	release_and_want_back();
	restart();
	manager_start(&w.manager);
	run();
	assert_int_equal(device("0000:00:05.0")->record.state, DEVICE_DETACHING);
	answer('d', VMM_PENDING, "");
	run_for(500);
	expect("0000:00:05.0", "releasing vm1");
	expect_back();
}

static void test_vm_exits_while_releasing(void **state)
{
	(void) state;
	struct place *card = place_new(PCI "0000:00:05.0", 300, "vm1");
	event("add", card, ++w.seqnum);
	run();
	w.policy.vmm_waits = true;
	card->claimed = false;
	manager_resync(&w.manager);
	run();
	answer('d', VMM_PENDING, "");
	run();
	vm_dies("vm1");
	assert_null(device("0000:00:05.0"));
}

/* STICK, which is in vm1, is to go to vm2: it has left vm1, and vm2 has been asked. */
static void begin_move(struct place *stick)
{
	w.policy.vmm_waits = true;
	stick->vms = "vm2";
	manager_resync(&w.manager);
	run();
	answer('d', VMM_OK, "");
	run();
}

/* A move whose new VM has no room goes back, and is not tried again and again. */
static void test_move_that_fails_goes_back(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	begin_move(stick);
	struct vm *vm2 = registry_find_vm(&w.manager.registry, "vm2");
	answer('a', VMM_RETRY, "the VM has no free USB port");
	vm_refresh(vm2);
	run();
	answer('a', VMM_OK, "");
	run_for(500);
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_calls, 0);
	assert_int_equal(w.n_attaches, 3);
	assert_non_null(strstr(sql("select reason from assignments"), "the move to vm2 failed"));
}

/* One that was taken out by hand comes from nowhere: it does not go back into what it was taken
 * from. */
static void test_taken_by_hand_is_no_move(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	device("1-2")->wish.away = AWAY_DETACHED;
	device_mark(device("1-2"));
	run();
	expect("1-2", "detached vm1");
	w.policy.vmm_waits = true;
	device("1-2")->wish.away = AWAY_NOT;
	stick->vms = "vm2";
	manager_resync(&w.manager);
	run();
	answer('a', VMM_FAILED, "QEMU: it does not like it");
	run();
	expect("1-2", "failed vm2");
	assert_int_equal(w.n_calls, 0);
}

/* Nor is there a way back to a VM that is not in the config any more. */
static void test_no_way_back_to_a_vm_without_a_section(void **state)
{
	(void) state;
	struct place *stick = place_new(USB "1-2", 100, "vm3");

	manager_set_config(&w.manager, read_config("[vm vm3]\ntype = qemu\nsocket = /nosuch\n"));
	event("add", stick, ++w.seqnum);
	run();
	expect("1-2", "attached vm3");
	w.policy.vmm_waits = true;
	stick->vms = "vm2";
	manager_set_config(&w.manager, read_config(""));
	manager_resync(&w.manager);
	run();
	answer('d', VMM_OK, "");
	run();
	answer('a', VMM_RETRY, "the VM has no free USB port");
	run();
	expect("1-2", "waiting vm2");
	run_for(500);
	answer('a', VMM_OK, "");
	run();
	expect("1-2", "attached vm2");
}

/* A VMM that asks for time (the guest's USB driver is not up yet) gets it: no way back for that. */
static void test_move_to_a_vm_that_asks_for_time(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	begin_move(stick);
	answer_later('a', VMM_RETRY, "the guest has not started its USB driver yet", 100);
	run();
	expect("1-2", "waiting vm2");
	run_for(300);
	answer('a', VMM_OK, "");
	run();
	expect("1-2", "attached vm2");
	assert_string_equal(device("1-2")->attempt.move.from, "");
}

/* One that came back is not pulled from its VM again for every question that VM is asked, nor when
 * another device leaves the one that refused it for a reason of its own. */
static void test_what_came_back_is_left_alone(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");
	struct place *other = plug("1-3", 101, "vm2");

	begin_move(stick);
	answer('a', VMM_FAILED, "QEMU: it does not like it");
	run();
	answer('a', VMM_OK, "");
	run();
	expect("1-2", "attached vm1");
	w.policy.vmm_waits = false;
	size_t n_detaches = w.n_detaches;
	vm_check(registry_find_vm(&w.manager.registry, "vm2"));
	run();
	unplug(other);
	run_for(300);
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_detaches, n_detaches + 1); /* the other one */
}

/* Its VM takes no card while it runs, for a reason of its own, or does again. */
static bool takes_none(const struct vm *vm, const struct device *device, char *reason, size_t size)
{
	(void) device;
	snprintf(reason, size, "%s takes cards on another bus only", vm->name);
	return false;
}

static const struct vmm vmm_without_cards = {
	.init = fake_init,
	.finish = fake_finish,
	.probe = fake_probe,
	.attach = fake_attach,
	.detach = fake_detach,
	.reset = fake_reset,
	.keeps_one_card = true,
	.takes_card = takes_none,
};

static void vm_takes_no_cards(const char *name)
{
	registry_find_vm(&w.manager.registry, name)->vmm = &vmm_without_cards;
}

static size_t count_jobs(enum worker_job job)
{
	size_t n = 0;

	for (size_t i = 0; i < w.n_jobs; i++)
		n += w.jobs[i].job == job;
	return n;
}

/* What goes back to its VM is not given to the host's driver in between, which would be torn off at
 * its start, or take the card from under the VM. Where it stays refused, the host gets it. */
static void test_refused_card_goes_back(void **state)
{
	(void) state;
	struct place *place = card(FIRST, "");

	event("add", place, ++w.seqnum);
	run();
	expect(FIRST, "attached vm1");
	vm_takes_no_cards("vm2");
	w.policy.worker_waits = true;
	place->vms = "vm2";
	manager_resync(&w.manager);
	run();
	assert_int_equal(count_jobs(WORKER_PCI_RETURN), 0);
	assert_int_equal(count_jobs(WORKER_PCI_TAKE), 1);
	job_answer(0, "");
	run();
	expect(FIRST, "attached vm1");
	assert_string_equal(
		device(FIRST)->record.reason,
		"back in vm1; the move to vm2 failed: vm2 takes cards on another bus only");
	forget_handles("vm1");
	vm_dies("vm1");
	vm_starts("vm2");
	expect(FIRST, "refused vm2");
	assert_int_equal(count_jobs(WORKER_PCI_RETURN), 1);
}

/* Refused where it comes from as well, and with the same words. */
static void test_refused_card_has_no_way_back(void **state)
{
	(void) state;
	struct place *place = card(FIRST, "");

	event("add", place, ++w.seqnum);
	run();
	expect(FIRST, "attached vm1");
	w.policy.worker_waits = w.grouped = true;
	struct place *second = card(SECOND, "");
	second->vms = "vm3";
	place->vms = "vm2";
	event("add", second, ++w.seqnum);
	manager_resync(&w.manager);
	run();
	expect(FIRST, "refused vm1");
	assert_int_equal(count_jobs(WORKER_PCI_RETURN), 1);
	job_answer(0, "");
	run_for(5000);
	expect(FIRST, "refused vm1");
	assert_int_equal(w.n_jobs, 0); /* once */
}

/* One that is refused, and on its way to the host, is not taken from it before it is there. */
static void test_refused_card_is_wanted_again(void **state)
{
	(void) state;
	struct place *place = card(FIRST, "");

	vm_takes_no_cards("vm2");
	w.policy.worker_waits = true;
	place->vms = "vm2";
	event("add", place, ++w.seqnum);
	run();
	expect(FIRST, "refused vm2");
	assert_int_equal(count_jobs(WORKER_PCI_RETURN), 1);
	place->vms = "vm1";
	manager_resync(&w.manager);
	run();
	assert_int_equal(w.n_jobs, 1);
	job_answer(-EIO, "");
	run();
	assert_int_equal(w.n_jobs, 1);
	assert_int_equal(w.jobs[0].job, WORKER_PCI_TAKE);
	job_answer(0, "");
	run();
	expect(FIRST, "attached vm1");
}

/* IOMMU groups */

static struct place *grouped_card(const char *address, const char *vms)
{
	struct place *place = card(address, "");

	w.grouped = true;
	place->vms = vms;
	event("add", place, ++w.seqnum);
	run();
	return place;
}

/* That its VM has the group open is no reason against the next one of it, but another VM's is. */
static void test_group_is_open_in_its_vm(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	grouped_card(FIRST, "vm1");
	assert_int_equal(w.jobs[0].options & WORKER_GROUP_IS_OURS, 0);
	job_answer(0, "");
	run();
	expect(FIRST, "attached vm1");
	grouped_card(SECOND, "vm1");
	assert_int_equal(w.jobs[0].job, WORKER_PCI_TAKE);
	assert_true(w.jobs[0].options & WORKER_GROUP_IS_OURS);
	job_answer(0, "");
	run();
	expect(SECOND, "attached vm1");
}

/* The kernel lets one VM have a group: its new VM waits for the last member to leave the old one.
 */
static void test_group_moves_as_a_whole(void **state)
{
	(void) state;
	struct place *first = grouped_card(FIRST, "vm1"), *second = grouped_card(SECOND, "vm1");

	expect(FIRST, "attached vm1");
	expect(SECOND, "attached vm1");
	w.policy.vmm_waits = true;
	first->vms = second->vms = "vm2";
	manager_resync(&w.manager);
	run();
	answer('d', VMM_OK, "");
	run_for(500);
	expect(FIRST, "waiting vm1");
	assert_non_null(
		strstr(device(FIRST)->record.reason, SECOND " of its IOMMU group is still in vm1"));
	w.policy.vmm_waits = false;
	answer('d', VMM_OK, "");
	run_for(2500);
	expect(FIRST, "attached vm2");
	expect(SECOND, "attached vm2");
}

/* Of two candidates, the one that has the rest of the group. */
static void test_group_stays_together(void **state)
{
	(void) state;
	grouped_card(FIRST, "vm2");
	expect(FIRST, "attached vm2");
	find_place("/devices/pci0/" FIRST)->vms = "vm1,vm2";
	manager_resync(&w.manager);
	run();
	grouped_card(SECOND, "vm1,vm2");
	expect(FIRST, "attached vm2");
	expect(SECOND, "attached vm2");
}

static int setup_choosing(void **state)
{
	setup(state);
	assert_int_equal(choices_new(w.store, true, &w.manager.registry.choices), 0);
	manager_start(&w.manager);
	run();
	return 0;
}

static int teardown_choosing(void **state)
{
	choices_free(w.manager.registry.choices);
	return teardown(state);
}

/* What people say of one function holds for those of its group that may be in the same VM:
 * otherwise one would wait for the other for ever. */
static void test_group_goes_where_people_say(void **state)
{
	(void) state;
	grouped_card(FIRST, "vm1,vm2");
	grouped_card(SECOND, "vm1,vm2");
	expect(FIRST, "attached vm1");
	expect(SECOND, "attached vm1");
	choice_attach(&w.manager.registry, device(SECOND), "vm2", true);
	run_for(5000);
	expect(FIRST, "attached vm2");
	expect(SECOND, "attached vm2");
	choice_attach(&w.manager.registry, device(FIRST), "vm1", true);
	run_for(5000);
	expect(FIRST, "attached vm1");
	expect(SECOND, "attached vm1");
	assert_string_equal(sql("select group_concat(vm) from choice"), "vm1,vm1");
}

static void test_group_is_taken_out_by_hand(void **state)
{
	(void) state;
	grouped_card(FIRST, "vm1,vm2");
	grouped_card(SECOND, "vm1");
	choice_detach(&w.manager.registry, device(FIRST), false);
	run();
	expect(FIRST, "detached vm1");
	expect(SECOND, "detached vm1");
	assert_string_equal(sql("select sum(detached) from choice"), "2");
	choice_attach(&w.manager.registry, device(SECOND), NULL, false);
	run_for(5000);
	expect(FIRST, "attached vm1");
	expect(SECOND, "attached vm1");
	assert_string_equal(sql("select count(*) from choice"), "0");
}

/* One that may not be there stays as it was, and what was to leave it comes back. */
static void test_group_can_not_go_where_people_say(void **state)
{
	(void) state;
	grouped_card(FIRST, "vm1,vm2");
	grouped_card(SECOND, "vm1");
	choice_attach(&w.manager.registry, device(FIRST), "vm2", true);
	run_for(5000);
	expect(FIRST, "attached vm1");
	expect(SECOND, "attached vm1");
	assert_non_null(strstr(device(FIRST)->record.reason,
			       "the move to vm2 failed: IOMMU group 8 also holds " SECOND));
	assert_string_equal(device(SECOND)->wish.chosen, "");
}

/* A group that asks may have one VM alone. Whoever speaks vhotplug's API says which one it is to
 * be, and does not know that this is a choice. */
static void test_choice_of_one(void **state)
{
	(void) state;
	manager_set_config(&w.manager, read_config("[usb asking]\nallowedVms = vm1\nchoose = ask\n"
						   "[allow r]\nvendorId = 046d\n"));
	run();
	struct place *stick = place_new(USB "1-2", 100, "vm1");
	stick->rule = "usb/asking/r";
	event("add", stick, ++w.seqnum);
	run();
	assert_int_equal(device("1-2")->record.state, DEVICE_CHOOSE);
	choice_attach(&w.manager.registry, device("1-2"), "vm1", false);
	run();
	expect("1-2", "attached vm1");
	assert_string_equal(sql("select vm from choice"), "vm1");
	choice_detach(&w.manager.registry, device("1-2"), false);
	run();
	expect("1-2", "detached vm1");
	choice_attach(&w.manager.registry, device("1-2"), "vm1", false);
	run();
	expect("1-2", "attached vm1");
	vm_dies("vm1");
	assert_true(choice_would_end(device("1-2")));
}

/* It asks because its decision says so, whatever the config calls the group now: in udev's
 * database, and, when that tells nothing, on record. */
static void test_choice_of_a_renamed_group(void **state)
{
	(void) state;
	struct place *stick = place_new(USB "1-2", 100, "vm1,vm2");
	stick->rule = "usb/renamed/r";
	stick->options = "ask";
	event("add", stick, ++w.seqnum);
	run();
	assert_int_equal(device("1-2")->record.state, DEVICE_CHOOSE);
	manager_set_config(&w.manager, read_config(""));
	run();
	assert_int_equal(device("1-2")->record.state, DEVICE_CHOOSE);
	close_broker();
	open_broker("");
	w.policy.udev_waits = true;
	manager_start(&w.manager);
	w.listener->done(&w.manager, -EIO);
	run();
	assert_int_equal(device("1-2")->record.state, DEVICE_CHOOSE);
	assert_int_equal(w.n_attaches, 0);
	/* Somebody who may be asked no more takes it. */
	w.policy.udev_waits = false;
	stick->options = NULL;
	manager_resync(&w.manager);
	run();
	expect("1-2", "attached vm1");
}

/* Both have gone while nobody looked: the one that leads takes the other along. */
static void test_leader_and_follower_vanish(void **state)
{
	(void) state;
	vm_dies("vm1");
	struct place *first = grouped_card(FIRST, "vm1"), *second = grouped_card(SECOND, "vm1");

	device(FIRST)->wish.options |= OPTION_IOMMU_ADD_ALL;
	kept_set(&device(SECOND)->wish.leader, device(FIRST)->id.devpath);
	*first = *second = (struct place){0};
	manager_resync(&w.manager);
	run();
	assert_null(device(FIRST));
	assert_null(device(SECOND));
}

/* One that was led gets a rule of its own: what becomes of the one that led it is no matter of its
 * any more. */
static void test_follower_gets_a_rule(void **state)
{
	(void) state;
	struct place *second = grouped_card(SECOND, "vm1"), *first = grouped_card(FIRST, "vm1");

	device(FIRST)->wish.options |= OPTION_IOMMU_ADD_ALL;
	kept_set(&device(SECOND)->wish.leader, device(FIRST)->id.devpath);
	second->rule = "pci/g/second";
	trigger(second);
	manager_resync(&w.manager);
	run();
	first->claimed = false;
	manager_resync(&w.manager);
	run_for(5000);
	assert_string_equal(sql("select rule from assignments where device = '" SECOND "'"),
			    "pci/g/second");
}

/* A restart of the broker */

static void restart(void)
{
	close_broker();
	open_broker("");
}

static void expect_description(const char *name)
{
	assert_string_equal(device(name)->id.vendor_name, "Maker Inc.");
	assert_string_equal(device(name)->id.model_name, "Card");
	assert_int_equal(device(name)->id.class, 0x030000);
}

/* No rule claims it, so udev's database does not tell of it. */
static void test_description_of_a_follower(void **state)
{
	(void) state;
	TEMP_DIR(root);

	grouped_card(SECOND, "vm1");
	card(FIRST, "")->claimed = false;
	root_set(root);
	tree_link(root, "/sys/bus/pci/devices/" FIRST, "/sys/devices/pci0/" FIRST);
	tree_write(root, "/sys/devices/pci0/" FIRST "/class", "0x030000\n");
	tree_write(root, "/run/udev/data/+pci:" FIRST,
		   "E:ID_VENDOR_FROM_DATABASE=Maker Inc.\nE:ID_MODEL_FROM_DATABASE=Card\n"
		   "E:VHOTPLUG_VM=vm2\n");
	assert_true(arrival_lead(&w.manager.registry, device(SECOND), FIRST));
	expect_description(FIRST);
	assert_string_equal(device(FIRST)->wish.vms, "vm1");
	run();
	restart();
	manager_start(&w.manager);
	run();
	expect_description(FIRST);
	root_set("");
}

static void test_restart_while_attached(void **state)
{
	(void) state;
	plug("1-2", 100, "vm1");
	restart();
	assert_int_equal(device("1-2")->record.state, DEVICE_ATTACHED);
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_attaches, 1);
	assert_int_equal(w.n_detaches, 0);
	expect_history("attach plug vm1 ok");
}

static void restart_without_the_vm(void)
{
	plug("1-2", 100, "vm1");
	restart();
	w.policy.probes_refused = true;
	manager_start(&w.manager);
	run();
	expect("1-2", "waiting vm1");
	expect_history("attach plug vm1 ok; detach vm-exit vm1 ok");
}

static void test_restart_after_the_vm_exited(void **state)
{
	(void) state;
	restart_without_the_vm();
}

/* Its VMM runs on. */
static void test_restart_after_the_vm_was_shut_down(void **state)
{
	(void) state;
	w.policy.is_shut_down = true;
	restart_without_the_vm();
}

static void test_restart_after_the_vm_restarted(void **state)
{
	(void) state;
	plug("1-2", 100, "vm1");
	handle_remove("vm1", "vhp-1-2-100");
	restart();
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
	expect_history("attach plug vm1 ok; detach vm-exit vm1 ok; attach vm-start vm1 ok");
}

static void test_restart_after_an_unplug(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");
	*stick = (struct place){0};
	restart();
	manager_start(&w.manager);
	run();
	assert_null(device("1-2"));
	assert_int_equal(w.n_handles, 0);
}

static void test_killed_before_the_attach_was_recorded(void **state)
{
	(void) state;
	w.policy.probes_refused = true;
	vm_check(registry_find_vm(&w.manager.registry, "vm1"));
	run();
	plug("1-2", 100, "vm1");
	handle_add("vm1", "vhp-1-2-100"); /* the packet was out, the record was not */
	restart();
	w.policy.probes_refused = false;
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_attaches, 0); /* adopted */
	assert_int_equal(w.n_detaches, 0);
}

/* A host driver is made to let go of it, and its unplug is seen as any other's. */
static void test_adopted_is_looked_at(void **state)
{
	(void) state;
	struct place *stick = place_new(USB "1-2", 100, "vm1");

	strcpy(stick->driver, "usbhid on 1-2:1.0");
	handle_add("vm1", "vhp-1-2-100");
	w.policy.watches = true;
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_attaches, 0);
	assert_string_equal(stick->driver, "");
	pull_out();
	assert_null(device("1-2"));
}

/* The VM has it, and was asked to give it back: it comes anew. */
static void test_adopts_nothing_that_leaves(void **state)
{
	(void) state;
	w.policy.probes_refused = true;
	vm_check(registry_find_vm(&w.manager.registry, "vm1"));
	run();
	plug("1-2", 100, "vm1");
	handle_add("vm1", "vhp-1-2-100");
	w.policy.probes_refused = false;
	w.policy.leaves = true;
	vm_check(registry_find_vm(&w.manager.registry, "vm1"));
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_detaches, 1);
	assert_int_equal(w.n_attaches, 1);
}

static void test_orphan_is_removed(void **state)
{
	(void) state;
	handle_add("vm1", "vhp-1-7-666");
	manager_start(&w.manager);
	run();
	assert_int_equal(w.n_handles, 0);
	assert_int_equal(w.n_detaches > 0, 1);
}

/* A guest that does not let go of it yet is asked again. */
static void test_orphan_that_stays(void **state)
{
	(void) state;
	handle_add("vm1", "vhp-1-7-666");
	w.policy.vmm_waits = true;
	manager_start(&w.manager);
	run();
	answer('d', VMM_PENDING, "");
	run();
	assert_int_equal(w.n_calls, 0);
	run_for(31000);
	for (int i = 0; i < 5; i++) {
		answer('d', VMM_RETRY, "no answer");
		run_for(31000);
	}
	/* And not for ever. */
	assert_int_equal(w.n_calls, 0);
	assert_int_equal(w.n_detaches, 6);
}

static struct choices *keep_choices(void)
{
	struct choices *choices = NULL;

	assert_int_equal(choices_new(w.store, true, &choices), 0);
	w.manager.registry.choices = choices;
	return choices;
}

/* udev's database is asked when people are served already: what they say is remembered of the
 * device under the name that it had before. */
static void test_choice_before_udev_answers(void **state)
{
	static const char kept_out[] = "select group_concat(whom) from choice where detached";
	(void) state;
	TEMP_DIR(root);
	struct place *stick = place_new(USB "1-2", 100, "vm1");

	root_set(root);
	tree_write(root, "/sys" USB "1-2/dev", "189:1\n");
	tree_write(root, "/sys" USB "1-2/bDeviceClass", "08\n");
	tree_write(root, "/run/udev/data/c189:1",
		   "I:1\nE:ID_SERIAL_SHORT=S1\nE:ID_VENDOR=Maker\nE:ID_USB_INTERFACES=:080650:\n");
	stick->serial = "S1";
	trigger(stick);
	struct choices *choices = keep_choices();
	choice_detach(&w.manager.registry, device("1-2"), false);
	run();
	assert_string_equal(sql(kept_out), "usb 046d:c52b serial S1");
	choices_free(choices);
	restart();
	choices = keep_choices();
	w.policy.udev_waits = true;
	manager_start(&w.manager);
	assert_string_equal(device("1-2")->id.serial, "S1");
	assert_string_equal(device("1-2")->id.vendor_name, "Maker");
	assert_string_equal(device("1-2")->id.interfaces, ":080650:");
	assert_int_equal(device("1-2")->id.class, 0x080000);
	choice_attach(&w.manager.registry, device("1-2"), NULL, false);
	run();
	assert_string_equal(sql(kept_out), "(none)");
	choices_free(choices);
	/* Another one in its place while no broker ran. */
	stick->inode = 101;
	restart();
	assert_string_equal(device("1-2")->id.serial, "");
	root_set("");
}

/* persistency = no: what people have said of what stays plugged in ends with the broker, too, but
 * nothing is taken out of a VM for that. */
static void test_choices_end_with_the_broker(void **state)
{
	(void) state;
	struct choices *choices = keep_choices();

	plug("1-2", 100, "vm1");
	plug("1-3", 101, "vm1");
	plug("1-4", 102, "vm1,vm2");
	plug("1-5", 103, "vm1");
	choice_detach(&w.manager.registry, device("1-2"), false);
	choice_detach(&w.manager.registry, device("1-3"), true);
	choice_attach(&w.manager.registry, device("1-4"), "vm2", true);
	run();
	choice_suspend(&w.manager.registry, "vm1", 1U << DEVICE_USB);
	run();
	expect("1-2", "detached vm1");
	expect("1-3", "detached vm1");
	expect("1-4", "attached vm2");
	expect("1-5", "suspended vm1");
	assert_true(choice_would_end(device("1-2")));
	assert_true(choice_would_end(device("1-3")));
	assert_false(choice_would_end(device("1-4")));
	assert_false(choice_would_end(device("1-5")));
	choices_free(choices);
	close_broker();
	open_broker("[general]\npersistency = no\n");
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
	expect("1-3", "attached vm1");
	expect("1-4", "attached vm2");
	expect("1-5", "suspended vm1");
}

/* Suspended, and its VM is started anew while no broker runs: it goes back at once. */
static void test_suspended_before_a_restart(void **state)
{
	(void) state;
	plug("1-2", 100, "vm1");
	choice_suspend(&w.manager.registry, NULL, 1U << DEVICE_USB);
	run();
	expect("1-2", "suspended vm1");
	restart();
	manager_start(&w.manager);
	run();
	expect("1-2", "suspended vm1");
	restart();
	w.policy.probes_refused = true;
	manager_start(&w.manager);
	run();
	expect("1-2", "waiting vm1");
	w.policy.probes_refused = false;
	vm_starts("vm1");
	expect("1-2", "attached vm1");
}

static void test_suspended_before_a_restart_of_all(void **state)
{
	(void) state;
	plug("1-2", 100, "vm1");
	choice_suspend(&w.manager.registry, NULL, 1U << DEVICE_USB);
	run();
	restart();
	device("1-2")->record.since = 1; /* long before that process began */
	registry_find_vm(&w.manager.registry, "vm1")->peer = (struct peer){.pid = getpid()};
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
}

/* It is kept in the VM of its family as long as the config says the same, */
static void test_family_and_a_new_config(void **state)
{
	(void) state;
	struct place *stick = place_new(USB "1-2", 100, "vm1");
	stick->family = "sticks";
	event("add", stick, ++w.seqnum);
	run();
	unplug(stick);
	stick = place_new(USB "1-2", 101, "vm2");
	stick->family = "sticks";
	event("add", stick, ++w.seqnum);
	run();
	stick->config = w.manager.config->digest;
	manager_resync(&w.manager);
	run();
	expect("1-2", "attached vm1");
	stick->config = NULL;
	manager_set_config(&w.manager, read_config("[general]\npersistency = no\n"));
	stick->config = w.manager.config->digest;
	manager_resync(&w.manager);
	run();
	expect("1-2", "attached vm1"); /* it says the same of this one */
	stick->rule = "usb/g/other";
	manager_resync(&w.manager);
	run();
	expect("1-2", "attached vm2");
}

/* and does not come back to one that it was leaving. */
static void test_family_that_was_leaving(void **state)
{
	(void) state;
	struct place *stick = place_new(USB "1-2", 100, "vm1");
	stick->family = "sticks";
	event("add", stick, ++w.seqnum);
	run();
	w.policy.vmm_waits = true;
	stick->vms = "vm2";
	manager_resync(&w.manager);
	run();
	unplug(stick); /* as its host resets it */
	answer('d', VMM_OK, "");
	w.policy.vmm_waits = false;
	run();
	stick = place_new(USB "1-2", 101, "vm2");
	stick->family = "sticks";
	event("add", stick, ++w.seqnum);
	run();
	expect("1-2", "attached vm2");
}

static void test_coldplug(void **state)
{
	(void) state;
	place_new(USB "1-2", 100, "vm1");
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
	expect_history("attach coldplug vm1 ok");
}

/* An event waited in the spool, and the VM runs; udev's database takes its time. */
static void test_coldplug_before_udev_answers(void **state)
{
	(void) state;
	w.policy.udev_waits = true;
	struct place *stick = place_new(USB "1-2", 100, "vm1");
	event_of("add", stick, ++w.seqnum, "a");
	manager_start(&w.manager);
	run();
	assert_int_equal(w.n_probes, 0);
	udev_answers(w.listener, &w.manager);
	run();
	expect_history("attach coldplug vm1 ok");
}

/* A VM that is new in the config is not one that does not run. */
static void test_new_vm_before_udev_answers(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");

	w.policy.udev_waits = true;
	manager_set_config(&w.manager, read_config("[vm vm3]\ntype = qemu\nsocket = /nosuch\n"));
	stick->vms = "vm3";
	event_of("add", stick, ++w.seqnum, "a");
	run();
	expect("1-2", "waiting vm3");
	udev_answers(w.listener, &w.manager);
	run();
	expect_history("attach plug vm1 ok; detach config vm1 ok; attach config vm3 ok");
}

static bool is_next(void *data, const char *digest)
{
	(void) data;
	return w.next && streq(w.next->digest, digest);
}

static int take_next(void *data)
{
	(void) data;
	manager_set_config(&w.manager, TAKE_PTR(w.next));
	return 0;
}

/* Somebody has written NEXT, and udevd goes by its rules now. Returns its digest. */
static const char *apply(struct config *next)
{
	w.next = next;
	w.manager.reload = take_next;
	w.manager.edition.is_in_file = is_next;
	return next->digest;
}

/* vhotplug-gen-rules has udevd decide first, and tells the broker then: meanwhile what is new in
 * the rules is not done by the former config. */
static void test_apply_attach_connected_no(void **state)
{
	struct intake_client helper = {0}, other = {0};

	(void) state;
	const char *digest = apply(read_config("[general]\nattachConnected = no\n"));
	struct place *there = place_new(USB "1-2", 100, "vm1");

	there->config = digest;
	manager_resync(&w.manager); /* it may come at any time */
	w.helper = &other;
	trigger(there);
	/* This one has just come, whatever is applied. */
	struct place *stick = place_new(USB "1-3", 101, "vm1");
	stick->config = digest;
	w.helper = &helper;
	event("add", stick, ++w.seqnum);
	run();
	manager_resync(&w.manager);
	run();
	assert_int_equal(w.n_all_jobs, 0);
	manager_intake.reconcile(&w.manager);
	run();
	expect("1-2", "held ");
	expect("1-3", "attached vm1");
}

/* The same with two VMs that have exchanged their sockets. Nobody says that it is done. */
static void test_apply_exchanged_sockets(void **state)
{
	struct intake_client helper = {0}, other = {0};

	(void) state;
	struct config *next = read_config("");
	char *socket = next->vms[0].socket;
	struct place *there = plug("1-2", 100, "vm1");

	next->vms[0].socket = next->vms[1].socket;
	next->vms[1].socket = socket;
	next->digest[0] = 'x';
	there->vms = "vm2";
	there->config = apply(next);
	w.helper = &other;
	trigger(there);
	struct place *stick = place_new(USB "1-3", 101, "vm1");
	stick->config = there->config;
	w.helper = &helper;
	event("add", stick, ++w.seqnum);
	run_for(4000);
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_attaches, 1);
	assert_int_equal(w.n_detaches, 0);
	run_for(1100);
	expect("1-2", "attached vm2");
	expect("1-3", "attached vm1");
	assert_string_equal(device("1-2")->place.vm->socket, w.manager.config->vms[1].socket);
	assert_string_equal(device("1-3")->place.vm->socket, w.manager.config->vms[0].socket);
}

/* Rules of a config that is nowhere: the broker goes on by its own. */
static void test_rules_of_another_config(void **state)
{
	struct intake_client helper = {0};

	(void) state;
	w.manager.edition.is_in_file = is_next;
	struct place *stick = place_new(USB "1-2", 100, "vm1");
	stick->config = "other";
	w.helper = &helper;
	trigger(stick);
	expect("1-2", "attached vm1");
	assert_true(w.manager.edition.is_told);
}

static void test_attach_connected_no(void **state)
{
	(void) state;
	close_broker();
	open_broker("[general]\nattachConnected = no\n");
	struct place *stick = place_new(USB "1-2", 100, "vm1");
	manager_start(&w.manager);
	run();
	assert_string_equal(sql("select state from assignments"), "held");
	trigger(stick); /* is no plug */
	vm_check(registry_find_vm(&w.manager.registry, "vm1"));
	run();
	assert_string_equal(sql("select state from assignments"), "held");
	unplug(stick);
	plug("1-2", 101, "vm1");
	expect("1-2", "attached vm1");
}

/* A rule that is new says nothing about when a device was plugged in. */
static void test_attach_connected_no_and_a_new_rule(void **state)
{
	(void) state;
	manager_set_config(&w.manager, read_config("[general]\nattachConnected = no\n"));
	struct place *by_helper = place_new(USB "1-2", 100, "vm1");
	trigger(by_helper);
	place_new(USB "1-3", 101, "vm1"); /* in udev's database only */
	manager_resync(&w.manager);
	run();
	assert_string_equal(sql("select group_concat(state) from assignments"), "held,held");
	manager_set_config(&w.manager, read_config("[general]\nattachConnected = yes\n"));
	run();
	expect("1-2", "attached vm1");
	expect("1-3", "attached vm1");
}

/* Plugged in just now, and found in udev's database before the helper has told. */
static void test_attach_connected_no_and_a_late_helper(void **state)
{
	(void) state;
	manager_set_config(&w.manager, read_config("[general]\nattachConnected = no\n"));
	struct place *stick = place_new(USB "1-2", 100, "vm1");
	manager_resync(&w.manager);
	run();
	assert_string_equal(sql("select state from assignments"), "held");
	event("add", stick, ++w.seqnum);
	run();
	expect("1-2", "attached vm1");
	expect_history("attach plug vm1 ok");
}

/* Closes the broker and opens one with attachConnected = no; its world has no device yet. */
static void restart_holding(void)
{
	close_broker();
	open_broker("[general]\nattachConnected = no\n");
}

/* A broker that ends before it has decided is followed by one that knows as much: what was there
 * already is not given away, and what was plugged in is not held. */
static void test_attach_connected_no_and_an_early_end(void **state)
{
	struct intake_client helper = {0};

	(void) state;
	restart_holding();
	struct place *old = place_new(USB "1-2", 100, "vm1");
	struct place *stick = place_new(USB "1-3", 101, "vm1");
	w.policy.udev_waits = true;
	manager_start(&w.manager);
	w.listener->device(&w.manager, old->devpath, place_property, old);
	w.listener->device(&w.manager, stick->devpath, place_property, stick);
	run();
	w.helper = &helper;
	event("add", stick, ++w.seqnum);
	run();
	restart_holding();
	w.policy.udev_waits = false;
	manager_start(&w.manager);
	run();
	assert_string_equal(sql("select state from assignments where device = '1-2'"), "held");
	expect("1-3", "attached vm1");
}

/* Nor is it held again when a person wanted it, and it was on its way. */
static void test_attach_connected_no_and_an_end_on_the_way(void **state)
{
	(void) state;
	restart_holding();
	place_new(USB "1-2", 100, "vm1");
	manager_start(&w.manager);
	run();
	struct choices *choices = keep_choices();
	w.policy.worker_waits = true;
	choice_attach(&w.manager.registry, device("1-2"), NULL, true);
	run();
	assert_int_equal(w.n_jobs, 1);
	choices_free(choices);
	restart_holding();
	w.policy.worker_waits = false;
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
}

/* The plug has started the broker: its helper waits before udev's database is known. */
static void test_attach_connected_no_and_the_plug_that_starts_it(void **state)
{
	struct intake_client helper = {0};

	(void) state;
	restart_holding();
	struct place *stick = place_new(USB "1-2", 100, "vm1");
	w.policy.udev_waits = true;
	manager_start(&w.manager);
	w.helper = &helper;
	event("add", stick, ++w.seqnum);
	run();
	assert_int_equal(w.n_attaches, 0);
	udev_answers(w.listener, &w.manager);
	run();
	expect("1-2", "attached vm1");
	expect_history("attach plug vm1 ok");
	assert_true(helper.is_answered);
}

/* The same, found in udev's database first. */
static void test_attach_connected_no_and_the_plug_is_heard_last(void **state)
{
	struct intake_client helper = {0}, other = {0};

	(void) state;
	restart_holding();
	struct place *stick = place_new(USB "1-2", 100, "vm1");
	struct place *old = place_new(USB "1-3", 101, "vm1");
	w.policy.udev_waits = true;
	manager_start(&w.manager);
	w.listener->device(&w.manager, stick->devpath, place_property, stick);
	w.helper = &helper;
	event("add", stick, ++w.seqnum);
	w.helper = &other;
	event_of("add", old, ++w.seqnum, "0"); /* is no plug */
	udev_answers(w.listener, &w.manager);
	run();
	expect("1-2", "attached vm1");
	assert_string_equal(sql("select state from assignments where device = '1-3'"), "held");
}

/* mdev's helper spools the event and starts the broker then. */
static void test_attach_connected_no_and_the_spool_starts_it(void **state)
{
	(void) state;
	restart_holding();
	w.manager.spool_starts = true;
	event("add", place_new(USB "1-2", 100, "vm1"), ++w.seqnum);
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
}

/* What has come while no broker ran is held, and the rules have set it aside all the same. */
static void test_attach_connected_no_gives_back(void **state)
{
	(void) state;
	restart_holding();
	struct place *stick = place_new(USB "1-2", 100, "vm1");
	stick->fence = "yes";
	event("add", stick, ++w.seqnum);
	w.policy.worker_waits = true;
	manager_start(&w.manager);
	run();
	assert_string_equal(sql("select state from assignments"), "held");
	assert_int_equal(w.n_jobs, 1);
	assert_int_equal(w.jobs[0].job, WORKER_USB_RETURN);
	/* Nothing overtakes it. */
	manager_set_config(&w.manager, read_config("[general]\nattachConnected = yes\n"));
	run();
	assert_int_equal(w.n_jobs, 1);
	job_answer(0, "");
	w.policy.worker_waits = false;
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_all_jobs, 2); /* it was opened */
}

/* The worker begins to give the card back that is held, or is given back. */
static void expect_way_back(unsigned options)
{
	device("0000:00:1f.3")->attempt.back.not_before = 0;
	device_mark(device("0000:00:1f.3"));
	run();
	assert_int_equal(w.n_jobs, 1);
	assert_int_equal(w.jobs[0].job, WORKER_PCI_RETURN);
	assert_int_equal(w.jobs[0].options, options);
}

/* Until that has worked; and a new broker does not know whether the former one came that far. */
static void test_attach_connected_no_gives_back_once(void **state)
{
	(void) state;
	restart_holding();
	event("add", place_new(PCI "0000:00:1f.3", 100, "vm1"), ++w.seqnum);
	w.policy.worker_waits = true;
	manager_start(&w.manager);
	run();
	expect_way_back(WORKER_ALONE);
	job_answer(-EIO, "no");
	run();
	assert_int_equal(w.n_jobs, 0); /* not at once */
	expect_way_back(WORKER_ALONE);
	job_answer(0, "");
	manager_resync(&w.manager);
	run();
	assert_int_equal(w.n_jobs, 0);
	restart_holding();
	w.policy.worker_waits = true;
	manager_start(&w.manager);
	run();
	assert_string_equal(sql("select state from assignments"), "held");
	expect_way_back(WORKER_ALONE);
	job_answer(0, "");
	assert_int_equal(w.n_all_jobs, 3);
}

/* Alone is not enough for one that no rule wants any more, whatever came of it. */
static void test_attach_connected_no_and_no_rule_any_more(void **state)
{
	(void) state;
	restart_holding();
	struct place *card = place_new(PCI "0000:00:1f.3", 100, "vm1");
	event("add", card, ++w.seqnum);
	w.policy.worker_waits = true;
	manager_start(&w.manager);
	run();
	expect_way_back(WORKER_ALONE);
	card->claimed = false;
	manager_resync(&w.manager);
	run();
	assert_int_equal(w.n_jobs, 1);
	job_answer(0, "");
	expect_way_back(0);
	job_answer(0, "");
	run();
	assert_string_equal(sql("select count(*) from assignments"), "0");
}

/* One function of a group is held, and the host's: the other one does not take it along. */
static void test_attach_connected_no_and_a_group(void **state)
{
	(void) state;
	restart_holding();
	w.grouped = true;
	event("add", card(FIRST, ""), ++w.seqnum);
	event("add", card(SECOND, ""), ++w.seqnum);
	manager_start(&w.manager);
	run();
	device(FIRST)->wish.held = false; /* attached by hand */
	device_retry(device(FIRST));
	run();
	expect(FIRST, "refused vm1");
	assert_non_null(strstr(device(FIRST)->record.reason, "attach that one as well"));
	device(SECOND)->wish.held = false;
	device_retry(device(SECOND));
	run_for(5000);
	expect(FIRST, "attached vm1");
	expect(SECOND, "attached vm1");
}

/* Its VM has had it since its start, which is not known before it has been asked. */
static void test_attach_connected_no_and_a_vm_that_has_it(void **state)
{
	(void) state;
	restart_holding();
	place_new(USB "1-2", 100, "vm1")->fence = "yes";
	w.cold = "1-2";
	w.policy.probe_waits = w.policy.worker_waits = true;
	manager_start(&w.manager);
	run();
	assert_string_equal(sql("select state from assignments"), "held");
	assert_int_equal(w.n_all_jobs, 0);
	w.policy.probe_waits = false;
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.jobs[0].job, WORKER_USB_RELEASE);
	assert_int_equal(w.n_all_jobs, w.n_jobs);
	for (size_t i = 0; i < w.n_jobs; i++)
		assert_int_not_equal(w.jobs[i].job, WORKER_USB_RETURN);
}

static void count_device(void *data, const struct device *device)
{
	(void) device;
	++*(unsigned *) data;
}

/* Somebody is about to start its VM with it: that is no moving of what is plugged in. */
static void test_attach_connected_no_and_arguments_for_its_vm(void **state)
{
	unsigned n = 0;

	(void) state;
	restart_holding();
	card(FIRST, "");
	w.policy.probes_refused = true;
	manager_start(&w.manager);
	run();
	assert_string_equal(sql("select state from assignments"), "held");
	vmm_args_prepare(&w.manager.registry, "vm1", count_device, &n);
	assert_int_equal(n, 1);
	run_for(60000);
	expect(FIRST, "waiting vm1");
	assert_true(device(FIRST)->attempt.is_ahead);
	w.policy.probes_refused = false;
	w.cold = FIRST;
	vm_starts("vm1");
	expect(FIRST, "attached vm1");
}

/* Whoever asks what a VM that runs was started with does not mean to give it anything. */
static void test_attach_connected_no_and_arguments_of_one_that_runs(void **state)
{
	unsigned n = 0;

	(void) state;
	restart_holding();
	card(FIRST, "");
	manager_start(&w.manager);
	run();
	vmm_args_prepare(&w.manager.registry, "vm1", count_device, &n);
	assert_int_equal(n, 1);
	run();
	assert_string_equal(sql("select state from assignments"), "held");
}

/* In the spool for a while, and decided by a config that is no more. */
static void test_spooled_by_an_older_config(void **state)
{
	(void) state;
	struct place *stick = place_new(USB "1-2", 100, "vm1");

	w.is_outdated = true;
	stick->claimed = false;
	event("add", stick, ++w.seqnum);
	run();
	assert_null(device("1-2"));
	assert_int_equal(w.n_all_jobs, 0);
	/* The new one may want it, too. */
	stick->claimed = true;
	event("add", stick, ++w.seqnum);
	run();
	expect("1-2", "attached vm1");
}

/* The same where a broker finds it at its start. */
static void test_spooled_by_an_older_config_before_the_start(void **state)
{
	(void) state;
	struct place *stick = place_new(USB "1-2", 100, "vm1");

	w.is_outdated = true;
	stick->claimed = false;
	event("add", stick, ++w.seqnum);
	manager_start(&w.manager);
	run();
	assert_null(device("1-2"));
	assert_int_equal(w.n_attaches, 0);
}

static void test_events_before_the_start_move_nothing(void **state)
{
	(void) state;
	plug("1-2", 100, "vm1"); /* from the spool */
	assert_int_equal(w.n_all_jobs, 0);
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_attaches, 1);
}

/* Two VMs that are asked at the same time: the first candidate goes first, whoever answers first.
 */
static void test_candidates_in_order_at_start(void **state)
{
	(void) state;
	place_new(USB "1-2", 100, "vm1,vm2");
	w.policy.probe_waits = true;
	manager_start(&w.manager);
	run();
	probe_answer(registry_find_vm(&w.manager.registry, "vm2"));
	run();
	probe_answer(registry_find_vm(&w.manager.registry, "vm1"));
	run();
	expect("1-2", "attached vm1");
}

static void test_stop_in_the_middle(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	plug("1-2", 100, "vm1");
	w.policy.worker_waits = false;
	w.policy.vmm_waits = true;
	plug("1-3", 200, "vm1");
	/* teardown: nothing leaks, nothing is used after it was freed */
}

/* The fence */

/* Plugs in a stick that a rule keeps from the host, while its VM is down. */
static struct place *plug_fenced(void)
{
	struct place *place = place_new(USB "1-2", 100, "vm1");

	vm_dies("vm1");
	w.policy.worker_waits = true;
	w.n_all_jobs = 0;
	place->fence = "yes";
	event("add", place, ++w.seqnum);
	run();
	return place;
}

static void expect_job(enum worker_job job)
{
	assert_int_equal(w.n_jobs, 1);
	assert_int_equal(w.jobs[0].job, job);
}

static void test_fence_of_a_vm_that_is_down(void **state)
{
	(void) state;
	plug_fenced();
	expect("1-2", "waiting vm1");
	expect_job(WORKER_USB_FENCE);
	/* Nothing overtakes it. */
	vm_starts("vm1");
	expect_job(WORKER_USB_FENCE);
	job_answer(0, "");
	run();
	expect_job(WORKER_USB_OPEN);
	w.policy.worker_waits = false;
	run();
	expect("1-2", "attached vm1");
	w.policy.worker_waits = true;
	forget_handles("vm1");
	vm_dies("vm1");
	expect("1-2", "waiting vm1");
	expect_job(WORKER_USB_FENCE);
	job_answer(0, "");
	run();
	run();
	assert_int_equal(w.n_jobs, 0);
}

static void test_fence_then_rule_withdrawn(void **state)
{
	(void) state;
	struct place *stick = plug_fenced();

	stick->claimed = false;
	manager_resync(&w.manager);
	run();
	expect_job(WORKER_USB_FENCE);
	job_answer(0, "");
	run();
	expect_job(WORKER_USB_RETURN);
	/* It is forgotten when it is the host's, and not before. */
	expect("1-2", "waiting ");
	assert_string_equal(device("1-2")->record.reason, "is being given back to the host");
	job_answer(0, "");
	run();
	assert_null(device("1-2"));
	expect("1-2", "(none)");
	assert_int_equal(w.n_jobs, 0);
}

/* Back to the host */

static struct place *withdraw_rule(struct place *place)
{
	place->claimed = false;
	manager_resync(&w.manager);
	run();
	return place;
}

/* A stick behind its fence, which no rule wants any more, and which is on its way to the host. */
static struct place *stick_on_its_way_back(void)
{
	struct place *stick = plug_fenced();

	job_answer(0, "");
	run();
	withdraw_rule(stick);
	expect_job(WORKER_USB_RETURN);
	assert_int_equal(w.jobs[0].inode, 100);
	return stick;
}

static void expect_owed(const char *name, const char *why)
{
	char reason[200];

	assert_int_equal(w.n_jobs, 0);
	expect(name, "waiting ");
	snprintf(reason, sizeof(reason), "not given back to the host yet: %s", why);
	assert_string_equal(device(name)->record.reason, reason);
}

/* Nobody forgets what the host is owed: it is tried until it has worked, each time later. */
static void test_return_that_fails(void **state)
{
	(void) state;
	stick_on_its_way_back();
	job_answer(-EIO, "the process that looked after it was killed");
	run();
	expect_owed("1-2", "the process that looked after it was killed");
	run_for(600);
	expect_job(WORKER_USB_RETURN);
	job_answer(-EPERM, "can't give it back to the host: Operation not permitted");
	run_for(700);
	expect_owed("1-2", "can't give it back to the host: Operation not permitted");
	run_for(400);
	expect_job(WORKER_USB_RETURN);
	job_answer(0, "");
	run();
	assert_null(device("1-2"));
	run_for(60000);
	assert_int_equal(w.n_jobs, 0);
}

static void test_return_with_an_overloaded_worker(void **state)
{
	(void) state;
	struct place *stick = plug_fenced();

	job_answer(0, "");
	run();
	w.policy.worker_full = true;
	withdraw_rule(stick);
	expect_owed("1-2", "the worker process is overloaded");
	run_for(5000);
	expect_owed("1-2", "the worker process is overloaded");
	w.policy.worker_full = false;
	run_for(30000);
	expect_job(WORKER_USB_RETURN);
	job_answer(0, "");
	run();
	assert_null(device("1-2"));
}

/* Whoever gets it next waits until the host has it, and fences it anew. */
static void test_claimed_again_on_its_way_back(void **state)
{
	(void) state;
	struct place *stick = stick_on_its_way_back();

	stick->claimed = true;
	manager_resync(&w.manager);
	run();
	expect_job(WORKER_USB_RETURN);
	job_answer(0, "");
	run();
	expect_job(WORKER_USB_FENCE);
	expect("1-2", "waiting vm1");
	job_answer(0, "");
	/* That it was given back once does not count any more. */
	withdraw_rule(stick);
	expect_job(WORKER_USB_RETURN);
}

static void test_claimed_again_while_owed(void **state)
{
	(void) state;
	struct place *stick = stick_on_its_way_back();

	job_answer(-EIO, "killed");
	run();
	expect_owed("1-2", "killed");
	stick->claimed = true;
	manager_resync(&w.manager);
	run();
	expect_job(WORKER_USB_FENCE);
	job_answer(0, "");
	run_for(60000);
	assert_int_equal(w.n_jobs, 0);
	expect("1-2", "waiting vm1");
}

static void test_unplugged_while_owed(void **state)
{
	(void) state;
	struct place *stick = stick_on_its_way_back();

	job_answer(-EIO, "killed");
	run();
	expect_owed("1-2", "killed");
	unplug(stick);
	assert_null(device("1-2"));
	/* What comes to the same port is another one. */
	place_new(USB "1-2", 101, NULL);
	run_for(60000);
	assert_int_equal(w.n_jobs, 0);
}

static void test_replugged_on_its_way_back(void **state)
{
	(void) state;
	struct place *stick = stick_on_its_way_back();

	unplug(stick);
	place_new(USB "1-2", 101, NULL);
	assert_null(device("1-2"));
	job_answer(-EIO, "killed");
	run_for(60000);
	assert_int_equal(w.n_jobs, 0);
}

static void test_restart_while_owed(void **state)
{
	(void) state;
	stick_on_its_way_back();
	job_answer(-EIO, "killed");
	run();
	expect_owed("1-2", "killed");
	close_broker();
	open_broker("");
	manager_start(&w.manager);
	run();
	expect_job(WORKER_USB_RETURN);
	job_answer(0, "");
	run();
	assert_null(device("1-2"));
	expect("1-2", "(none)");
}

/* A VM has another function of its group by its command line, of which no rule says anything. */
static void test_return_of_a_group_that_is_open(void **state)
{
	(void) state;
	struct place *place = card(FIRST, "");

	event("add", place, ++w.seqnum);
	run();
	expect(FIRST, "attached vm1");
	w.policy.worker_waits = true;
	withdraw_rule(place);
	expect_job(WORKER_PCI_RETURN);
	job_answer(-EBUSY, "can't tell whether /dev/vfio/8 is open: Device or resource busy");
	run();
	expect_owed(FIRST, "its IOMMU group is open: a VM has another device of it");
	for (int tries = 0; tries < 5; tries++) {
		run_for(31000);
		expect_job(WORKER_PCI_RETURN);
		job_answer(-EBUSY, "");
		run();
	}
	/* At once when that VM ends. */
	vm_dies("vm1");
	expect_job(WORKER_PCI_RETURN);
	job_answer(0, "");
	run();
	assert_null(device(FIRST));
}

/* One function of a group loses its rule, the other one stays in its VM, and is kept for that. */
static void test_return_when_the_group_has_left(void **state)
{
	(void) state;
	struct place *first = grouped_card(FIRST, "vm1"), *second = grouped_card(SECOND, "vm1");

	expect(SECOND, "attached vm1");
	withdraw_rule(first);
	expect_owed(FIRST, SECOND " of its IOMMU group is vm1's");
	w.policy.worker_waits = true;
	vm_dies("vm1");
	expect_job(WORKER_PCI_RETURN);
	assert_int_equal(w.jobs[0].options, WORKER_NOT_GROUP);
	job_answer(0, "");
	run();
	assert_null(device(FIRST));
	expect(SECOND, "waiting vm1");
	withdraw_rule(second);
	expect_job(WORKER_PCI_RETURN);
	assert_int_equal(w.jobs[0].options, 0);
	job_answer(0, "");
}

/* Its rule is gone, but it goes along with one whose rule says so. */
static void test_led_on_its_way_back(void **state)
{
	(void) state;
	struct place *first = grouped_card(FIRST, "vm1"), *second;

	w.policy.worker_full = true;
	withdraw_rule(first);
	expect_owed(FIRST, "the worker process is overloaded");
	w.policy.worker_full = false;
	second = card(SECOND, "iommu-add-all");
	event("add", second, ++w.seqnum);
	run_for(4000);
	expect(FIRST, "attached vm1");
	expect(SECOND, "attached vm1");
}

/* It was there before the broker. */
static void test_fence_of_what_was_there(void **state)
{
	(void) state;
	struct place *place = place_new(USB "1-2", 100, "vm1");

	place->fence = "yes";
	w.policy.probes_refused = true;
	w.policy.worker_waits = true;
	event("add", place, ++w.seqnum);
	manager_start(&w.manager);
	run();
	expect("1-2", "waiting vm1");
	expect_job(WORKER_USB_FENCE);
}

/* What the host uses is left alone, and looked at a few times only. */
static void test_fence_and_the_host(void **state)
{
	(void) state;
	plug_fenced();
	for (int tries = 0; tries < 5; tries++) {
		expect_job(WORKER_USB_FENCE);
		job_answer(-EBUSY, "/dev/sda is in use on the host: mounted on /srv");
		device("1-2")->attempt.fence.not_before = 0;
		device_mark(device("1-2"));
		run();
	}
	assert_int_equal(w.n_jobs, 0);
	expect("1-2", "waiting vm1");
}

/* Without a fence */

static struct place *plug_unfenced(void)
{
	struct place *place = place_new(USB "1-2", 100, "vm1");

	place->fence = "no";
	event("add", place, ++w.seqnum);
	run();
	return place;
}

/* It is the host's until a VM takes it, and when that has ended; one that is started anew at once
 * finds it. */
static void test_unfenced_and_its_vm_ends(void **state)
{
	(void) state;
	vm_dies("vm1");
	plug_unfenced();
	run_for(60000);
	assert_int_equal(w.n_all_jobs, 0); /* nobody has touched it */
	vm_starts("vm1");
	expect("1-2", "attached vm1");
	forget_handles("vm1");
	vm_dies("vm1");
	run_for(4000);
	vm_starts("vm1");
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_returns, 0);
	w.policy.worker_waits = true;
	forget_handles("vm1");
	vm_dies("vm1");
	run_for(6000);
	expect_job(WORKER_USB_RETURN);
	/* Nothing overtakes it. */
	vm_starts("vm1");
	expect_job(WORKER_USB_RETURN);
	job_answer(0, "");
	run();
	expect_job(WORKER_USB_OPEN);
}

static void test_unfenced_and_taken_out_by_hand(void **state)
{
	(void) state;
	plug_unfenced();
	expect("1-2", "attached vm1");
	w.policy.worker_waits = true;
	device("1-2")->wish.away = AWAY_DETACHED;
	device_retry(device("1-2"));
	run();
	expect("1-2", "detached vm1");
	expect_job(WORKER_USB_RETURN);
	/* What fails is tried again, and says nothing else of the device. */
	job_answer(-EIO, "killed");
	run();
	expect("1-2", "detached vm1");
	run_for(600);
	expect_job(WORKER_USB_RETURN);
	job_answer(0, "");
	run_for(60000);
	assert_int_equal(w.n_jobs, 0);
	expect("1-2", "detached vm1");
}

/* Its VM can't take it: the host has it between two tries that are far from each other, and is not
 * robbed of it all the time. */
static void test_unfenced_and_a_full_vm(void **state)
{
	(void) state;
	w.policy.full = true;
	plug_unfenced();
	run_for(5000);
	assert_int_equal(w.n_returns, 0);
	run_for(55000);
	expect("1-2", "waiting vm1");
	assert_in_range(w.n_returns, 2, 5);
	w.n_returns = 0;
	run_for(600000);
	assert_in_range(w.n_returns, 15, 25);
}

static void test_unfenced_and_failed(void **state)
{
	(void) state;
	w.policy.vmm_waits = true;
	plug_unfenced();
	answer('a', VMM_FAILED, "QEMU: it does not like it");
	run_for(60000);
	expect("1-2", "failed vm1");
	assert_int_equal(w.n_returns, 1);
}

static void restart_without_vms(void)
{
	close_broker();
	w.policy.probes_refused = true;
	open_broker("");
	manager_start(&w.manager);
	run_for(6000);
}

/* A former broker has taken it: so says its record, or the mark that the worker has left. */
static void test_unfenced_and_a_restart(void **state)
{
	(void) state;
	plug_unfenced();
	expect("1-2", "attached vm1");
	restart_without_vms();
	expect("1-2", "waiting vm1");
	assert_int_equal(w.n_returns, 1);
	restart_without_vms();
	assert_int_equal(w.n_returns, 1);
	setenv("RUNTIME_DIRECTORY", w.dir, 1);
	assert_int_equal(mark_set(MARK_GIVEN, "1-2", "/dev/bus/usb/001/002"), 0);
	restart_without_vms();
	expect("1-2", "waiting vm1");
	assert_int_equal(w.n_returns, 2);
	unsetenv("RUNTIME_DIRECTORY");
}

/* A card has no node; its mark goes with it. */
static void test_unfenced_card_and_a_restart(void **state)
{
	(void) state;
	struct place *place = card(FIRST, "");

	setenv("RUNTIME_DIRECTORY", w.dir, 1);
	place->fence = "no";
	event("add", place, ++w.seqnum);
	run();
	expect(FIRST, "attached vm1");
	forget_handles("vm1");
	vm_dies("vm1");
	run_for(1000);
	assert_int_equal(w.n_returns, 0);
	assert_int_equal(mark_set(MARK_GIVEN, FIRST, ""), 0);
	restart_without_vms();
	assert_int_equal(w.n_returns, 1);
	unplug(place);
	assert_false(mark_is_set(MARK_GIVEN, FIRST, ""));
	unsetenv("RUNTIME_DIRECTORY");
}

/* A card is given back with its group, when nobody has that any more; what was refused by the host
 * was never taken. */
static void test_unfenced_cards(void **state)
{
	(void) state;
	struct place *first = card(FIRST, ""), *second = card(SECOND, "");

	w.grouped = true;
	first->fence = second->fence = "no";
	w.policy.worker_waits = true;
	event("add", first, ++w.seqnum);
	run();
	for (int tries = 0; tries < 10; tries++) {
		job_answer(-EBUSY, FIRST " is in use on the host");
		run_for(40000);
		assert_int_equal(w.jobs[0].job, WORKER_PCI_TAKE);
	}
	assert_int_equal(w.n_returns, 0);
	w.policy.worker_waits = false;
	event("add", second, ++w.seqnum);
	run_for(60000);
	expect(FIRST, "attached vm1");
	expect(SECOND, "attached vm1");
	device(FIRST)->wish.away = AWAY_DETACHED;
	device_retry(device(FIRST));
	run_for(60000);
	expect(FIRST, "detached vm1");
	assert_int_equal(w.n_returns, 0);
	w.policy.worker_waits = true;
	forget_handles("vm1");
	vm_dies("vm1");
	expect_job(WORKER_PCI_RETURN);
	assert_int_equal(w.jobs[0].options, 0);
}

/* What its VM is about to be started with stays ready for it, once. */
static void test_unfenced_and_made_ready(void **state)
{
	(void) state;
	struct place *place = card(FIRST, "");

	vm_dies("vm1");
	place->fence = "no";
	event("add", place, ++w.seqnum);
	run();
	device(FIRST)->wish.prepare = true;
	device_retry(device(FIRST));
	w.policy.worker_waits = true;
	run();
	assert_int_equal(w.jobs[0].job, WORKER_PCI_TAKE);
	assert_true(w.jobs[0].options & WORKER_IS_AHEAD);
	w.policy.worker_waits = false;
	run_for(60000);
	expect(FIRST, "waiting vm1");
	assert_int_equal(w.n_all_jobs, 1); /* it was taken */
	w.cold = FIRST;
	vm_starts("vm1");
	expect(FIRST, "attached vm1");
	assert_int_equal(w.n_all_jobs, 1);
	vm_dies("vm1");
	run_for(60000);
	assert_int_equal(w.n_returns, 1);
}

/* A host driver that comes later to what a VM has is made to let go. */
static void test_host_driver_comes_later(void **state)
{
	(void) state;
	struct place *stick = plug("1-2", 100, "vm1");
	struct place interface = *stick;

	expect("1-2", "attached vm1");
	strcpy(stick->driver, "usbhid on 1-2:1.0");
	snprintf(interface.devpath, sizeof(interface.devpath), USB "1-2/1-2:1.0");
	w.policy.worker_waits = true;
	event("bind", &interface, ++w.seqnum);
	run();
	expect_job(WORKER_USB_RELEASE);
	job_answer(0, "");
	run();
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_jobs, 0);
}

/* What a VM has had since its start */

static void test_vm_has_had_it_since_its_start(void **state)
{
	(void) state;
	place_new(USB "1-2", 100, "vm1");
	w.cold = "1-2";
	strcpy(find_place(USB "1-2")->driver, "usbhid on 1-2:1.0");
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm1");
	assert_string_equal(sql("select reason from assignments"),
			    "vm1 has it since the VM's start");
	assert_string_equal(find_place(USB "1-2")->driver, "");
	vm_check(registry_find_vm(&w.manager.registry, "vm1"));
	restart();
	manager_start(&w.manager);
	run();
	assert_int_equal(w.n_attaches, 0);
	assert_int_equal(w.n_detaches, 0);
	expect_history("attach coldplug vm1 ok");
}

/* A VM says that it has what the host uses: what the host needs of it only force gives away. */
static void claim_in_use(const char *options)
{
	struct place *stick = place_new(USB "1-2", 100, "vm1");

	stick->options = options;
	strcpy(stick->driver, "r8152 on 1-2:1.0");
	w.cold = "1-2";
	w.policy.worker_waits = true;
	manager_start(&w.manager);
	run();
	expect_job(WORKER_USB_RELEASE);
}

static void test_vm_claims_what_is_in_use(void **state)
{
	(void) state;
	claim_in_use("");
	assert_int_equal(w.jobs[0].options, WORKER_FOUND);
	job_answer(-EBUSY, "the host's only default route goes through it (eth0)");
	run();
	expect("1-2", "attaching vm1");
	assert_string_equal(device("1-2")->record.reason,
			    "vm1 has it, but so has the host driver r8152 on 1-2:1.0: the host's"
			    " only default route goes through it (eth0)");
	assert_string_equal(find_place(USB "1-2")->driver, "r8152 on 1-2:1.0");
}

static void test_vm_claims_what_is_given_away_by_force(void **state)
{
	(void) state;
	claim_in_use("force");
	assert_int_equal(w.jobs[0].options, WORKER_FOUND | WORKER_FORCE);
	job_answer(0, "");
	run();
	expect("1-2", "attached vm1");
}

/* A QEMU whose event node has gone spins until it is taken away: its unplug is watched for. */
static void test_event_node_that_a_vm_has_had(void **state)
{
	(void) state;
	place_new("/devices/virtual/input/input3/event3", 100, "vm1")->subsystem = "input";
	w.cold = "event3";
	w.policy.watches = true;
	manager_start(&w.manager);
	run();
	expect("event3", "attached vm1");
	pull_out();
	assert_null(device("event3"));
	assert_int_equal(w.n_detaches, 1);
}

/* Another device has its number by now, and udev's database knows only what the rules said of the
 * former one. Where that is said still in the end, its event was lost. */
static void test_event_node_of_a_former_device(void **state)
{
	(void) state;
	vm_dies("vm1");
	struct place *former = place_new("/devices/virtual/input/input3/event3", 100, "vm1");
	former->subsystem = "input";
	manager_resync(&w.manager);
	run();
	expect("event3", "waiting vm1");
	*former = (struct place){0};
	struct place *next = place_new("/devices/virtual/input/input4/event3", 101, "vm1");
	next->subsystem = "input";
	manager_resync(&w.manager);
	run();
	assert_null(device("event3"));
	run_for(6000);
	expect("event3", "waiting vm1");
	assert_int_equal(device("event3")->id.inode, 101);
}

/* Its name is theirs; once it is out, its VM gets it back in our way. */
static void test_taken_out_of_a_vm_that_has_had_it(void **state)
{
	(void) state;
	struct place *stick = place_new(USB "1-2", 100, "vm1");

	w.cold = "1-2";
	manager_start(&w.manager);
	run();
	w.policy.vmm_waits = true;
	device("1-2")->wish.away = AWAY_UNTIL_REPLUG;
	device_mark(device("1-2"));
	run();
	assert_int_equal(w.n_detaches, 1);
	assert_string_equal(w.calls[0].handle, "their-own");
	w.cold = NULL;
	w.policy.vmm_waits = false;
	run();
	expect("1-2", "detached vm1");
	device("1-2")->wish.away = AWAY_NOT;
	device_mark(device("1-2"));
	run();
	expect("1-2", "attached vm1");
	assert_string_equal(w.handles[0].handle, "vhp-1-2-100");
	unplug(stick);
	assert_null(device("1-2"));
}

static void test_unplugged_from_a_vm_that_has_had_it(void **state)
{
	(void) state;
	struct place *stick = place_new(USB "1-2", 100, "vm1");

	w.cold = "1-2";
	manager_start(&w.manager);
	run();
	unplug(stick);
	assert_int_equal(w.n_detaches, 1);
	assert_null(device("1-2"));
}

/* It was given to its VM behind our back: that is seen when it is found in use. */
static void test_in_use_by_its_own_vm(void **state)
{
	(void) state;
	w.policy.worker_waits = true;
	manager_start(&w.manager);
	run();
	plug("1-2", 100, "vm1");
	w.cold = "1-2";
	job_answer(-EBUSY, "it is held by qemu");
	w.policy.worker_waits = false;
	run();
	expect("1-2", "refused vm1");
	run_for(5000);
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_attaches, 0);
}

/* What was detached by hand is taken out of a VM that starts with it. */
static void test_detached_and_there_at_the_next_start(void **state)
{
	(void) state;
	place_new(USB "1-2", 100, "vm1");
	w.policy.probes_refused = true;
	manager_start(&w.manager);
	run();
	device("1-2")->wish.away = AWAY_DETACHED;
	device_mark(device("1-2"));
	run();
	expect("1-2", "detached vm1");
	w.cold = "1-2";
	vm_starts("vm1");
	assert_int_equal(w.n_detaches, 1);
	expect("1-2", "detached vm1");
}

/* It says that it has had it since its start, and does not let go: another VM does not wait. */
static void test_claim_of_a_vm_that_does_not_answer(void **state)
{
	(void) state;
	place_new(USB "1-2", 100, "vm1");
	w.cold = "1-2";
	manager_start(&w.manager);
	run();
	w.policy.detach = VMM_RETRY;
	find_place(USB "1-2")->vms = "vm2";
	manager_resync(&w.manager);
	run();
	expect("1-2", "attached vm2");
	assert_int_equal(w.n_detaches, 1);
	assert_int_equal(w.n_attaches, 1);
}

/* What another VM claims, which it is not for, does not hide that its own VM has it. */
static void test_claimed_by_another_vm(void **state)
{
	(void) state;
	place_new(USB "1-2", 100, "vm2");
	w.cold = "1-2";
	w.all_claim = true;
	manager_start(&w.manager);
	run();
	expect("1-2", "attached vm2");
	assert_int_equal(w.n_attaches, 0);
}

/* A new rule finds it there, without another look at the VM. */
static void test_rule_for_what_a_vm_has_had(void **state)
{
	(void) state;
	w.cold = "1-2";
	manager_start(&w.manager);
	run();
	w.policy.probe_waits = true;
	plug("1-2", 100, "vm1");
	expect("1-2", "attached vm1");
	assert_int_equal(w.n_attaches, 0);
}

int main(void)
{
#define FRESH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define STARTED(test) cmocka_unit_test_setup_teardown(test, setup_started, teardown)
	const struct CMUnitTest tests[] = {
		STARTED(test_plug_and_unplug),
		STARTED(test_unplug_before_udev_tells),
		STARTED(test_unplug_before_udev_tells_while_attaching),
		STARTED(test_unplug_after_a_restart_before_udev_tells),
		STARTED(test_nothing_is_watched_in_no_vm),
		STARTED(test_the_same_event_twice),
		STARTED(test_stale_add_is_ignored),
		STARTED(test_replug_without_a_remove_event),
		STARTED(test_twins),
		STARTED(test_ids_have_separators),
		STARTED(test_unplug_while_opening),
		STARTED(test_unplug_while_attaching),
		STARTED(test_unplug_while_attaching_in_vain),
		STARTED(test_replug_while_attaching),
		STARTED(test_vm_that_never_answers),
		STARTED(test_left_open),
		STARTED(test_left_open_and_forgotten),
		STARTED(test_left_open_by_nobody),
		STARTED(test_reset_between_vms),
		STARTED(test_group_can_not_be_seen),
		STARTED(test_group_is_kept_by_a_bridge),
		STARTED(test_wish_withdrawn),
		STARTED(test_wish_withdrawn_while_attaching),
		STARTED(test_cards_in_the_order_of_their_rules),
		STARTED(test_wish_withdrawn_while_a_host_driver_holds_on),
		STARTED(test_wish_moves_to_another_vm),
		STARTED(test_new_wish_is_on_record),
		STARTED(test_two_candidates),
		STARTED(test_names_that_begin_alike),
		STARTED(test_vm_starts_late),
		STARTED(test_vm_exits_and_returns),
		STARTED(test_vm_returns_and_answers_late),
		STARTED(test_vm_exits_while_opening),
		STARTED(test_vm_exits_while_attaching),
		STARTED(test_vm_exits_while_verifying),
		STARTED(test_vm_exits_while_detaching),
		STARTED(test_vm_lost_the_device),
		STARTED(test_vm_leaves_the_config),
		STARTED(test_probes_do_not_overlap),
		STARTED(test_retry_with_backoff),
		STARTED(test_full_vm_is_not_asked_all_the_time),
		STARTED(test_room_is_used_at_once),
		STARTED(test_failed_for_good),
		STARTED(test_failed_for_good_at_one),
		STARTED(test_disk_in_use),
		STARTED(test_look_that_fails_while_a_disk_is_refused),
		STARTED(test_restart_while_a_disk_is_refused),
		STARTED(test_disk_that_stays_in_use),
		STARTED(test_unplug_of_a_refused_device),
		STARTED(test_host_driver_does_not_let_go),
		STARTED(test_host_driver_takes_it_back),
		STARTED(test_detach_that_fails_is_repeated),
		STARTED(test_detach_that_is_refused),
		STARTED(test_detach_of_what_is_gone),
		STARTED(test_attach_whose_answer_is_lost),
		STARTED(test_answer_is_lost_with_its_vm),
		STARTED(test_move_that_was_lost_and_failed),
		STARTED(test_move_whose_answer_is_lost),
		STARTED(test_guest_takes_its_time),
		STARTED(test_monitor_fails_while_releasing),
		STARTED(test_restart_while_releasing),
		STARTED(test_vm_exits_while_releasing),
		STARTED(test_move_that_fails_goes_back),
		STARTED(test_taken_by_hand_is_no_move),
		STARTED(test_no_way_back_to_a_vm_without_a_section),
		STARTED(test_move_to_a_vm_that_asks_for_time),
		STARTED(test_what_came_back_is_left_alone),
		STARTED(test_refused_card_goes_back),
		STARTED(test_refused_card_has_no_way_back),
		STARTED(test_refused_card_is_wanted_again),
		STARTED(test_group_is_open_in_its_vm),
		STARTED(test_group_moves_as_a_whole),
		STARTED(test_group_stays_together),
		cmocka_unit_test_setup_teardown(test_group_goes_where_people_say, setup_choosing,
						teardown_choosing),
		cmocka_unit_test_setup_teardown(test_choice_of_one, setup_choosing,
						teardown_choosing),
		cmocka_unit_test_setup_teardown(test_group_is_taken_out_by_hand, setup_choosing,
						teardown_choosing),
		cmocka_unit_test_setup_teardown(test_group_can_not_go_where_people_say,
						setup_choosing, teardown_choosing),
		STARTED(test_choice_of_a_renamed_group),
		STARTED(test_leader_and_follower_vanish),
		STARTED(test_follower_gets_a_rule),
		STARTED(test_restart_while_attached),
		STARTED(test_restart_after_the_vm_exited),
		STARTED(test_restart_after_the_vm_was_shut_down),
		STARTED(test_restart_after_the_vm_restarted),
		STARTED(test_restart_after_an_unplug),
		STARTED(test_killed_before_the_attach_was_recorded),
		FRESH(test_adopted_is_looked_at),
		STARTED(test_adopts_nothing_that_leaves),
		FRESH(test_orphan_is_removed),
		FRESH(test_orphan_that_stays),
		STARTED(test_description_of_a_follower),
		STARTED(test_choice_before_udev_answers),
		STARTED(test_choices_end_with_the_broker),
		STARTED(test_suspended_before_a_restart),
		STARTED(test_suspended_before_a_restart_of_all),
		STARTED(test_family_and_a_new_config),
		STARTED(test_family_that_was_leaving),
		FRESH(test_coldplug),
		FRESH(test_coldplug_before_udev_answers),
		STARTED(test_new_vm_before_udev_answers),
		STARTED(test_apply_attach_connected_no),
		STARTED(test_apply_exchanged_sockets),
		STARTED(test_rules_of_another_config),
		FRESH(test_attach_connected_no),
		STARTED(test_attach_connected_no_and_a_new_rule),
		STARTED(test_attach_connected_no_and_a_late_helper),
		FRESH(test_attach_connected_no_and_an_early_end),
		FRESH(test_attach_connected_no_and_an_end_on_the_way),
		FRESH(test_attach_connected_no_and_the_plug_that_starts_it),
		FRESH(test_attach_connected_no_and_the_plug_is_heard_last),
		FRESH(test_attach_connected_no_and_the_spool_starts_it),
		FRESH(test_attach_connected_no_gives_back),
		FRESH(test_attach_connected_no_gives_back_once),
		FRESH(test_attach_connected_no_and_no_rule_any_more),
		FRESH(test_attach_connected_no_and_a_group),
		FRESH(test_attach_connected_no_and_arguments_for_its_vm),
		FRESH(test_attach_connected_no_and_arguments_of_one_that_runs),
		FRESH(test_attach_connected_no_and_a_vm_that_has_it),
		STARTED(test_spooled_by_an_older_config),
		FRESH(test_spooled_by_an_older_config_before_the_start),
		FRESH(test_events_before_the_start_move_nothing),
		FRESH(test_candidates_in_order_at_start),
		STARTED(test_stop_in_the_middle),
		STARTED(test_fence_of_a_vm_that_is_down),
		STARTED(test_fence_then_rule_withdrawn),
		STARTED(test_return_that_fails),
		STARTED(test_return_with_an_overloaded_worker),
		STARTED(test_claimed_again_on_its_way_back),
		STARTED(test_claimed_again_while_owed),
		STARTED(test_unplugged_while_owed),
		STARTED(test_replugged_on_its_way_back),
		STARTED(test_restart_while_owed),
		STARTED(test_return_of_a_group_that_is_open),
		STARTED(test_return_when_the_group_has_left),
		STARTED(test_led_on_its_way_back),
		FRESH(test_fence_of_what_was_there),
		STARTED(test_fence_and_the_host),
		STARTED(test_unfenced_and_its_vm_ends),
		STARTED(test_unfenced_and_taken_out_by_hand),
		STARTED(test_unfenced_and_a_full_vm),
		STARTED(test_unfenced_and_failed),
		STARTED(test_unfenced_and_a_restart),
		STARTED(test_unfenced_card_and_a_restart),
		STARTED(test_unfenced_cards),
		STARTED(test_unfenced_and_made_ready),
		STARTED(test_host_driver_comes_later),
		FRESH(test_vm_has_had_it_since_its_start),
		FRESH(test_vm_claims_what_is_in_use),
		FRESH(test_vm_claims_what_is_given_away_by_force),
		FRESH(test_event_node_that_a_vm_has_had),
		STARTED(test_event_node_of_a_former_device),
		FRESH(test_taken_out_of_a_vm_that_has_had_it),
		FRESH(test_unplugged_from_a_vm_that_has_had_it),
		FRESH(test_rule_for_what_a_vm_has_had),
		FRESH(test_claim_of_a_vm_that_does_not_answer),
		FRESH(test_detached_and_there_at_the_next_start),
		FRESH(test_claimed_by_another_vm),
		FRESH(test_in_use_by_its_own_vm),
	};

	loop_skip_waiting(true);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
