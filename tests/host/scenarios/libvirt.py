"""Domains of libvirt, with a real libvirtd: what virsh shows is the truth for those who have them. Only where
libvirtd is installed."""
import re
import statistics
import subprocess
import xml.etree.ElementTree as ElementTree

from lib.libvirt import (DAEMON, PROGRAM, DiskDomain, Domain, GuestDomain, OtherHost, ask_program, refusal,
                         virsh)
from lib.parts import InputDevice, functions, wait_driver
from lib.story import story
from lib.wait import expect, wait_until
from lib.world import KEYBOARDS, TOP
from scenarios import evdev, pci
from scenarios.isolation import LIMIT, plug_a_mouse
from scenarios.people import ctl

story = story if PROGRAM else lambda function=None, **how: function or (lambda other: other)
KEYBOARD, DISK, NVME, TWIN = "usb-0627:0001", "usb-46f4:0001", "pci-1b36:0010", "pci-8086:100e"  # as the guest calls them
KEY_A, KEY_B = 30, 48
ONE_DISK = """
[usb Disk]
targetVm = vm1
[allow one of the twins]
portPath = 5
"""
TWINS = """
[usb One]
targetVm = vm1
[allow twin]
portPath = 3

[usb Other]
targetVm = vm2
[allow twin]
portPath = 4
"""
MICE = """
[usb Mice]
targetVm = vm2
[allow mice]
interfaceClass = 3
interfaceProtocol = 2
"""
ROUNDS = 4
IDS = "1b36", "0010"
CARD = """
[pci Disks]
targetVm = vm1
[allow the NVMe card]
vendorId = 1b36
deviceId = 0010
"""


def domain(world, name="vm1", called="win10", kind=Domain):
    """A domain that runs; NAME is the VM's name in the config."""
    DAEMON.start()
    world.vms[name] = kind(name, called)
    return world.vms[name].define().start()


def keyboard_in_domain(world, **how):
    vm1 = domain(world, **how)
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    world.wait_attached(keyboard, vm1)
    return keyboard, vm1


@story(seconds=20)
def libvirt_domain_gets_a_keyboard(world):
    """It is plugged in: virsh shows it in the running domain, by bus and device number, and not in its
    definition. It is pulled out: virsh does not show it any more."""
    keyboard, vm1 = keyboard_in_domain(world)
    vm1.expect_definition_untouched()
    keyboard.unplug()
    world.wait_gone(keyboard, vm1)
    expect(not vm1.addresses(), f"virsh shows {vm1.addresses()}")
    vm1.expect_definition_untouched()
    again = world.host.plug_keyboard()
    world.wait_attached(again, vm1)
    world.configure(vm1.config())
    world.wait_gone(again, vm1, 2 if again.name == keyboard.name else 1)
    wait_until(lambda: again.drivers() == ["usbhid"], 60, "the host has it again")


@story
def libvirt_keeps_twins_apart(world):
    """Two keyboards of the same make go to two domains, each to its own; the one that is pulled out leaves
    its own."""
    vm1, vm2 = domain(world), domain(world, "vm2", "other")
    world.configure(vm1.config(), vm2.config(), TWINS)
    world.broker.start()
    one, other = world.host.plug_keyboard(port=3), world.host.plug_keyboard(port=4)
    world.wait_attached(one, vm1)
    world.wait_attached(other, vm2)
    one.unplug()
    world.wait_gone(one, vm1)
    expect(vm2.holds(other), "the other one stays")
    expect(not vm1.addresses(), f"vm1 has {vm1.addresses()}")


@story(seconds=20)
def libvirt_domain_comes_and_goes(world):
    """A device waits for its domain to be defined and to be started, and again when it is destroyed or crashes."""
    DAEMON.start()
    world.vms["vm1"] = vm1 = Domain("vm1", "fleeting")
    vm1.remove()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    world.wait_state(keyboard, "waiting", "libvirt has no domain fleeting")
    vm1.define()
    world.wait_state(keyboard, "waiting", "libvirt's domain fleeting is not running")
    for end in (vm1.destroy, vm1.crash):
        vm1.start()
        world.wait_attached(keyboard, vm1)
        end()
        world.wait_state(keyboard, "waiting", "vm1 is not running")
    world.wait_history(keyboard, "attach", "ok", 2)


