/* The process beside the broker that does what can block: see worker.h. */
#include "broker/worker.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "broker/log.h"
#include "broker/socket.h"

#define MAX_JOBS 256 /* at a time; those stuck in the kernel count */
#define ANSWER_RETRY_MS 10

struct worker {
	int fd; /* -1: it has ended */
	struct loop *loop;
	struct loop_source *source;
	worker_fn fn;
	void *data;
	uint64_t next_number;
};

_Static_assert(WORKER_MAX_FDS <= SOCKET_MAX_FDS, "an answer is one packet");

/* The broker may be slow to read, and the kernel to take descriptors. */
static void send_answer(int fd, const struct worker_answer *answer, const int *fds)
{
	while (socket_send(fd, answer, sizeof(*answer), fds, (size_t) answer->n_fds) == -EAGAIN)
		usleep(ANSWER_RETRY_MS * 1000);
}

static void do_job(int fd, const struct worker_request *request)
{
	struct worker_answer reply = {.number = request->number};
	int fds[WORKER_MAX_FDS];

	switch (request->job) {
	case WORKER_USB_OPEN:
		worker_usb_open(request, &reply, fds);
		break;
	case WORKER_USB_RELEASE:
		worker_usb_release(request, &reply);
		break;
	case WORKER_USB_FENCE:
		worker_usb_fence(request, &reply);
		break;
	case WORKER_USB_RETURN:
		worker_usb_return(request, &reply);
		break;
	case WORKER_PCI_TAKE:
		worker_pci_take(request, &reply);
		break;
	case WORKER_PCI_RETURN:
		worker_pci_return(request, &reply);
		break;
	case WORKER_PCI_LOOK:
		worker_pci_look(request, &reply);
		break;
	case WORKER_LOOK_OPEN:
		worker_look_open(request, &reply);
		break;
	case WORKER_EVDEV_TAKE:
		worker_evdev_take(request, &reply, fds);
		break;
	case WORKER_EVDEV_RETURN:
		worker_evdev_return(request, &reply);
		break;
	case WORKER_WATCH:
		worker_watch_node(request, &reply, fds);
		break;
	}
	send_answer(fd, &reply, fds);
}

/* A child stuck in the kernel may outlive the broker. Were the broker's lock or sockets open in it,
 * no other broker could start. Source: close_range(2), Linux 5.9. */
int worker_keep_only(int fd)
{
	int kept = dup2(fd, STDERR_FILENO + 1);

	if (kept >= 0)
		syscall(SYS_close_range, kept + 1, ~0U, 0);
	return kept;
}

/* The worker's side: who does what. Children are waited for when they end and never before: one may
 * be stuck in the kernel for ever. */
struct office {
	int fd, signal_fd;
	struct job {
		pid_t pid; /* 0: a free place */
		uint64_t number;
	} jobs[MAX_JOBS];
};

static struct job *find_job(struct office *office, pid_t pid)
{
	for (size_t i = 0; i < MAX_JOBS; i++)
		if (office->jobs[i].pid == pid)
			return &office->jobs[i];
	return NULL;
}

static void fail_request(const struct office *office, uint64_t number, int result,
			 const char *detail)
{
	struct worker_answer reply = {.number = number, .result = result};

	snprintf(reply.detail, sizeof(reply.detail), "%s", detail);
	send_answer(office->fd, &reply, NULL);
}

/* One that was killed has not answered, or has already: then nobody waits for its number. */
static void collect_children(struct office *office)
{
	struct signalfd_siginfo info;
	int status;
	pid_t pid;

	while (read(office->signal_fd, &info, sizeof(info)) > 0)
		;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct job *job = find_job(office, pid);

		if (!job)
			continue;
		if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
			fail_request(office, job->number, -EIO,
				     "the process that looked after it was killed");
		job->pid = 0;
	}
}

