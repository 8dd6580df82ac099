/* Manager, reconcile path, store and crosvm backend together, against the stand-in for crosvm:
 * what is on record must never lead to another device's port. sysfs, udev's database and the worker
 * are replaced at link time (tests/CMakeLists.txt). */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sqlite3.h>

#include <cmocka.h>

#include "broker/crosvm_start.h"
#include "broker/handover.h"
#include "broker/log.h"
#include "broker/manager.h"
#include "broker/pci.h"
#include "broker/reconcile.h"
#include "broker/udev.h"
#include "broker/vmm_crosvm.h"
#include "conf/load.h"
#include "tests/unit/crosvm-double.h"
#include "tests/unit/temp.h"
#include "tests/unit/udev-double.h"

#define BOOT "11111111-2222-3333-4444-555555555555"
#define PATIENCE_MS 15000
#define MAX 8
#define ADDRESS "ffff:01:1f.7" /* of a PCI function that no machine has */
#define SECOND "ffff:01:1f.6"  /* the other one of its IOMMU group */

static struct world {
	char *dir;
	char socket[128];
	const char *program; /* the crosvm of the config */
	struct crosvm_double crosvm;
	struct loop *loop;
	struct store *store;
	struct manager manager;
	bool (*until)(const void *data);
	const void *until_data;
	bool timed_out;
	/* What is plugged in: all are keyboards of one kind, but for one PCI function. */
	struct place {
		char devpath[64], node[64], file[200];
		uint64_t inode;
		bool is_pci;
		bool unclaimed; /* no rule wants it any more */
		bool pulled;    /* and the kernel has not told yet */
	} places[MAX];
	uint64_t next_inode, seqnum;
	bool no_reset;     /* the rule says so */
	bool own_groups;   /* each PCI function has an IOMMU group of its own */
	bool is_cold;      /* crosvm was started with the first function */
	bool is_blind;     /* the worker can't tell whether a group is open */
	bool is_elsewhere; /* another program has the group open */
	bool holds_looks;  /* it does not answer for now */
	struct worker_request held_look;
	char handle_on_disk[96]; /* of 1-2, before the flush at the end of the pass */
	struct worker_request jobs[MAX];
	size_t n_jobs, n_returned;
	uint64_t number;
} w;

static struct place *find_place(const char *devpath)
{
	for (size_t i = 0; i < MAX; i++)
		if (w.places[i].inode != 0 && streq(w.places[i].devpath, devpath))
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
	(void) devpath, (void) ret, (void) size;
	return false;
}

int __wrap_pci_get_group(const char *address, struct pci_group *ret);
int __wrap_pci_get_group(const char *address, struct pci_group *ret)
{
	*ret = (struct pci_group){.number = 8, .n_members = 2, .members = {ADDRESS, SECOND}};
	if (w.own_groups) {
		*ret = (struct pci_group){.number = streq(address, SECOND) ? 9 : 8, .n_members = 1};
		strcpy(ret->members[0], address);
	}
	return 0;
}

void __real_crosvm_start_look(struct vm *vm, struct crosvm_cards *ret_cards);
void __wrap_crosvm_start_look(struct vm *vm, struct crosvm_cards *ret_cards);
void __wrap_crosvm_start_look(struct vm *vm, struct crosvm_cards *ret_cards)
{
	const struct cold cold = {
		.kind = DEVICE_PCI, .handle = "crosvm-start-" ADDRESS, .kernel_name = ADDRESS};

	__real_crosvm_start_look(vm, ret_cards);
	if (w.is_cold)
		assert_true(cold_add(&vm->cold, &cold));
}

static const char *place_property(void *from, const char *key)
{
	const struct place *place = from;
	static const char *const properties[][2] = {
		{"SUBSYSTEM", "usb"},         {"DEVTYPE", "usb_device"},
		{"PRODUCT", "46d/c31c/1211"}, {"VHOTPLUG_RULE", "usb/all/keyboards"},
		{"VHOTPLUG_VM", "vm1"},
	};

	if (streq(key, UDEV_KNOWN))
		return "1";
	if (streq(key, "VHOTPLUG_RULE") && place->unclaimed)
		return NULL;
	if (streq(key, "DEVNAME"))
		return place->is_pci ? NULL : place->node;
	if (streq(key, "SUBSYSTEM") && place->is_pci)
		return "pci";
	if (streq(key, "VHOTPLUG_OPTIONS"))
		return w.no_reset ? "no-reset" : NULL;
	for (size_t i = 0; i < ARRAY_SIZE(properties); i++)
		if (streq(properties[i][0], key))
			return properties[i][1];
	return NULL;
}

/* Answers at once. */
int udev_ask(struct loop *loop, const char *const *devpaths, size_t n,
	     const struct udev_listener *listener, void *data, struct udev_query **ret_query)
{
	(void) loop, (void) devpaths, (void) n, (void) ret_query;
	for (size_t i = 0; i < MAX; i++)
		if (w.places[i].inode != 0)
			listener->device(data, w.places[i].devpath, place_property, &w.places[i]);
	listener->done(data, 0);
	return 0;
}

