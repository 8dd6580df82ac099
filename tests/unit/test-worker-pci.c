/* The worker's jobs on PCI functions, over a made-up /sys in which drivers let go and bind as the
 * kernel has them do. That a group is open can't be made up in files: root_open says so here. */
#include <setjmp.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

#include "broker/pci.h"
#include "broker/worker.h"
#include "helper/root.h"
#include "tests/unit/host-tree.h"

#define DEVICES "/sys/devices/pci0000:00/"
#define CARD "0000:00:03.0"
#define SOUND "0000:00:03.1" /* of the same IOMMU group, 7 */
#define BRIDGE "0000:00:02.0"
#define VFIO "/sys/bus/pci/drivers/vfio-pci"

static struct kernel {
	char *root;
	char log[2000];       /* what was written and loaded, in order */
	const char *stubborn; /* a driver that does not let go */
	bool no_vfio;         /* vfio-pci takes nothing */
	bool no_node;         /* udevd makes none for the group */
	unsigned n_open;      /* looks that find the group open */
	unsigned n_slept;
	bool are_others_kept; /* from taking a network device, when a driver was last unbound */
	pid_t pid;            /* of its VM */
	const char *disk;     /* begins to be there while the job sleeps */
} k;

static void note(const char *format, ...) _printf_(1, 2);
static void note(const char *format, ...)
{
	size_t length = strlen(k.log);
	va_list args;

	va_start(args, format);
	vsnprintf(k.log + length, sizeof(k.log) - length, format, args);
	va_end(args);
}

static void let_go(const char *address)
{
	char path[PATH_MAX], whole[PATH_MAX];

	snprintf(path, sizeof(path), DEVICES "%s/driver", address);
	tree_path(whole, k.root, path);
	assert_int_equal(unlink(whole), 0);
}

static void bind(const char *address, const char *driver)
{
	char path[PATH_MAX], target[100];

	snprintf(path, sizeof(path), DEVICES "%s/driver", address);
	snprintf(target, sizeof(target), "/sys/bus/pci/drivers/%s", driver);
	tree_link(k.root, path, target);
	if (streq(driver, "vfio-pci") && !k.no_node)
		tree_write(k.root, "/dev/vfio/7", "");
}

/* The driver that is to have ADDRESS, or NULL. Source: kernel, driver_override. */
static const char *find_driver(const char *address)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), DEVICES "%s/driver_override", address);
	if (streq(tree_read(k.root, path), "vfio-pci"))
		return k.no_vfio ? NULL : "vfio-pci";
	return streq(address, CARD) ? "e1000e" : "snd_hda_intel";
}

static int write_to_kernel(const char *path, const char *text)
{
	char driver[64];

	if (sscanf(path, "/sys/bus/pci/drivers/%63[^/]/unbind", driver) == 1) {
		_cleanup_close_ int lock = lock_as_job(k.root, "routes");
		k.are_others_kept = lock < 0;
		if (k.stubborn && streq(driver, k.stubborn))
			return -EIO;
		let_go(text);
	} else if (streq(path, "/sys/bus/pci/drivers_probe")) {
		const char *next = find_driver(text);

		if (!pci_driver(text, driver, sizeof(driver)) && next)
			bind(text, next);
	} else if (root_exists("%s", path) < 0) {
		return -ENOENT;
	} else {
		tree_write(k.root, path, text);
	}
	return 0;
}

