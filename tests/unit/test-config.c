/* The config reader: what a good file gives, and what each kind of mistake says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "conf/load.h"
#include "helper/text.h"

#define SIXTY "u23456789012345678901234567890123456789012345678901234567890"
#define VM "[vm vm1]\ntype = qemu\nsocket = /run/vm1.sock\n"
#define CH "[vm c]\ntype = cloud-hypervisor\nsocket = /c\n"
#define GROUP VM "[usb G]\ntargetVm = vm1\n"
#define PCI VM "[pci G]\ntargetVm = vm1\n[allow R]\n"
#define EVDEV VM "[evdev G]\ntargetVm = vm1\n[allow R]\n"
#define RULE GROUP "[allow R]\n" /* its keys start in line 7 */

/* Reads SIZE bytes of TEXT. What it says is in *RET_ERRORS, to be freed. */
static int read_bytes(const char *text, size_t size, char **ret_errors, struct config **ret_config)
{
	size_t errors_size;
	FILE *file = size ? fmemopen((void *) (uintptr_t) text, size, "r") : tmpfile();
	FILE *errors = open_memstream(ret_errors, &errors_size);
	int r;

	assert_non_null(file);
	assert_non_null(errors);
	r = config_read(file, "x.conf", errors, ret_config);
	fclose(file);
	fclose(errors);
	return r;
}

static struct config *read_good(const char *text)
{
	struct config *config = NULL;
	char *errors = NULL;

	if (read_bytes(text, strlen(text), &errors, &config) != 0)
		fail_msg("refused: %s", errors);
	assert_string_equal(errors, "");
	free(errors);
	return config;
}

/* TEXT is refused with exactly these lines. */
static void expect_errors(const char *text, size_t size, const char *lines)
{
	struct config untouched, *config = &untouched;
	char *errors = NULL;

	assert_int_equal(read_bytes(text, size, &errors, &config), -EINVAL);
	assert_string_equal(errors, lines);
	assert_ptr_equal(config, &untouched);
	free(errors);
}

/* TEXT is refused, with one line that starts with "x.conf:LINE: " and has the words WHAT. */
static void expect_error(const char *text, unsigned line, const char *what)
{
	struct config *config = NULL;
	char *errors = NULL, start[32];

	snprintf(start, sizeof(start), "x.conf:%u: ", line);
	if (read_bytes(text, strlen(text), &errors, &config) != -EINVAL)
		fail_msg("taken: %s", text);
	if (!startswith(errors, start) || !strstr(errors, what) || !strstr(errors, "allowed here:"))
		fail_msg("of\n%s\nexpected %s … %s, but it said\n%s", text, start, what, errors);
	if (strchr(errors, '\n') != errors + strlen(errors) - 1)
		fail_msg("more than one line for one mistake:\n%s", errors);
	free(errors);
}

static void good_file_is_typed(void **state)
{
	(void) state;
	_cleanup_(config_freep) struct config *config = read_good(
		"\xef\xbb\xbf; a comment\n[general]\nattachConnected = no\ncrosvm = /opt/crosvm\n"
		"[usb Devices for VM1]\ntargetVm = vm1 ; the VM comes later\nfence = no\n"
		"[allow Mouse]\ninterfaceClass=3\ninterfaceProtocol = 0x02\n"
		"  ; an indented comment\n# another\n[deny Receiver]\nvendorId = 046D\n"
		"productId = c52b\n[usb Rest] ; after a header\ndisable = yes\ntargetVm = vm-2\n"
		"[allow All]\nmatchAll = yes\n"
		"[vm vm1]\ntype = qemu\nsocket = /run/vm1.sock\nuser = libvirt-qemu\n"
		"usbBus = xhci0.0, xhci1.0\n[vm vm-2]\nsocket = /s\ntype = crosvm\nuser = 64055");

	assert_false(config->general.attach_connected);
	assert_string_equal(config->general.crosvm, "/opt/crosvm");
	assert_int_equal(config->n_vms, 2);
	assert_string_equal(config->vms[0].socket, "/run/vm1.sock");
	assert_string_equal(config->vms[0].usb_bus[0], "xhci0.0");
	assert_string_equal(config->vms[0].usb_bus[1], "xhci1.0");
	assert_null(config->vms[0].usb_bus[2]);
	assert_int_equal(config_find_vm(config, "vm-2")->type, VM_CROSVM);
	assert_string_equal(config->vms[1].user, "64055");
	assert_null(config_find_vm(config, "vm3"));

	assert_int_equal(config->n_groups, 2);
	const struct config_group *group = &config->groups[0];
	assert_string_equal(group->name, "Devices for VM1");
	assert_string_equal(group->vms[0], "vm1");
	assert_null(group->vms[1]);
	assert_false(group->fence);
	assert_true(config->groups[1].fence);
	assert_true(config->groups[1].disable);
	assert_true(config->groups[1].rules[0].match_all);

	assert_int_equal(group->n_rules, 2);
	assert_false(group->rules[0].deny);
	assert_true(group->rules[1].deny);
	assert_string_equal(group->rules[0].fields[0].value, "03");
	assert_string_equal(config_rule_field(&group->rules[0], MATCH_INTERFACE_PROTOCOL)->value,
			    "02");
	assert_string_equal(config_rule_field(&group->rules[1], MATCH_VENDOR_ID)->value, "046d");
	assert_null(config_rule_field(&group->rules[1], MATCH_BUS));
}

