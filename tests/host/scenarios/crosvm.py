"""Real devices into crosvm: what has no name but a port must not be mixed up. With the real one its
guest says what it sees; what only the stand-in can be told to do is played by that in any case."""
import os
import signal

from lib.crosvm import CrosvmVm
from lib.story import story
from lib.wait import expect, stays, wait_until
from lib.world import DISKS, KEYBOARDS

KEYBOARD = "usb-0627:0001"
TIMES = int(os.environ.get("VMM_TIMES", "1"))


def crosvm(world, name="vm1", **how):
    world.vms[name] = CrosvmVm(name, **how)
    return world.vms[name].start()


def two_keyboards(world, **how):
    vm1 = crosvm(world, **how)
    world.configure(vm1.config(), KEYBOARDS)
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
    wait_until(lambda: not vm1.ports(), 20, lambda: f"no port is lost: {vm1.ports()}")
    world.wait_history(other, "attach", "failed")
    wait_until(lambda: not vm1.ports() and vm1.tell("guest on"), 20, "the guest starts its driver between two attempts")
    world.wait_attached(other, vm1)
    world.wait_attached(keyboard, vm1)


@story
def crosvm_whose_usb_controller_has_died(world):
    """The guest starts its USB driver while a device is on a port, which crosvm's controller does not
    outlive: the view says so of the next device, nothing is asked any more, and another process has
    everything."""
    early = world.host.plug_keyboard()
    vm1 = world.vms["vm1"] = CrosvmVm("vm1").begin()
    answer = vm1.attach_beside(early)
    expect(answer == "NoAvailablePort", f"it comes before there is a driver: {answer}")
    vm1.wait_ready()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    second = world.host.plug_keyboard()
    world.wait_state(early, "failed", "has stopped working; restart the VM")
    world.wait_state(second, "failed", "has stopped working; restart the VM")
    if not vm1.is_real:
        asked = len(vm1.requests(""))
        stays(lambda: len(vm1.requests("")) == asked, 5, "crosvm is left alone")
    vm1.kill9()
    vm1.start()
    for device in (early, second):
        world.wait_attached(device, vm1)
    vm1.wait_sees(KEYBOARD, 2)


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
    vm1.wait_sees(KEYBOARD, 2)


@story
def crosvm_that_hangs(world):
    """While a crosvm does not answer, the view says so; when it answers again, nothing is lost or
    doubled. (That nobody else waits for it: what-is-stuck-delays-nobody.)"""
    vm1 = crosvm(world)
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    wait_until(lambda: "vm1: up" in world.broker.log(), 30, "the broker has seen it")
    with vm1.frozen():
        keyboard = world.host.plug_keyboard()
        world.wait_state(keyboard, "attaching", "does not answer")
    world.wait_attached(keyboard, vm1)
    vm1.expect_requests("AttachDevice", 1)
    vm1.wait_sees(KEYBOARD, 1)


@story
def crosvm_gets_devices_at_any_time(world):
    """A keyboard that is there before its boot, one that comes while its guest starts and one after that
    are in it, none before the guest's driver; as often as VMM_TIMES says."""
    before = world.host.plug_keyboard()
    vm1 = world.vms["vm1"] = CrosvmVm("vm1")
    world.configure(vm1.config(delay=None), KEYBOARDS)
    world.broker.start()
    for boot in range(TIMES):
        world.wait_state(before, "waiting")
        vm1.begin()
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
    print(f"  {TIMES} boot(s)")
    expect(not world.db.history(before, "attach", "failed"), "none has come too early")


@story
def crosvm_gets_a_disk_that_another_one_had(world):
    """The guest reads a USB disk; crosvm is ended in good order or killed, and the next one's guest reads it
    too. Taken from it for good, the disk is the host's again by its own driver."""
    disk = world.host.plug_disk()
    vm1 = world.vms["vm1"] = CrosvmVm("vm1")
    world.configure(vm1.config(delay=None if vm1.is_real else 0), DISKS)
    world.broker.start()
    for how in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        vm1.start()
        world.wait_attached(disk, vm1)
        vm1.wait_sees("disk-disk1")
        vm1.end(how)
        world.wait_state(disk, "waiting", "not running")
    vm1.start()
    world.wait_attached(disk, vm1)
    world.configure(vm1.config())
    wait_until(lambda: disk.drivers() == ["usb-storage"], 60, lambda: f"the host has it by {disk.drivers()}")
    vm1.wait_sees("disk-disk1", 0)
