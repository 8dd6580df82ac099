#!/usr/bin/python3
"""The broker's start with devices that rules took while it did not run, by udev's list: what a device costs.

    coldplug.py VHOTPLUG_BROKER VHOTPLUG_HELPER

A release build. Root is needed. udev's database is files of our own in its format (systemd, src/libsystemd/sd-device),
the devices are directories, their VM is down. Counted is what the broker opens, and who reads the database for it. Fails when a device is
read there more than once, or when of 1,000 devices each takes more than of 100."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from stage import PLACE, Stage, enter
from world import SKIPPED, wait_for

BROKER, HELPER = (os.path.abspath(path) for path in sys.argv[1:3])
BUS, UDEV = pathlib.Path("/sys/bus/usb/devices"), pathlib.Path("/run/udev")
NUMBERS = (0, 100, 1000)
MARGIN = 1.05
# Files and directories that are opened; udev's about a device; all calls, which depend on how many are heard of at once.
PATTERNS = r"^openat\(", r'"/run/udev/data/c189:', r"^\w+\("
RULES = "E:SUBSYSTEM=usb\nE:DEVTYPE=usb_device\nE:VHOTPLUG_RULE=usb/g/r\nE:VHOTPLUG_VM=good\nE:ID_VENDOR=Maker\nE:ID_MODEL=Stick\n"


def add_device(number):
    name = f"stick{number}"
    minor = number + 1
    place = PLACE / name
    place.mkdir()
    (place / "uevent").write_text(f"MAJOR=189\nMINOR={minor}\nDEVNAME=bus/usb/090/{number:03}\nDEVTYPE=usb_device\n")
    (place / "subsystem").symlink_to("/sys/bus/usb")
    (BUS / name).symlink_to(place)
    (UDEV / f"data/c189:{minor}").write_text(f"I:1\n{RULES}G:vhotplug\nQ:vhotplug\nV:1\n")
    (UDEV / f"tags/vhotplug/+usb:{name}").touch()


def prepare(number):
    for path in (PLACE, BUS, UDEV):
        for old in path.iterdir():
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    (UDEV / "data").mkdir()
    (UDEV / "tags/vhotplug").mkdir(parents=True)
    for i in range(number):
        add_device(i)


def start_with(number):
    """Returns how often there is each of PATTERNS."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(BROKER, HELPER, lambda who: ["strace", "-ff", "-qq", "-o", f"{folder}/{who}"])
        try:
            stage.stop()
            stage.double.kill()  # who waits for its VM is taken in, and no more
            prepare(number)
            for path in pathlib.Path(folder).iterdir():
                path.unlink()
            stage.environment["SYSTEMD_DEVICE_VERIFY_SYSFS"] = "0"
            stage.start()
            wait_for(lambda: stage.query("select count(*) from device")[0][0] == number, 120)
        finally:
            stage.end()
        texts = [path.read_text(errors="replace") for path in pathlib.Path(folder).iterdir()]
        return [sum(len(re.findall(pattern, text, re.M)) for text in texts) for pattern in PATTERNS]


def main():
    if not enter():
        return SKIPPED
    UDEV.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/bus"], check=True)
    BUS.mkdir(parents=True)
    found = {number: start_with(number) for number in NUMBERS}
    each = {number: [(value - none) / number for value, none in zip(found[number], found[0])] for number in NUMBERS[1:]}
    for number, (opened, read, calls) in each.items():
        print(f"{number} devices by udev's list: each takes {opened:.1f} opens, {calls:.0f} system calls in all; udev's file"
              f" of it is read {read:.2f} times")
    failed = each[1000][0] > each[100][0] * MARGIN or any(read > 1 for _, read, _ in each.values())
    if failed:
        print("FAILED: a device is read once, and of 1,000 each costs no more than of 100")
    return int(failed)


sys.exit(main())