static void empty_file_is_fine(void **state)
{
	struct config *config = NULL;
	char *errors = NULL;

	(void) state;
	assert_int_equal(read_bytes("", 0, &errors, &config), 0);
	assert_true(config->general.attach_connected);
	assert_string_equal(config->general.crosvm, "/usr/bin/crosvm");
	assert_int_equal(config->n_groups + config->n_vms, 0);
	assert_int_equal(strlen(config->digest), 16);
	config_free(config);
	free(errors);
}

static void every_usb_key_is_stored(void **state)
{
	(void) state;
	_cleanup_(config_freep) struct config *config = read_good(
		RULE "vendorId = FFFF\nproductId = 8000\nvendorName = Logi.*\n"
		     "productName = (a|b)\nvendorString = v\nproductString = p\n"
		     "serial = AB_12#\nbus = 3\nport = 14\nportPath = 3-1.4 ,1.4\n"
		     "devpath = /devices/pci0000:00/0000:00:14.0/usb3/3-1\n"
		     "interfaceClass = 0\ninterfaceSubclass = 255\ninterfaceProtocol = 0xfF\n"
		     "deviceClass = 0x0\ndeviceSubclass = 10\ndeviceProtocol = 1\n"
		     "removable = unknown, fixed\n");
	static const char *const expected[] = {
		[MATCH_VENDOR_ID] = "ffff",
		[MATCH_PRODUCT_ID] = "8000",
		[MATCH_VENDOR_NAME] = "Logi.*",
		[MATCH_PRODUCT_NAME] = "(a|b)",
		[MATCH_VENDOR_STRING] = "v",
		[MATCH_PRODUCT_STRING] = "p",
		[MATCH_SERIAL] = "AB_12#",
		[MATCH_BUS] = "3",
		[MATCH_PORT] = "14",
		[MATCH_PORT_PATH] = "3-1.4|*-1.4",
		[MATCH_DEVPATH] = "/devices/pci0000:00/0000:00:14.0/usb3/3-1",
		[MATCH_INTERFACE_CLASS] = "00",
		[MATCH_INTERFACE_SUBCLASS] = "ff",
		[MATCH_INTERFACE_PROTOCOL] = "ff",
		[MATCH_DEVICE_CLASS] = "00",
		[MATCH_DEVICE_SUBCLASS] = "0a",
		[MATCH_DEVICE_PROTOCOL] = "01",
		[MATCH_REMOVABLE] = "fixed|unknown",
	};
	const struct config_rule *rule = &config->groups[0].rules[0];

	assert_int_equal(rule->n_fields, ARRAY_SIZE(expected));
	for (unsigned i = 0; i < ARRAY_SIZE(expected); i++)
		assert_string_equal(config_rule_field(rule, (enum config_match) i)->value,
				    expected[i]);
}

