"""The stand-ins for crosvm and cloud-hypervisor do as the real ones: the same requests to both, and the
answers compared."""
import contextlib
import difflib
import json
import socket
import subprocess
import time

from lib.cloud_hypervisor import CloudHypervisorVm
from lib.crosvm import PORTS, CrosvmVm, ask
from lib.parts import functions, give_back_all, take_for_vfio
from lib.story import story
from lib.wait import Failed, expect, wait_until
from scenarios.cloud_hypervisor import wait_hosts
from scenarios.crosvm import HUB, card_on_bus_1

SILENCE = "no answer, and the connection stays"


class Notes:
    """What a VMM has answered, one after the other."""

    def __init__(self, vm):
        self.vm, self.lines = vm, []

    def add(self, what, answer):
        self.lines.append(f"{what}: {answer}")


def compare(stand_in, real):
    """Two lists of notes."""
    differences = "\n".join(difflib.unified_diff(stand_in, real, "the stand-in", "the real one", n=1, lineterm=""))
    expect(not differences, f"they differ:\n{differences}")
    print(f"  {len(real)} answers are the same")


# crosvm

def usb(command, **arguments):
    return {"UsbCommand": {command: arguments}}


def vfio(card, is_add, kind="EndPoint"):
    path = f"/sys/bus/pci/devices/{getattr(card, 'name', card)}"
    return {"HotPlugVfioCommand": {"device": {"device_type": kind, "path": path, "hp_interrupt": is_add}, "add": is_add}}


LIST = usb("ListDevice", ports=PORTS)


class CrosvmNotes(Notes):
    def ask(self, what, request, node=None):
        try:
            answer = ask(self.vm.socket, request, node)
        except (OSError, ValueError) as error:
            answer = type(error).__name__
        if isinstance(answer, dict) and "Devices" in (response := answer.get("UsbResponse") or {}):
            answer = {at["port"]: (at["vendor_id"], at["product_id"]) for at in response["Devices"] if at["port"]}
        self.add(what, answer)
        return answer

    def say(self, what, data):
        """Bytes that are no request: crosvm does not answer, and does to what comes after them."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.connect(str(self.vm.socket))
            client.settimeout(1)
            client.send(data)
            try:
                self.add(what, client.recv(65536).decode())
                return
            except TimeoutError:
                client.settimeout(60)
            client.send(b'{"UsbCommand":{"DetachDevice":{"port":16}}}')
            self.add(what, SILENCE if client.recv(65536) else "the connection has ended")

    def run(self, *words):
        """crosvm's own program: what it prints, and its exit status."""
        result = subprocess.run([self.vm.program, *words], capture_output=True, text=True, timeout=60)
        self.add(" ".join(str(word) for word in words), (result.stdout, result.returncode, bool(result.stderr)))

    def status(self):
        """With which status it ends, if it does."""
        try:
            self.add("status", self.vm.process.wait(20))
        except subprocess.TimeoutExpired:
            self.add("status", "it runs")

    def opened(self, *cards):
        self.add("open", [card.name for card in self.vm.functions(*cards)])


def _usb_requests(notes, keyboard, stick):
    notes.ask("list", LIST)
    notes.ask("a file that is no device", usb("AttachDevice", file=0), "/dev/null")
    notes.ask("keyboard", usb("AttachDevice", file=0), keyboard.node)
    notes.ask("again", {"UsbCommand": {"AttachDevice": {"bus": 0, "addr": 0, "vid": 0, "pid": 0, "file": 0}}}, keyboard.node)
    notes.ask("USB 3", usb("AttachDevice", file=0), stick.node)
    notes.ask("list", LIST)
    for port in (1, 1, 16, 17, 0, 255, 9, 2):
        notes.ask(f"detach {port}", usb("DetachDevice", port=port))
    for what in ("no JSON", '{"UsbCommand":{"DetachDevice":{"port":256}}}', '{"UsbCommand":{"DetachDevice":{}}}',
                 '{"UsbCommand":{"ListDevice":{"ports":[1,2]}}}', '{"UsbCommand":{"Nothing":{}}}', '"Nothing"',
                 '{"UsbCommand":{"AttachDevice":{"file":0}}}', '{"HotPlugVfioCommand":{"add":true}}', '"Exit"\0'):
        notes.say(what, what.encode())
    notes.say("a line feed", b'{"UsbCommand":{"DetachDevice":{"port":3}}}\n')
    notes.ask("keyboard", usb("AttachDevice", file=0), keyboard.node)
    notes.run("usb", "list", notes.vm.socket)
    notes.run("usb", "attach", "00:00:0000:0000", keyboard.node, notes.vm.socket)
    notes.run("usb", "attach", "00:00:0000:0000", "/dev/null", notes.vm.socket)
    notes.run("usb", "attach", "00:00:0000:0000", "/nonexistent", notes.vm.socket)
    for port in (1, 1, 2, 17):
        notes.run("usb", "detach", str(port), notes.vm.socket)
    notes.run("usb", "detach", "256", notes.vm.socket)
    notes.run("usb", "list", notes.vm.socket)
    notes.run("usb", "list", "/nonexistent")
    notes.run("usb", "nothing", notes.vm.socket)


