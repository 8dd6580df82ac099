"""Steps inside the emulated host that has systemd as process 1, and has just started with 20 USB devices and
rules for every disk, two of which stand in fstab, and every keyboard (system-prepare): what the host needs to
start is left alone, before the broker runs and afterwards; the rest is in a VM that starts long after it. The
root is read-only, /var is in memory."""
import errno
import os
import pathlib
import subprocess

from lib.steps import PATIENCE, run
from lib.wait import expect, wait_until

KEYBOARDS, DISK = 11, "usb-46f4:0001"
MOUNTS = ("srv-needed.mount", "srv-nice.mount")


def state(unit):
    return run("systemctl", "show", "-p", "ActiveState", "--value", unit).strip()


def disk_of(label):
    """The disk's name and its USB device's directory."""
    name = pathlib.Path(f"/dev/disk/by-label/{label}").resolve(strict=True).name
    device = pathlib.Path(f"/sys/class/block/{name}").resolve()
    while not (device / "idVendor").exists():
        device = device.parent
    return name, device


def properties(name):
    text = run("udevadm", "info", "--query=property", f"/sys/class/block/{name}")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def expect_mounted(when):
    for mount in MOUNTS:
        expect(state(mount) == "active", lambda mount=mount: f"{mount} is {state(mount)} {when}:\n" +
               subprocess.run(["systemctl", "status", mount], capture_output=True, text=True).stdout)
    for label in ("needed", "nice"):
        said = properties(disk_of(label)[0])
        expect(said.get("SYSTEMD_READY") != "0" and "UDISKS_IGNORE" not in said, f"no fence {when}: {said}")


def the_host_is_up(world):
    """No emergency mode, and both disks of fstab are mounted."""
    expect(state("emergency.service") == "inactive", "no emergency mode")
    expect(state("local-fs.target") == "active", "all local file systems are there")
    wait_until(lambda: state("srv-nice.mount") == "active", PATIENCE, lambda: "the one with nofail is mounted too\n" +
               subprocess.run(["systemctl", "status", "srv-nice.mount"], capture_output=True, text=True).stdout)
    expect_mounted("after the start")


def rows(world):
    return {row["device"]: row for row in world.db.rows("select device, state, reason from assignments")}


def the_broker_refuses_them(world):
    wait_until(lambda: state("vhotplug.service") == "active", PATIENCE, "the broker runs")
    for label in ("needed", "nice"):
        device = disk_of(label)[1].name
        wait_until(lambda device=device: rows(world).get(device, {"state": ""})["state"] == "refused", PATIENCE,
                   lambda: f"{label} is refused: {rows(world)}")
        expect(f"mounted on /srv/{label}" in rows(world)[device]["reason"], lambda: str(rows(world)))


def the_rest_is_the_vms(world):
    """The third disk, which stands in no fstab, and all keyboards are in the guest. The mice are nobody's."""
    def has():
        states = [row["state"] for row in rows(world).values()]
        return len(states) == 3 + KEYBOARDS and states.count("attached") == 1 + KEYBOARDS and \
            world.guest_sees() == KEYBOARDS and DISK in world.vm.console.has()
    wait_until(has, PATIENCE, lambda: f"the others are in the VM: {rows(world)}; it sees {world.vm.console.has()}")


def nothing_is_kept_and_that_is_said(world):
    """The root takes nothing, and the database is in memory."""
    try:
        os.close(os.open("/etc/vhotplug/new", os.O_WRONLY | os.O_CREAT))
        expect(False, "the root is read-only")
    except OSError as error:
        expect(error.errno == errno.EROFS, str(error))
    said = run("journalctl", "--no-pager", "-b", "-u", "vhotplug.service")
    expect("/var/lib/vhotplug is in memory: choices and history end with the host" in said, said[-2000:])


def later_events_change_nothing(world):
    """The fence does not fall on what the host uses: a change, and another coldplug."""
    for action in ("change", "add"):
        run("udevadm", "trigger", f"--action={action}", "--settle")
        expect_mounted(f"after {action}")
    run("systemctl", "daemon-reload")
    run("systemctl", "restart", "vhotplug.service")
    run("udevadm", "trigger", "--action=change", "--settle")
    expect_mounted("after a restart of the broker")


def mounted_again(world):
    """systemd still knows its device unit: taken off and put back in one go."""
    run("systemctl", "restart", "srv-needed.mount")
    expect_mounted("after it was mounted again")


def the_end_will_be_told(world):
    """What stops after the broker says how that has ended, when the host is switched off with all that is in
    the VM: tests/host/system looks."""
    say = "/bin/systemctl show -p Result,ExecMainStatus,ActiveState vhotplug.service >/dev/console"
    run("systemd-run", "--unit=told", "-p", "Before=vhotplug.service", "-p", "RemainAfterExit=yes", "-p",
        f"ExecStop=/bin/sh -c '{say}'", "/bin/true")


def the_start_is_told(world):
    """Seconds from systemd's start until it had nothing more to start."""
    def finished():
        names = ("UserspaceTimestampMonotonic", "FinishTimestampMonotonic")
        began, ended = (int(run("systemctl", "show", "-p", name, "--value").strip()) for name in names)
        return ended and f"::started {(ended - began) / 1e6:.1f}"
    print(wait_until(finished, PATIENCE, "systemd has started all there is"))


def is_the_vms(device):
    """A keyboard, or the disk that is not in fstab."""
    if (device / "idVendor").read_text() == "46f4\n":
        return device == disk_of("spare")[1]
    return any((interface / "bInterfaceProtocol").read_text() == "01\n" for interface in device.glob(f"{device.name}:*"))


def the_vm_gets_the_same_by_hand(world):
    """So that its end gives back as much to the host."""
    devices = [path.resolve() for path in pathlib.Path("/sys/bus/usb/devices").glob("[0-9]*-*") if ":" not in path.name]
    chosen = list(filter(is_the_vms, devices))
    with world.vm.monitor() as monitor:
        for device in chosen:
            bus, address = (int((device / name).read_text()) for name in ("busnum", "devnum"))
            monitor.command("device_add", driver="usb-host", hostbus=bus, hostaddr=address, id=f"hand{bus}-{address}")
    wait_until(lambda: world.guest_sees() == KEYBOARDS and DISK in world.vm.console.has(), PATIENCE,
               lambda: f"the guest has all; it sees {world.vm.console.has()}")


STEPS = [the_host_is_up, the_start_is_told, the_broker_refuses_them, the_rest_is_the_vms,
         nothing_is_kept_and_that_is_said, later_events_change_nothing, mounted_again,
         the_end_will_be_told]
STEPS_WITHOUT_US = [the_host_is_up, the_start_is_told, the_vm_gets_the_same_by_hand]
