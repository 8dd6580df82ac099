"""Clients of vhotplug's API: one that knows its document only, over each transport, and where VHOTPLUG_PEER
names a checkout of tiiuae/vhotplug, the public one, unchanged."""
import contextlib
import json
import os
import socket
import subprocess

from lib.parts import functions
from lib.story import story
from lib.wait import expect, wait_until
from lib.world import KEYBOARDS, RUNTIME
from scenarios.evdev import KEYBOARD as INPUT
from scenarios.pci import NIC

SOCKET = RUNTIME / "api.sock"
PORT = 2000
LOCAL_CID = 1
API = f"""
[api]
transports = unix, tcp, vsock
unixSocket = {SOCKET}
port = {PORT}
allowedCids = {LOCAL_CID}
"""


def tagged(section, tag):
    return section.replace("targetVm = vm1\n", f"targetVm = vm1\ntag = {tag}\n")


class Plain:
    """Requests as the document has them, one connection each, by one TRANSPORT."""

    def __init__(self, transport):
        self.transport = transport

    def connect(self, seconds=60):
        family, address = {"unix": (socket.AF_UNIX, str(SOCKET)), "tcp": (socket.AF_INET, ("127.0.0.1", PORT)),
                           "vsock": (socket.AF_VSOCK, (LOCAL_CID, PORT))}[self.transport]
        client = socket.socket(family, socket.SOCK_STREAM)
        client.settimeout(seconds)
        client.connect(address)
        return client

    def is_turned_away(self):
        with contextlib.suppress(ConnectionError, TimeoutError), self.connect(5) as client:
            return not client.recv(1)

    def ask(self, action, **members):
        with self.connect() as client:
            client.sendall(json.dumps({"action": action, **members}).encode() + b"\n")
            return json.loads(client.makefile().readline())

    def __call__(self, subsystem, verb, **given):
        """Carries out what the public client's command line says; returns the answer as text."""
        names = {"devnode": "device_node", "connected": "disconnected"}
        members = {names.get(name, name): value for name, value in given.items()}
        if "connected" in given:
            members["disconnected"] = False
        answer = self.ask(f"{subsystem}_{verb}", **members)
        expect(answer["result"] == "ok", f"{subsystem} {verb} {given}: {answer}")
        return json.dumps(answer)


class Public:
    """tiiuae's vhotplugcli, from the checkout at PATH."""

    def __init__(self, path, transport):
        self.transport = transport
        self.command = ["/usr/bin/python3", "-m", "vhotplugcli", "--transport", transport, "--path", SOCKET, "--cid", LOCAL_CID]
        self.environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}

    def __call__(self, subsystem, verb, **given):
        words = [word for name, value in given.items()
                 for word in ([f"--{name.replace('_', '-')}"] if value is True else [f"--{name.replace('_', '-')}", value])]
        result = subprocess.run([*map(str, self.command), subsystem, verb, *map(str, words)], env=self.environment,
                                capture_output=True, text=True, timeout=120)
        expect(result.returncode == 0, f"{subsystem} {verb} {words}: {result.stdout} {result.stderr}")
        return result.stdout

    @contextlib.contextmanager
    def listening(self):
        """Meanwhile it listens; gives what it has said so far."""
        log = RUNTIME / "listen.log"
        with log.open("w") as file, subprocess.Popen([*map(str, self.command), "listen"], env=self.environment,
                                                     stdout=file, stderr=file) as process:
            try:
                yield log.read_text
            finally:
                process.kill()


def usb_verbs(client, keyboard, vm1):
    bus, port = keyboard.name.split("-")
    vid, pid = keyboard.vid_pid.split(":")
    ways = ({"devnode": keyboard.node}, {"bus": int(bus), "port": int(port)}, {"vid": vid, "pid": pid}, {"tag": "kbd"})
    for way in ways:
        client("usb", "detach", **way)
        expect(not vm1.usb_ids(keyboard), f"detach {way}")
        expect(vid in client("usb", "list", disconnected=True), "it is in the list of those that are out")
        client("usb", "attach", **way)
        expect(vm1.holds(keyboard), f"attach {way}")
        expect(vid in client("usb", "list", tag="kbd"), "it is in the list by its tag")
    client("usb", "attach", devnode=keyboard.node, vm="vm1")
    client("usb", "suspend", vm="vm1")
    expect(not vm1.usb_ids(keyboard), "suspend")
    client("usb", "resume", vm="vm1")
    expect(vm1.holds(keyboard), "resume")


