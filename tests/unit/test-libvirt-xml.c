/* Devices in libvirt's XML: what is written, what is refused, what is read back. */
#include "broker/libvirt/device_xml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static void assert_written(struct device_xml device, const char *wanted)
{
	_cleanup_free_ char *xml = device_xml_write(&device);

	assert_non_null(xml);
	assert_string_equal(xml, wanted);
}

static void test_each_kind(void **state)
{
	(void) state;
	assert_written(
		(struct device_xml){.kind = "usb",
				    .alias = "ua-vhp-1-2_3-77",
				    .bus = 1,
				    .device = 12,
				    .ids = "046d:c52b"},
		"<hostdev mode='subsystem' type='usb' managed='no'>"
		"<source startupPolicy='requisite'><vendor id='0x046d'/><product id='0xc52b'/>"
		"<address bus='1' device='12'/></source>"
		"<alias name='ua-vhp-1-2_3-77'/></hostdev>");
	assert_written((struct device_xml){.kind = "usb",
					   .alias = "ua-vhp-a",
					   .bus = 1,
					   .device = 12,
					   .ids = "0000:3825"},
		       "<hostdev mode='subsystem' type='usb' managed='no'>"
		       "<source startupPolicy='requisite'>"
		       "<address bus='1' device='12'/></source><alias name='ua-vhp-a'/></hostdev>");
	assert_written(
		(struct device_xml){.kind = "pci", .alias = "ua-vhp-a", .address = "0000:03:0a.7"},
		"<hostdev mode='subsystem' type='pci' managed='no'><source>"
		"<address domain='0x0000' bus='0x03' slot='0x0a' function='0x7'/></source>"
		"<alias name='ua-vhp-a'/></hostdev>");
	assert_written(
		(struct device_xml){.kind = "pci", .alias = "ua-vhp-a", .address = "10000:e1:00.0"},
		"<hostdev mode='subsystem' type='pci' managed='no'><source>"
		"<address domain='0x10000' bus='0xe1' slot='0x00' function='0x0'/></source>"
		"<alias name='ua-vhp-a'/></hostdev>");
	assert_written((struct device_xml){.kind = "evdev",
					   .alias = "ua-vhp-e",
					   .node = "/dev/input/event3"},
		       "<input type='passthrough' bus='virtio'><source evdev='/dev/input/event3'/>"
		       "<alias name='ua-vhp-e'/></input>");
}

/* Nothing that a device or a peer says gets out of its quotes. */
static void test_what_is_refused(void **state)
{
	static const struct device_xml refused[] = {
		{.kind = "usb",
		 .alias = "ua-vhp-a'/><x y='",
		 .bus = 1,
		 .device = 2,
		 .ids = "046d:c52b"},
		{.kind = "usb", .alias = "ua-other", .bus = 1, .device = 2, .ids = "046d:c52b"},
		{.kind = "usb", .alias = "ua-vhp-a", .bus = 0, .device = 2, .ids = "046d:c52b"},
		{.kind = "usb", .alias = "ua-vhp-a", .bus = 1, .device = 0, .ids = "046d:c52b"},
		{.kind = "usb", .alias = NULL, .bus = 1, .device = 2, .ids = "046d:c52b"},
		{.kind = "usb", .alias = "ua-vhp-a", .bus = 1, .device = 2},
		{.kind = "usb", .alias = "ua-vhp-a", .bus = 1, .device = 2, .ids = "046d:c52b'"},
		{.kind = "usb", .alias = "ua-vhp-a", .bus = 1, .device = 2, .ids = "046d"},
		{.kind = "pci", .alias = "ua-vhp-a", .address = "0000:03:00.0'"},
		{.kind = "pci", .alias = "ua-vhp-a", .address = "03:00.0"},
		{.kind = "pci", .alias = "ua-vhp-a", .address = NULL},
		{.kind = "evdev", .alias = "ua-vhp-a", .node = "/dev/input/event3'/>"},
		{.kind = "evdev", .alias = "ua-vhp-a", .node = ""},
		{.kind = "mdev", .alias = "ua-vhp-a"},
		{.kind = NULL, .alias = "ua-vhp-a"},
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++)
		assert_null(device_xml_write(&refused[i]));
}

/* Only ours, whatever the element is; what others have named is theirs. */
static void test_what_a_domain_has(void **state)
{
	static const char xml[] =
		"<domain id='3'><name>ua-vhp-name</name><devices>"
		"<hostdev type='usb'><alias name='ua-vhp-1-2-5'/></hostdev>"
		"<hostdev type='usb'><alias name='hostdev1'/></hostdev>"
		"<input type='passthrough'><alias name='ua-vhp-event3-9'/></input>"
		"<disk><alias name='ua-backup'/></disk>"
		"</devices><metadata><alias name='ua-vhp-elsewhere'/></metadata></domain>";
	char **aliases = NULL;
	size_t n = 0;

	(void) state;
	assert_int_equal(device_xml_aliases(xml, &aliases, &n), 0);
	assert_int_equal(n, 2);
	assert_string_equal(aliases[0], "ua-vhp-1-2-5");
	assert_string_equal(aliases[1], "ua-vhp-event3-9");
	for (size_t i = 0; i < n; i++)
		free(aliases[i]);
	free(aliases);
}

static void test_what_it_misses(void **state)
{
	static const char xml[] =
		"<domain><devices><hostdev><source startupPolicy='requisite'/>"
		"<alias name='ua-vhp-1-2-5'/></hostdev><hostdev><source missing='no'/>"
		"<alias name='ua-vhp-1-3-5'/></hostdev><hostdev><source missing='yes'/>"
		"<alias name='ua-vhp-1-4-5'/></hostdev><hostdev><source missing='yes'/>"
		"<alias name='hostdev0'/></hostdev></devices></domain>";
	char **aliases = NULL;
	size_t n = 0;

	(void) state;
	assert_int_equal(device_xml_missing(xml, &aliases, &n), 0);
	assert_int_equal(n, 1);
	assert_string_equal(aliases[0], "ua-vhp-1-4-5");
	free(aliases[0]);
	free(aliases);
}

static void test_a_domain_without_any(void **state)
{
	char **aliases = NULL;
	size_t n = 5;

	(void) state;
	assert_int_equal(device_xml_aliases("<domain><devices/></domain>", &aliases, &n), 0);
	assert_int_equal(n, 0);
	assert_null(aliases);
}

static void test_no_xml(void **state)
{
	char *nobody = NULL, **aliases = &nobody;
	size_t n = 7;

	(void) state;
	assert_int_equal(device_xml_aliases("<domain>", &aliases, &n), -EBADMSG);
	assert_int_equal(device_xml_aliases("", &aliases, &n), -EBADMSG);
	assert_int_equal(n, 7);
	assert_ptr_equal(aliases, &nobody);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_kind),
		cmocka_unit_test(test_what_is_refused),
		cmocka_unit_test(test_what_a_domain_has),
		cmocka_unit_test(test_what_it_misses),
		cmocka_unit_test(test_a_domain_without_any),
		cmocka_unit_test(test_no_xml),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
