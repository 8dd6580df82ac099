/* The process beside the broker that does what can block: see worker.h. */
#include "broker/worker.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "broker/log.h"
#include "broker/socket.h"

#define MAX_DESKS 256 /* those stuck in the kernel count */
#define ANSWER_RETRY_MS 10

/* One process, from the broker's side. */
struct desk {
	struct desk *next;
	struct worker *worker;
	int fd; /* -1: dismissed, and about to end */
	struct loop_source *source;
	pid_t pid;
	uint64_t number; /* of the job that it is at; 0: none */
};

struct worker {
	struct desk *desks; /* the oldest first */
	unsigned n_desks;
	struct loop *loop;
	int signal_fd; /* some child has ended */
	struct loop_source *signals;
	worker_fn fn;
	void *data;
	uint64_t next_number;
};

_Static_assert(WORKER_MAX_FDS <= SOCKET_MAX_FDS, "an answer is one packet");

/* In the process that does the jobs */

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
	while (reply.n_fds > 0)
		close(fds[--reply.n_fds]);
}

/* Source: close_range(2), Linux 5.9. */
static void close_above(int fd)
{
	syscall(SYS_close_range, fd + 1, ~0U, 0);
}

/* A process stuck in the kernel may outlive the broker. Were the broker's lock or sockets open in
 * it, no other broker could start. */
int worker_keep_only(int fd)
{
	int kept = dup2(fd, STDERR_FILENO + 1);

	if (kept >= 0)
		close_above(kept);
	return kept;
}

/* Nothing of a job outlives it: locks go with their descriptors. */
static void serve_jobs(int fd)
{
	struct worker_request request;
	sigset_t none;
	ssize_t n;

	fd = worker_keep_only(fd);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_NAME, "vhotplug-worker");
	while ((n = recv(fd, &request, sizeof(request), 0)) == sizeof(request) ||
	       (n < 0 && errno == EINTR)) {
		if (n < 0)
			continue;
		do_job(fd, &request);
		close_above(fd);
	}
	_exit(0);
}

/* In the broker */

static void free_desk(struct desk *desk)
{
	loop_source_free(desk->source);
	close_fd(desk->fd);
	free(desk);
}

/* It ends when it has done what it is at. */
static void dismiss_desk(struct desk *desk)
{
	desk->source = loop_source_free(desk->source);
	desk->fd = close_fd(desk->fd);
}

static struct desk *find_idle(const struct worker *worker)
{
	for (struct desk *desk = worker->desks; desk; desk = desk->next)
		if (desk->fd >= 0 && desk->number == 0)
			return desk;
	return NULL;
}

/* One that waits is enough: the oldest, which has the least memory. */
static void dismiss_spare_desks(const struct worker *worker)
{
	struct desk *kept = find_idle(worker);

	for (struct desk *desk = kept ? kept->next : NULL; desk; desk = desk->next)
		if (desk->fd >= 0 && desk->number == 0)
			dismiss_desk(desk);
}

static int receive_answer(int fd, struct worker_answer *reply, int *fds)
{
	size_t n_fds;
	ssize_t n = socket_receive(fd, reply, sizeof(*reply), fds, WORKER_MAX_FDS, &n_fds);

	reply->n_fds = (int) n_fds;
	if (n == -EMFILE) {
		reply->result = -EMFILE;
		reply->has_node = reply->has_watch = false;
		snprintf(reply->detail, sizeof(reply->detail), "%s", strerror(EMFILE));
		return 0;
	}
	if (n < 0)
		return (int) n;
	return n == sizeof(*reply) ? 0 : -ECONNRESET;
}

static void answer_is_readable(void *data, uint32_t events)
{
	struct desk *desk = data;
	struct worker *worker = desk->worker;
	struct worker_answer reply;
	int fds[WORKER_MAX_FDS];
	int r = receive_answer(desk->fd, &reply, fds);

	(void) events;
	if (r == -EAGAIN)
		return;
	/* What became of its job is told when it has ended for good. */
	if (r < 0) {
		dismiss_desk(desk);
		return;
	}
	desk->number = 0;
	dismiss_spare_desks(worker);
	worker->fn(worker->data, &reply, fds);
}

/* Whoever is killed has not answered, or has already: then it was at nothing. */
static void tell_end(struct worker *worker, uint64_t number)
{
	struct worker_answer reply = {.number = number, .result = -EIO};

	snprintf(reply.detail, sizeof(reply.detail), "the process that looked after it was killed");
	worker->fn(worker->data, &reply, NULL);
}

