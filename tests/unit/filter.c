/* One case by name: TEST='test_flood*' test-qmp. Linked into every unit test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

static void __attribute__((constructor)) set_filter(void)
{
	cmocka_set_test_filter(getenv("TEST"));
}