@story
def libvirt_domain_is_saved_and_restored(world):
    """A domain that is saved has ended, and waits for its keyboard when it is restored: virsh shows it once,
    whoever was first, libvirt or the broker."""
    keyboard, vm1 = keyboard_in_domain(world)
    image = vm1.dir / "saved"
    virsh("save", vm1.domain, str(image))
    world.wait_state(keyboard, "waiting", "vm1 is not running")
    virsh("restore", str(image), "--paused")
    world.wait_attached(keyboard, vm1)
    keyboard.unplug()
    wait_until(lambda: not vm1.addresses(), 60, lambda: f"virsh shows {vm1.addresses()}")


@story(seconds=20)
def libvirt_saved_domain_and_another_device(world):
    """When a domain that was saved with a keyboard starts again, a sound device has the number that the keyboard had,
    as may happen over a boot of the host: the domain does not get it, not even before the broker looks."""
    world.host.count_anew()
    keyboard, vm1 = keyboard_in_domain(world)
    where = vm1.addresses()
    virsh("managedsave", vm1.domain, "--paused")
    world.wait_state(keyboard, "waiting", "vm1 is not running")
    world.broker.kill9()
    keyboard.unplug()
    sound = world.host.plug("usb-audio", "sound")
    world.host.count_anew()
    expect([(int(sound.attribute("busnum")), int(sound.attribute("devnum")))] == where, "it has the keyboard's number")
    vm1.start()
    expect(not vm1.addresses(), f"virsh shows {vm1.addresses()}")
    world.broker.start()
    again = world.host.plug_keyboard(port=9)
    world.wait_attached(again, vm1)
    wait_until(lambda: len(vm1.aliases()) == 1, 60, lambda: f"what was saved is gone; virsh shows {vm1.aliases()}")


def _wait_alone(world, device, vm):
    """The device is in the VM, once, as soon as what the VM was reverted to has been noticed and mended."""
    world.wait_attached(device, vm)
    wait_until(lambda: vm.holds(device) and len(vm.addresses()) == 1, 60, lambda: f"virsh shows {vm.addresses()}")


@story(seconds=35)
def libvirt_snapshot_is_reverted(world):
    """A domain goes back to a snapshot from when it had another keyboard: it has the present one, once."""
    keyboard, vm1 = keyboard_in_domain(world, called="disk", kind=DiskDomain)
    virsh("snapshot-create-as", vm1.domain, "before")
    keyboard.unplug()
    world.wait_gone(keyboard, vm1)
    other = world.host.plug_keyboard(port=9)
    world.wait_attached(other, vm1)
    virsh("snapshot-revert", vm1.domain, "before")
    _wait_alone(world, other, vm1)
    virsh("snapshot-create-as", vm1.domain, "with-it")
    virsh("snapshot-revert", vm1.domain, "with-it")
    _wait_alone(world, other, vm1)


@story(seconds=35)
def libvirt_domain_migrates_without_its_keyboard(world):
    """A domain with a keyboard moves to another host, which libvirt does not refuse: there the keyboard is missing.
    Here it waits for the domain, and has it again when that is started here."""
    keyboard, vm1 = keyboard_in_domain(world)
    with OtherHost() as other:
        other.fetch(vm1.domain)
        world.wait_state(keyboard, "waiting", "vm1 is not running")
        there = other.xml(vm1.domain).findall("devices/hostdev")
        expect([device.find("source").get("missing") for device in there] == ["yes"],
               f"there it has {[ElementTree.tostring(device) for device in there]}")
    vm1.start()
    world.wait_attached(keyboard, vm1)
    vm1.expect_definition_untouched()


@story
def libvirt_does_not_find_it_any_more(world):
    """A device has gone by the time that libvirt looks: that is no attach. The domain keeps nothing of it, in whose
    place its QEMU would have any other device."""
    vm1 = domain(world)
    mouse = world.host.plug_mouse()
    answer = ask_program(vm1.domain, do="attach", alias="ua-vhp-1-9-77", kind="usb", bus=1, device=99, ids="0627:0001")
    expect(answer["outcome"] == "retry", f"vhotplug-libvirt answers {answer}")
    expect(not vm1.aliases(), f"virsh shows {vm1.aliases()}")
    wait_until(lambda: mouse.drivers() == ["usbhid"], 60, "the mouse is the host's")


