/* The life of a VM: see vm.h. The socket's directory is watched, the process is known by a pidfd;
 * a timer runs only while an attempt is to be repeated. */
#include "broker/vm.h"

#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include "broker/log.h"
#include "broker/qmp.h"
#include "broker/vm_listen.h"

#define FIRST_RETRY_MS 50
#define LOOKS 50 /* at once */
#define LOOKS_PER_SECOND 1
#define MAX_RETRY_MS 2000
#define MAX_SILENT_RETRIES 8 /* of a socket on which nobody listens: some 8 s */

void vm_set_reason(struct vm *vm, const char *format, ...)
{
	char reason[sizeof(vm->reason)];
	va_list args;

	va_start(args, format);
	vsnprintf(reason, sizeof(reason), format, args);
	va_end(args);
	if (streq(reason, vm->reason))
		return;
	strcpy(vm->reason, reason);
	if (*reason)
		log_info("%s: %s", vm->name, reason);
	vm->handler->reason(vm->data, vm);
}

static void retry_check(void *data)
{
	vm_check(data);
}

void vm_check_later(struct vm *vm, uint64_t delay_ms)
{
	loop_timer_start(vm->loop, &vm->retry, delay_ms, retry_check, vm);
}

void vm_check_by(struct vm *vm, uint64_t delay_ms)
{
	if (!vm->retry.loop)
		vm_check_later(vm, delay_ms);
}

void vm_wake(struct vm *vm)
{
	vm->n_retries = 0;
	vm_check(vm);
}

static void retry_later(struct vm *vm)
{
	uint64_t delay = FIRST_RETRY_MS << (vm->n_retries < 8 ? vm->n_retries : 8);

	vm->n_retries++;
	vm_check_later(vm, delay < MAX_RETRY_MS ? delay : MAX_RETRY_MS);
}

/* One at a time: a backend has one place for what it learns. */
static void start_probe(struct vm *vm, bool quiet)
{
	if (vm->state == VM_DOWN)
		vm->state = VM_PROBING;
	vm->is_probing = true;
	vm->is_quiet = quiet;
	vm->vmm->probe(vm);
}

void vm_refresh(struct vm *vm)
{
	if (vm->state == VM_UP && !vm->is_probing)
		start_probe(vm, true);
}

static void forget_process(struct vm *vm)
{
	vm->exit_source = loop_source_free(vm->exit_source);
	vm->pidfd = close_fd(vm->pidfd);
	vm->peer = (struct peer){0};
}

/* What VM had it has no more. */
static void guest_gone(struct vm *vm)
{
	vm->state = VM_DOWN;
	vm->n_strange = 0;
	cold_clear(&vm->cold);
	vm->vmm->reset(vm);
	vm->handler->exited(vm->data, vm);
}

/* The process has ended, or another one has taken its place. */
static void process_gone(struct vm *vm)
{
	forget_process(vm);
	guest_gone(vm);
}

void vm_has_ended(struct vm *vm, const char *why)
{
	log_info("%s: %s", vm->name, why);
	process_gone(vm);
}

static void note_end(struct vm *vm)
{
	if (vm->peer.pid != 0)
		log_info("%s: its process %d has ended", vm->name, (int) vm->peer.pid);
	process_gone(vm);
}

/* The VMM may get another one. */
static void note_shutdown(struct vm *vm)
{
	log_info("%s: has ended, though its process %d has not", vm->name, (int) vm->peer.pid);
	guest_gone(vm);
}

static void process_exited(void *data, uint32_t events)
{
	struct vm *vm = data;

	(void) events;
	note_end(vm);
	vm_wake(vm);
}

void vm_take_process(struct vm *vm, const struct peer *peer)
{
	vm->peer = *peer;
	if (vm->peer.pid == 0)
		return;
	vm->pidfd = (int) syscall(SYS_pidfd_open, vm->peer.pid, 0);
	if (vm->pidfd < 0 ||
	    loop_add(vm->loop, vm->pidfd, EPOLLIN, process_exited, vm, &vm->exit_source) < 0)
		log_warning("%s: can't watch process %d: %s", vm->name, (int) vm->peer.pid,
			    strerror(errno));
}

const char *vm_name_of_process(const struct vm *vm, const struct peer *peer)
{
	return peer->pid != 0 && vm->handler->name_of_process
		       ? vm->handler->name_of_process(vm->data, vm, peer)
		       : NULL;
}

