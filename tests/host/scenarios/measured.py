"""What is measured. Emulation is slow, so only ratios inside one run mean anything."""
import statistics

from lib.story import story
from lib.uevents import KERNEL, UDEV, Listener
from lib.wait import expect, wait_until
from lib.world import KEYBOARDS

ROUNDS = 5


@story(build="release")
def device_add_comes_before_udevd_tells(world):
    """QEMU has its device_add before udevd has told anybody else about the device."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    ratios = []
    for _ in range(ROUNDS):
        with Listener(KERNEL) as kernel, Listener(UDEV) as udev:
            keyboard = world.host.plug_keyboard()
            world.wait_attached(keyboard, vm1)
            path = f"/{keyboard.sys.resolve().relative_to('/sys')}"
            told = wait_until(lambda: udev.first(ACTION="add", DEVPATH=path), 30, "udevd has told everybody")
            began = kernel.first(ACTION="add", DEVPATH=path)
        asked = vm1.commands(f"vhp-{keyboard.name}-")[0][0]
        ratios.append((asked - began) / (told - began))
        print(f"  kernel event → device_add in QEMU {1000 * (asked - began):.0f} ms, "
              f"→ udevd's broadcast {1000 * (told - began):.0f} ms, ratio {ratios[-1]:.2f}")
        keyboard.unplug()
        wait_until(lambda: not vm1.usb_ids(), 30, "it is gone")
    print(f"  device_add before udevd's broadcast: ratio {statistics.median(ratios):.2f} (median of {ROUNDS})")
    expect(max(ratios) < 1, f"QEMU was asked before udevd told, each time: {ratios}")
