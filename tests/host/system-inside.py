"""Runs inside the emulated host that has systemd as process 1: the package's life, from the first
installation to the purge, beside a VM whose guest runs and has a device. Each step goes on where the one before it
ended; the first that fails ends it. Tells the outside by the virtio port "results"."""
import os
import pathlib
import re
import signal
import sqlite3
import subprocess

import boot
from lib.broker import DATABASE
from lib.steps import CONFIG, KEYBOARDS, PATIENCE, brokers, main, run
from lib.wait import expect, stays, wait_until

RULES = pathlib.Path("/etc/udev/rules.d/66-vhotplug.rules")


def unit(name="vhotplug.service"):
    """What systemd says of the unit."""
    names = "ActiveState,SubState,MainPID,NRestarts,Result"
    return dict(line.split("=", 1) for line in run("systemctl", "show", "-p", names, name).splitlines())


def broker_pid():
    return int(unit()["MainPID"])


def dropin(name, text):
    """More lines for a unit."""
    folder = pathlib.Path(f"/etc/systemd/system/{name}.d")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "story.conf").write_text(text)
    run("systemctl", "daemon-reload")


def installed(world):
    """The package is installed: the broker runs in its whole sandbox, from now on at every boot."""
    run("dpkg", "-i", str(world.run / "old.deb"))
    expect(unit()["ActiveState"] == "active", lambda: str(unit()) + run("journalctl", "-u", "vhotplug", "-n", "20"))
    expect(run("systemctl", "is-enabled", "vhotplug.service").strip() == "enabled", "it is enabled")
    expect(RULES.exists(), "the rules are there")
    print(run("systemd-analyze", "security", "--no-pager", "vhotplug.service").splitlines()[-1].encode("ascii", "replace").decode())


def plugged_in(world):
    """A config, applied, and a device: it is in the VM."""
    CONFIG.write_text(world.vm.config() + KEYBOARDS)
    run("vhotplug-gen-rules")
    world.plug()


def restarted(world):
    """The broker is restarted, reloaded, and killed: the VM keeps the device."""
    before = broker_pid()
    run("systemctl", "restart", "vhotplug.service")
    expect(broker_pid() not in (0, before), "it is another process")
    world.expect_untouched()
    run("systemctl", "reload", "vhotplug.service")
    before = broker_pid()
    os.kill(before, 9)
    wait_until(lambda: broker_pid() not in (0, before), PATIENCE, "systemd has started it again")
    world.expect_untouched()


def upgraded(world):
    """A newer package: the broker is the new one, the config stays, the VM keeps the device."""
    before = broker_pid()
    run("dpkg", "-i", str(world.run / "new.deb"))
    expect(broker_pid() not in (0, before), "the broker is another one")
    expect(KEYBOARDS in CONFIG.read_text(), "the config stays")
    world.expect_untouched()


def not_back_behind_the_database(world):
    """A package that is older than the database is refused, and what runs goes on."""
    before = broker_pid()
    schema = DATABASE.read_bytes()[60:64]
    run("systemctl", "stop", "vhotplug.service")
    with sqlite3.connect(DATABASE) as database:
        database.execute("pragma user_version = 99")
        database.execute("pragma wal_checkpoint(truncate)")
    database.close()
    said = run("dpkg", "-i", str(world.run / "old.deb"), status=1)
    expect("written by a newer vhotplug (schema 99," in said, said)
    with sqlite3.connect(DATABASE) as database:
        database.execute(f"pragma user_version = {int.from_bytes(schema, 'big')}")
    database.close()
    run("systemctl", "start", "vhotplug.service")
    expect(broker_pid() not in (0, before), "it runs again")
    world.expect_untouched()


def unplugged_and_plugged(world):
    """It all still works: pulled out, and another one plugged in."""
    world.unplug()
    world.plug()


def watchdog(world):
    """A broker that stands still is ended and started again: the VM keeps the device."""
    dropin("vhotplug.service", "[Service]\nWatchdogSec=20\n")
    run("systemctl", "restart", "vhotplug.service")
    before = broker_pid()
    stays(lambda: broker_pid() == before, 25, "one that is well goes on")
    os.kill(before, signal.SIGSTOP)
    wait_until(lambda: broker_pid() not in (0, before), PATIENCE, "systemd has started it again")
    world.expect_untouched()


def nobody(why):
    wait_until(lambda: not brokers(), PATIENCE, lambda: f"nothing of ours runs {why}; there is {brokers()}")


def vm_path(world):
    """The unit that sees the VM start."""
    return "vhotplug-vm@" + run("systemd-escape", "--path", str(world.vm.socket)).strip() + ".path"


def on_demand(world):
    """No process between plug and unplug, and the VM's restart brings the device back all the same."""
    run("systemctl", "disable", "--now", "vhotplug.service")
    run("systemctl", "enable", "--now", "vhotplug-on-demand.socket", vm_path(world))
    run("systemctl", "enable", "vhotplug-sleep.service")
    nobody("at first")
    world.expect_untouched()
    first = world.keyboard
    world.plug()
    nobody("after the plug")
    world.unplug()
    nobody("after the unplug")
    world.keyboard = first
    world.vm.kill9()
    world.vm.start()
    world.wait_attached()
    nobody("after the VM's restart")
    world.note()
    run("vhotplug-gen-rules")
    nobody("after the config was applied")


