"""What ./scripts/demo shows: a keyboard and a disk go into a VM, and what vhotplug says about it."""
import pathlib
import subprocess
import threading
import time

from lib.broker import DATABASE
from lib.wait import Failed
from lib.world import CONFIG

RULES = pathlib.Path("/etc/udev/rules.d/66-vhotplug.rules")
NEXT = """
== That was all; but for the packages, nothing on this machine has changed. What next:

  ./scripts/install                      installs vhotplug on this machine
  editor /etc/vhotplug/vhotplug.conf     which device for which VM: as above, or README.md's examples
  vhotplug-gen-rules                     makes it so; then plug something in
"""
seen = 0  # lines of the broker's log
GROUPS = """
[usb Devices for vm1]
targetVm = vm1

[allow keyboards]
interfaceClass    = 3
interfaceProtocol = 1

[allow disks]
interfaceClass = 8
"""


def headline(text):
    print(f"\n== {text}")


def command(words, shown=None):
    """Runs a command as a person would and shows what it prints."""
    print(f"\n  # {shown or ' '.join(words)}")
    result = subprocess.run(words, capture_output=True, text=True)
    for line in (result.stdout + result.stderr).splitlines():
        print(f"  {line}")
    if result.returncode != 0:
        raise Failed(f"{words[0]} ended with {result.returncode}")


def query(sql):
    command(["sqlite3", "-box", str(DATABASE), sql], f"sqlite3 -box {DATABASE} '{sql}'")


def show_rule(device):
    """What udev's database has about it: the rule that took it, and for which VM."""
    line = f"udevadm info -q property -n {device.node} | grep -E 'VHOTPLUG_(RULE|VM)='"
    command(["sh", "-c", line], line)


class Progress:
    """A line every two seconds for as long as something takes."""

    def __init__(self, what):
        self.what, self.done = what, threading.Event()

    def __enter__(self):
        self.began = time.monotonic()
        self.thread = threading.Thread(target=self.tell, daemon=True)
        self.thread.start()

    def tell(self):
        while not self.done.wait(2):
            print(f"  … {self.what} ({time.monotonic() - self.began:.0f} s; emulation is slow)")

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def follow(world, device, state):
    """The broker's own lines since the last call, until DEVICE is in STATE (None: gone)."""
    global seen
    with Progress(f"waiting for {device.name}"):
        deadline = time.monotonic() + 60
        while True:
            lines = world.broker.log().splitlines()
            for line in lines[seen:]:
                print(f"  {line}")
            seen = len(lines)
            row = world.db.assignment(device)
            if (row["state"] if row else None) == state and seen == len(world.broker.log().splitlines()):
                return
            if time.monotonic() > deadline:
                raise Failed(f"{device.name} is not {state or 'gone'}")
            time.sleep(0.1)


def main(world):
    world.install("release")
    headline("A virtual machine: QEMU as the user nobody, who may open no device")
    with Progress("starting QEMU"):
        vm1 = world.vm("vm1", user="nobody").start()
    world.write_config(vm1.config(), GROUPS)
    command(["cat", str(CONFIG)])
    headline("The config becomes udev rules, and the broker starts")
    with Progress("applying the rules"):
        command(["vhotplug-gen-rules"])
    command(["grep", "-c", "", str(RULES)], f"wc -l < {RULES}")
    world.broker.start()

    headline("A keyboard is plugged in; udevd finds the rule, and the broker hands it over")
    keyboard = world.host.plug_keyboard(serial="DEMO-1")
    follow(world, keyboard, "attached")
    show_rule(keyboard)
    headline("A disk is plugged in")
    disk = world.host.plug_disk()
    follow(world, disk, "attached")
    show_rule(disk)
    headline("Where everything is now")
    query("select device, name, vm, state, reason from assignments")
    print("\n  QEMU itself says:")
    for name in vm1.usb_ids():
        print(f"  {name}, a usb-host device")

    headline("The keyboard is pulled out")
    keyboard.unplug()
    follow(world, keyboard, None)
    headline("What is remembered")
    query("select substr(time, 12, 8) as time, device, name, vm, action, cause, rule, result,"
          " milliseconds as ms from history")
    world.broker.stop()
    print(NEXT)
    return 0
