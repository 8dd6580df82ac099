/* Budgets: what may be had at once, and what in the long run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/budget.h"

static void test_burst_and_rate(void **state)
{
	struct budget b;

	(void) state;
	budget_init(&b, 100, 10);
	assert_true(budget_take(&b, 60, 1000));
	assert_false(budget_take(&b, 60, 1000));
	assert_true(budget_take(&b, 40, 1000));
	assert_false(budget_take(&b, 1, 1099));
	assert_int_equal(budget_wait(&b, 1, 1099), 1);
	assert_true(budget_take(&b, 1, 1100));
	assert_int_equal(budget_wait(&b, 100, 1100), 10000);
	assert_false(budget_take(&b, 100, 11099));
	assert_true(budget_take(&b, 100, 11100));
	/* Full is full, however long nothing was taken. */
	assert_true(budget_take(&b, 100, UINT64_MAX / 2));
	assert_false(budget_take(&b, 1, UINT64_MAX / 2));
}

static void test_debt(void **state)
{
	struct budget b;

	(void) state;
	budget_init(&b, 10, 10);
	budget_use(&b, 30, 0);
	assert_int_equal(budget_wait(&b, 1, 0), 2100);
	assert_false(budget_take(&b, 1, 2000));
	assert_true(budget_take(&b, 1, 2100));
}

/* A clock that goes back costs nobody anything. */
static void test_clock_goes_back(void **state)
{
	struct budget b;

	(void) state;
	budget_init(&b, 10, 10);
	assert_true(budget_take(&b, 10, 5000));
	assert_false(budget_take(&b, 1, 1000));
	assert_true(budget_take(&b, 1, 1100));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_burst_and_rate),
		cmocka_unit_test(test_debt),
		cmocka_unit_test(test_clock_goes_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
