"""A claimed device starts nothing that others' rules would start for it: rules of ours with the
effect of usbmuxd's, usb_modeswitch's, libgphoto2's, libmtp's, ipp-usb's and so on, and, where the
packages can be fetched, their own. The same device unclaimed starts them all.

    test-late.py GEN_RULES MATCHER LIBEXECDIR"""

import glob
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import udevd

GEN_RULES, MATCHER, LIBEXECDIR = sys.argv[1:4]
TOP = pathlib.Path(__file__).resolve().parents[2]
LATE = TOP / "rules.d/99-vhotplug-late.rules.in"
PACKAGES = ["usbmuxd", "ipp-usb", "usb-modeswitch", "usb-modeswitch-data", "libmtp-common",
            "libgphoto2-6", "brltty", "libccid", "modemmanager", "fwupd", "bolt"]
FETCHED = "VHP_TEST_FETCHED"
STARTED = "/run/started"
PORT = "pci0000:00/0000:00:14.0/usb1/1-1"
NODE = {"MAJOR": "189", "MINOR": "4", "DEVNAME": "bus/usb/001/005"}
CONFIG = ("[vm vm1]\nsocket = /run/vm1.sock\n[usb G]\ntargetVm = vm1\n{}[allow All]\n"
          "matchAll = yes\n[pci P]\ntargetVm = vm1\n{}[allow All]\nmatchAll = yes\n")

# File, what it is for, and what it does: %s is a program that notes that it was started.
USB = 'SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device", '
OTHERS = {
    "39-muxer.rules": USB + 'TAG+="systemd", ENV{SYSTEMD_WANTS}="muxer.service", OWNER="nobody"\n',
    "40-switch.rules": 'SUBSYSTEM=="usb", ACTION=="add", RUN+="%s switch"\n',
    "60-camera.rules": USB + 'ENV{ID_GPHOTO2}="1", ENV{GPHOTO2_DRIVER}="PTP", GROUP="disk"\n',
    "69-player.rules": USB + 'ENV{MTP_NO_PROBE}!="1", PROGRAM=="%s probe", ENV{ID_MTP_DEVICE}="1"\n',
    "70-desk.rules": USB + 'TAG+="uaccess", TAG+="seat", ENV{ID_SMARTCARD_READER}="1"\n',
    "71-printer.rules": USB + 'TAG+="systemd", ENV{SYSTEMD_WANTS}+="printer.service"\n',
    "80-modem.rules": 'SUBSYSTEM=="tty|usb", ENV{ID_MM_CANDIDATE}="1"\n',
    "85-braille.rules": 'SUBSYSTEM=="usb|tty", ACTION=="add", RUN+="%s braille", '
                        'ENV{SYSTEMD_WANTS}+="braille.service"\n',
    "90-bolts.rules": 'SUBSYSTEM=="thunderbolt", TAG+="systemd", ENV{SYSTEMD_WANTS}+="b.service"\n',
    "92-cards.rules": USB + 'ACTION=="add|bind", RUN+="%s cards"\n',
}
PROGRAMS = {"switch", "probe", "braille", "cards"}
ASKED = [b"SYSTEMD_WANTS", b"ID_GPHOTO2", b"GPHOTO2_DRIVER", b"ID_MTP_DEVICE", b"ID_MM_CANDIDATE",
         b"ID_SMARTCARD_READER"]


def fetch_packages():
    """The packages' own rules, before there is no network any more; they stay for the next time."""
    directory = str(pathlib.Path("late-packages").resolve())
    subprocess.run([TOP / "tests/host/others", directory, *PACKAGES], check=False)  # the test looks
    return directory


def replace_programs():
    """/usr/lib/udev with programs that only note that they were started."""
    directory = tempfile.mkdtemp(prefix="vhp-udev-")
    shutil.copytree("/usr/lib/udev", directory, dirs_exist_ok=True)
    for name in ("usb_modeswitch", "mtp-probe"):
        path = os.path.join(directory, name)
        with open(path, "w") as file:
            file.write(f"#!/bin/sh\necho >{STARTED}/{name}; echo 1\n")
        os.chmod(path, 0o755)
    udevd.mount("--bind", directory, "/usr/lib/udev")


class LateTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        replace_programs()
        cls.host = udevd.Udevd(LIBEXECDIR)
        cls.host.install_program("vhotplug-match", MATCHER)
        cls.host.install_program("other", f"#!/bin/sh\necho >{STARTED}/$1\n")
        cls.host.write_rules(LATE.read_text().replace("@VHOTPLUG_LIBEXECDIR@", LIBEXECDIR).encode(),
                             "99-vhotplug-late.rules")
        cls.host.start()

    def setUp(self):
        os.makedirs(STARTED, exist_ok=True)
        os.makedirs("/run/vhotplug", exist_ok=True)
        open("/run/vhotplug/event.sock", "w").close()
        self.started()
        self.host.helper_runs()

    def use(self, others, *options):
        for path in glob.glob("/etc/udev/rules.d/*"):
            if "vhotplug" not in path:
                os.unlink(path)
        for name, text in others.items():
            self.host.write_rules(text.encode(), name)
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(CONFIG.format(*(options or ("", ""))))
            file.flush()
            self.host.write_rules(subprocess.run([GEN_RULES, "-c", file.name, "-o", "-"],
                                                 check=True, stdout=subprocess.PIPE).stdout)
        self.host.reload()
        self.assertNotIn("99-vhotplug-late", self.host.log_text())

    def started(self):
        names = set(os.listdir(STARTED))
        for name in names:
            os.unlink(f"{STARTED}/{name}")
        return names

    def usb(self, vendor, product, interfaces, port=PORT):
        files = {"idVendor": vendor, "idProduct": product, "busnum": "1", "devnum": "5",
                 "bDeviceClass": "00", "bDeviceSubClass": "00", "bDeviceProtocol": "00"}
        attributes = {key: value.encode() + b"\n" for key, value in files.items()}
        attributes["descriptors"] = udevd.descriptors((0, 0, 0), interfaces)
        path = self.host.add_device(port, "usb", "usb_device", attributes, NODE)
        self.product = f"{int(vendor, 16):x}/{int(product, 16):x}/100"
        return path

    def event(self, action, path):
        return self.host.event(action, path, "usb", DEVTYPE="usb_device", PRODUCT=self.product,
                               BUSNUM="001", DEVNUM="005", **NODE)

    def own_rules(self):
        return {name: text.replace("%s", LIBEXECDIR + "/other") for name, text in OTHERS.items()}

    # ---- rules of ours -----------------------------------------------------------------------

    def test_nothing_is_started_for_a_claimed_device(self):
        self.use(self.own_rules())
        path = self.usb("1234", "0001", ((6, 1, 1),))
        for action in ("add", "bind", "change"):
            found = self.event(action, path)
            self.assertEqual(found[b"VHOTPLUG_RULE"], b"usb/G/All")
            self.assertEqual([key for key in ASKED if found.get(key)], [], action)
            for tag in (b":uaccess:", b":seat:"):
                self.assertNotIn(tag, udevd.tags(found), action)
            self.assertEqual(self.started(), set(), action)
        runs = self.host.helper_runs()
        self.assertEqual([run[b"ACTION"] for run in runs], [b"add"])
        self.assertEqual(runs[0][b"VHOTPLUG_VM"], b"vm1")
        self.host.remove_device(path)
        self.event("remove", path)
        self.assertEqual([run[b"ACTION"] for run in self.host.helper_runs()], [b"remove"])

    def test_the_helper_is_not_taken_back(self):
        """Whatever event it is that a rule first claims the device at."""
        for action in ("add", "change", "bind"):
            self.use(self.own_rules())
            path = self.usb("1234", "0001", ((6, 1, 1),))
            for _ in range(2):
                self.event(action, path)
            runs = [run[b"ACTION"].decode() for run in self.host.helper_runs()]
            self.assertEqual(runs, [action] * (2 if action == "add" else 1))
            self.assertEqual(self.started(), set(), action)
            self.host.remove_device(path)
            self.event("remove", path)
            self.host.helper_runs()

    def test_nothing_is_started_for_what_is_below(self):
        self.use(self.own_rules())
        path = self.usb("1234", "0001", ((3, 1, 1),))
        self.event("add", path)
        below = path[len("/devices/"):]
        interface = self.host.add_device(below + "/1-1:1.0", "usb", "usb_interface")
        line = self.host.add_device(below + "/1-1:1.0/tty/ttyUSB7", "tty")
        for child, subsystem in ((interface, "usb"), (line, "tty")):
            found = self.host.event("add", child, subsystem)
            self.assertEqual([key for key in ASKED if found.get(key)], [], child)
        self.assertEqual(self.started(), set())
        self.host.helper_runs()
        self.host.remove_device(path)
        card = self.host.add_device("pci0000:00/0000:00:1d.0", "pci", None,
                                    {"vendor": b"0x8086\n", "class": b"0x088000\n"})
        self.assertIn(b"VHOTPLUG_RULE", self.host.event("add", card, "pci"))
        domain = self.host.add_device("pci0000:00/0000:00:1d.0/domain0/0-0", "thunderbolt")
        self.assertNotIn(b"SYSTEMD_WANTS", self.host.event("add", domain, "thunderbolt"))

    def test_everything_is_started_for_an_unclaimed_device(self):
        """Also below a claimed one without a fence, and where there are no rules at all."""
        for options in (("disable = yes\n", "disable = yes\n"), ("fence = no\n", "fence = no\n")):
            self.use(self.own_rules(), *options)
            path = self.usb("1234", "0001", ((6, 1, 1),))
            found = self.event("add", path)
            self.assertEqual([key for key in ASKED if not found.get(key)], [], options)
            self.assertIn(b":uaccess:", udevd.tags(found))
            self.assertEqual(self.started(), PROGRAMS, options)
            self.host.helper_runs()
            self.host.remove_device(path)
            self.event("remove", path)

    # ---- the packages' own -------------------------------------------------------------------

    def real(self, claimed):
        """What the packages' rules start for a device of each kind."""
        options = () if claimed else ("disable = yes\n", "disable = yes\n")
        directory = os.environ[FETCHED]
        real = {}
        for path in glob.glob(directory + "/**/udev/rules.d/*.rules", recursive=True):
            with open(path) as file:
                real[os.path.basename(path)] = file.read()
        self.assertIn("39-usbmuxd.rules", real)
        self.use(real, *options)
        started = set()
        for vendor, product, interfaces in (("05ac", "12a8", ((0xff, 0xfe, 2),)),
                                            ("1234", "0002", ((7, 1, 4),)),
                                            ("03f0", "002a", ((8, 6, 80),)),
                                            ("1234", "0003", ((6, 1, 1),)),
                                            ("1234", "0004", ((0xff, 1, 1),))):
            path = self.usb(vendor, product, interfaces)
            with open("/sys" + path + "/bConfigurationValue", "w") as file:
                file.write("1\n")
            for action in ("add", "bind", "change"):
                found = self.event(action, path)
                started |= set(found.get(b"SYSTEMD_WANTS", b"").decode().split())
                started |= {key for key in ("ID_GPHOTO2", "ID_MTP_DEVICE") if found.get(key.encode())}
                started |= self.started()
            self.host.helper_runs()
            self.host.remove_device(path)
            self.event("remove", path)
        return started

    def test_real_packages(self):
        self.assertEqual(self.real(claimed=False) - {"printer.target"}, {
            "usbmuxd.service", "ipp-usb.service", "usb_modeswitch", "mtp-probe", "ID_GPHOTO2",
            "ID_MTP_DEVICE"})
        self.assertEqual(self.real(claimed=True), set())


if __name__ == "__main__":
    if "VHP_IN_NAMESPACES" not in os.environ:
        os.environ[FETCHED] = fetch_packages()
    udevd.enter_namespaces()
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
