/* The worker process and its jobs, on /dev/null for a device node: a character device with a
 * directory in sysfs. What needs USB is in the tests on the emulated host. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "broker/device.h"
#include "broker/worker.h"
#include "helper/root.h"
#include "tests/unit/spin.h"
#include "tests/unit/tree.h"

#define NULL_DEVICE "/devices/virtual/mem/null"

/* What the worker waits for between two tries is there from the start, or never comes. */
int __real_usleep(useconds_t us);
int __wrap_usleep(useconds_t us);
int __wrap_usleep(useconds_t us)
{
	return __real_usleep(us < 1000 ? us : 1000);
}

struct office {
	char *runtime;
	struct loop *loop;
	struct worker *worker;
	int n_answers;
	struct worker_answer answers[64];
	int node; /* of the last answer, or -1 */
	int hold; /* what a program of the test waits for the end of, or -1 */
};

static void on_answer(void *data, const struct worker_answer *answer, int *fds)
{
	struct office *o = data;

	assert_true(o->n_answers < 64);
	o->answers[o->n_answers++] = *answer;
	for (int i = 1; i < answer->n_fds; i++)
		close(fds[i]);
	close_fd(o->node);
	o->node = answer->n_fds > 0 ? fds[0] : -1;
}

static int setup(void **state)
{
	struct office *o = calloc(1, sizeof(*o));

	o->node = o->hold = -1;
	o->runtime = temp_new();
	setenv("RUNTIME_DIRECTORY", o->runtime, 1);
	assert_int_equal(worker_start(&o->worker), 0);
	assert_int_equal(loop_new(&o->loop), 0);
	assert_int_equal(worker_watch(o->worker, o->loop, on_answer, o), 0);
	*state = o;
	return 0;
}

static int teardown(void **state)
{
	struct office *o = *state;

	worker_free(o->worker);
	loop_free(o->loop);
	close_fd(o->node);
	close_fd(o->hold);
	while (waitpid(-1, NULL, 0) > 0)
		; /* the worker ends with its socket */
	temp_remove(&o->runtime);
	free(o);
	return 0;
}

static struct worker_request request_for(enum worker_job job, const char *devpath, const char *node)
{
	struct worker_request request = {.job = job, .inode = sysfs_inode(devpath)};

	snprintf(request.devpath, sizeof(request.devpath), "%s", devpath);
	snprintf(request.node, sizeof(request.node), "%s", node);
	return request;
}

static bool has_answered(void *data)
{
	return ((struct office *) data)->n_answers > 0;
}

static struct worker_answer *do_job(struct office *o, struct worker_request request)
{
	o->n_answers = 0;
	assert_int_equal(worker_send(o->worker, &request), 0);
	spin_until(o->loop, has_answered, o);
	assert_int_equal(o->answers[0].number, request.number);
	return &o->answers[0];
}

static void test_open(void **state)
{
	struct office *o = *state;
	struct worker_answer *answer =
		do_job(o, request_for(WORKER_USB_OPEN, NULL_DEVICE, "/dev/null"));
	struct stat a, b;

	assert_int_equal(answer->result, 0);
	assert_true(answer->has_node && answer->has_watch);
	assert_int_equal(answer->n_fds, 2);
	assert_int_equal(fstat(o->node, &a), 0);
	assert_int_equal(stat("/dev/null", &b), 0);
	assert_int_equal(a.st_rdev, b.st_rdev);
	assert_int_equal(fcntl(o->node, F_GETFL) & O_ACCMODE, O_RDWR);
	assert_true(fcntl(o->node, F_GETFD) & FD_CLOEXEC);
}