int worker_watch(struct worker *worker, struct loop *loop, worker_fn fn, void *data)
{
	(void) worker, (void) loop, (void) fn, (void) data;
	return 0;
}

int worker_send(struct worker *worker, struct worker_request *request)
{
	(void) worker;
	assert_true(w.n_jobs < MAX);
	request->number = ++w.number;
	w.jobs[w.n_jobs++] = *request;
	return 0;
}

static struct device *find_device(const char *name)
{
	for (struct device *d = w.manager.registry.devices; d; d = d->next)
		if (streq(d->id.kernel_name, name))
			return d;
	return NULL;
}

static bool is_in_doubt(const void *data)
{
	const struct device *d = find_device(data);

	return d && d->record.state == DEVICE_ATTACHING &&
	       startswith(d->place.handle, "crosvm-after-");
}

static void read_handle_on_disk(void)
{
	char path[200];
	sqlite3 *db = NULL;
	sqlite3_stmt *statement = NULL;

	snprintf(path, sizeof(path), "%s/vhotplug.db", w.dir);
	assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
	assert_int_equal(sqlite3_prepare_v2(db, "select handle from device where device = '1-2'",
					    -1, &statement, NULL),
			 SQLITE_OK);
	if (sqlite3_step(statement) == SQLITE_ROW)
		snprintf(w.handle_on_disk, sizeof(w.handle_on_disk), "%s",
			 (const char *) sqlite3_column_text(statement, 0));
	sqlite3_finalize(statement);
	sqlite3_close(db);
}

static void do_job(const struct worker_request *job)
{
	struct worker_answer answer = {.number = job->number};
	struct place *place = find_place(job->devpath);
	int fds[WORKER_MAX_FDS];

	if (job->job == WORKER_PCI_LOOK && w.holds_looks) {
		w.held_look = *job;
		return;
	} else if (job->job == WORKER_PCI_LOOK && w.is_blind) {
		answer.result = -EACCES;
		strcpy(answer.detail, "can't tell whether /dev/vfio/8 is open: Permission denied");
	} else if (job->job == WORKER_PCI_LOOK && w.is_elsewhere) {
		answer.result = -EBUSY;
		strcpy(answer.detail, "dpdk (process 5)");
	} else if (job->job == WORKER_PCI_LOOK) {
		answer.result = double_functions(&w.crosvm) > 0 ? -EBUSY : 0;
	} else if (job->job == WORKER_PCI_RETURN) {
		w.n_returned++;
	} else if (!place || place->pulled) {
		answer.result = -ENODEV;
	} else if (job->job == WORKER_USB_OPEN) {
		/* crosvm resets nothing itself. */
		assert_int_equal(!(job->options & WORKER_RESET), w.no_reset);
		answer.has_node = true;
		fds[answer.n_fds++] = open(place->file, O_RDWR | O_CLOEXEC);
		assert_true(fds[0] >= 0);
	}
	handover_worker_answered(&w.manager.registry, &answer, fds);
}

/* The end of each pass: the worker's answers, the store, and the question of the test. */
static void pass_end(void *data)
{
	(void) data;
	if (!w.handle_on_disk[0] && is_in_doubt("1-2"))
		read_handle_on_disk();
	reconcile_pass(&w.manager.registry);
	while (w.n_jobs > 0) {
		struct worker_request job = w.jobs[0];

		memmove(w.jobs, w.jobs + 1, --w.n_jobs * sizeof(w.jobs[0]));
		do_job(&job);
		reconcile_pass(&w.manager.registry);
	}
	store_flush(w.store);
	if (w.until && w.until(w.until_data))
		loop_quit(w.loop);
}

static void too_late(void *data)
{
	(void) data;
	w.timed_out = true;
	loop_quit(w.loop);
}

static bool run_for(bool (*until)(const void *), const void *data, unsigned ms)
{
	struct loop_timer timer = {0};

	w.until = until;
	w.until_data = data;
	w.timed_out = false;
	loop_timer_start(w.loop, &timer, ms, too_late, NULL);
	assert_int_equal(loop_run(w.loop), 0);
	loop_timer_stop(&timer);
	return !w.timed_out;
}

static bool is_attached(const void *data)
{
	const struct device *d = find_device(data);

	return d && d->record.state == DEVICE_ATTACHED && !d->place.unverified &&
	       d->place.port != 0;
}

static bool is_settled(const void *data)
{
	const struct device *d = find_device(data);

	return d && d->record.state == DEVICE_ATTACHED && !d->place.unverified;
}

static bool is_waiting(const void *data)
{
	const struct device *d = find_device(data);

	return d && d->record.state == DEVICE_WAITING && d->attempt.not_before > now_monotonic_ms();
}

