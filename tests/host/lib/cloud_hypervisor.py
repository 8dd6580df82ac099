"""A target VM of the kind cloud-hypervisor: the real one with a running guest, where
CLOUD_HYPERVISOR names it, else tests/doubles/cloud_hypervisor_server.py."""
import contextlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess

from . import small_guest
from .crosvm import DOUBLES, read_answer
from .vm import RUN, as_user

SERVER = DOUBLES / "cloud_hypervisor_server.py"
PROGRAM = os.environ.get("CLOUD_HYPERVISOR")


class Connection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = str(path)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class CloudHypervisorVm:
    """NAME is the VM's name in the config. USER is who it runs as (root if not said), CARD a PCI function
    that it is given on its command line."""

    def __init__(self, name, user=None, card=None, is_real=PROGRAM is not None):
        self.name, self.user, self.card, self.is_real, self.process = name, user, card, is_real, None
        self.dir = RUN / name
        self.socket = self.dir / "api.sock"
        self.console = small_guest.Console(self.dir / "serial.log")

    def config(self):
        """Its section in the config."""
        return f"[vm {self.name}]\ntype = cloud-hypervisor\nsocket = {self.socket}\n" + \
            (f"user = {self.user}\n" if self.user else "")

    def command(self):
        if not self.is_real:
            return ["/usr/bin/python3", "-B", SERVER, self.socket]
        small_guest.load_kvm()
        # 39: the emulated IOMMU has no more address bits.
        return [PROGRAM, "--api-socket", f"path={self.socket}", "--kernel", small_guest.KERNEL,
                "--initramfs", small_guest.make(self.dir), "--cmdline", small_guest.COMMAND_LINE,
                "--cpus", "boot=1,max_phys_bits=39", "--memory", "size=192M",
                "--serial", f"file={self.console.path}", "--console", "off",
                *(["--device", f"path={self.card.sys}"] if self.card else [])]

    def start(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)  # cloud-hypervisor itself refuses to start then
        self.console.path.unlink(missing_ok=True)
        command = as_user(self.user, self.dir, self.command())
        with (self.dir / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log if self.is_real else subprocess.PIPE, stderr=log)
        if self.is_real:
            self.console.wait_ready()
        else:
            read_answer(self.process)
            if self.card:
                self.tell(f"cold {self.card}")
        return self

    def ask(self, method, what, text=None):
        """Asks it, beside the broker. Returns the status, and what it says."""
        connection = Connection(self.socket)
        with contextlib.closing(connection):
            connection.request(method, f"/api/v1/{what}", text)
            answer = connection.getresponse()
            text = answer.read()
        return answer.status, json.loads(text) if text else None

    def api(self, method, what, body=None):
        return self.ask(method, what, body and json.dumps(body))[1]

    def opened(self, card):
        """Has it the card's IOMMU group open?"""
        for link in pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it has closed it
                if os.readlink(link) == str(card.group_node):
                    return True
        return False

    def set_paused(self, paused):
        if self.is_real:
            self.api("PUT", "vm.pause" if paused else "vm.resume")
        else:
            self.tell("vm Paused" if paused else "vm Running")

    def reboot(self):
        if self.is_real:
            self.api("PUT", "vm.reboot")  # begins the console's file anew
            self.console.wait_ready()

    def tell(self, words):
        """The stand-in only: makes it happen."""
        self.process.stdin.write(words.encode() + b"\n")
        self.process.stdin.flush()
        return read_answer(self.process)

    def kill9(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.communicate()
            self.process = None

    def functions(self):
        """The addresses of the PCI functions that it is to have."""
        devices = self.api("GET", "vm.info")["config"].get("devices") or []
        return [pathlib.Path(device["path"]).name for device in devices]

    def wait_reads(self, name):
        """The guest reads the name of the file system on a disk. (The stand-in has no guest.)"""
        if self.is_real:
            self.console.wait_has(f"disk-{name}")

    def wait_lost(self, ids):
        if self.is_real:
            self.console.wait_lost(f"pci-{ids}")

    def log(self):
        path = self.dir / "log"
        return path.read_text(errors="replace") if path.exists() else ""
