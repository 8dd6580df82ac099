"""A target VM of the kind crosvm: the real one with a running guest, where CROSVM names it, else
tests/doubles/crosvm_server.py, with real devices on its ports."""
import array
import contextlib
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import time

from . import small_guest
from .vm import RUN, as_user, frozen
from .wait import Failed, wait_until

DOUBLES = pathlib.Path(__file__).resolve().parents[2] / "doubles"
SERVER, DOUBLE = DOUBLES / "crosvm_server.py", DOUBLES / "crosvm"
REAL = os.environ.get("CROSVM")
PORTS = list(range(1, 17))
# crosvm maps a card's MSI-X table into the guest (devices/src/vfio.rs, VFIO_REGION_INFO_CAP_MSIX_MAPPABLE), and so
# never learns which interrupts the guest wants: none comes. The NVMe driver looks by itself when its time is up,
# which by default is a minute for each of its requests.
COMMAND_LINE = f'{small_guest.COMMAND_LINE} module_words="admin_timeout=2 io_timeout=2"'


def read_answer(process):
    """What a stand-in answers to what it was told."""
    if not select.select([process.stdout], [], [], 60)[0]:
        raise Failed(f"{process.args[2]} does not answer")
    return json.loads(process.stdout.readline())


def ask(path, request, node=None):
    """One request to the crosvm at PATH, beside the broker, with the device's NODE opened for it. Returns
    its answer."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        client.settimeout(60)
        client.connect(str(path))
        rights = []
        if node:
            fd = os.open(node, os.O_RDWR)
            stack.callback(os.close, fd)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        client.sendmsg([json.dumps(request).encode()], rights)
        return json.loads(client.recv(65536))


class CrosvmVm:
    """NAME is the VM's name in the config. IS_REAL: whether it is to be the real one; a story that needs
    what only the stand-in can be told (see the head of the server) says no. ARGUMENTS are further ones of
    `crosvm run`, USER is who it runs as (root if not said)."""

    def __init__(self, name, is_real=REAL is not None, arguments=(), user=None):
        self.name, self.is_real, self.arguments, self.user, self.process = name, is_real, arguments, user, None
        self.took = None  # seconds of its last start
        self.dir = RUN / name
        self.socket = self.dir / "crosvm.sock"
        self.console = small_guest.Console(self.dir / "serial.log")
        self.program = REAL if is_real else DOUBLE

    def config(self, waits=None):
        """Its sections in the config. WAITS: the delay in seconds, or True for the one that it has by itself; the
        stand-in's guest is there at once."""
        waits = self.is_real if waits is None else waits
        return f"[general]\ncrosvm = {self.program}\n\n[vm {self.name}]\ntype = crosvm\nsocket = {self.socket}\n" + \
            ("" if waits is True else f"delay = {int(waits)}\n") + (f"user = {self.user}\n" if self.user else "")

    def command(self):
        if not self.is_real:
            return ["/usr/bin/python3", "-B", SERVER, self.socket, *self.arguments]
        small_guest.load_kvm()
        return [REAL, "run", "--disable-sandbox", "-m", "192", "-s", self.socket,
                "--serial", f"type=file,path={self.console.path},hardware=serial,num=1,console,earlycon",
                "-i", small_guest.make(self.dir), "-p", COMMAND_LINE, *self.arguments, small_guest.KERNEL]

    def begin(self, has_guest=False):
        """Starts it; its guest is not up yet (the stand-in's is, with HAS_GUEST)."""
        self.dir.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)  # crosvm itself refuses to start then
        self.console.path.unlink(missing_ok=True)
        command = as_user(self.user, self.dir, self.command())
        with (self.dir / "crosvm.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log,
                                            stdout=log if self.is_real else subprocess.PIPE)
        if self.is_real:
            wait_until(self.socket.exists, 60, lambda: f"crosvm is up; it said: {self.log()[-1000:]}")
        else:
            read_answer(self.process)
            self.tell("guest on" if has_guest else "guest off")
        return self

    def start(self):
        """Starts it, and its guest is up."""
        began = time.monotonic()
        self.begin(has_guest=True)
        self.wait_ready()
        self.took = time.monotonic() - began
        return self

    def long_delay(self):
        """One that is long enough for what starts again, as far as its last start tells: a guest here may take longer
        than the 20 seconds, and the machine may get busier."""
        return max(2 * self.took, 70) if self.is_real else 0

    def wait_ready(self):
        """Its guest is up, and has its drivers."""
        if self.is_real:
            self.console.wait_ready()
        else:
            self.tell("guest on")

    def tell(self, words):
        """The stand-in only: makes it happen, and returns the state after it."""
        self.process.stdin.write(words.encode() + b"\n")
        self.process.stdin.flush()
        return read_answer(self.process)

    def end(self, how=signal.SIGKILL):
        if self.process:
            self.process.send_signal(how)
            self.process.communicate()
            self.process = None

    def kill9(self):
        self.end()

    def frozen(self):
        return frozen(self.process)

    def ports(self):
        """The ports that are taken, and the ids of what is there."""
        answer = ask(self.socket, {"UsbCommand": {"ListDevice": {"ports": PORTS}}})
        if "UsbResponse" not in answer:
            raise Failed(f"crosvm does not say what is on its ports: {answer}")
        devices = answer["UsbResponse"]["Devices"]
        return {at["port"]: f"{at['vendor_id']:04x}:{at['product_id']:04x}" for at in devices if at["port"]}

    def attach_beside(self, device):
        """Somebody else than the broker gives it a USB device. Returns crosvm's answer."""
        return ask(self.socket, {"UsbCommand": {"AttachDevice": {"file": 0}}}, device.node)["UsbResponse"]

    def opened(self, path):
        """How many of its descriptors are open on PATH."""
        count = 0
        for descriptor in pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(descriptor) == str(path)
        return count

    def holds(self, device):
        """Whether it has the device's node open. (crosvm knows no instances.)"""
        return self.opened(device.node) > 0

    def usb_ids(self, device):
        """The node of the device, if it has it open."""
        return [device.node] if device.is_there() and self.holds(device) else []

    def functions(self, *functions):
        """Those of FUNCTIONS whose IOMMU group it has open."""
        return [function for function in functions if self.opened(function.group_node)]

    def wait_sees(self, what, count=1):
        """The guest of the real one sees WHAT ("usb-0627:0001", "disk-nvme") so often."""
        if self.is_real:
            wait_until(lambda: self.console.has().count(what) == count, 120,
                       lambda: f"the guest sees {count} × {what}; it sees {self.console.has()}")

    def requests(self, word):
        """What it was asked that contains WORD. The stand-in only."""
        return [request for request in self.tell("state")["requests"] if word in request]

    def expect_requests(self, word, count):
        """So often it was asked for WORD, as far as that can be told: the real one does not."""
        if not self.is_real and len(found := self.requests(word)) != count:
            raise Failed(f"{count} × {word} was asked for; it was {found}")

    def log(self):
        path = self.dir / "crosvm.log"
        return path.read_text(errors="replace") + self.console.text() if path.exists() else ""
