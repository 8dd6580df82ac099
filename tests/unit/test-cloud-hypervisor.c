/* The cloud-hypervisor backend against the stand-in for it: what it asks, and what it makes of each
 * answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/device.h"
#include "broker/log.h"
#include "broker/vm.h"
#include "helper/root.h"
#include "tests/unit/crosvm-double.h"
#include "tests/unit/spin.h"
#include "tests/unit/temp.h"
#include "tests/unit/tree.h"
#include "tests/unit/vm-notes.h"

#define ADDRESS "ffff:ff:1f.7" /* of a PCI function that no machine has */
#define HANDLE "vhp-ffff.ff.1f.7-4436"
#define SIBLING "ffff:ff:1f.6" /* of the same IOMMU group */
#define SIBLING_HANDLE "vhp-ffff.ff.1f.6-4437"

static struct fixture {
	char *dir;
	char socket[128];
	struct loop *loop;
	struct vm *vm;
	struct crosvm_double ch; /* its server */
	struct device nic;
	struct device sound; /* in the group of nic */
	unsigned n_walks;    /* through what a process has open */
} f;

DIR *__real_root_opendir(const char *format, ...) _printf_(1, 2);
DIR *__wrap_root_opendir(const char *format, ...) _printf_(1, 2);
DIR *__wrap_root_opendir(const char *format, ...)
{
	char path[PATH_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(path, sizeof(path), format, args);
	va_end(args);
	f.n_walks += strstr(path, "/fd") != NULL;
	return __real_root_opendir("%s", path);
}

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

static void probe(void)
{
	unsigned before = notes.n_up;

	vm_check(f.vm);
	spin_until(f.loop, is_up, &before);
}

static void make_vm(void)
{
	const struct config_general general = {0};
	const struct config_vm config = {
		.name = (char *) "vm1", .type = VM_CLOUD_HYPERVISOR, .socket = f.socket};

	assert_int_equal(vm_new(f.loop, &general, &config, &note_handler, NULL, &f.vm), 0);
}

static void make_device(struct device *device, const char *address, const char *handle)
{
	double_pci_function(f.dir, address);
	*device = (struct device){.id.kind = DEVICE_PCI, .wish.present = true};
	device_init(device);
	kept_set(&device->id.kernel_name, address);
	kept_set(&device->place.handle, handle);
}

/* A system with two PCI functions; its processes are the real ones. */
static int setup(void **state)
{
	char proc[200];

	(void) state;
	f = (struct fixture){0};
	notes = (struct vm_notes){.handle = HANDLE};
	log_init(false);
	f.dir = temp_new();
	make_device(&f.nic, ADDRESS, HANDLE);
	make_device(&f.sound, SIBLING, SIBLING_HANDLE);
	snprintf(proc, sizeof(proc), "%s/proc", f.dir);
	assert_int_equal(symlink("/proc", proc), 0);
	root_set(f.dir);
	f.nic.id.inode = f.sound.id.inode = sysfs_inode("");
	snprintf(f.socket, sizeof(f.socket), "%s/api.sock", f.dir);
	assert_int_equal(loop_new(&f.loop), 0);
	double_start_as(&f.ch, DOUBLES "/cloud_hypervisor_server.py", f.socket);
	make_vm();
	probe();
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	vm_unref(f.vm);
	loop_free(f.loop);
	double_stop(&f.ch, SIGTERM);
	root_set("");
	temp_remove(&f.dir);
	return 0;
}

static void begin_attach(void)
{
	notes.n_sent = 0;
	f.vm->vmm->attach(f.vm, &f.nic, -1);
}

static void assert_result(enum vmm_outcome outcome, const char *words)
{
	if (notes.result.outcome != outcome || !strstr(notes.result.detail, words))
		fail_msg("outcome %d (%s), not %d (…%s…)", notes.result.outcome,
			 notes.result.detail, outcome, words);
}

static void attach_device(struct device *device, enum vmm_outcome outcome, const char *words)
{
	unsigned before = notes.n_answers;

	notes.n_sent = 0;
	f.vm->vmm->attach(f.vm, device, -1);
	spin_until(f.loop, is_answered, &before);
	assert_result(outcome, words);
	assert_int_equal(notes.n_answers, before + 1);
}

static void attach(enum vmm_outcome outcome, const char *words)
{
	attach_device(&f.nic, outcome, words);
}

static void detach_device(struct device *device, enum vmm_outcome outcome, const char *words)
{
	unsigned before = notes.n_answers;

	notes.handle = device->place.handle;
	f.vm->vmm->detach(f.vm, device, device->place.handle);
	spin_until(f.loop, is_answered, &before);
	assert_result(outcome, words);
}

static void detach(enum vmm_outcome outcome, const char *words)
{
	detach_device(&f.nic, outcome, words);
}

/* The names that the VM has: PART is its config, or its device tree. */
static const char *names(const char *part)
{
	static char text[300];
	json_t *state = double_tell(&f.ch, "state"), *path;
	const char *name;

	text[0] = 0;
	json_object_foreach(json_object_get(state, part), name, path)
	{
		size_t n = strlen(text);

		snprintf(text + n, sizeof(text) - n, "%s ", name);
	}
	json_decref(state);
	return text;
}

static bool has_empty_config(void *data)
{
	(void) data;
	return !*names("config");
}

static void test_attach_and_detach(void **state)
{
	(void) state;
	for (int i = 0; i < 3; i++) {
		attach(VMM_OK, "");
		assert_int_equal(notes.n_sent, 1);
		assert_string_equal(f.nic.place.bus, "0000:00:05.0");
		assert_string_equal(names("config"), HANDLE " ");
		/* A request to the guest; who asks again hears that it is done. */
		detach(VMM_PENDING, "");
		detach(VMM_OK, "");
		assert_string_equal(names("tree"), "");
	}
	assert_int_equal(double_requests(&f.ch, "vm.remove-device"), 3);
}

static void test_what_it_has_is_known(void **state)
{
	(void) state;
	double_do(&f.ch, "cold 0000:00:09.0");
	attach(VMM_OK, "");
	/* The others are somebody else's. */
	probe();
	assert_int_equal(notes.n_handles, 1);
	assert_string_equal(notes.handles[0], HANDLE);
	/* What the guest has not let go of is still there. */
	double_do(&f.ch, "guest keep");
	detach(VMM_PENDING, "");
	assert_string_equal(names("config"), "_vfio1 ");
	probe();
	assert_int_equal(notes.n_handles, 1);
	detach(VMM_PENDING, "");
	assert_int_equal(double_requests(&f.ch, "vm.remove-device"), 2);
	double_do(&f.ch, "guest let-go");
	detach(VMM_OK, "");
	probe();
	assert_int_equal(notes.n_handles, 0);
}

static void test_paused(void **state)
{
	(void) state;
	attach(VMM_OK, "");
	double_do(&f.ch, "vm Paused");
	probe();
	detach(VMM_PENDING, "paused");
	detach(VMM_PENDING, "paused");
	double_do(&f.ch, "vm Running");
	detach(VMM_OK, "");
}

/* It opens the function, and not its group. */
static void test_iommufd(void **state)
{
	(void) state;
	tree_write(f.dir, "/dev/vfio/devices/vfio0", "");
	tree_link(f.dir, "/sys/class/vfio-dev/vfio0/device", "/sys/bus/pci/devices/" ADDRESS);
	double_do(&f.ch, "iommufd");
	double_do(&f.ch, "names stay");
	attach(VMM_OK, "");
	double_do(&f.ch, "guest keep");
	detach(VMM_PENDING, "");
	detach(VMM_PENDING, "");
	probe();
	assert_int_equal(notes.n_handles, 1);
	double_do(&f.ch, "guest let-go");
	detach(VMM_OK, "");
	probe();
	assert_int_equal(notes.n_handles, 0);
}

/* A name that the VM does not give up must not keep the device out, and must not make a loop. */
static void test_names_that_stay(void **state)
{
	(void) state;
	double_do(&f.ch, "names stay");
	for (int i = 1; i <= 9; i++) {
		attach(VMM_OK, "");
		probe();
		assert_int_equal(notes.n_handles, 1);
		assert_string_equal(notes.handles[0], HANDLE);
		detach(VMM_PENDING, "");
		detach(VMM_OK, "");
		probe();
		assert_int_equal(notes.n_handles, 0);
	}
	assert_non_null(strstr(names("tree"), HANDLE ".9 "));
	attach(VMM_FAILED, "keeps the names of its 9 former stays; restart the VM");
}

static void test_an_answer_that_is_lost(void **state)
{
	static const char *const ways[][2] = {
		{"cut", "closed the connection"},
		{"garbage", "does not speak"},
	};

	(void) state;
	attach(VMM_OK, "");
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		double_do(&f.ch, ways[i][0]);
		attach(VMM_RETRY, ways[i][1]);
		assert_false(notes.result.is_unknown); /* it has not been asked */
		double_do(&f.ch, ways[i][0]);
		detach(VMM_RETRY, ways[i][1]);
	}
	/* It has been there all the time, once. */
	attach(VMM_OK, "");
	assert_int_equal(double_requests(&f.ch, "vm.add-device"), 1);
	detach(VMM_PENDING, "");
	detach(VMM_OK, "");
	double_do(&f.ch, "cut vm.add-device");
	attach(VMM_RETRY, "closed the connection");
	assert_true(notes.result.is_unknown);
	attach(VMM_OK, "");
}