def _pull(world, notes):
    """A device is pulled out: its port is free, its descriptor open until another one is there."""
    mouse = world.host.plug_mouse()
    node = mouse.node
    notes.ask("mouse", usb("AttachDevice", file=0), node)
    mouse.unplug()
    with contextlib.suppress(Failed):
        wait_until(lambda: not notes.vm.ports(), 20, "its port is free")
    notes.ask("pulled out", LIST)
    notes.add("still open", notes.vm.opened(node) + notes.vm.opened(f"{node} (deleted)") > 0)
    mouse = world.host.plug_mouse()
    notes.ask("another one", usb("AttachDevice", file=0), mouse.node)
    notes.add("still open", notes.vm.opened(f"{node} (deleted)") > 0)
    notes.ask("taken", usb("DetachDevice", port=1))
    mouse.unplug()


def _sees(notes, what, card, seconds=30):
    """Whether the guest has the card, by WHAT it sees then, or sees twice; after SECONDS for it to come."""
    if notes.vm.is_real:
        def is_there():
            return notes.vm.console.has().count(what) == (2 if what == HUB else 1)
        with contextlib.suppress(Failed):
            wait_until(is_there, seconds, "the guest sees it")
        return is_there()
    return str(card.sys) in notes.vm.tell("state")["seen"]


def _card_requests(notes, card, other, root):
    for which in (card, other, root):
        notes.ask(f"{which} is taken away", vfio(which, False))
    notes.ask("a card that is not there", vfio("0000:ff:00.0", True))
    notes.run("vfio", "add", "/sys/bus/pci/devices/0000:ff:00.0", notes.vm.socket)
    notes.ask("a card", vfio(card, True))
    notes.opened(card, other, root)
    notes.add("the guest has it", _sees(notes, HUB, card))
    for _ in range(2):
        notes.run("vfio", "remove", f"/sys/bus/pci/devices/{card}", notes.vm.socket)
    notes.opened(card, other, root)
    notes.add("the guest has it", _sees(notes, HUB, card))
    notes.ask("one of bus 0", vfio(root, True))
    notes.add("the guest sees it", _sees(notes, "pci-10ec:8139", root))
    notes.add("the guest has the first still", _sees(notes, HUB, card))
    notes.ask("one of another bus", vfio(other, True))
    notes.add("the guest reads it", _sees(notes, "disk-nvme", other))
    notes.opened(card, other, root)
    for which in (card, other, root):
        notes.run("vfio", "remove", f"/sys/bus/pci/devices/{which}", notes.vm.socket)
    notes.opened(card, other, root)


def _early_requests(notes, keyboard, card):
    """The guest has not started its drivers yet."""
    notes.ask("too early", usb("AttachDevice", file=0), keyboard.node)
    notes.ask("list", LIST)
    notes.ask("taken back", usb("DetachDevice", port=1))
    notes.ask("list", LIST)
    notes.ask("too early", usb("AttachDevice", file=0), keyboard.node)
    notes.ask("a card, too early", vfio(card, True))
    notes.opened(card)
    notes.vm.wait_ready()
    notes.add("the guest has it", _sees(notes, HUB, card))
    began = time.monotonic()
    notes.ask("the controller has died", LIST)
    notes.add("it takes its time", time.monotonic() - began > 1.5)
    notes.ask("for good", usb("DetachDevice", port=1))


def _play(world, is_real, keyboard, stick, cards):
    card, other, root = cards
    lines = []

    def vm(*arguments):
        world.vms["vm1"] = CrosvmVm("vm1", is_real=is_real, arguments=arguments)
        return CrosvmNotes(world.vms["vm1"])

    def end(notes, how):
        if isinstance(how, int):
            notes.vm.end(how)
        else:
            notes.ask("the last request", how)
            notes.status()
            notes.vm.end()
        notes.add("the socket is there", notes.vm.socket.exists())
        lines.extend(notes.lines)

    notes = vm()
    notes.vm.start()
    _usb_requests(notes, keyboard, stick)
    _pull(world, notes)
    _card_requests(notes, card, other, root)
    notes.ask("a card that was taken away", vfio(card, True))
    end(notes, 9)
    notes = vm()
    notes.vm.begin()
    _early_requests(notes, keyboard, card)
    end(notes, 15)
    notes = vm("--pci-hotplug-slots", "2")
    notes.vm.start()
    notes.ask("a card", vfio(card, True))
    notes.opened(card)
    end(notes, "Exit")
    notes = vm("--vfio", str(root.sys), "--vfio", str(other.sys))
    notes.vm.start()
    notes.opened(card, other, root)
    notes.add("the guest sees the one of bus 0", _sees(notes, "pci-10ec:8139", root))
    notes.add("the guest reads the other", _sees(notes, "disk-nvme", other, 120))  # without interrupts
    notes.ask("from its start", vfio(root, False))
    notes.ask("one more", vfio(card, True))
    notes.add("the guest has it", _sees(notes, HUB, card))
    end(notes, vfio(card, True))
    return lines


