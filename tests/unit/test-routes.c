/* Routes as the kernel tells them, in a network namespace of the test's own. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "broker/routes.h"

static bool ip(const char *words)
{
	char command[200];

	snprintf(command, sizeof(command), "ip %s 2>/dev/null", words);
	return system(command) == 0;
}

static void enter_namespace(void)
{
	if (unshare(CLONE_NEWNET) < 0 || !ip("link set lo up"))
		skip(); /* not root, say */
}

static char found[300];

/* "100 lo;" for each. */
static int note(void *data, uint32_t table, const char *interface)
{
	size_t length = strlen(found);

	snprintf(found + length, sizeof(found) - length, "%u %s;", table, interface);
	return *(int *) data;
}

static const char *defaults(int family)
{
	int result = 0;

	found[0] = 0;
	assert_int_equal(routes_each_default(family, note, &result), 0);
	return found;
}

static void test_every_table(void **state)
{
	(void) state;
	enter_namespace();
	assert_string_equal(defaults(AF_INET), "");
	assert_true(ip("route add default dev lo table 100"));
	assert_true(ip("route add default dev lo table 70000"));
	assert_true(ip("route add 10.1.0.0/16 dev lo"));
	assert_true(ip("route add unreachable default table 101"));
	assert_non_null(strstr(defaults(AF_INET), "100 lo;"));
	assert_non_null(strstr(found, "70000 lo;"));
	assert_int_equal(strlen(found), strlen("100 lo;70000 lo;"));
	int stop = -E2BIG;
	found[0] = 0;
	assert_int_equal(routes_each_default(AF_INET, note, &stop), -E2BIG);
}

static void test_several_ways(void **state)
{
	(void) state;
	enter_namespace();
	if (!ip("link add v0 type veth peer name v1"))
		skip();
	assert_true(ip("link set v0 up") && ip("link set v1 up"));
	assert_true(ip("addr add 10.9.0.1/24 dev v0"));
	assert_true(ip("route add default nexthop via 10.9.0.2 dev v0 nexthop dev lo"));
	assert_string_equal(defaults(AF_INET), "254 v0;254 lo;");
}

static void test_the_way_to_an_address(void **state)
{
	char interface[IF_NAMESIZE] = "untouched";

	(void) state;
	enter_namespace();
	assert_int_equal(routes_find("10.9.0.7", interface), -ENETUNREACH);
	assert_string_equal(interface, "untouched");
	assert_int_equal(routes_find("srv.example", interface), -EINVAL);
	assert_int_equal(routes_find("", interface), -EINVAL);
	/* Only its own interface can tell. */
	assert_int_equal(routes_find("fe80::1%", interface), -EINVAL);
	assert_int_equal(routes_find("fe80::1%77", interface), -ENETUNREACH);
	assert_string_equal(interface, "untouched");
	assert_int_equal(routes_find("fe80::1%1", interface), 0);
	assert_string_equal(interface, "lo");
	assert_int_equal(routes_find("fe80::1%eth7", interface), 0);
	assert_string_equal(interface, "eth7");
	assert_true(ip("route add 10.9.0.0/24 dev lo"));
	assert_int_equal(routes_find("10.9.0.7", interface), 0);
	assert_string_equal(interface, "lo");
	if (!ip("-6 route add 2001:db8::/64 dev lo"))
		return; /* no IPv6 */
	strcpy(interface, "untouched");
	assert_int_equal(routes_find("2001:db8::7", interface), 0);
	assert_string_equal(interface, "lo");
	assert_true(ip("-6 route add default dev lo table 100"));
	assert_string_equal(defaults(AF_INET6), "100 lo;");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_table),
		cmocka_unit_test(test_several_ways),
		cmocka_unit_test(test_the_way_to_an_address),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
