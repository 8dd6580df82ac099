/* The crosvm backend against the stand-in for crosvm: what it asks, what it makes of each answer,
 * and that it never touches a port that is not its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>

#include "broker/crosvm_socket.h"
#include "broker/device.h"
#include "broker/log.h"
#include "broker/vm.h"
#include "broker/vmm_crosvm.h"
#include "tests/unit/crosvm-double.h"
#include "tests/unit/temp.h"
#include "tests/unit/words.h"

#define PATIENCE_MS 15000

/* The words */

static void test_answers_are_understood(void **state)
{
	static const struct {
		const char *text;
		enum crosvm_answer answer;
		unsigned port;
		int error;
	} cases[] = {
		{"{\"UsbResponse\":{\"Ok\":{\"port\":9}}}", CROSVM_OK, 9, 0},
		{"{\"UsbResponse\":{\"Ok\":{\"port\":16}}}\n", CROSVM_OK, 16, 0},
		{"\"Ok\"", CROSVM_OK, 0, 0},
		{"{\"UsbResponse\":\"NoAvailablePort\"}", CROSVM_NO_AVAILABLE_PORT, 0, 0},
		{"{\"UsbResponse\":\"NoSuchDevice\"}", CROSVM_NO_SUCH_DEVICE, 0, 0},
		{"{\"UsbResponse\":\"NoSuchPort\"}", CROSVM_NO_SUCH_PORT, 0, 0},
		{"{\"UsbResponse\":\"FailedToOpenDevice\"}", CROSVM_FAILED_TO_OPEN_DEVICE, 0, 0},
		{"{\"UsbResponse\":\"FailedToInitHostDevice\"}", CROSVM_FAILED_TO_INIT_HOST_DEVICE,
		 0, 0},
		{"{\"UsbResponse\":\"SomethingNew\"}", CROSVM_ERROR, 0, 0},
		{"{\"UsbResponse\":{\"SomethingNew\":{\"port\":1}}}", CROSVM_ERROR, 0, 0},
		{"{\"Err\":5}", CROSVM_ERROR, 0, 5},
		{"{\"ErrString\":\"why\"}", CROSVM_ERROR, 0, 0},
		{"{\"UsbResponse\":{\"Devices\":[]}}", CROSVM_DEVICES, 0, 0},
	};
	struct crosvm_reply reply;

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		memset(&reply, 0xff, sizeof(reply));
		assert_int_equal(crosvm_parse(cases[i].text, strlen(cases[i].text), &reply), 0);
		assert_int_equal(reply.answer, cases[i].answer);
		assert_int_equal(reply.port, cases[i].port);
		assert_int_equal(reply.error, cases[i].error);
		if (reply.answer != CROSVM_OK && reply.answer != CROSVM_DEVICES)
			assert_true(*reply.text);
	}
}

static void test_lists_are_understood(void **state)
{
	static const char text[] =
		"{\"UsbResponse\":{\"Devices\":[{\"port\":0,\"vendor_id\":0,\"product_id\":0},"
		"{\"port\":9,\"vendor_id\":6353,\"product_id\":20199},"
		"{\"port\":16,\"vendor_id\":65535,\"product_id\":1}]}}";
	struct crosvm_reply reply;

	(void) state;
	assert_int_equal(crosvm_parse(text, strlen(text), &reply), 0);
	assert_int_equal(reply.answer, CROSVM_DEVICES);
	for (unsigned port = 0; port <= CROSVM_PORTS; port++)
		assert_int_equal(reply.ports[port].used, port == 9 || port == 16);
	assert_int_equal(reply.ports[9].vendor, 0x18d1);
	assert_int_equal(reply.ports[9].product, 0x4ee7);
	assert_int_equal(reply.ports[16].vendor, 0xffff);
}

#define ENTRY_OF(port, vendor) "{\"port\":" port ",\"vendor_id\":" vendor ",\"product_id\":1}"
#define ENTRY ENTRY_OF("1", "1")