static void every_mistake_is_named(void **state)
{
	static const struct {
		const char *text;
		unsigned line;
		const char *what;
	} cases[] = {
		{"vendorId = 046d\n", 1, "before the first section"},
		{"[general\n", 1, "no ]"},
		{"[]\n", 1, "nothing in a section header"},
		{"[general] x\n", 1, "text after the section header"},
		{"[usb a;b]\n", 1, "a ; in a section header"},
		{"[general two]\n", 1, "with a name"},
		{"[general]\n[general]\n", 2, "again (first in line 1)"},
		{"[generl]\n", 1, "no section"},
		{"[general]\nattachConnected = true\n", 2, "yes or no"},
		{"[general]\nattachConnected =\n", 2, "has no value"},
		{"[general]\nattachConnected = ; yes\n", 2, "has no value"},
		{"[general]\nattachConnected\n", 2, "not understood"},
		{"[general]\nattachConnected : yes\n", 2, "not understood"},
		{"[general]\n= yes\n", 2, "not understood"},
		{"[general]\nattachconnected = yes\n", 2, "no key of [general]"},
		{"[general]\ncrosvm = crosvm\n", 2, "a path from the root"},
		{"[general]\ncrosvm = /a\ncrosvm = /b\n", 3, "again (first in line 2)"},
		{"[general]\n crosvm = /a\n", 2, "starts with a blank"},
		{"[general]\ncrosvm = /a\n\t/b\n", 3, "starts with a blank"},
		{" [general]\n", 1, "starts with a blank"},
		{"[general]\ncrosvm = /a\x01\n", 2, "control character 0x01"},
		{"[general]\r\n", 1, "control character 0x0d"},
		{"[general]\ncrosvm = /a\x7f\n", 2, "control character 0x7f"},
		{"[vm]\nsocket = /s\n", 1, "no name for a VM"},
		{"[vm a/b]\nsocket = /s\n", 1, "no name for a VM"},
		{"[vm a,b]\nsocket = /s\n", 1, "no name for a VM"},
		{"[vm a b]\nsocket = /s\n", 1, "no name for a VM"},
		{VM "[vm vm1]\nsocket = /s\n", 4, "again (first in line 1)"},
		{"[vm a]\ntype = qemu\n", 1, "says no socket"},
		{"[vm a]\nsocket = s\n", 2, "a socket from the root"},
		{"[vm a]\nsocket = /s\ntype = xen\n", 3,
		 "qemu, crosvm, cloud-hypervisor or libvirt"},
		{"[vm a]\nsocket = /s\ntype = libvirt\n", 2, "allowed here: type, domain, uri"},
		{"[vm a]\ntype = libvirt\ndomain = a/b\n", 3, "name or UUID of a domain"},
		{"[vm a]\ntype = libvirt\nuri = qemu://host/system\n", 3, "libvirt on this host"},
		{"[vm a]\ntype = libvirt\nuri = qemu+ssh://host:///\n", 3, "libvirt on this host"},
		{"[vm a]\ndomain = b\nsocket = /s\n", 2, "domain in the section of a qemu"},
		{"[vm a]\nsocket = /s\nuser = -1\n", 3, "a uid"},
		{"[vm a]\nsocket = /s\nuser = 4294967295\n", 3, "a uid"},
		{"[vm a]\nsocket = /s\nuser = 12x\n", 3, "a uid"},
		{"[vm a]\nsocket = /s\nuser = " SIXTY "abcd\n", 3, "at most 63 bytes"},
		{"[vm a]\nsocket = /s\nusbBus = a,,b\n", 3, "commas between them"},
		{"[vm a]\nsocket = /s\nusbBus = a b\n", 3, "commas between them"},
		{"[vm a]\nsocket = /s\nusbBus = a, b, a\n", 3, "each once"},
		{"[vm a]\nlisten = l\n", 2, "listen = l"},
		{"[vm a]\nsocket = /s\nlisten = /l\n", 3,
		 "socket and listen, allowed here: one of them"},
		{"[vm a]\nlisten = /l\nuser = u\nsocket = /s\n", 4,
		 "socket and listen, allowed here: one of them"},
		{"[vm a]\ntype = crosvm\nlisten = /l\n", 3, "socket, user, delay"},
		{"[vm a]\ntype = crosvm\nsocket = /s\nusbBus = x\n", 4, "usbBus in the section of"},
		{"[vm a]\npciBus = x\nsocket = /s\ntype = crosvm\n", 2, "pciBus in the section of"},
		{"[vm a]\nsocket = /s\nqemuUseRootBus = yes\ntype = crosvm\n", 3,
		 "qemuUseRootBus in the section of"},
		{"[vm a]\ntype = crosvm\nlisten = /l\n", 3,
		 "allowed here: type, socket, user, delay"},
		{"[vm a]\ntype = crosvm\n", 1, "allowed here: socket = /path"},
		{CH "listen = /l\n", 4, "listen in the section of a cloud-hypervisor"},
		{CH "[usb G]\ntargetVm = c\n", 5,
		 "c is a cloud-hypervisor, which takes no usb devices (but in a [pci] group the USB"
		 " controller that they are at), allowed here: a VM of type qemu, crosvm or "
		 "libvirt"},
		{CH "[evdev G]\ntargetVm = c\n", 5,
		 "takes no evdev devices, allowed here: a VM of"},
		{VM CH "[usb G]\nallowedVms = vm1, c\n", 8, "takes no usb devices"},
		{"[usb G]\ntargetVm = c\n" CH, 2, "takes no usb devices"},
		{"[vm a]\nsocket = /s\nvendorId = 046d\n", 3, "no key of [vm]"},
		{VM "[usb]\ntargetVm = vm1\n", 4, "without a description"},
		{VM "[usb G]\n", 4, "says no VM"},
		{VM "[usb G]\ntargetVm = vm2\n", 5, "there is no VM vm2, allowed here: vm1"},
		{"[usb G]\ntargetVm = vm2\n", 2, "there is none"},
		{"[vm b]\nsocket = /b\n" VM "[usb G]\ntargetVm = vm1, b\n", 7, "one VM"},
		{GROUP "[usb G]\ntargetVm = vm1\n", 6, "again (first in line 4)"},
		{GROUP "[usb a/b]\ntargetVm = vm1\n[usb a_b]\ntargetVm = vm1\n", 8,
		 "again (first in line 6; / \" \\ $ % and what can't be seen are _ in both)"},
		{GROUP "fence = maybe\n", 6, "yes or no"},
		{GROUP "skipOnSuspend = 1\n", 6, "yes or no"},
		{GROUP "choose = ask\n", 4, "choose with allowedVms"},
		{"[vm vm1]\nsocket = /s\n[usb G]\nallowedVms = vm1\nchoose = last\n", 5,
		 "first or ask"},
		{"[general]\ncontrolGroup = a b\n", 2, "the name of a group"},
		{"[general]\ngroup = 12x\n", 2, "a gid"},
		{"[api]\ntransports = unix\nunixSocketGroup = -1\n", 3, "a gid"},
		{"[general]\npersistency = 1\n", 2, "yes or no"},
		{"[api]\nport = 1\n", 1, "transports = unix, tcp, vsock"},
		{"[api]\ntransports = udp\n", 2, "unix, tcp, vsock"},
		{"[api]\ntransports = vsock\n", 1, "allowedCids = 3, 4"},
		{"[api]\ntransports = vsock\nallowedCids = 3, x\n", 3, "CIDs of guests"},
		{"[api]\ntransports = tcp\nport = 65536\n", 3, "1 to 65535"},
		{"[api]\ntransports = tcp\nhost = localhost\n", 3, "an address"},
		{"[api]\ntransports = unix\nunixSocket = x\n", 3, "from the root"},
		{"[api]\ntransports = unix\nunixSocketMode = 888\n", 3, "a mode like 0660"},
		{"[api]\ntransports = unix\n[api]\ntransports = unix\n", 3, "one [api]"},
		{GROUP "vendorId = 046d\n", 6, "no key of [usb]"},
		{"[allow R]\nvendorId = 046d\n", 1, "before the first group"},
		{GROUP "[allow]\nbus = 1\n", 6, "without a description"},
		{GROUP "[allow R]\nbus = 1\n[deny R]\nbus = 2\n", 8, "a second rule \"R\""},
		{GROUP "[allow R%]\nbus = 1\n[deny R$]\nbus = 2\n", 8, "a second rule \"R$\""},
		{GROUP "[allow R]\n", 6, "has no field"},
		{GROUP "[allow R]\ndisable = yes\n", 6, "has no field"},
		{GROUP "[allow R]\nmatchAll = no\n", 6, "has no field"},
		{GROUP "[allow R]\nmatchAll = yes\nbus = 1\n", 6, "one or the other"},
		{RULE "vendorid = 046d\n", 7, "no key of [allow], allowed here: vendorId"},
		{RULE "address = 0000:00:14.3\n", 7, "no key of [allow]"},
		{RULE "vendorId = 46d\n", 7, "four hex digits"},
		{RULE "vendorId = 0x046d\n", 7, "four hex digits"},
		{RULE "vendorId = 046g\n", 7, "four hex digits"},
		{RULE "interfaceClass = 010\n", 7, "0 to 255"},
		{RULE "interfaceClass = 00\n", 7, "0 to 255"},
		{RULE "interfaceClass = 256\n", 7, "0 to 255"},
		{RULE "interfaceClass = -1\n", 7, "0 to 255"},
		{RULE "interfaceClass = 0x\n", 7, "0 to 255"},
		{RULE "interfaceClass = 0x100\n", 7, "0 to 255"},
		{RULE "interfaceClass = 3 3\n", 7, "0 to 255"},
		{RULE "bus = 0\n", 7, "1 to 999"},
		{RULE "bus = 1a\n", 7, "1 to 999"},
		{RULE "port = 01\n", 7, "1 to 999"},
		{RULE "portPath = 0\n", 7, "3-1.4"},
		{RULE "portPath = 3-1,\n", 7, "3-1.4"},
		{RULE "portPath = 1.4, 1.4\n", 7, "3-1.4"},
		{RULE "portPath = *-1\n", 7, "3-1.4"},
		{RULE "portPath = .1\n", 7, "3-1.4"},
		{RULE "portPath = 1..4\n", 7, "3-1.4"},
		{RULE "portPath = -1\n", 7, "3-1.4"},
		{RULE "portPath = 3-\n", 7, "3-1.4"},
		{RULE "portPath = 3-1.\n", 7, "3-1.4"},
		{RULE "portPath = 3-1-2\n", 7, "3-1.4"},
		{RULE "portPath = 3-1:1.0\n", 7, "3-1.4"},
		{RULE "devpath = /sys/devices/x\n", 7, "below /devices/"},
		{RULE "devpath = /devices/\n", 7, "below /devices/"},
		{RULE "devpath = /devices/a/\n", 7, "below /devices/"},
		{RULE "devpath = /devices/a*\n", 7, "below /devices/"},
		{RULE "devpath = /devices/a|b\n", 7, "below /devices/"},
		{RULE "serial = a b\n", 7, "ID_SERIAL_SHORT"},
		{RULE "serial = a|b\n", 7, "ID_SERIAL_SHORT"},
		{RULE "serial = a,b\n", 7, "ID_SERIAL_SHORT"},
		{RULE "serial = \xc3\xa4\n", 7, "ID_SERIAL_SHORT"},
		{RULE "serial = 12\x80\n", 7, "ID_SERIAL_SHORT"},
		{RULE "removable = yes\n", 7, "fixed, removable, unknown"},
		{RULE "vendorName = (\n", 7, "missing closing parenthesis at byte 1"},
		{RULE "vendorName = (*UTF)a\n", 7, "regular expression"},
		{RULE "vendorName = \\C\n", 7, "regular expression"},
		{RULE "bus = 1\nfamily = f g\n", 8, "family = f g"},
		{GROUP "force = perhaps\n", 6, "force = perhaps"},
		{GROUP "tag = a b\n", 6, "a name of at most 40"},
		{GROUP "allowedVms = vm1\n", 6, "one of them"},
		{GROUP "autoOvmf = no\n", 6, "autoOvmf is no key of [usb]"},
		{VM "[pci G]\ntargetVm = vm1\nautoOvmf = yes\n", 4, "ovmfCode and ovmfVars"},
		{"[general]\novmfCode = code.fd\n", 2, "a path from the root without"},
		{"[general]\novmfVars = /a b\n", 2, "blanks and commas"},
		{VM "acpiTable = /a, b\n", 4, "paths from the root"},
		{CH "acpiTable = /a\n", 4, "acpiTable"},
		{PCI "address = 00:14.3\n", 7, "a PCI address"},
		{PCI "address = 0000:00:14.8\n", 7, "a PCI address"},
		{PCI "address = 00000:00:14.0\n", 7, "a PCI address"},
		{PCI "address = 000:00:14.0\n", 7, "a PCI address"},
		{PCI "address = 123456789:00:14.0\n", 7, "a PCI address"},
		{PCI "address = 10000:e1:00.0.1\n", 7, "a PCI address"},
		{PCI "address = 10000:e1:00\n", 7, "a PCI address"},
		{PCI "productId = 1234\n", 7, "no key of [allow], allowed here: vendorId device"},
		{EVDEV "property = A\n", 6, "belong together"},
		{EVDEV "value = A\n", 6, "belong together"},
		{EVDEV "property = A B\nvalue = 1\n", 7, "a udev property"},
		{EVDEV "property = ID_SEAT\nvalue = seat1\n", 7, "this one comes later"},
		{EVDEV "property = MOUSE_DPI\nvalue = 1\n", 7, "this one comes later"},
		{EVDEV "vendorId = 046d\n", 7, "no key of [allow], allowed here: name pathTag"},
	};

	(void) state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		expect_error(cases[i].text, cases[i].line, cases[i].what);
}

