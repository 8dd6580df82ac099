"""Who hands a plugged device to a VM: nobody (the floor), vhotplug's broker, or a peer, a program of another
project that its checkout brings. Each with the same interface, for the benchmark to measure in turns: `group` is its
processes, `worker` those of them that do what can block in the kernel (None: it has none for that)."""
import os
import pathlib
import signal
import subprocess

from .cgroup import Group
from .wait import wait_until
from .world import KEYBOARDS

PEER_CONFIG = """{"usbPassthrough": [{"description": "keyboards", "targetVm": "vm1",
  "allow": [{"interfaceClass": 3, "interfaceProtocol": 1, "description": "keyboards"}]}],
 "vms": [{"name": "vm1", "type": "qemu", "socket": "%s"}]}
"""


class Floor:
    """The same host without any of this."""
    name, program, takes, worker = "floor", None, False, None

    def __init__(self):
        self.group = Group("contender-floor")

    def start(self, world, vm):
        world.configure("")

    def stop(self, world):
        pass


class Ours:
    """The broker, its rules and the helper."""
    name, program, takes = "vhotplug", "vhotplug-broker", True

    def __init__(self):
        self.group, self.worker = Group("contender-ours"), Group("contender-ours/worker")

    def start(self, world, vm):
        world.configure(vm.config(), KEYBOARDS)
        world.broker.start()
        broker, *others = world.broker.processes()
        self.group.add(broker)
        for pid in others:
            self.worker.add(pid)

    def stop(self, world):
        world.broker.stop()


class Peer:
    """tiiuae's vhotplug (Python), from a checkout with its libraries beside it or installed."""
    name, program, takes, worker = "peer", "peer", True, None

    def __init__(self, checkout):
        self.checkout, self.process = pathlib.Path(checkout), None
        self.group = Group("contender-peer")

    def start(self, world, vm):
        world.configure("")
        folder = pathlib.Path("/run/peer")
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(PEER_CONFIG % vm.socket)
        # So that the kernel's record knows it from the test itself.
        if not (folder / "peer").exists():
            (folder / "peer").symlink_to("/usr/bin/python3")
        path = f"{self.checkout}:{self.checkout}-deps"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [folder / "peer", "-B", "-m", "vhotplug", "-c", folder / "config.json"], cwd=self.checkout,
                env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=lambda: self.group.add(os.getpid()))
        wait_until(lambda: b"Waiting for new devices" in (folder / "log").read_bytes() or self.process.poll() is not None, 60,
                   lambda: (folder / "log").read_text(errors="replace")[-2000:])

    def stop(self, world):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