static void test_other_packets_are_refused(void **state)
{
	static const char *const texts[] = {
		"",
		"\n",
		"{",
		"ok",
		"1",
		"null",
		"[]",
		"{}",
		"\"NotOk\"",
		"{\"Err\":5} x",
		"{\"Err\":\"5\"}",
		"{\"Err\":-5}",
		"{\"Err\":99999}",
		"{\"Err\":5,\"Err\":6}",
		"{\"Err\":5,\"ErrString\":\"x\"}",
		"{\"UsbResponse\":{}}",
		"{\"UsbResponse\":5}",
		"{\"UsbResponse\":{\"Ok\":{}}}",
		"{\"UsbResponse\":{\"Ok\":{\"port\":0}}}",
		"{\"UsbResponse\":{\"Ok\":{\"port\":17}}}",
		"{\"UsbResponse\":{\"Ok\":{\"port\":-1}}}",
		"{\"UsbResponse\":{\"Ok\":{\"port\":\"9\"}}}",
		"{\"UsbResponse\":{\"Ok\":{\"port\":4294967297}}}",
		"{\"UsbResponse\":{\"Devices\":[{\"port\":1}]}}",
		"{\"UsbResponse\":{\"Devices\":[1]}}",
		"{\"UsbResponse\":{\"Devices\":[" ENTRY "," ENTRY "]}}",
		"{\"UsbResponse\":{\"Devices\":[" ENTRY_OF("1", "65536") "]}}",
		"{\"UsbResponse\":{\"Devices\":[" ENTRY_OF("17", "1") "]}}",
	};
	struct crosvm_reply reply, before;

	(void) state;
	memset(&reply, 0x5a, sizeof(reply));
	before = reply;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		if (crosvm_parse(texts[i], strlen(texts[i]), &reply) != -EBADMSG)
			fail_msg("accepted: %s", texts[i]);
		assert_memory_equal(&reply, &before, sizeof(reply));
	}
}

/* The backend */

struct test_device {
	struct device device; /* first: the handlers get a pointer to it */
	unsigned n_attached, n_detached, n_recorded, n_sent;
	struct vmm_result result;
	char recorded[96]; /* the handle that was put on disk before the attach */
	bool was_recorded_first;
};

struct fixture {
	char *dir;
	char socket[128];
	struct loop *loop;
	struct vm *vm;
	struct crosvm_double crosvm;
	struct device *on_record; /* what a former broker has left, or NULL */
	unsigned n_up, n_exited;
	char handles[16][96];
	size_t n_handles;
	bool (*until)(struct fixture *f, const void *data);
	const void *until_data;
	bool timed_out;
};

static void on_up(void *data, struct vm *vm, char *const *handles, size_t n)
{
	struct fixture *f = data;

	(void) vm;
	f->n_up++;
	f->n_handles = n;
	for (size_t i = 0; i < n; i++)
		snprintf(f->handles[i], sizeof(f->handles[i]), "%s", handles[i]);
}

static void on_exited(void *data, struct vm *vm)
{
	struct fixture *f = data;

	(void) vm;
	f->n_exited++;
}

static void on_reason(void *data, struct vm *vm)
{
	(void) data, (void) vm;
}

static void on_handle_changed(void *data, struct device *device)
{
	struct fixture *f = data;
	struct test_device *d = (struct test_device *) device;

	d->n_recorded++;
	strcpy(d->recorded, device->place.handle);
	/* Nothing may have been sent yet. */
	d->was_recorded_first = d->n_sent == 0;
	(void) f;
}

static void on_attach_sent(void *data, struct device *device)
{
	(void) data;
	((struct test_device *) device)->n_sent++;
}

static void on_attached(void *data, struct device *device, const struct vmm_result *result)
{
	struct test_device *d = (struct test_device *) device;

	(void) data;
	d->n_attached++;
	d->result = *result;
}

static void on_detached(void *data, struct vm *vm, struct device *device, const char *handle,
			const struct vmm_result *result)
{
	struct test_device *d = (struct test_device *) device;

	(void) data, (void) vm;
	assert_string_equal(handle, device->place.handle);
	d->n_detached++;
	d->result = *result;
}

static struct device *on_next_device(void *data, const struct vm *vm, const struct device *at)
{
	const struct fixture *f = data;

	(void) vm;
	return at ? NULL : f->on_record;
}