static void all_mistakes_in_one_run(void **state)
{
	static const char text[] = "[general]\nattachConnected = 1\n\n[usb G]\nfoo = 1\n"
				   "targetVm = x\n[allow R]\nbus = 0\n bus = 1\n";

	(void) state;
	expect_errors(text, strlen(text),
		      "x.conf:2: attachConnected = 1, allowed here: yes or no\n"
		      "x.conf:5: foo is no key of [usb], allowed here: targetVm allowedVms "
		      "fence choose skipOnSuspend disable description tag "
		      "family force pciIommuAddAll pciIommuSkipIfShared usbNoReset reset\n"
		      "x.conf:6: there is no VM x, allowed here: the name of a [vm] section (there "
		      "is none)\n"
		      "x.conf:8: bus = 0, allowed here: 1 to 999\n"
		      "x.conf:9: the line starts with a blank, allowed here: sections and keys at "
		      "the start of the line\n");
}

/* inih would cut these silently. */
static void lengths_are_kept_or_refused(void **state)
{
	char text[1024], name[64], value[256];

	(void) state;
	memset(value, 'a', sizeof(value));
	snprintf(text, sizeof(text), "[general]\ncrosvm=/%.191s ; %.100s\n", value, value);
	expect_error(text, 2, "the line has");
	snprintf(text, sizeof(text), "[general]\ncrosvm=/%.191s\n", value);
	config_free(read_good(text));
	{
		_cleanup_(config_freep) struct config *config = read_good(text);
		assert_int_equal(strlen(config->general.crosvm), 192);
	}
	snprintf(text, sizeof(text), "[general]\ncrosvm=/%.192s\n", value);
	expect_error(text, 2, "the line has 200 bytes");

	memset(name, 'n', sizeof(name));
	snprintf(text, sizeof(text), "[usb %.45s]\ntargetVm = vm1\n" VM, name);
	{
		_cleanup_(config_freep) struct config *config = read_good(text);
		assert_int_equal(strlen(config->groups[0].name), 45);
	}
	snprintf(text, sizeof(text), "[usb %.46s]\ntargetVm = vm1\n" VM, name);
	expect_error(text, 1, "has 50 bytes");
	snprintf(text, sizeof(text), "[general]\n%.50s = 1\n", name);
	expect_error(text, 2, "the key has 50 bytes");
	snprintf(text, sizeof(text), "[general] ; %.250s\n;%.250s\n", value, value);
	config_free(read_good(text));
}

