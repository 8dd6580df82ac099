"""Real devices into crosvm: what has no name but a port must not be mixed up. With the real one its
guest says what it sees; what only the stand-in can be told to do is played by that in any case."""
import contextlib
import os
import signal

from lib.crosvm import CrosvmVm
from lib.kills import VICTIMS, Kills
from lib.parts import functions, give_back_all, take_for_vfio, wait_driver
from lib.story import story
from lib.wait import expect, stays, wait_until
from lib.world import DISKS, KEYBOARDS
from scenarios.cloud_hypervisor import nvme
from scenarios.guests import MICE

KEYBOARD = "usb-0627:0001"
TIMES = int(os.environ.get("VMM_TIMES", "1"))


def crosvm(world, name="vm1", **how):
    world.vms[name] = CrosvmVm(name, **how)
    return world.vms[name].start()


def two_keyboards(world, starts_again=False, **how):
    vm1 = crosvm(world, **how)
    world.configure(vm1.config(waits=vm1.long_delay() if starts_again else None), KEYBOARDS)
    world.broker.start()
    left, right = world.host.plug_keyboard(), world.host.plug_keyboard()
    world.wait_attached(left, vm1)
    world.wait_attached(right, vm1)
    vm1.wait_sees(KEYBOARD, 2)
    return vm1, left, right


def port_of(world, device):
    """The port that the view says it is on."""
    return int(world.db.assignment(device)["reason"].split("on port ")[1].split()[0])


@story
def crosvm_keeps_twins_apart(world):
    """Two identical keyboards get two ports; when one is pulled out, the other stays, and the port
    is given to the next."""
    vm1, left, right = two_keyboards(world)
    expect(left.vid_pid == right.vid_pid, "they are twins")
    expect(sorted(vm1.ports()) == [1, 2], f"two ports are taken: {vm1.ports()}")
    port = port_of(world, right)
    left.unplug()
    wait_until(lambda: world.db.assignment(left) is None, 60, "it has no row any more")
    world.wait_history(left, "detach", "ok")
    wait_until(lambda: list(vm1.ports()) == [port], 60, lambda: f"the other one stays: {vm1.ports()}")
    world.wait_attached(right, vm1)
    vm1.wait_sees(KEYBOARD, 1)
    third = world.host.plug_keyboard()
    world.wait_attached(third, vm1)
    expect(sorted(vm1.ports()) == [1, 2], f"the free port is used again: {vm1.ports()}")
    world.wait_history(right, "attach", "ok")
    expect(not world.db.history(right, "detach"), "nothing has happened to the one that stayed")
    vm1.wait_sees(KEYBOARD, 2)


@story
def crosvm_and_a_restarted_broker(world):
    """Killed and restarted, the broker finds its devices on their ports, and leaves alone what is
    not on record; one that was pulled out meanwhile is gone."""
    vm1, left, right = two_keyboards(world)
    answer = vm1.attach_beside(left)
    expect(answer == {"Ok": {"port": 3}}, f"somebody else has attached one again: {answer}")
    before = vm1.ports()
    world.broker.kill9()
    world.broker.start()
    world.wait_attached(left, vm1)
    world.wait_attached(right, vm1)
    stays(lambda: vm1.ports() == before, 3, "every device stays where it was")
    vm1.expect_requests("AttachDevice", 3)
    vm1.expect_requests("DetachDevice", 0)
    port = port_of(world, left)
    world.broker.kill9()
    left.unplug()
    world.udev.settle()
    world.broker.start()
    wait_until(lambda: world.db.assignment(left) is None, 60, "it has no row any more")
    world.wait_attached(right, vm1)
    expect(port not in vm1.ports(), f"its port is free: {vm1.ports()}")
    vm1.wait_sees(KEYBOARD, 1)


