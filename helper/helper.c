/* The course of one helper: collect, deliver, else spool. Called by main and by the tests. The one
 * place where the helper logs. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <syslog.h>

#include "helper/collect.h"
#include "helper/deliver.h"
#include "helper/helper.h"
#include "helper/report.h"
#include "helper/spool.h"

#define NAME "vhotplug-helper"

/* For kernels before 5.9. */
static void close_one_by_one(void)
{
	DIR *dir = opendir("/proc/self/fd");

	if (!dir) {
		for (int fd = 3; fd < 1024; fd++)
			close(fd);
		return;
	}
	for (struct dirent *e; (e = readdir(dir));) {
		int fd = atoi(e->d_name);
		if (fd > 2 && fd != dirfd(dir))
			close(fd);
	}
	closedir(dir);
}

void helper_close_inherited(void)
{
	int fd;

#ifdef SYS_close_range
	if (syscall(SYS_close_range, 3U, UINT_MAX, 0) < 0)
#endif
		close_one_by_one();
	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= 2);
	close_fd(fd);
}

static int spool_event(const char *run_dir, const struct wire_msg *msg)
{
	_cleanup_close_ int dir_fd = -1;
	int r;

	r = spool_open(run_dir, &dir_fd);
	if (r < 0) {
		report_line(NAME, LOG_ERR, "event %s lost: %s/%s: %s", wire_get(msg, "SEQNUM"),
			    run_dir, WIRE_SPOOL_NAME, strerror(-r));
		return 1;
	}
	r = spool_put(dir_fd, msg);
	if (r == 0)
		return 0;
	/* Once is enough: the next thousand events would say the same. */
	if (spool_mark_lost(dir_fd) != 0)
		report_line(
			NAME, LOG_ERR,
			"event %s lost, and maybe others after it: %s/%s: %s; is vhotplug-broker "
			"running?",
			wire_get(msg, "SEQNUM"), run_dir, WIRE_SPOOL_NAME,
			r == -ENOBUFS ? "full" : strerror(-r));
	return 1;
}

int helper_run(const char *run_dir, bool *ret_alone)
{
	struct wire_msg msg;
	char answer;
	int r;

	*ret_alone = false;
	r = collect_event(&msg);
	if (r < 0)
		report_line(NAME, LOG_ERR, "event not understood: %s", strerror(-r));
	if (r <= 0)
		return r < 0;

	r = deliver_message(run_dir, &msg, HELPER_TIMEOUT_MS, &answer);
	if (r == 0 && answer == WIRE_TAKEN)
		return 0;
	report_line(NAME, LOG_DEBUG, "event %s goes to the spool, the broker %s",
		    wire_get(&msg, "SEQNUM"),
		    r == 0            ? "can't store it now"
		    : r == -ETIMEDOUT ? "does not answer"
		    : r == -EAGAIN    ? "is busy"
				      : "is not there");
	*ret_alone = r == -ENOENT || r == -ECONNREFUSED || r == -ECONNRESET || r == -EPIPE;
	return spool_event(run_dir, &msg);
}