static void nul_bytes_are_refused(void **state)
{
	static const char text[] = "[general]\ncrosvm = /a\0b\n";

	(void) state;
	expect_errors(text, sizeof(text) - 1,
		      "x.conf:2: control character 0x00, allowed here: printable text\n");
}

static void keys_are_stored(void **state)
{
	(void) state;
	_cleanup_(config_freep) struct config *config = read_good(
		"[vm a]\nlisten = /run/l\ndelay = 5\npciBus = rp1, rp2\nqemuUseRootBus = yes\n"
		"[vm b]\nsocket = /s\n[pci G]\nallowedVms = b, a\nfamily = f\n"
		"pciIommuAddAll = yes\n[allow R]\naddress = 0000:00:1F.3\nforce = yes\n"
		"description = Some words\ntag = t\n[evdev E]\ntargetVm = a\n[allow P]\n"
		"property = ID_INPUT\nvalue = 1\n");

	assert_string_equal(config->vms[0].listen, "/run/l");
	assert_null(config->vms[0].socket);
	assert_int_equal(config->vms[0].delay, 5);
	assert_string_equal(config->vms[0].pci_bus[1], "rp2");
	assert_true(config->vms[0].qemu_use_root_bus);
	assert_string_equal(config->groups[0].vms[0], "b");
	assert_string_equal(config->groups[0].vms[1], "a");
	assert_string_equal(config->groups[0].family, "f");

	const struct config_rule *rule = &config->groups[0].rules[0];
	assert_int_equal(rule->options, OPTION_FORCE | OPTION_IOMMU_ADD_ALL);
	assert_string_equal(rule->fields[0].value, "0000:00:1f.3");
	assert_string_equal(rule->description, "Some words");
	assert_string_equal(rule->tag, "t");
	assert_string_equal(config_rule_field(&config->groups[1].rules[0], MATCH_PROPERTY)->value,
			    "ID_INPUT");
}