@story
def crosvm_answer_that_nobody_heard(world):
    """The broker is killed while crosvm carries out an attach. The next one finds the port that was
    taken, and the keyboard ends up in one."""
    vm1, left, right = two_keyboards(world, is_real=False)
    vm1.tell("late AttachDevice 3")
    third = world.host.plug_keyboard()
    wait_until(lambda: (row := world.db.rows("select handle from device where device = ?", third.name))
               and row[0]["handle"].startswith("crosvm-after-"), 60, "the attach is on record before its answer")
    world.broker.kill9()
    world.broker.start()
    world.wait_attached(third, vm1)
    world.wait_attached(left, vm1)
    world.wait_attached(right, vm1)
    expect(sorted(vm1.ports()) == [1, 2, 3], f"three ports are taken: {vm1.ports()}")


@story
def crosvm_guest_without_usb_driver(world):
    """Until the guest has a USB driver, the port that each attempt loses is freed, and no other; then
    the keyboard arrives by itself."""
    vm1 = crosvm(world, is_real=False)
    vm1.tell("guest off")
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    keyboard, other = world.host.plug_keyboard(), world.host.plug_keyboard()
    world.wait_state(keyboard, "waiting", "has not started its USB driver")
    world.wait_state(other, "waiting", "has not started its USB driver")
    wait_until(lambda: len(vm1.requests("AttachDevice")) >= 4, 60, "it is tried again and again")
    wait_until(lambda: not vm1.ports(), 60, lambda: f"no port is lost: {vm1.ports()}")
    world.wait_history(other, "attach", "failed")
    expect(any("has not started its USB driver" in row["detail"] for row in world.db.history(other, "attach", "failed")),
           "the history says why")
    vm1.tell("guest free")  # it starts its driver between two attempts
    world.wait_attached(other, vm1)
    world.wait_attached(keyboard, vm1)


@story(seconds=25)
def crosvm_whose_usb_controller_has_died(world):
    """The guest starts its USB driver while a device of somebody else's is on a port, which crosvm's
    controller does not outlive: the view says so of what is for it, nothing is asked any more, and another
    process has everything."""
    early, keyboard = world.host.plug_mouse(), world.host.plug_keyboard()
    vm1 = world.vms["vm1"] = CrosvmVm("vm1")
    delay = a_delay_that_is_long_enough(vm1)
    vm1.begin()
    answer = vm1.attach_beside(early)
    expect(answer == "NoAvailablePort", f"it comes before there is a driver: {answer}")
    vm1.wait_ready()
    world.configure(vm1.config(waits=delay), KEYBOARDS)
    world.broker.start()
    second = world.host.plug_keyboard()
    world.wait_state(keyboard, "failed", "has stopped working; restart the VM")
    world.wait_state(second, "failed", "has stopped working; restart the VM")
    if not vm1.is_real:
        asked = len(vm1.requests(""))
        stays(lambda: len(vm1.requests("")) == asked, 5, "crosvm is left alone")
    vm1.kill9()
    vm1.start()
    for device in (keyboard, second):
        world.wait_attached(device, vm1)
    vm1.wait_sees(KEYBOARD, 2)


@story
def crosvm_killed_and_started_again(world):
    """crosvm dies by kill -9 and is started again: it gets its keyboards back."""
    vm1, left, right = two_keyboards(world, starts_again=True)
    vm1.kill9()
    world.wait_state(left, "waiting", "vm1")
    world.wait_state(right, "waiting", "vm1")
    vm1.start()
    world.wait_attached(left, vm1)
    world.wait_attached(right, vm1)
    world.wait_history(left, "attach", "ok", 2)
    vm1.wait_sees(KEYBOARD, 2)


@story
def crosvm_that_hangs(world):
    """While a crosvm does not answer, the view says so; when it answers again, nothing is lost or
    doubled. (That nobody else waits for it: what-is-stuck-delays-nobody.)"""
    vm1 = crosvm(world)
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    wait_until(lambda: "vm1: up" in world.broker.log(), 60, "the broker has seen it")
    with vm1.frozen():
        keyboard = world.host.plug_keyboard()
        world.wait_state(keyboard, "attaching", "does not answer")
    world.wait_attached(keyboard, vm1)
    vm1.expect_requests("AttachDevice", 1)
    vm1.wait_sees(KEYBOARD, 1)


