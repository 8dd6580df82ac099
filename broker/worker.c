/* The process beside the broker that does what can block: see worker.h. */
#include "broker/worker.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "broker/log.h"

struct worker {
	int fd; /* -1: it has ended */
	struct loop *loop;
	struct loop_source *source;
	worker_fn fn;
	void *data;
	uint64_t next_number;
};

static void answer(int fd, struct worker_answer *answer, int *fds)
{
	struct iovec iov = {.iov_base = answer, .iov_len = sizeof(*answer)};
	union {
		char buffer[CMSG_SPACE(sizeof(int) * WORKER_MAX_FDS)];
		struct cmsghdr align;
	} control = {0};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

	if (answer->n_fds > 0) {
		size_t size = sizeof(int) * (size_t) answer->n_fds;

		msg.msg_control = control.buffer;
		msg.msg_controllen = CMSG_SPACE(size);
		struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(size);
		memcpy(CMSG_DATA(cmsg), fds, size);
	}
	sendmsg(fd, &msg, MSG_NOSIGNAL);
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
	case WORKER_EVDEV_TAKE:
		worker_evdev_take(request, &reply);
		break;
	case WORKER_EVDEV_RETURN:
		worker_evdev_return(request, &reply);
		break;
	}
	answer(fd, &reply, fds);
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

static void serve(int fd)
{
	struct worker_request request;

	fd = worker_keep_only(fd);
	/* Children are never waited for: one may be stuck in the kernel for ever. */
	signal(SIGCHLD, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	prctl(PR_SET_NAME, "vhotplug-worker");
	while (recv(fd, &request, sizeof(request), 0) == sizeof(request)) {
		pid_t pid = fork();

		if (pid == 0) {
			do_job(fd, &request);
			_exit(0);
		}
		if (pid < 0) {
			struct worker_answer reply = {.number = request.number, .result = -errno};

			answer(fd, &reply, NULL);
		}
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
		serve(pair[1]);
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

static int receive(int fd, struct worker_answer *reply, int *fds)
{
	struct iovec iov = {.iov_base = reply, .iov_len = sizeof(*reply)};
	union {
		char buffer[CMSG_SPACE(sizeof(int) * WORKER_MAX_FDS)];
		struct cmsghdr align;
	} control;
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.buffer,
		.msg_controllen = sizeof(control.buffer),
	};
	ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n < 0)
		return -errno;
	if (n != sizeof(*reply))
		return -ECONNRESET;
	reply->n_fds = 0;
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	if (cmsg && cmsg->cmsg_type == SCM_RIGHTS) {
		size_t size = cmsg->cmsg_len - CMSG_LEN(0);

		memcpy(fds, CMSG_DATA(cmsg), size);
		reply->n_fds = (int) (size / sizeof(int));
	}
	/* Not all descriptors had room here. */
	if (msg.msg_flags & MSG_CTRUNC) {
		while (reply->n_fds > 0)
			close(fds[--reply->n_fds]);
		reply->result = -EMFILE;
		snprintf(reply->detail, sizeof(reply->detail), "%s", strerror(EMFILE));
	}
	return 0;
}

static void readable(void *data, uint32_t events)
{
	struct worker *worker = data;
	struct worker_answer reply;
	int fds[WORKER_MAX_FDS];
	int r;

	(void) events;
	while ((r = receive(worker->fd, &reply, fds)) == 0)
		worker->fn(worker->data, &reply, fds);
	if (r == -EAGAIN || r == -EINTR)
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
	return loop_add(loop, worker->fd, EPOLLIN, readable, worker, &worker->source);
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
