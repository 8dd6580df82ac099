/* What vmm-args says for a VM's devices: by kind of VM, group and config. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/vmm_args.h"
#include "conf/load.h"
#include "helper/root.h"
#include "tests/unit/tree.h"
#include "tests/unit/words.h"

#define GENERAL "[general]\novmfCode = /ovmf/code.fd\novmfVars = /ovmf/vars.fd\n"
#define QEMU "[vm vm1]\ntype = qemu\nsocket = /s\n"
#define CROSVM "[vm vm1]\ntype = crosvm\nsocket = /s\n"
#define CH "[vm vm1]\ntype = cloud-hypervisor\nsocket = /s\n"
#define CARDS "[pci g]\ntargetVm = vm1\n"
#define RULE "[allow r]\nmatchAll = yes\n"
#define INPUT "[evdev i]\ntargetVm = vm1\n[allow r]\nmatchAll = yes\n"

static char *root;

static int setup(void **state)
{
	(void) state;
	root = temp_new();
	root_set(root);
	for (unsigned i = 0; i < 2; i++) {
		char path[100];

		snprintf(path, sizeof(path), "/sys/bus/pci/devices/0000:01:00.%u/driver", i);
		tree_link(root, path, "/sys/bus/pci/drivers/vfio-pci");
	}
	tree_write(root, "/acpi/SSDT1", "");
	return 0;
}

static int teardown(void **state)
{
	(void) state;
	root_set("");
	temp_remove(&root);
	return 0;
}

static struct config *read_config(const char *text)
{
	struct config *config = NULL;
	FILE *f = fmemopen((void *) (uintptr_t) text, strlen(text), "r");

	assert_int_equal(config_read(f, "test", stderr, &config), 0);
	fclose(f);
	return config;
}

static void set_device(struct device *d, enum device_kind kind, const char *name, const char *ids,
		       unsigned class)
{
	*d = (struct device){.id = {.kind = kind, .class = class}, .wish.present = true};
	device_init(d);
	kept_set(&d->id.kernel_name, name);
	set_words(&d->id.node, "/dev/input/%s", name);
	kept_set(&d->id.vid_pid, ids);
	kept_set(&d->wish.rule, kind == DEVICE_PCI ? "pci/g/r" : "evdev/i/r");
	kept_set(&d->wish.vms, "vm1");
}

/* A graphics card with its sound, and a keyboard, in the VM of the config TEXT. */
static void expect_args(const char *text, const char *bus_prefix, const char *expected)
{
	_cleanup_(config_freep) struct config *config = read_config(text);
	struct control_args args = {.vm = "vm1", .bus_prefix = bus_prefix, .start = 2};
	struct device devices[3];
	struct registry registry = {.devices = devices};
	char said[2000] = "";
	json_t *list, *arg;
	size_t i;

	set_device(&devices[0], DEVICE_EVDEV, "event3", "", 0);
	set_device(&devices[1], DEVICE_PCI, "0000:01:00.1", "10de:0002", 0x040300);
	set_device(&devices[2], DEVICE_PCI, "0000:01:00.0", "10de:0001", 0x030000);
	devices[0].next = &devices[1];
	devices[1].next = &devices[2];
	list = vmm_args_list(&registry, config, config_find_vm(config, "vm1"), &args);
	json_array_foreach(list, i, arg) snprintf(said + strlen(said), sizeof(said) - strlen(said),
						  "%s%s", i ? " " : "", json_string_value(arg));
	json_decref(list);
	assert_string_equal(said, expected);
}

#define VFIO "-device vfio-pci,host=0000:01:00."
#define EVENT "-device virtio-input-host-pci,evdev=/dev/input/event3,id=vhp-evdev-2"

static void test_qemu(void **state)
{
	(void) state;
	expect_args(QEMU CARDS RULE INPUT, NULL,
		    VFIO "0,multifunction=on,id=vhp-pci-2 " VFIO
			 "1,multifunction=on,id=vhp-pci-3 " EVENT);
	expect_args(QEMU CARDS RULE INPUT, "rp",
		    VFIO "0,multifunction=on,id=vhp-pci-2,bus=rp2 " VFIO
			 "1,multifunction=on,id=vhp-pci-3,bus=rp3 " EVENT);
}

static void test_root_bus(void **state)
{
	(void) state;
	expect_args(QEMU CARDS "qemuUseRootBus = yes\n" RULE INPUT, "rp",
		    VFIO "0,multifunction=on,id=vhp-pci-2 " VFIO
			 "1,multifunction=on,id=vhp-pci-3 " EVENT);
	expect_args(QEMU "qemuUseRootBus = yes\n" CARDS RULE INPUT, "rp",
		    VFIO "0,multifunction=on,id=vhp-pci-2 " VFIO
			 "1,multifunction=on,id=vhp-pci-3 " EVENT);
}

static void test_firmware(void **state)
{
	(void) state;
	expect_args(GENERAL QEMU CARDS "autoOvmf = yes\n" RULE INPUT, NULL,
		    "-drive if=pflash,format=raw,unit=0,readonly=on,file=/ovmf/code.fd "
		    "-drive if=pflash,format=raw,unit=1,readonly=on,file=/ovmf/vars.fd " VFIO
		    "0,multifunction=on,id=vhp-pci-2 " VFIO
		    "1,multifunction=on,id=vhp-pci-3 " EVENT);
	expect_args(GENERAL QEMU CARDS RULE INPUT, NULL,
		    VFIO "0,multifunction=on,id=vhp-pci-2 " VFIO
			 "1,multifunction=on,id=vhp-pci-3 " EVENT);
}

/* One that is not there is left out: QEMU would not start. */
static void test_acpi(void **state)
{
	(void) state;
	expect_args(QEMU "acpiTable = /acpi/SSDT1, /acpi/missing\n" CARDS RULE INPUT, NULL,
		    VFIO "0,multifunction=on,id=vhp-pci-2 " VFIO
			 "1,multifunction=on,id=vhp-pci-3 -acpitable file=/acpi/SSDT1 " EVENT);
}

static void test_crosvm(void **state)
{
	(void) state;
	expect_args(CROSVM CARDS RULE INPUT, "rp",
		    "--vfio /sys/bus/pci/devices/0000:01:00.0,iommu=viommu "
		    "--vfio /sys/bus/pci/devices/0000:01:00.1,iommu=viommu "
		    "--input evdev[path=/dev/input/event3]");
	expect_args(CROSVM CARDS "crosvmUseRootBus = no\n" RULE INPUT, NULL,
		    "--vfio /sys/bus/pci/devices/0000:01:00.0,iommu=viommu,removable=true "
		    "--vfio /sys/bus/pci/devices/0000:01:00.1,iommu=viommu,removable=true "
		    "--input evdev[path=/dev/input/event3]");
}

static void test_cloud_hypervisor(void **state)
{
	(void) state;
	expect_args(CH "[vm other]\ntype = qemu\nsocket = /o\n" CARDS RULE, NULL,
		    "--device path=/sys/bus/pci/devices/0000:01:00.0 "
		    "path=/sys/bus/pci/devices/0000:01:00.1 "
		    "-device virtio-input-host-pci,evdev=/dev/input/event3,id=vhp-evdev-2");
}

int main(void)
{
#define ARGS_TEST(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
	const struct CMUnitTest tests[] = {
		ARGS_TEST(test_qemu), ARGS_TEST(test_root_bus), ARGS_TEST(test_firmware),
		ARGS_TEST(test_acpi), ARGS_TEST(test_crosvm),   ARGS_TEST(test_cloud_hypervisor),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