static bool is_nowhere(const void *data)
{
	const struct device *d = find_device(data);

	return d && d->record.state == DEVICE_WAITING && !d->place.vm;
}

static bool is_forgotten(const void *data)
{
	return !find_device(data);
}

static void wait_for(bool (*until)(const void *), const char *name)
{
	if (!run_for(until, name, PATIENCE_MS)) {
		const struct device *d = find_device(name);

		fail_msg("%s is %s: %s", name, d ? device_state_name(d->record.state) : "unknown",
			 d ? d->record.reason : "");
	}
}

/* As the helper tells it; unlike a look at everything this asks no VM what it has. */
static void tell(struct place *place, const char *action)
{
	static const char *const keys[] = {"SUBSYSTEM",       "DEVTYPE",       "PRODUCT",
					   "DEVNAME",         "VHOTPLUG_RULE", "VHOTPLUG_VM",
					   "VHOTPLUG_OPTIONS"};
	struct event event = {.boot_id = BOOT, .seqnum = ++w.seqnum, .inode = place->inode};
	struct wire_msg msg;

	snprintf(event.action, sizeof(event.action), "%s", action);
	snprintf(event.devpath, sizeof(event.devpath), "%s", place->devpath);
	wire_init(&msg);
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		const char *value = place_property(place, keys[i]);

		if (value)
			assert_int_equal(wire_add(&msg, keys[i], value), 0);
	}
	manager_intake.event(&w.manager, &event, &msg, NULL);
}

static void plug(const char *name)
{
	static const uint8_t descriptor[18] = {18, 1, 0, 2, 0, 0, 0, 64, 0x6d, 0x04, 0x1c, 0xc3};
	size_t i = 0;

	while (w.places[i].inode != 0)
		i++;
	assert_true(i < MAX);
	struct place *place = &w.places[i];
	*place = (struct place){.inode = ++w.next_inode};
	snprintf(place->devpath, sizeof(place->devpath), "/devices/usb1/%s", name);
	snprintf(place->node, sizeof(place->node), "/dev/bus/usb/001/%03zu", i + 1);
	snprintf(place->file, sizeof(place->file), "%s/%s", w.dir, name);
	FILE *file = fopen(place->file, "we");
	assert_non_null(file);
	fwrite(descriptor, 1, sizeof(descriptor), file);
	fclose(file);
	tell(place, "add");
}

static void plug_function_at(const char *address, size_t i)
{
	struct place *place = &w.places[i];

	*place = (struct place){.inode = ++w.next_inode, .is_pci = true};
	snprintf(place->devpath, sizeof(place->devpath), "/devices/pci0/%s", address);
	tell(place, "add");
}

static void plug_function(void)
{
	plug_function_at(ADDRESS, 0);
}

/* The kernel and udev have told of it, if a broker was there to hear. */
static void unplugged(const char *name)
{
	char devpath[64];

	snprintf(devpath, sizeof(devpath), "/devices/usb1/%s", name);
	struct place *place = find_place(devpath);
	struct place former = *place;
	place->inode = 0;
	if (w.loop)
		tell(&former, "remove");
}

static void start_double(void)
{
	double_start(&w.crosvm, w.socket);
	double_share_clock(&w.crosvm, w.dir);
}

static void start_broker(void)
{
	char path[200];
	struct config *config = NULL;

	snprintf(path, sizeof(path), "%s/vhotplug.conf", w.dir);
	FILE *file = fopen(path, "we");
	assert_non_null(file);
	fprintf(file, "[general]\ncrosvm = %s\n[vm vm1]\ntype = crosvm\ndelay = 0\nsocket = %s\n",
		w.program, w.socket);
	fclose(file);
	assert_int_equal(config_load(path, stderr, &config), 0);
	assert_int_equal(loop_new(&w.loop), 0);
	snprintf(path, sizeof(path), "%s/vhotplug.db", w.dir);
	assert_int_equal(store_open(w.loop, path, NULL, BOOT, &w.store), 0);
	assert_int_equal(manager_init(&w.manager, w.loop, NULL, w.store, config, BOOT), 0);
	assert_int_equal(manager_load(&w.manager), 0);
	loop_set_pass_end(w.loop, pass_end, NULL);
	manager_start(&w.manager);
}

/* As kill -9 does it: nothing more is written than has been. */
static void end_broker(void)
{
	manager_finish(&w.manager);
	memset(&w.manager, 0, sizeof(w.manager));
	w.n_jobs = 0;
	store_close(w.store);
	assert_int_equal(kept_count(), 0);
	loop_free(w.loop);
	w.loop = NULL;
}

