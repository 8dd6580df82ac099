/* The libvirt backend: what it asks of its program, and what it makes of each answer. The test is
 * the program's head: tests/doubles/libvirt_program.py hands packets on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <jansson.h>

#include "broker/device.h"
#include "broker/libvirt_program.h"
#include "broker/log.h"
#include "broker/vm.h"
#include "tests/unit/spin.h"
#include "tests/unit/temp.h"
#include "tests/unit/vm-notes.h"

#define HANDLE "vhp-1-2.3-77"
#define ALIAS "ua-vhp-1-2_3-77"
#define RUNNING(run, aliases) \
	"{\"is\":\"running\",\"run\":" run ",\"detail\":\"\",\"aliases\":[" aliases "]}"
#define OUTCOME(outcome, detail) "{\"outcome\":\"" outcome "\",\"detail\":\"" detail "\"}"
#define UNREACHABLE                                                                 \
	"{\"is\":\"unreachable\",\"run\":-1,\"detail\":\"libvirt: no connection\"," \
	"\"aliases\":[]}"

static struct fixture {
	char *dir;
	struct loop *loop;
	struct vm *vm;
	struct device device;
	int listener, fd; /* fd: to the program */
	int id;           /* of the last request */
} f;

static const struct config_general general;
static struct config_vm config = {.name = (char *) "win10", .type = VM_LIBVIRT};

/* The program's head */

static bool has_called(void *data)
{
	(void) data;
	f.fd = accept4(f.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	return f.fd >= 0;
}

static bool has_packet(void *data)
{
	json_t **packet = data;
	char text[4096];
	ssize_t n = recv(f.fd, text, sizeof(text), 0);

	if (n <= 0)
		return false;
	*packet = json_loadb(text, (size_t) n, 0, NULL);
	return true;
}

static bool has_ended(void *data)
{
	char byte;

	(void) data;
	return recv(f.fd, &byte, 1, 0) == 0;
}

/* The program has started, and was given these arguments. */
static void expect_start(const char *uri, const char *domain)
{
	const char *got_uri, *got_domain;
	json_t *packet = NULL;

	close_fd(f.fd);
	spin_until(f.loop, has_called, NULL);
	spin_until(f.loop, has_packet, &packet);
	assert_int_equal(json_unpack(packet, "{s[ss!]!}", "arguments", &got_uri, &got_domain), 0);
	assert_string_equal(got_uri, uri);
	assert_string_equal(got_domain, domain);
	json_decref(packet);
}

static void expect_end(void)
{
	spin_until(f.loop, has_ended, NULL);
	f.fd = close_fd(f.fd);
}

/* The next request is, but for its id, WANTED. */
static void expect(const char *wanted)
{
	json_t *packet = NULL;

	spin_until(f.loop, has_packet, &packet);
	f.id = (int) json_integer_value(json_object_get(packet, "id"));
	json_object_del(packet, "id");
	_cleanup_free_ char *text = json_dumps(packet, JSON_COMPACT | JSON_SORT_KEYS);
	json_decref(packet);
	assert_string_equal(text, wanted);
	assert_true(f.id > 0);
}

static void say(const char *text)
{
	assert_int_equal(send(f.fd, text, strlen(text), 0), (ssize_t) strlen(text));
}

/* TEXT is the answer to the last request. */
static void answer(const char *text)
{
	json_t *packet = json_loads(text, 0, NULL);

	assert_non_null(packet);
	json_object_set_new(packet, "id", json_integer(f.id));
	_cleanup_free_ char *words = json_dumps(packet, JSON_COMPACT);
	json_decref(packet);
	say(words);
}

/* The broker's side */

static bool is_up(void *data)
{
	return f.vm->state == VM_UP && notes.n_up > *(unsigned *) data;
}

static bool is_answered(void *data)
{
	return notes.n_answers > *(unsigned *) data;
}

static bool has_reason(void *data)
{
	return strstr(f.vm->reason, data) != NULL;
}

static void answer_look(const char *text)
{
	unsigned before = notes.n_up;

	expect("{\"do\":\"look\"}");
	answer(text);
	spin_until(f.loop, is_up, &before);
}

static void answer_down(const char *text, const char *reason)
{
	expect("{\"do\":\"look\"}");
	answer(text);
	spin_until(f.loop, has_reason, (char *) reason);
}

static void start(void)
{
	vm_check(f.vm);
	expect_start("qemu:///system", "win10");
	answer_look(RUNNING("4", ""));
}

static void assert_result(enum vmm_outcome outcome, const char *words)
{
	if (notes.result.outcome != outcome || !strstr(notes.result.detail, words))
		fail_msg("outcome %d (%s), not %d (…%s…)", notes.result.outcome,
			 notes.result.detail, outcome, words);
}

static void await(enum vmm_outcome outcome, const char *words)
{
	unsigned before = 0;

	spin_until(f.loop, is_answered, &before);
	assert_result(outcome, words);
	assert_int_equal(notes.n_answers, 1);
	notes.n_answers = 0;
}

static void attach(const char *request, const char *reply)
{
	notes.n_sent = 0;
	f.vm->vmm->attach(f.vm, &f.device, -1);
	expect(request);
	assert_int_equal(notes.n_sent, 1);
	answer(reply);
}

#define DETACH "{\"alias\":\"" ALIAS "\",\"do\":\"detach\"}"
#define ATTACH                \
	"{\"alias\":\"" ALIAS \
	"\",\"bus\":1,\"device\":9,\"do\":\"attach\",\"ids\":\"046d:c52b\",\"kind\":\"usb\"}"

static void detach(const char *reply)
{
	f.vm->vmm->detach(f.vm, &f.device, HANDLE);
	expect(DETACH);
	answer(reply);
}

/* All timers of the next MS milliseconds are due, in no time; nothing is said meanwhile. */
static void wait_for(uint64_t ms)
{
	loop_skip_waiting(true);
	spin_for(f.loop, ms);
	loop_skip_waiting(false);
}

static void listen_for_program(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/program.sock", f.dir);
	setenv("LIBVIRT_DOUBLE", address.sun_path, 1);
	f.listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(f.listener, (struct sockaddr *) &address, sizeof(address)), 0);
	assert_int_equal(listen(f.listener, 4), 0);
}