def a_delay_that_is_long_enough(vm1):
    """It is started once for that."""
    vm1.start()
    vm1.end()
    return vm1.long_delay()


@story(seconds=25)
def crosvm_gets_devices_at_any_time(world):
    """A keyboard that is there before its boot, one that comes while its guest starts and one after that
    are in it, none before the guest's driver; as often as VMM_TIMES says."""
    vm1 = world.vms["vm1"] = CrosvmVm("vm1")
    delay = a_delay_that_is_long_enough(vm1) or True  # True: the one that it has by itself
    before = world.host.plug_keyboard()
    world.configure(vm1.config(waits=delay), KEYBOARDS)
    world.broker.start()
    for boot in range(TIMES):
        world.wait_state(before, "waiting")
        vm1.begin(has_guest=True)  # the stand-in's has its driver at once: a busy machine is no failure
        during = world.host.plug_keyboard()
        vm1.wait_ready()
        for device in (before, during):
            world.wait_attached(device, vm1)
        after = world.host.plug_keyboard()
        world.wait_attached(after, vm1)
        vm1.wait_sees(KEYBOARD, 3)
        vm1.end(signal.SIGTERM if boot % 2 else signal.SIGKILL)
        for device in (during, after):
            device.unplug()
        early = len(world.db.history(before, "attach", "failed"))
        print(f"  boot {boot + 1} of {TIMES}: three keyboards in the guest, {early} attach(es) before its driver")
    expect(not early, "none has come too early")


@story(seconds=20)
def crosvm_gets_a_disk_that_another_one_had(world):
    """The guest reads a USB disk; crosvm is ended in good order or killed, and the next one's guest reads it
    too. Taken from it for good, while it runs or after that, the disk is the host's by its own driver."""
    disk = world.host.plug_disk()
    vm1 = world.vms["vm1"] = CrosvmVm("vm1")
    delay = a_delay_that_is_long_enough(vm1)
    world.configure(vm1.config(waits=delay), DISKS)
    world.broker.start()
    for how in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        vm1.start()
        world.wait_attached(disk, vm1)
        vm1.wait_sees("disk-disk1")
        vm1.end(how)
        world.wait_state(disk, "waiting", "not running")
    vm1.start()
    for runs in (True, False):
        world.wait_attached(disk, vm1)
        vm1.wait_sees("disk-disk1")
        if not runs:
            vm1.end()
            world.wait_state(disk, "waiting", "not running")
        world.configure(vm1.config(waits=delay))
        wait_until(lambda: disk.drivers() == ["usb-storage"], 60, lambda: f"the host has it by {disk.drivers()}")
        if runs:
            vm1.wait_sees("disk-disk1", 0)
            world.configure(vm1.config(waits=delay), DISKS)


# PCI

XHCI = "1b36:000d"
HUB = "usb-1d6b:0002"  # of a USB controller whose driver runs; crosvm's guest has one from the start


@contextlib.contextmanager
def card_on_bus_1(world):
    """With-block: a USB controller is there on bus 1 of the host, where crosvm's guest sees what comes while
    it runs."""
    monitor = world.host.monitor
    monitor.command("device_add", driver="qemu-xhci", id="hot-card", bus="rp1")
    try:
        card, = wait_until(lambda: [card for card in functions(*XHCI.split(":")) if card.name.startswith("0000:01:")],
                           60, "the kernel sees it")
        wait_driver(card, "xhci_hcd")
        yield card
    finally:
        for vm in world.vms.values():
            vm.kill9()
        world.broker.stop()
        give_back_all()
        monitor.command("device_del", id="hot-card")
        wait_until(lambda: all(entry["name"] != "hot-card" for entry in
                               monitor.command("qom-list", path="/machine/peripheral")), 60, "it is pulled out")


