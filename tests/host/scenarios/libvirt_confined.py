"""Domains as a Debian starts them: QEMU is an ordinary user, has a /dev of its own, and AppArmor confines it."""
import functools
import pathlib
import re

from lib import apparmor
from lib.libvirt import GuestDomain, MonitorDomain, refusal
from lib.parts import InputDevice, functions, wait_driver
from lib.wait import expect, wait_until
from lib.world import DISKS, KEYBOARDS, TOP
from scenarios import evdev
from scenarios.libvirt import CARD, IDS, KEY_A, KEY_B, KEYBOARD, NVME, story, type_on


def confined_guest(world):
    world.vms["vm1"] = vm1 = GuestDomain("vm1", "confined")
    return expect_confined(vm1.define().start())


def expect_confined(vm1):
    pid = vm1.pid()
    expect(re.fullmatch(r"libvirt-.* \(enforce\)", apparmor.label(pid)), f"QEMU's label is {apparmor.label(pid)}")
    expect(pathlib.Path(f"/proc/{pid}").stat().st_uid != 0, "QEMU is not root")
    return vm1


confined_story = functools.partial(story, guest=True, fetches=("apparmor", "apparmor", "libvirt-daemon-system"))


@confined_story(seconds=110)
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


@confined_story(seconds=100)
def qemu_of_libvirt_that_apparmor_confines(world):
    """A domain has a second monitor for a VM of type = qemu, all as README has it. AppArmor keeps its QEMU from that
    socket, until README's line is there; then a keyboard needs no more. An event node QEMU opens by name: the
    reason says by whose profile it is kept from it, and README's line for that helps."""
    section = re.search(r"^`type = qemu` works with a domain too.*?(?=^## )", (TOP / "README.md").read_text(), re.M | re.S)[0]
    commandline = re.search(r"^ *<qemu:commandline>.*?</qemu:commandline>$", section, re.M | re.S)[0]
    for_socket = re.search(r"^```apparmor\n(.*)\n```$", section, re.M)[1]
    for_input = re.search(r"`(/dev/input/.* rw,)`", section)[1]
    node = InputDevice("QEMU Virtio Keyboard")
    with apparmor.confining("namespaces = []\n"):
        world.vms["win10"] = vm = MonitorDomain("win10", "monitored", commandline).define()
        said = refusal("start", vm.domain)
        expect(re.search("qmp.sock.*Permission denied", said, re.S), said)
        apparmor.allow([for_socket])
        expect_confined(vm.start())
        rules = [text.replace("vm1", "win10") for text in (KEYBOARDS, evdev.KEYBOARD)]
        world.configure(vm.config(), *rules)
        world.broker.start()
        keyboard = world.host.plug_keyboard()
        world.wait_attached(keyboard, vm)
        type_on(world, vm, "a", KEY_A)
        keyboard.unplug()
        vm.console.wait_lost(KEYBOARD)
        world.wait_state(node, "waiting", "AppArmor's profile libvirt-.* keeps process .*: allow it there")
        apparmor.allow([for_socket, for_input])
        # Its own alone: libvirt may have left another domain's, without what that includes.
        apparmor.load(apparmor.PROFILES / "libvirt" / apparmor.label(vm.pid()).split()[0])
        world.wait_state(node, "attached")
        type_on(world, vm, "b", KEY_B)