@story(needs="CROSVM")
def crosvm_stand_in_does_as_the_real_one(world):
    """USB before and after the guest's driver, the command line, PCI cards of every kind, every end."""
    nic, other = functions("10ec", "8139")[0], functions("1b36", "0010")[0]
    with card_on_bus_1(world) as card:
        for which in (card, other, nic):
            take_for_vfio(which)
        keyboard, stick = world.host.plug_keyboard(), world.host.plug_disk()
        compare(*(_play(world, is_real, keyboard, stick, (card, other, nic)) for is_real in (False, True)))


# cloud-hypervisor

def _place(card):
    return f"/sys/bus/pci/devices/{card}"


class CloudHypervisorNotes(Notes):
    def ask(self, what, method, request, body=None):
        status, answer = self.vm.ask(method, request, body if isinstance(body, str) or body is None else json.dumps(body))
        if isinstance(answer, dict):
            answer.pop("bdf", None)
        self.add(what, (status, answer))

    def add_device(self, what, path, name):
        self.ask(what, "PUT", "vm.add-device", {"path": path, "id": name})

    def remove_device(self, what, name):
        self.ask(what, "PUT", "vm.remove-device", {"id": name})

    def info(self, card):
        """What the broker makes of it."""
        info = self.vm.api("GET", "vm.info")
        devices = [(device["id"], device["path"]) for device in info["config"].get("devices") or []]
        tree = [name for name in info["device_tree"] if name.startswith("vhp-")]
        self.add("info", (info["state"], devices, tree, self.vm.opened(card)))

    def until_let_go(self, card):
        with contextlib.suppress(Failed):
            wait_until(lambda: not self.vm.opened(card), 60, "it is out")
        self.info(card)


def _reads(notes, name):
    """Whether the guest reads the disk of the card called NAME, after some time for it to come."""
    if not notes.vm.is_real:
        state = notes.vm.tell("state")
        return name in state["open"] and name not in state["unmapped"]
    with contextlib.suppress(Failed):
        notes.vm.console.wait_has("disk-nvme", 30)
    return "disk-nvme" in notes.vm.console.has()


def _ask_for_cards(notes, card):
    notes.info(card)
    notes.add_device("not with vfio-pci", _place(card), "vhp-1")
    notes.info(card)
    take_for_vfio(card)
    notes.add_device("no such card", _place("0000:ff:00.0"), "vhp-1")
    notes.ask("no JSON", "PUT", "vm.add-device", "nothing")
    notes.ask("no path", "PUT", "vm.add-device", {"id": "vhp-1"})
    notes.ask("no such request", "PUT", "vm.nothing", {})
    notes.remove_device("unknown", "vhp-1")
    for goes in range(2):
        notes.add_device("a card", _place(card), "vhp-1")
        notes.add("the guest reads it", _reads(notes, "vhp-1"))  # the first time not, after those that failed
        notes.info(card)
        notes.add_device("the same name", _place(card), "vhp-1")
        notes.add_device("another name", _place(card), "vhp-2")
        notes.add_device("another card of that name", _place("0000:00:00.0"), "vhp-1")
        if goes:
            notes.vm.set_paused(True)
            notes.remove_device("while it is paused", "vhp-1")
            notes.info(card)
            notes.remove_device("once more", "vhp-1")
            notes.add_device("and back", _place(card), "vhp-1")
            notes.info(card)
            notes.vm.set_paused(False)
        else:
            notes.remove_device("taken away", "vhp-1")
        notes.until_let_go(card)
    notes.remove_device("again", "vhp-1")


@story(needs="CLOUD_HYPERVISOR")
def cloud_hypervisor_stand_in_does_as_the_real_one(world):
    """Adding and removing a card, every mistake in it, a paused guest."""
    card, lines = functions("1b36", "0010")[0], []
    for is_real in (False, True):
        give_back_all()
        wait_hosts(card)
        world.vms["vm1"] = CloudHypervisorVm("vm1", is_real=is_real)
        notes = CloudHypervisorNotes(world.vms["vm1"].start())
        _ask_for_cards(notes, card)
        notes.vm.kill9()
        notes.add("the socket is there", notes.vm.socket.exists())
        lines.append(notes.lines)
    compare(*lines)
