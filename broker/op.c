/* Requests on their way: see op.h. */
#include "broker/op.h"

#include "broker/device.h"
#include "helper/text.h"

void *op_new(struct op_queue *queue, size_t size, void (*step)(struct op *op),
	     void (*end)(struct op *op), struct device *device, const char *handle)
{
	struct op *op = calloc(1, size), **at = &queue->first;

	if (!op)
		return NULL;
	op->queue = queue;
	op->step = step;
	op->end = end;
	op->device = device;
	op->fd = -1;
	snprintf(op->handle, sizeof(op->handle), "%s", handle);
	while (*at)
		at = &(*at)->next;
	*at = op;
	return op;
}

void op_set_result(struct op *op, enum vmm_outcome outcome, const char *detail)
{
	op->result = (struct vmm_result){.outcome = outcome};
	text_clean(op->result.detail, sizeof(op->result.detail), detail);
}

static void free_op(void *data)
{
	free(data);
}

void op_drop(struct op *op)
{
	struct op **at = &op->queue->first;

	if (op->is_done)
		return;
	while (*at && *at != op)
		at = &(*at)->next;
	if (*at)
		*at = op->next;
	op->is_done = true;
	op->fd = close_fd(op->fd);
	loop_timer_stop(&op->timer);
	loop_discard(op->queue->loop, &op->garbage, free_op, op);
}

void op_queue_run(struct op_queue *queue)
{
	/* An op that ends at once is followed by the next one here, not further down. */
	if (queue->is_running)
		return;
	queue->is_running = true;
	while (queue->is_serial && queue->first && !queue->first->has_begun) {
		struct op *op = queue->first;

		op->has_begun = true;
		op->step(op);
	}
	queue->is_running = false;
	if (!queue->first && queue->idle)
		queue->idle(queue);
}

void op_queue_close(struct op_queue *queue, const struct device *device)
{
	for (struct op *op = queue->first; op; op = op->next)
		if (op->device == device && !op->has_begun)
			op->fd = close_fd(op->fd);
}

/* The answer may bring new requests, so the queue is looked at last. */
void op_finish(struct op *op)
{
	if (op->is_done)
		return;
	op_drop(op);
	op->end(op);
	op_queue_run(op->queue);
}

void op_queue_fail(struct op_queue *queue, const char *why)
{
	struct op *op = TAKE_PTR(queue->first);

	while (op) {
		struct op *next = op->next;

		op_set_result(op, VMM_RETRY, why);
		op->result.is_unknown = op->has_begun;
		op_finish(op);
		op = next;
	}
}

void op_queue_clear(struct op_queue *queue)
{
	while (queue->first)
		op_drop(queue->first);
}