static void remove_desk(struct worker *worker, const struct desk *desk)
{
	struct desk **at = &worker->desks;

	while (*at != desk)
		at = &(*at)->next;
	*at = desk->next;
	worker->n_desks--;
}

static void note_end(struct worker *worker, struct desk *desk, int status)
{
	remove_desk(worker, desk);
	if (desk->fd >= 0)
		answer_is_readable(desk, EPOLLIN);
	uint64_t number = desk->number;
	free_desk(desk);
	if (status != 0)
		log_error("a worker process has been killed");
	if (number != 0)
		tell_end(worker, number);
}

static void collect_ended(struct worker *worker)
{
	struct desk *next;
	int status;

	for (struct desk *desk = worker->desks; desk; desk = next) {
		next = desk->next;
		if (waitpid(desk->pid, &status, WNOHANG) == desk->pid)
			note_end(worker, desk, status);
	}
}

/* The broker has other children; whoever started them waits for them. */
static void child_has_ended(void *data, uint32_t events)
{
	struct worker *worker = data;
	struct signalfd_siginfo info;

	(void) events;
	while (read(worker->signal_fd, &info, sizeof(info)) > 0)
		;
	collect_ended(worker);
}

static int watch_children(struct worker *worker)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	worker->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (worker->signal_fd < 0)
		return -errno;
	return loop_add(worker->loop, worker->signal_fd, EPOLLIN, child_has_ended, worker,
			&worker->signals);
}

static int watch_desk(struct desk *desk)
{
	return loop_add(desk->worker->loop, desk->fd, EPOLLIN, answer_is_readable, desk,
			&desk->source);
}

static int fork_desk(struct desk *desk)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -errno;
	desk->fd = pair[0];
	desk->pid = fork();
	if (desk->pid == 0) {
		close(pair[0]);
		serve_jobs(pair[1]);
	}
	int r = desk->pid < 0 ? -errno : 0;
	close(pair[1]);
	return r;
}

static int open_desk(struct worker *worker, struct desk **ret_desk)
{
	struct desk *desk = calloc(1, sizeof(*desk));
	struct desk **at = &worker->desks;

	if (!desk)
		return -ENOMEM;
	*desk = (struct desk){.worker = worker, .fd = -1};
	int r = fork_desk(desk);
	if (r < 0) {
		free_desk(desk);
		return r;
	}
	while (*at)
		at = &(*at)->next;
	*at = desk;
	worker->n_desks++;
	if (worker->loop)
		r = watch_desk(desk);
	if (r < 0)
		dismiss_desk(desk);
	*ret_desk = desk;
	return r;
}

int worker_start(struct worker **ret_worker)
{
	struct worker *worker = calloc(1, sizeof(*worker));
	struct desk *desk;
	int r = -ENOMEM;

	if (!worker)
		return r;
	worker->signal_fd = -1;
	r = open_desk(worker, &desk);
	if (r < 0)
		free(worker);
	else
		*ret_worker = worker;
	return r;
}

int worker_watch(struct worker *worker, struct loop *loop, worker_fn fn, void *data)
{
	worker->fn = fn;
	worker->data = data;
	worker->loop = loop;
	int r = watch_children(worker);
	if (r == 0)
		r = watch_desk(worker->desks);
	collect_ended(worker); /* before anybody watched */
	return r;
}

void worker_free(struct worker *worker)
{
	struct desk *desk;

	if (!worker)
		return;
	while ((desk = worker->desks)) {
		worker->desks = desk->next;
		free_desk(desk);
	}
	loop_source_free(worker->signals);
	close_fd(worker->signal_fd);
	free(worker);
}

static int hand_out(struct desk *desk, const struct worker_request *request)
{
	if (send(desk->fd, request, sizeof(*request), MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return -errno;
	desk->number = request->number;
	return 0;
}

int worker_send(struct worker *worker, struct worker_request *request)
{
	struct desk *desk = find_idle(worker);
	int r;

	request->number = ++worker->next_number;
	if (desk && hand_out(desk, request) == 0)
		return 0;
	/* It has just been killed. */
	if (desk)
		dismiss_desk(desk);
	r = worker->n_desks < MAX_DESKS ? open_desk(worker, &desk) : -EAGAIN;
	return r < 0 ? r : hand_out(desk, request);
}