@story
def libvirtd_comes_after_the_broker(world):
    """libvirtd is not there when the broker starts: the device waits, with libvirt's words, and goes when it is."""
    vm1 = domain(world)
    DAEMON.kill9()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    world.wait_state(keyboard, "waiting", "can't be asked: libvirt: Failed to connect")
    DAEMON.start()
    world.wait_attached(keyboard, vm1)


@story
def libvirtd_killed_with_devices_attached(world):
    """libvirtd is killed, its domain runs on: what is in it counts as in it. A device that was pulled out
    meanwhile is taken out of the domain when libvirtd is back, and the others are not touched."""
    keyboard, vm1 = keyboard_in_domain(world)
    other = world.host.plug_keyboard()
    world.wait_attached(other, vm1)
    DAEMON.kill9()
    other.unplug()
    world.wait_state(keyboard, "attached")
    DAEMON.start()
    world.wait_gone(other, vm1)
    world.wait_attached(keyboard, vm1)
    expect(len(vm1.addresses()) == 1, f"virsh shows {vm1.addresses()}")
    world.wait_history(keyboard, "attach", "ok", 1)


@story
def libvirt_and_a_restarted_broker(world):
    """The broker is killed; meanwhile one keyboard is pulled out and another one plugged in. It finds by
    the domain's own list what is there: what was in it stays, what has gone leaves, what is new comes."""
    keyboard, vm1 = keyboard_in_domain(world)
    leaving = world.host.plug_keyboard()
    world.wait_attached(leaving, vm1)
    world.broker.kill9()
    leaving.unplug()
    new = world.host.plug_keyboard(port=9)
    world.broker.start()
    world.wait_attached(new, vm1)
    wait_until(lambda: not vm1.aliases(leaving), 60, "the one that was pulled out has left")
    world.wait_attached(keyboard, vm1)
    world.wait_history(keyboard, "attach", "ok", 1)
    expect(len(vm1.addresses()) == 2, f"virsh shows {vm1.addresses()}")


@story
def libvirt_gets_a_card_and_gives_it_back(world):
    """An NVMe card moves into a domain, which libvirt does not migrate then. When the rule is withdrawn and the guest
    has let go, its host driver has it again."""
    card, = functions(*IDS)
    wait_driver(card, "nvme")
    vm1 = domain(world)
    world.configure(vm1.config(), CARD)
    world.broker.start()
    world.wait_state(card, "attached")
    expect(len(vm1.aliases(card)) == 1, f"virsh shows {vm1.aliases()}")
    expect(card.driver() == "vfio-pci", f"{card.driver()} holds it")
    said = refusal("migrate", "--live", vm1.domain, "qemu:///system")
    expect(re.search("cannot migrate (a )?domain", said), said)
    world.configure(vm1.config())
    # Nobody runs in the guest who could let go, until a reset.
    world.wait_state(card, "releasing", "waiting for the guest of vm1")
    expect(card.driver() == "vfio-pci", "the host does not take it from under the VM")
    vm1.reset()
    wait_until(lambda: not vm1.aliases(card), 60, "the VM has let go of it")
    wait_driver(card, "nvme")
    wait_until(lambda: world.db.assignment(card) is None, 60, "it has no row any more")
    wait_until(lambda: not vm1.written(), 60, lambda: f"libvirtd has written down {vm1.written()}")
    vm1.expect_definition_untouched()


def give_twins(world, vm1):
    """A domain gets two cards that share an IOMMU group; returns these."""
    twins = pci.twins()
    world.configure(vm1.config(), pci.rules_for(*twins))
    world.broker.start()
    wait_has_twins(world, vm1, twins)
    return twins


def wait_has_twins(world, vm1, twins):
    for card in twins:
        world.wait_state(card, "attached")
        expect(len(vm1.aliases(card)) == 1, f"virsh shows {vm1.aliases()}")
    pci.stay_with_vfio(*twins)