static int setup(void **state)
{
	(void) state;
	log_init(false);
	memset(&w, 0, sizeof(w));
	w.dir = temp_new();
	snprintf(w.socket, sizeof(w.socket), "%s/crosvm.sock", w.dir);
	w.program = DOUBLES "/crosvm";
	double_pci_function(w.dir, ADDRESS);
	double_pci_function(w.dir, SECOND);
	start_double();
	start_broker();
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	end_broker();
	double_stop(&w.crosvm, 0);
	temp_remove(&w.dir);
	crosvm_pace = (struct crosvm_pace){.answer = 5000,
					   .command = 10000,
					   .first_wait = 1000,
					   .max_wait = 30000,
					   .attempts = 20};
	return 0;
}

static void plug_into(const char *name, unsigned port)
{
	plug(name);
	wait_for(is_attached, name);
	assert_int_equal(find_device(name)->place.port, port);
	assert_string_equal(double_port(&w.crosvm, port), name);
}

static void test_twins_come_and_go(void **state)
{
	(void) state;
	plug_into("1-1", 1);
	plug_into("1-2", 2);
	unplugged("1-1");
	wait_for(is_forgotten, "1-1");
	assert_string_equal(double_port(&w.crosvm, 1), "");
	assert_string_equal(double_port(&w.crosvm, 2), "1-2");
	w.no_reset = true;
	plug_into("1-3", 1);
}

static void test_a_restarted_broker_keeps_them(void **state)
{
	char left[96], right[96];

	(void) state;
	double_do(&w.crosvm, "foreign 046d c31c 2"); /* on record nowhere: somebody else's */
	plug_into("1-1", 2);
	plug_into("1-2", 3);
	snprintf(left, sizeof(left), "%s", find_device("1-1")->place.handle);
	snprintf(right, sizeof(right), "%s", find_device("1-2")->place.handle);
	end_broker();
	start_broker();
	wait_for(is_settled, "1-1");
	wait_for(is_settled, "1-2");
	assert_string_equal(find_device("1-1")->place.handle, left);
	assert_string_equal(find_device("1-2")->place.handle, right);
	assert_int_equal(double_requests(&w.crosvm, "AttachDevice"), 2);
	assert_int_equal(double_requests(&w.crosvm, "DetachDevice"), 0);
	/* Pulled out while nobody looked. */
	end_broker();
	unplugged("1-1");
	start_broker();
	wait_for(is_forgotten, "1-1");
	wait_for(is_settled, "1-2");
	assert_string_equal(double_port(&w.crosvm, 1), "foreign");
	assert_string_equal(double_port(&w.crosvm, 2), "");
	assert_string_equal(double_port(&w.crosvm, 3), "1-2");
}

/* As it really happens: crosvm sees the unplug itself, and has let go before the broker is back. */
static void test_a_device_that_crosvm_let_go_of_meanwhile(void **state)
{
	(void) state;
	plug_into("1-1", 1);
	plug_into("1-2", 2);
	end_broker();
	double_do(&w.crosvm, "unplug 1");
	unplugged("1-1");
	start_broker();
	wait_for(is_forgotten, "1-1");
	wait_for(is_settled, "1-2");
	assert_string_equal(double_port(&w.crosvm, 2), "1-2");
	assert_int_equal(double_requests(&w.crosvm, "DetachDevice"), 0);
}

/* The broker dies while crosvm carries out the attach. */
static void test_an_attach_whose_answer_nobody_heard(void **state)
{
	(void) state;
	plug_into("1-1", 1);
	double_do(&w.crosvm, "late AttachDevice 0.5");
	plug("1-2");
	wait_for(is_in_doubt, "1-2");
	assert_non_null(startswith(w.handle_on_disk, "crosvm-after-00002-046d:c31c@"));
	end_broker();
	start_broker();
	wait_for(is_attached, "1-2");
	wait_for(is_settled, "1-1");
	assert_string_equal(double_port(&w.crosvm, 1), "1-1");
	assert_string_equal(double_port(&w.crosvm, 2), "1-2");
	assert_int_equal(double_ports(&w.crosvm), 2);
	assert_int_equal(double_requests(&w.crosvm, "AttachDevice"), 3);
	assert_int_equal(double_requests(&w.crosvm, "{\"port\":2}"), 1);
}

/* crosvm has let go of one and given its port to a twin before the broker heard of the unplug. */
static void test_a_port_that_moved_on(void **state)
{
	(void) state;
	plug_into("1-1", 1);
	double_do(&w.crosvm, "unplug 1");
	w.places[0].pulled = true;
	plug_into("1-2", 1);
	assert_string_equal(find_device("1-1")->place.handle, "");
	end_broker();
	start_broker();
	unplugged("1-1");
	wait_for(is_forgotten, "1-1");
	wait_for(is_settled, "1-2");
	run_for(NULL, NULL, 200);
	assert_int_equal(double_requests(&w.crosvm, "DetachDevice"), 0);
	assert_string_equal(double_port(&w.crosvm, 1), "1-2");
}

