/* The crosvm program as a child process, for what its control socket says differently in every
 * version (PCI: the request has been renamed three times). The binary must be the one that runs the
 * VM.
 *
 * The exit status says nothing: it is 0 for most failures. What is printed is the answer.
 * Sources: crosvm, src/main.rs and src/crosvm/cmdline.rs (usb, vfio), vm_control/src/lib.rs
 * (Display for UsbControlResult), src/crosvm/config.rs (exit status 35).
 */
#pragma once

#include "broker/crosvm_socket.h"
#include "broker/loop.h"
#include "helper/macro.h"

#define CROSVM_INVALID_ARGUMENTS 35 /* exit status: CommandStatus::InvalidArgs */

#define CROSVM_COMMAND_FD 3

struct crosvm_command;

struct crosvm_command_result {
	bool started;   /* false: the program could not be run */
	bool timed_out; /* killed at the deadline */
	int status;     /* as of waitpid */
	char out[2048]; /* what it printed, cut */
	char err[2048];
};

/* RESULT is borrowed; the command is freed after the call. */
typedef void (*crosvm_command_fn)(void *data, const struct crosvm_command_result *result);

/* Runs ARGV, its first word the path of the program (NULL at the end; not needed after the call),
 * with nothing to read, and with FD (borrowed; -1: none) as CROSVM_COMMAND_FD. FN is called once,
 * in the loop: when the program has ended, or DEADLINE_MS after the start, when it and what it has
 * started are killed. It is called too when the program can't be run, so that there is one way to
 * hear of a failure. Returns 0, or -errno when the system can't do it; FN is not called then. */
int crosvm_command_run(struct loop *loop, const char *const *argv, int fd, unsigned deadline_ms,
		       crosvm_command_fn fn, void *data,
		       struct crosvm_command **ret_command) _must_check_;
/* Kills a command whose FN has not been called yet, and forgets it. NULL is fine. Returns NULL. */
struct crosvm_command *crosvm_command_cancel(struct crosvm_command *command);

/* What RESULT of "PROGRAM usb …" or "PROGRAM vfio …" means. *RET_REPLY is the answer; its TEXT is
 * one line for people that says what to do where that is known. An answer that is none is a
 * CROSVM_ERROR. "vfio" says nothing at all when it went well. */
void crosvm_command_parse(const char *program, const struct crosvm_command_result *result,
			  struct crosvm_reply *ret_reply);
