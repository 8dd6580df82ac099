"""The generated rules, evaluated by a real systemd-udevd: what a device's life leaves in udev's
database, when the helper runs, and what the fence does to a claimed device's children.

    test-rules.py GEN_RULES MATCHER LIBEXECDIR"""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

import udevd

GEN_RULES, MATCHER, LIBEXECDIR = sys.argv[1:4]
GIVE_BACK = pathlib.Path(__file__).resolve().parents[2] / "conf/vhotplug-give-back"
HUB_PORT = "pci0000:00/0000:00:14.0/usb1/1-1"
BROKER = "/run/vhotplug/event.sock"
TAKEN = b"T"  # helper/wire.h
VM = "[vm vm1]\nsocket = /run/vm1.sock\n[vm vm2]\nsocket = /run/vm2.sock\n"
UUID_LENGTH = 36
KEYBOARDS = VM + "[usb Input]\ntargetVm = vm1\n[allow Keyboards]\ninterfaceClass = 3\n"


def generate(config):
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(config)
        file.flush()
        return subprocess.run([GEN_RULES, "-c", file.name, "-o", "-"], check=True,
                              stdout=subprocess.PIPE).stdout


class Device:
    """A USB device with one interface, as the kernel shows it."""

    def __init__(self, host, path, vendor="046d", product="c52b", interfaces=((3, 1, 1),),
                 device_class=(0, 0, 0), **attributes):
        self.host = host
        self.name = os.path.basename(path)
        files = {
            "idVendor": vendor, "idProduct": product, "busnum": "1", "devnum": "5",
            "bDeviceClass": f"{device_class[0]:02x}", "bDeviceSubClass": f"{device_class[1]:02x}",
            "bDeviceProtocol": f"{device_class[2]:02x}", **attributes,
        }
        attributes = {key: value.encode() + b"\n" for key, value in files.items()}
        attributes["descriptors"] = udevd.descriptors(device_class, interfaces)
        self.path = host.add_device(path, "usb", "usb_device", attributes)
        self.product = f"{int(vendor, 16):x}/{int(product, 16):x}/100"

    def event(self, action):
        return self.host.event(action, self.path, "usb", DEVTYPE="usb_device",
                               PRODUCT=self.product, BUSNUM="001", DEVNUM="005")

    def child(self, below, subsystem, devtype=None, attributes=None, uevent=None):
        return self.host.add_device(self.path[len("/devices/"):] + "/" + below, subsystem,
                                    devtype, attributes, uevent)


class RulesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.host = udevd.Udevd(LIBEXECDIR)
        cls.host.install_program("vhotplug-match", MATCHER)
        cls.host.write_rules(generate(""))
        cls.host.start()

    def setUp(self):
        self.host.helper_runs()
        os.makedirs("/run/vhotplug/refused", exist_ok=True)
        open(BROKER, "w").close()

    def use(self, config):
        self.host.write_rules(generate(config))
        self.host.reload()
        # What was wrong with those before may only be said now. A test takes the matcher away.
        self.assertEqual([line for line in self.host.log_text().splitlines()
                          if "66-vhotplug.rules" in line and "Failed to execute" not in line], [])

    def remove(self, device):
        """An unplug as the kernel announces it: the directory is gone before both events."""
        self.host.remove_device(device.path)
        unbind = device.event("unbind")
        return unbind, device.event("remove")

    def check_claimed(self, properties, rule="usb/Input/Keyboards", vm="vm1"):
        self.assertEqual(properties.get(b"VHOTPLUG_RULE"), rule.encode())
        self.assertEqual(properties.get(b"VHOTPLUG_VM"), vm.encode())
        self.assertRegex(properties.get(b"VHOTPLUG_CONFIG", b"").decode(), "^[0-9a-f]{16}$")
        self.assertIn(b":vhotplug:", udevd.tags(properties))

    def check_free(self, properties):
        self.assertNotIn(b"VHOTPLUG_RULE", properties)
        self.assertNotIn(b"VHOTPLUG_VM", properties)
        self.assertNotIn(b":vhotplug", udevd.tags(properties))

    def test_a_life_from_plug_to_unplug(self):
        self.use(KEYBOARDS)
        device = Device(self.host, HUB_PORT)
        self.check_claimed(device.event("add"))
        for action in ("bind", "change", "bind"):
            self.check_claimed(device.event(action))
        for properties in self.remove(device):
            self.check_claimed(properties)
        runs = self.host.helper_runs()
        self.assertEqual([run[b"ACTION"] for run in runs], [b"add", b"remove"])
        for run in runs:
            self.assertEqual(run[b"VHOTPLUG_RULE"], b"usb/Input/Keyboards")
            self.assertEqual(run[b"VHOTPLUG_VM"], b"vm1")

    def test_claimed_after_it_came(self):
        """Rules that came later claim a device at whatever event is the next: the broker hears of that, and once."""
        for action in ("change", "bind"):
            self.use(VM)
            device = Device(self.host, HUB_PORT)
            self.check_free(device.event("add"))
            self.use(KEYBOARDS)
            for _ in range(2):
                self.check_claimed(device.event(action))
            self.assertEqual([(run[b"ACTION"], run[b"VHOTPLUG_RULE"]) for run in self.host.helper_runs()],
                             [(action.encode(), b"usb/Input/Keyboards")])
            self.remove(device)
            self.host.helper_runs()

    def test_nobody_wants_it(self):
        self.use(KEYBOARDS)
        device = Device(self.host, HUB_PORT, interfaces=((8, 6, 80),))
        for action in ("add", "bind", "change"):
            self.check_free(device.event(action))
        for properties in self.remove(device):
            self.check_free(properties)
        self.assertEqual(self.host.helper_runs(), [])

    def test_no_config_no_effect(self):
        self.use("")
        device = Device(self.host, HUB_PORT)
        self.check_free(device.event("add"))
        self.remove(device)
        self.assertEqual(self.host.helper_runs(), [])

    def test_all_does_not_take_what_is_gone(self):
        """An unbind event finds no directory: nothing may be decided by what is missing."""
        self.use(VM + "[usb G]\ntargetVm = vm1\n[deny D]\nvendorId = 046d\n"
                      "[allow A]\nmatchAll = yes\n")
        device = Device(self.host, HUB_PORT)
        self.check_free(device.event("add"))
        for properties in self.remove(device):
            self.check_free(properties)
        self.assertEqual(self.host.helper_runs(), [])

    def test_what_is_gone_is_never_taken(self):
        self.use(VM + "[usb G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n")
        device = Device(self.host, HUB_PORT)
        self.host.remove_device(device.path)
        self.check_free(device.event("add"))

    def test_deny_cancels_its_group_only(self):
        self.use(VM + "[usb First]\ntargetVm = vm1\n[allow All]\nmatchAll = yes\n"
                      "[deny Logitech]\nvendorId = 046d\n"
                      "[usb Second]\ntargetVm = vm2\n[allow All]\nmatchAll = yes\n")
        first, second = Device(self.host, HUB_PORT, "1234"), Device(self.host, HUB_PORT + ".4")
        self.check_claimed(first.event("add"), "usb/First/All", "vm1")
        self.check_claimed(second.event("add"), "usb/Second/All", "vm2")
        self.remove(second)
        self.remove(first)

    def test_first_group_wins_and_disabled_ones_do_not(self):
        self.use(VM + "[usb Off]\ntargetVm = vm1\ndisable = yes\n[allow A]\nmatchAll = yes\n"
                      "[usb On]\ntargetVm = vm2\n[allow off]\nvendorId = 046d\ndisable = yes\n"
                      "[allow on]\nproductId = c52b\n"
                      "[usb Late]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n")
        device = Device(self.host, HUB_PORT)
        self.check_claimed(device.event("add"), "usb/On/on", "vm2")
        self.remove(device)

    def test_hubs_are_never_taken(self):
        self.use(VM + "[usb G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n")
        for kind in ({"device_class": (9, 0, 1), "interfaces": ((9, 0, 0),)},
                     {"interfaces": ((3, 1, 1), (9, 0, 0))}):
            hub = Device(self.host, HUB_PORT, **kind)
            self.check_free(hub.event("add"))
            behind = Device(self.host, HUB_PORT + "/1-1.2")
            self.check_claimed(behind.event("add"), "usb/G/A")
            self.remove(behind)
            self.remove(hub)

    def test_a_device_cannot_hide_its_interfaces(self):
        self.use(VM + "[usb G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n"
                      "[deny Storage]\ninterfaceClass = 8\n")
        many = tuple((1, n // 256, n % 256) for n in range(200)) + ((8, 6, 80),)
        for kind in ({"interfaces": ((8, 6, 80),), "manufacturer": '"' * 64},
                     {"interfaces": many}, {"interfaces": ((8, 6, 80),)}):
            device = Device(self.host, HUB_PORT, **kind)
            self.check_free(device.event("add"))
            self.remove(device)
        odd = Device(self.host, HUB_PORT, manufacturer='"' * 64)
        self.check_claimed(odd.event("add"), "usb/G/A")
        self.remove(odd)

    def test_a_last_interface_without_an_endpoint(self):
        """udev's list lacks it; a deny must not."""
        self.use(VM + "[usb G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n"
                      "[deny D]\ninterfaceClass = 17\n[usb H]\ntargetVm = vm2\n"
                      "[allow B]\nmatchAll = yes\n")
        device = Device(self.host, HUB_PORT)
        data = udevd.descriptors((0, 0, 0), ((0xff, 0, 0),))
        for more, vm in ((b"", b"vm1"), (bytes([9, 4, 1, 0, 0, 0x11, 0, 0, 0]), b"vm2"),
                         (bytes([9, 4, 1, 0, 0, 0x12, 0, 0, 0]), b"vm1"),
                         (bytes([9, 4, 1, 0, 0, 0x12, 0, 0]), b"vm2"), (b"\x09", b"vm2")):
            with open("/sys" + device.path + "/descriptors", "wb") as file:
                file.write(data + more)
            properties = device.event("add")
            self.assertEqual(properties.get(b"VHOTPLUG_VM"), vm, more)
            self.assertEqual(properties[b"VHOTPLUG_RULE"],
                             b"usb/G/A" if vm == b"vm1" else b"usb/H/B")
        self.remove(device)

    def test_more_interfaces_than_can_be_said(self):
        for deny, free in (("[deny D]\ninterfaceClass = 17\n", True), ("", True)):
            self.use(VM + "[usb G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n" + deny)
            device = Device(self.host, HUB_PORT,
                            interfaces=tuple((1, n // 256, n % 256) for n in range(1200)))
            self.assertEqual(b"VHOTPLUG_RULE" not in device.event("add"), free, deny)
            self.remove(device)

    def test_deny_without_the_program(self):
        """Few interfaces, udev knows them all, and still the deny's program is needed."""
        self.use(VM + "[usb G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n"
                      "[deny D]\ninterfaceClass = 17\n")
        device = Device(self.host, HUB_PORT)
        self.check_claimed(device.event("add"), "usb/G/A")
        for program in (None, "#!/bin/sh\nexit 2\n", "#!/bin/sh\nexit 127\n"):
            if program:
                self.host.install_program("vhotplug-match", program)
            else:
                os.unlink(LIBEXECDIR + "/vhotplug-match")
            self.check_free(device.event("add"))
        self.host.install_program("vhotplug-match", MATCHER)
        self.check_claimed(device.event("add"), "usb/G/A")
        self.remove(device)

    def test_syslog_that_stands_still(self):
        """udevd waits for what it runs."""
        log = pathlib.Path("/dev/log")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon, \
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
            daemon.bind(str(log))
            other.connect(str(log))
            with contextlib.suppress(BlockingIOError):
                while True:
                    other.send(b"x")
            done = subprocess.run([MATCHER, "productName", "!"], stderr=subprocess.PIPE, timeout=60, check=False)
        log.unlink()
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"not properly encoded", done.stderr)

    def test_own_words(self):
        """The hardware database's name hides what the device says of itself."""
        self.use(VM + "[usb G]\ntargetVm = vm1\n[allow Zigbee]\nproductString = Sonoff Zigbee\n"
                      "[usb H]\ntargetVm = vm2\n[allow Bridge]\nproductName = CP210x\n"
                      "vendorString = .*labs$\n")
        for product, rule in (("Sonoff Zigbee 3.0 USB Dongle Plus", "usb/G/Zigbee"),
                              ("CP2102 USB to UART", "usb/H/Bridge")):
            device = Device(self.host, HUB_PORT, "10c4", "ea60", manufacturer="Silicon Labs")
            with open("/sys" + device.path + "/product", "w") as file:
                file.write(product + "\n")
            properties = device.event("add")
            self.assertIn(b"CP210x", properties[b"ID_MODEL_FROM_DATABASE"])
            self.assertEqual(properties[b"VHOTPLUG_RULE"].decode(), rule)
            self.remove(device)

    def test_port_on_any_bus(self):
        self.use(VM + "[usb G]\ntargetVm = vm1\n[allow Jack]\nportPath = 1.4, 2-3.4\n")
        for path, taken in (("usb1/1-1/1-1.4", True), ("usb7/7-1/7-1.4", True),
                            ("usb2/2-3/2-3.4", True), ("usb1/1-3/1-3.4", False),
                            ("usb1/1-1/1-1.4/1-1.4.1", False), ("usb1/1-11.4", False)):
            device = Device(self.host, "pci0000:00/0000:00:14.0/" + path)
            self.assertEqual(b"VHOTPLUG_RULE" in device.event("add"), taken, path)
            self.remove(device)

    def test_path_tag_of_usb(self):
        self.use(VM + "[usb G]\ntargetVm = vm1\n[allow Jack]\n"
                      "pathTag = pci-0000_00_14_0-usb-0_1_4$\n")
        self.host.add_device("pci0000:00/0000:00:14.0", "pci", None, {"vendor": b"0x8086\n"})
        for bus, port, taken in ((1, "1.4", True), (9, "1.4", True), (1, "1.5", False)):
            device = Device(self.host, f"pci0000:00/0000:00:14.0/usb{bus}/{bus}-{port}")
            self.assertEqual(b"VHOTPLUG_RULE" in device.event("add"), taken, (bus, port))
            self.remove(device)

    def test_pci_domains_of_five_digits(self):
        self.use(VM + "[pci G]\ntargetVm = vm1\n[allow Card]\naddress = 10000:E1:00.0\n")
        for address, taken in (("10000:e1:00.0", True), ("0000:e1:00.0", False)):
            path = self.host.add_device(f"pci{address[:-8]}:e0/{address}", "pci", None,
                                        {"vendor": b"0x8086\n", "class": b"0x010802\n"})
            self.assertEqual(b"VHOTPLUG_RULE" in self.host.event("add", path, "pci"), taken)
            self.host.remove_device(path)

    def card(self, address, device_class=b"0x040300\n", group=None, driver=None):
        """A PCI card as the host has it when no driver has come yet."""
        path = self.host.add_device("pci0000:00/" + address, "pci", None, {
            "vendor": b"0x8086\n", "class": device_class, "driver_override": b"(null)\n"})
        if group:
            members = f"/sys/kernel/iommu_groups/{group}/devices"
            os.makedirs(members, exist_ok=True)
            os.symlink("/sys" + path, f"{members}/{address}")
            os.symlink(os.path.dirname(members), f"/sys{path}/iommu_group")
        if driver:
            os.symlink("/sys/bus/pci/drivers/" + driver, f"/sys{path}/driver")
        return path

    def override(self, path):
        return pathlib.Path(f"/sys{path}/driver_override").read_text().strip()

    def test_a_card_is_set_aside(self):
        """Not one that the host may need to start, nor one that can go to no VM: it has no IOMMU group."""
        self.use(VM + "[pci G]\ntargetVm = vm1\n[allow Any]\nvendorId = 8086\n")
        sound, smbus = b"0x040300\n", b"0x0c0500\n"
        needed = (b"0x010802\n", b"0x020000\n", b"0x080501\n", b"0x0c0010\n", b"0x0c0330\n", b"0x0c0400\n",
                  b"0x0c0600\n", b"0x0d8000\n")
        for device_class, group, text in ((sound, 7, "vfio-pci"), (smbus, 7, "vfio-pci"), (sound, None, "(null)"),
                                          *((it, 7, "(null)") for it in needed)):
            path = self.card("0000:00:1b.0", device_class, group)
            found = self.host.event("add", path, "pci")
            self.check_claimed(found, "pci/G/Any")
            self.assertEqual(self.override(path), text, (device_class, group))
            self.host.remove_device(path)
            self.host.event("remove", path, "pci")
            shutil.rmtree("/sys/kernel", ignore_errors=True)

    def give_back(self, card):
        """Runs conf/vhotplug-give-back beside one CARD. Returns those that the kernel was to find a driver for."""
        text = pathlib.Path(GIVE_BACK).read_text().replace("@CMAKE_INSTALL_FULL_BINDIR@", os.path.dirname(GEN_RULES))
        probe = pathlib.Path("/sys/bus/pci/drivers_probe")
        probe.write_text("")
        pathlib.Path("/run/give-back").write_text(text)
        self.asked_by(["sh", "/run/give-back"], [card])
        return probe.read_text().split()

    def test_cards_are_given_back(self):
        """When vhotplug is removed: also one without an IOMMU group; not what somebody may have open."""
        config = VM + "[pci G]\ntargetVm = vm1\n[allow Any]\nvendorId = 8086\n"
        for group, driver, back in ((7, None, True), (None, None, True), (None, "vfio-pci", False)):
            self.use(config)
            path = self.card("0000:00:1c.0", group=group, driver=driver)
            pathlib.Path(f"/sys{path}/driver_override").write_text("vfio-pci\n")
            self.check_claimed(self.host.event("add", path, "pci"), "pci/G/Any")
            self.assertEqual(self.give_back(path), ["0000:00:1c.0"] if back else [], (group, driver))
            self.assertEqual(self.override(path), "" if back else "vfio-pci", (group, driver))
            self.host.remove_device(path)
            self.host.event("remove", path, "pci")
            os.unlink("/sys/bus/pci/devices/0000:00:1c.0")
            shutil.rmtree("/sys/kernel", ignore_errors=True)

    def test_a_keyboard_on_a_radio_is_no_usb_device(self):
        """hidp hangs a Bluetooth keyboard below the USB radio."""
        config = VM + ("[evdev Keys]\ntargetVm = vm1\n[allow All]\nname = Keyboard\n"
                       "[usb None]\ntargetVm = vm2\n[allow X]\nvendorId = ffff\n")
        self.use(config)
        radio = Device(self.host, HUB_PORT, interfaces=((0xe0, 1, 1),))
        radio.event("add")
        radio.child("1-1:1.0", "usb", "usb_interface")
        below = "1-1:1.0/bluetooth/hci0/hci0:11/0005:046D:B342.0003/input/input20"
        radio.child("1-1:1.0/bluetooth/hci0", "bluetooth")
        radio.child("1-1:1.0/bluetooth/hci0/hci0:11", "bluetooth")
        radio.child("1-1:1.0/bluetooth/hci0/hci0:11/0005:046D:B342.0003", "hid")
        wired = "1-1:1.0/0003:046D:C52B.0001/input/input21"
        for path, taken in ((below, True), (wired, False)):
            radio.child(path, "input", None, {"name": b"Keyboard\n", "capabilities/key": b"1\n"})
            node = radio.child(path + "/event20", "input")
            os.symlink("..", "/sys" + node + "/device")
            self.assertEqual(b"VHOTPLUG_RULE" in self.host.event("add", node, "input"), taken, path)
            decision = "gives it to vm1" if taken else "it stays with the host"
            self.assertIn(decision, self.explain(config, node))
        self.host.remove_device(radio.path)
        radio.event("remove")

    def test_interfaces_that_cannot_be_known(self):
        """Without the program that reads them the device stays where it is."""
        self.use(VM + "[usb G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n"
                      "[deny Storage]\ninterfaceClass = 8\n")
        os.rename(LIBEXECDIR + "/vhotplug-match", LIBEXECDIR + "/away")
        # More of them than udev keeps.
        device = Device(self.host, HUB_PORT, interfaces=tuple((1, 0, n) for n in range(200)))
        self.check_free(device.event("add"))
        os.rename(LIBEXECDIR + "/away", LIBEXECDIR + "/vhotplug-match")
        self.check_claimed(device.event("add"), "usb/G/A")
        self.remove(device)

    def test_devpath_takes_what_is_behind(self):
        self.use(VM + f"[usb G]\ntargetVm = vm1\n[allow Port]\ndevpath = /devices/{HUB_PORT}\n")
        for path, taken in ((HUB_PORT, True), (HUB_PORT + "/1-1.2", True),
                            (HUB_PORT + "0", False)):
            device = Device(self.host, path)
            properties = device.event("add")
            self.assertEqual(b"VHOTPLUG_RULE" in properties, taken, path)
        self.host.remove_device("/devices/" + HUB_PORT)
        self.host.remove_device("/devices/" + HUB_PORT + "0")

    def test_port_is_the_root_port(self):
        self.use(VM + "[usb G]\ntargetVm = vm1\n[allow Port]\nport = 1\nbus = 1\n")
        for path, taken in (("1-1", True), ("1-1.3", True), ("1-11", False), ("1-2.1", False)):
            device = Device(self.host, "platform/usb1/" + path)
            self.assertEqual(b"VHOTPLUG_RULE" in device.event("add"), taken, path)
            self.remove(device)

    def test_every_rule_of_a_long_list_is_reached(self):
        """Long lists are guarded by lines that say whether any of the next rules can match."""
        fields = [lambda n: f"vendorId = {n + 0x100:04x}", lambda n: f"portPath = 1-{n + 1}",
                  lambda n: f"productName = .*thing {n}$", lambda n: f"serial = S{n}",
                  lambda n: f"vendorId = aaaa\nproductId = {n:04x}"]
        for verb in ("allow", "deny"):
            config = VM + "[usb G]\ntargetVm = vm1\n"
            config += "".join(f"[{verb} R{n}]\n{fields[n % 5](n)}\n" for n in range(150))
            config += "[allow Rest]\nmatchAll = yes\n"
            self.use(config)
            for n in range(150):
                facts = {"vendor": f"{n + 0x100:04x}" if n % 5 == 0 else
                                   "aaaa" if n % 5 == 4 else "bbbb",
                         "product": f"{n:04x}" if n % 5 == 4 else "ffff",
                         "manufacturer": "Maker"}
                device = Device(self.host, f"platform/x/1-{n + 1 if n % 5 == 1 else 999}",
                                facts["vendor"], facts["product"])
                with open("/sys" + device.path + "/serial", "w") as file:
                    file.write(f"S{n if n % 5 == 3 else 999}\n")
                properties = self.host.event(
                    "add", device.path, "usb", DEVTYPE="usb_device",
                    ID_MODEL_FROM_DATABASE=f"Some thing {n if n % 5 == 2 else 999}")
                if verb == "allow":
                    self.check_claimed(properties, f"usb/G/R{n}")
                else:
                    self.check_free(properties)
                self.host.remove_device(device.path)
            other = Device(self.host, "platform/x/1-998", "bbbb", "ffff")
            self.check_claimed(other.event("add"), "usb/G/Rest")
            self.host.remove_device(other.path)

    def test_explain_asks_the_program_too(self):
        config = VM + ("[usb G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n"
                       "[deny D]\nproductName = .*phone\\b\n")
        self.use(config)
        for product, denied in (("my phone", True), ("my phones", False)):
            device = Device(self.host, HUB_PORT, "fff0", "0001")
            with open("/sys" + device.path + "/product", "w") as file:
                file.write(product.replace(" ", "-") + "\n")
            properties = device.event("add")
            self.assertEqual(b"VHOTPLUG_RULE" in properties, not denied)
            said = self.explain(config, device.path)
            self.assertIn("[deny D] (line 9) " + ("matches" if denied else "does not match"), said)
            self.remove(device)

    def test_explain_words_that_steer_a_terminal(self):
        config = VM + "[usb G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n[deny D]\nproductName = x.*\n"
        self.use(config)
        device = Device(self.host, HUB_PORT, "fff0", "0002")
        with open("/sys" + device.path + "/product", "wb") as file:
            file.write("\033[31mred\033]0;title\007\u202eturned\u009b1m".encode() + b"\xff\xfe\n")
        device.event("add")
        said = self.explain(config, device.path)
        self.assertIn("red", said)
        self.assertTrue(all(c.isprintable() for c in said.replace("\n", "")), repr(said))
        self.remove(device)

    def explain(self, config, name, status=0):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(config)
            file.flush()
            done = subprocess.run([GEN_RULES, "-c", file.name, "--explain", name], text=True,
                                  env={"SYSTEMD_DEVICE_VERIFY_SYSFS": "0"}, capture_output=True,
                                  check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout

    def answer(self, uuid):
        """udevd tells of an event that was asked for. It is one of a device that nobody finds, so that udevd knows
        of the others what it knew before."""
        path = self.host.add_device("platform/answer", "usb")
        os.unlink("/sys/bus/usb/devices/answer")
        self.host.send("add", path, "usb", SYNTH_UUID=uuid)

    def applied(self, config, devices, lost=False):
        """Which of DEVICES the kernel is asked for events of when CONFIG is applied. LOST: udevd never tells of them."""
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(config)
            file.flush()
            return self.asked_by([GEN_RULES, "-c", file.name], devices, lost)

    def asked_by(self, command, devices, lost=False):
        """Which of DEVICES COMMAND asks the kernel for events of."""
        files = {path: pathlib.Path(f"/sys{path}/uevent") for path in devices}
        texts, asked = {path: file.read_text() for path, file in files.items()}, set()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL,
                                   env={**os.environ, "SYSTEMD_DEVICE_VERIFY_SYSFS": "0"})
        running = True
        while running:
            running = process.poll() is None
            for path in devices:
                action, _, uuid = files[path].read_text().partition(" ")
                if action == "add" and len(uuid) >= UUID_LENGTH and path not in asked:
                    asked.add(path)
                    if not lost:
                        self.answer(uuid[:UUID_LENGTH])
            time.sleep(0.005)
        self.assertEqual(process.returncode, 0)
        for path, text in texts.items():
            files[path].write_text(text)
        return asked

    def test_applying_asks_only_whose_answer_can_change(self):
        self.use(VM)
        keyboard = Device(self.host, HUB_PORT)
        interface = keyboard.child("1-1:1.0", "usb", "usb_interface", {}, {"MODALIAS": "usb:x"})
        disk = Device(self.host, HUB_PORT[:-1] + "2", interfaces=((8, 6, 80),))
        below_disk = disk.child("1-2:1.0", "usb", "usb_interface", {}, {"MODALIAS": "usb:y"})
        hub = Device(self.host, HUB_PORT[:-1] + "3", interfaces=((9, 0, 0),), device_class=(9, 0, 0))
        lid = self.host.add_device("platform/lid/input/input9/event9", "input", None,
                                   {"device/name": b"Lid\n"})
        self.host.write_rules(b'SUBSYSTEM=="input", ENV{SEAT}="0"\n', "50-others.rules")
        self.host.reload()
        usb = (keyboard, disk, hub)
        everything = [device.path for device in usb] + [interface, below_disk, lid]
        # What udev has not seen yet may be anything.
        self.assertEqual(self.applied(VM, everything, lost=True), set(everything))
        for device in usb:
            device.event("add")
        for path in (interface, below_disk):
            self.interface_event(path)
        self.host.event("add", lid, "input")
        self.assertEqual(self.applied(VM, everything), set())
        self.assertEqual(self.applied(KEYBOARDS, everything), {keyboard.path, interface})
        keyboard.event("add")
        self.interface_event(interface)
        for config in (KEYBOARDS, VM):
            self.assertEqual(self.applied(config, everything), {keyboard.path, interface})
        keyboard.event("add")
        self.interface_event(interface)
        self.assertEqual(self.applied(VM, everything), set())
        # Not below it: the host has never been kept away.
        config = KEYBOARDS.replace("targetVm = vm1", "targetVm = vm1\nfence = no")
        self.assertEqual(self.applied(config, everything), {keyboard.path})
        # What another rule of the system will say of a property can't be known.
        config = VM + "[evdev G]\ntargetVm = vm1\n[allow A]\nproperty = SEAT\nvalue = 1\n"
        self.assertEqual(self.applied(config, everything), {lid})
        for device in usb:
            self.host.remove_device(device.path)
        self.host.remove_device(lid)
        os.unlink("/etc/udev/rules.d/50-others.rules")

    def test_explain_by_every_name(self):
        config = KEYBOARDS + "[deny Boot]\ninterfaceProtocol = 2\n"
        self.use(config)
        device = Device(self.host, HUB_PORT)
        device.event("add")
        by_path = self.explain(config, device.path)
        self.assertEqual(by_path.splitlines(), [
            device.path + " (usb)",
            "  [usb Input] (line 5)",
            "    [allow Keyboards] (line 7) matches",
            '      yes interfaceClass = 03; it has: interfaces ":030101:"',
            "    [deny Boot] (line 9) does not match",
            '      no  interfaceProtocol = 02; it has: interfaces ":030101:"',
            "Decision: [allow Keyboards] of [usb Input] gives it to vm1.",
            "udev's database has: usb/Input/Keyboards"])
        for name in ("/sys" + device.path, "1:5", "001:005", "046d:c52b"):
            self.assertEqual(self.explain(config, name), by_path, name)
        for name in ("1:6", "046d:c52c", "0000:00:99.0", "/sys/devices/nowhere", "nonsense"):
            self.assertEqual(self.explain(config, name, status=1), "")
        self.remove(device)

    def test_explain_what_is_never_taken(self):
        config = VM + "[usb G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n"
        self.use(config)
        hub = Device(self.host, HUB_PORT, device_class=(9, 0, 1), interfaces=((9, 0, 0),))
        hub.event("add")
        said = self.explain(config, hub.path)
        self.assertIn("hubs stay with the host", said)
        self.assertIn("Decision: it stays with the host.", said)
        self.remove(hub)

    def test_udevadm_verify_where_there_is_one(self):
        """Debian 12 has none; then only our own checker has looked, and udevd's log in use()."""
        self.use(KEYBOARDS)
        known = subprocess.run(["udevadm", "verify", "--help"], capture_output=True, check=False)
        if known.returncode == 0:
            subprocess.run(["udevadm", "verify", "/etc/udev/rules.d/66-vhotplug.rules"], check=True)

    # ---- changes of the config ---------------------------------------------------------------

    def test_udevd_that_hangs_up(self):
        """Now and then udevadm is refused once, and nothing is lost by that; always: it is said once."""
        refused, real = "echo Broken pipe >&2; exit 1", shutil.which("udevadm")
        with tempfile.TemporaryDirectory() as folder, tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
            config.write(KEYBOARDS)
            config.flush()
            environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
            for line, status in ((f'[ -e {folder}/asked ] && exec {real} "$@"; >{folder}/asked; {refused}', 0),
                                 (refused, 1)):
                udevadm = pathlib.Path(folder, "udevadm")
                udevadm.write_text(f"#!/bin/sh\n{line}\n", encoding="ascii")
                udevadm.chmod(0o755)
                done = subprocess.run([GEN_RULES, "-c", config.name], text=True, capture_output=True, check=False,
                                      env=environment)
                self.assertEqual(done.returncode, status, done.stderr)
                for words in ("Broken pipe", "not in force"):
                    self.assertEqual(done.stderr.count(words), status, done.stderr)

    def test_the_broker_hears_of_a_config_that_one_device_does_not_take(self):
        self.use(VM)
        device = Device(self.host, HUB_PORT)
        # The event can't be asked for: it is no file of the device's own.
        uevent = pathlib.Path(f"/sys{device.path}/uevent")
        uevent.rename("/sys/elsewhere")
        uevent.symlink_to("/sys/elsewhere")
        os.unlink(BROKER)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as broker, \
                tempfile.NamedTemporaryFile("w", suffix=".conf") as config:
            broker.bind(BROKER)
            broker.listen()
            broker.settimeout(60)
            config.write(KEYBOARDS)
            config.flush()
            with subprocess.Popen([GEN_RULES, "-c", config.name], text=True, stderr=subprocess.PIPE,
                                  env={**os.environ, "SYSTEMD_DEVICE_VERIFY_SYSFS": "0"}) as process:
                client = broker.accept()[0]
                self.assertIn(b"ACTION=reconcile", client.recv(1000))
                client.send(TAKEN)
                self.assertIn("not in force for every device", process.communicate()[1])
            self.assertEqual(process.returncode, 1)
            client.close()
        os.unlink(BROKER)
        self.remove(device)

    def test_withdrawn_rule(self):
        self.use(KEYBOARDS)
        device = Device(self.host, HUB_PORT)
        interface = device.child("1-1:1.0", "usb", "usb_interface", {}, {"MODALIAS": "usb:x"})
        self.check_claimed(device.event("add"))
        self.check_fenced(self.interface_event(interface))
        self.use(VM)
        self.check_free(device.event("add"))
        database = "/run/udev/data/+usb:1-1"
        with open(database) as file:
            self.assertNotIn("VHOTPLUG", file.read())
        self.check_not_fenced(self.interface_event(interface))
        self.host.helper_runs()
        self.remove(device)
        self.assertEqual(self.host.helper_runs(), [])

    def test_withdrawn_rule_with_other_rules_left(self):
        """The same, but now the file has rules, which must not find the old decision."""
        other = VM + "[usb G]\ntargetVm = vm2\n[allow X]\nvendorId = ffff\n"
        self.use(KEYBOARDS)
        device = Device(self.host, HUB_PORT)
        interface = device.child("1-1:1.0", "usb", "usb_interface", {}, {"MODALIAS": "usb:x"})
        self.check_claimed(device.event("add"))
        self.use(other)
        self.check_claimed(device.event("change"))
        self.check_free(device.event("add"))
        self.check_free(device.event("change"))
        self.check_not_fenced(self.interface_event(interface))
        self.remove(device)

    def test_device_moves_to_another_vm(self):
        self.use(KEYBOARDS)
        device = Device(self.host, HUB_PORT)
        before = device.event("add")
        self.use(KEYBOARDS.replace("targetVm = vm1", "targetVm = vm2"))
        after = device.event("add")
        self.check_claimed(after, vm="vm2")
        self.assertNotEqual(before[b"VHOTPLUG_CONFIG"], after[b"VHOTPLUG_CONFIG"])
        self.remove(device)

    def test_rules_without_the_helper_do_nothing(self):
        """An initramfs has a copy of the rules, but not the helper."""
        self.use(KEYBOARDS)
        os.rename(LIBEXECDIR + "/vhotplug-helper", LIBEXECDIR + "/away")
        device = Device(self.host, HUB_PORT)
        self.check_free(device.event("add"))
        os.rename(LIBEXECDIR + "/away", LIBEXECDIR + "/vhotplug-helper")
        self.remove(device)

    # ---- the fence ---------------------------------------------------------------------------

    def interface_event(self, interface, action="add"):
        return self.host.event(action, interface, "usb", DEVTYPE="usb_interface",
                               MODALIAS="usb:v046D")

    def check_fenced(self, properties):
        self.assertEqual(properties.get(b"VHOTPLUG_FENCED"), b"1")

    def check_not_fenced(self, properties):
        self.assertNotIn(b"VHOTPLUG_FENCED", properties)

    def test_fence_reaches_children_and_grandchildren(self):
        self.use(KEYBOARDS)
        device = Device(self.host, HUB_PORT)
        interface = device.child("1-1:1.0", "usb", "usb_interface", {}, {"MODALIAS": "usb:x"})
        device.event("add")
        for action in ("add", "bind", "change"):
            self.check_fenced(self.interface_event(interface, action))
        expected = {
            "block": {b"UDISKS_IGNORE": b"1", b"SYSTEMD_READY": b"0",
                      b"DM_UDEV_DISABLE_OTHER_RULES_FLAG": b"1"},
            "tty": {b"ID_MM_PORT_IGNORE": b"1", b"ID_MM_DEVICE_IGNORE": b"1"},
            "net": {b"NM_UNMANAGED": b"1", b"ID_MM_DEVICE_IGNORE": b"1"},
            "input": {b"LIBINPUT_IGNORE_DEVICE": b"1"},
            "sound": {b"PULSE_IGNORE": b"1", b"ACP_IGNORE": b"1"},
            "scsi": {}, "hid": {},
        }
        for subsystem, wanted in expected.items():
            # udevd would lock a disk; the nodes of these are made up.
            name = "drbd0" if subsystem == "block" else subsystem + "0"
            child = device.child("1-1:1.0/a/b/" + name, subsystem)
            for action in ("add", "change"):
                found = self.host.event(action, child, subsystem, MODALIAS="x:y")
                self.assertEqual(found.get(b"VHOTPLUG_FENCED"), b"1", (subsystem, action, found))
                self.check_fenced(found)
                for key, value in wanted.items():
                    self.assertEqual(found.get(key), value, (subsystem, key))
        self.host.remove_device(device.path)
        device.event("remove")

    # ---- disks -------------------------------------------------------------------------------

    def disk(self, name="drbd7"):
        """A claimed stick with its disk, the devices above the disk, and its events."""
        self.use(KEYBOARDS.replace("interfaceClass = 3", "interfaceClass = 8"))
        stick = Device(self.host, HUB_PORT, interfaces=((8, 6, 80),))
        self.check_claimed(stick.event("add"))
        stick.child("1-1:1.0", "usb", "usb_interface", {"bInterfaceClass": b"08\n",
                                                          "authorized": b"1\n"})
        stick.child("1-1:1.0/host0", "scsi", "scsi_host")
        stick.child("1-1:1.0/host0/target0:0:0/0:0:0:0", "scsi", "scsi_device")
        node = stick.child("1-1:1.0/host0/target0:0:0/0:0:0:0/block/" + name, "block", "disk")
        return stick, node

    def disk_event(self, node, action, **properties):
        return self.host.event(action, node, "block", DEVTYPE="disk", **properties)

    def check_ready(self, properties, ready):
        self.assertEqual(properties.get(b"SYSTEMD_READY"), None if ready else b"0")
        self.assertEqual(properties.get(b"UDISKS_IGNORE"), None if ready else b"1")

    def forget(self, device):
        self.host.remove_device(device.path)
        device.event("remove")
        for name in os.listdir("/run/udev/data"):
            os.unlink("/run/udev/data/" + name)

    def test_a_disk_that_comes_later_is_fenced(self):
        stick, node = self.disk()
        for action in ("add", "change", "add"):
            self.check_ready(self.disk_event(node, action), False)
        # Made-up events, and the broker's death, change nothing of that.
        os.unlink(BROKER)
        self.check_ready(self.disk_event(node, "add", SYNTH_UUID="0"), False)
        self.check_ready(self.disk_event(node, "change"), False)
        self.forget(stick)

    def test_a_disk_that_was_there_is_not_fenced(self):
        """By the boot's coldplug, and when the config is applied to what is mounted."""
        stick, node = self.disk()
        for action, more in (("add", {"SYNTH_UUID": "0"}), ("change", {}), ("change", {})):
            self.check_ready(self.disk_event(node, action, **more), True)
        self.forget(stick)

    def test_a_disk_that_the_boot_brings_is_not_fenced(self):
        """Its driver is loaded by the boot's coldplug, so its own event is no made-up one."""
        os.unlink(BROKER)
        stick, node = self.disk()
        interface = os.path.dirname(node).split("/host0")[0]
        self.check_not_fenced(self.interface_event(interface))
        self.assertEqual(self.authorized(interface), "1")
        self.check_ready(self.disk_event(node, "add"), True)
        open(BROKER, "w").close()
        self.check_ready(self.disk_event(node, "change"), True)
        self.check_fenced(self.interface_event(interface))
        self.assertEqual(self.authorized(interface), "0")
        self.forget(stick)

    def test_a_keyboard_is_fenced_before_the_broker_is_there(self):
        os.unlink(BROKER)
        self.use(KEYBOARDS)
        device = Device(self.host, HUB_PORT)
        interface = device.child("1-1:1.0", "usb", "usb_interface", {"bInterfaceClass": b"03\n"})
        device.event("add")
        self.check_fenced(self.interface_event(interface))
        self.forget(device)

    def test_a_refused_disk_is_not_fenced(self):
        stick, node = self.disk()
        self.check_ready(self.disk_event(node, "add"), False)
        for other in ("1-1-6", "1-2-5", "1-11-5"):
            open("/run/vhotplug/refused/" + other, "w").close()
        self.check_ready(self.disk_event(node, "change"), False)
        open("/run/vhotplug/refused/1-1-5", "w").close()
        found = self.disk_event(node, "change")
        self.check_ready(found, True)
        self.assertNotIn(b"VHOTPLUG_FENCED", found)
        self.check_ready(self.disk_event(node, "add"), True)
        for name in os.listdir("/run/vhotplug/refused"):
            os.unlink("/run/vhotplug/refused/" + name)
        self.check_ready(self.disk_event(node, "change"), True)
        self.forget(stick)

    def test_a_disk_on_a_claimed_controller(self):
        """The root disk is on it, say: the broker refuses the controller."""
        self.use(VM + "[pci G]\ntargetVm = vm1\n[allow Any]\ndeviceClass = 1\n")
        path = self.host.add_device("pci0000:00/0000:00:1f.2", "pci", None,
                                    {"vendor": b"0x8086\n", "class": b"0x010802\n"})
        self.assertIn(b"VHOTPLUG_RULE", self.host.event("add", path, "pci", SYNTH_UUID="0"))
        node = self.host.add_device("pci0000:00/0000:00:1f.2/nvme/nvme0/drbd8", "block", "disk")
        self.check_ready(self.disk_event(node, "add", SYNTH_UUID="0"), True)
        self.check_ready(self.disk_event(node, "change"), True)
        self.host.remove_device(path)
        self.host.event("remove", path, "pci")

    def test_disks_that_the_boot_brings_on_a_claimed_controller(self):
        """The modules are loaded for what they need: a card in a slot, a stick."""
        os.unlink(BROKER)
        self.use(VM + "[pci G]\ntargetVm = vm1\n[allow Any]\nvendorId = 8086\n")
        for device_class, children in ((b"0x080501\n", (("mmc_host/mmc0/mmc0:0001", "mmc"),)),
                                       (b"0x0c0330\n", (("usb1/1-1/1-1:1.0", "usb"),
                                                       ("usb1/1-1/1-1:1.0/host0/target0:0:0/0:0:0:0", "scsi")))):
            path = self.card("0000:00:1e.0", device_class, 7)
            self.check_claimed(self.host.event("add", path, "pci"), "pci/G/Any")
            for child, subsystem in children:
                attributes = {"bInterfaceClass": b"08\n"} if subsystem == "usb" else {}
                child = self.host.add_device("pci0000:00/0000:00:1e.0/" + child, subsystem, None, attributes)
                kind = {"DEVTYPE": "usb_interface"} if subsystem == "usb" else {}
                self.check_not_fenced(self.host.event("add", child, subsystem, **kind))
            node = self.host.add_device(child[len("/devices/"):] + "/block/drbd9", "block", "disk")
            self.check_ready(self.disk_event(node, "add"), True)
            self.host.remove_device(path)
            self.host.event("remove", path, "pci")
            shutil.rmtree("/sys/kernel", ignore_errors=True)

    def authorized(self, interface, set_to=None):
        path = pathlib.Path("/sys" + interface) / "authorized"
        if set_to:
            path.write_text(set_to + "\n")
        return path.read_text().strip()

    def test_interfaces_are_shut(self):
        """At the kernel's own event, unless a VM has the device; opened when no rule claims it."""
        self.use(KEYBOARDS)
        device = Device(self.host, HUB_PORT)
        interface = device.child("1-1:1.0", "usb", "usb_interface", {"authorized": b"1\n"}, {"MODALIAS": "usb:x"})
        probe = pathlib.Path("/sys/bus/usb/drivers_probe")
        probe.write_text("")
        given = pathlib.Path("/run/vhotplug/given/1-1-5")
        given.parent.mkdir(parents=True, exist_ok=True)
        self.check_claimed(device.event("add"))
        for kind in ({"SYNTH_UUID": "0"}, {}):
            self.host.event("add", interface, "usb", DEVTYPE="usb_interface", **kind)
            self.assertEqual(self.authorized(interface), "1" if kind else "0", kind)
        given.touch()
        self.authorized(interface, "1")
        self.interface_event(interface)
        self.assertEqual(self.authorized(interface), "1", "a VM has it")
        self.host.helper_runs()
        self.interface_event(interface, "bind")
        self.assertEqual(self.host.helper_runs(), [], "the driver has lost it again")
        os.symlink("/sys/bus/usb", "/sys" + interface + "/driver")
        self.interface_event(interface, "bind")
        self.assertEqual([run[b"ACTION"] for run in self.host.helper_runs()], [b"bind"])
        given.unlink()
        self.interface_event(interface, "bind")
        self.assertEqual(self.host.helper_runs(), [])
        for config in (VM, VM + "[usb G]\ntargetVm = vm2\n[allow X]\nvendorId = ffff\n",
                       KEYBOARDS.replace("targetVm", "fence = no\ntargetVm")):
            self.use(KEYBOARDS)
            device.event("add")
            self.interface_event(interface)
            self.assertEqual(self.authorized(interface, "0"), "0")
            self.use(config)
            device.event("add")
            self.check_not_fenced(self.interface_event(interface))
            self.assertEqual((self.authorized(interface), probe.read_text().strip()), ("1", "1-1:1.0"))
            probe.write_text("")
        # What somebody else has shut stays so.
        self.authorized(interface, "0")
        self.interface_event(interface)
        self.assertEqual(self.authorized(interface), "0")
        self.remove(device)

    def test_power_keys_are_hidden_from_logind(self):
        self.use(KEYBOARDS)
        device = Device(self.host, HUB_PORT)
        device.event("add")
        capabilities = {"capabilities/key": b"10000000000000 0\n", "capabilities/ev": b"3\n",
                        "capabilities/sw": b"1\n"}
        for name in ("capabilities/abs", "capabilities/rel", "properties"):
            capabilities[name] = b"0\n"
        device.child("1-1:1.0/input/input7", "input", None, capabilities)
        node = device.child("1-1:1.0/input/input7/event7", "input")
        found = self.host.event("add", node, "input")
        self.check_fenced(found)
        self.assertEqual(found.get(b"ID_INPUT_KEY"), b"0")
        self.assertNotIn(b":power-switch:", udevd.tags(found))
        self.use(VM)
        device.event("add")
        found = self.host.event("add", node, "input")
        self.assertEqual(found.get(b"ID_INPUT_KEY"), b"1")
        if not udevd.EUDEV:  # which leaves that to others
            self.assertIn(b":power-switch:", udevd.tags(found))
        self.host.remove_device(device.path)
        device.event("remove")

    def test_fence_can_be_left_out(self):
        self.use(KEYBOARDS.replace("targetVm = vm1", "targetVm = vm1\nfence = no"))
        device = Device(self.host, HUB_PORT)
        interface = device.child("1-1:1.0", "usb", "usb_interface", {}, {"MODALIAS": "usb:x"})
        for action in ("add", "change"):
            self.check_claimed(device.event(action))
            self.check_not_fenced(self.interface_event(interface))
        self.host.remove_device(device.path)
        device.event("remove")

    def test_neighbours_are_not_fenced(self):
        self.use(KEYBOARDS)
        device = Device(self.host, HUB_PORT)
        device.event("add")
        other = Device(self.host, HUB_PORT[:-1] + "2", interfaces=((8, 6, 80),))
        interface = other.child("1-2:1.0", "usb", "usb_interface", {}, {"MODALIAS": "usb:x"})
        self.check_free(other.event("add"))
        self.check_not_fenced(self.interface_event(interface))
        self.host.remove_device(other.path)
        self.host.remove_device(device.path)


if __name__ == "__main__":
    udevd.enter_namespaces()
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