static void test_refusals(void **state)
{
	(void) state;
	double_do(&f.ch, "add failed to open /dev/vfio/7 group: Permission denied (os error 13)");
	attach(VMM_RETRY, "/dev/vfio/7 group: Permission denied");
	double_do(&f.ch, "add Failed to DMA map: Invalid argument (os error 22)");
	attach(VMM_FAILED, "max_phys_bits=39");
	double_do(&f.ch, "add something new");
	attach(VMM_RETRY, "cloud-hypervisor: something new");
	double_do(&f.ch, "old");
	double_do(&f.ch, "add VfioCreate(OpenGroup)");
	attach(VMM_RETRY, "cloud-hypervisor: Error from device manager: VfioCreate(OpenGroup)");
	double_do(&f.ch, "cold " ADDRESS);
	attach(VMM_FAILED, "it is in the VM already, as \"_vfio1\"");
	assert_string_equal(names("config"), "_vfio1 ");
	f.nic.id.kind = DEVICE_USB;
	attach(VMM_FAILED, "PCI devices only");
}

static const char *unmapped(void)
{
	static char text[100];
	json_t *state = double_tell(&f.ch, "state");

	snprintf(text, sizeof(text), "%s",
		 json_string_value(json_array_get(json_object_get(state, "unmapped"), 0)) ?: "");
	json_decref(state);
	return text;
}

