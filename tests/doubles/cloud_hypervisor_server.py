#!/usr/bin/python3
"""A stand-in for a running cloud-hypervisor: its API socket, as far as PCI devices go. It does what
version 54 was seen to do; a story compares the two where there is a real one.

    cloud_hypervisor_server.py SOCKET

It is told what happens to it by lines on standard input, and answers each with one line of JSON
(the state) on standard output:

    vm STATE         Running (at the start), Paused, Created (before it is booted, and when it was shut
                     down), or none: it was deleted
    guest keep|let-go|deaf
                     the guest does not let go of a device when it is asked; or it does (at the
                     start), also of what it was asked for before; or it is just starting, and does
                     not hear that it is asked
    names stay|go    the name of a device that was removed stays in device_tree and is refused again;
                     or not (at the start)
    iommufd          it was started with --platform iommufd=on: of a function it opens the node of that one, not of
                     its group
    old              its errors are one text, as before version 48
    add TEXT         the next vm.add-device is answered by 500 and TEXT
    cold ADDRESS     a device was given to it at its start
    claim N          vm.info has N more names in the device tree that could be ours, all of the function ffff:ff:1f.7
    hang / go        nothing is read from the sockets; it is again
    cut [WHAT]       the next answer, to a request for WHAT (vm.info), ends in its middle
    garbage          the next answer is no HTTP
    late             the next request is carried out, and its answer never sent
    state            nothing
"""
import contextlib
import json
import os
import select
import signal
import socket
import sys

ROOT = os.environ.get("VMM_DOUBLE_ROOT", "/")  # of /sys and /dev/vfio
API = "/api/v1/"


API_ERROR, NOT_ADDED = "Error from API", "The device could not be added to the VM"
FAILED = (API_ERROR, NOT_ADDED, "Error from device manager")
INVALID = (API_ERROR, NOT_ADDED, "Failed to validate config")
NOT_REMOVED = (API_ERROR, "The device could not be removed from the VM", "Error from device manager")


class Refused(Exception):
    """An answer that is an error: a status, and texts, the cause last."""

    def __init__(self, status, *texts):
        super().__init__(status)
        self.status, self.texts = status, texts