@story
def libvirt_gets_a_group_and_gives_it_back(world):
    """Two cards that share an IOMMU group, by a rule for each. Both rules are withdrawn: as long as the guest does not
    let go the host has none. It has both when the domain is destroyed."""
    vm1 = domain(world)
    twins = give_twins(world, vm1)
    world.configure(vm1.config())
    pci.stay_with_guest(world, *twins)
    vm1.destroy()
    pci.wait_back(world, *twins)
    vm1.expect_definition_untouched()


@story
def libvirt_keeps_the_other_of_a_group(world):
    """The rule of one of two cards that share an IOMMU group is withdrawn: it leaves when the guest has let go, the
    other one stays, and the host has none of them as long as it does. Then both."""
    vm1 = domain(world)
    first, second = give_twins(world, vm1)
    world.configure(vm1.config(), pci.rules_for(second))
    pci.stay_with_guest(world, first)
    vm1.reset()
    pci.wait_kept_by(world, first, second)
    expect(vm1.aliases() == vm1.aliases(second) != [], f"virsh shows {vm1.aliases()}")
    world.configure(vm1.config())
    pci.stay_with_guest(world, second)
    vm1.reset()
    pci.wait_back(world, first, second)
    expect(not vm1.aliases(), f"virsh shows {vm1.aliases()}")


def guest_domain(world):
    """A domain with a guest that runs."""
    DAEMON.start()
    world.vms["vm1"] = GuestDomain("vm1", "linux")
    return world.vms["vm1"].define()


def guest_with_keyboard(world, *config):
    vm1 = guest_domain(world).start()
    world.configure(vm1.config(), KEYBOARDS, *config)
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    world.wait_attached(keyboard, vm1)
    vm1.console.wait_has(KEYBOARD)
    return keyboard, vm1


def type_on(world, vm1, key, code):
    """The guest hears one more such key. One that is typed before the guest listens is lost."""
    before = vm1.console.keys().count(code)

    def heard():
        world.host.type_key(key)
        return vm1.console.keys().count(code) > before
    wait_until(heard, 60, lambda: f"the guest hears the key {key}; it heard {vm1.console.keys()}")


@story(guest=True, seconds=75)
def libvirt_guest_uses_what_it_gets(world):
    """A keyboard and one of two disks of the same make are there before the domain starts: its guest hears what
    is typed and reads this disk and not the other one, after it has rebooted itself too. Pulled out, they are gone for
    the guest, and virsh."""
    vm1 = guest_domain(world)
    disk, other = world.host.plug_disk(port=5), world.host.plug_disk(image=2, port=6)
    keyboard = world.host.plug_keyboard()
    world.configure(vm1.config(), KEYBOARDS, ONE_DISK)
    world.broker.start()
    world.wait_state(keyboard, "waiting", "is not running")
    vm1.start()
    for boots in (1, 2):
        vm1.console.wait_ready(boots)
        world.wait_attached(keyboard, vm1)
        world.wait_attached(disk, vm1)
        vm1.console.wait_has("disk-disk1")
        type_on(world, vm1, "a", KEY_A)
        expect("disk-disk2" not in vm1.console.has(), f"the guest sees {vm1.console.has()}")
        if boots == 1:
            world.host.type_key("f12")
    keyboard.unplug()
    disk.unplug()
    vm1.console.wait_lost(KEYBOARD)
    vm1.console.wait_lost(DISK)
    expect(not vm1.addresses(), f"virsh shows {vm1.addresses()}")
    expect(other.block_device(), "the other disk is the host's")


@story(guest=True, seconds=20)
def libvirt_guest_outlives_the_daemons(world):
    """libvirtd is killed, and so is the broker: the guest hears the same keyboard all the while, and never loses it."""
    keyboard, vm1 = guest_with_keyboard(world)
    seen = vm1.console.has()
    for kill, start in ((DAEMON.kill9, DAEMON.start), (world.broker.kill9, world.broker.start)):
        kill()
        type_on(world, vm1, "a", KEY_A)
        start()
        world.wait_attached(keyboard, vm1)
        type_on(world, vm1, "b", KEY_B)
    expect(vm1.console.has() == seen, f"the guest saw {seen}, and sees {vm1.console.has()}")
    world.wait_history(keyboard, "attach", "ok", 1)