/* The first card after an add that failed can't reach the guest's memory: it is given once more. */
static void test_first_card_after_one_that_failed(void **state)
{
	(void) state;
	for (int i = 0; i < 2; i++) {
		double_do(&f.ch, "add something new");
		attach(VMM_RETRY, "something new");
		double_do(&f.ch, "guest keep");
		attach(VMM_RETRY, "it is given once more");
		assert_string_equal(unmapped(), HANDLE);
		attach(VMM_RETRY, "its guest has not let go of it yet");
		double_do(&f.ch, "guest let-go");
		attach(VMM_OK, "");
		assert_string_equal(unmapped(), "");
		detach(VMM_PENDING, "");
	}
}

/* So it does when another broker has tried that. */
static void test_first_card_after_one_that_failed_before_us(void **state)
{
	(void) state;
	for (int i = 0; i < 2; i++) {
		double_do(&f.ch, "add something new");
		attach(VMM_RETRY, "something new");
		vm_unref(f.vm);
		make_vm();
		probe();
		attach(VMM_RETRY, "it is given once more");
		attach(VMM_OK, "");
		assert_string_equal(unmapped(), "");
		detach(VMM_PENDING, "");
		detach(VMM_OK, "");
	}
	/* And not when all went well. */
	vm_unref(f.vm);
	make_vm();
	probe();
	attach(VMM_OK, "");
}

/* Its guest was just starting when it was to give the card back: it is asked again, and meanwhile
 * nobody takes it for one that stays. */
static void test_unmapped_card_that_was_not_asked_for(void **state)
{
	(void) state;
	double_do(&f.ch, "add something new");
	attach(VMM_RETRY, "something new");
	double_do(&f.ch, "guest deaf");
	attach(VMM_RETRY, "it is given once more");
	probe();
	assert_int_equal(notes.n_handles, 1);
	assert_true(f.vm->vmm->is_leaving(f.vm, HANDLE));
	double_do(&f.ch, "guest let-go");
	attach(VMM_RETRY, "its guest has not let go of it yet");
	attach(VMM_OK, "");
	assert_string_equal(unmapped(), "");
	probe();
	assert_int_equal(notes.n_handles, 1);
	assert_false(f.vm->vmm->is_leaving(f.vm, HANDLE));
}

/* The next one would get what that one leaves behind. */
static void test_next_card_after_an_unmapped_one(void **state)
{
	(void) state;
	double_pci_group(f.dir, SIBLING, 8);
	double_do(&f.ch, "add something new");
	attach_device(&f.sound, VMM_RETRY, "something new");
	double_do(&f.ch, "guest keep");
	attach(VMM_RETRY, "it is given once more");
	attach_device(&f.sound, VMM_RETRY, "it is given once more");
	double_do(&f.ch, "guest let-go");
	attach_device(&f.sound, VMM_OK, "");
	attach(VMM_OK, "");
	assert_string_equal(unmapped(), "");
}

