"""Real devices into a stand-in for crosvm: what has no name but a port must not be mixed up."""
from lib.crosvm import PROGRAM, CrosvmVm
from lib.parts import functions, wait_driver
from lib.story import story
from lib.wait import expect, stays, wait_until
from lib.world import KEYBOARDS
from scenarios.pci import NIC


def crosvm(world, name="vm1"):
    world.vms[name] = CrosvmVm(name)
    return world.vms[name].start()


def two_keyboards(world):
    vm1 = crosvm(world)
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    left, right = world.host.plug_keyboard(), world.host.plug_keyboard()
    world.wait_attached(left, vm1)
    world.wait_attached(right, vm1)
    return vm1, left, right


@story
def crosvm_keeps_twins_apart(world):
    """Two identical keyboards get two ports; when one is pulled out, the other stays, and the port
    is given to the next."""
    vm1, left, right = two_keyboards(world)
    expect(left.vid_pid == right.vid_pid, "they are twins")
    expect(sorted(vm1.ports()) == [1, 2], f"two ports are taken: {vm1.ports()}")
    row = world.db.assignment(right)
    port, = vm1.usb_ids(right)
    expect(f"port {port} " in row["reason"], f"the view says which port it has: {row['reason']}")
    left.unplug()
    wait_until(lambda: world.db.assignment(left) is None, 60, "it has no row any more")
    world.wait_history(left, "detach", "ok")
    expect(vm1.ports() == {port: right.node}, f"the other one stays: {vm1.ports()}")
    world.wait_state(right, "attached")
    third = world.host.plug_keyboard()
    world.wait_attached(third, vm1)
    expect(sorted(vm1.ports()) == [1, 2], f"the free port is used again: {vm1.ports()}")
    world.wait_history(right, "attach", "ok")
    expect(not world.db.history(right, "detach"), "nothing has happened to the one that stayed")


@story
def crosvm_and_a_restarted_broker(world):
    """Killed and restarted, the broker finds its devices on their ports, and leaves alone what is
    not on record; one that was pulled out meanwhile is gone."""
    vm1, left, right = two_keyboards(world)
    vm1.tell(f"foreign {left.attribute('idVendor')} {left.attribute('idProduct')} 2")
    before = vm1.ports()
    expect(before[3] == "foreign", f"somebody else has attached a twin: {before}")
    world.broker.kill9()
    world.broker.start()
    world.wait_attached(left, vm1)
    world.wait_attached(right, vm1)
    stays(lambda: vm1.ports() == before, 3, "every device stays where it was")
    expect(len(vm1.requests("AttachDevice")) == 2, "nothing is attached again")
    expect(not vm1.requests("DetachDevice"), "nothing is detached")
    world.broker.kill9()
    left.unplug()
    world.udev.settle()
    world.broker.start()
    wait_until(lambda: world.db.assignment(left) is None, 60, "it has no row any more")
    world.wait_attached(right, vm1)
    expect(sorted(vm1.ports().values()) == sorted(["foreign", right.node]),
           f"the other ones stay: {vm1.ports()}")


@story
def crosvm_answer_that_nobody_heard(world):
    """The broker is killed while crosvm carries out an attach. The next one finds the port that was
    taken, and the keyboard ends up in one."""
    vm1, left, right = two_keyboards(world)
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
    vm1 = crosvm(world)
    vm1.tell("guest off")
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    keyboard, other = world.host.plug_keyboard(), world.host.plug_keyboard()
    world.wait_state(keyboard, "waiting", "has not started its USB driver")
    world.wait_state(other, "waiting", "has not started its USB driver")
    wait_until(lambda: len(vm1.requests("AttachDevice")) >= 4, 60, "it is tried again and again")
    wait_until(lambda: not vm1.ports(), 20, lambda: f"no port is lost: {vm1.ports()}")
    world.wait_history(other, "attach", "failed")
    wait_until(lambda: not vm1.ports() and vm1.tell("guest on"), 20, "the guest starts its driver between two attempts")
    world.wait_attached(other, vm1)
    world.wait_attached(keyboard, vm1)


