/* Requests to one VM on their way: what every backend behind vmm.h needs, once.
 *
 * An op is one request of the manager's, or a probe. It carries what comes next: STEP is called by
 * whoever has news for it, END answers the manager. So the file that hears an answer need not know
 * whose it is. The memory of an op outlives the pass in which it ends, because a callback further
 * up may still hold it.
 */
#pragma once

#include "broker/loop.h"
#include "broker/vmm.h"
#include "helper/macro.h"

struct op;

struct op_queue {
	struct loop *loop;
	/* One op at a time: STEP is called for the first one that has not begun when those before
	 * it have ended. Otherwise whoever makes an op begins it. */
	bool is_serial;
	/* The last op has ended; may be NULL. */
	void (*idle)(struct op_queue *queue);
	struct op *first;
	bool is_running; /* op_queue_run is at work */
};

/* The beginning of a backend's own struct. */
struct op {
	struct op *next;
	struct loop_garbage garbage;
	struct op_queue *queue;
	void (*step)(struct op *op);
	void (*end)(struct op *op);
	bool has_begun;
	bool is_done;
	struct device *device; /* NULL: a probe, or a handle that no device has */
	char handle[96];
	int fd;                  /* closed when the op ends; or -1 */
	struct loop_timer timer; /* stopped when the op ends */
	struct vmm_result result;
};

/* A new op, last in QUEUE, in zeroed memory of SIZE bytes whose beginning it is. NULL: out of
 * memory. */
void *op_new(struct op_queue *queue, size_t size, void (*step)(struct op *op),
	     void (*end)(struct op *op), struct device *device, const char *handle);
/* DETAIL is made printable, and cut. */
void op_set_result(struct op *op, enum vmm_outcome outcome, const char *detail);
/* Ends OP with its result: END is called, and the next op begins. Does nothing for one that is
 * done. */
void op_finish(struct op *op);
/* Ends it without an answer; the next op does not begin. */
void op_drop(struct op *op);

/* Begins the next op of a serial queue, if it is its turn. */
void op_queue_run(struct op_queue *queue);
/* Closes what the ops for DEVICE hold of it, but for the one of a serial queue whose turn it is. */
void op_queue_close(struct op_queue *queue, const struct device *device);
/* Ends all that are in QUEUE now with VMM_RETRY, because of WHY; none of them begins. What their
 * answers put into it is begun as usual. */
void op_queue_fail(struct op_queue *queue, const char *why);
/* Drops all. */
void op_queue_clear(struct op_queue *queue);