static void test_watch(void **state)
{
	struct office *o = *state;
	struct worker_request request = request_for(WORKER_WATCH, NULL_DEVICE, "/dev/null");
	struct worker_answer *answer = do_job(o, request);

	assert_int_equal(answer->result, 0);
	assert_true(answer->has_watch && !answer->has_node);
	assert_int_equal(answer->n_fds, 1);
	/* It claims nothing that way. */
	assert_int_equal(fcntl(o->node, F_GETFL) & O_ACCMODE, O_RDONLY);
	request.inode++;
	answer = do_job(o, request);
	assert_int_equal(answer->result, -ENODEV);
	assert_int_equal(answer->n_fds, 0);
}

static void test_unplugged(void **state)
{
	struct office *o = *state;
	struct worker_request request = request_for(WORKER_USB_OPEN, NULL_DEVICE, "/dev/null");
	struct worker_answer *answer;

	/* Another instance has the place by now. */
	request.inode++;
	answer = do_job(o, request);
	assert_int_equal(answer->result, -ENODEV);
	assert_string_equal(answer->detail, "the device has been unplugged");
	assert_int_equal(answer->n_fds, 0);
	/* The number of the node is in use again, for another device. */
	answer = do_job(o, request_for(WORKER_USB_OPEN, NULL_DEVICE, "/dev/zero"));
	assert_int_equal(answer->result, -ENODEV);
	answer = do_job(o, request_for(WORKER_USB_OPEN, "/devices/nosuch", "/dev/bus/usb/099/099"));
	assert_int_equal(answer->result, -ENODEV);
	assert_non_null(strstr(answer->detail, "can't open /dev/bus/usb/099/099"));
	request = request_for(WORKER_USB_RETURN, NULL_DEVICE, "/dev/null");
	request.inode++;
	assert_int_equal(do_job(o, request)->result, -ENODEV);
	request.job = WORKER_USB_RELEASE;
	assert_int_equal(do_job(o, request)->result, -ENODEV);
}

static void test_no_device_node(void **state)
{
	struct office *o = *state;
	TEMP_DIR(dir);
	char path[60], link[60];

	snprintf(path, sizeof(path), "%s/file", dir);
	snprintf(link, sizeof(link), "%s/link", dir);
	close(open(path, O_CREAT | O_RDWR, 0600));
	assert_int_equal(symlink("/dev/null", link), 0);
	assert_int_equal(do_job(o, request_for(WORKER_USB_OPEN, NULL_DEVICE, path))->result,
			 -ENODEV);
	assert_int_equal(do_job(o, request_for(WORKER_USB_OPEN, NULL_DEVICE, link))->result,
			 -ELOOP);
	assert_int_equal(do_job(o, request_for(WORKER_USB_OPEN, NULL_DEVICE, ""))->result, -ENODEV);
}

/* What is no USB device can't be reset. Only a rule that wants a reset minds. */
static void test_reset(void **state)
{
	struct office *o = *state;
	struct worker_request request = request_for(WORKER_USB_OPEN, NULL_DEVICE, "/dev/null");
	struct worker_answer *answer;

	request.options = WORKER_RESET;
	answer = do_job(o, request);
	assert_int_equal(answer->result, 0);
	request.options = WORKER_RESET | WORKER_MUST_RESET;
	answer = do_job(o, request);
	assert_int_equal(answer->result, -EBUSY);
	assert_string_equal(answer->detail, "it can't be reset (Inappropriate ioctl for device),"
					    " and its rule says reset = yes");
	assert_int_equal(answer->n_fds, 0);
}

/* Another program, for the broker's own processes do not count, that has `node` open when this
 * returns, until o->hold is closed. */
static pid_t program_with(struct office *o, const char *node)
{
	int hold[2], ready[2];
	char c;

	assert_int_equal(pipe2(hold, O_CLOEXEC), 0);
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0) {
		dup2(hold[0], 0);
		dup2(ready[1], 1);
		execlp("sh", "sh", "-c", "exec 7<\"$0\"; echo; read x", node, NULL);
		_exit(1);
	}
	o->hold = hold[1];
	close(hold[0]);
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	return pid;
}