def rule_for(*cards):
    return "[pci Cards for vm1]\ntargetVm = vm1\n" + "".join(f"[allow {card}]\naddress = {card}\n" for card in cards)


def vm_with_card(world, card, starts_again=False):
    vm1 = crosvm(world)
    world.configure(vm1.config(waits=vm1.long_delay() if starts_again else None), rule_for(card))
    world.broker.start()
    wait_has(world, vm1, card)
    return vm1


def wait_has(world, vm1, card):
    world.wait_state(card, "attached", "vm1 has it")
    expect(vm1.functions(card) == [card], f"vm1 has {vm1.functions(card)}")
    expect(card.driver() == "vfio-pci", f"{card.driver()} holds it")
    vm1.wait_sees(HUB, 2)


@story
def crosvm_gets_a_card_and_keeps_it(world):
    """A card of the right host bus moves into crosvm, and its guest's driver runs it; it stays there
    through a restart of the broker. When its rule is withdrawn the view says that only the VM's end gives
    it back, the host does not take it from under the VM, and has it again after that."""
    with card_on_bus_1(world) as card:
        vm1 = vm_with_card(world, card)
        world.broker.kill9()
        world.broker.start()
        world.wait_state(card, "attached")
        stays(lambda: vm1.functions(card) == [card], 2, "it stays there")
        vm1.expect_requests("HotPlugVfioCommand", 1)
        world.configure(vm1.config())
        world.wait_state(card, "releasing",
                         "crosvm gives no card back while it runs: stays in vm1 until that is stopped")
        stays(lambda: card.driver() == "vfio-pci" and vm1.functions(card), 5, "the host does not take it")
        world.wait_state(card, "releasing", "stays in vm1")
        vm1.wait_sees(HUB, 2)
        vm1.end(signal.SIGTERM)
        wait_driver(card, "xhci_hcd")
        wait_until(lambda: world.db.assignment(card) is None, 60, "it has no row any more")
        detach, = world.wait_history(card, "detach", "ok")
        expect(detach["cause"] == "vm-exit", f"the history says {tuple(detach)}")


@story
def crosvm_takes_no_card_that_its_guest_would_not_see(world):
    """A card of another host bus, and any with --pci-hotplug-slots: each is refused before crosvm is asked,
    with words, and stays with its host driver. The one that is there stays in the guest."""
    nic, other = functions("10ec", "8139")[0], nvme()
    with card_on_bus_1(world) as card:
        vm1 = vm_with_card(world, card)
        world.configure(vm1.config(), rule_for(card, nic, other))
        world.wait_state(nic, "refused", "bus 00 of the host: the guest of vm1 sees .* on bus 01 only")
        world.wait_state(other, "refused", "bus 04 of the host")
        wait_driver(nic, "8139cp")
        wait_driver(other, "nvme")
        vm1.expect_requests("HotPlugVfioCommand", 1)
        wait_has(world, vm1, card)
        vm1.kill9()
        vm1.arguments = ("--pci-hotplug-slots", "2")
        vm1.start()
        world.wait_state(card, "refused", "was started with --pci-hotplug-slots")
        wait_driver(card, "xhci_hcd")


@story
def crosvm_with_cards_from_its_start(world):
    """Cards of two host buses are given to crosvm on its command line: they count as attached, and one more
    comes while it runs. When the rules are withdrawn all stay until crosvm ends."""
    nic, other = functions("10ec", "8139")[0], nvme()
    for cold in (nic, other):
        take_for_vfio(cold)
    with card_on_bus_1(world) as card:
        world.vms["vm1"] = vm1 = CrosvmVm("vm1", arguments=("--vfio", f"{nic.sys},iommu=off", "--vfio", f"{other.sys}"))
        vm1.start()
        world.configure(vm1.config(), rule_for(card, nic, other))
        world.broker.start()
        for cold in (nic, other):
            world.wait_state(cold, "attached", "since the VM's start")
        vm1.wait_sees("pci-10ec:8139")
        vm1.wait_sees("disk-nvme")
        wait_has(world, vm1, card)
        world.configure(vm1.config())
        for which in (nic, other, card):
            world.wait_state(which, "releasing", "stays in vm1 until that is stopped")
        stays(lambda: {which.driver() for which in (nic, other, card)} == {"vfio-pci"}, 3, "the host takes none")
        vm1.kill9()
        wait_driver(nic, "8139cp")
        wait_driver(other, "nvme")
        wait_driver(card, "xhci_hcd")


