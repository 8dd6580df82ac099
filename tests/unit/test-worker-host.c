/* What the worker's jobs share: nodes that belong to the instance that was meant, and locks.
 * /dev/null stands for a device's node, behind a made-up /sys. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "broker/worker_host.h"
#include "helper/root.h"
#include "tests/unit/host-tree.h"

#define DEVPATH "/devices/pci0000:00/usb1/1-2"

struct host {
	char *root;
	struct worker_request request;
	struct worker_answer answer;
	int fds[WORKER_MAX_FDS];
};

static int setup(void **state)
{
	struct host *h = calloc(1, sizeof(*h));
	char path[PATH_MAX];

	unsetenv("RUNTIME_DIRECTORY");
	h->root = temp_new();
	root_set(h->root);
	add_device(h->root, "/sys" DEVPATH, "usb", NULL_NUMBERS);
	tree_mkdir(h->root, VHOTPLUG_RUNDIR);
	/* The nodes are the system's: nobody but root could make one. */
	tree_path(path, h->root, "/dev");
	assert_int_equal(symlink("/dev", path), 0);
	strcpy(h->request.devpath, DEVPATH);
	strcpy(h->request.node, "/dev/null");
	h->request.inode = root_inode("/sys" DEVPATH);
	*state = h;
	return 0;
}

static int teardown(void **state)
{
	struct host *h = *state;

	root_set("");
	for (int i = 0; i < h->answer.n_fds; i++)
		close(h->fds[i]);
	temp_remove(&h->root);
	free(h);
	return 0;
}

static void assert_answer(const struct host *h, int result, const char *detail)
{
	assert_string_equal(h->answer.detail, detail);
	assert_int_equal(h->answer.result, result);
}

static void assert_flags(int fd, int mode)
{
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFL) & O_ACCMODE, mode);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
}

static void test_open(void **state)
{
	struct host *h = *state;
	int fd = worker_open_node(&h->request, &h->answer);

	assert_answer(h, 0, "");
	assert_flags(fd, O_RDWR);
	close(fd);
}

/* A node without its device is a device that is being unplugged. */
static void test_no_node(void **state)
{
	struct host *h = *state;

	strcpy(h->request.node, "/dev/there-is-none");
	assert_int_equal(worker_open_node(&h->request, &h->answer), -ENODEV);
	assert_answer(h, -ENODEV, "can't open /dev/there-is-none: No such file or directory");
}

static void assert_not_opened(struct host *h)
{
	int next = dup(0);

	close(next);
	assert_int_equal(worker_open_node(&h->request, &h->answer), -ENODEV);
	assert_answer(h, -ENODEV, "the device has been unplugged");
	worker_open_watch(&h->request, &h->answer, h->fds);
	assert_false(h->answer.has_watch);
	assert_int_equal(h->answer.n_fds, 0);
	/* Nothing of it stays open. */
	assert_int_equal(dup(0), next);
	close(next);
}

/* Buses reuse device numbers, and places. */
static void test_another_instance(void **state)
{
	struct host *h = *state;

	h->request.inode++;
	assert_not_opened(h);
}

static void test_node_of_another_device(void **state)
{
	struct host *h = *state;

	tree_write(h->root, "/sys" DEVPATH "/dev", "1:5");
	assert_not_opened(h);
}

static void test_device_without_a_node(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	tree_path(path, h->root, "/sys" DEVPATH "/dev");
	assert_int_equal(unlink(path), 0);
	assert_not_opened(h);
}

/* What is no device, or leads elsewhere, is not opened for a VM. */
static void test_node_that_is_none(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	tree_write(h->root, "/run/file", "");
	strcpy(h->request.node, "/run/file");
	assert_int_equal(worker_open_node(&h->request, &h->answer), -ENODEV);
	tree_path(path, h->root, "/run/link");
	assert_int_equal(symlink("/dev/null", path), 0);
	strcpy(h->request.node, "/run/link");
	assert_int_equal(worker_open_node(&h->request, &h->answer), -ELOOP);
}

static void test_watch(void **state)
{
	struct host *h = *state;

	worker_watch_node(&h->request, &h->answer, h->fds);
	assert_answer(h, 0, "");
	assert_true(h->answer.has_watch && !h->answer.has_node);
	assert_int_equal(h->answer.n_fds, 1);
	/* It claims nothing that way. */
	assert_flags(h->fds[0], O_RDONLY);
	h->answer.has_watch = false;
	h->request.inode++;
	worker_watch_node(&h->request, &h->answer, h->fds);
	assert_answer(h, -ENODEV, "/dev/null can't be watched");
	assert_int_equal(h->answer.n_fds, 1);
}

static void test_gone(void **state)
{
	struct host *h = *state;

	assert_false(worker_has_gone(&h->request, &h->answer));
	assert_answer(h, 0, "");
	h->request.inode++;
	assert_true(worker_has_gone(&h->request, &h->answer));
	assert_answer(h, -ENODEV, "the device has been unplugged");
}

/* Does another process get the lock on NAME at once? */
static bool is_free(const struct host *h, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s" VHOTPLUG_RUNDIR "/locks/%s", h->root, name);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	bool is_free = flock(fd, LOCK_EX | LOCK_NB) == 0;
	close(fd);
	return is_free;
}

static void test_lock(void **state)
{
	struct host *h = *state;
	int fd = worker_lock("1-2", &h->answer), other;

	assert_true(fd >= 0);
	assert_only_root_locks(h->root, "1-2");
	assert_false(is_free(h, "1-2"));
	/* The others are not kept waiting. */
	other = worker_lock("1-3", &h->answer);
	assert_true(other >= 0);
	close(fd);
	assert_true(is_free(h, "1-2"));
	assert_false(is_free(h, "1-3"));
	close(other);
	assert_answer(h, 0, "");
}

/* A job that has ended in whatever way holds nothing. */
static void test_lock_of_one_that_was_killed(void **state)
{
	struct host *h = *state;
	int ready[2];
	char byte;

	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (worker_lock("1-2", &h->answer) < 0 || write(ready[1], "", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	assert_false(is_free(h, "1-2"));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_true(is_free(h, "1-2"));
	close(ready[0]);
	close(ready[1]);
}

/* Whoever may write there could have put a link there. */
static void test_lock_through_a_link(void **state)
{
	struct host *h = *state;
	char path[PATH_MAX];

	tree_mkdir(h->root, VHOTPLUG_RUNDIR "/locks");
	tree_path(path, h->root, VHOTPLUG_RUNDIR "/locks/1-2");
	assert_int_equal(symlink("/dev/null", path), 0);
	assert_int_equal(worker_lock("1-2", &h->answer), -ELOOP);
	assert_non_null(strstr(h->answer.detail, "can't lock 1-2 against other jobs"));
}

int main(void)
{
#define HOST_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		HOST_TEST(test_open),
		HOST_TEST(test_no_node),
		HOST_TEST(test_another_instance),
		HOST_TEST(test_node_of_another_device),
		HOST_TEST(test_device_without_a_node),
		HOST_TEST(test_node_that_is_none),
		HOST_TEST(test_watch),
		HOST_TEST(test_gone),
		HOST_TEST(test_lock),
		HOST_TEST(test_lock_of_one_that_was_killed),
		HOST_TEST(test_lock_through_a_link),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
