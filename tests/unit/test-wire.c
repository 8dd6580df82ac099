/* The message format: what is built passes the check, and what could arrive instead does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "helper/wire.h"

static void test_add_and_get(void **state)
{
	struct wire_msg msg;

	(void) state;
	wire_init(&msg);
	assert_int_equal(wire_check(&msg), 0);
	assert_int_equal(wire_add(&msg, "ACTION", "add"), 0);
	assert_int_equal(wire_add(&msg, "EMPTY", ""), 0);
	assert_int_equal(wire_add(&msg, "X_1", "a=b\xff\n"), 0);
	assert_int_equal(wire_check(&msg), 0);
	assert_string_equal(wire_get(&msg, "ACTION"), "add");
	assert_string_equal(wire_get(&msg, "EMPTY"), "");
	assert_string_equal(wire_get(&msg, "X_1"), "a=b\xff\n");
	assert_null(wire_get(&msg, "ACT"));
	assert_null(wire_get(&msg, "ACTIONS"));
}

static void test_add_refuses(void **state)
{
	static char value[WIRE_MAX + 100];
	struct wire_msg msg, before;

	(void) state;
	wire_init(&msg);
	assert_int_equal(wire_add(&msg, "ACTION", "add"), 0);
	before = msg;
	assert_int_equal(wire_add(&msg, "", "x"), -EINVAL);
	assert_int_equal(wire_add(&msg, "action", "x"), -EINVAL);
	assert_int_equal(wire_add(&msg, "A=B", "x"), -EINVAL);
	assert_int_equal(wire_add(&msg, "ACTION", "remove"), -EEXIST);
	memset(value, 'v', sizeof(value) - 1);
	assert_int_equal(wire_add(&msg, "K", value), -EMSGSIZE);
	value[WIRE_MAX - msg.len - 2] = 0; /* one more than fits behind "K=" and before NUL */
	assert_int_equal(wire_add(&msg, "K", value), -EMSGSIZE);
	assert_int_equal(msg.len, before.len);
	assert_memory_equal(msg.data, before.data, msg.len);
	value[WIRE_MAX - msg.len - 3] = 0;
	assert_int_equal(wire_add(&msg, "K", value), 0);
	assert_int_equal(msg.len, WIRE_MAX);
	assert_int_equal(wire_check(&msg), 0);
}

#define CHECK(literal)                                             \
	({                                                         \
		struct wire_msg _m = {.len = sizeof(literal) - 1}; \
		memcpy(_m.data, literal, sizeof(literal) - 1);     \
		wire_check(&_m);                                   \
	})

static void test_check(void **state)
{
	struct wire_msg msg = {.len = WIRE_MAX + 1};

	(void) state;
	assert_int_equal(wire_check(&msg), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=1\0A=b\0"), 0);
	assert_int_equal(CHECK(""), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=1"), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=2\0"), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=11\0"), -EBADMSG);
	assert_int_equal(CHECK("A=b\0VHOTPLUG=1\0"), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=1\0A=b"), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=1\0A\0"), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=1\0=b\0"), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=1\0\0"), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=1\0a=b\0"), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=1\0A=b\0A=c\0"), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=1\0A=b\0VHOTPLUG=1\0"), -EBADMSG);
	assert_int_equal(CHECK("VHOTPLUG=1\0AB=b\0A=c\0"), 0);
}

static void test_number(void **state)
{
	static const struct {
		const char *value;
		int r;
		uint64_t n;
	} cases[] = {
		{"0", 0, 0},
		{"00000000000000000042", 0, 42},
		{"18446744073709551615", 0, UINT64_MAX},
		{"18446744073709551616", -ERANGE, 0},
		{"99999999999999999999", -ERANGE, 0},
		{"000000000000000000001", -EINVAL, 0},
		{"", -EINVAL, 0},
		{"-1", -EINVAL, 0},
		{"+1", -EINVAL, 0},
		{"0x1", -EINVAL, 0},
		{"1 ", -EINVAL, 0},
	};
	uint64_t n = 4711;

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct wire_msg msg;

		wire_init(&msg);
		assert_int_equal(wire_get_number(&msg, "N", &n), -ENOENT);
		assert_int_equal(wire_add(&msg, "N", cases[i].value), 0);
		n = 4711;
		assert_int_equal(wire_get_number(&msg, "N", &n), cases[i].r);
		assert_int_equal(n, cases[i].r == 0 ? cases[i].n : 4711);
		n = 4711;
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_add_and_get),
		cmocka_unit_test(test_add_refuses),
		cmocka_unit_test(test_check),
		cmocka_unit_test(test_number),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
