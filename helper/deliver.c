/* The helper's side of the event socket. One connection carries one message. */
#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>

#include "helper/deliver.h"

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Waits until FD is ready for EVENTS or the time DEADLINE has come. */
static int wait_until(int fd, short events, int64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};

	for (;;) {
		int64_t left = deadline - now_ms();
		int n = poll(&p, 1, left > 0 ? (int) left : 0);

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* A UNIX socket connects at once or not at all. EAGAIN says that the listener's queue is full:
 * there is nothing to wait for with poll, so the caller is told. */
static int connect_broker(const char *run_dir, int *ret_fd)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int n = snprintf(addr.sun_path, sizeof(addr.sun_path), "%s/%s", run_dir, WIRE_SOCKET_NAME);

	if (n < 0 || (size_t) n >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	while (connect(fd, (struct sockaddr *) &addr, sizeof(addr)) < 0)
		if (errno != EINTR)
			return -errno;
	*ret_fd = TAKE_FD(fd);
	return 0;
}

static int send_message(int fd, const struct wire_msg *msg, int64_t deadline)
{
	while (send(fd, msg->data, msg->len, MSG_NOSIGNAL) < 0) {
		if (errno == EAGAIN) {
			int r = wait_until(fd, POLLOUT, deadline);
			if (r < 0)
				return r;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

static int receive_answer(int fd, int64_t deadline, char *ret_answer)
{
	char answer[2];
	ssize_t n;

	while ((n = recv(fd, answer, sizeof(answer), 0)) < 0) {
		if (errno == EAGAIN) {
			int r = wait_until(fd, POLLIN, deadline);
			if (r < 0)
				return r;
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	if (n == 0)
		return -ECONNRESET;
	if (n != 1 || (answer[0] != WIRE_TAKEN && answer[0] != WIRE_REFUSED))
		return -EPROTO;
	*ret_answer = answer[0];
	return 0;
}

int deliver_message(const char *run_dir, const struct wire_msg *msg, unsigned timeout_ms,
		    char *ret_answer)
{
	int64_t deadline = now_ms() + timeout_ms;
	_cleanup_close_ int fd = -1;
	int r;

	r = connect_broker(run_dir, &fd);
	if (r < 0)
		return r;
	r = send_message(fd, msg, deadline);
	if (r < 0)
		return r;
	return receive_answer(fd, deadline, ret_answer);
}
