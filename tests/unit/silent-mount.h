/* A file system whose server never answers, as a VM's user can mount it. Include after cmocka.h. */
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "helper/macro.h"

#define SILENT_MOUNT_MS 5000 /* what does not wait has ended by then, however busy the machine */

enum silent_end { SILENT_GOOD, SILENT_BAD, SILENT_HANGS, SILENT_NO_MOUNT };

/* In a namespace of its own, which goes with it. FUSE: the descriptor is its server's end. */
static inline _Noreturn void silent_call(int fuse, const char *path, bool (*fn)(void *data),
					 void *data)
{
	char options[80];

	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse);
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", path, "fuse", 0, options) < 0)
		_exit(SILENT_NO_MOUNT);
	close(fuse);
	_exit(fn(data) ? SILENT_GOOD : SILENT_BAD);
}

/* Calls FN in a process that has such a file system at the directory PATH. It hangs no longer than
 * the test: the kernel lets go of who waits when the server's end is closed. */
static inline enum silent_end silent_mount_try(const char *path, bool (*fn)(void *data), void *data)
{
	int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC), ends[2], status;

	if (fuse < 0)
		return SILENT_NO_MOUNT;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid_t pid = fork();
	if (pid == 0)
		silent_call(fuse, path, fn, data);
	close(ends[1]);
	struct pollfd ended = {.fd = ends[0]};
	bool hangs = poll(&ended, 1, SILENT_MOUNT_MS) == 0;
	close(fuse);
	close(ends[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return hangs ? SILENT_HANGS : (enum silent_end) WEXITSTATUS(status);
}

/* Expects that FN returns true, in a process as above, and does not hang. */
static inline void silent_mount_expect(const char *path, bool (*fn)(void *data), void *data)
{
	enum silent_end end = silent_mount_try(path, fn, data);

	if (end == SILENT_NO_MOUNT) {
		print_message("skipped: no FUSE file system can be mounted here\n");
		skip();
	}
	assert_int_equal(end, SILENT_GOOD);
}
