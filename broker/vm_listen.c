/* The socket of ours that a VMM dials: see vm_listen.h. Called by vm.c. */
#include "broker/vm_listen.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include "broker/log.h"
#include "broker/socket.h"

#define LISTEN_RETRY_MS 10000 /* for somebody to make the directory of a socket, say */
#define ACCEPT_RETRY_MS 1000  /* while there are no descriptors left */
#define CLEARED_MS 200        /* for whoever clears a directory to be done with it */
#define CALLS 20              /* at once */
#define CALLS_PER_SECOND 2
#define DIAL_MS 5000 /* for a VMM that runs to dial in again after a restart of the broker */

/* A VMM dials in: the one that is expected, and only one. */
static int check_caller(struct vm *vm, int fd)
{
	struct peer peer;
	int r = peer_get(fd, &peer);

	if (r < 0)
		return r;
	vm->has_refused = peer.uid != 0 && peer.uid != vm->user;
	if (vm->has_refused) {
		vm_set_reason(
			vm, "refused a call of uid %u on %s; say in \"user =\" who the VMM runs as",
			(unsigned) peer.uid, vm->listen);
		return -EPERM;
	}
	const char *other = vm_name_of_process(vm, &peer);
	if (other) {
		log_warning("%s: refused a call of process %d on %s: it is the VM %s", vm->name,
			    (int) peer.pid, vm->listen, other);
		return -EPERM;
	}
	if (vm->peer.pid == 0 ||
	    (peer.pid == vm->peer.pid && peer.start_time == vm->peer.start_time)) {
		if (vm->peer.pid == 0)
			vm_take_process(vm, &peer);
		return 0;
	}
	log_warning("%s: refused a call of process %d on %s: process %d is its VMM", vm->name,
		    (int) peer.pid, vm->listen, (int) vm->peer.pid);
	return -EBUSY;
}

static void listen_again(void *data)
{
	struct vm *vm = data;

	loop_source_set_events(vm->listen_source, EPOLLIN);
}

static void listen_later(struct vm *vm, uint64_t ms)
{
	loop_source_set_events(vm->listen_source, 0);
	loop_timer_start(vm->loop, &vm->listen_pause, ms, listen_again, vm);
}

/* Whoever may call may do so as often as he likes: not at the others' cost. */
static void caller_waits(void *data, uint32_t events)
{
	struct vm *vm = data;
	uint64_t now = now_monotonic_ms();

	(void) events;
	if (!budget_take(&vm->calls, 1, now)) {
		listen_later(vm, budget_wait(&vm->calls, 1, now));
		return;
	}
	int fd = accept4(vm->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0 && (errno == EMFILE || errno == ENFILE))
		listen_later(vm, ACCEPT_RETRY_MS);
	if (fd < 0)
		return;
	if (check_caller(vm, fd) < 0 || vm->vmm->dialled(vm, fd) < 0) {
		close(fd);
		return;
	}
	vm_wake(vm);
}

/* The socket that the VMM dials, open to its user alone. */
static int make_socket(struct vm *vm)
{
	vm->listen_fd = socket_listen(vm->listen, SOCK_STREAM, 4, vm->user);
	if (vm->listen_fd < 0)
		return vm->listen_fd;
	vm->listen_inode = socket_inode(vm->listen);
	return loop_add(vm->loop, vm->listen_fd, EPOLLIN, caller_waits, vm, &vm->listen_source);
}

static void close_socket(struct vm *vm)
{
	loop_timer_stop(&vm->listen_pause);
	vm->listen_source = loop_source_free(vm->listen_source);
	vm->listen_fd = close_fd(vm->listen_fd);
}

/* Somebody has cleared its directory, say, or has made it: no VMM would find the socket. Whatever
 * else lies there by now stays: it may be the socket of the VM that has taken this one's place in
 * the config. */
static void look_at_socket(void *data)
{
	struct vm *vm = data;

	if (vm->listen_fd < 0) {
		vm_check(vm);
	} else if (socket_inode(vm->listen) == 0) {
		log_warning("%s: %s was removed: making it again", vm->name, vm->listen);
		close_socket(vm);
		vm_check_later(vm, CLEARED_MS);
	}
}

int vm_listen_init(struct vm *vm)
{
	if (!vm->vmm->dialled)
		return -EOPNOTSUPP;
	budget_init(&vm->calls, CALLS, CALLS_PER_SECOND);
	return watch_new(vm->loop, vm->listen, look_at_socket, vm, &vm->watch);
}

int vm_listen_open(struct vm *vm)
{
	int r = make_socket(vm);

	if (r == 0) {
		vm->listening_since = now_monotonic_ms();
		return 0;
	}
	close_socket(vm);
	vm->is_absent = true;
	vm_set_reason(vm, "can't make the socket %s: %s; correct \"listen =\"", vm->listen,
		      strerror(-r));
	vm_check_later(vm, LISTEN_RETRY_MS);
	return r;
}

/* A VMM that dials may well run, and not have noticed yet that there is a broker again. */
void vm_listen_missed(struct vm *vm)
{
	uint64_t waited = now_monotonic_ms() - vm->listening_since;

	vm->is_absent = waited >= DIAL_MS;
	if (!vm->is_absent)
		vm_check_later(vm, DIAL_MS - waited);
	/* That one may be the VMM after all, under another name than the config says. */
	if (vm->has_refused)
		return;
	vm_set_reason(vm, "%s %s on %s", vm->name,
		      vm->is_absent ? "is not running: it has not dialled in"
				    : "has not dialled in yet",
		      vm->listen);
}

void vm_listen_finish(struct vm *vm)
{
	/* By now it may be the socket of the VM that has taken this one's place in the config. */
	socket_remove(vm->listen, vm->listen_inode);
	close_socket(vm);
}
