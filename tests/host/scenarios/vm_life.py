"""VMs come and go, and so does the broker; devices find their way all the same."""
import time

from lib.story import story
from lib.wait import expect, stays, wait_until
from lib.world import KEYBOARDS, RUNTIME


@story
def vm_started_after_the_plug(world):
    """The keyboard waits, and the view says for what; when QEMU starts, it arrives."""
    vm1 = world.vm("vm1")
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    world.wait_state(keyboard, "waiting", "vm1")
    expect(not world.db.history(keyboard), "the history has nothing that did not happen")
    vm1.start()
    world.wait_attached(keyboard, vm1)
    attach, = world.wait_history(keyboard, "attach", "ok")
    expect(attach["cause"] == "vm-start", f"the cause is {attach['cause']}")


@story
def vm_killed_and_started_again(world):
    """QEMU dies by kill -9: its assignments close; started again, it gets its keyboard back."""
    keyboard, vm1 = world.keyboard_in_vm1()
    vm1.kill9()
    world.wait_state(keyboard, "waiting", "vm1")
    detach, = world.wait_history(keyboard, "detach", "ok")
    expect(detach["cause"] == "vm-exit", f"the cause is {detach['cause']}")
    vm1.start()
    world.wait_attached(keyboard, vm1)
    world.wait_history(keyboard, "attach", "ok", 2)
    expect(len(world.db.history(keyboard)) == 3, "and nothing else happened")


@story
def unplugged_while_the_vm_is_down(world):
    """What is pulled out while its VM is down is not handed to it later."""
    keyboard, vm1 = world.keyboard_in_vm1()
    vm1.kill9()
    world.wait_state(keyboard, "waiting")
    keyboard.unplug()
    wait_until(lambda: world.db.assignment(keyboard) is None, 60, "it has no row any more")
    vm1.start()
    stays(lambda: not vm1.usb_ids(), 3, "the VM has nothing")


@story
def broker_killed_between_event_and_attach(world):
    """The event is on record, the attach is not out yet (the monitor is held): kill -9. Restarted,
    the broker attaches, once."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    with vm1.hold_monitor():
        keyboard = world.host.plug_keyboard()
        wait_until(lambda: world.db.assignment(keyboard), 60, "the event is on record")
        world.udev.settle()
        world.broker.kill9()
        expect(not vm1.usb_ids(), "nothing is attached yet")
    world.broker.start()
    world.wait_attached(keyboard, vm1)
    world.wait_history(keyboard, "attach", "ok")
    expect(len(vm1.commands("device_add")) == 1, f"QEMU was asked once: {vm1.commands('device_add')}")


@story
def broker_killed_at_any_time(world):
    """Killed at various moments after the plug and after the unplug: nothing lost, nothing doubled."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    for delay in (0.05, 0.2, 0.4, 0.6, 0.9):
        keyboard = world.host.plug_keyboard(port=1)
        time.sleep(delay)
        world.broker.kill9()
        world.udev.settle()
        world.broker.start()
        world.wait_attached(keyboard, vm1)
        keyboard.unplug()
        time.sleep(delay)
        world.broker.kill9()
        world.udev.settle()
        world.broker.start()
        wait_until(lambda: not vm1.usb_ids(), 60, "it is gone from the VM")
        wait_until(lambda: world.db.assignment(keyboard) is None, 60, "it has no row any more")
    actions = [row["action"] for row in world.db.history(keyboard, result="ok")]
    expect(actions == ["attach", "detach"] * 5, f"the history says {actions}")


@story
def broker_down_while_plugging(world):
    """What happens while no broker runs is spooled, and drained in order: in, out, in is in."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS)
    for _ in range(2):
        world.host.plug_keyboard(port=1)
        world.udev.settle()
        next(iter(world.host.plugged.values())).unplug()
        world.udev.settle()
    keyboard = world.host.plug_keyboard(port=1)
    gone = world.host.plug_keyboard(port=2)
    world.udev.settle()
    gone.unplug()
    world.udev.settle()
    spool = RUNTIME / "spool"
    spooled = sorted(path.name for path in spool.iterdir())
    expect(len(spooled) >= 7, f"four plugs and three unplugs are in the spool: {spooled}")
    world.broker.start()
    world.wait_attached(keyboard, vm1)
    wait_until(lambda: not list(spool.iterdir()), 60, "the spool is empty")
    world.wait_history(keyboard, "attach", "ok")
    expect(vm1.usb_ids() == vm1.usb_ids(keyboard), "what was pulled out was never attached")
    expect(not world.db.history(gone, "attach"), "what was pulled out was never attached")


@story
def monitor_is_busy(world):
    """Somebody else sits on the monitor: the reason says so; when he leaves, the keyboard arrives."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    with vm1.hold_monitor():
        keyboard = world.host.plug_keyboard()
        world.udev.settle()  # udevd is not kept by it
        wait_until(lambda: (row := world.db.assignment(keyboard)) and "monitor" in row["reason"]
                   and row["state"] != "attached", 60,
                   lambda: f"the reason names the monitor: {tuple(world.db.assignment(keyboard) or ())}")
    world.wait_attached(keyboard, vm1)


@story
def vm_that_is_stopped_in_its_tracks(world):
    """A QEMU that does not answer delays no device of another VM."""
    vm1, vm2 = world.vm("vm1").start(), world.vm("vm2").start()
    world.configure(vm1.config(), vm2.config(), "[usb For vm1]\ntargetVm = vm1\n[allow mice]\n"
                    "interfaceClass = 3\ninterfaceProtocol = 2",
                    "[usb For vm2]\ntargetVm = vm2\n[allow keyboards]\ninterfaceClass = 3\ninterfaceProtocol = 1")
    world.broker.start()
    with vm1.frozen():
        mouse = world.host.plug_mouse()
        wait_until(lambda: world.db.assignment(mouse), 60, "the mouse is on record")
        keyboard = world.host.plug_keyboard()
        world.wait_attached(keyboard, vm2)
        expect(world.db.assignment(mouse)["state"] != "attached", "vm1 has not answered")
    world.wait_attached(mouse, vm1)
