/* tests/doubles/crosvm_server.py (or its sister) as a child of a test: started, told what happens
 * to it, asked what it has. Its commands are in its own head. */
#pragma once

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "broker/loop.h"
#include "helper/macro.h"

struct crosvm_double {
	pid_t pid;
	FILE *to, *from;
};

/* Puts the PCI function at ADDRESS into the IOMMU group GROUP, and makes that one's node. */
static inline void double_pci_group(const char *dir, const char *address, int group)
{
	char path[400], target[64];

	snprintf(target, sizeof(target), "../../../../kernel/iommu_groups/%d", group);
	snprintf(path, sizeof(path), "%s/sys/bus/pci/devices/%s/iommu_group", dir, address);
	if ((unlink(path) < 0 && errno != ENOENT) || symlink(target, path) < 0)
		abort();
	snprintf(path, sizeof(path), "%s/dev/vfio/%d", dir, group);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		abort();
	close(fd);
}

/* Makes a PCI function in the IOMMU group 7, for doubles that are started after this: a directory
 * below DIR and the group's node. Returns its path as crosvm is told it. */
static inline const char *double_pci_function(const char *dir, const char *address)
{
	static const char *const folders[] = {
		"sys", "sys/bus", "sys/bus/pci", "sys/bus/pci/devices", "dev", "dev/vfio"};
	static char path[128];
	char full[400];

	for (size_t i = 0; i < ARRAY_SIZE(folders); i++) {
		snprintf(full, sizeof(full), "%s/%s", dir, folders[i]);
		if (mkdir(full, 0700) < 0 && errno != EEXIST)
			abort();
	}
	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s", address);
	snprintf(full, sizeof(full), "%s%s", dir, path);
	if (mkdir(full, 0700) < 0 || setenv("VMM_DOUBLE_ROOT", dir, 1) < 0)
		abort();
	double_pci_group(dir, address, 7);
	return path;
}

/* Reads one answer; the caller owns it. */
static inline json_t *double_read(struct crosvm_double *d)
{
	char line[65536];

	if (!fgets(line, sizeof(line), d->from))
		abort();
	json_t *state = json_loads(line, 0, NULL);
	if (!state)
		abort();
	return state;
}

/* PROGRAM is one of the servers in DOUBLES. Returns when it listens. */
static inline void double_start_as(struct crosvm_double *d, const char *program, const char *socket)
{
	int to[2], from[2];

	if (pipe2(to, O_CLOEXEC) < 0 || pipe2(from, O_CLOEXEC) < 0)
		abort();
	d->pid = fork();
	if (d->pid == 0) {
		dup2(to[0], 0);
		dup2(from[1], 1);
		execl("/usr/bin/python3", "python3", "-BS", program, socket, NULL);
		_exit(127);
	}
	close(to[0]);
	close(from[1]);
	d->to = fdopen(to[1], "w");
	d->from = fdopen(from[0], "r");
	json_decref(double_read(d));
}

static inline void double_start(struct crosvm_double *d, const char *socket)
{
	double_start_as(d, DOUBLES "/crosvm_server.py", socket);
}

static inline json_t *double_tell(struct crosvm_double *d, const char *what)
{
	fprintf(d->to, "%s\n", what);
	fflush(d->to);
	return double_read(d);
}

static inline void double_do(struct crosvm_double *d, const char *what)
{
	json_decref(double_tell(d, what));
}

/* What is on PORT: the last part of the path that its descriptor was opened by, "foreign", or ""
 * for nothing. */
static inline const char *double_port(struct crosvm_double *d, unsigned port)
{
	static char name[256];
	char number[16];
	json_t *state = double_tell(d, "state");

	snprintf(number, sizeof(number), "%u", port);
	json_t *at = json_object_get(json_object_get(state, "ports"), number);
	const char *path = at ? json_string_value(json_object_get(at, "path")) : "";
	snprintf(name, sizeof(name), "%s", strrchr(path, '/') ? strrchr(path, '/') + 1 : path);
	json_decref(state);
	return name;
}

