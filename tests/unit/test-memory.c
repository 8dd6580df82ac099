/* What is let go of comes back as it was, and what has been written stays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>

#include "broker/memory.h"
#include "helper/macro.h"

/* The kernel maps all that lies together in its cache (a folio, 2 MB at most; Linux 6.18,
 * finish_fault), and what is needed next to the constants brings as much of them along: less than a
 * quarter. */
#define SIZE (8 << 20)

static const char constants[SIZE] = {[0] = 1, [SIZE / 2] = 2, [SIZE - 1] = 3};
static char variables[SIZE] = {[0] = 1};
/* The loader writes these, then nobody can. */
static const char *const addresses[] = {"one", "two"};

/* Of the constants' middle half. Source: kernel, Documentation/admin-guide/mm/pagemap.rst. */
static unsigned pages_present(void)
{
	_cleanup_close_ int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE);
	uintptr_t first = ((uintptr_t) constants + SIZE / 4) / page, last = first + SIZE / 2 / page;
	unsigned n = 0;

	for (uintptr_t i = first; i < last; i++) {
		uint64_t entry;

		assert_int_equal(pread(fd, &entry, sizeof(entry), (off_t) (i * sizeof(entry))),
				 sizeof(entry));
		n += entry >> 63;
	}
	return n;
}

static int sum_up(void)
{
	const volatile char *at = constants;
	int sum = 0;

	for (size_t i = 0; i < SIZE; i++)
		sum += at[i];
	return sum;
}

static void test_comes_back(void **state)
{
	volatile size_t i = 1;

	(void) state;
	memset(variables, 7, SIZE);
	assert_int_equal(sum_up(), 6);
	assert_true(pages_present() > 0);
	memory_forget_code();
	assert_int_equal(pages_present(), 0);
	assert_int_equal(sum_up(), 6);
	assert_int_equal(variables[0] + variables[SIZE - 1], 14);
	assert_string_equal(addresses[i], "two");
}

static void test_trim(void **state)
{
	char *kept[100];

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(kept); i++) {
		assert_non_null(kept[i] = malloc(10000));
		memset(kept[i], (int) i, 10000);
	}
	for (size_t i = 0; i < ARRAY_SIZE(kept); i += 2)
		free(kept[i]);
	memory_trim();
	for (size_t i = 1; i < ARRAY_SIZE(kept); i += 2) {
		assert_int_equal(kept[i][9999], (char) i);
		free(kept[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_comes_back),
		cmocka_unit_test(test_trim),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
