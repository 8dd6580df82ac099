"""Domains as a Debian starts them: QEMU is an ordinary user, has a /dev of its own, and AppArmor confines it."""
import pathlib
import re

from lib import apparmor
from lib.libvirt import GuestDomain
from lib.parts import functions, wait_driver
from lib.wait import expect, wait_until
from lib.world import DISKS, KEYBOARDS
from scenarios.libvirt import CARD, IDS, KEY_A, KEYBOARD, NVME, story, type_on


def confined_guest(world):
    world.vms["vm1"] = vm1 = GuestDomain("vm1", "confined")
    return expect_confined(vm1.define().start())


def expect_confined(vm1):
    pid = vm1.pid()
    expect(re.fullmatch(r"libvirt-.* \(enforce\)", apparmor.label(pid)), f"QEMU's label is {apparmor.label(pid)}")
    expect(pathlib.Path(f"/proc/{pid}").stat().st_uid != 0, "QEMU is not root")
    return vm1


@story(fetches=("apparmor", "apparmor", "libvirt-daemon-system"), seconds=110)
def libvirt_domain_that_apparmor_confines(world):
    """Its guest uses a keyboard, a disk and a card all the same: libvirt lets its QEMU have each while it has it."""
    card, = functions(*IDS)
    wait_driver(card, "nvme")
    with apparmor.confining():
        vm1 = confined_guest(world)
        world.configure(vm1.config(), KEYBOARDS, DISKS, CARD)
        world.broker.start()
        disk, keyboard = world.host.plug_disk(), world.host.plug_keyboard()
        for device in (disk, keyboard):
            world.wait_attached(device, vm1)
        world.wait_state(card, "attached")
        for what in ("disk-disk1", "disk-nvme", KEYBOARD):
            vm1.console.wait_has(what)
        type_on(world, vm1, "a", KEY_A)
        keyboard.unplug()
        vm1.console.wait_lost(KEYBOARD)
        world.configure(vm1.config())
        vm1.console.wait_lost(NVME)
        wait_driver(card, "nvme")
        wait_until(disk.block_device, 60, "the disk is the host's again")