static void api_is_stored(void **state)
{
	(void) state;
	_cleanup_(config_freep) struct config *config = read_good(
		"[general]\ncontrolGroup = wheel\npersistency = no\n"
		"[api]\ntransports = tcp, vsock, unix\nunixSocket = /run/x\nunixSocketUser = u\n"
		"unixSocketGroup = g\nunixSocketMode = 0660\nhost = ::1\nport = 4000\n"
		"allowedCids = 3, 77\n[vm a]\nsocket = /a\n[vm b]\nsocket = /b\n"
		"[usb G]\nallowedVms = a, b\nchoose = ask\nskipOnSuspend = yes\n"
		"[allow R]\nmatchAll = yes\n");

	assert_string_equal(config->general.control_group, "wheel");
	assert_false(config->general.persistency);
	assert_true(config->api.unix_socket && config->api.tcp && config->api.vsock);
	assert_string_equal(config->api.path, "/run/x");
	assert_string_equal(config->api.user, "u");
	assert_string_equal(config->api.group, "g");
	assert_int_equal(config->api.mode, 0660);
	assert_string_equal(config->api.host, "::1");
	assert_int_equal(config->api.port, 4000);
	assert_int_equal(config->api.cids[0], 3);
	assert_int_equal(config->api.cids[1], 77);
	assert_int_equal(config->api.cids[2], 0);
	assert_true(config->groups[0].options == OPTION_ASK && config->groups[0].skip_on_suspend);
}