class Machine:
    """The VM: what it is to have (config) and what it has still (tree), by name."""

    def __init__(self):
        self.state, self.keeps, self.names_stay, self.error = "Running", False, False, None
        self.config, self.tree = {}, {}
        self.is_deaf, self.heard = False, set()  # of what the guest was asked for
        self.groups, self.nodes = {}, {}  # the group of each name; each group's descriptor
        self.iommufd = False
        self.claims = 0
        self.container, self.container_node = None, None  # "empty": left from an add that failed, and never mapped
        self.unmapped = []

    def runs(self):
        return self.state in ("Running", "Paused")

    def set_state(self, state):
        """vmm/src/lib.rs: vm_shutdown drops the VM, and its config stays; vm_delete drops that too; vm_boot makes
        a VM with what the config names."""
        is_booted, self.state = not self.runs(), state
        if not self.runs():
            for name in list(self.groups):
                self.close_group(name)
            self.tree, self.unmapped = {}, []
            self.hold_container(None)
        elif is_booted:
            for name, path in self.config.items():
                self.plug(path, name)
        if state == "none":
            self.config = {}

    def info(self):
        if self.state == "none":
            raise Refused(404, API_ERROR, "The VM info is not available", "VM is not created")
        devices = [{"path": path, "iommu": False, "id": name, "pci_segment": 0} for name, path in self.config.items()]
        tree = {name: {"id": name, "resources": [], "parent": "_pci_segment_0", "children": [],
                       "pci_bdf": f"0000:00:{number + 5:02x}.0"} for number, name in enumerate(self.tree)}
        tree.update((f"vhp-ffff.ff.1f.7-{number}", {}) for number in range(self.claims))
        return {"config": {"cpus": {"boot_vcpus": 1}, "devices": devices or None}, "state": self.state,
                "memory_actual_size": 1 << 28, "device_tree": tree if self.runs() else None}

    def add(self, path, name):
        if self.error:
            error, self.error = self.error, None
            self.hold_container(self.container or "empty")
            raise Refused(500, *FAILED, error)
        if path is None:
            raise Refused(400, *INVALID, "VFIO device config must specify `path=` or `fd=`")
        path = path.rstrip("/")
        if path in self.config.values():
            raise Refused(409, *INVALID, f"Duplicated device path: {path}")
        if name in self.config:
            raise Refused(409, *INVALID, f"Identifier {name} is not unique")
        if name in self.tree:
            raise Refused(500, *FAILED, f"Invalid identifier as it is not unique: {name}")
        if self.runs():
            self.plug(path, name)
        self.config[name] = path
        return {"id": name, "bdf": "0000:00:05.0"} if name in self.tree else None

    def plug(self, path, name):
        """vmm/src/device_manager.rs, add_vfio_device: who makes the container maps the memory, if it gets so
        far."""
        is_new = self.container is None
        self.hold_container(self.container or "empty")
        self.groups[name] = self.open_group(path)
        self.tree[name] = path
        self.heard.discard(name)
        if is_new:
            self.container = "mapped"
        elif self.container == "empty":
            self.unmapped.append(name)

    def hold_container(self, container):
        if self.container_node is not None and container is None:
            os.close(self.container_node)
            self.container_node = None
        elif self.container_node is None and container:
            with contextlib.suppress(OSError):
                self.container_node = os.open(os.path.join(ROOT, "dev/vfio/vfio"), os.O_RDWR | os.O_CREAT, 0o600)
        self.container = container

    def open_group(self, path):
        """A group is open once, for all its functions that the VM has. The kernel refuses a second time. Source:
        vfio-ioctls, src/vfio_device.rs (VfioContainer, get_group and put_group)."""
        if not os.path.isdir(os.path.join(ROOT, path.lstrip("/"))):
            raise Refused(500, *FAILED, "Cannot create a VFIO device", "invalid file path")
        try:
            group = os.path.basename(os.readlink(os.path.join(ROOT, path.lstrip("/"), "iommu_group")))
        except OSError as error:
            raise Refused(500, *FAILED, "Cannot create a VFIO device", "failed to get the IOMMU group") from error
        try:
            if group not in self.nodes:
                node = "devices/vfio0" if self.iommufd else group
                self.nodes[group] = os.open(os.path.join(ROOT, "dev/vfio", node), os.O_RDWR)
            return group
        except OSError as error:
            raise Refused(500, *FAILED, "Cannot create a VFIO device",
                          f"failed to open /dev/vfio/{group} group: {os.strerror(error.errno)} "
                          f"(os error {error.errno})", f"{os.strerror(error.errno)} (os error {error.errno})") from error

    def close_group(self, name):
        group = self.groups.pop(name)
        if group not in self.groups.values():
            os.close(self.nodes.pop(group))

    def remove(self, name):
        if name not in self.config and name not in self.tree:
            raise Refused(404, *NOT_REMOVED, f"Failed to find device corresponding to the given identifier: {name}")
        self.config.pop(name, None)
        if not self.is_deaf:
            self.heard.add(name)
        self.settle()

    def settle(self):
        """The guest lets go of what it was asked for. One that is paused does not."""
        for name in list(self.tree):
            if name not in self.heard or self.keeps or self.state != "Running":
                continue
            if name in self.groups:
                self.close_group(name)
                self.unmapped = [other for other in self.unmapped if other != name]
            if not self.names_stay:
                del self.tree[name]
            if not self.groups:
                self.hold_container(None)


