"""Runs inside the emulated host that has neither systemd nor udevd: mdev calls vhotplug-mdev, and the
broker is a process that nobody looks after."""
import os
import pathlib
import subprocess

from lib.steps import CONFIG, KEYBOARDS, PATIENCE, brokers, main, run
from lib.wait import expect, wait_until

MDEV = "/usr/libexec/vhotplug/vhotplug-mdev"
LOG = pathlib.Path("/run/broker.log")
SOCKET = pathlib.Path("/run/vhotplug/event.sock")


broker = None


def start_broker(*arguments):
    global broker
    with LOG.open("ab") as log:
        broker = subprocess.Popen(["/usr/sbin/vhotplug-broker", "-d", *arguments], stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=log)
    wait_until(SOCKET.exists, PATIENCE, "the broker listens")


def stop_broker():
    broker.terminate()
    expect(broker.wait(PATIENCE) == 0, LOG.read_text)
    wait_until(lambda: not brokers(), PATIENCE, lambda: f"it has ended; there is {brokers()}")


def neither_systemd_nor_udevd(world):
    """What this is about."""
    names = {path.read_text().strip() for path in pathlib.Path("/proc").glob("[0-9]*/comm")}
    expect(not [name for name in names if "systemd" in name or "udevd" in name], str(names))
    expect("mdev" in names or "busybox" in names, str(names))


def plugged_and_unplugged(world):
    """A keyboard is in the VM when it is plugged in, and out when it is pulled out."""
    CONFIG.write_text(world.vm.config() + KEYBOARDS)
    start_broker()
    run(MDEV, "--all")
    world.plug()
    world.unplug()
    world.plug()


def restarted(world):
    """Another broker finds in libudev's files what was decided: the VM keeps the device."""
    stop_broker()
    start_broker()
    world.expect_untouched()


def vm_restarted(world):
    world.vm.kill9()
    world.vm.start()
    world.wait_attached()


def plugged_while_the_broker_is_down(world):
    """The event waits in the spool."""
    world.unplug()
    stop_broker()
    world.keyboard = world.host.plug_keyboard()
    wait_until(lambda: any(pathlib.Path("/run/vhotplug/spool").glob("[0-9]*")), PATIENCE, "it is in the spool")
    start_broker()
    world.wait_attached()


def rule_withdrawn(world):
    """Another config, applied: the host has the device again."""
    CONFIG.write_text(world.vm.config())
    run(MDEV, "--all")
    wait_until(lambda: not world.vm.usb_ids(), PATIENCE, world.db.dump)
    wait_until(lambda: world.keyboard.drivers() == ["usbhid"], PATIENCE, "the host's driver has it")
    CONFIG.write_text(world.vm.config() + KEYBOARDS)
    run(MDEV, "--all")
    world.wait_attached()
    world.note()


def nothing_resident(world):
    """Told to end when idle, it does, and the VM keeps what it has; the next one starts where it was."""
    stop_broker()
    start_broker("--exit-when-idle")
    expect(broker.wait(PATIENCE) == 0 and not brokers(), "it has ended by itself, in good order")
    expect(world.vm.usb_ids(world.keyboard) == world.ids, "the VM has it")
    expect("nothing to do: ending" in LOG.read_text(), "it says so")
    start_broker("--exit-when-idle")
    world.expect_untouched()
    expect(broker.wait(PATIENCE) == 0 and not brokers(), "it has ended by itself, in good order")


STEPS = [neither_systemd_nor_udevd, plugged_and_unplugged, restarted, vm_restarted,
         plugged_while_the_broker_is_down, rule_withdrawn, nothing_resident]


def evidence():
    tags = pathlib.Path("/run/udev/tags/vhotplug")
    return LOG.read_text() + str(os.listdir(tags) if tags.exists() else "no tags") + \
        subprocess.run(["dmesg"], capture_output=True, text=True).stdout[-2000:]


if __name__ == "__main__":
    main("mdev", STEPS, evidence)