@story
def crosvm_whose_usb_controller_has_died(world):
    """The guest starts its USB driver while a device is on a port, which a real crosvm's controller does
    not outlive: the view says so of the next device, nothing is asked any more, and another process has
    everything. (What was there before is called attached until then: its crosvm has it still.)"""
    vm1, left, right = two_keyboards(world)
    vm1.tell("guest off")
    vm1.tell("guest on")
    third = world.host.plug_keyboard()
    world.wait_state(third, "failed", "has stopped working; restart the VM")
    asked = len(vm1.requests(""))
    stays(lambda: len(vm1.requests("")) == asked, 5, "crosvm is left alone")
    vm1.kill9()
    vm1.start()
    for device in (left, right, third):
        world.wait_attached(device, vm1)


@story
def crosvm_killed_and_started_again(world):
    """crosvm dies by kill -9 and is started again: it gets its keyboards back."""
    vm1, left, right = two_keyboards(world)
    vm1.kill9()
    world.wait_state(left, "waiting", "vm1")
    world.wait_state(right, "waiting", "vm1")
    vm1.start()
    world.wait_attached(left, vm1)
    world.wait_attached(right, vm1)
    world.wait_history(left, "attach", "ok", 2)


@story
def crosvm_that_hangs(world):
    """While a crosvm does not answer, the view says so; when it answers again, nothing is lost or
    doubled. (That nobody else waits for it: what-is-stuck-delays-nobody.)"""
    vm1 = crosvm(world)
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    wait_until(lambda: "vm1: up" in world.broker.log(), 30, "the broker has seen it")
    vm1.tell("hang")
    keyboard = world.host.plug_keyboard()
    world.wait_state(keyboard, "attaching", "does not answer")
    vm1.tell("go")
    world.wait_attached(keyboard, vm1)
    expect(len(vm1.requests("AttachDevice")) == 1, "it was asked once")


def nic_in_crosvm(world):
    """An RTL8139 is in vm1, by the program that stands in for crosvm's."""
    nic, = functions("10ec", "8139")
    wait_driver(nic, "8139cp")
    vm1 = crosvm(world)
    world.configure(f"[general]\ncrosvm = {PROGRAM}\n", vm1.config(), NIC)
    world.broker.start()
    world.wait_state(nic, "attached", "vm1 has it")
    expect(vm1.functions() == [nic.name], f"vm1 has {vm1.functions()}")
    expect(nic.driver() == "vfio-pci", f"{nic.driver()} holds it")
    return nic, vm1


@story
def crosvm_gets_a_network_card_and_gives_it_back(world):
    """It moves into crosvm, stays there through a restart of the broker, and is with its host driver
    again when the rule is withdrawn."""
    nic, vm1 = nic_in_crosvm(world)
    world.broker.kill9()
    world.broker.start()
    world.wait_state(nic, "attached")
    stays(lambda: vm1.functions() == [nic.name], 2, "it stays there")
    expect(len(vm1.requests("HotPlugVfioCommand")) == 1, "and is not asked for again")
    world.configure(f"[general]\ncrosvm = {PROGRAM}\n", vm1.config())
    wait_driver(nic, "8139cp")
    wait_until(lambda: world.db.assignment(nic) is None, 20, "it has no row any more")
    expect(not vm1.functions(), f"vm1 has {vm1.functions()}")
    detach, = world.wait_history(nic, "detach", "ok")
    expect(detach["cause"] == "config", f"the history says {tuple(detach)}")


@story
def crosvm_guest_that_keeps_its_network_card(world):
    """crosvm says that all is well, and its guest does not let go: only when the kernel says that the
    group is free does the host driver get the card."""
    nic, vm1 = nic_in_crosvm(world)
    vm1.tell("pci keep")
    world.configure(f"[general]\ncrosvm = {PROGRAM}\n", vm1.config())
    world.wait_state(nic, "releasing", "waiting for the guest of vm1 to let go of it")
    stays(lambda: nic.driver() == "vfio-pci", 3, "the host does not take it from under the VM")
    vm1.tell("pci let-go")
    wait_driver(nic, "8139cp")


@story
def crosvm_killed_with_a_network_card(world):
    """crosvm dies by kill -9 and is started again: it gets its card back."""
    nic, vm1 = nic_in_crosvm(world)
    vm1.kill9()
    world.wait_state(nic, "waiting", "not running")
    vm1.start()
    world.wait_state(nic, "attached")
    expect(vm1.functions() == [nic.name], f"vm1 has {vm1.functions()}")
    world.wait_history(nic, "attach", "ok", 2)