int vm_check_peer(struct vm *vm, int fd, char *reason, size_t size)
{
	struct peer peer;
	int r = peer_get(fd, &peer);

	if (r < 0) {
		snprintf(reason, size, "can't tell who answers on %s: %s", vm->socket,
			 strerror(-r));
		return r;
	}
	if (vm->peer.pid != 0 &&
	    (vm->peer.pid != peer.pid || vm->peer.start_time != peer.start_time)) {
		log_info("%s: process %d has taken the place of %d", vm->name, (int) peer.pid,
			 (int) vm->peer.pid);
		process_gone(vm);
		retry_later(vm);
		reason[0] = 0;
		return -ESTALE;
	}
	if ((r = peer_check(vm->socket, &peer, vm->user, reason, size)) < 0)
		return r;
	const char *other = vm_name_of_process(vm, &peer);
	vm->is_taken = other != NULL;
	if (other) {
		snprintf(reason, size, "process %d, which answers on %s, is the VM %s",
			 (int) peer.pid, vm->socket, other);
		return -EPERM;
	}
	if (vm->peer.pid == 0)
		vm_take_process(vm, &peer);
	return 0;
}

static void say_no_answer(struct vm *vm, int r, const char *reason)
{
	vm_set_reason(vm, "%s does not answer on %s: %s", vm->name,
		      *vm->listen ? vm->listen : vm->socket, *reason ? reason : strerror(-r));
}

static void probe_failed(struct vm *vm, int r, const char *reason)
{
	vm->state = VM_DOWN;
	vm->is_absent = r == -ENOENT || r == -ENOTDIR || r == -ECONNREFUSED || r == -ESHUTDOWN ||
			r == -EHOSTDOWN;
	switch (-r) {
	case ESHUTDOWN:
		vm_set_reason(vm, "%s is not running: %s", vm->name, reason);
		return; /* the backend tells */
	case EHOSTUNREACH:
		vm_set_reason(vm, "%s can't be asked: %s", vm->name, reason);
		return; /* the backend tells */
	case ENOTCONN:
		vm_listen_missed(vm);
		return; /* its call tells */
	case ENOENT:
	case ENOTDIR:
		vm_set_reason(vm, "%s is not running: there is no socket %s", vm->name, vm->socket);
		return; /* the watch tells */
	case ECONNREFUSED:
		vm_set_reason(vm, "%s is not running: nobody listens on %s", vm->name, vm->socket);
		/* Between bind and listen, or left behind: the former is a matter of moments. */
		if (vm->n_retries < MAX_SILENT_RETRIES)
			retry_later(vm);
		return;
	case EAGAIN:
		vm_set_reason(vm, "the monitor of %s is busy: several clients wait for it on %s",
			      vm->name, vm->socket);
		retry_later(vm);
		return;
	case EPERM:
		vm_set_reason(vm, "not trusted: %s", reason);
		return;
	case ELOOP:
		vm_set_reason(vm, "not trusted: a link that is not root's lies on the way to %s",
			      vm->socket);
		return;
	case ESTALE:
		retry_later(vm);
		return;
	case EHOSTDOWN:
		vm_set_reason(vm, "%s can't take devices yet: %s", vm->name, reason);
		retry_later(vm);
		return;
	default:
		say_no_answer(vm, r, reason);
		retry_later(vm);
	}
}

static void log_up(const struct vm *vm)
{
	if (vm->peer.pid != 0)
		log_info("%s: up, process %d", vm->name, (int) vm->peer.pid);
	else
		log_info("%s: up", vm->name);
}

/* "delay": some guests want to be left alone while they start. */
static bool must_settle(struct vm *vm)
{
	uint64_t delay = vm->delay * UINT64_C(1000), age = peer_age_ms(&vm->peer);

	if (vm->state == VM_UP || age == 0 || age >= delay)
		return false;
	vm->state = VM_DOWN;
	vm->is_absent = vm->probe_again = false;
	vm_set_reason(vm, "%s gets its devices %u s after its start (delay)", vm->name, vm->delay);
	vm_check_later(vm, delay - age);
	return true;
}