@story(guest=True)
def libvirt_guest_loses_a_keyboard_while_libvirtd_is_dead(world):
    """A keyboard and a disk are in a domain, libvirtd is killed, and the keyboard is pulled out: the guest has lost
    it and reads the disk all the while. When libvirtd is back virsh does not show it, and the next one types."""
    keyboard, vm1 = guest_with_keyboard(world, ONE_DISK)
    disk = world.host.plug_disk(port=5)
    world.wait_attached(disk, vm1)
    vm1.console.wait_has("disk-disk1")
    DAEMON.kill9()
    keyboard.unplug()
    vm1.console.wait_lost(KEYBOARD)
    DAEMON.start()
    world.wait_gone(keyboard, vm1)
    wait_until(lambda: not vm1.aliases(keyboard), 60, lambda: f"virsh shows {vm1.aliases()}")
    expect(len(vm1.addresses()) == 1 and vm1.holds(disk), f"virsh shows {vm1.addresses()}")
    again = world.host.plug_keyboard(port=9)
    world.wait_attached(again, vm1)
    type_on(world, vm1, "a", KEY_A)
    expect("disk-disk1" in vm1.console.has(), f"the guest sees {vm1.console.has()}")


@story(guest=True, seconds=20)
def libvirt_guest_is_destroyed_and_started(world):
    """A domain is destroyed with a keyboard and a disk in it, and started again: its new guest hears and reads the
    same two, and virsh shows each once."""
    keyboard, vm1 = guest_with_keyboard(world, ONE_DISK)
    disk = world.host.plug_disk(port=5)
    world.wait_attached(disk, vm1)
    vm1.console.wait_has("disk-disk1")
    vm1.destroy()
    for device in (keyboard, disk):
        world.wait_state(device, "waiting", "vm1 is not running")
    vm1.start()
    for device in (keyboard, disk):
        world.wait_attached(device, vm1)
    vm1.console.wait_has("disk-disk1")
    type_on(world, vm1, "a", KEY_A)
    expect(len(vm1.addresses()) == 2, f"virsh shows {vm1.addresses()}")
    vm1.expect_definition_untouched()


@story(guest=True)
def libvirt_guest_gets_a_card_and_gives_it_back(world):
    """An NVMe card moves into a domain: its guest reads the disk on it. When the rule is withdrawn the guest lets go,
    and the host's driver has it again."""
    card, = functions(*IDS)
    wait_driver(card, "nvme")
    keyboard, vm1 = guest_with_keyboard(world, CARD)
    world.wait_state(card, "attached")
    vm1.console.wait_has("disk-nvme")
    world.configure(vm1.config(), KEYBOARDS)
    vm1.console.wait_lost(NVME)
    wait_driver(card, "nvme")
    wait_until(lambda: world.db.assignment(card) is None, 60, "it has no row any more")
    expect(len(vm1.aliases()) == 1 and vm1.holds(keyboard), f"virsh shows {vm1.aliases()}")


@story(guest=True)
def libvirt_guest_gets_a_group_and_gives_it_back(world):
    """Two cards that share an IOMMU group, by a rule for each: the guest sees both. One is taken out by hand, and the
    other one goes with it; by hand both come back. When the rules are withdrawn the host has both."""
    vm1 = guest_domain(world).start()
    first, second = twins = give_twins(world, vm1)
    sees = vm1.console.has
    wait_until(lambda: sees().count(TWIN) == 2, 180, lambda: f"the guest sees both; it sees {sees()}")
    ctl("detach", first.name)
    vm1.console.wait_lost(TWIN)
    for card in twins:
        world.wait_state(card, "detached", "taken out by hand; vhotplugctl attach gives it back")
    expect(not vm1.aliases(), f"virsh shows {vm1.aliases()}")
    ctl("attach", second.name)
    wait_has_twins(world, vm1, twins)
    wait_until(lambda: sees().count(TWIN) == 2, 180, lambda: f"the guest sees both; it sees {sees()}")
    world.configure(vm1.config())
    pci.wait_back(world, *twins)
    vm1.console.wait_lost(TWIN)


