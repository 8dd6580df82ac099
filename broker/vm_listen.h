/* "listen =": the socket that a VMM dials, for vm.c alone. Its members are in struct vm. */
#pragma once

#include "broker/vm.h"

/* Once, before all else. The socket is made again from now on when somebody removes it, and as soon
 * as its directory is there. Returns 0, or -EOPNOTSUPP: VM's VMM does not dial; or -errno. */
int vm_listen_init(struct vm *vm) _must_check_;
/* Makes the socket, open to VM's user alone, and waits for its VMM. Returns 0, or -errno: the
 * reason says so then, and it is tried again. */
int vm_listen_open(struct vm *vm) _must_check_;
/* Nobody has dialled in: a VMM that runs may not have noticed yet that there is a broker again, and
 * has its time. */
void vm_listen_missed(struct vm *vm);
/* Closes the socket and removes it. */
void vm_listen_finish(struct vm *vm);