static int setup(void **state)
{
	(void) state;
	f = (struct fixture){.fd = -1};
	notes = (struct vm_notes){.handle = HANDLE};
	log_init(false);
	f.dir = temp_new();
	libvirt_program_set_path(DOUBLES "/libvirt_program.py");
	listen_for_program();
	f.device = (struct device){
		.id.kind = DEVICE_USB, .id.vid_pid = "046d:c52b", .wish.present = true};
	device_init(&f.device);
	kept_set(&f.device.id.kernel_name, "1-2.3");
	kept_set(&f.device.id.node, "/dev/bus/usb/001/009");
	kept_set(&f.device.place.handle, HANDLE);
	f.device.id.inode = sysfs_inode(f.device.id.devpath);
	config.domain = config.uri = NULL;
	assert_int_equal(loop_new(&f.loop), 0);
	assert_int_equal(vm_new(f.loop, &general, &config, &note_handler, NULL, &f.vm), 0);
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	vm_unref(f.vm);
	loop_free(f.loop);
	/* No process is left, and none unwaited for. */
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	close_fd(f.fd);
	close_fd(f.listener);
	temp_remove(&f.dir);
	return 0;
}

static void test_what_is_ours(void **state)
{
	(void) state;
	vm_check(f.vm);
	expect_start("qemu:///system", "win10");
	answer_look(RUNNING("4", "\"" ALIAS "\",\"ua-other\",7,\"ua-vhp-0000_03_00_0-5\""));
	assert_int_equal(notes.n_handles, 2);
	assert_string_equal(notes.handles[0], HANDLE);
	assert_string_equal(notes.handles[1], "vhp-0000.03.00.0-5");
	assert_int_equal(notes.n_exited, 0);
}

static void test_plug_and_unplug(void **state)
{
	(void) state;
	start();
	attach(ATTACH, OUTCOME("ok", ""));
	await(VMM_OK, "");
	detach(OUTCOME("pending", ""));
	say("{\"event\":\"removed\",\"alias\":\"" ALIAS "\"}");
	await(VMM_OK, "");
	detach(OUTCOME("gone", ""));
	await(VMM_GONE, "");
}

static void test_other_kinds(void **state)
{
	(void) state;
	start();
	f.device.id.kind = DEVICE_PCI;
	kept_set(&f.device.id.kernel_name, "0000:03:00.0");
	attach("{\"address\":\"0000:03:00.0\",\"alias\":\"" ALIAS
	       "\",\"do\":\"attach\",\"kind\":\"pci\"}",
	       OUTCOME("ok", ""));
	await(VMM_OK, "");
	f.device.id.kind = DEVICE_EVDEV;
	kept_set(&f.device.id.node, "/dev/input/event3");
	attach("{\"alias\":\"" ALIAS
	       "\",\"do\":\"attach\",\"kind\":\"evdev\",\"node\":\"/dev/input/event3\"}",
	       OUTCOME("failed", "libvirt: it is not supported"));
	await(VMM_FAILED, "libvirt: it is not supported");
}