static void api_has_defaults(void **state)
{
	(void) state;
	_cleanup_(config_freep) struct config *config = read_good("[api]\ntransports = unix\n");
	_cleanup_(config_freep) struct config *none = read_good("[general]\n");

	assert_true(config->api.unix_socket && !config->api.tcp && !config->api.vsock);
	assert_string_equal(config->api.path, "/var/lib/vhotplug/vhotplug.sock");
	assert_string_equal(config->api.host, "127.0.0.1");
	assert_int_equal(config->api.port, 2000);
	assert_true(config->general.persistency);
	assert_false(none->api.unix_socket || none->api.tcp || none->api.vsock);
}

/* A rule is found by the name that udev's database has for it. */
static void rules_are_found_by_name(void **state)
{
	(void) state;
	_cleanup_(config_freep) struct config *config =
		read_good("[vm a]\nsocket = /a\n[usb 50% \"a/b\"]\ntargetVm = a\n"
			  "[allow R]\nbus = 1\n[allow R/S]\nbus = 2\n"
			  "[pci 50% \"a/b\"]\ntargetVm = a\n[allow R]\nmatchAll = yes\n");
	const struct config_rule *rule = NULL;

	assert_ptr_equal(config_find_rule(config, "usb/50_ _a_b_/R_S", &rule), &config->groups[0]);
	assert_string_equal(rule->name, "R/S");
	assert_ptr_equal(config_find_rule(config, "pci/50_ _a_b_/R", &rule), &config->groups[1]);
	assert_null(config_find_rule(config, "usb/50_ _a_b_/X", &rule));
	assert_null(config_find_rule(config, "usb/50_ _a_b_", &rule));
	assert_null(config_find_rule(config, "", &rule));
}

/* The broker knows a rule by what it may show of its name. */
static void rules_are_found_by_what_is_shown(void **state)
{
	(void) state;
	_cleanup_(config_freep) struct config *config =
		read_good("[vm a]\nsocket = /a\n[usb \xe2\x80\x8bG\xc2\xad]\ntargetVm = a\n"
			  "[allow R\xe2\x80\x8d]\nbus = 1\n");
	const struct config_rule *rule = NULL;
	_cleanup_free_ char *group = config_safe_name(config->groups[0].name);
	_cleanup_free_ char *name = config_safe_name(config->groups[0].rules[0].name);
	char whole[100], shown[100];

	snprintf(whole, sizeof(whole), "usb/%s/%s", group, name);
	text_clean(shown, sizeof(shown), whole);
	assert_ptr_equal(config_find_rule(config, shown, &rule), &config->groups[0]);
}

static void addresses_of_any_domain(void **state)
{
	(void) state;
	_cleanup_(config_freep) struct config *config = read_good(
		PCI "address = 10000:E1:00.0\n[allow Other]\naddress = abcdef01:00:1f.7\n");

	assert_string_equal(config->groups[0].rules[0].fields[0].value, "10000:e1:00.0");
	assert_string_equal(config->groups[0].rules[1].fields[0].value, "abcdef01:00:1f.7");
}