static const struct vm_handler handler = {
	.up = on_up,
	.exited = on_exited,
	.reason = on_reason,
	.handle_changed = on_handle_changed,
	.attach_sent = on_attach_sent,
	.attached = on_attached,
	.detached = on_detached,
	.next_device = on_next_device,
};

static void look(void *data)
{
	struct fixture *f = data;

	if (f->until && f->until(f, f->until_data))
		loop_quit(f->loop);
}

static void too_late(void *data)
{
	struct fixture *f = data;

	f->timed_out = true;
	loop_quit(f->loop);
}

/* Runs the loop until UNTIL says so; returns whether it did in time. */
static bool run(struct fixture *f, bool (*until)(struct fixture *, const void *), const void *data,
		unsigned ms)
{
	struct loop_timer timer = {0};

	f->until = until;
	f->until_data = data;
	f->timed_out = false;
	loop_timer_start(f->loop, &timer, ms, too_late, f);
	assert_int_equal(loop_run(f->loop), 0);
	loop_timer_stop(&timer);
	return !f->timed_out;
}

static bool is_up(struct fixture *f, const void *data)
{
	return f->vm->state == VM_UP && f->n_up > *(const unsigned *) data;
}

static bool has_reason(struct fixture *f, const void *data)
{
	return strstr(f->vm->reason, data) != NULL;
}

static bool is_answered(struct fixture *f, const void *data)
{
	const struct test_device *d = data;

	(void) f;
	return d->n_attached + d->n_detached > 0;
}

static void wait_up(struct fixture *f)
{
	unsigned before = f->n_up;

	assert_true(run(f, is_up, &before, PATIENCE_MS));
}

static void start_double(struct fixture *f)
{
	double_start(&f->crosvm, f->socket);
	double_share_clock(&f->crosvm, f->dir);
}

static void make_vm(struct fixture *f)
{
	const struct config_general general = {.crosvm = (char *) DOUBLES "/crosvm"};
	const struct config_vm config = {
		.name = (char *) "vm1", .type = VM_CROSVM, .socket = f->socket};

	assert_int_equal(vm_new(f->loop, &general, &config, &handler, f, &f->vm), 0);
}