/* Its event node may be the host's keyboard's by now. */
static void test_unplugged_while_it_waits(void **state)
{
	(void) state;
	start();
	f.vm->vmm->detach(f.vm, NULL, "vhp-1-3-78");
	f.vm->vmm->attach(f.vm, &f.device, -1);
	expect("{\"alias\":\"ua-vhp-1-3-78\",\"do\":\"detach\"}");
	f.device.id.inode++;
	notes.handle = "vhp-1-3-78";
	answer(OUTCOME("ok", ""));
	spin_for(f.loop, 20);
	assert_int_equal(notes.n_answers, 2);
	assert_int_equal(notes.result.outcome, VMM_GONE);
	vm_check(f.vm);
	answer_look(RUNNING("4", "")); /* and it was asked nothing else */
}

/* The domain may have it, and can't be asked. */
static void test_attach_is_not_known(void **state)
{
	(void) state;
	start();
	attach(ATTACH, OUTCOME("unknown", "libvirt: gone"));
	await(VMM_RETRY, "libvirt: gone");
	assert_true(notes.result.is_unknown);
}

static void test_guest_takes_its_time(void **state)
{
	(void) state;
	start();
	detach(OUTCOME("pending", ""));
	spin_for(f.loop, 20);
	assert_int_equal(notes.n_answers, 0);
	wait_for(3000);
	await(VMM_PENDING, "");
	detach(OUTCOME("pending", ""));
	say("{\"event\":\"refused\",\"alias\":\"" ALIAS "\"}");
	await(VMM_PENDING, "the guest has refused");
	/* Later than anybody has waited: it is looked what there is now. */
	say("{\"event\":\"removed\",\"alias\":\"" ALIAS "\"}");
	answer_look(RUNNING("4", ""));
}

static void test_one_after_the_other(void **state)
{
	struct device second = {.id.kind = DEVICE_USB,
				.id.vid_pid = "046d:c52b",
				.id.node = "/dev/bus/usb/001/010"};

	(void) state;
	device_init(&second);
	second.id.inode = f.device.id.inode;
	kept_set(&second.place.handle, "vhp-1-3-78");
	start();
	f.vm->vmm->attach(f.vm, &f.device, -1);
	f.vm->vmm->attach(f.vm, &second, -1);
	assert_int_equal(notes.n_sent, 1);
	expect(ATTACH);
	answer(OUTCOME("retry", "libvirt: busy"));
	await(VMM_RETRY, "libvirt: busy");
	expect("{\"alias\":\"ua-vhp-1-3-78\",\"bus\":1,\"device\":10,\"do\":\"attach\",\"ids\":"
	       "\"046d:c52b\",\"kind\":\"usb\"}");
	answer(OUTCOME("ok", ""));
	await(VMM_OK, "");
}

static void test_domain_that_is_off(void **state)
{
	(void) state;
	vm_check(f.vm);
	expect_start("qemu:///system", "win10");
	answer_down("{\"is\":\"off\",\"run\":-1,\"detail\":\"it is off\",\"aliases\":[]}",
		    "win10 is not running: it is off");
	assert_true(f.vm->is_absent);
	say("{\"event\":\"changed\"}");
	answer_look(RUNNING("5", ""));
	say("{\"event\":\"changed\"}");
	answer_down("{\"is\":\"absent\",\"run\":-1,\"detail\":\"no such domain\","
		    "\"aliases\":[]}",
		    "no such domain");
	assert_int_equal(notes.n_exited, 1);
	assert_int_equal(f.vm->state, VM_DOWN);
}

static void test_started_anew(void **state)
{
	(void) state;
	start();
	f.vm->vmm->detach(f.vm, &f.device, HANDLE);
	expect(DETACH);
	say("{\"event\":\"changed\"}");
	answer(OUTCOME("pending", ""));
	wait_for(3000);
	await(VMM_PENDING, "");
	answer_look(RUNNING("5", ""));
	assert_int_equal(notes.n_exited, 1);
	say("{\"event\":\"changed\"}");
	answer_look(RUNNING("5", ""));
	assert_int_equal(notes.n_exited, 1);
}

/* A migration with a USB device: libvirt is busy with the domain meanwhile, then it is off here;
 * what it comes back with is told, for who takes away what is not of this host. */
static void test_domain_migrates(void **state)
{
	(void) state;
	start();
	attach(ATTACH, OUTCOME("ok", ""));
	await(VMM_OK, "");
	detach(OUTCOME("retry", "libvirt: cannot acquire state change lock"));
	await(VMM_RETRY, "libvirt: cannot acquire state change lock");
	assert_int_equal(f.vm->state, VM_UP);
	say("{\"event\":\"changed\"}");
	answer_down("{\"is\":\"off\",\"run\":-1,\"detail\":\"it is off\",\"aliases\":[]}",
		    "win10 is not running: it is off");
	assert_int_equal(notes.n_exited, 1);
	say("{\"event\":\"changed\"}");
	answer_look(RUNNING("6", "\"ua-vhp-9-9-1\""));
	assert_int_equal(notes.n_handles, 1);
	assert_string_equal(notes.handles[0], "vhp-9-9-1");
}