@story
def crosvm_of_another_user(world):
    """It runs as nobody, who has no right on devices: a keyboard and a card get into it all the same."""
    keyboard = world.host.plug_keyboard()
    with card_on_bus_1(world) as card:
        vm1 = crosvm(world, user="nobody")
        world.configure(vm1.config(), rule_for(card), KEYBOARDS)
        world.broker.start()
        wait_has(world, vm1, card)
        world.wait_attached(keyboard, vm1)
        vm1.wait_sees(KEYBOARD)


@story
def crosvm_killed_with_a_card(world):
    """crosvm dies by kill -9 and is started again: it gets its card back."""
    with card_on_bus_1(world) as card:
        vm1 = vm_with_card(world, card, starts_again=True)
        vm1.kill9()
        world.wait_state(card, "waiting", "not running")
        vm1.start()
        wait_has(world, vm1, card)
        world.wait_history(card, "attach", "ok", 2)


class Mouse:
    """It comes to a crosvm and leaves it, while two keyboards with the same ids stay there."""

    def __init__(self, world, vm1, delay):
        self.world, self.vm1, self.rest = world, vm1, (vm1.config(waits=delay), KEYBOARDS)
        self.keyboards = [world.host.plug_keyboard(), world.host.plug_keyboard()]
        self.is_plugged()
        self.gets_a_rule()

    def is_plugged(self):
        self.device, self.inside = self.world.host.plug_mouse(), True

    def is_pulled_out(self):
        self.device.unplug()
        self.inside = False

    def loses_its_rule(self):
        self.world.configure(*self.rest)
        self.inside = False

    def gets_a_rule(self):
        self.world.configure(*self.rest, MICE)
        self.inside = True

    def wait_right(self):
        """The view, crosvm, its guest and the host agree on what is where."""
        count = 2 + self.inside
        for device in self.keyboards + [self.device] * self.inside:
            self.world.wait_attached(device, self.vm1)
        if not self.inside:
            wait_until(lambda: self.world.db.assignment(self.device) is None, 60, "the mouse has no row any more")
        if self.device.is_there() and not self.inside:
            wait_until(lambda: self.device.drivers() == ["usbhid"], 60,
                       lambda: f"the host has it by {self.device.drivers()}")
        wait_until(lambda: len(self.vm1.ports()) == count, 60, lambda: f"{count} ports are taken: {self.vm1.ports()}")
        self.vm1.wait_sees(KEYBOARD, count)


@story(seconds=25)
def crosvm_or_the_broker_killed_at_any_point(world):
    """A mouse loses its rule, gets it again, is pulled out and plugged in. Before, in or after each of these the
    broker dies by kill -9, or crosvm does, or both, as often as VMM_TIMES says, thrice at most: when they are there
    again, the mouse is where it should be, and the keyboards beside it too."""
    vm1 = world.vms["vm1"] = CrosvmVm("vm1")
    delay = a_delay_that_is_long_enough(vm1)
    vm1.start()
    mouse = Mouse(world, vm1, delay)
    world.broker.start()
    mouse.wait_right()
    attach, = world.db.history(mouse.device, "attach", "ok")
    kills = Kills(world, vm1, attach["milliseconds"] / 1000)
    for _ in range(min(TIMES, len(VICTIMS))):  # then each has died around each
        for act in (mouse.loses_its_rule, mouse.gets_a_rule, mouse.is_pulled_out, mouse.is_plugged):
            kills.around(mouse.device, act)
            mouse.wait_right()
    kills.tell()
