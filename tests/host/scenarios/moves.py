"""Devices that change their VM, and VMs with particular wishes about where devices go."""
import re
import subprocess
import time

from lib.fakeusb import FakeUsbDevice
from lib.parts import InputDevice
from lib.qemu import version
from lib.story import story
from lib.wait import expect, stays, wait_until
from lib.world import KEYBOARDS
from scenarios.evdev import KEYBOARD as INPUT

FOR_VM2 = KEYBOARDS.replace("vm1", "vm2")


def _actions(world, device):
    return [(row["action"], row["vm"], row["result"]) for row in world.db.history(device)]


@story
def from_one_vm_to_another(world):
    """The config names another VM: the keyboard leaves the first, really, and arrives in the second."""
    keyboard, vm1 = world.keyboard_in_vm1()
    vm2 = world.vm("vm2").start()
    world.configure(vm1.config(), vm2.config(), FOR_VM2)
    wait_until(lambda: vm2.usb_ids(keyboard), 60, "vm2 has it")
    row = world.wait_attached(keyboard, vm2)
    expect(row["rule"] == "usb/Devices for vm2/keyboards", f"the rule is {row['rule']}")
    expect(not vm1.usb_ids(), "vm1 no longer has it")
    actions = _actions(world, keyboard)
    expect(actions == [("attach", "vm1", "ok"), ("detach", "vm1", "ok"), ("attach", "vm2", "ok")],
           f"the history says {actions}")
    causes = {row["cause"] for row in world.db.history(keyboard)[1:]}
    expect(causes == {"config"}, f"the causes are {causes}")


def _resets(device):
    dmesg = subprocess.run(["dmesg"], capture_output=True, text=True, check=True).stdout
    return len(re.findall(rf"usb {re.escape(device.name)}: reset .* USB device", dmesg))


def _kept_open(world, device):
    return [row["vm"] for row in world.db.history(device, "detach", "open")]


@story(seconds=20)
def reset_between_two_vms(world):
    """reset = yes: the kernel resets the keyboard before the next VM gets it. And what a VM keeps open is said: a
    QEMU before 9.1 whose guest is paused keeps what it was given (remove-fd closes nothing then), others do not."""
    keyboard, vm1 = world.keyboard_in_vm1()
    vm2 = world.vm("vm2", paused=False).start()
    world.configure(vm1.config(), vm2.config(), FOR_VM2)
    world.wait_attached(keyboard, vm2)
    keepers = ["vm1"] if version() < (9, 1) else []
    if keepers:
        wait_until(lambda: _kept_open(world, keyboard) == keepers, 60, "vm1 keeps it open, and the history says so")
        row = world.db.assignment(keyboard)
        expect("still has it open, as vm1 had it" in row["reason"], f"the reason is {row['reason']}")
    before = _resets(keyboard)
    world.configure(vm1.config(), vm2.config(), KEYBOARDS + "reset = yes\n")
    world.wait_attached(keyboard, vm1)
    # vm2's BIOS, which may be starting, resets it besides.
    wait_until(lambda: _resets(keyboard) >= before + 2, 60, "it was reset by QEMU as it let go, and once more")
    stays(lambda: _kept_open(world, keyboard) == keepers, 5, "nobody else is said to keep it open")


@story
def a_move_that_fails(world):
    """The second VM has no USB controller: the keyboard is back in the first; the history says both,
    and the view says why it is where it is."""
    keyboard, vm1 = world.keyboard_in_vm1()
    vm2 = world.vm("vm2")
    vm2.command = [word for at, word in enumerate(vm2.command)
                   if "qemu-xhci" not in word and "qemu-xhci" not in "".join(vm2.command[at + 1:at + 2])]
    vm2.start()
    # vm1 is still a candidate of nothing: it is where the keyboard was.
    world.configure(vm1.config(), vm2.config(), FOR_VM2)
    world.wait_history(keyboard, "attach", "failed")
    world.wait_state(keyboard, "attached", "back in vm1; the move to vm2 failed: .*qemu-xhci")
    expect(len(vm1.usb_ids(keyboard)) == 1, "vm1 has it again")
    actions = _actions(world, keyboard)
    expect(actions == [("attach", "vm1", "ok"), ("detach", "vm1", "ok"), ("attach", "vm2", "failed"),
                       ("attach", "vm1", "ok")], f"the history says {actions}")
    time.sleep(3)
    expect(len(_actions(world, keyboard)) == 4, f"it stays there: {_actions(world, keyboard)}")
    # vm2 starts anew, with a controller: now the move works.
    vm2.kill9()
    world.vm("vm2").start()
    wait_until(lambda: world.vms["vm2"].usb_ids(keyboard), 60, "vm2 has it")
    world.wait_attached(keyboard, world.vms["vm2"])


