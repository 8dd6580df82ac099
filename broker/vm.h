/* One configured VM: whether it runs, who it is, and the way to its monitor.
 *
 * A VM appears with its socket (watch.h) and goes with its process (pidfd). Between the two it is
 * up once it has answered a probe. Owned by the manager; devices hold references, so that a VM that
 * has left the config stays until its last device has been taken away.
 */
#pragma once

#include "broker/account.h"
#include "broker/budget.h"
#include "broker/cold.h"
#include "broker/loop.h"
#include "broker/peer.h"
#include "broker/vmm.h"
#include "broker/watch.h"
#include "conf/config.h"
#include "helper/macro.h"

enum vm_state {
	VM_DOWN,
	VM_PROBING, /* is being asked, or about to be for the first time */
	VM_UP,
};

/* Has a VM the IOMMU group of a PCI device open? That is the kernel's to say, for a VMM that
 * does not say what it has. */
enum vm_open {
	VM_OPEN_NO,
	VM_OPEN_YES,
	VM_OPEN_SHARED, /* yes, perhaps for others of the group that are in the VM and stay there */
	VM_OPEN_ELSEWHERE, /* somebody else has it, and not the VM */
	VM_OPEN_UNKNOWN,
};

/* One such question, in the memory of whoever asks, all zeroes before. */
struct vm_look {
	struct vm_look *next;
	uint64_t request; /* the worker's number; 0: nothing is asked */
	bool is_shared;
	void (*seen)(void *data, enum vm_open open, const char *detail);
	void *data;
};

/* What happens to a VM, for the manager. */
struct vm_handler {
	/* It is up, perhaps again or still: HANDLES are the N names of ours that it has now. */
	void (*up)(void *data, struct vm *vm, char *const *handles, size_t n);
	/* Its process has ended. */
	void (*exited)(void *data, struct vm *vm);
	/* VM->reason has changed: why it can't be used now. */
	void (*reason)(void *data, struct vm *vm);
	/* DEVICE->handle has changed and must be on disk when this returns. */
	void (*handle_changed)(void *data, struct device *device);
	void (*attach_sent)(void *data, struct device *device);
	void (*attached)(void *data, struct device *device, const struct vmm_result *result);
	/* The name of another VM that is the process PEER, or NULL. */
	const char *(*name_of_process)(void *data, const struct vm *vm, const struct peer *peer);
	/* DEVICE is NULL for a handle that no device has. */
	void (*detached)(void *data, struct vm *vm, struct device *device, const char *handle,
			 const struct vmm_result *result);
	/* See vm_next_device, vm_ask_open and vm_forget_look. */
	struct device *(*next_device)(void *data, const struct vm *vm, const struct device *at);
	int (*ask_open)(void *data, const struct device *device, struct vm_look *look);
	void (*forget_look)(void *data, struct vm_look *look);
};

struct vm {
	struct vm *next;
	int references;
	struct loop_garbage garbage;
	struct loop *loop;
	const struct vm_handler *handler;
	void *data;

	char name[64];
	char socket[CONFIG_SOCKET_SIZE]; /* "": it is not reached by a socket */
	char listen[CONFIG_SOCKET_SIZE]; /* where the VMM dials in, instead of socket; "" */
	int listen_fd;                   /* -1: not made yet, or it can't be made */
	uint64_t listening_since;        /* ms, monotonic */
	bool has_refused;                /* somebody who called last; the reason says so */
	ino_t listen_inode;              /* of our socket there; 0: none */
	struct loop_source *listen_source;
	struct loop_timer listen_pause; /* while there are no descriptors for a caller */
	struct budget calls;            /* how often somebody may dial */
	unsigned delay; /* seconds from the start of its process to its first device */
	enum vm_type type;
	char user_name[64];
	uid_t user; /* (uid_t) -1: the config does not say, or it is not known yet */
	struct account_question *question; /* who that is; NULL: nobody is asked */

