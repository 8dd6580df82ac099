"""A host with a life of its own: steps, each of which goes on where the one before it ended. The first
that fails ends it. Tells the outside by the virtio port "results"."""
import json
import os
import pathlib
import subprocess
import sys
import time
import traceback

from . import alive
from .broker import Database
from .host import Host, open_port
from .vm import QemuVm
from .wait import Failed, expect, wait_until

CONFIG = pathlib.Path("/etc/vhotplug/vhotplug.conf")
KEYBOARDS = "[usb Input]\ntargetVm = vm1\n[allow Keyboards]\ninterfaceClass = 3\ninterfaceProtocol = 1\n"
IDS = "usb-0627:0001"  # as the guest calls the keyboard
PATIENCE = 120


def run(*command, status=0):
    """Runs it, and returns what it says."""
    result = subprocess.run(command, capture_output=True, text=True)
    expect(result.returncode == status, f"{' '.join(command)} ended with {result.returncode}: "
                                        f"{result.stdout[-500:]}{result.stderr[-1000:]}")
    return result.stdout + result.stderr


def brokers():
    """All processes of the broker, whoever has started them."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
        try:
            if path.read_text().startswith("vhotplug"):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


class World:
    """The hardware, the database, a VM, and the keyboard that it is about. RUN is the folder of this run."""

    def __init__(self, run):
        self.run = run
        self.host = Host(json.loads((run / "request.json").read_text())["images"])
        self.db = Database()
        self.vm = QemuVm("vm1", usb_ports=15, guest=True).start()
        self.keyboard = None
        self.ids = None
        self.detached = 0

    def plug(self):
        """A keyboard, which the guest sees."""
        self.keyboard = self.host.plug_keyboard()
        self.wait_attached()
        self.note()

    def guest_sees(self):
        """How many keyboards the guest has."""
        return self.vm.console.has().count(IDS)

    def note(self):
        """This is how it is to stay."""
        self.ids = self.vm.usb_ids(self.keyboard)
        self.detached = len(self.db.history(self.keyboard, "detach"))

    def unplug(self):
        before = self.guest_sees()
        self.host.unplug(self.keyboard)
        wait_until(lambda: not self.vm.usb_ids(self.keyboard), PATIENCE, "the VM has lost it")
        wait_until(lambda: self.guest_sees() == before - 1, PATIENCE, "the guest has lost it")

    def wait_attached(self):
        def seen():
            row = self.db.assignment(self.keyboard)
            return row and row["state"] == "attached" and self.vm.usb_ids(self.keyboard)
        wait_until(seen, PATIENCE, lambda: f"the keyboard is in the VM; {self.db.dump()}")
        wait_until(self.guest_sees, PATIENCE, lambda: f"the guest sees it; it sees {self.vm.console.has()}")

    def expect_untouched(self):
        """It is in the VM, by the handle that it was given first, and never left."""
        self.wait_attached()
        expect(self.vm.usb_ids(self.keyboard) == self.ids, f"{self.vm.usb_ids(self.keyboard)}, before: {self.ids}")
        expect(len(self.db.history(self.keyboard, "detach")) == self.detached, self.db.dump)


def run_steps(title, steps, evidence):
    world = World(pathlib.Path(f"/checkout/.build-host/system-{title}"))
    for step in steps:
        start = time.monotonic()
        name = step.__name__.replace("_", "-")
        try:
            step(world)
        except Exception as error:
            what = str(error) if isinstance(error, Failed) else f"{error!r}\n{traceback.format_exc()}"
            print(f"FAIL {name} ({time.monotonic() - start:.1f} s)\n{what}\n{evidence()}")
            return 1
        print(f"ok {name} ({time.monotonic() - start:.1f} s)")
    return 0


def main(title, steps, evidence):
    """Runs STEPS; EVIDENCE is asked for more words when one fails."""
    sys.stdout = os.fdopen(open_port("results"), "w", buffering=1)
    os.environ.update(SYSTEMD_PAGER="cat", SYSTEMD_COLORS="0", DEBIAN_FRONTEND="noninteractive", LC_ALL="C")
    status = 1
    try:
        print(f"emulated host with {title}: up after {time.clock_gettime(time.CLOCK_BOOTTIME):.0f} s")
        with alive.shown(sys.stdout):
            status = run_steps(title, steps, evidence)
    except Exception:
        print(traceback.format_exc())
    print(f"{len(steps)} passed, 0 failed" if status == 0 else f"not all of the {len(steps)} steps")
    print(f"::exit {status}")
    sys.stdout.flush()