def pci_verbs(client, nic, vm1):
    def let_go(*words, **given):
        with vm1.letting_go():
            client(*words, **given)
        expect(not vm1.host_ids(nic), f"{words} {given}")

    ways = ({"address": nic.name}, {"vid": "10ec", "did": "8139"}, {"tag": "nic"})
    for way in ways:
        let_go("pci", "detach", **way)
        expect(nic.name in client("pci", "list", disconnected=True), "it is in the list of those that are out")
        client("pci", "attach", **way)
        expect(vm1.host_ids(nic), f"attach {way}")
    expect(nic.name in client("pci", "list", tag="nic") and nic.name in client("pci", "list"), "pci list")
    let_go("pci", "suspend", vm="vm1")
    client("pci", "resume", vm="vm1")
    expect(vm1.host_ids(nic), "resume")


def start(world):
    subprocess.run(["modprobe", "vsock_loopback"], check=True)
    nic, = functions("10ec", "8139")
    vm1 = world.vm("vm1").start()
    world.configure(API, vm1.config(), tagged(KEYBOARDS, "kbd"), tagged(NIC, "nic"), INPUT)
    world.broker.start()
    keyboard = world.host.plug_keyboard(port=3)
    world.wait_attached(keyboard, vm1)
    world.wait_in(nic, vm1, "vfio-pci")
    return vm1, keyboard, nic


@story(seconds=30)
def api_by_its_document(world):
    """Every verb and selector, by unix socket; over TCP and vsock what comes back is the same. Who is in no
    allowedCids is turned away."""
    vm1, keyboard, nic = start(world)
    client = Plain("unix")
    with client.connect() as listener:
        listener.sendall(b'{"action": "enable_notifications"}\n')
        events = listener.makefile()
        expect(json.loads(events.readline())["result"] == "ok", "notifications")
        usb_verbs(client, keyboard, vm1)
        pci_verbs(client, nic, vm1)
        args = client.ask("vmm_args", vm="vm1", qemu_bus_prefix="rp", qemu_bus_start_index=3)["vmm_args"]
        expect(f"vfio-pci,host={nic.name},multifunction=on,id=vhp-pci-3,bus=rp3" in args, f"vmm_args says {args}")
        keyboard.unplug()
        told = []
        while not told or told[-1] != "usb_disconnected":
            told.append(json.loads(events.readline())["event"])
        expect({"usb_attached", "usb_detached", "pci_attached", "pci_detached"} < set(told), f"it was told {told}")
    for other in (Plain("tcp"), Plain("vsock")):
        expect(other.ask("pci_list") == client.ask("pci_list"), f"the same by {other.transport}")
    world.configure(API.replace(f"Cids = {LOCAL_CID}", "Cids = 77"), vm1.config(), NIC)
    wait_until(Plain("vsock").is_turned_away, 60, "another guest is turned away")
    wait_until(lambda: "it is not in allowedCids" in world.broker.log(), 60, "and the log says so")
    vm1.kill9()


@story(needs="VHOTPLUG_PEER")
def public_client(world):
    """vhotplugcli as it is, every verb, by each transport."""
    path = os.environ["VHOTPLUG_PEER"]
    vm1, keyboard, nic = start(world)
    client = Public(path, "unix")
    with client.listening() as said:
        wait_until(lambda: "istening" in said(), 60, lambda: f"it listens: {said()}")
        usb_verbs(client, keyboard, vm1)
        pci_verbs(client, nic, vm1)
        keyboard.unplug()
        for event in ("usb_attached", "usb_detached", "pci_attached", "pci_detached", "usb_disconnected"):
            wait_until(lambda: event in said(), 60, lambda: f"it hears of {event}: {said()}")
    args = client("vmm", "args", vm="vm1", qemu_bus_prefix="rp", qemu_bus_start_index=3)
    expect(f"vfio-pci,host={nic.name},multifunction=on,id=vhp-pci-3,bus=rp3" in args, f"vmm args says {args}")
    expect("-device" in client("vmm", "args", vm="vm1"), "vmm args")
    for transport in ("tcp", "vsock"):
        expect(nic.name in Public(path, transport)("pci", "list", short=True), f"by {transport}")
    vm1.kill9()