	enum vm_state state;
	char reason[256]; /* why it is not up, or why its monitor does not answer; "" otherwise */
	bool is_absent;   /* down because nobody is there, not because it can't be asked */
	bool is_probing;  /* the backend has been asked and has not answered */
	bool is_quiet;    /* that probe is vm_refresh's */
	bool probe_again; /* something changed while a probe was under way */
	bool is_taken;    /* its process counts as another VM, whose socket led there first */
	struct budget looks; /* how often it is asked what it has */
	struct budget input; /* what its monitor may say, in bytes */
	struct peer peer;
	int pidfd;
	struct loop_source *exit_source;
	struct cold_list cold; /* what it has had since its start, while it is up */
	struct watch *watch;   /* of socket or listen */
	struct loop_timer retry;
	unsigned n_retries;
	unsigned n_strange; /* how often it was asked again to give back what is not for it */

	const struct vmm *vmm;
	void *backend;
};

/* A new VM with one reference, not looked at yet (vm_check). Returns 0 or -errno. */
int vm_new(struct loop *loop, const struct config_general *general, const struct config_vm *config,
	   const struct vm_handler *handler, void *data, struct vm **ret_vm) _must_check_;
struct vm *vm_ref(struct vm *vm);
/* Returns NULL. */
struct vm *vm_unref(struct vm *vm);
/* Is it the VM of CONFIG: same name, same way to reach it, same user? */
bool vm_matches(const struct vm *vm, const struct config_vm *config);
/* Takes over what else GENERAL and CONFIG say: the delay, and what concerns its VMM alone (where
 * devices go in the guest, say). Devices that are in the VM stay where they are. */
void vm_update(struct vm *vm, const struct config_general *general, const struct config_vm *config);

/* Looks whether the VM is there and what it has; makes the socket that it dials, if there is none.
 */
void vm_check(struct vm *vm);

/* Something has happened to it: the same, with the patience of the first time. */
void vm_wake(struct vm *vm);
/* The same, in so many ms. */
void vm_check_later(struct vm *vm, uint64_t delay_ms);
/* The same, unless that is to be sooner. */
void vm_check_by(struct vm *vm, uint64_t delay_ms);

/* For vm_listen.c. */

/* PEER is the VM's process from now on. */
void vm_take_process(struct vm *vm, const struct peer *peer);
/* The other VM that PEER is, or NULL: one process is one VM, however many sockets lead to it. */
const char *vm_name_of_process(const struct vm *vm, const struct peer *peer);

/* For the backends. */

/* Asks the VM again what it has, for the backend's own sake: handler.up is not called. */
void vm_refresh(struct vm *vm);
/* Who answers on the connected socket FD, and may it have our descriptors? Notes a new process: the
 * former one has then exited. Returns 0, or -EPERM, -errno with the reason in REASON. */
int vm_check_peer(struct vm *vm, int fd, char *reason, size_t size) _must_check_;
/* The answer to a probe: R is 0, or -ENOENT, -ECONNREFUSED, -EAGAIN, -EPERM, -EHOSTDOWN (the VMM
 * runs, its VM does not: it has nothing), -ESHUTDOWN (nothing runs, and the backend calls vm_wake
 * when it does), -EHOSTUNREACH (nobody knows, what is known stays known, and the backend calls
 * vm_wake) …, with REASON. */
void vm_probed(struct vm *vm, int r, const char *reason, char *const *handles, size_t n);
/* What was VM has ended, because of WHY, as the end of its process does. Not from inside an op. */
void vm_has_ended(struct vm *vm, const char *why);
void vm_set_reason(struct vm *vm, const char *format, ...) _printf_(2, 3);
/* The next device that is in VM by our book, or on its way there or out, after AT (NULL: the
 * first), or NULL. */
struct device *vm_next_device(const struct vm *vm, const struct device *at);
/* Asks whether anybody has the IOMMU group of DEVICE, which is in VM by our book, open: LOOK->seen
 * is called once, later. Returns 0, or -errno when that can't be asked now. */
int vm_ask_open(struct vm *vm, const struct device *device, struct vm_look *look) _must_check_;
/* The answer is not wanted any more, if there is one to come. */
void vm_forget_look(struct vm *vm, struct vm_look *look);
/* Puts DEVICE->handle on disk at once: what follows must be found again by whoever comes after a
 * crash. */
void vm_handle_changed(struct vm *vm, struct device *device);
void vm_attach_sent(struct vm *vm, struct device *device);
void vm_attached(struct vm *vm, struct device *device, const struct vmm_result *result);
void vm_detached(struct vm *vm, struct device *device, const char *handle,
		 const struct vmm_result *result);