class Server:
    def __init__(self, path):
        self.vm, self.log, self.clients, self.hanging, self.next = Machine(), [], {}, False, ("", "")
        self.is_old = False
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(path)
        self.listener.listen(10)

    def execute(self, method, path, body):
        what = path.removeprefix(API)
        if (method, what) == ("GET", "vmm.ping"):
            return {"build_version": "v54.0", "version": "54.0.0", "pid": os.getpid(), "features": []}
        if (method, what) == ("GET", "vm.info"):
            return self.vm.info()
        if method != "PUT" or what not in ("vm.add-device", "vm.remove-device"):
            raise Refused(404, "Not Found")
        try:
            request = json.loads(body)
            name, place = request["id"], request.get("path")
        except (ValueError, KeyError, TypeError) as error:  # its words for a word that is none of JSON's
            raise Refused(400, "Failed to deserialize JSON", "expected ident at line 1 column 2") from error
        return self.vm.add(place, name) if what == "vm.add-device" else self.vm.remove(name)

    def answer(self, method, path, body):
        """The bytes of one answer."""
        try:
            status, value = 200, self.execute(method, path, body)
        except Refused as refused:
            status, value = refused.status, ": ".join(refused.texts[2:]) if self.is_old else list(refused.texts)
        head = f"HTTP/1.1 {204 if value is None else status} \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n"
        if value is None:
            return (head + "\r\n").encode()
        text = value if isinstance(value, str) else json.dumps(value)
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()

    def serve(self, client):
        """Takes what a client says, and answers each whole request."""
        try:
            data = client.recv(65536)
        except OSError:
            data = b""
        if not data:
            del self.clients[client]
            client.close()
            return
        self.clients[client] += data
        while client in self.clients and (request := self.take(client)):
            self.log.append(" ".join(request))
            self.send(client, self.answer(*request), request[1])

    def take(self, client):
        """One request: method, path and body; None while it is not whole."""
        head, found, rest = self.clients[client].partition(b"\r\n\r\n")
        if not found:
            return None
        lines = head.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        length = int(fields.get("content-length", 0))
        if len(rest) < length:
            return None
        self.clients[client] = rest[length:]
        method, path, _ = lines[0].split(" ")
        return method, path, rest[:length].decode()

    def send(self, client, data, path):
        how = self.next[0] if path.endswith(self.next[1]) else ""
        self.next = ("", "") if how else self.next
        if how == "late":
            return
        data = b"220 a mail server\r\n\r\n" if how == "garbage" else data[:len(data) - 5] if how == "cut" else data
        try:
            client.sendall(data)
        except OSError:
            return
        if how == "cut":
            del self.clients[client]
            client.close()

    def told(self, line):
        word, _, rest = line.partition(" ")
        if word == "vm":
            self.vm.set_state(rest)
        elif word == "guest":
            self.vm.keeps, self.vm.is_deaf = rest == "keep", rest == "deaf"
        elif word == "names":
            self.vm.names_stay = rest == "stay"
        elif word == "old":
            self.is_old = True
        elif word == "iommufd":
            self.vm.iommufd = True
        elif word == "add":
            self.vm.error = rest
        elif word == "cold":
            self.vm.config["_vfio1"] = self.vm.tree["_vfio1"] = f"/sys/bus/pci/devices/{rest}/"
        elif word == "claim":
            self.vm.claims = int(rest)
        elif word in ("hang", "go"):
            self.hanging = word == "hang"
        elif word in ("cut", "garbage", "late"):
            self.next = word, rest
        self.vm.settle()
        print(json.dumps(self.state()), flush=True)

    def state(self):
        return {"config": self.vm.config, "tree": self.vm.tree, "open": sorted(self.vm.groups), "unmapped": self.vm.unmapped,
                "clients": len(self.clients), "requests": self.log}

    def run(self, wakeup):
        told = b""
        while True:
            sockets = [] if self.hanging else [self.listener, *self.clients]
            readable, _, _ = select.select([0, wakeup, *sockets], [], [])
            if wakeup in readable:
                return
            if 0 in readable:
                data = os.read(0, 4096)
                if not data:
                    return
                *lines, told = (told + data).split(b"\n")
                for line in lines:
                    self.told(line.decode())
                continue  # what it was told comes first
            for ready in readable:
                if ready is self.listener:
                    self.clients[self.listener.accept()[0]] = b""
                elif ready in self.clients:
                    self.serve(ready)


def main():
    server = Server(sys.argv[1])
    # A signal just before select() would otherwise be seen only after it.
    wakeup, other = socket.socketpair()
    other.setblocking(False)
    signal.set_wakeup_fd(other.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    print(json.dumps(server.state()), flush=True)
    server.run(wakeup)  # the socket stays, as after the real one's death by a signal


if __name__ == "__main__":
    main()
