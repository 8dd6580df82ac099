"""A target VM of the kind crosvm. There is no real one: tests/doubles/crosvm_server.py stands in for
it, with real devices on its ports."""
import json
import pathlib
import select
import signal
import subprocess

from .vm import RUN
from .wait import Failed

DOUBLES = pathlib.Path(__file__).resolve().parents[2] / "doubles"
SERVER, PROGRAM = DOUBLES / "crosvm_server.py", DOUBLES / "crosvm"


def read_answer(process):
    """What a stand-in answers to what it was told."""
    if not select.select([process.stdout], [], [], 60)[0]:
        raise Failed(f"{process.args[2]} does not answer")
    return json.loads(process.stdout.readline())


class CrosvmVm:
    """NAME is the VM's name in the config. What can happen to it is in the head of the server."""

    def __init__(self, name):
        self.name, self.process = name, None
        self.dir = RUN / name
        self.socket = self.dir / "crosvm.sock"

    def config(self):
        """Its section in the config."""
        return f"[vm {self.name}]\ntype = crosvm\nsocket = {self.socket}\ndelay = 0\n"

    def start(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)  # crosvm itself refuses to start then
        with (self.dir / "crosvm.log").open("ab") as log:
            self.process = subprocess.Popen(["/usr/bin/python3", "-B", SERVER, self.socket],
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self.answer()
        return self

    def answer(self):
        return read_answer(self.process)

    def tell(self, words):
        """Makes it happen, and returns the state after it."""
        self.process.stdin.write(words.encode() + b"\n")
        self.process.stdin.flush()
        return self.answer()

    def kill9(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()
            self.process = None

    def ports(self):
        """What it has: port → path of the device's node, or "foreign"."""
        return {int(port): at["path"] for port, at in self.tell("state")["ports"].items()}

    def holds(self, device):
        """Whether it has the device, once. (crosvm knows no instances.)"""
        return len(self.usb_ids(device)) == 1

    def usb_ids(self, device=None):
        """The ports of the devices it has; of DEVICE only, if one is given."""
        return [port for port, path in self.ports().items() if device is None or path == device.node]

    def functions(self):
        """The addresses of the PCI functions it has been given."""
        return [path.split("/")[-1] for path in self.tell("state")["pci"]]

    def requests(self, word):
        """What it was asked that contains WORD."""
        return [request for request in self.tell("state")["requests"] if word in request]

    def log(self):
        path = self.dir / "crosvm.log"
        return path.read_text(errors="replace") if path.exists() else ""