/* It runs, or may do so. */
static bool may_run(const struct vm *vm, int r)
{
	return r == -EHOSTUNREACH ||
	       (r != -EHOSTDOWN && vm->peer.pid != 0 && peer_is_alive(&vm->peer));
}

static void note_probe(struct vm *vm, int r, const char *reason, char *const *handles, size_t n)
{
	bool quiet = vm->is_quiet && vm->state == VM_UP;

	vm->is_probing = vm->is_quiet = false;
	if (r < 0 && vm->state == VM_UP && may_run(vm, r)) {
		/* It can't be asked now: what is known stays known. A VM that is about to end
		 * removes its socket first. */
		if (r == -EHOSTUNREACH)
			vm_set_reason(vm, "%s can't be asked: %s", vm->name, reason);
		else if (vm->n_retries >= 3)
			say_no_answer(vm, r, reason);
		if (r != -EHOSTUNREACH)
			retry_later(vm);
	} else if (r < 0) {
		if (vm->state == VM_UP && r == -EHOSTDOWN)
			note_shutdown(vm);
		else if (vm->state == VM_UP)
			note_end(vm);
		probe_failed(vm, r, reason);
	} else if (must_settle(vm)) {
		return;
	} else {
		if (vm->state != VM_UP)
			log_up(vm);
		vm->state = VM_UP;
		vm->n_retries = 0;
		/* What it is to open is made its user's, whom it may have become only now. */
		peer_look_again(&vm->peer);
		vm_set_reason(vm, "%s", "");
		if (!quiet)
			vm->handler->up(vm->data, vm, handles, n);
	}
	if (vm->probe_again) {
		vm->probe_again = false;
		vm->n_retries = 0;
		vm_check_later(vm, 0);
	}
}

/* Whoever owns the socket's directory can make us look as often as he likes: not at the others'
 * cost. */
static bool may_look(struct vm *vm)
{
	uint64_t now = now_monotonic_ms();

	if (budget_take(&vm->looks, 1, now))
		return true;
	vm_check_later(vm, budget_wait(&vm->looks, 1, now));
	return false;
}

static void user_is_known(void *data, uid_t user)
{
	struct vm *vm = data;

	vm->question = NULL;
	if (vm->references == 0)
		return;
	vm->user = user;
	if (user != (uid_t) -1)
		vm_check(vm);
	else
		vm_set_reason(vm,
			      "the user \"%s\" of its section does not exist on this host; correct "
			      "\"user =\"",
			      vm->user_name);
}

/* Perhaps there is such a user by now, or somebody to be asked for him. Returns false as long as
 * that is not known. */
static bool knows_user(struct vm *vm)
{
	if (!vm->user_name[0] || vm->user != (uid_t) -1)
		return true;
	vm->user = account_find(vm->user_name);
	if (vm->user != (uid_t) -1)
		return true;
	if (!vm->question &&
	    account_question_new(vm->loop, vm->user_name, user_is_known, vm, &vm->question) < 0)
		user_is_known(vm, (uid_t) -1);
	return false;
}

void vm_check(struct vm *vm)
{
	loop_timer_stop(&vm->retry);
	if (!may_look(vm) || !knows_user(vm))
		return;
	if (vm->listen[0] && vm->listen_fd < 0 && vm_listen_open(vm) < 0)
		return;
	if (vm->is_probing)
		vm->probe_again = true;
	else
		start_probe(vm, false);
}

void vm_probed(struct vm *vm, int r, const char *reason, char *const *handles, size_t n)
{
	/* Given up in this very pass: its memory is still there, but nobody may take it up again.
	 */
	if (vm->references > 0)
		note_probe(vm, r, reason, handles, n);
}

static void socket_changed(void *data)
{
	vm_wake(data);
}

#define VMM_ROW(id, name, word, kinds, delay, ...) [VM_##id] = &vmm_##name,
static const struct vmm *const vmms[VM_TYPES] = {VMM_TABLE(VMM_ROW)};

/* Returns 0 or -errno. */
static int configure_vm(struct vm *vm, const struct config_general *general,
			const struct config_vm *config)
{
	vm->delay = config->delay;
	return vm->vmm->configure ? vm->vmm->configure(vm, general, config) : 0;
}

void vm_update(struct vm *vm, const struct config_general *general, const struct config_vm *config)
{
	int r = configure_vm(vm, general, config);

	if (r < 0)
		log_warning("%s: its former config stays: %s", vm->name, strerror(-r));
}

