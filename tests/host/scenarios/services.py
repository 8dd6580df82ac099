"""What other packages' rules start for a device: with those of Debian itself laid over the emulated
host, for what is claimed they start nothing."""
import contextlib
import os
import pathlib
import pwd
import re
import shutil
import subprocess

from lib.fakeusb import FakeUsbDevice
from lib.story import story
from lib.trace import recording
from lib.uevents import UDEV, Listener
from lib.wait import expect, wait_until

OTHERS = pathlib.Path("/checkout/.build-host/others")
PACKAGES = ("others", "usbmuxd", "ipp-usb", "usb-modeswitch", "usb-modeswitch-data", "libmtp-common", "libmtp-runtime",
            "libgphoto2-6", "brltty", "libccid", "modemmanager", "fwupd", "bolt")
FOLDER = pathlib.Path("/usr/lib/udev")
# Vendor, product, interface: a telephone with fruit on it, a printer, a modem that is a disk at first, a camera, a
# player, a Braille display, a card reader. None of which a driver makes a line: the name of that usb_modeswitch's
# rules ask their program for, before anybody can take it back.
DEVICES = [(0x05ac, 0x12a8, (0xff, 0xfe, 2)), (0x1234, 0x0002, (7, 1, 4)), (0x03f0, 0x002a, (8, 6, 80)),
           (0x1234, 0x0003, (6, 1, 1)), (0x1234, 0x0004, (0xff, 1, 1)), (0x0904, 0x2000, (0xff, 0, 0)),
           (0x08e6, 0x3437, (11, 0, 0))]
# Whom those packages make when they are installed. udev 262 leaves out a whole line that names somebody unknown.
ACCOUNTS = ("usbmux", "pcscd")
# Properties by which a program finds what it is to use.
ASKED = ("ID_GPHOTO2", "GPHOTO2_DRIVER", "ID_MTP_DEVICE", "ID_MEDIA_PLAYER", "ID_MM_CANDIDATE", "ID_SMARTCARD_READER",
         "USBMUX_SUPPORTED", "BRLTTY_BRAILLE_DRIVER")
PROGRAMS = {"mtp-probe", "usb_modeswitch", "usb_modeswitch_dispatcher", "brltty", "ipp-usb", "usbmuxd",
            "check-ptp-camera"}


@contextlib.contextmanager
def accounts():
    there = {account.pw_name for account in pwd.getpwall()}
    made = [name for name in ACCOUNTS if name not in there]
    for name in made:
        subprocess.run(["useradd", "--system", "--user-group", name], check=True)
    try:
        yield
    finally:
        for name in made:
            subprocess.run(["userdel", name], check=True)


@contextlib.contextmanager
def packages(world):
    """Rules and programs of the other packages, as if they were installed."""
    added = []
    for source in [*OTHERS.glob("lib/udev/**/*"), *OTHERS.glob("usr/lib/udev/**/*")]:
        target = FOLDER / str(source).split("/lib/udev/", 1)[1]
        if source.is_dir() or target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
        added.append(target)
    expect(FOLDER / "rules.d/39-usbmuxd.rules" in added, "usbmuxd's rules are there")
    world.udev.reload()
    try:
        yield
    finally:
        for path in added:
            path.unlink()
        world.udev.reload()


def told_of(events, device):
    """What udevd has said of the device itself: whom it asks for, and who may use it. What a driver that was
    faster than the fence has made of it is children-are-fenced's."""
    found, path = set(), str(device.sys.resolve())[len("/sys"):]
    for said in (said for _, said in events if said["DEVPATH"] == path and said["ACTION"] in ("add", "bind", "change")):
        found |= set(said.get("SYSTEMD_WANTS", "").split())
        found |= {key for key in ASKED if said.get(key)}
        found |= {tag for tag in ("uaccess", "seat") if f":{tag}:" in said.get("CURRENT_TAGS", "")}
    return found


def started_for_each(world):
    """What rules start for all the devices, at their plug and at a change."""
    found = set()
    with recording(sched__sched_process_exec="pid > 0") as lines:
        for vendor, product, interface in DEVICES:
            world.udev.settle()  # all of them are in the same place: what was there before has been heard of
            with Listener(UDEV) as told, FakeUsbDevice(vendor, product, interface=interface) as device:
                wait_until(lambda: any(said["ACTION"] == "bind" and said["DEVPATH"].endswith("/" + device.name)
                                       for _, said in list(told.events)), 60, f"udevd has seen {device}")
                world.udev.trigger("change", device)
                world.udev.settle()
                found |= told_of(list(told.events), device)
        names = [re.search(r"filename=(\S+)", what) for _, _, what in lines()]
        programs = {os.path.basename(name[1]) for name in names if name}
    return found | (programs & PROGRAMS)


@story(fetches=PACKAGES)
def nothing_is_started_for_what_is_claimed(world):
    """With the rules of usbmuxd, ipp-usb, usb_modeswitch, libmtp, libgphoto2, brltty, libccid, ModemManager, fwupd
    and bolt: they start their services and mark their devices, and nothing of it for what a rule claims."""
    expect((OTHERS / ".complete").exists(), "the packages of rules could be fetched: see to the network")
    vm1 = world.vm("vm1")
    world.configure(vm1.config())
    world.broker.start()
    with accounts(), packages(world):
        started = started_for_each(world)
        for name in ("usbmuxd.service", "ipp-usb.service", "usb_modeswitch", "mtp-probe", "ID_GPHOTO2",
                     "ID_SMARTCARD_READER", "uaccess"):
            expect(name in started, f"without a rule {name} is started or set; {sorted(started)} are")
        world.configure(vm1.config(), "[usb All]", "targetVm = vm1", "[allow All]", "matchAll = yes")
        started = started_for_each(world)
        expect(not started, f"for what is claimed nothing is started; {sorted(started)} are")