/* Another broker, with DEVICE on record under HANDLE. */
static void restart_with(struct fixture *f, struct test_device *d, const char *handle)
{
	kept_set(&d->device.place.handle, handle);
	f->on_record = &d->device;
	vm_unref(f->vm);
	run(f, NULL, NULL, 1);
	make_vm(f);
	vm_check(f->vm);
	wait_up(f);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	log_init(false);
	f->dir = temp_new();
	snprintf(f->socket, sizeof(f->socket), "%s/crosvm.sock", f->dir);
	assert_int_equal(loop_new(&f->loop), 0);
	loop_set_pass_end(f->loop, look, f);
	start_double(f);
	make_vm(f);
	vm_check(f->vm);
	wait_up(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	vm_unref(f->vm);
	loop_free(f->loop);
	double_stop(&f->crosvm, 0);
	temp_remove(&f->dir);
	free(f);
	crosvm_pace = (struct crosvm_pace){
		.answer = 5000, .first_wait = 1000, .max_wait = 30000, .attempts = 20};
	return 0;
}

/* A file with the descriptors of a device NAME, and the device. */
static struct test_device new_device(struct fixture *f, const char *name, uint16_t vendor,
				     uint16_t product, unsigned usb)
{
	struct test_device d = {.device.wish.present = true};
	const uint8_t descriptor[18] = {18,
					1,
					0,
					(uint8_t) usb,
					0,
					0,
					0,
					64,
					vendor & 0xff,
					(uint8_t) (vendor >> 8),
					product & 0xff,
					(uint8_t) (product >> 8),
					0,
					1,
					0,
					0,
					0,
					1};

	device_init(&d.device);
	kept_set(&d.device.id.kernel_name, name);
	set_words(&d.device.id.node, "%.40s/%s", f->dir, name);
	set_words(&d.device.id.vid_pid, "%04x:%04x", vendor, product);
	set_words(&d.device.place.handle, "vhp-%s-1", name);
	FILE *file = fopen(d.device.id.node, "we");
	assert_non_null(file);
	assert_int_equal(fwrite(descriptor, 1, 18, file), 18);
	fclose(file);
	return d;
}

static struct test_device new_keyboard(struct fixture *f, const char *name)
{
	return new_device(f, name, 0x046d, 0xc31c, 2);
}

static void begin_attach(struct fixture *f, struct test_device *d)
{
	int fd = open(d->device.id.node, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	d->n_attached = d->n_detached = d->n_sent = 0;
	f->vm->vmm->attach(f->vm, &d->device, fd);
	close(fd);
}

static void begin_detach(struct fixture *f, struct test_device *d)
{
	d->n_attached = d->n_detached = 0;
	f->vm->vmm->detach(f->vm, &d->device, d->device.place.handle);
}

static void finish(struct fixture *f, struct test_device *d)
{
	assert_true(run(f, is_answered, d, PATIENCE_MS));
	assert_int_equal(d->n_attached + d->n_detached, 1);
}

static void attach(struct fixture *f, struct test_device *d)
{
	begin_attach(f, d);
	finish(f, d);
}

static void detach(struct fixture *f, struct test_device *d)
{
	begin_detach(f, d);
	finish(f, d);
}

static void assert_result(const struct test_device *d, enum vmm_outcome outcome, const char *words)
{
	if (d->result.outcome != outcome || !strstr(d->result.detail, words))
		fail_msg("%s: outcome %d (%s), not %d (…%s…)", d->device.id.kernel_name,
			 d->result.outcome, d->result.detail, outcome, words);
}

static void assert_attached(const struct test_device *d, unsigned port)
{
	char start[32];

	assert_result(d, VMM_OK, "on port");
	snprintf(start, sizeof(start), "crosvm-%u-%s@", port, d->device.id.vid_pid);
	assert_non_null(startswith(d->device.place.handle, start));
	assert_int_equal(d->device.place.port, port);
}

static size_t open_descriptors(void)
{
	size_t n = 0;

	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_attach_and_detach(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1");
	size_t before = open_descriptors();

	attach(f, &keyboard);
	assert_attached(&keyboard, 1);
	assert_int_equal(keyboard.n_sent, 1);
	assert_string_equal(double_port(&f->crosvm, 1), "1-1");
	/* What was on record while the outcome was not known. */
	assert_int_equal(keyboard.n_recorded, 1);
	assert_true(keyboard.was_recorded_first);
	assert_non_null(startswith(keyboard.recorded, "crosvm-after-00000-046d:c31c@"));
	assert_null(startswith(keyboard.device.place.handle, "crosvm-after-"));

	detach(f, &keyboard);
	assert_result(&keyboard, VMM_OK, "");
	assert_int_equal(double_ports(&f->crosvm), 0);
	assert_int_equal(double_requests(&f->crosvm,
					 "{\"UsbCommand\":{\"AttachDevice\":{\"bus\":0,\"addr\":0,"
					 "\"vid\":0,\"pid\":0,\"file\":0}}}"),
			 1);
	/* Nothing is left open when nothing is asked. */
	assert_int_equal(open_descriptors(), before);
}

static void test_usb3_has_its_own_ports(void **state)
{
	struct fixture *f = *state;
	struct test_device disk = new_device(f, "2-1", 0x0781, 0x5581, 3);

	attach(f, &disk);
	assert_attached(&disk, 9);
}

static void test_twins_are_two_devices(void **state)
{
	struct fixture *f = *state;
	struct test_device left = new_keyboard(f, "1-1"), right = new_keyboard(f, "1-2");

	begin_attach(f, &left);
	begin_attach(f, &right);
	finish(f, &left);
	finish(f, &right);
	assert_attached(&left, 1);
	assert_attached(&right, 2);
	detach(f, &left);
	assert_string_equal(double_port(&f->crosvm, 1), "");
	assert_string_equal(double_port(&f->crosvm, 2), "1-2");
}

static void test_the_list_has_all_ports(void **state)
{
	struct fixture *f = *state;
	char name[16];

	for (unsigned i = 1; i <= 8; i++) {
		snprintf(name, sizeof(name), "2-%u", i);
		struct test_device disk = new_device(f, name, 0x0781, (uint16_t) (0x5580 + i), 3);

		attach(f, &disk);
		assert_attached(&disk, 8 + i);
	}
	vm_check(f->vm);
	wait_up(f);
	assert_int_equal(f->n_handles, 8);
	assert_non_null(startswith(f->handles[7], "crosvm-16-0781:5588@"));
}

static void test_the_guest_is_not_ready(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1"), other = new_keyboard(f, "1-2");

	crosvm_pace.first_wait = 300;
	double_do(&f->crosvm, "foreign 046d c31c 2"); /* a twin of somebody else's */
	double_do(&f->crosvm, "guest off");
	for (unsigned i = 0; i < 3; i++) {
		attach(f, &keyboard);
		assert_result(&keyboard, VMM_RETRY, "has not started its USB driver yet");
		/* Exactly the port that was lost is free again. */
		assert_string_equal(double_port(&f->crosvm, 1), "foreign");
		assert_int_equal(double_ports(&f->crosvm), 1);
		assert_in_range(keyboard.result.delay_ms, 300U << i, 300U << i);
		/* Meanwhile nobody asks. */
		unsigned requests = double_requests(&f->crosvm, "");
		attach(f, &other);
		assert_result(&other, VMM_RETRY, "has not started its USB driver yet");
		assert_in_range(other.result.delay_ms, 1, 300U << i);
		assert_int_equal(double_requests(&f->crosvm, ""), requests);
		run(f, NULL, NULL, 300U << i);
	}
	double_do(&f->crosvm, "unplug 1"); /* the real one's controller would not outlive that */
	double_do(&f->crosvm, "guest on");
	attach(f, &keyboard);
	assert_attached(&keyboard, 1);
	wait_up(f); /* tells the others */
	attach(f, &other);
	assert_attached(&other, 2);
}

static void test_the_guest_is_never_ready(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1");

	crosvm_pace.first_wait = 1;
	crosvm_pace.max_wait = 2;
	crosvm_pace.attempts = 4;
	double_do(&f->crosvm, "guest off");
	for (unsigned i = 1; i < crosvm_pace.attempts; i++) {
		attach(f, &keyboard);
		assert_result(&keyboard, VMM_RETRY, "");
		run(f, NULL, NULL, 5);
	}
	attach(f, &keyboard);
	assert_result(&keyboard, VMM_FAILED, "plug the device in again, or restart the VM");
	assert_int_equal(double_ports(&f->crosvm), 0);
	/* Plugged in again, it is tried once. */
	double_do(&f->crosvm, "guest on");
	attach(f, &keyboard);
	assert_attached(&keyboard, 1);
}

static void test_a_restarted_vm_starts_over(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1");

	crosvm_pace.first_wait = 60000;
	crosvm_pace.max_wait = 60000;
	double_do(&f->crosvm, "guest off");
	attach(f, &keyboard);
	assert_result(&keyboard, VMM_RETRY, "");
	double_stop(&f->crosvm, 0);
	start_double(f);
	wait_up(f);
	assert_int_equal(f->n_exited, 1);
	attach(f, &keyboard);
	assert_attached(&keyboard, 1);
}

static void test_the_hub_is_full(void **state)
{
	struct fixture *f = *state;
	struct test_device ninth = new_keyboard(f, "1-9");

	for (unsigned i = 0; i < 8; i++)
		double_do(&f->crosvm, "foreign 046d c31c 2");
	attach(f, &ninth);
	assert_result(&ninth, VMM_RETRY, "hub of vm1 is full");
	assert_int_equal(ninth.result.delay_ms, 1000);
	assert_int_equal(double_ports(&f->crosvm), 8);
	assert_int_equal(double_requests(&f->crosvm, "DetachDevice"), 0);
	ninth.device.attempt.n_retries = 19;
	attach(f, &ninth);
	assert_result(&ninth, VMM_FAILED, "take a device out");
	/* Ports of the other kind are still there. */
	struct test_device disk = new_device(f, "2-1", 0x0781, 0x5581, 3);
	attach(f, &disk);
	assert_attached(&disk, 9);
}

static void test_an_unplugged_device_is_gone(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1");

	attach(f, &keyboard);
	double_do(&f->crosvm, "unplug 1");
	detach(f, &keyboard);
	assert_result(&keyboard, VMM_GONE, "let go of it before");
	assert_int_equal(double_requests(&f->crosvm, "DetachDevice"), 0);
}

static void test_an_input_device_from_its_start(void **state)
{
	struct fixture *f = *state;
	struct test_device keys = new_keyboard(f, "event3");

	keys.device.id.kind = DEVICE_EVDEV;
	kept_set(&keys.device.id.devpath, "/devices");
	keys.device.id.inode = sysfs_inode("/devices");
	kept_set(&keys.device.place.handle, "crosvm-start-event3");
	detach(f, &keys);
	assert_result(&keys, VMM_PENDING, "no input device back while it runs: stays in vm1");
	assert_true(keys.result.until_end);
	keys.device.id.inode++;
	detach(f, &keys);
	assert_result(&keys, VMM_GONE, "");
}

static void test_a_port_of_another_device_is_left_alone(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1");

	attach(f, &keyboard);
	double_do(&f->crosvm, "unplug 1");
	double_do(&f->crosvm, "foreign 1234 5678 2");
	detach(f, &keyboard);
	assert_result(&keyboard, VMM_GONE, "");
	assert_string_equal(double_port(&f->crosvm, 1), "foreign");
}

/* A twin has got the port while the former one's detach was waiting its turn. */
static void test_a_port_given_to_a_twin_is_left_alone(void **state)
{
	struct fixture *f = *state;
	struct test_device left = new_keyboard(f, "1-1"), right = new_keyboard(f, "1-2");

	attach(f, &left);
	double_do(&f->crosvm, "unplug 1");
	begin_attach(f, &right);
	begin_detach(f, &left);
	finish(f, &left);
	finish(f, &right);
	assert_attached(&right, 1);
	assert_result(&left, VMM_GONE, "gone to another device");
	assert_string_equal(double_port(&f->crosvm, 1), "1-2");
}

static void test_an_unreadable_device(void **state)
{
	struct fixture *f = *state;
	struct test_device broken = new_keyboard(f, "1-1");

	assert_int_equal(truncate(broken.device.id.node, 7), 0);
	attach(f, &broken);
	assert_result(&broken, VMM_GONE, "NoSuchDevice");
}

static void test_a_device_that_left_the_queue_is_not_asked_for(void **state)
{
	struct fixture *f = *state;
	struct test_device first = new_keyboard(f, "1-1"), second = new_keyboard(f, "1-2");

	begin_attach(f, &first);
	begin_attach(f, &second);
	second.device.wish.present = false;
	finish(f, &first);
	finish(f, &second);
	assert_result(&second, VMM_GONE, "unplugged");
	assert_int_equal(double_ports(&f->crosvm), 1);
}

static void test_a_hanging_crosvm(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1"), other = new_keyboard(f, "1-2");

	crosvm_pace.answer = 300;
	double_do(&f->crosvm, "hang");
	begin_attach(f, &keyboard);
	begin_attach(f, &other);
	assert_true(run(f, has_reason, "does not answer", PATIENCE_MS));
	assert_int_equal(keyboard.n_attached, 0);
	double_do(&f->crosvm, "go");
	finish(f, &keyboard);
	finish(f, &other);
	assert_attached(&keyboard, 1);
	assert_attached(&other, 2);
	assert_string_equal(f->vm->reason, "");
}

/* The answer to the attach itself is late: it counts, and nothing is asked twice. */
static void test_a_late_answer_counts(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1"), other = new_keyboard(f, "1-2");

	crosvm_pace.answer = 300;
	double_do(&f->crosvm, "late AttachDevice 0.7");
	begin_attach(f, &keyboard);
	begin_attach(f, &other);
	assert_true(run(f, has_reason, "does not answer", PATIENCE_MS));
	finish(f, &keyboard);
	assert_attached(&keyboard, 1);
	assert_string_equal(f->vm->reason, "");
	finish(f, &other);
	assert_attached(&other, 2);
	assert_int_equal(double_requests(&f->crosvm, "AttachDevice"), 2);
	/* Two for the devices, one for the VM, one to see whether it lives. */
	assert_int_equal(double_requests(&f->crosvm, "ListDevice"), 4);
}

static void test_an_ignored_attach(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1"), other = new_keyboard(f, "1-2");

	crosvm_pace.answer = 300;
	double_do(&f->crosvm, "deaf AttachDevice");
	begin_attach(f, &keyboard);
	begin_attach(f, &other);
	finish(f, &keyboard);
	assert_result(&keyboard, VMM_FAILED, "ignored the request");
	finish(f, &other);
	assert_attached(&other, 1);
}

static void test_an_ignored_detach(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1");

	crosvm_pace.answer = 300;
	attach(f, &keyboard);
	double_do(&f->crosvm, "deaf DetachDevice");
	detach(f, &keyboard);
	assert_result(&keyboard, VMM_RETRY, "ignored the request");
	detach(f, &keyboard);
	assert_result(&keyboard, VMM_OK, "");
}

/* crosvm's own time-out: the attach is carried out later, and each answer is late by two. */
static void test_a_stalled_controller(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1"), other = new_keyboard(f, "1-2");

	double_do(&f->crosvm, "stall AttachDevice");
	attach(f, &keyboard);
	assert_result(&keyboard, VMM_RETRY, "Input/output error");
	double_do(&f->crosvm, "unstall");
	assert_string_equal(double_port(&f->crosvm, 1), "1-1");
	attach(f, &other);
	/* The port that the late attach has taken was found and freed before. */
	assert_attached(&other, 1);
	assert_string_equal(double_port(&f->crosvm, 1), "1-2");
	assert_int_equal(double_ports(&f->crosvm), 1);
	detach(f, &other);
	assert_result(&other, VMM_OK, "");
	assert_int_equal(double_ports(&f->crosvm), 0);
}

/* The guest has started its driver with a device on a port: one more request is answered, and after
 * three time-outs nothing is asked any more, until there is another process. */
static void test_a_dead_controller(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1"), other = new_keyboard(f, "1-2");

	attach(f, &keyboard);
	double_do(&f->crosvm, "guest off");
	double_do(&f->crosvm, "guest on");
	attach(f, &other);
	assert_result(&other, VMM_RETRY, "Input/output error");
	detach(f, &keyboard);
	assert_result(&keyboard, VMM_RETRY, "can't reach the USB controller");

	unsigned requests = double_requests(&f->crosvm, "");
	attach(f, &other);
	assert_result(&other, VMM_FAILED, "has stopped working; restart the VM");
	detach(f, &keyboard);
	assert_result(&keyboard, VMM_GONE, "has stopped working; restart the VM");
	unsigned n_up = f->n_up;
	vm_check(f->vm); /* is answered at once */
	assert_int_equal(f->n_up, n_up + 1);
	assert_int_equal(f->n_handles, 0);
	assert_int_equal(double_requests(&f->crosvm, ""), requests);

	double_stop(&f->crosvm, SIGKILL);
	unlink(f->socket);
	start_double(f);
	wait_up(f);
	attach(f, &other);
	assert_attached(&other, 1);
}

static void test_no_usb(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1");

	double_do(&f->crosvm, "usb off");
	attach(f, &keyboard);
	assert_result(&keyboard, VMM_FAILED, "without --no-usb");
	double_do(&f->crosvm, "usb absent");
	attach(f, &keyboard);
	assert_result(&keyboard, VMM_FAILED, "built without USB");
	/* It runs nevertheless, and is not asked again and again. */
	vm_check(f->vm);
	wait_up(f);
	assert_int_equal(f->n_handles, 0);
	unsigned requests = double_requests(&f->crosvm, "");
	run(f, NULL, NULL, 500);
	assert_int_equal(double_requests(&f->crosvm, ""), requests);
}

static void test_a_closed_connection(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1");

	double_do(&f->crosvm, "eof");
	attach(f, &keyboard);
	assert_result(&keyboard, VMM_RETRY, "closed the connection");
	attach(f, &keyboard);
	assert_attached(&keyboard, 1);
}

static void test_a_killed_vm(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1");

	double_do(&f->crosvm, "hang");
	begin_attach(f, &keyboard);
	double_stop(&f->crosvm, SIGKILL);
	finish(f, &keyboard);
	assert_result(&keyboard, VMM_RETRY, "");
	assert_int_equal(unlink(f->socket), 0);
	start_double(f);
	wait_up(f);
	assert_int_equal(f->n_exited, 1);
	attach(f, &keyboard);
	assert_attached(&keyboard, 1);
}

/* What a broker finds that comes after one which was killed right after its attach. */
static void test_a_doubtful_attach_is_undone(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1");

	double_do(&f->crosvm, "foreign 046d c31c 2");
	attach(f, &keyboard);
	assert_attached(&keyboard, 2);
	restart_with(f, &keyboard, keyboard.recorded);
	assert_int_equal(f->n_handles, 1);
	assert_non_null(startswith(f->handles[0], "crosvm-1-"));
	assert_string_equal(double_port(&f->crosvm, 1), "foreign");
	assert_int_equal(double_ports(&f->crosvm), 1);
}

static void test_doubt_that_fits_two_ports_frees_none(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1");

	attach(f, &keyboard);
	double_do(&f->crosvm, "foreign 046d c31c 2");
	restart_with(f, &keyboard, keyboard.recorded);
	assert_int_equal(f->n_handles, 2);
	assert_int_equal(double_ports(&f->crosvm), 2);
}

/* Handles of a former process name nothing in this one. */
static void test_handles_of_another_process(void **state)
{
	struct fixture *f = *state;
	struct test_device keyboard = new_keyboard(f, "1-1"), twin = new_keyboard(f, "1-2");
	char handle[DEVICE_HANDLE_SIZE];

	attach(f, &keyboard);
	snprintf(handle, sizeof(handle), "%.*s@1.1",
		 (int) strcspn(keyboard.device.place.handle, "@"), keyboard.device.place.handle);
	kept_set(&keyboard.device.place.handle, handle);
	detach(f, &keyboard);
	assert_result(&keyboard, VMM_GONE, "");
	attach(f, &twin);
	restart_with(f, &twin, "crosvm-after-00000-046d:c31c@1.1");
	assert_int_equal(double_ports(&f->crosvm), 2);
}

static void test_a_socket_that_is_not_crosvms(void **state)
{
	struct fixture *f = *state;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	double_stop(&f->crosvm, 0);
	strcpy(address.sun_path, f->socket);
	assert_int_equal(bind(fd, (struct sockaddr *) &address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_true(run(f, has_reason, "no control socket of crosvm's", PATIENCE_MS));
	assert_int_equal(f->vm->state, VM_DOWN);
}

#define BACKEND(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers_are_understood),
		cmocka_unit_test(test_lists_are_understood),
		cmocka_unit_test(test_other_packets_are_refused),
		BACKEND(test_attach_and_detach),
		BACKEND(test_usb3_has_its_own_ports),
		BACKEND(test_twins_are_two_devices),
		BACKEND(test_the_list_has_all_ports),
		BACKEND(test_the_guest_is_not_ready),
		BACKEND(test_the_guest_is_never_ready),
		BACKEND(test_a_restarted_vm_starts_over),
		BACKEND(test_the_hub_is_full),
		BACKEND(test_an_unplugged_device_is_gone),
		BACKEND(test_an_input_device_from_its_start),
		BACKEND(test_a_port_of_another_device_is_left_alone),
		BACKEND(test_a_port_given_to_a_twin_is_left_alone),
		BACKEND(test_an_unreadable_device),
		BACKEND(test_a_device_that_left_the_queue_is_not_asked_for),
		BACKEND(test_a_hanging_crosvm),
		BACKEND(test_a_late_answer_counts),
		BACKEND(test_an_ignored_attach),
		BACKEND(test_an_ignored_detach),
		BACKEND(test_a_stalled_controller),
		BACKEND(test_a_dead_controller),
		BACKEND(test_no_usb),
		BACKEND(test_a_closed_connection),
		BACKEND(test_a_killed_vm),
		BACKEND(test_a_doubtful_attach_is_undone),
		BACKEND(test_doubt_that_fits_two_ports_frees_none),
		BACKEND(test_handles_of_another_process),
		BACKEND(test_a_socket_that_is_not_crosvms),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