def asked_on_demand(world):
    """vhotplugctl starts the broker, which stays while a device is suspended, and no longer."""
    tool = "/checkout/.build-release/helper/vhotplugctl"
    expect(str(world.keyboard.sys.name) in run(tool, "list"), "the tool shows the device")
    nobody("after the list")
    run(tool, "suspend")
    wait_until(lambda: not world.vm.usb_ids(world.keyboard), PATIENCE, "the device has left the VM")
    stays(brokers, 8, "the broker stays while a device is suspended")
    run(tool, "resume")
    world.wait_attached()
    nobody("after the resume")
    world.note()


def upgraded_on_demand(world):
    """A newer package leaves it at that: the socket listens, the path waits, no process stays."""
    run("dpkg", "-i", str(world.run / "new.deb"))
    nobody("after the upgrade")
    for name in ("vhotplug-on-demand.socket", vm_path(world)):
        expect(unit(name)["ActiveState"] == "active", lambda: f"{name}: {unit(name)}")
    expect(unit()["ActiveState"] == "inactive", lambda: str(unit()))
    world.expect_untouched()


def removed_and_back_on_demand(world):
    """Removed, and installed again: it is on demand at once, and not only after the next boot."""
    run("dpkg", "-r", "vhotplug")
    nobody("without the package")
    upgraded_on_demand(world)


def wanted():
    """What of ours is enabled."""
    return [str(link) for link in pathlib.Path("/etc/systemd/system").glob("*.wants/vhotplug*")]


def uninstalled_on_demand(world):
    """scripts/uninstall: nothing starts a broker any more, and the VM keeps what it has."""
    files = [file for file in run("dpkg", "-L", "vhotplug").splitlines()
             if file.startswith("/usr/") and pathlib.Path(file).is_file()]
    manifest = pathlib.Path("/usr/share/vhotplug/manifest")
    manifest.parent.mkdir()
    manifest.write_text("".join(f"{file}\n" for file in files))
    run("/checkout/scripts/uninstall")
    nobody("after the removal")
    expect(unit("vhotplug-on-demand.socket")["ActiveState"] == "inactive", "nobody listens")
    expect(not wanted(), f"nothing is left at {wanted()}")
    world.expect_untouched()


def installed_again(world):
    """The package again, with a broker that stays: it finds the device in the VM."""
    run("dpkg", "-i", str(world.run / "new.deb"))
    run("systemctl", "enable", "--now", "vhotplug.service")
    run("systemctl", "enable", "vhotplug-sleep.service")
    expect(broker_pid() != 0, "the one that stays runs again")
    world.expect_untouched()


def removed(world):
    """Removed: nothing of it runs, the VM keeps what it has, config and database stay."""
    run("dpkg", "-r", "vhotplug")
    expect(unit()["MainPID"] == "0", str(unit()))
    expect(not RULES.exists() and not pathlib.Path("/run/vhotplug").exists(), "rules and spool are gone")
    expect(world.vm.usb_ids(world.keyboard) == world.ids and world.guest_sees(), "the VM has it, and its guest")
    expect(CONFIG.exists() and DATABASE.exists(), "config and database stay")


def purged(world):
    """Purged: nothing is left but what the VM has."""
    run("dpkg", "-P", "vhotplug")
    expect(not CONFIG.parent.exists() and not DATABASE.parent.exists(), "config and database are gone")
    expect(not wanted(), f"nothing is left at {wanted()}")
    expect(world.vm.usb_ids(world.keyboard) == world.ids and world.guest_sees(), "the VM has it, and its guest")


def no_complaints(world):
    """The sandbox has refused nothing, and no audit line speaks of us but what was meant: a service started
    and stopped (1130, 1131), and the watchdog's SIGABRT (1701)."""
    log = run("journalctl", "--no-pager", "-o", "short-monotonic", "-b")
    meant = re.compile(r"type=1130|type=1131|type=1701 .* sig=6 ")
    bad = [line for line in log.splitlines() if "vhotplug" in line and ("audit" in line or "SECCOMP" in line)
           and not meant.search(line)]
    expect(not bad, "\n".join(bad[:10]))


STEPS = [installed, plugged_in, restarted, upgraded, not_back_behind_the_database, unplugged_and_plugged,
         watchdog, on_demand, asked_on_demand, upgraded_on_demand, removed_and_back_on_demand, uninstalled_on_demand, installed_again, removed,
         purged, no_complaints]


def journal():
    return subprocess.run(["journalctl", "--no-pager", "-n", "60"], capture_output=True, text=True).stdout


if __name__ == "__main__":
    story = re.search(r"vhp\.story=(\S+)", pathlib.Path("/proc/cmdline").read_text())[1]
    main(story, {"systemd": STEPS, "boot": boot.STEPS, "plain": boot.STEPS_WITHOUT_US}[story], journal)
    subprocess.run(["systemctl", "poweroff"], check=False)
