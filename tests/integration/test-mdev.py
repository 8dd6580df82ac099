"""vhotplug-mdev over a made-up /sys without udevd: what it decides, where libudev finds that, and what it
tells the broker.

    test-mdev.py VHOTPLUG_MDEV LIBEXECDIR MATCHER"""

import os
import subprocess
import sys
import tempfile
import unittest

import udevd

MDEV, LIBEXECDIR, MATCHER = sys.argv[1:4]
PORT = "pci0000:00/0000:00:14.0/usb1/1-"
VM = "[vm vm1]\nsocket = /run/vm1.sock\n[vm vm2]\nsocket = /run/vm2.sock\n"
KEYBOARDS = VM + "[usb Input]\ntargetVm = vm1\n[allow Keyboards]\ninterfaceClass = 3\n"
SPOOL = "/run/vhotplug/spool"


class MdevTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.host = udevd.Udevd(LIBEXECDIR, base_rules=[])
        cls.host.install_program("vhotplug-match", MATCHER)
        cls.seqnum = 100

    def setUp(self):
        self.config("")
        self.devices = []

    def tearDown(self):
        for path in self.devices:
            self.host.remove_device(path)
        self.spooled()

    def config(self, text):
        self.text = text

    def run_it(self, *arguments, status=0, **environment):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(self.text)
            file.flush()
            done = subprocess.run([MDEV, "-c", file.name, *arguments], env=environment, text=True,
                                  capture_output=True, check=False)
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stderr

    def usb(self, port=1, interfaces=((3, 1, 1),), device_class=(0, 0, 0), **attributes):
        files = {"idVendor": "046d", "idProduct": "c52b", "busnum": "1", "devnum": str(port),
                 "bDeviceClass": f"{device_class[0]:02x}", **attributes}
        files = {key: value.encode() + b"\n" for key, value in files.items()}
        files["descriptors"] = udevd.descriptors(device_class, interfaces)
        uevent = {"MAJOR": 189, "MINOR": port, "DEVNAME": f"bus/usb/001/{port:03}",
                  "PRODUCT": "46d/c52b/100", "BUSNUM": "001", "DEVNUM": f"{port:03}"}
        self.devices.append(self.host.add_device(f"{PORT}{port}", "usb", "usb_device", files, uevent))
        return self.devices[-1]

    def event(self, action, path, subsystem="usb", devtype="usb_device", **more):
        MdevTest.seqnum += 1
        return self.run_it(ACTION=action, DEVPATH=path, SUBSYSTEM=subsystem, DEVTYPE=devtype,
                           SEQNUM=str(self.seqnum), **more)

    def spooled(self):
        """The messages for the broker since the last call."""
        found = []
        for name in sorted(os.listdir(SPOOL)) if os.path.isdir(SPOOL) else []:
            with open(f"{SPOOL}/{name}", "rb") as file:
                fields = file.read().decode().split("\0")
            found.append(dict(field.split("=", 1) for field in fields if field))
            os.unlink(f"{SPOOL}/{name}")
        return found

    def properties(self, path):
        """What libudev says."""
        done = subprocess.run(["udevadm", "info", "-q", "property", "-p", path], text=True, check=True,
                              capture_output=True, env={**os.environ, "SYSTEMD_DEVICE_VERIFY_SYSFS": "0"})
        return dict(line.split("=", 1) for line in done.stdout.splitlines())

    def test_a_life_from_plug_to_unplug(self):
        self.config(KEYBOARDS)
        path = self.usb(product=' USB "Rec|eiver;  x ', serial="AB 12")
        self.event("add", path)
        said, = self.spooled()
        self.assertEqual((said["ACTION"], said["DEVPATH"], said["DEVNAME"], said["VHOTPLUG_RULE"],
                          said["VHOTPLUG_VM"], said["VHOTPLUG_FENCE"], said["ID_MODEL"]),
                         ("add", path, "/dev/bus/usb/001/001", "usb/Input/Keyboards", "vm1", "yes",
                          "USB__Rec_eiver__x"))
        known = self.properties(path)
        for name in ("VHOTPLUG_RULE", "VHOTPLUG_VM", "VHOTPLUG_CONFIG", "ID_MODEL", "ID_USB_INTERFACES"):
            self.assertEqual(known[name], said[name])
        self.assertEqual(known["ID_SERIAL_SHORT"], "AB_12")
        self.assertEqual(known["CURRENT_TAGS"], ":vhotplug:")
        self.assertIn("USEC_INITIALIZED", known)
        self.assertEqual(os.listdir("/run/udev/tags/vhotplug"), ["c189:1"])
        self.host.remove_device(self.devices.pop())
        self.event("remove", path, MAJOR="189", MINOR="1")
        said, = self.spooled()
        self.assertEqual((said["ACTION"], said["DEVPATH"], said["SYSFS_INODE"]), ("remove", path, "0"))
        self.assertEqual(os.listdir("/run/udev/tags/vhotplug"), [])
        self.assertEqual(os.listdir("/run/udev/data"), [])

    def test_names_as_udev_makes_them(self):
        """What a rule matches is to be the same with and without udev: systemd's usb_id."""
        self.config(KEYBOARDS)
        names = [("Microsoft\u00ae Nano  Tr", "Microsoft\u00ae_Nano_Tr"), ("\u65e5\u672c \x0b x", "\u65e5\u672c_x"),
                 ("a\\x41\\y", "a\\x41_y"), ("y" * 62 + " zz", "y" * 62), ("\u65e5" * 126, "\u65e5" * 21),
                 ("\ufffe!", "____"), (None, "c52b")]
        for port, (name, expected) in enumerate(names, 1):
            path = self.usb(port, **({"product": name} if name else {}))
            self.event("add", path)
            self.assertEqual(self.properties(path)["ID_MODEL"], expected, name)
        self.assertEqual(self.properties(path)["ID_VENDOR"], "046d")
        self.assertNotIn("ID_SERIAL_SHORT", self.properties(path))
        for port, (serial, expected) in enumerate((("S" * 126, "S" * 126), ("A\x7fB", "A_B"), ("A,B", None),
                                                   ("A\u00e9", None)), 20):
            path = self.usb(port, serial=serial)
            self.event("add", path)
            self.assertEqual(self.properties(path).get("ID_SERIAL_SHORT"), expected, serial)

    @unittest.skipIf(udevd.EUDEV, "it is systemd's that is followed")
    def test_udev_makes_the_same_names(self):
        """systemd's own usb_id of the same attributes, whatever bytes the device puts there."""
        self.config(KEYBOARDS)
        for port, text in enumerate(("Foo\nKeyboard", "A\n", "A\n\r\n\n", "A\r\nB ", "\nA", "\x0bA", " \x0c\x0b A\x0bB", "\n", " ", "A\t",
                                     "A\x01B", "A\nB\x7f", "\x0b", "A \n", "a\\x41\n\\y", "\u00e9\n\u00e9", "S" * 126 + "\n1"), 1):
            path = self.usb(port, product=text, manufacturer=text, serial=text)
            self.event("add", path)
            done = subprocess.run(["udevadm", "test-builtin", "usb_id", "/sys" + path], capture_output=True, text=True,
                                  check=True, env={**os.environ, "SYSTEMD_DEVICE_VERIFY_SYSFS": "0"})
            theirs = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
            ours = self.properties(path)
            for name in ("ID_VENDOR", "ID_MODEL", "ID_SERIAL_SHORT"):
                self.assertEqual(ours.get(name, ""), theirs.get(name, ""), (name, text))

    def test_a_deny_by_a_name_of_two_lines(self):
        self.config(KEYBOARDS + "[deny D]\nproductName = .*keyboard\n")
        self.event("add", self.usb(product="Foo\nKeyboard"))
        self.assertEqual(self.spooled(), [])

    def test_a_serial_number_that_cannot_be_read(self):
        """It may be the one that is denied."""
        self.config(KEYBOARDS + "[deny D]\nserial = X1\n")
        path = self.usb()
        os.mkdir(f"/sys{path}/serial")
        self.assertIn("Is a directory", self.event("add", path, status=1))
        self.assertEqual(self.spooled(), [])

    def test_a_deny_by_a_name_beyond_ascii(self):
        self.config(KEYBOARDS + "[deny D]\nproductName = Microsoft\u00ae\n")
        self.event("add", self.usb(product="Microsoft\u00ae Nano"))
        self.assertEqual(self.spooled(), [])

    def test_a_long_serial_number_is_whole(self):
        self.config(KEYBOARDS + f"[deny D]\nserial = {'S' * 80}1\n")
        for port, end in ((1, "1"), (2, "2")):
            self.event("add", self.usb(port, serial="S" * 80 + end))
        self.assertEqual([said["DEVNAME"] for said in self.spooled()], ["/dev/bus/usb/001/002"])

    def test_who_is_not_taken(self):
        self.config(VM + "[usb G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n[deny D]\nserial = X1\n")
        for path in (self.usb(1, interfaces=((9, 0, 0),), device_class=(9, 0, 0)), self.usb(2, serial="X1"),
                     self.host.add_device(f"{PORT}2/1-2:1.0", "usb", "usb_interface")):
            self.event("add", path)
            self.assertNotIn("VHOTPLUG_RULE", self.properties(path))
        self.assertEqual(self.spooled(), [])
        self.event("change", self.usb(3))
        self.assertEqual(self.spooled(), [])

    def test_other_kinds(self):
        self.config(VM + "[pci Cards]\ntargetVm = vm2\nforce = yes\n[allow C]\nvendorId = 10ec\n"
                         "[evdev Lids]\nallowedVms = vm2, vm1\n[allow L]\nname = (?=lid).*switch\n")
        card = self.host.add_device("pci0000:00/0000:00:05.0", "pci", None,
                                    {"vendor": b"0x10ec\n", "class": b"0x020000\n"},
                                    {"PCI_SLOT_NAME": "0000:00:05.0"})
        lid = self.host.add_device("platform/l/input/input1/event1", "input", None,
                                   {"device/name": b"Lid Switch\n"},
                                   {"MAJOR": 13, "MINOR": 65, "DEVNAME": "input/event1"})
        self.devices += [card, lid]
        self.event("add", card, "pci", "")
        self.event("add", lid, "input", "")
        first, second = self.spooled()
        self.assertEqual((first["VHOTPLUG_RULE"], first["VHOTPLUG_OPTIONS"]), ("pci/Cards/C", "force,order=0"))
        self.assertEqual((second["VHOTPLUG_RULE"], second["VHOTPLUG_VM"]), ("evdev/Lids/L", "vm2,vm1"))
        self.assertEqual(self.properties(card)["VHOTPLUG_VM"], "vm2")
        self.assertEqual(self.properties(lid)["VHOTPLUG_VM"], "vm2,vm1")

    def test_what_only_udev_knows(self):
        """A deny that can't be judged would be no deny: such a group takes nothing."""
        self.config(VM + "[evdev G]\ntargetVm = vm1\n[allow A]\nmatchAll = yes\n"
                         "[deny D]\nproperty = SEAT\nvalue = 1\n"
                         "[evdev H]\ntargetVm = vm2\n[allow A]\nname = .*\n")
        lid = self.host.add_device("platform/l/input/input1/event1", "input", None,
                                   {"device/name": b"Lid\n"}, {"MAJOR": 13, "MINOR": 65})
        self.devices.append(lid)
        self.event("add", lid, "input", "")
        self.assertEqual([said["VHOTPLUG_RULE"] for said in self.spooled()], ["evdev/H/A"])

    def test_all_that_is_there(self):
        first, second = self.usb(1), self.usb(2, interfaces=((8, 6, 80),))
        self.config(KEYBOARDS)
        self.run_it("--all")
        self.assertEqual(self.properties(first)["VHOTPLUG_VM"], "vm1")
        self.assertNotIn("VHOTPLUG_VM", self.properties(second))
        self.config(KEYBOARDS.replace("interfaceClass = 3", "interfaceClass = 8"))
        self.run_it("--all")
        self.assertNotIn("VHOTPLUG_VM", self.properties(first))
        self.assertEqual(self.properties(second)["VHOTPLUG_VM"], "vm1")
        self.assertEqual(os.listdir("/run/udev/tags/vhotplug"), ["c189:2"])

    def test_a_plug_that_has_no_room_in_run(self):
        """The broker has it all the same, and who looks at mdev's words knows that it is kept nowhere."""
        self.config(KEYBOARDS)
        os.makedirs("/run/udev", exist_ok=True)
        udevd.mount("-t", "tmpfs", "-o", "nr_inodes=2", "tmpfs", "/run/udev")
        try:
            for port, interface, taken in ((1, (3, 1, 1), ["vm1"]), (2, (8, 6, 80), [])):
                said = self.event("add", self.usb(port, interfaces=(interface,)), status=1)
                self.assertIn("is not kept in /run/udev: No space left on device", said)
                self.assertEqual([event["VHOTPLUG_VM"] for event in self.spooled()], taken)
            self.assertIn("No space left on device", self.run_it("--all", status=1))
        finally:
            subprocess.run(["umount", "/run/udev"], check=True)

    def test_where_udevd_runs(self):
        os.makedirs("/run/udev", exist_ok=True)
        with open("/run/udev/control", "w", encoding="ascii"):
            pass
        self.assertIn("udevd runs here", self.run_it("--all", status=1))
        os.unlink("/run/udev/control")

    def test_unplugged_while_the_config_has_a_mistake(self):
        self.config(KEYBOARDS)
        path = self.usb()
        self.event("add", path)
        self.config("[nonsense]\n")
        self.host.remove_device(self.devices.pop())
        self.event("remove", path, MAJOR="189", MINOR="1")
        self.assertEqual([said["ACTION"] for said in self.spooled()], ["add", "remove"])
        self.assertNotIn("c189:1", os.listdir("/run/udev/data"))

    def test_mistakes(self):
        self.config("[nonsense]\n")
        self.assertIn(":1: ", self.run_it("--all", status=1))
        self.config("")
        self.assertIn("no event", self.run_it(status=1))
        self.run_it("--nonsense", status=2)


if __name__ == "__main__":
    udevd.enter_namespaces()
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