/* Another crosvm, whose port of that number has a twin of somebody else's. */
static void test_a_vm_that_restarted_meanwhile(void **state)
{
	(void) state;
	plug_into("1-1", 1);
	end_broker();
	double_stop(&w.crosvm, 0);
	start_double();
	double_do(&w.crosvm, "foreign 046d c31c 2");
	start_broker();
	wait_for(is_attached, "1-1");
	assert_string_equal(double_port(&w.crosvm, 1), "foreign");
	assert_string_equal(double_port(&w.crosvm, 2), "1-1");
	assert_int_equal(double_requests(&w.crosvm, "DetachDevice"), 0);
}

static void test_a_vm_that_is_killed(void **state)
{
	(void) state;
	plug_into("1-1", 1);
	plug_into("1-2", 2);
	for (int i = 0; i < 3; i++) {
		double_stop(&w.crosvm, SIGKILL);
		wait_for(is_nowhere, "1-1");
		wait_for(is_nowhere, "1-2");
		assert_int_equal(unlink(w.socket), 0);
		start_double();
		wait_for(is_attached, "1-1");
		wait_for(is_attached, "1-2");
		assert_int_equal(double_ports(&w.crosvm), 2);
	}
}

static void test_all_wait_for_the_guest(void **state)
{
	(void) state;
	crosvm_pace.first_wait = 400;
	double_do(&w.crosvm, "guest off");
	plug("1-1");
	plug("1-2");
	plug("1-3");
	wait_for(is_waiting, "1-1");
	wait_for(is_waiting, "1-2");
	wait_for(is_waiting, "1-3");
	assert_non_null(
		strstr(find_device("1-3")->record.reason, "has not started its USB driver yet"));
	/* One of them has asked for all. */
	assert_int_equal(double_requests(&w.crosvm, "AttachDevice"), 1);
	assert_int_equal(double_ports(&w.crosvm), 0);
	double_do(&w.crosvm, "guest on");
	wait_for(is_attached, "1-1");
	wait_for(is_attached, "1-2");
	wait_for(is_attached, "1-3");
	assert_int_equal(double_ports(&w.crosvm), 3);
}

/* PCI */

static bool is_in_state(const void *data)
{
	const struct device *d = find_device(ADDRESS);

	return d && d->record.state == *(const enum device_state *) data && !d->place.unverified;
}

/* The function is in STATE, and the reason has WORDS in it. */
static void wait_function(enum device_state state, const char *words)
{
	bool is_there = run_for(is_in_state, &state, PATIENCE_MS);
	const struct device *d = find_device(ADDRESS);

	if (!is_there || !d || !strstr(d->record.reason, words))
		fail_msg("it is %s (%s), not %s (%s)",
			 d ? device_state_name(d->record.state) : "unknown",
			 d ? d->record.reason : "", device_state_name(state), words);
}

static void withdraw_rule(void)
{
	w.places[0].unclaimed = true;
	manager_resync(&w.manager);
}

static void restart_vm(void)
{
	double_stop(&w.crosvm, SIGKILL);
	assert_int_equal(unlink(w.socket), 0);
	start_double();
}

/* crosvm says that it has removed it, and keeps it: the host does not take it from under the VM,
 * and nobody is asked again. */
static void test_function_stays_until_the_vm_ends(void **state)
{
	(void) state;
	plug_function();
	wait_function(DEVICE_ATTACHED, "vm1 has it");
	assert_int_equal(double_functions(&w.crosvm), 1);
	assert_non_null(
		startswith(find_device(ADDRESS)->place.handle, "crosvm-pci-" ADDRESS "-1@"));
	withdraw_rule();
	wait_function(DEVICE_RELEASING, "crosvm gives no card back while it runs: stays in vm1");
	run_for(NULL, NULL, 60000);
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 2);
	end_broker();
	start_broker();
	wait_function(DEVICE_RELEASING, "crosvm gives no card back while it runs: stays in vm1");
	assert_int_equal(w.n_returned, 0);
	restart_vm();
	wait_for(is_forgotten, ADDRESS);
	assert_int_equal(w.n_returned, 1);
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 0);
}

static void test_function_from_the_start(void **state)
{
	(void) state;
	end_broker();
	w.is_cold = true;
	start_broker();
	plug_function();
	wait_function(DEVICE_ATTACHED, "vm1 has it since the VM's start");
	withdraw_rule();
	wait_function(DEVICE_RELEASING, "crosvm gives no card back while it runs: stays in vm1");
	/* It is still there, and wanted there again. */
	w.places[0].unclaimed = false;
	manager_resync(&w.manager);
	wait_function(DEVICE_ATTACHED, "vm1 has it since the VM's start");
	withdraw_rule();
	wait_function(DEVICE_RELEASING, "");
	end_broker();
	w.places[0].unclaimed = false;
	start_broker();
	wait_function(DEVICE_ATTACHED, "");
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 0);
	assert_int_equal(w.n_returned, 0);
}

static bool is_added_twice(const void *data)
{
	(void) data;
	return double_requests(&w.crosvm, "HotPlugVfioCommand") == 2;
}