int __wrap_root_write(const char *text, const char *format, ...) _printf_(2, 3);
int __wrap_root_write(const char *text, const char *format, ...)
{
	const char *name;
	char path[PATH_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(path, sizeof(path), format, args);
	va_end(args);
	name = strrchr(path, '/') + 1;
	note("%s %s%s", name, text, strchr(text, '\n') ? "" : "\n");
	return write_to_kernel(path, text);
}

int __real_root_open(int flags, const char *format, ...) _printf_(2, 3);
int __wrap_root_open(int flags, const char *format, ...) _printf_(2, 3);
int __wrap_root_open(int flags, const char *format, ...)
{
	char path[PATH_MAX];
	va_list args;

	va_start(args, format);
	vsnprintf(path, sizeof(path), format, args);
	va_end(args);
	if (startswith(path, "/dev/vfio/") && k.n_open > 0) {
		k.n_open--;
		return -EBUSY;
	}
	return __real_root_open(flags, "%s", path);
}

int __wrap_usleep(useconds_t us);
int __wrap_usleep(useconds_t us)
{
	(void) us;
	k.n_slept++;
	if (k.disk)
		add_device(k.root, k.disk, "block", "8:0");
	return 0;
}

int __wrap_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attributes, char *const *argv, char *const *envp);
int __wrap_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
		       const posix_spawnattr_t *attributes, char *const *argv, char *const *envp)
{
	(void) pid, (void) path, (void) actions, (void) attributes, (void) envp;
	assert_string_equal(path, "/sbin/modprobe");
	note("%s %s\n", path, argv[3]);
	return ENOENT;
}

static void add_function(const char *address, const char *class, const char *driver)
{
	char path[200], link[PATH_MAX];

	snprintf(path, sizeof(path), DEVICES "%s", address);
	snprintf(link, sizeof(link), "%s/class", path);
	tree_write(k.root, link, class);
	snprintf(link, sizeof(link), "%s/driver_override", path);
	tree_write(k.root, link, "(null)\n");
	snprintf(link, sizeof(link), "/sys/bus/pci/devices/%s", address);
	tree_link(k.root, link, path);
	snprintf(link, sizeof(link), "%s/iommu_group", path);
	tree_link(k.root, link, "/sys/kernel/iommu_groups/7");
	snprintf(link, sizeof(link), "/sys/kernel/iommu_groups/7/devices/%s", address);
	tree_link(k.root, link, path);
	if (driver)
		bind(address, driver);
}

