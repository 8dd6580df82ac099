"""Steps inside the emulated host that has systemd as process 1, and has just started with a rule for
every USB disk, two of which stand in fstab (system-prepare): what the host needs to start is left alone,
before the broker runs and afterwards."""
import os
import pathlib
import subprocess

from lib.steps import PATIENCE, run
from lib.wait import expect, wait_until

MOUNTS = ("srv-needed.mount", "srv-nice.mount")


def state(unit):
    return run("systemctl", "show", "-p", "ActiveState", "--value", unit).strip()


def disk_of(label):
    """The disk's name and its USB device's directory."""
    name = pathlib.Path(os.path.realpath(f"/dev/disk/by-label/{label}")).name
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


def the_third_is_the_vms(world):
    """It stands in no fstab."""
    wait_until(lambda: sorted(row["state"] for row in rows(world).values()) == ["attached", "refused", "refused"],
               PATIENCE, lambda: f"the third disk is in the VM: {rows(world)}")


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


STEPS = [the_host_is_up, the_broker_refuses_them, the_third_is_the_vms, later_events_change_nothing, mounted_again]