static void test_function_through_a_restart(void **state)
{
	(void) state;
	plug_function();
	wait_function(DEVICE_ATTACHED, "");
	end_broker();
	start_broker();
	wait_function(DEVICE_ATTACHED, "");
	run_for(NULL, NULL, 200);
	wait_function(DEVICE_ATTACHED, "");
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 1);
	/* Another VM process, while nobody looked. */
	end_broker();
	restart_vm();
	start_broker();
	wait_function(DEVICE_ATTACHED, "");
	assert_int_equal(double_functions(&w.crosvm), 1);
}

static bool is_refused(const void *data)
{
	const struct device *d = find_device(data);

	return d && d->record.state == DEVICE_REFUSED;
}

/* A second one would push the first out of the guest. Refused, it is the host's. */
static void second_function_is_refused(void)
{
	plug_function();
	wait_function(DEVICE_ATTACHED, "");
	plug_function_at(SECOND, 1);
	wait_for(is_refused, SECOND);
	assert_non_null(strstr(find_device(SECOND)->record.reason,
			       "vm1 has " ADDRESS ", and takes one card while it runs; start it"
			       " with --vfio"));
	assert_int_equal(w.n_returned, 1);
	withdraw_rule();
	wait_function(DEVICE_RELEASING, "");
	run_for(NULL, NULL, 60000);
	assert_true(is_refused(SECOND));
	assert_int_equal(double_functions(&w.crosvm), 1);
	restart_vm();
	wait_for(is_forgotten, ADDRESS);
	wait_for(is_settled, SECOND);
}

static void test_second_function(void **state)
{
	(void) state;
	w.own_groups = true;
	second_function_is_refused();
}

static void test_second_function_of_a_group(void **state)
{
	(void) state;
	second_function_is_refused();
}

/* Its guest would not see it. */
static void test_function_of_another_bus(void **state)
{
	(void) state;
	plug_function_at("ffff:02:1f.7", 0);
	wait_for(is_refused, "ffff:02:1f.7");
	assert_non_null(strstr(find_device("ffff:02:1f.7")->record.reason,
			       "on bus 02 of the host: the guest of vm1 sees a card that comes"
			       " while it runs on bus 01 only; start the VM with --vfio"));
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 0);
}

static void test_function_and_a_vm_that_is_killed(void **state)
{
	(void) state;
	plug_function();
	wait_function(DEVICE_ATTACHED, "");
	double_stop(&w.crosvm, SIGKILL);
	wait_for(is_nowhere, ADDRESS);
	assert_int_equal(unlink(w.socket), 0);
	start_double();
	wait_function(DEVICE_ATTACHED, "");
	assert_int_equal(double_functions(&w.crosvm), 1);
}

static void test_function_that_is_refused(void **state)
{
	(void) state;
	crosvm_pace.attempts = 3;
	crosvm_pace.first_wait = 10;
	double_do(&w.crosvm, "pci refuse");
	plug_function();
	wait_for(is_waiting, ADDRESS);
	assert_non_null(
		strstr(find_device(ADDRESS)->record.reason, "Invalid argument (os error 22)"));
	wait_function(DEVICE_FAILED, "3 times; its own log may say more");
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 3);
	double_do(&w.crosvm, "pci take");
	manager_resync(&w.manager);
	wait_function(DEVICE_ATTACHED, "");
}

/* It came before the guest was ready: crosvm has opened it, says that it failed, and neither gives
 * it to the guest nor lets go of it. */
static void test_function_that_is_refused_and_in(void **state)
{
	(void) state;
	w.own_groups = true;
	double_do(&w.crosvm, "guest off");
	plug_function();
	wait_function(DEVICE_RELEASING, "its guest will never see it");
	double_do(&w.crosvm, "guest on");
	plug_function_at(SECOND, 1);
	wait_for(is_refused, SECOND);
	run_for(NULL, NULL, 60000);
	wait_function(DEVICE_RELEASING, "restart vm1, with a longer \"delay =\"");
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 1);
	end_broker();
	start_broker();
	wait_function(DEVICE_RELEASING, "its guest will never see it");
	assert_int_equal(w.n_returned, 2); /* the second one, by each broker */
	restart_vm();
	wait_function(DEVICE_ATTACHED, "");
	assert_int_equal(double_functions(&w.crosvm), 1);
}

static bool can_not_be_told(const void *data)
{
	const struct device *d = find_device(data);

	return d && strstr(d->record.reason, "can't tell whether it has " ADDRESS ": can't tell");
}

/* Then crosvm may have it: it is not given anew, nor taken for lost or gone. */
static void test_function_that_can_not_be_seen(void **state)
{
	(void) state;
	w.is_blind = true;
	plug_function();
	wait_for(can_not_be_told, ADDRESS);
	assert_int_equal(find_device(ADDRESS)->record.state, DEVICE_ATTACHING);
	w.is_blind = false;
	wait_function(DEVICE_ATTACHED, "");
	w.is_blind = true;
	end_broker();
	start_broker();
	wait_function(DEVICE_ATTACHED, "");
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 1);
	withdraw_rule();
	wait_function(DEVICE_RELEASING, "let go of it: can't tell whether");
	w.is_blind = false;
	run_for(NULL, NULL, 30000);
	wait_function(DEVICE_RELEASING, "stays in vm1");
}