/* By --device: known by the name it has there, and taken out by that. */
static void test_what_it_has_had_since_its_start(void **state)
{
	unsigned before;

	(void) state;
	assert_int_equal(f.vm->cold.n, 0);
	double_do(&f.ch, "cold " ADDRESS);
	probe();
	assert_int_equal(notes.n_handles, 0);
	assert_int_equal(f.vm->cold.n, 1);
	assert_string_equal(f.vm->cold.items[0].handle, "_vfio1");
	assert_true(cold_is(&f.vm->cold.items[0], &f.nic));
	before = notes.n_answers;
	notes.handle = "_vfio1";
	f.vm->vmm->detach(f.vm, &f.nic, "_vfio1");
	spin_until(f.loop, is_answered, &before);
	assert_result(VMM_PENDING, "");
	assert_string_equal(names("config"), "");
}

static void test_a_function_that_has_gone(void **state)
{
	char path[300];

	(void) state;
	attach(VMM_OK, "");
	double_do(&f.ch, "names stay");
	detach(VMM_PENDING, "");
	/* The kernel takes it away only when nobody has it any more. */
	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/" ADDRESS "/iommu_group", f.dir);
	unlink(path);
	*strrchr(path, '/') = 0;
	rmdir(path);
	detach(VMM_OK, "");
}

/* Each comes and goes by itself, though the kernel says of both the same: that their group is open.
 */
static void test_two_of_a_group(void **state)
{
	(void) state;
	attach(VMM_OK, "");
	attach_device(&f.sound, VMM_OK, "");
	assert_string_equal(names("tree"), HANDLE " " SIBLING_HANDLE " ");
	detach(VMM_PENDING, "");
	detach(VMM_OK, "");
	probe();
	assert_int_equal(notes.n_handles, 1);
	assert_string_equal(notes.handles[0], SIBLING_HANDLE);
	attach(VMM_OK, "");
	detach_device(&f.sound, VMM_PENDING, "");
	detach_device(&f.sound, VMM_OK, "");
	detach(VMM_PENDING, "");
	detach(VMM_OK, "");
	assert_string_equal(names("tree"), "");
}

/* That the other is there does not make up for what the guest has not let go of. */
static void test_one_of_a_group_is_kept(void **state)
{
	(void) state;
	attach(VMM_OK, "");
	attach_device(&f.sound, VMM_OK, "");
	double_do(&f.ch, "guest keep");
	for (int i = 0; i < 2; i++) {
		detach(VMM_PENDING, "");
		attach(VMM_RETRY, "its guest has not let go of it yet");
	}
	probe();
	assert_int_equal(notes.n_handles, 2);
	/* Where none of them is to be there, the kernel's word counts. */
	detach_device(&f.sound, VMM_PENDING, "");
	attach(VMM_RETRY, "its guest has not let go of it yet");
	double_do(&f.ch, "guest let-go");
	detach(VMM_OK, "");
	detach_device(&f.sound, VMM_OK, "");
}

static void test_group_can_not_be_told(void **state)
{
	char path[300];

	(void) state;
	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/" ADDRESS "/iommu_group", f.dir);
	attach_device(&f.sound, VMM_OK, "");
	assert_int_equal(unlink(path), 0);
	attach(VMM_RETRY, "can't tell whether its guest has let go of it: No such file");
	assert_int_equal(notes.n_sent, 0);
	detach(VMM_PENDING, "can't tell whether its guest has let go of it: No such file");
	assert_int_equal(double_requests(&f.ch, "vm.add-device"), 1);
}

static bool has_reason_or_is_up(void *data)
{
	return has_reason(data) || f.vm->state == VM_UP;
}

/* Its names are its own affair: the broker looks once at what it has open, whatever it says, and
 * does not go through more than a VM can have. */
static void test_names_without_end(void **state)
{
	(void) state;
	f.n_walks = 0;
	double_do(&f.ch, "claim 1000");
	probe();
	assert_int_equal(notes.n_handles, 0);
	assert_in_range(f.n_walks, 1, 1);
	/* Its group is open, so each of them may be true. */
	attach(VMM_OK, "");
	vm_unref(f.vm);
	make_vm();
	vm_check(f.vm);
	spin_until(f.loop, has_reason_or_is_up, (void *) "it names more devices of ours");
	assert_int_equal(f.vm->state, VM_DOWN);
	double_do(&f.ch, "claim 3000");
	attach(VMM_RETRY, "it names more devices than a VM can have");
	detach(VMM_RETRY, "it names more devices than a VM can have");
	double_do(&f.ch, "claim 0");
	detach(VMM_PENDING, "");
	assert_in_range(f.n_walks, 1, 5);
}

