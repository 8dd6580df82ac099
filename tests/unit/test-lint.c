/* What --lint says, and that it keeps quiet about what may be meant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "conf/load.h"
#include "rules.d/lint.h"

#define VMS "[vm a]\nsocket = /a\n[vm b]\nsocket = /b\n"           /* lines 1 to 4 */
#define A VMS "[usb A]\ntargetVm = a\n"                            /* rules from line 7 */
#define USED "[usb Last]\ntargetVm = b\n[allow z]\nserial = zzz\n" /* for the VM b */

/* CONFIG gives exactly one line, with WHAT in it, or none for NULL. */
static void expect(const char *text, const char *what)
{
	FILE *file = fmemopen((void *) (uintptr_t) text, strlen(text), "r");
	struct config *config = NULL;
	char *said = NULL;
	size_t size;
	FILE *out = open_memstream(&said, &size);
	unsigned n;

	assert_int_equal(config_read(file, "x.conf", stderr, &config), 0);
	n = config_lint(config, "x.conf", out);
	fclose(out);
	fclose(file);
	if (n != (what != NULL) || (what && !strstr(said, what)))
		fail_msg("%s\nexpected \"%s\", but it said %u:\n%s", text, what ?: "", n, said);
	free(said);
	config_free(config);
}

static void every_warning(void **state)
{
	(void) state;
	expect(A "[allow 1]\nbus = 1\n", "x.conf:3: [vm b] is in no group");
	expect(A "[deny 1]\nbus = 1\n[allow 2]\nbus = 1\n" USED,
	       "x.conf:9: [allow 2] never wins: [deny 1] in line 7");
	expect(VMS "[usb Z]\ntargetVm = b\n[allow z]\nserial = z\n[usb A]\ntargetVm = a\n"
		   "[allow 2]\nmatchAll = yes\n[allow 3]\nbus = 1\n",
	       "[allow 3] never decides: [allow 2] in line 11 comes first");
	expect(A "[allow 1]\nvendorId = 1234\n[allow 2]\nproductId = 5678\nvendorId = 1234\n" USED,
	       "x.conf:9: [allow 2] never decides: [allow 1] in line 7");
	expect(A "[allow 1]\ndevpath = /devices/x\n[allow 2]\ndevpath = /devices/x/y\n" USED,
	       "[allow 2] never decides");
	expect(A "[allow 1]\nport = 1\n[allow 2]\nportPath = 3-1.4\n" USED,
	       "[allow 2] never decides");
	expect(VMS "[usb Z]\ntargetVm = b\n[allow z]\nserial = z\n[usb A]\ntargetVm = a\n"
		   "[allow 2]\nproductName = .*\n[allow 3]\nbus = 1\n",
	       "[allow 3] never decides: [allow 2] in line 11 comes first");
	expect(A "[allow 1]\nbus = 1\n[usb B]\ntargetVm = b\n[allow 2]\nbus = 1\nport = 2\n",
	       "[allow 2] never wins: [allow 1] of the earlier group [usb A] in line 7");
	expect(A "[allow 1]\nvendorId = 1234\nproductId = 0001\nbus = 1\n[usb B]\ntargetVm = b\n"
		 "[allow 2]\nvendorId = 1234\nproductId = 0001\nport = 2\n",
	       "wants for b what [allow 1] in line 7 wants for a");
	expect(A "[allow 1]\nvendorId = 1234\n[deny 2]\nvendorId = 4321\n" USED,
	       "x.conf:9: [deny 2] denies nothing");
	expect(A "[allow 1]\nport = 1\nportPath = 3-11\n" USED, "[allow 1] can never match");
	expect(A "[allow 1]\nport = 1\nportPath = 2, 3-11\n" USED, "[allow 1] can never match");
	expect(A "[allow 1]\nportPath = 3-1.2\n[deny 2]\nportPath = 3-1, 1-1.2\n" USED,
	       "[deny 2] denies nothing");
	expect(A "[allow 1]\ndevpath = /devices/x\n[deny 2]\ndevpath = /devices/xy\n" USED,
	       "[deny 2] denies nothing");
	expect(A USED, "x.conf:5: [usb A] takes nothing");
}