static inline size_t double_ports(struct crosvm_double *d)
{
	json_t *state = double_tell(d, "state");
	size_t n = json_object_size(json_object_get(state, "ports"));

	json_decref(state);
	return n;
}

/* How many PCI functions have been hot-plugged into it. */
static inline size_t double_functions(struct crosvm_double *d)
{
	json_t *state = double_tell(d, "state");
	size_t n = json_array_size(json_object_get(state, "pci"));

	json_decref(state);
	return n;
}

/* How many requests so far had WORD in them. */
static inline unsigned double_requests(struct crosvm_double *d, const char *word)
{
	json_t *state = double_tell(d, "state"), *request;
	unsigned n = 0;
	size_t i;

	json_array_foreach(json_object_get(state, "requests"), i, request)
	{
		if (strstr(json_string_value(request), word))
			n++;
	}
	json_decref(state);
	return n;
}

/* Time */

/* The one that goes by the loop's clock. */
static struct crosvm_double *double_on_time;

/* Does process PID, a crosvm program, wait for crosvm's answer? */
static inline bool double_has_asked(int pid)
{
	char path[400];

	snprintf(path, sizeof(path), "%s/asked.%d", getenv("VMM_DOUBLE_ASKED"), pid);
	return access(path, F_OK) == 0;
}

/* Is a crosvm program under way? Not if its end is in the loop, nor if it waits for a crosvm that
 * HANGS. */
static inline bool double_is_asked(bool hangs)
{
	FILE *children = fopen("/proc/thread-self/children", "re");
	bool is_asked = false;
	int pid;

	if (!children)
		abort();
	while (fscanf(children, "%d", &pid) == 1) {
		siginfo_t info = {0};

		if (pid != double_on_time->pid &&
		    waitid(P_PID, (id_t) pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
		    info.si_pid == 0)
			is_asked |= !hangs || !double_has_asked(pid);
	}
	fclose(children);
	return is_asked;
}

/* Lets crosvm do what is to be done by now. Returns when it goes on by itself. */
static inline uint64_t double_settle_server(bool *ret_hangs)
{
	char what[40];

	*ret_hangs = false;
	if (double_on_time->pid == 0)
		return UINT64_MAX;
	snprintf(what, sizeof(what), "settle %llu", (unsigned long long) now_monotonic_ms());
	json_t *answer = double_tell(double_on_time, what);
	json_t *wake = json_object_get(answer, "wake");
	uint64_t at = json_is_null(wake) ? UINT64_MAX : (uint64_t) json_number_value(wake);
	*ret_hangs = json_is_true(json_object_get(answer, "hangs"));
	json_decref(answer);
	return at;
}

static inline uint64_t double_settle(void)
{
	uint64_t at;
	bool hangs;

	while (at = double_settle_server(&hangs), double_is_asked(hangs))
		usleep(1000);
	return at;
}

/* From now on D and the crosvm programs go by the loop's clock, which waits for nothing
 * (loop_skip_waiting_with), however busy the machine is. DIR is for their notes. */
static inline void double_share_clock(struct crosvm_double *d, const char *dir)
{
	char what[40];

	if (setenv("VMM_DOUBLE_ASKED", dir, 1) < 0)
		abort();
	double_on_time = d;
	loop_skip_waiting_with(double_settle);
	snprintf(what, sizeof(what), "clock %llu", (unsigned long long) now_monotonic_ms());
	double_do(d, what);
}

/* Ends it by the signal HOW, or, 0, in good order. */
static inline void double_stop(struct crosvm_double *d, int how)
{
	if (d->pid <= 0)
		return;
	if (how != 0)
		kill(d->pid, how);
	else
		fclose(d->to);
	waitpid(d->pid, NULL, 0);
	if (how != 0)
		fclose(d->to);
	fclose(d->from);
	d->pid = 0;
}