@story(guest=True)
def libvirt_guest_gets_an_input_device(world):
    """The host's own keyboard, an event node, goes into a domain: its guest hears what is typed. When the rule is
    withdrawn and the guest has let go, the host has the node."""
    keyboard = InputDevice("QEMU Virtio Keyboard")
    vm1 = guest_domain(world).start()
    world.configure(vm1.config(), evdev.KEYBOARD)
    world.broker.start()
    world.wait_state(keyboard, "attached")
    type_on(world, vm1, "a", KEY_A)
    expect(len(vm1.aliases(keyboard)) == 1, f"virsh shows {vm1.aliases()}")
    world.configure(vm1.config())
    wait_until(lambda: world.db.assignment(keyboard) is None, 60, "it has no row any more")
    expect(not vm1.aliases(keyboard), f"virsh shows {vm1.aliases()}")
    with keyboard.grabbed():
        pass  # nobody else holds it


@story
def libvirt_keeps_what_was_attached_by_hand(world):
    """A keyboard that somebody has attached with virsh is left to him, though a rule wants it there: it is
    not attached twice, and not taken out. When he has detached it, the rule has its way."""
    vm1 = domain(world)
    keyboard = world.host.plug_keyboard()
    by_hand = vm1.dir / "by-hand.xml"
    by_hand.write_text("<hostdev mode='subsystem' type='usb'><source><address bus='%s' device='%s'/></source></hostdev>" %
                       (keyboard.attribute("busnum"), keyboard.attribute("devnum")))
    virsh("attach-device", vm1.domain, str(by_hand), "--live")
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    world.wait_state(keyboard, "waiting", "in use")
    expect(len(vm1.addresses()) == 1 and not vm1.aliases(), f"virsh shows {vm1.addresses()}, {vm1.aliases()}")
    virsh("detach-device", vm1.domain, str(by_hand), "--live")
    world.wait_attached(keyboard, vm1)


@story
def libvirt_as_the_readme_says(world):
    """The config of README's section for those who have virt-manager does what it says, and its command
    shows it."""
    section = re.search(r"^## With libvirt.*?(?=^## )", (TOP / "README.md").read_text(), re.M | re.S)[0]
    config, command = (re.search(rf"^```{kind}\n(.*?)^```$", section, re.M | re.S)[1] for kind in ("ini", "sh"))
    name = re.search(r"^\[vm (.*)\]$", config, re.M)[1]
    vm = domain(world, name, name)
    world.configure(config)
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    world.wait_attached(keyboard, vm)
    shown = subprocess.run(command, shell=True, capture_output=True, text=True).stdout
    expect(f"ua-vhp-{keyboard.name}-{keyboard.inode}" in shown, f"{command.strip()}: {shown}")


def undisturbed(seconds):
    """The median of the faster half: a tenth of a second is easily two on a busy machine, now and then. What waits
    for libvirtd is late each time."""
    return statistics.median(sorted(seconds)[:len(seconds) // 2])


@story(build="release", alone=True)
def libvirtd_that_hangs_delays_nobody(world):
    """libvirtd accepts and never answers: a mouse gets into a QEMU beside it in the same time as without, and
    the keyboard of the domain when libvirtd goes on."""
    vm1, vm2 = domain(world), world.vm("vm2").start()
    world.configure(vm1.config(), vm2.config(), KEYBOARDS, MICE)
    world.broker.start()
    plug_a_mouse(world, vm2)
    without, during, ratio = [], [], LIMIT + 1
    while ratio > LIMIT and len(during) < 6 * ROUNDS:
        without += [plug_a_mouse(world, vm2) for _ in range(ROUNDS // 2)]
        with DAEMON.frozen():
            keyboard = world.host.plug_keyboard()
            world.wait_state(keyboard, "attaching")
            during += [plug_a_mouse(world, vm2) for _ in range(ROUNDS)]
        world.wait_attached(keyboard, vm1)
        keyboard.unplug()
        world.wait_gone(keyboard, vm1, len(during) // ROUNDS)
        without += [plug_a_mouse(world, vm2) for _ in range(ROUNDS // 2)]
        usual, beside = undisturbed(without), undisturbed(during)
        ratio = beside / usual
    print(f"  from plug to attached: {usual:.2f} s, beside a libvirtd that hangs {beside:.2f} s: ratio {ratio:.2f} "
          f"(of the faster half of {len(during)} each)")
    expect(ratio <= LIMIT, f"{without}, {during}")
    DAEMON.stop()  # this is the last story with it