int vm_new(struct loop *loop, const struct config_general *general, const struct config_vm *config,
	   const struct vm_handler *handler, void *data, struct vm **ret_vm)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	int r;

	if (!vm)
		return -ENOMEM;
	vm->references = 1;
	vm->loop = loop;
	vm->state = VM_PROBING; /* whoever makes it has it asked: vm_check */
	budget_init(&vm->looks, LOOKS, LOOKS_PER_SECOND);
	budget_init(&vm->input, QMP_BURST, QMP_RATE);
	vm->handler = handler;
	vm->data = data;
	vm->pidfd = -1;
	vm->type = config->type;
	vm->user = config->user ? account_ask_user(config->user) : (uid_t) -1;
	snprintf(vm->user_name, sizeof(vm->user_name), "%s", config->user ? config->user : "");
	snprintf(vm->name, sizeof(vm->name), "%s", config->name);
	snprintf(vm->socket, sizeof(vm->socket), "%s", config->socket ? config->socket : "");
	snprintf(vm->listen, sizeof(vm->listen), "%s", config->listen ? config->listen : "");
	vm->listen_fd = -1;
	vm->vmm = vmms[config->type];
	r = vm->vmm->init(vm);
	if (r == 0)
		r = configure_vm(vm, general, config);
	if (r == 0 && vm->listen[0])
		r = vm_listen_init(vm);
	else if (r == 0 && vm->socket[0])
		r = watch_new(loop, vm->socket, socket_changed, vm, &vm->watch);
	if (r < 0) {
		log_error("can't set up the VM %s: %s", vm->name, strerror(-r));
		vm_unref(vm);
		return r;
	}
	*ret_vm = vm;
	return 0;
}

struct vm *vm_ref(struct vm *vm)
{
	vm->references++;
	return vm;
}

static void free_vm(void *data)
{
	struct vm *vm = data;

	if (vm->backend)
		vm->vmm->finish(vm);
	forget_process(vm);
	cold_clear(&vm->cold);
	account_question_free(vm->question);
	loop_timer_stop(&vm->retry);
	watch_free(vm->watch);
	vm_listen_finish(vm);
	free(vm);
}

/* The last reference may be dropped in a callback that this VM's own source began. */
struct vm *vm_unref(struct vm *vm)
{
	if (vm && --vm->references == 0)
		loop_discard(vm->loop, &vm->garbage, free_vm, vm);
	return NULL;
}

bool vm_matches(const struct vm *vm, const struct config_vm *config)
{
	return streq(vm->name, config->name) &&
	       streq(vm->socket, config->socket ? config->socket : "") &&
	       streq(vm->listen, config->listen ? config->listen : "") &&
	       vm->type == config->type && streq(vm->user_name, config->user ? config->user : "") &&
	       (!vm->vmm->is_same || vm->vmm->is_same(vm, config));
}

struct device *vm_next_device(const struct vm *vm, const struct device *at)
{
	return vm->handler->next_device ? vm->handler->next_device(vm->data, vm, at) : NULL;
}

int vm_ask_open(struct vm *vm, const struct device *device, struct vm_look *look)
{
	return vm->handler->ask_open ? vm->handler->ask_open(vm->data, device, look) : -EOPNOTSUPP;
}

void vm_forget_look(struct vm *vm, struct vm_look *look)
{
	if (look->request != 0)
		vm->handler->forget_look(vm->data, look);
}

void vm_handle_changed(struct vm *vm, struct device *device)
{
	vm->handler->handle_changed(vm->data, device);
}

void vm_attach_sent(struct vm *vm, struct device *device)
{
	vm->handler->attach_sent(vm->data, device);
}

void vmm_set_result(struct vmm_result *result, enum vmm_outcome outcome, const char *format, ...)
{
	va_list args;

	*result = (struct vmm_result){.outcome = outcome};
	va_start(args, format);
	vsnprintf(result->detail, sizeof(result->detail), format, args);
	va_end(args);
}

void vm_attached(struct vm *vm, struct device *device, const struct vmm_result *result)
{
	vm->handler->attached(vm->data, device, result);
}

void vm_detached(struct vm *vm, struct device *device, const char *handle,
		 const struct vmm_result *result)
{
	vm->handler->detached(vm->data, vm, device, handle, result);
}
