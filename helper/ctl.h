/* vhotplugctl: what its parts share. A short-lived program that asks the broker over its control
 * socket and prints the answer; see vhotplugctl(8). It links no broker code and no SQLite. */
#pragma once

#include <jansson.h>

#include "helper/macro.h"

/* Exit statuses, as documented. */
enum ctl_exit {
	CTL_OK,
	CTL_FAILED,      /* the broker could not do it, and has said why */
	CTL_USAGE,       /* the command line is wrong */
	CTL_NO_BROKER,   /* nobody answers on the control socket */
	CTL_NO_DEVICE,   /* what was named is not there, or is ambiguous */
	CTL_NOT_ALLOWED, /* not permitted */
};

struct ctl_options {
	const char *socket;
	bool json;

	/* Those of single commands. */
	const char *vm, *tag, *device, *bus_prefix;
	bool all, follow, until_replug, once, require_pci;
	long long since; /* ms since 1970; 0: not given */
	long long limit, start, timeout;
	char **args; /* what is left */
	int n_args;
};

/* Says "vhotplugctl: …" on stderr; returns STATUS. */
int ctl_fail(enum ctl_exit status, const char *format, ...) _printf_(2, 3);