static void test_libvirt_is_away(void **state)
{
	(void) state;
	start();
	say("{\"event\":\"changed\"}");
	answer_down(UNREACHABLE, "win10 can't be asked: libvirt: no connection");
	assert_int_equal(f.vm->state, VM_UP);
	say("{\"event\":\"changed\"}");
	answer_look(RUNNING("4", "\"" ALIAS "\""));
	assert_int_equal(notes.n_exited, 0);
	assert_string_equal(f.vm->reason, "");
}

static void test_libvirt_is_not_there_yet(void **state)
{
	(void) state;
	vm_check(f.vm);
	expect_start("qemu:///system", "win10");
	answer_down(UNREACHABLE, "can't be asked");
	assert_int_equal(f.vm->state, VM_DOWN);
	assert_false(f.vm->is_absent);
}

static void test_program_dies(void **state)
{
	(void) state;
	start();
	f.vm->vmm->attach(f.vm, &f.device, -1);
	expect(ATTACH);
	f.fd = close_fd(f.fd);
	await(VMM_RETRY, "vhotplug-libvirt has ended with status 7");
	/* It is not started for each request. */
	f.vm->vmm->attach(f.vm, &f.device, -1);
	await(VMM_RETRY, "vhotplug-libvirt has ended with status 7");
	assert_int_equal(f.vm->state, VM_UP);
	wait_for(1000);
	expect_start("qemu:///system", "win10");
	answer_look(RUNNING("4", "\"" ALIAS "\""));
	assert_int_equal(notes.n_exited, 0);
	assert_int_equal(notes.n_handles, 1);
}

static void test_libvirt_hangs(void **state)
{
	(void) state;
	start();
	f.vm->vmm->attach(f.vm, &f.device, -1);
	expect(ATTACH);
	wait_for(60000);
	await(VMM_RETRY, "libvirt has not answered in a minute");
	expect_end();
	wait_for(1000);
	expect_start("qemu:///system", "win10");
	expect("{\"do\":\"look\"}");
	wait_for(60000);
	assert_true(has_reason((char *) "win10 can't be asked: libvirt has not answered"));
	assert_int_equal(f.vm->state, VM_UP);
}

static void test_nonsense(void **state)
{
	static const char *const answers[] = {"{}", "{\"outcome\":\"maybe\"}",
					      "{\"outcome\":7,\"detail\":[]}"};

	(void) state;
	start();
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		attach(ATTACH, answers[i]);
		await(VMM_FAILED, "not understood; update all of vhotplug");
	}
	/* Of no request, and no event that is known. */
	say("{\"id\":999,\"outcome\":\"ok\"}");
	say("{\"event\":\"tea\"}");
	say("{\"event\":\"removed\"}");
	answer_look(RUNNING("4", ""));
	say("[1]");
	expect_end();
	wait_for(1000);
	expect_start("qemu:///system", "win10");
}

static void test_not_installed(void **state)
{
	(void) state;
	libvirt_program_set_path("/nonexistent/vhotplug-libvirt");
	vm_check(f.vm);
	assert_true(has_reason((char *) "win10 can't be asked: vhotplug-libvirt is not installed"));
	assert_non_null(strstr(f.vm->reason, "install the package vhotplug-libvirt"));
	/* It may be by now. */
	libvirt_program_set_path(DOUBLES "/libvirt_program.py");
	wait_for(1000);
	expect_start("qemu:///system", "win10");
	answer_look(RUNNING("4", ""));
}

static void test_what_the_config_says(void **state)
{
	struct config_vm other = config;

	(void) state;
	assert_true(vm_matches(f.vm, &other));
	other.domain = (char *) "win 11";
	assert_false(vm_matches(f.vm, &other));
	other.domain = NULL;
	other.uri = (char *) "qemu:///session";
	assert_false(vm_matches(f.vm, &other));

	vm_unref(f.vm);
	other.domain = (char *) "win 11";
	assert_int_equal(vm_new(f.loop, &general, &other, &note_handler, NULL, &f.vm), 0);
	assert_true(vm_matches(f.vm, &other));
	assert_false(vm_matches(f.vm, &config));
	vm_check(f.vm);
	expect_start("qemu:///session", "win 11");
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_what_is_ours),
		T(test_plug_and_unplug),
		T(test_other_kinds),
		T(test_unplugged_while_it_waits),
		T(test_attach_is_not_known),
		T(test_guest_takes_its_time),
		T(test_one_after_the_other),
		T(test_domain_that_is_off),
		T(test_started_anew),
		T(test_domain_migrates),
		T(test_libvirt_is_away),
		T(test_libvirt_is_not_there_yet),
		T(test_program_dies),
		T(test_libvirt_hangs),
		T(test_nonsense),
		T(test_not_installed),
		T(test_what_the_config_says),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
