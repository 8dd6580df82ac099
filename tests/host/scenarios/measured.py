"""What is measured. Emulation is slow, so only ratios inside one run mean anything."""
import statistics
import time

from lib.story import story
from lib.trace import recording
from lib.uevents import KERNEL, Listener
from lib.wait import Failed, expect, wait_until
from lib.world import HELPER, KEYBOARDS

ROUNDS = 7
BROKER, UDEV_WORKER = "vhotplug-broker", "(udev-worker)"


def _first(lines, who, what, after=0.0):
    for when, program, text in lines:
        if program == who and what in text and when >= after:
            return when
    raise Failed(f"the kernel's record has no {what} of {who}")


@story(build="release")
def device_add_comes_before_udevd_tells(world):
    """QEMU has its device_add before udevd has told anybody about the device: the broker's sendmsg
    into QEMU's socket is done before udevd's worker begins its broadcast."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    epoch = time.time() - time.monotonic()
    ratios = []
    with recording(sched__sched_process_exec=f'filename == "{HELPER}"',
                   syscalls__sys_exit_sendmsg=f'comm == "{BROKER}" && ret > 200',
                   syscalls__sys_enter_sendmsg=f'comm == "{UDEV_WORKER}"') as lines:
        for _ in range(ROUNDS):
            with Listener(KERNEL) as kernel:
                keyboard = world.host.plug_keyboard()
                time.sleep(2)  # rather than to look, and be in the way
                world.wait_attached(keyboard, vm1)
            record = lines()
            path = f"/{keyboard.sys.resolve().relative_to('/sys')}"
            began = kernel.first(ACTION="add", DEVPATH=path) - epoch
            helper = _first(record, "vhotplug-helper", "sched_process_exec", began)
            sent = _first(record, BROKER, "sys_sendmsg", helper)
            told = _first(record, UDEV_WORKER, "sys_sendmsg", helper)
            acted = vm1.commands('"device_add"')[-1][0] - epoch
            ratios.append((sent - helper) / (told - helper))
            print(f"  since the kernel's event: helper starts {1000 * (helper - began):.0f} ms, device_add is with "
                  f"QEMU {1000 * (sent - began):.0f} ms, udevd tells {1000 * (told - began):.0f} ms, QEMU reads it "
                  f"{1000 * (acted - began):.0f} ms; since the helper's start: ratio {ratios[-1]:.2f}")
            keyboard.unplug()
            wait_until(lambda: not vm1.usb_ids(), 30, "it is gone")
    print(f"  device_add before udevd's broadcast: ratio {statistics.median(ratios):.2f} (median of {ROUNDS}; "
          "below 1: QEMU has it first)")
    expect(max(ratios) < 1, f"QEMU had it first each time: {ratios}")