static bool is_somebody_elses(const void *data)
{
	const struct device *d = find_device(data);

	return d && d->record.state == DEVICE_WAITING &&
	       strstr(d->record.reason, "dpdk (process 5) has its IOMMU group open");
}

/* Another program has its group open: crosvm is not asked, and nobody says that it has the card. */
static void test_function_that_somebody_else_has(void **state)
{
	(void) state;
	w.is_elsewhere = true;
	plug_function();
	wait_for(is_somebody_elses, ADDRESS);
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 0);
	w.is_elsewhere = false;
	wait_function(DEVICE_ATTACHED, "");
	w.is_elsewhere = true;
	end_broker();
	start_broker();
	wait_for(is_somebody_elses, ADDRESS);
}

static bool is_looked_at(const void *data)
{
	return w.held_look.job == WORKER_PCI_LOOK && find_device(data);
}

/* The VM ends before the kernel has answered: during an attach, and during a probe. */
static void test_function_and_a_late_answer(void **state)
{
	(void) state;
	for (int i = 0; i < 2; i++) {
		w.holds_looks = true;
		w.held_look = (struct worker_request){0};
		if (i == 0) {
			plug_function();
		} else {
			end_broker();
			start_broker();
		}
		wait_for(is_looked_at, ADDRESS);
		double_stop(&w.crosvm, SIGKILL);
		wait_for(is_nowhere, ADDRESS);
		assert_int_equal(unlink(w.socket), 0);
		w.holds_looks = false;
		start_double();
		do_job(&w.held_look);
		wait_function(DEVICE_ATTACHED, "");
		assert_int_equal(double_functions(&w.crosvm), 1);
	}
}

/* It is stuck in the kernel: what was on record stays, and the VM's other devices go in. */
static void test_function_without_an_answer(void **state)
{
	(void) state;
	plug_function();
	wait_function(DEVICE_ATTACHED, "");
	w.holds_looks = true;
	end_broker();
	start_broker();
	wait_function(DEVICE_ATTACHED, "");
	plug_into("1-1", 1);
	wait_function(DEVICE_ATTACHED, "");
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 1);
}

/* A slot that was full, and is free again. */
static void test_function_that_failed_and_another_vm_process(void **state)
{
	(void) state;
	crosvm_pace.attempts = 2;
	crosvm_pace.first_wait = 10;
	double_do(&w.crosvm, "pci refuse");
	plug_function();
	wait_function(DEVICE_FAILED, "2 times");
	double_stop(&w.crosvm, SIGKILL);
	assert_int_equal(unlink(w.socket), 0);
	start_double();
	double_do(&w.crosvm, "pci refuse");
	/* All its attempts again, not the last one. */
	assert_true(run_for(is_added_twice, NULL, PATIENCE_MS));
	double_do(&w.crosvm, "pci take");
}

/* crosvm says that it has it, and the kernel that it has not. */
static void test_function_that_is_not_opened(void **state)
{
	(void) state;
	double_do(&w.crosvm, "pci ignore");
	plug_function();
	wait_function(DEVICE_FAILED, "on x86-64 only");
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 2);
}

static void test_function_without_a_program(void **state)
{
	(void) state;
	end_broker();
	w.program = "/nonexistent/crosvm";
	start_broker();
	plug_function();
	wait_function(DEVICE_FAILED, "can't run /nonexistent/crosvm: No such file or directory; "
				     "set \"crosvm =\" in [general]");
	/* The program goes while the device is in. */
	end_broker();
	w.program = DOUBLES "/crosvm";
	start_broker();
	wait_function(DEVICE_ATTACHED, "");
	end_broker();
	w.program = "/nonexistent/crosvm";
	start_broker();
	wait_function(DEVICE_ATTACHED, "");
	withdraw_rule();
	run_for(NULL, NULL, 300);
	wait_function(DEVICE_ATTACHED, "still in vm1: can't run /nonexistent/crosvm");
	assert_int_equal(w.n_returned, 0);
}

/* By then something else lies at the socket's path: a link to another VM's, say. The one that has
 * been looked at gets it. */
static void test_function_and_a_socket_that_is_swapped(void **state)
{
	char program[200], away[200];

	(void) state;
	end_broker();
	snprintf(away, sizeof(away), "%s.away", w.socket);
	snprintf(program, sizeof(program), "%s/crosvm", w.dir);
	FILE *file = fopen(program, "we");
	assert_non_null(file);
	fprintf(file, "#!/bin/sh\nmv %s %s\nexec %s/crosvm \"$@\"\n", w.socket, away, DOUBLES);
	assert_int_equal(fchmod(fileno(file), 0700), 0);
	fclose(file);
	w.program = program;
	start_broker();
	plug_function();
	wait_function(DEVICE_ATTACHED, "");
	assert_int_equal(double_functions(&w.crosvm), 1);
	assert_int_equal(rename(away, w.socket), 0);
}