static int setup(void **state)
{
	(void) state;
	k = (struct kernel){.root = temp_new()};
	unsetenv("RUNTIME_DIRECTORY");
	root_set(k.root);
	tree_mkdir(k.root, "/dev/vfio");
	tree_mkdir(k.root, VFIO);
	tree_mkdir(k.root, VHOTPLUG_RUNDIR);
	tree_write(k.root, "/proc/1/net/route", "Iface\tDestination\n");
	tree_write(k.root, "/proc/1/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
	tree_write(k.root, "/proc/sys/kernel/modprobe", "/sbin/modprobe\n");
	add_function(CARD, "0x020000\n", "e1000e");
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	root_set("");
	temp_remove(&k.root);
	return 0;
}

static void add_group(void)
{
	add_function(SOUND, "0x040300\n", "snd_hda_intel");
	add_function(BRIDGE, "0x060400\n", "pcieport");
}

typedef void (*job_fn)(const struct worker_request *request, struct worker_answer *answer);

static struct worker_answer do_job_with(job_fn job, unsigned options)
{
	struct worker_request request = {.options = options, .uid = getuid(), .pid = k.pid};
	struct worker_answer answer = {0};

	strcpy(request.devpath, "/devices/pci0000:00/" CARD);
	request.inode = root_inode("/sys%s", request.devpath);
	k.log[0] = 0;
	alarm(60); /* instead of waiting for ever */
	job(&request, &answer);
	alarm(0);
	return answer;
}

static struct worker_answer do_job(job_fn job)
{
	return do_job_with(job, 0);
}

static void assert_answer(const struct worker_answer *answer, int result, const char *detail)
{
	assert_string_equal(answer->detail, detail);
	assert_int_equal(answer->result, result);
}

static void assert_driver(const char *address, const char *driver)
{
	char found[64] = "none";

	pci_driver(address, found, sizeof(found));
	assert_string_equal(found, driver);
}

/* Where IN is in the log, which must be there. */
static size_t log_place(const char *text)
{
	const char *place = strstr(k.log, text);

	if (!place)
		fail_msg("\"%s\" is not in:\n%s", text, k.log);
	return (size_t) (place - k.log);
}

/* A later broker is to know that we have taken the card. */
static bool is_marked(void)
{
	return root_exists(VHOTPLUG_RUNDIR "/given/" CARD "-0") == 0;
}

static void take_group_away(const char *address)
{
	char path[200], whole[PATH_MAX];

	snprintf(path, sizeof(path), DEVICES "%s/iommu_group", address);
	tree_path(whole, k.root, path);
	assert_int_equal(unlink(whole), 0);
}

/* Taking */

static void test_take(void **state)
{
	(void) state;
	struct worker_answer answer = do_job(worker_pci_take);

	assert_answer(&answer, 0, "");
	assert_driver(CARD, "vfio-pci");
	/* In this order: no host driver may come in between. */
	assert_string_equal(k.log, "/sbin/modprobe vfio-pci\n"
				   "driver_override vfio-pci\n"
				   "unbind " CARD "\n"
				   "drivers_probe " CARD "\n");
	assert_true(is_marked());
}

static void test_take_the_group(void **state)
{
	(void) state;
	add_group();
	struct worker_answer answer = do_job(worker_pci_take);

	assert_answer(&answer, 0, "");
	assert_driver(CARD, "vfio-pci");
	assert_driver(SOUND, "vfio-pci");
	assert_driver(BRIDGE, "pcieport");
	assert_null(strstr(k.log, BRIDGE));
}

/* No broker is to give back what its VM is about to be started with. */
static void test_take_ahead(void **state)
{
	(void) state;
	do_job_with(worker_pci_take, WORKER_IS_AHEAD);
	assert_driver(CARD, "vfio-pci");
	assert_false(is_marked());
}

/* What is taken already, perhaps by a VM that has it, is not touched. */
static void test_take_again(void **state)
{
	(void) state;
	do_job(worker_pci_take);
	struct worker_answer answer = do_job(worker_pci_take);

	assert_answer(&answer, 0, "");
	assert_null(strstr(k.log, "unbind"));
}

/* One that can't be had: the others are the host's again, and what was not taken now stays. */
static void test_take_half(void **state)
{
	(void) state;
	add_group();
	k.stubborn = "snd_hda_intel";
	struct worker_answer answer = do_job(worker_pci_take);

	assert_answer(&answer, -EIO,
		      "snd_hda_intel does not let go of " SOUND ": Input/output error");
	assert_driver(CARD, "e1000e");
	assert_driver(SOUND, "snd_hda_intel");
	assert_string_equal(tree_read(k.root, DEVICES SOUND "/driver_override"), "\n");
	let_go(CARD);
	bind(CARD, "vfio-pci");
	tree_write(k.root, DEVICES CARD "/driver_override", "vfio-pci");
	answer = do_job(worker_pci_take);
	assert_int_equal(answer.result, -EIO);
	assert_driver(CARD, "vfio-pci");
	assert_driver(SOUND, "snd_hda_intel");
}

static void test_vfio_does_not_take_it(void **state)
{
	(void) state;
	k.no_vfio = true;
	struct worker_answer answer = do_job(worker_pci_take);

	assert_answer(&answer, -EIO, "vfio-pci does not take " CARD ": see the kernel's log");
	assert_driver(CARD, "e1000e");
}

/* The host keeps what no VM can have, however often it is tried. */
static void test_no_vfio(void **state)
{
	char whole[PATH_MAX];

	(void) state;
	tree_path(whole, k.root, VFIO);
	assert_int_equal(rmdir(whole), 0);
	struct worker_answer answer = do_job(worker_pci_take);

	assert_answer(&answer, -ENOENT, "the kernel has no vfio-pci, and can't load its module");
	assert_string_equal(k.log, "/sbin/modprobe vfio-pci\n");
	assert_driver(CARD, "e1000e");
}

static void test_node_that_does_not_come(void **state)
{
	char words[200];

	(void) state;
	k.no_node = true;
	struct worker_answer answer = do_job(worker_pci_take);

	snprintf(words, sizeof(words), "%s/dev/vfio/7 has not appeared; see the kernel's log",
		 k.root);
	assert_answer(&answer, -ETIMEDOUT, words);
	assert_int_equal(k.n_slept, 250);
}

static void test_not_to_be_taken(void **state)
{
	(void) state;
	tree_write(k.root, DEVICES CARD "/class", "?\n");
	struct worker_answer answer = do_job(worker_pci_take);
	assert_answer(&answer, -EIO, "can't tell whether it is a bridge: Input/output error");
	tree_write(k.root, DEVICES CARD "/class", "0x060400\n");
	answer = do_job(worker_pci_take);
	assert_answer(&answer, -EBUSY, "it is a bridge: such are never given away");
	tree_write(k.root, DEVICES CARD "/class", "0x020000\n");
	take_group_away(CARD);
	answer = do_job(worker_pci_take);
	assert_int_equal(answer.result, -EOPNOTSUPP);
	assert_non_null(strstr(answer.detail, "it has no IOMMU group; switch the IOMMU on"));
	assert_string_equal(k.log, "");
	assert_driver(CARD, "e1000e");
}

/* A disk below another member: nothing is touched. */
static void test_in_use(void **state)
{
	(void) state;
	add_group();
	add_device(k.root, DEVICES SOUND "/sda", "block", "8:0");
	struct worker_answer answer = do_job(worker_pci_take);

	assert_int_equal(answer.result, -EBUSY);
	assert_non_null(strstr(answer.detail, "can't tell whether /dev/sda is in use"));
	assert_string_equal(k.log, "");
}

/* What the host used at the last look may be between an unmount and the mount after it. */
static void test_used_a_moment_ago(void **state)
{
	(void) state;
	k.disk = DEVICES CARD "/sda";
	struct worker_answer answer = do_job_with(worker_pci_take, WORKER_WAS_USED);

	assert_int_equal(answer.result, -EBUSY);
	assert_non_null(strstr(answer.detail, "can't tell whether /dev/sda is in use"));
	assert_string_equal(k.log, "");
	assert_int_equal(k.n_slept, 1);
	assert_driver(CARD, "e1000e");
}

static void test_still_free(void **state)
{
	(void) state;
	struct worker_answer answer = do_job_with(worker_pci_take, WORKER_WAS_USED);

	assert_answer(&answer, 0, "");
	assert_driver(CARD, "vfio-pci");
	assert_int_equal(k.n_slept, 1);
}

static void test_virtual_functions(void **state)
{
	struct worker_answer answer;

	(void) state;
	tree_write(k.root, DEVICES CARD "/sriov_numvfs", "5\n");
	tree_link(k.root, DEVICES CARD "/virtfn0", DEVICES "0000:00:03.2");
	tree_link(k.root, DEVICES CARD "/virtfn1", DEVICES "0000:00:03.3");
	tree_link(k.root, DEVICES CARD "/virtfn2", DEVICES "0000:00:03.4");
	tree_link(k.root, "/sys/bus/pci/devices/0000:00:03.2/driver", "/sys/bus/pci/drivers/iavf");
	answer = do_job(worker_pci_take);
	assert_answer(&answer, -EBUSY,
		      CARD " has 5 virtual function(s): 0000:00:03.2 (iavf), 0000:00:03.3 (no"
			   " driver), 0000:00:03.4 (no driver) and 2 more");
	tree_write(k.root, DEVICES CARD "/sriov_numvfs", "0\n");
	answer = do_job(worker_pci_take);
	assert_answer(&answer, 0, "");
}

/* reset = yes: a card that can't be reset goes to no VM. */
static void test_reset(void **state)
{
	const unsigned options = WORKER_RESET | WORKER_MUST_RESET;

	(void) state;
	struct worker_answer answer = do_job_with(worker_pci_take, options);
	assert_answer(&answer, -EOPNOTSUPP,
		      "it can't be reset (the kernel knows no way), and its rule says reset = yes");
	assert_driver(CARD, "e1000e");
	tree_write(k.root, DEVICES CARD "/reset", "");
	answer = do_job_with(worker_pci_take, options);
	assert_answer(&answer, 0, "");
	assert_string_equal(tree_read(k.root, DEVICES CARD "/reset"), "1");
}

static void test_locks_of_others(void **state)
{
	(void) state;
	int group = lock_as_others(k.root, "/sys/kernel/iommu_groups/7");
	int function = lock_as_others(k.root, DEVICES CARD);
	struct worker_answer answer = do_job(worker_pci_take);

	assert_answer(&answer, 0, "");
	assert_only_root_locks(k.root, "iommu-group-7");
	close(group);
	close(function);
}

/* A network card leaves alone: nobody takes another one before it has gone, since that may be the
 * only way to the network by then. */
static void test_network_cards_one_by_one(void **state)
{
	(void) state;
	do_job(worker_pci_take);
	assert_false(k.are_others_kept); /* this one has no interface */
	do_job(worker_pci_return);
	add_device(k.root, DEVICES CARD "/net/vhpnic0", "net", NULL);
	tree_link(k.root, "/sys/class/net/vhpnic0", DEVICES CARD "/net/vhpnic0");
	int other = lock_as_job(k.root, "routes");
	struct worker_answer answer = do_job(worker_pci_take);
	assert_answer(&answer, -EBUSY,
		      "can't tell whether the host needs it for the network: another network"
		      " device is just leaving the host");
	assert_string_equal(k.log, "");
	close(other);
	answer = do_job(worker_pci_take);
	assert_answer(&answer, 0, "");
	assert_true(k.are_others_kept);
	other = lock_as_job(k.root, "routes");
	assert_true(other >= 0);
	close(other);
}

/* What can't be locked is not touched. */
static void test_no_room_for_locks(void **state)
{
	(void) state;
	tree_write(k.root, VHOTPLUG_RUNDIR "/locks", "no directory");
	struct worker_answer answer = do_job(worker_pci_take);

	assert_answer(&answer, -ENOTDIR,
		      "can't lock iommu-group-7 against other jobs: Not a directory");
	do_job(worker_pci_return);
	assert_string_equal(k.log, "");
}

/* Looking */

static void test_look(void **state)
{
	(void) state;
	/* Without a node nobody has it open. */
	struct worker_answer answer = do_job(worker_pci_look);
	assert_answer(&answer, 0, "");
	tree_write(k.root, "/dev/vfio/7", "");
	answer = do_job(worker_pci_look);
	assert_answer(&answer, 0, "");
	k.n_open = 1;
	answer = do_job(worker_pci_look);
	assert_int_equal(answer.result, -EBUSY);
	add_function(SOUND, "?\n", NULL);
	answer = do_job(worker_pci_look);
	assert_answer(&answer, -EIO, "can't read its IOMMU group: Input/output error");
}

static struct worker_answer look_for(pid_t pid)
{
	struct worker_request request = {.job = WORKER_PCI_LOOK, .pid = pid};
	struct worker_answer answer = {0};

	strcpy(request.devpath, "/devices/pci0000:00/" CARD);
	request.inode = root_inode("/sys%s", request.devpath);
	k.n_open = 1;
	worker_pci_look(&request, &answer);
	return answer;
}

/* Whose it is: the VMM's, also when a process of its own that it has started has it; another
 * program's; or not known. */
static void test_look_whose(void **state)
{
	(void) state;
	char path[PATH_MAX];

	add_group();
	tree_path(path, k.root, "/dev/vfio/7");
	unlink(path);
	assert_int_equal(symlink("/dev/null", path), 0);
	struct worker_answer answer = look_for(12);
	assert_answer(&answer, -EBUSY, "");
	add_opener(k.root, 20, "vmm-child\n", "02");
	tree_write(k.root, "/proc/20/stat", "20 (a) b) S 15 20 20 0\n");
	tree_write(k.root, "/proc/15/stat", "15 (minijail) S 12 15 15 0\n");
	tree_write(k.root, "/proc/12/stat", "12 (crosvm) S 1 12 12 0\n");
	tree_write(k.root, "/proc/1/stat", "1 (init) S 0 1 1 0\n");
	answer = look_for(12);
	assert_answer(&answer, -EBUSY, "");
	answer = look_for(13);
	assert_answer(&answer, -EBUSY, "vmm-child (process 20)");
	answer = look_for(0);
	assert_answer(&answer, -EBUSY, "");
	tree_write(k.root, "/proc/15/stat", "15\n");
	answer = look_for(13);
	assert_answer(&answer, -EBUSY, "");
	add_opener(k.root, 13, "crosvm\n", "02");
	tree_write(k.root, "/proc/15/stat", "15 (minijail) S 1 15 15 0\n");
	answer = look_for(13);
	assert_answer(&answer, -EBUSY, "");
}

/* A card that another VM has open, by no doing of ours, is not touched, and least of all reset: its
 * own VM may have another function of the group. */
static void test_open_in_another(void **state)
{
	char path[PATH_MAX];

	(void) state;
	add_group();
	do_job(worker_pci_take);
	tree_path(path, k.root, "/dev/vfio/7");
	unlink(path);
	assert_int_equal(symlink("/dev/null", path), 0);
	tree_write(k.root, DEVICES CARD "/reset", "");
	add_opener(k.root, 20, "qemu\n", "02");
	tree_write(k.root, "/proc/20/stat", "20 (qemu) S 1 20 20 0\n");
	tree_write(k.root, "/proc/1/stat", "1 (init) S 0 1 1 0\n");
	struct worker_answer answer =
		do_job_with(worker_pci_take, WORKER_RESET | WORKER_MUST_RESET);
	assert_answer(&answer, -EBUSY, "its IOMMU group is open in qemu (process 20)");
	assert_string_equal(k.log, "");
	assert_string_equal(tree_read(k.root, DEVICES CARD "/reset"), "");
	answer = do_job_with(worker_pci_take, WORKER_GROUP_IS_OURS);
	assert_answer(&answer, 0, "");
	k.pid = 20;
	answer = do_job(worker_pci_take);
	assert_answer(&answer, 0, "");
}

/* The same where that VM opens functions, and not their group (iommufd): it may be another one. */
static void test_open_in_another_by_iommufd(void **state)
{
	(void) state;
	add_group();
	do_job(worker_pci_take);
	add_device(k.root, DEVICES SOUND "/vfio-dev/vfio3", "vfio-dev", NULL_NUMBERS);
	tree_write(k.root, DEVICES CARD "/reset", "");
	add_opener(k.root, 20, "qemu\n", "02");
	tree_write(k.root, "/proc/20/stat", "20 (qemu) S 1 20 20 0\n");
	tree_write(k.root, "/proc/1/stat", "1 (init) S 0 1 1 0\n");
	struct worker_answer answer = do_job_with(worker_pci_take, WORKER_MUST_RESET);
	assert_answer(&answer, -EBUSY, "its IOMMU group is open in qemu (process 20)");
	assert_string_equal(tree_read(k.root, DEVICES CARD "/reset"), "");
	answer = look_for(12);
	assert_answer(&answer, -EBUSY, "qemu (process 20)");
	k.pid = 20;
	answer = do_job(worker_pci_take);
	assert_answer(&answer, 0, "");
}

/* NVIDIA's node is none of sysfs's. */
static void test_nvidia(void **state)
{
	char path[PATH_MAX];

	(void) state;
	let_go(CARD);
	bind(CARD, "nvidia");
	struct worker_answer answer = do_job(worker_pci_take);
	assert_int_equal(answer.result, -EBUSY);
	assert_non_null(strstr(answer.detail, "nvidia does not say which node it has"));
	tree_write(k.root, "/proc/driver/nvidia/gpus/" CARD "/information",
		   "Model: \t\t NVIDIA T4\nDevice Minor: \t 7\n");
	tree_path(path, k.root, "/nvidia7");
	if (mknod(path, S_IFCHR | 0600, makedev(195, 7)) < 0)
		skip();
	add_opener_of(k.root, 20, "nvidia-persiste\n", "02", path);
	answer = do_job(worker_pci_take);
	assert_int_equal(answer.result, -EBUSY);
	assert_non_null(
		strstr(answer.detail, "/dev/nvidia7 is in use on the host: nvidia-persiste"));
	assert_null(strstr(k.log, "unbind"));
	answer = do_job_with(worker_pci_take, WORKER_FORCE);
	assert_answer(&answer, 0, "");
}

/* Giving back */

static void test_return(void **state)
{
	(void) state;
	add_group();
	tree_write(k.root, DEVICES CARD "/modalias", "pci:v00008086\n");
	do_job(worker_pci_take);
	struct worker_answer answer = do_job(worker_pci_return);

	assert_answer(&answer, 0, "");
	assert_driver(CARD, "e1000e");
	assert_driver(SOUND, "snd_hda_intel");
	/* Before vfio-pci lets go of it: or it would take it again. Its module may not have been
	 * loaded yet. */
	assert_true(log_place("driver_override \n") < log_place("unbind " CARD));
	assert_true(log_place("unbind " CARD) < log_place("/sbin/modprobe pci:v00008086"));
	assert_true(log_place("/sbin/modprobe pci:v00008086") < log_place("drivers_probe " CARD));
	assert_null(strstr(k.log, BRIDGE));
	assert_false(is_marked());
}

static void test_return_waits_for_the_vm(void **state)
{
	(void) state;
	do_job(worker_pci_take);
	k.n_open = 3;
	do_job(worker_pci_return);
	assert_driver(CARD, "e1000e");
	assert_int_equal(k.n_slept, 3);
}

/* To take it from under a VM would block for ever. */
static void test_return_of_one_that_is_open(void **state)
{
	(void) state;
	add_group();
	do_job(worker_pci_take);
	k.n_open = 1000;
	do_job(worker_pci_return);
	assert_string_equal(k.log, "driver_override \n");
	assert_driver(CARD, "vfio-pci");
	assert_true(is_marked());
}

/* Refused, and set aside by the rules: it alone, and only where nobody has it. */
static void test_return_alone(void **state)
{
	(void) state;
	add_group();
	do_job_with(worker_pci_return, WORKER_ALONE);
	assert_string_equal(k.log, "");
	let_go(CARD);
	let_go(SOUND);
	do_job_with(worker_pci_return, WORKER_ALONE);
	assert_driver(CARD, "e1000e");
	assert_driver(SOUND, "none");
}

/* A rule wants the other one still. */
static void test_return_without_the_others(void **state)
{
	(void) state;
	add_group();
	do_job(worker_pci_take);
	struct worker_answer answer = do_job_with(worker_pci_return, WORKER_NOT_GROUP);

	assert_answer(&answer, 0, "");
	assert_driver(CARD, "e1000e");
	assert_driver(SOUND, "vfio-pci");
}

/* Without an IOMMU it could go to no VM, but the rules may have set it aside before. */
static void test_return_without_a_group(void **state)
{
	static const unsigned options[] = {0, WORKER_ALONE};

	(void) state;
	take_group_away(CARD);
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		let_go(CARD);
		tree_write(k.root, DEVICES CARD "/driver_override", "vfio-pci");
		tree_write(k.root, DEVICES CARD "/modalias", "pci:v00008086\n");
		struct worker_answer answer = do_job_with(worker_pci_return, options[i]);
		assert_answer(&answer, 0, "");
		assert_driver(CARD, "e1000e");
		assert_string_equal(tree_read(k.root, DEVICES CARD "/driver_override"), "\n");
		assert_true(log_place("/sbin/modprobe pci:v00008086") <
			    log_place("drivers_probe " CARD));
	}
}

