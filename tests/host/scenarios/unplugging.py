"""PCI unplugging with a guest that runs an operating system."""
import pathlib
import time

from lib import guest
from lib.parts import InputDevice, functions, wait_driver
from lib.story import story
from lib.wait import expect, wait_until
from scenarios.evdev import KEYBOARD as INPUT
from scenarios.isolation import SOUND
from scenarios.pci import NIC


@story(seconds=110)
def a_guest_that_lets_go_and_one_that_does_not(world):
    """The guest's kernel releases a card and an input device when it is asked to, without a reset, also
    when it is asked before it runs. A card that a program in the guest uses it does not release, until a
    reset. One boot for both, since it takes minutes."""
    folder = pathlib.Path("/run/test/guest")
    folder.mkdir(exist_ok=True)
    nic, card = functions("10ec", "8139")[0], functions("1274", "5000")[0]
    keyboard = InputDevice("QEMU Virtio Keyboard")
    vm1 = world.vm("vm1", paused=False, arguments=guest.arguments(world.stage.parent / "kernel/vmlinuz", folder))
    begin = time.monotonic()
    vm1.start()
    world.configure(vm1.config(), NIC, INPUT)
    world.broker.start()
    world.wait_in(nic, vm1, "vfio-pci")
    world.wait_in(keyboard, vm1, "virtio-input-host-pci")
    # Too early: nobody is there yet who could let go.
    world.configure(vm1.config(), NIC)
    world.wait_state(keyboard, "releasing")
    guest.wait_said(folder, "ready")
    print(f"  the guest was up after {time.monotonic() - begin:.0f} s")
    wait_until(lambda: world.db.assignment(keyboard) is None, 120, "the guest has let go of the input device")
    world.wait_history(keyboard, "detach", "ok")
    world.configure(vm1.config())
    wait_driver(nic, "8139cp", 120)
    detach, = world.wait_history(nic, "detach", "ok")
    print(f"  the guest let go of the card after {detach['milliseconds']} ms")
    expect(not vm1.host_ids(), "the VM has nothing left")
    # In again, while it runs: a program in the guest uses it, and its driver waits for that one.
    world.configure(vm1.config(), SOUND)
    world.wait_in(card, vm1, "vfio-pci")
    guest.wait_said(folder, "uses the sound card", 300)
    world.configure(vm1.config())
    world.wait_state(card, "releasing", "waiting for the guest")
    world.wait_state(card, "releasing", "does not let go of it; unload its driver there, or reset or stop the VM")
    expect(card.driver() == "vfio-pci", "the host does not take it from under the VM")
    vm1.reset()
    wait_driver(card, "snd_ens1370", 120)
    world.wait_history(card, "detach", "ok")
