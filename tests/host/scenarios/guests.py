"""What "attached" means to the guest: one runs, has the device, and it works there."""
from lib.story import story
from lib.wait import wait_until

MICE = """
[usb Mice for vm1]
targetVm = vm1

[allow mice]
interfaceClass = 3
interfaceProtocol = 2
"""
BTN_LEFT = 272


def click_arrives(world, vm):
    """A button is pressed on the mouse that is plugged in, and the guest is told."""
    before = len(vm.console.keys())

    def clicked():
        # Until the guest listens, a press is lost, as in life.
        world.host.click()
        return BTN_LEFT in vm.console.keys()[before:]
    wait_until(clicked, 60, lambda: f"the guest sees the click; it said: {vm.console.text()[-500:]}")


@story(guest=True, seconds=35)
def mouse_into_a_running_guest(world):
    """The guest of a QEMU that runs as nobody enumerates it, a click arrives there, and it is gone when it is
    pulled out."""
    vm1 = world.vm("vm1", user="nobody", guest=True).start()
    world.configure(vm1.config(), MICE)
    world.broker.start()
    for _ in range(2):
        mouse = world.host.plug_mouse()
        ids = mouse.vid_pid
        world.wait_attached(mouse, vm1)
        vm1.console.wait_has(f"usb-{ids}")
        click_arrives(world, vm1)
        mouse.unplug()
        vm1.console.wait_lost(f"usb-{ids}")
