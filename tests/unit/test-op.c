/* Requests on their way: in what order they begin and end, and what outlives what. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/op.h"
#include "broker/vm.h"

struct request {
	struct op base;
	char name;
};

static struct fixture {
	struct loop *loop;
	struct op_queue queue;
	char log[128]; /* "b" + name: begun; "e" + name: ended; "i": idle */
	bool end_at_once;
	char again; /* the end of any op brings this one */
} f;

static void note(char what, char name)
{
	size_t n = strlen(f.log);

	snprintf(f.log + n, sizeof(f.log) - n, "%c%c ", what, name);
}

static struct request *new_request(char name);

static void step(struct op *op)
{
	note('b', ((struct request *) op)->name);
	if (f.end_at_once)
		op_finish(op);
}

static void end(struct op *op)
{
	char again = f.again;

	note(op->result.outcome == VMM_RETRY ? 'f' : 'e', ((struct request *) op)->name);
	f.again = 0;
	if (again) {
		new_request(again);
		op_queue_run(op->queue);
	}
}

static void idle(struct op_queue *queue)
{
	assert_null(queue->first);
	note('i', '.');
}

static struct request *new_request(char name)
{
	struct request *request = op_new(&f.queue, sizeof(*request), step, end, NULL, "a handle");

	assert_non_null(request);
	request->name = name;
	return request;
}

static int setup(void **state)
{
	(void) state;
	f = (struct fixture){0};
	assert_int_equal(loop_new(&f.loop), 0);
	f.queue = (struct op_queue){.loop = f.loop, .is_serial = true, .idle = idle};
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	op_queue_clear(&f.queue);
	loop_free(f.loop);
	return 0;
}

static void test_one_after_the_other(void **state)
{
	(void) state;
	struct request *a = new_request('a'), *b = new_request('b');

	op_queue_run(&f.queue);
	op_queue_run(&f.queue);
	assert_string_equal(f.log, "ba ");
	assert_string_equal(a->base.handle, "a handle");
	op_finish(&a->base);
	assert_string_equal(f.log, "ba ea bb ");
	op_finish(&b->base);
	assert_string_equal(f.log, "ba ea bb eb i. ");
	/* What is done does not end again; its memory is still there. */
	op_finish(&a->base);
	op_drop(&b->base);
	assert_string_equal(f.log, "ba ea bb eb i. ");
}

static void test_many_that_end_at_once(void **state)
{
	(void) state;
	f.end_at_once = true;
	new_request('a'), new_request('b'), new_request('c');
	f.again = 'd';
	op_queue_run(&f.queue);
	assert_string_equal(f.log, "ba ea bb eb bc ec bd ed i. ");
	assert_null(f.queue.first);
}

static void test_a_queue_that_fails(void **state)
{
	(void) state;
	struct request *a = new_request('a');

	new_request('b');
	op_queue_run(&f.queue);
	/* The answer to the first one brings a new request: it is not meant, and begins. */
	f.again = 'c';
	op_queue_fail(&f.queue, "the VM\nhas ended");
	assert_string_equal(f.log, "ba fa bc fb ");
	assert_int_equal(a->base.result.outcome, VMM_RETRY);
	assert_string_equal(a->base.result.detail, "the VM?has ended");
	assert_int_equal(((struct request *) f.queue.first)->name, 'c');
}

static void test_a_queue_for_all_at_once(void **state)
{
	(void) state;
	f.queue.is_serial = false;
	struct request *a = new_request('a'), *b = new_request('b');

	op_queue_run(&f.queue);
	op_finish(&b->base);
	assert_string_equal(f.log, "eb ");
	op_finish(&a->base);
	assert_string_equal(f.log, "eb ea i. ");
}

static void test_what_an_op_owns(void **state)
{
	(void) state;
	struct request *a = new_request('a');
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_int_equal(a->base.fd, -1);
	a->base.fd = fd;
	loop_timer_start(f.loop, &a->base.timer, 1000, free, NULL);
	op_drop(&a->base);
	assert_string_equal(f.log, "");
	assert_int_equal(fcntl(fd, F_GETFD), -1);
	assert_null(a->base.timer.loop);
	assert_null(f.queue.first);
}

/* conf/vmms.h: what one part of the broker makes of a row must fit what another one does. */
static void test_every_kind_of_vm_is_whole(void **state)
{
#define ROW(id, name, word, kinds, delay, ...) [VM_##id] = &vmm_##name,
	static const struct vmm *const vmms[VM_TYPES] = {VMM_TABLE(ROW)};

	(void) state;
	for (size_t type = 0; type < VM_TYPES; type++) {
		const struct config_vm_type *row = &config_vm_types[type];
		bool can_listen = false;

		assert_non_null(vmms[type]->init);
		assert_non_null(vmms[type]->finish);
		assert_non_null(vmms[type]->probe);
		assert_non_null(vmms[type]->attach);
		assert_non_null(vmms[type]->detach);
		assert_non_null(vmms[type]->reset);
		assert_true(row->kinds > 0 && row->kinds < 1u << CONFIG_KINDS);
		for (size_t i = 0; row->keys[i]; i++)
			can_listen = can_listen || streq(row->keys[i], "listen");
		assert_int_equal(can_listen, vmms[type]->dialled != NULL);
	}
}

int main(void)
{
#define QUEUE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		QUEUE(test_one_after_the_other), QUEUE(test_many_that_end_at_once),
		QUEUE(test_a_queue_that_fails),  QUEUE(test_a_queue_for_all_at_once),
		QUEUE(test_what_an_op_owns),     cmocka_unit_test(test_every_kind_of_vm_is_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