/* Somebody may have it open in VFIO's no-IOMMU mode. */
static void test_return_without_a_group_from_vfio(void **state)
{
	(void) state;
	take_group_away(CARD);
	let_go(CARD);
	bind(CARD, "vfio-pci");
	do_job(worker_pci_return);
	assert_string_equal(k.log, "driver_override \n");
	assert_driver(CARD, "vfio-pci");
}

/* Who has just gone may leave the group a moment later: it is not known then whether a VM has it.
 */
static void test_return_while_another_goes(void **state)
{
	char path[PATH_MAX];

	(void) state;
	add_group();
	do_job(worker_pci_take);
	tree_path(path, k.root, DEVICES SOUND "/class");
	assert_int_equal(unlink(path), 0);
	struct worker_answer answer = do_job(worker_pci_return);
	assert_answer(&answer, -EAGAIN,
		      "can't read its IOMMU group: Resource temporarily unavailable");
	assert_string_equal(k.log, "");
	assert_driver(CARD, "vfio-pci");
}

/* What vfio-pci does not let go of is not the host's yet; the others of the group are. */
static void test_return_of_one_that_is_stuck(void **state)
{
	(void) state;
	add_group();
	do_job(worker_pci_take);
	k.stubborn = "vfio-pci";
	struct worker_answer answer = do_job(worker_pci_return);
	assert_answer(&answer, -EIO, "can't be taken from vfio-pci: Input/output error");
	k.stubborn = NULL;
	answer = do_job(worker_pci_return);
	assert_answer(&answer, 0, "");
	assert_driver(CARD, "e1000e");
}