@story
def a_move_that_waits_for_the_guest(world):
    """An input device moves: the other VM gets it only when the guest of the first has let go."""
    keyboard = InputDevice("QEMU Virtio Keyboard")
    vm1, vm2 = world.vm("vm1").start(), world.vm("vm2").start()
    world.configure(vm1.config(), vm2.config(), INPUT)
    world.broker.start()
    world.wait_in(keyboard, vm1, "virtio-input-host-pci")
    world.configure(vm1.config(), vm2.config(), INPUT.replace("vm1", "vm2"))
    world.wait_state(keyboard, "releasing", "waiting for the guest of vm1")
    stays(lambda: not vm2.host_ids(), 2, "vm2 does not have it yet")
    vm1.reset()
    wait_until(lambda: vm2.host_ids(keyboard), 60, "vm2 has it")
    world.wait_in(keyboard, vm2, "virtio-input-host-pci")


@story
def a_move_to_a_full_vm(world):
    """The second VM has no port for it: back in the first, once, until the second has room."""
    keyboard = InputDevice("QEMU Virtio Keyboard")
    vm1, vm2 = world.vm("vm1").start(), world.vm("vm2", root_ports=1).start()
    with vm2.monitor() as monitor:
        monitor.command("device_add", driver="virtio-rng-pci", id="stone", bus="rp1", addr="0")
    world.configure(vm1.config(), vm2.config(), INPUT)
    world.broker.start()
    world.wait_in(keyboard, vm1, "virtio-input-host-pci")
    world.configure(vm1.config(), vm2.config(), INPUT.replace("vm1", "vm2"))
    world.wait_state(keyboard, "releasing", "waiting for the guest of vm1")
    vm1.reset()
    world.wait_state(keyboard, "attached", "back in vm1; the move to vm2 failed: .*no free PCIe port")
    count = len(world.db.history(keyboard))
    time.sleep(5)
    expect(len(world.db.history(keyboard)) == count, f"it goes back and forth: {_actions(world, keyboard)}")


@story
def buses_in_order(world):
    """usbBus = b.0, a.0: what finds no port on the first goes to the second, whatever order QEMU has."""
    vm1 = world.vm("vm1", arguments=("-device", "qemu-xhci,id=a,p2=4,p3=4", "-device", "qemu-xhci,id=b,p2=1,p3=1"))
    vm1.start()
    world.configure(vm1.config() + "usbBus = b.0, a.0\n", KEYBOARDS)
    world.broker.start()
    first = world.host.plug_keyboard()
    row = world.wait_attached(first, vm1)
    expect("of b.0" in row["reason"], f"the first is {row['reason']}")
    second = world.host.plug_keyboard()
    row = world.wait_attached(second, vm1)
    expect("of a.0" in row["reason"], f"the second is {row['reason']}")


@story
def bus_that_is_too_slow(world):
    """A bus on which the device can't run is passed over for the next one."""
    vm1 = world.vm("vm1", arguments=("-device", "piix3-usb-uhci,id=slow", "-device", "qemu-xhci,id=b,p2=4,p3=4"))
    vm1.start()
    world.configure(vm1.config() + "usbBus = slow.0, b.0\n", KEYBOARDS,
                    "[usb Cameras]\ntargetVm = vm1\n[allow camera]\nvendorId = 1209\nproductId = cafe")
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    row = world.wait_attached(keyboard, vm1)
    expect("on slow.0" in row["reason"], f"it is {row['reason']}")
    with FakeUsbDevice(0x1209, 0xcafe, camera=True) as camera:
        row = world.wait_state(camera, "attached")
        expect("of b.0" in row["reason"], f"it is {row['reason']}")
        expect("speed mismatch" in vm1.log(), "QEMU has tried the slow one first")
        expect(vm1.holds(camera), f"{vm1.name} has {vm1.usb_ids()}")


@story
def delay(world):
    """A VM that wants to be left alone while it starts gets its devices after that time."""
    vm1 = world.vm("vm1")
    world.configure(vm1.config() + "delay = 15\n", KEYBOARDS)
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    begin = time.monotonic()
    vm1.start()
    world.wait_state(keyboard, "waiting", r"15 s after its start \(delay\)")
    world.wait_attached(keyboard, vm1)
    expect(time.monotonic() - begin >= 14, f"it came after {time.monotonic() - begin:.1f} s")


@story
def family(world):
    """A device that comes back on the same port under another id stays with its VM, although a group
    above names another VM for what it is now."""
    vm1, vm2 = world.vm("vm1").start(), world.vm("vm2").start()
    world.configure(vm1.config(), vm2.config(), "[usb Mice]\ntargetVm = vm2\n[allow mice]\nfamily = board\n"
                    "interfaceClass = 3\ninterfaceProtocol = 2", KEYBOARDS + "family = board\n")
    world.broker.start()
    keyboard = world.host.plug_keyboard(port=3)
    world.wait_attached(keyboard, vm1)
    keyboard.unplug()
    mouse = world.host.plug_mouse(port=3)
    world.wait_attached(mouse, vm1)
    # Elsewhere it is a mouse like any other.
    other = world.host.plug_mouse(port=4)
    world.wait_attached(other, vm2)
    # And so is one that comes too late.
    mouse.unplug()
    time.sleep(11)
    late = world.host.plug_mouse(port=3)
    world.wait_attached(late, vm2)