/* Who has it open is found, and whoever closes it meanwhile is not told of. */
static void test_look_open(void **state)
{
	struct office *o = *state;
	char node[100];

	/* A node that nobody else on this machine can have open: of a terminal of our own. */
	_cleanup_close_ int terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (terminal < 0 || grantpt(terminal) < 0 || unlockpt(terminal) < 0 ||
	    ptsname_r(terminal, node, sizeof(node)) != 0)
		skip();
	struct worker_request request = request_for(WORKER_LOOK_OPEN, NULL_DEVICE, node);
	assert_int_equal(do_job(o, request)->result, 0);
	pid_t pid = program_with(o, node);
	struct worker_answer *answer = do_job(o, request);
	assert_int_equal(answer->result, -EBUSY);
	assert_int_equal(answer->pid, pid);
	assert_non_null(strstr(answer->detail, "sh (process "));
	close(o->hold);
	o->hold = -1;
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(do_job(o, request)->result, 0);
}

static void test_nothing_to_release(void **state)
{
	struct office *o = *state;

	assert_int_equal(
		do_job(o, request_for(WORKER_USB_RELEASE, NULL_DEVICE, "/dev/null"))->result, 0);
	assert_int_equal(
		do_job(o, request_for(WORKER_USB_RETURN, NULL_DEVICE, "/dev/null"))->result, 0);
}

static bool has_answered_50(void *data)
{
	return ((struct office *) data)->n_answers >= 50;
}

static void test_many_jobs(void **state)
{
	struct office *o = *state;
	bool seen[51] = {false};

	for (int i = 0; i < 50; i++) {
		struct worker_request request =
			request_for(WORKER_USB_OPEN, NULL_DEVICE, "/dev/null");
		int r;

		while ((r = worker_send(o->worker, &request)) == -EAGAIN)
			spin_for(o->loop, 1);
		assert_int_equal(r, 0);
	}
	spin_until(o->loop, has_answered_50, o);
	for (int i = 0; i < 50; i++) {
		assert_in_range(o->answers[i].number, 1, 50);
		assert_false(seen[o->answers[i].number]);
		seen[o->answers[i].number] = true;
		assert_int_equal(o->answers[i].result, 0);
	}
}