static void expect_digest(bool same, const char *a, const char *b)
{
	_cleanup_(config_freep) struct config *x = read_good(a);
	_cleanup_(config_freep) struct config *y = read_good(b);

	if (streq(x->digest, y->digest) != same)
		fail_msg("%s\nand\n%s\nhave digests %s and %s", a, b, x->digest, y->digest);
}

#define ASKING "[usb G]\nallowedVms = vm1\nchoose = "

static void digest_is_about_the_meaning(void **state)
{
	static const char vms[] = "[vm a]\nsocket = /a\n[vm b]\nsocket = /b\n";
	static const char swapped[] = "; x\n[vm b]\nsocket=/b\n\n[vm a]\nsocket = /a ; y\n";

	(void) state;
	expect_digest(true, vms, swapped);
	expect_digest(true, RULE "vendorId = 046d\nbus = 1\n", RULE "bus = 1\nvendorId = 046D\n");
	expect_digest(true, RULE "deviceClass = 10\n", RULE "deviceClass = 0x0a\n");
	expect_digest(true, RULE "bus = 1\n", RULE "bus = 1\n[deny X]\nbus = 2\ndisable = yes\n");
	expect_digest(false, RULE "bus = 1\n", RULE "bus = 2\n");
	expect_digest(false, RULE "bus = 1\n", RULE "port = 1\n");
	expect_digest(false, RULE "bus = 1\n", GROUP "[deny R]\nbus = 1\n");
	expect_digest(false, RULE "bus = 1\n", GROUP "fence = no\n[allow R]\nbus = 1\n");
	expect_digest(false, VM ASKING "first\n[allow R]\nbus = 1\n",
		      VM ASKING "ask\n[allow R]\nbus = 1\n");
	expect_digest(false, vms, VM);
	expect_digest(false, VM "[vm b]\nsocket = /b\n[usb G]\ntargetVm = vm1\n",
		      VM "[vm b]\nsocket = /b\n[usb G]\ntargetVm = b\n");
}

static void samples_are_good(void **state)
{
	(void) state;
	_cleanup_(config_freep) struct config *config = NULL;

	assert_int_equal(config_load(SOURCE_DIR "/conf/vhotplug.conf", stderr, &config), 0);
	assert_int_equal(config->n_groups, 0);
}

/* The examples in the sample are real ones: without the ; in front of them they are a config. */
static void sample_examples_are_good(void **state)
{
	FILE *file = fopen(SOURCE_DIR "/conf/vhotplug.conf", "re");
	char line[256], text[8192] = "";

	(void) state;
	assert_non_null(file);
	while (fgets(line, sizeof(line), file))
		strcat(text, line[0] == ';' && line[1] != ' ' ? line + 1 : line);
	fclose(file);

	_cleanup_(config_freep) struct config *config = read_good(text);
	assert_int_equal(config->n_groups, 1);
	assert_int_equal(config->groups[0].n_rules, 4);
}

static void unreadable_files_are_named(void **state)
{
	struct config *config = NULL;
	char *errors;
	size_t size;
	FILE *out = open_memstream(&errors, &size);

	(void) state;
	assert_int_equal(config_load("/nowhere/x", out, &config), -ENOENT);
	assert_int_equal(config_load("/", out, &config), -EISDIR);
	fclose(out);
	assert_string_equal(errors, "/nowhere/x: No such file or directory\n/: Is a directory\n");
	assert_null(config);
	free(errors);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_file_is_typed),
		cmocka_unit_test(empty_file_is_fine),
		cmocka_unit_test(every_usb_key_is_stored),
		cmocka_unit_test(every_mistake_is_named),
		cmocka_unit_test(all_mistakes_in_one_run),
		cmocka_unit_test(lengths_are_kept_or_refused),
		cmocka_unit_test(nul_bytes_are_refused),
		cmocka_unit_test(keys_are_stored),
		cmocka_unit_test(api_is_stored),
		cmocka_unit_test(api_has_defaults),
		cmocka_unit_test(rules_are_found_by_name),
		cmocka_unit_test(rules_are_found_by_what_is_shown),
		cmocka_unit_test(addresses_of_any_domain),
		cmocka_unit_test(digest_is_about_the_meaning),
		cmocka_unit_test(samples_are_good),
		cmocka_unit_test(sample_examples_are_good),
		cmocka_unit_test(unreadable_files_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
