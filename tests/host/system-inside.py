"""Runs inside the emulated host that has systemd as process 1: the package's life, from the first
installation to the purge, beside a VM that has a device. Each step goes on where the one before it
ended; the first that fails ends it. Tells the outside by the virtio port "results"."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback

from lib.broker import DATABASE, Database
from lib.host import Host, open_port
from lib.vm import QemuVm
from lib.wait import Failed, expect, stays, wait_until

RUN = pathlib.Path("/checkout/.build-host/system")
CONFIG = pathlib.Path("/etc/vhotplug/vhotplug.conf")
RULES = pathlib.Path("/etc/udev/rules.d/66-vhotplug.rules")
KEYBOARDS = "[usb Input]\ntargetVm = vm1\n[allow Keyboards]\ninterfaceClass = 3\ninterfaceProtocol = 1\n"
PATIENCE = 120


def run(*command, status=0):
    result = subprocess.run(command, capture_output=True, text=True)
    expect(result.returncode == status, f"{' '.join(command)} ended with {result.returncode}: "
                                        f"{result.stdout[-500:]}{result.stderr[-1000:]}")
    return result.stdout + result.stderr


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


class World:
    def __init__(self):
        self.host = Host(json.loads((RUN / "request.json").read_text())["images"])
        self.db = Database()
        self.vm = QemuVm("vm1").start()
        self.keyboard = None
        self.ids = None

    def wait_attached(self):
        def seen():
            row = self.db.assignment(self.keyboard)
            return row and row["state"] == "attached" and self.vm.usb_ids(self.keyboard)
        wait_until(seen, PATIENCE, lambda: f"the keyboard is in the VM; {self.db.dump()}")

    def expect_untouched(self):
        """It is in the VM, by the handle that it was given first, and never left."""
        self.wait_attached()
        expect(self.vm.usb_ids(self.keyboard) == self.ids, f"{self.vm.usb_ids(self.keyboard)}, before: {self.ids}")
        expect(not self.db.history(self.keyboard, "detach"), self.db.dump)


def installed(world):
    """The package is installed: the broker runs in its whole sandbox, from now on at every boot."""
    run("dpkg", "-i", str(RUN / "old.deb"))
    expect(unit()["ActiveState"] == "active", lambda: str(unit()) + run("journalctl", "-u", "vhotplug", "-n", "20"))
    expect(run("systemctl", "is-enabled", "vhotplug.service").strip() == "enabled", "it is enabled")
    expect(RULES.exists(), "the rules are there")
    print(run("systemd-analyze", "security", "--no-pager", "vhotplug.service").splitlines()[-1].encode("ascii", "replace").decode())


def plugged_in(world):
    """A config, applied, and a device: it is in the VM."""
    CONFIG.write_text(world.vm.config() + KEYBOARDS)
    run("vhotplug-gen-rules")
    world.keyboard = world.host.plug_keyboard()
    world.wait_attached()
    world.ids = world.vm.usb_ids(world.keyboard)


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
    run("dpkg", "-i", str(RUN / "new.deb"))
    expect(broker_pid() not in (0, before), "the broker is another one")
    expect(KEYBOARDS in CONFIG.read_text(), "the config stays")
    world.expect_untouched()


def not_back_behind_the_database(world):
    """A package that is older than the database is refused, and what runs goes on."""
    before = broker_pid()
    schema = DATABASE.read_bytes()[60:64]
    run("systemctl", "stop", "vhotplug.service")
    import sqlite3
    with sqlite3.connect(DATABASE) as database:
        database.execute("pragma user_version = 99")
        database.execute("pragma wal_checkpoint(truncate)")
    database.close()
    said = run("dpkg", "-i", str(RUN / "old.deb"), status=1)
    expect("written by a newer vhotplug (schema 99," in said, said)
    with sqlite3.connect(DATABASE) as database:
        database.execute(f"pragma user_version = {int.from_bytes(schema, 'big')}")
    database.close()
    run("systemctl", "start", "vhotplug.service")
    expect(broker_pid() not in (0, before), "it runs again")
    world.expect_untouched()


def unplugged_and_plugged(world):
    """It all still works: pulled out, and another one plugged in."""
    world.host.unplug(world.keyboard)
    wait_until(lambda: not world.vm.usb_ids(), PATIENCE, "the VM has lost it")
    world.keyboard = world.host.plug_keyboard()
    world.wait_attached()
    world.ids = world.vm.usb_ids(world.keyboard)


def watchdog(world):
    """A broker that stands still is ended and started again: the VM keeps the device."""
    dropin("vhotplug.service", "[Service]\nWatchdogSec=10\n")
    run("systemctl", "restart", "vhotplug.service")
    before = broker_pid()
    stays(lambda: broker_pid() == before, 15, "one that is well goes on")
    os.kill(before, signal.SIGSTOP)
    wait_until(lambda: broker_pid() not in (0, before), PATIENCE, "systemd has started it again")
    world.expect_untouched()


def brokers():
    """All processes of the broker, whoever has started them."""
    return [path.parent.name for path in pathlib.Path("/proc").glob("[0-9]*/comm") if path.exists()
            and path.read_text().startswith("vhotplug")]


def nobody(why):
    wait_until(lambda: not brokers(), PATIENCE, lambda: f"nothing of ours runs {why}; there is {brokers()}")


def on_demand(world):
    """No process between plug and unplug, and the VM's restart brings the device back all the same."""
    path = "vhotplug-vm@" + run("systemd-escape", "--path", str(world.vm.socket)).strip() + ".path"
    run("systemctl", "disable", "--now", "vhotplug.service")
    run("systemctl", "enable", "--now", "vhotplug-on-demand.socket", path)
    nobody("at first")
    world.expect_untouched()
    first, world.keyboard = world.keyboard, world.host.plug_keyboard()
    world.wait_attached()
    nobody("after the plug")
    world.host.unplug(world.keyboard)
    wait_until(lambda: not world.vm.usb_ids(world.keyboard), PATIENCE, "the VM has lost it")
    nobody("after the unplug")
    world.keyboard = first
    world.vm.kill9()
    world.vm.start()
    world.wait_attached()
    nobody("after the VM's restart")
    world.ids = world.vm.usb_ids(world.keyboard)
    run("vhotplug-gen-rules")
    nobody("after the config was applied")
    run("systemctl", "disable", "--now", "vhotplug-on-demand.socket", path)
    run("systemctl", "enable", "--now", "vhotplug.service")
    expect(broker_pid() != 0, "the one that stays runs again")