static void start_job(struct office *office, const struct worker_request *request)
{
	struct job *job = find_job(office, 0);
	pid_t pid = job ? fork() : -1;
	sigset_t none;

	if (pid == 0) {
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		close(office->signal_fd);
		do_job(office->fd, request);
		_exit(0);
	}
	if (!job)
		fail_request(office, request->number, -EAGAIN,
			     "too many other devices are stuck in the kernel");
	else if (pid < 0)
		fail_request(office, request->number, -errno, strerror(errno));
	else
		*job = (struct job){.pid = pid, .number = request->number};
}

static void serve_requests(int fd)
{
	static struct office office;
	struct worker_request request;
	sigset_t set;
	ssize_t n = sizeof(request);

	office.fd = worker_keep_only(fd);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	prctl(PR_SET_NAME, "vhotplug-worker");
	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_SETMASK, &set, NULL);
	office.signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	struct pollfd fds[] = {{.fd = office.fd, .events = POLLIN},
			       {.fd = office.signal_fd, .events = POLLIN}};

	while (n == sizeof(request) || (n < 0 && errno == EAGAIN)) {
		if (poll(fds, ARRAY_SIZE(fds), -1) < 0)
			continue;
		if (fds[1].revents)
			collect_children(&office);
		n = recv(office.fd, &request, sizeof(request), MSG_DONTWAIT);
		if (n == sizeof(request))
			start_job(&office, &request);
	}
	_exit(0);
}

int worker_start(struct worker **ret_worker)
{
	int pair[2];
	struct worker *worker = calloc(1, sizeof(*worker));

	if (!worker)
		return -ENOMEM;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		int r = -errno;

		free(worker);
		return r;
	}
	pid_t pid = fork();
	if (pid == 0) {
		close(pair[0]);
		serve_requests(pair[1]);
	}
	close(pair[1]);
	worker->fd = pair[0];
	if (pid < 0) {
		int r = -errno;

		worker_free(worker);
		return r;
	}
	*ret_worker = worker;
	return 0;
}

static int receive_answer(int fd, struct worker_answer *reply, int *fds)
{
	size_t n_fds;
	ssize_t n = socket_receive(fd, reply, sizeof(*reply), fds, WORKER_MAX_FDS, &n_fds);

	reply->n_fds = (int) n_fds;
	if (n == -EMFILE) {
		reply->result = -EMFILE;
		snprintf(reply->detail, sizeof(reply->detail), "%s", strerror(EMFILE));
		return 0;
	}
	if (n < 0)
		return (int) n;
	return n == sizeof(*reply) ? 0 : -ECONNRESET;
}

static void answer_is_readable(void *data, uint32_t events)
{
	struct worker *worker = data;
	struct worker_answer reply;
	int fds[WORKER_MAX_FDS];
	int r;

	(void) events;
	while ((r = receive_answer(worker->fd, &reply, fds)) == 0)
		worker->fn(worker->data, &reply, fds);
	if (r == -EAGAIN)
		return;
	log_error("the worker process has ended");
	worker->source = loop_source_free(worker->source);
	worker->fd = close_fd(worker->fd);
	loop_quit(worker->loop);
}

int worker_watch(struct worker *worker, struct loop *loop, worker_fn fn, void *data)
{
	worker->fn = fn;
	worker->data = data;
	worker->loop = loop;
	return loop_add(loop, worker->fd, EPOLLIN, answer_is_readable, worker, &worker->source);
}

bool worker_has_ended(const struct worker *worker)
{
	return worker->fd < 0;
}

void worker_free(struct worker *worker)
{
	if (!worker)
		return;
	loop_source_free(worker->source);
	close_fd(worker->fd);
	free(worker);
}

int worker_send(struct worker *worker, struct worker_request *request)
{
	request->number = ++worker->next_number;
	if (send(worker->fd, request, sizeof(*request), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return errno == EAGAIN ? -EAGAIN : -EPIPE;
	return 0;
}