/* No room for the descriptors here: that is an error, not an answer without any. */
static void test_out_of_descriptors(void **state)
{
	struct office *o = *state;
	struct rlimit limit, none;
	int probe = dup(0);
	struct worker_answer *answer;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	close(probe);
	none = (struct rlimit){.rlim_cur = (rlim_t) probe, .rlim_max = limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	answer = do_job(o, request_for(WORKER_USB_OPEN, NULL_DEVICE, "/dev/null"));
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_true(answer->result < 0);
	assert_int_equal(answer->n_fds, 0);
	assert_false(answer->has_node);
	assert_false(answer->has_watch);
	/* And it can heal. */
	answer = do_job(o, request_for(WORKER_USB_OPEN, NULL_DEVICE, "/dev/null"));
	assert_int_equal(answer->result, 0);
	assert_int_equal(answer->n_fds, 2);
}

/* A child stuck in the kernel outlives the broker: it must hold nothing of the broker's, above all
 * not the lock that keeps a second broker out. */
static void test_worker_holds_no_lock(void **state)
{
	TEMP_DIR(dir);
	char path[60];
	struct worker *worker;

	(void) state;
	snprintf(path, sizeof(path), "%s/broker.lock", dir);
	int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(flock(lock, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(worker_start(&worker), 0);
	close(lock);

	int again = open(path, O_RDWR | O_CLOEXEC);
	int r = -1;
	for (int i = 0; i < 60000 && r < 0; i++) { /* the worker may not have come so far yet */
		r = flock(again, LOCK_EX | LOCK_NB);
		if (r < 0)
			usleep(1000);
	}
	close(again);
	worker_free(worker);
	wait(NULL);
	assert_int_equal(r, 0);
}

/* The processes of the worker, the oldest first. Returns how many there are. */
static size_t list_processes(int *pids, size_t max)
{
	char path[64];
	size_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", getpid(), getpid());
	FILE *f = fopen(path, "re");
	assert_non_null(f);
	while (n < max && fscanf(f, "%d", &pids[n]) == 1)
		n++;
	fclose(f);
	return n;
}

static int first_process(void)
{
	int pid = 0;

	list_processes(&pid, 1);
	return pid;
}

static bool is_one_process(void *data)
{
	int pids[2];

	(void) data;
	return list_processes(pids, 2) == 1;
}

static size_t count_descriptors(int pid)
{
	char path[64];
	size_t n = 0;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	DIR *dir = opendir(path);
	assert_non_null(dir);
	for (const struct dirent *e; (e = readdir(dir));)
		n += e->d_name[0] != '.';
	closedir(dir);
	return n;
}

static bool has_only_its_socket(void *data)
{
	return count_descriptors(*(int *) data) == 4;
}

/* One process does one job after the other, and has nothing of the former when it does the next. */
static void test_one_after_the_other(void **state)
{
	struct office *o = *state;
	int pid = first_process();

	for (int i = 0; i < 5; i++) {
		do_job(o, request_for(WORKER_USB_OPEN, NULL_DEVICE, "/dev/null"));
		assert_int_equal(o->answers[0].n_fds, 2);
		assert_true(is_one_process(NULL));
		assert_int_equal(first_process(), pid);
		spin_until(o->loop, has_only_its_socket, &pid);
	}
}

/* It did nothing: the next job has another one. */
static void test_idle_process_is_killed(void **state)
{
	struct office *o = *state;
	int pid = first_process();

	assert_int_equal(kill(pid, SIGKILL), 0);
	for (int i = 0; i < 3; i++) { /* it may not be known yet that it has gone */
		struct worker_answer *answer =
			do_job(o, request_for(WORKER_USB_OPEN, NULL_DEVICE, "/dev/null"));

		if (answer->result != -EIO)
			assert_int_equal(answer->result, 0);
	}
	spin_until(o->loop, is_one_process, NULL);
	assert_int_not_equal(first_process(), pid);
}

/* It has gone, and the loop has not heard of that yet: the job goes to another one all the same. */
static void test_dead_process_gets_no_job(void **state)
{
	struct office *o = *state;
	int pid = first_process();
	siginfo_t info;

	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitid(P_PID, (id_t) pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(do_job(o, request_for(WORKER_USB_OPEN, NULL_DEVICE, "/dev/null"))->result,
			 0);
	spin_until(o->loop, is_one_process, NULL);
	assert_int_not_equal(first_process(), pid);
}

/* A worker with a made-up /sys. Writing to a FIFO that nobody reads stands for a driver that does
 * not return. */
struct stuck {
	struct office office;
	char *root;
	char fifo[100];
	struct worker_request request;
};

static int setup_stuck(void **state)
{
	struct stuck *s = calloc(1, sizeof(*s));

	s->office.node = s->office.hold = -1;
	s->root = temp_new();
	tree_mkdir(s->root, "/sys/devices/usb1/1-2/1-2:1.0");
	tree_mkdir(s->root, "/sys/bus/usb");
	tree_mkdir(s->root, VHOTPLUG_RUNDIR);
	unsetenv("RUNTIME_DIRECTORY");
	snprintf(s->fifo, sizeof(s->fifo), "%s/sys/bus/usb/drivers_probe", s->root);
	assert_int_equal(mkfifo(s->fifo, 0600), 0);
	root_set(s->root);
	assert_int_equal(worker_start(&s->office.worker), 0);
	assert_int_equal(loop_new(&s->office.loop), 0);
	assert_int_equal(worker_watch(s->office.worker, s->office.loop, on_answer, &s->office), 0);
	s->request = request_for(WORKER_USB_RETURN, "/devices/usb1/1-2", "");
	assert_int_equal(worker_send(s->office.worker, &s->request), 0);
	*state = s;
	return 0;
}

static int teardown_stuck(void **state)
{
	struct stuck *s = *state;

	root_set("");
	worker_free(s->office.worker);
	loop_free(s->office.loop);
	while (waitpid(-1, NULL, 0) > 0)
		;
	temp_remove(&s->root);
	free(s);
	return 0;
}

/* Has it come so far that it waits for the driver? Its lock is there then. */
static bool is_stuck(void *data)
{
	struct stuck *s = data;
	char path[PATH_MAX];

	tree_path(path, s->root, VHOTPLUG_RUNDIR "/locks/1-2");
	return access(path, F_OK) == 0;
}

static bool is_missing(void *path)
{
	return access(path, F_OK) < 0;
}

/* A job whose process is killed (by the kernel, for want of memory, say) is answered all the same,
 * and there is a process for the next one. */
static void test_job_is_killed(void **state)
{
	struct stuck *s = *state;
	struct office *o = &s->office;
	char path[64], lock[PATH_MAX];
	int pid = first_process();

	spin_until(o->loop, is_stuck, s);
	assert_int_equal(o->n_answers, 0);
	assert_int_equal(kill(pid, SIGKILL), 0);
	spin_until(o->loop, has_answered, o);
	assert_int_equal(o->answers[0].number, s->request.number);
	assert_int_equal(o->answers[0].result, -EIO);
	assert_string_equal(o->answers[0].detail, "the process that looked after it was killed");
	snprintf(path, sizeof(path), "/proc/%d", pid);
	spin_until(o->loop, is_missing, path); /* and no zombie is left */
	assert_int_equal(o->n_answers, 1);
	tree_path(lock, s->root, VHOTPLUG_RUNDIR "/locks/1-2");
	_cleanup_close_ int fd = open(lock, O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0);
	assert_int_equal(
		do_job(o, request_for(WORKER_LOOK_OPEN, "/devices/usb1/1-2", "/nosuch"))->result,
		0);
}

/* One that is stuck delays nobody, nor takes it a process for each job that comes meanwhile. In the
 * end there is the oldest. */
static void test_others_do_not_wait(void **state)
{
	struct stuck *s = *state;
	struct office *o = &s->office;
	int pids[4], pid = first_process();
	struct worker_request another =
		request_for(WORKER_LOOK_OPEN, "/devices/usb1/1-2", "/nosuch");

	spin_until(o->loop, is_stuck, s);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(do_job(o, another)->result, 0);
		assert_int_equal(list_processes(pids, ARRAY_SIZE(pids)), 2);
	}
	o->n_answers = 0;
	_cleanup_close_ int reader = open(s->fifo, O_RDONLY | O_CLOEXEC);
	spin_until(o->loop, has_answered, o);
	assert_int_equal(o->answers[0].number, s->request.number);
	assert_int_equal(o->answers[0].result, 0);
	spin_until(o->loop, is_one_process, NULL);
	assert_int_equal(first_process(), pid);
}

int main(void)
{
#define WORKER_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define STUCK_TEST(test) cmocka_unit_test_setup_teardown(test, setup_stuck, teardown_stuck)
	const struct CMUnitTest tests[] = {
		WORKER_TEST(test_open),
		WORKER_TEST(test_watch),
		WORKER_TEST(test_unplugged),
		WORKER_TEST(test_no_device_node),
		WORKER_TEST(test_reset),
		WORKER_TEST(test_look_open),
		WORKER_TEST(test_nothing_to_release),
		WORKER_TEST(test_many_jobs),
		WORKER_TEST(test_out_of_descriptors),
		cmocka_unit_test(test_worker_holds_no_lock),
		WORKER_TEST(test_one_after_the_other),
		WORKER_TEST(test_idle_process_is_killed),
		WORKER_TEST(test_dead_process_gets_no_job),
		STUCK_TEST(test_job_is_killed),
		STUCK_TEST(test_others_do_not_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