def removed(world):
    """Removed: nothing of it runs, the VM keeps what it has, config and database stay."""
    run("dpkg", "-r", "vhotplug")
    expect(unit()["MainPID"] == "0", str(unit()))
    expect(not RULES.exists() and not pathlib.Path("/run/vhotplug").exists(), "rules and spool are gone")
    expect(world.vm.usb_ids(world.keyboard) == world.ids, "the VM has it")
    expect(CONFIG.exists() and DATABASE.exists(), "config and database stay")


def purged(world):
    """Purged: nothing is left but what the VM has."""
    run("dpkg", "-P", "vhotplug")
    expect(not CONFIG.parent.exists() and not DATABASE.parent.exists(), "config and database are gone")
    expect(world.vm.usb_ids(world.keyboard) == world.ids, "the VM has it")


def no_complaints(world):
    """The sandbox has refused nothing, and no audit line speaks of us."""
    log = run("journalctl", "--no-pager", "-o", "short-monotonic", "-b")
    bad = [line for line in log.splitlines() if "vhotplug" in line and ("audit" in line or "SECCOMP" in line)
           and "type=1130" not in line and "type=1131" not in line]
    expect(not bad, "\n".join(bad[:10]))


STEPS = [installed, plugged_in, restarted, upgraded, not_back_behind_the_database, unplugged_and_plugged,
         watchdog, on_demand, removed, purged, no_complaints]


def run_steps(world):
    for step in STEPS:
        start = time.monotonic()
        name = step.__name__.replace("_", "-")
        try:
            step(world)
        except Exception as error:
            what = str(error) if isinstance(error, Failed) else traceback.format_exc()
            log = subprocess.run(["journalctl", "--no-pager", "-n", "60"], capture_output=True, text=True).stdout
            print(f"FAIL {name} ({time.monotonic() - start:.1f} s)\n{what}\n{log}")
            return 1
        print(f"ok {name} ({time.monotonic() - start:.1f} s)")
    return 0


def main():
    sys.stdout = os.fdopen(open_port("results"), "w", buffering=1)
    os.environ.update(SYSTEMD_PAGER="cat", SYSTEMD_COLORS="0", DEBIAN_FRONTEND="noninteractive", LC_ALL="C")
    status = 1
    try:
        print(f"emulated host with systemd: up after {time.clock_gettime(time.CLOCK_BOOTTIME):.0f} s")
        status = run_steps(World())
    except Exception:
        print(traceback.format_exc())
    print(f"{len(STEPS)} steps" if status == 0 else "not all steps")
    print(f"::exit {status}")
    sys.stdout.flush()
    subprocess.run(["systemctl", "poweroff"], check=False)


if __name__ == "__main__":
    main()