static void test_a_vm_that_does_not_run(void **state)
{
	static const char *const states[][2] = {
		{"vm none", "can't take devices yet: VM is not created"},
		{"vm Created", "can't take devices yet: it has not been booted"},
	};

	(void) state;
	vm_unref(f.vm);
	for (size_t i = 0; i < ARRAY_SIZE(states); i++) {
		double_do(&f.ch, states[i][0]);
		make_vm();
		vm_check(f.vm);
		spin_until(f.loop, has_reason, (void *) states[i][1]);
		assert_int_equal(f.vm->state, VM_DOWN);
		assert_true(f.vm->is_absent);
		if (i + 1 < ARRAY_SIZE(states))
			vm_unref(f.vm);
	}
	/* It is asked again until it does. */
	unsigned before = notes.n_up;
	double_do(&f.ch, "vm Running");
	spin_until(f.loop, is_up, &before);
}

static bool has_exited(void *data)
{
	(void) data;
	return notes.n_exited > 0 && f.vm->state == VM_DOWN;
}

/* Shut down, or deleted, by its own means: its process runs on, and has the card no more. What its
 * config named could not be opened when it is booted, once the host has it. */
static void test_a_vm_that_ends_in_its_process(void **state)
{
	static const char *const states[][2] = {
		{"vm none", "can't take devices yet: VM is not created"},
		{"vm Created", "can't take devices yet: it has not been booted"},
	};

	(void) state;
	for (size_t i = 0; i < 2 * ARRAY_SIZE(states); i++) {
		unsigned before = notes.n_up;

		attach(VMM_OK, "");
		attach_device(&f.sound, VMM_OK, "");
		notes.n_exited = 0;
		double_do(&f.ch, states[i / 2][0]);
		if (i % 2 == 0)
			vm_check(f.vm);
		else
			detach(VMM_GONE, "");
		spin_until(f.loop, has_exited, NULL);
		spin_until(f.loop, has_reason, (void *) states[i / 2][1]);
		assert_int_equal(notes.n_exited, 1);
		spin_until(f.loop, has_empty_config, NULL);
		double_do(&f.ch, "vm Running");
		spin_until(f.loop, is_up, &before);
		assert_int_equal(notes.n_handles, 0);
	}
}

/* Nobody has asked it since. */
static void test_attach_to_a_vm_that_has_ended(void **state)
{
	unsigned before = notes.n_up;

	(void) state;
	double_do(&f.ch, "vm Created");
	attach(VMM_RETRY, "it has not been booted");
	assert_false(notes.result.is_unknown);
	spin_until(f.loop, has_exited, NULL);
	double_do(&f.ch, "vm Running");
	spin_until(f.loop, is_up, &before);
	attach(VMM_OK, "");
}

static void test_killed(void **state)
{
	unsigned before = notes.n_answers;

	(void) state;
	double_do(&f.ch, "hang");
	begin_attach();
	double_stop(&f.ch, SIGKILL);
	spin_until(f.loop, has_exited, NULL);
	assert_int_equal(notes.n_answers, before + 1);
	assert_result(VMM_RETRY, "");
	/* Its socket is left behind. */
	spin_until(f.loop, has_reason, (void *) "nobody listens");
}

static void test_free_while_under_way(void **state)
{
	(void) state;
	begin_attach();
	vm_check(f.vm);
	/* teardown: the VM goes before the answers come */
}

int main(void)
{
#define BACKEND(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		BACKEND(test_attach_and_detach),
		BACKEND(test_what_it_has_is_known),
		BACKEND(test_paused),
		BACKEND(test_iommufd),
		BACKEND(test_names_that_stay),
		BACKEND(test_an_answer_that_is_lost),
		BACKEND(test_refusals),
		BACKEND(test_first_card_after_one_that_failed),
		BACKEND(test_first_card_after_one_that_failed_before_us),
		BACKEND(test_unmapped_card_that_was_not_asked_for),
		BACKEND(test_next_card_after_an_unmapped_one),
		BACKEND(test_a_function_that_has_gone),
		BACKEND(test_what_it_has_had_since_its_start),
		BACKEND(test_two_of_a_group),
		BACKEND(test_one_of_a_group_is_kept),
		BACKEND(test_group_can_not_be_told),
		BACKEND(test_names_without_end),
		BACKEND(test_a_vm_that_does_not_run),
		BACKEND(test_a_vm_that_ends_in_its_process),
		BACKEND(test_attach_to_a_vm_that_has_ended),
		BACKEND(test_killed),
		BACKEND(test_free_while_under_way),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