/* No VM gets one of such a group, but the rules may have set it aside. */
static void test_return_of_a_group_too_large(void **state)
{
	(void) state;
	let_go(CARD);
	tree_write(k.root, DEVICES CARD "/driver_override", "vfio-pci");
	for (unsigned i = 0; i <= PCI_MAX_GROUP; i++) {
		char address[PCI_ADDRESS_SIZE];

		snprintf(address, sizeof(address), "0000:01:%02x.%x", i / 8, i % 8);
		add_function(address, "0x020000\n", NULL);
	}
	struct worker_answer answer = do_job(worker_pci_return);
	assert_answer(&answer, 0, "");
	assert_driver(CARD, "e1000e");
}

/* A card in its slot by now is another one, and perhaps somebody's. */
static void test_one_that_has_gone(void **state)
{
	static const job_fn jobs[] = {worker_pci_take, worker_pci_return};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(jobs); i++) {
		struct worker_request request = {0};
		struct worker_answer answer = {0};

		strcpy(request.devpath, "/devices/pci0000:00/" CARD);
		request.inode = root_inode("/sys%s", request.devpath) + 1;
		jobs[i](&request, &answer);
		assert_answer(&answer, -ENODEV, "the device has been unplugged");
	}
	assert_string_equal(k.log, "");
	assert_driver(CARD, "e1000e");
}