/* The broker dies while crosvm's program asks; crosvm does it all the same. */
static void test_function_whose_answer_nobody_heard(void **state)
{
	(void) state;
	run_for(NULL, NULL, 100); /* it is up */
	double_do(&w.crosvm, "hang");
	plug_function();
	wait_function(DEVICE_ATTACHING, "");
	run_for(NULL, NULL, 500); /* it has asked */
	end_broker();
	double_do(&w.crosvm, "go");
	start_broker();
	wait_function(DEVICE_ATTACHED, "vm1 has it");
	run_for(NULL, NULL, 200);
	assert_int_equal(double_functions(&w.crosvm), 1);
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 1);
}

static bool is_silent(const void *data)
{
	const struct device *d = find_device(ADDRESS);

	(void) data;
	return d && d->record.state == DEVICE_ATTACHING &&
	       strstr(d->record.reason, "does not answer");
}

/* What it was asked before it hung is done when it is over, once. */
static void test_function_of_a_vm_that_hangs(void **state)
{
	(void) state;
	crosvm_pace.command = 300;
	crosvm_pace.first_wait = 100;
	run_for(NULL, NULL, 100); /* it is up */
	double_do(&w.crosvm, "hang");
	plug_function();
	wait_for(is_silent, ADDRESS);
	crosvm_pace.command = 10000;
	double_do(&w.crosvm, "go");
	wait_function(DEVICE_ATTACHED, "");
	assert_int_equal(double_functions(&w.crosvm), 1);
	withdraw_rule();
	wait_function(DEVICE_RELEASING, "stays in vm1");
}

/* Another version's: crosvm does not know it, and goes on without a word. */
static void test_function_whose_request_is_ignored(void **state)
{
	(void) state;
	w.own_groups = true;
	double_do(&w.crosvm, "deaf HotPlugVfioCommand");
	plug_function();
	plug_function_at(SECOND, 1);
	wait_function(DEVICE_FAILED, "crosvm has ignored the request");
	assert_int_equal(double_functions(&w.crosvm), 0);
	/* The next one does not wait for it. */
	wait_for(is_settled, SECOND);
	withdraw_rule();
	wait_for(is_forgotten, ADDRESS);
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 2);
	plug_into("1-1", 1);
}

/* Whether it ignores it is not known before it comes to itself. */
static void test_function_of_a_vm_that_hangs_and_ignores_it(void **state)
{
	(void) state;
	run_for(NULL, NULL, 100); /* it is up */
	double_do(&w.crosvm, "hang");
	double_do(&w.crosvm, "deaf HotPlugVfioCommand");
	plug_function();
	wait_for(is_silent, ADDRESS);
	run_for(NULL, NULL, 60000);
	assert_true(is_silent(ADDRESS));
	double_do(&w.crosvm, "go");
	wait_function(DEVICE_FAILED, "set \"crosvm =\" in [general] to the crosvm that runs vm1");
	assert_int_equal(double_requests(&w.crosvm, "HotPlugVfioCommand"), 1);
	manager_resync(&w.manager);
	wait_function(DEVICE_ATTACHED, "");
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_twins_come_and_go),
		TEST(test_a_restarted_broker_keeps_them),
		TEST(test_a_device_that_crosvm_let_go_of_meanwhile),
		TEST(test_an_attach_whose_answer_nobody_heard),
		TEST(test_a_port_that_moved_on),
		TEST(test_a_vm_that_restarted_meanwhile),
		TEST(test_a_vm_that_is_killed),
		TEST(test_all_wait_for_the_guest),
		TEST(test_function_stays_until_the_vm_ends),
		TEST(test_function_from_the_start),
		TEST(test_function_through_a_restart),
		TEST(test_second_function),
		TEST(test_second_function_of_a_group),
		TEST(test_function_of_another_bus),
		TEST(test_function_and_a_vm_that_is_killed),
		TEST(test_function_that_is_refused),
		TEST(test_function_that_is_refused_and_in),
		TEST(test_function_that_can_not_be_seen),
		TEST(test_function_that_somebody_else_has),
		TEST(test_function_and_a_late_answer),
		TEST(test_function_without_an_answer),
		TEST(test_function_that_failed_and_another_vm_process),
		TEST(test_function_that_is_not_opened),
		TEST(test_function_without_a_program),
		TEST(test_function_of_a_vm_that_hangs),
		TEST(test_function_whose_request_is_ignored),
		TEST(test_function_of_a_vm_that_hangs_and_ignores_it),
		TEST(test_function_and_a_socket_that_is_swapped),
		TEST(test_function_whose_answer_nobody_heard),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