/* Twins, of which each VM has one: one key of the first group's rule, one of the second's. */
static void twins(void **state)
{
	static const struct {
		const char *first, *second;
		bool said;
	} rows[] = {
		{"pathTag = pci-0000_00_14_0-usb-0_1$", "pathTag = pci-0000_00_14_0-usb-0_2$",
		 false},
		{"devpath = /devices/x/1-1", "devpath = /devices/x/1-2", false},
		{"devpath = /devices/x/1-1", "devpath = /devices/x/1-11", false},
		{"productString = Left", "productString = Right", false},
		{"vendorName = A", "vendorName = B", false},
		{"removable = fixed", "removable = removable", false},
		{"interfaceClass = 3", "interfaceClass = 8", false},
		{"driverPath = .*a", "driverPath = .*b", false},
		{"pathTag = pci-0000_00_14_0-usb-0_1$", "portPath = 2", false},
		{"devpath = /devices/x/1-1", "port = 2", false},
		{"portPath = 1-1.2", "serial = A", false},
		{"productString = Left", "productName = Right", false},
		{"serial = A", "serial = B", false},
		{"devpath = /devices/x/1-1/1-1.2", "devpath = /devices/x/1-1", true},
		{"portPath = 1.2", "portPath = 1.2, 1.3", true},
		{"pathTag = x", "pathTag = x\nserial = A", true},
		{"productString = Left", "disable = no", true},
		{"bus = 1", "port = 2", true},
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		char text[500];

		snprintf(text, sizeof(text),
			 A
			 "[allow L]\nvendorId = 1234\nproductId = 0001\n%s\n[usb B]\ntargetVm = b\n"
			 "[allow R]\nvendorId = 1234\nproductId = 0001\n%s\n",
			 rows[i].first, rows[i].second);
		expect(text, rows[i].said ? "[allow R]" : NULL);
	}
}

static void what_may_be_meant(void **state)
{
	(void) state;
	expect(A "[allow 1]\nbus = 1\nport = 1\n[allow 2]\nbus = 1\n" USED, NULL);
	expect(A "[allow 1]\nbus = 1\n[deny 2]\nport = 1\n" USED, NULL);
	expect(A "[allow 1]\nbus = 1\ndisable = yes\n[allow 2]\nbus = 1\n" USED, NULL);
	expect(A "[allow 1]\ninterfaceClass = 3\n[allow 2]\ninterfaceSubclass = 1\n" USED, NULL);
	expect(A "[allow 1]\nbus = 1\n[deny 2]\nport = 9\n[usb B]\ntargetVm = b\n[allow 2]\nbus = "
		 "1\n",
	       NULL);
	expect(A "[allow 1]\ndevpath = /devices/x\n[allow 2]\ndevpath = /devices/xy\n" USED, NULL);
	expect(A "[allow 1]\ndevpath = /devices/x\n[deny 2]\ndevpath = /devices/x/y\n" USED, NULL);
	expect(A "[allow 1]\nport = 1\n[allow 2]\nportPath = 3-11\n" USED, NULL);
	expect(A "[allow 1]\nport = 1\nportPath = 3-11, 1.2\n" USED, NULL);
	expect(A "[allow 1]\nportPath = 1.2\n[deny 2]\nportPath = 3-1.2\n" USED, NULL);
	expect(A "[allow 1]\nportPath = 3-1.2\n[deny 2]\nportPath = 4, 1.2\n" USED, NULL);
	expect(VMS "[pci P]\ntargetVm = a\n[allow 1]\nvendorId = 1234\n" USED, NULL);
	expect(A "[allow 1]\ndriverPath = .*\n[allow 2]\ninterfaceClass = 3\n" USED, NULL);
	expect(VMS "[evdev E]\ntargetVm = a\n[allow 1]\nproperty = P\nvalue = .*\n"
		   "[allow 2]\nproperty = P\nvalue = 1\n" USED,
	       NULL);
	/* All but one. */
	expect(A
	       "[allow 1]\nvendorId = 1234\nproductId = 0001\n[deny 2]\nserial = A\n"
	       "[usb B]\ntargetVm = b\n[allow 3]\nvendorId = 1234\nproductId = 0001\nserial = A\n",
	       NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_warning),
		cmocka_unit_test(twins),
		cmocka_unit_test(what_may_be_meant),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
