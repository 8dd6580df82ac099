"""Input devices that are not USB: their event node goes into the VM as virtio-input-host-pci."""
from lib.parts import InputDevice
from lib.story import story
from lib.wait import expect, stays, wait_until

KEYBOARD = """
[evdev Input for vm1]
targetVm = vm1

[allow keyboard]
name = QEMU Virtio Keyboard
"""


def _keyboard():
    return InputDevice("QEMU Virtio Keyboard")


@story
def event_node_into_the_vm(world):
    """The virtio keyboard's node arrives, and the host gets it back when the rule is withdrawn."""
    keyboard = _keyboard()
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARD)
    world.broker.start()
    row = world.wait_in(keyboard, vm1, "virtio-input-host-pci")
    expect(row["name"] == "QEMU Virtio Keyboard", f"the name is {row['name']}")
    world.configure(vm1.config())
    world.wait_state(keyboard, "releasing", "waiting for the guest of vm1")
    vm1.reset()
    wait_until(lambda: not vm1.host_ids(keyboard), 60, "the VM has let go of it")
    wait_until(lambda: world.db.assignment(keyboard) is None, 60, "it has no row any more")
    with keyboard.grabbed():
        pass  # nobody else holds it


@story
def event_node_into_a_vm_of_nobody(world):
    """QEMU runs as nobody: the node becomes his for as long as the rule stands."""
    keyboard = _keyboard()
    owner = keyboard.owner()
    vm1 = world.vm("vm1", user="nobody").start()
    world.configure(vm1.config(), KEYBOARD)
    world.broker.start()
    world.wait_in(keyboard, vm1, "virtio-input-host-pci")
    expect(keyboard.owner() == 65534, f"the node belongs to {keyboard.owner()}")
    vm1.kill9()
    world.wait_state(keyboard, "waiting", "not running")
    world.configure(vm1.config())
    wait_until(lambda: keyboard.owner() == owner, 60, "the node belongs to root again")


@story
def vm_with_a_dev_of_its_own(world):
    """QEMU has a /dev in which the node is missing, as libvirt makes it: the reason says so, and does not speak
    of the user, who is right. Where QEMU sees the node, it goes."""
    keyboard = _keyboard()
    vm1 = world.vm("vm1")
    command = vm1.command
    vm1.command = ["unshare", "--mount", "--propagation", "private", "sh", "-c",
                   'mount -t tmpfs input /dev/input && exec "$@"', "sh", *command]
    vm1.start()
    world.configure(vm1.config("root"), KEYBOARD)
    world.broker.start()
    world.wait_state(keyboard, "waiting", f"has a /dev of its own without {keyboard.node}: make it there")
    vm1.kill9()
    vm1.command = command
    vm1.start()
    world.wait_in(keyboard, vm1, "virtio-input-host-pci")


@story
def grabbed_node_waits(world):
    """Somebody else has grabbed the node: it waits and the reason says who; when he lets go, it goes."""
    keyboard = _keyboard()
    vm1 = world.vm("vm1").start()
    with keyboard.grabbed() as process:
        world.configure(vm1.config(), KEYBOARD)
        world.broker.start()
        world.wait_state(keyboard, "refused", rf"held by sleep \(process {process.pid}\)")
        world.wait_history(keyboard, "attach", "refused")
        stays(lambda: not vm1.host_ids(), 2, "the VM has nothing")
    world.wait_in(keyboard, vm1, "virtio-input-host-pci")
    expect(len(world.db.history(keyboard)) == 2, "refused once, attached once")