int main(void)
{
#define PCI_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		PCI_TEST(test_take),
		PCI_TEST(test_take_the_group),
		PCI_TEST(test_take_ahead),
		PCI_TEST(test_take_again),
		PCI_TEST(test_take_half),
		PCI_TEST(test_vfio_does_not_take_it),
		PCI_TEST(test_no_vfio),
		PCI_TEST(test_node_that_does_not_come),
		PCI_TEST(test_not_to_be_taken),
		PCI_TEST(test_in_use),
		PCI_TEST(test_used_a_moment_ago),
		PCI_TEST(test_still_free),
		PCI_TEST(test_virtual_functions),
		PCI_TEST(test_reset),
		PCI_TEST(test_locks_of_others),
		PCI_TEST(test_network_cards_one_by_one),
		PCI_TEST(test_no_room_for_locks),
		PCI_TEST(test_look),
		PCI_TEST(test_look_whose),
		PCI_TEST(test_open_in_another),
		PCI_TEST(test_open_in_another_by_iommufd),
		PCI_TEST(test_nvidia),
		PCI_TEST(test_return),
		PCI_TEST(test_return_waits_for_the_vm),
		PCI_TEST(test_return_of_one_that_is_open),
		PCI_TEST(test_return_alone),
		PCI_TEST(test_return_without_the_others),
		PCI_TEST(test_return_without_a_group),
		PCI_TEST(test_return_without_a_group_from_vfio),
		PCI_TEST(test_return_while_another_goes),
		PCI_TEST(test_return_of_one_that_is_stuck),
		PCI_TEST(test_return_of_a_group_too_large),
		PCI_TEST(test_one_that_has_gone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
