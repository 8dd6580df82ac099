#!/usr/bin/python3
"""A stand-in for a running crosvm: its control socket, as far as USB and PCI go. It does what crosvm of
2026-08-21 (commit f1e797a6) was seen to do; after each behaviour stands the source it follows. Where
there is a real one, the story crosvm-double-does-as-the-real-one compares the two.

    crosvm_server.py SOCKET [--vfio PATH] [--pci-hotplug-slots N]

It is told what happens to it by lines on standard input, and answers each with one line of JSON
(the state) on standard output:

    guest on|off        the guest has its drivers, or not yet (on at the start). A USB driver that starts
                        while a device is on a port is the end of the USB controller,
                        which answers one request more
    guest free          it has its drivers as soon as nothing is on a port
    usb on|off|absent   off: --no-usb, or a protected VM; absent: built without
    hang / go           nothing is read from the sockets, as when the main loop is stuck
    stall WORD          from the next request with WORD on, the USB controller's process does not
                        answer the main loop
    unstall             it does again, the late requests first
    late WORD SECONDS   the next request with WORD is only looked at so much later
    deaf WORD           the next request with WORD is taken for an unknown one
    eof                 the next request is answered by closing its connection
    unplug PORT         the device there has been pulled out
    foreign VID PID N   somebody else has attached a USB N device with these ids (hexadecimal)
    pci take|refuse|ignore
                        hot-plugged PCI devices are taken (at the start); refused; accepted and
                        ignored, as on other processors than x86-64
    clock MS            what time it is for the one who tells: from now on time passes here only by
                        being told
    settle MS           it is so late now: whatever is to be done by then is done before the answer,
                        which says when ("wake") something goes on by itself
    state               nothing
"""
import argparse
import array
import contextlib
import errno
import fcntl
import json
import os
import select
import socket
import struct
import sys
import time

PORTS = 16
USB3_FIRST = 9  # devices/src/usb/xhci/xhci_regs.rs: ports 1 to 8 are USB 2, 9 to 16 USB 3
INNER_LIMIT = 2.0  # devices/src/usb/backend/device_provider.rs: SOCKET_TIMEOUT_MS
MAX_FDS = 32  # base/src/sys/unix/tube.rs: TUBE_MAX_FDS
ROOT = os.environ.get("VMM_DOUBLE_ROOT", "/")  # of /sys and /dev/vfio
USBDEVFS_DISCONNECT_CLAIM = 0x8108551b  # include/uapi/linux/usbdevice_fs.h


class Device:
    """What is on a port: FD is None for somebody else's."""

    def __init__(self, fd, vendor, product, usb3):
        self.fd, self.vendor, self.product, self.usb3 = fd, vendor, product, usb3
        self.path = os.readlink(f"/proc/self/fd/{fd}") if fd is not None else "foreign"

    def close(self):
        if self.fd is not None:
            os.close(self.fd)


def read_device(fd):
    """usb_util/src/device.rs, Device::new: the descriptors are read from the start of the file. None
    if that can't be done."""
    try:
        data = os.pread(fd, 4096, 0)
    except OSError:
        return None
    if len(data) < 18 or data[0] < 18 or data[1] != 1:
        return None
    release, = struct.unpack_from("<H", data, 2)
    vendor, product = struct.unpack_from("<HH", data, 8)
    claim_interfaces(fd, data)
    # devices/src/usb/backend/host_backend/host_device.rs, get_backend_type: the descriptor counts,
    # not the speed.
    return Device(fd, vendor, product, release & 0x0300 == 0x0300)


def claim_interfaces(fd, data):
    """host_device.rs, HostDevice::new: each interface is taken from its host driver; a failure is
    only logged."""
    at = data[0]
    while at + 2 <= len(data) and data[at] >= 2:
        if data[at + 1] == 4:
            claim = struct.pack("II256s", data[at + 2], 0, b"")
            try:
                fcntl.ioctl(fd, USBDEVFS_DISCONNECT_CLAIM, claim)
            except OSError as error:
                print(f"interface {data[at + 2]}: {error}", file=sys.stderr)
        at += data[at]


class Hub:
    """devices/src/usb/xhci/usb_hub.rs and the provider that asks it, device_provider.rs."""

    def __init__(self):
        self.ports, self.pulled = {}, {}
        self.guest_ready = True

    def attach(self, fd):
        # handle_attach_device: a file that is no device.
        device = read_device(fd)
        if device is None:
            os.close(fd)
            return "NoSuchDevice"
        port = self.place(device)
        # attach_backend: a full bank and a guest without event ring look the same, but in the
        # latter case UsbPort::attach has stored the device already.
        if port is None:
            device.close()
            return "NoAvailablePort"
        if not self.guest_ready:
            return "NoAvailablePort"
        return {"Ok": {"port": port}}

    def place(self, device):
        """connect_backend: the first free port of the device's bank; no other bank."""
        first = USB3_FIRST if device.usb3 else 1
        for port in range(first, first + 8):
            if port not in self.ports:
                self.ports[port] = device
                if port in self.pulled:
                    self.pulled.pop(port).close()
                return port
        return None

    def pull(self, port):
        """devices/src/usb/backend/utils.rs, on_event: the port of a device that has gone is free without a
        word to anybody; its descriptor stays open until another device is there."""
        self.pulled[port] = self.ports.pop(port)

    def detach(self, port):
        # UsbPort::detach: an empty port, or one that is none, is an error; so is a guest that can't
        # be told, but the port is empty then.
        if port not in self.ports:
            return "NoSuchDevice"
        self.ports.pop(port).close()
        return {"Ok": {"port": port}} if self.guest_ready else "NoSuchDevice"

    def list(self, ports):
        """handle_list_devices: in the order asked, zeros for what is empty or no port."""
        found = []
        for port in ports:
            device = self.ports.get(port)
            found.append({"port": port if device else 0, "vendor_id": device.vendor if device else 0,
                          "product_id": device.product if device else 0})
        return {"Devices": found}

    def execute(self, command, argument):
        if command == "AttachDevice":
            return self.attach(argument)
        return self.detach(argument) if command == "DetachDevice" else self.list(argument)


def is_u8(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def bus_of(path):
    """The bus in "/sys/bus/pci/devices/0000:01:00.0"."""
    return int(path.rsplit("/", 1)[1].split(":")[-2], 16)


class Slot:
    """PCI devices: src/crosvm/sys/linux.rs, handle_hotplug_command; every failure is EINVAL. The IOMMU
    group is really opened, as devices/src/vfio.rs does it (VfioGroup::new), and closed when crosvm ends."""

    def __init__(self, cold, has_slots):
        self.opened, self.hot, self.removed = {}, set(), set()  # path → descriptor of its group
        self.mode, self.has_slots, self.guest_ready = "take", has_slots, True
        self.seen = set(cold)
        for path in cold:
            self.open(path)
        self.bus = min(set(range(1, 256)) - {bus_of(path) for path in cold})

    def open(self, path):
        if path in self.opened:
            return
        group = os.path.basename(os.readlink(os.path.join(ROOT, path.lstrip("/"), "iommu_group")))
        self.opened[path] = os.open(os.path.join(ROOT, "dev/vfio", group), os.O_RDWR)

    def add(self, path):
        if self.mode == "ignore":
            return "Ok"
        if path in self.opened and path not in self.removed:
            os.abort()  # vfio_pci.rs, allocate_address: its address is taken, and a panic ends the VM
        if self.mode == "refuse" or self.has_slots:  # get_hp_bus finds none
            return {"Err": errno.EINVAL}
        try:
            self.open(path)
        except OSError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return {"Err": errno.EINVAL}
        return "Ok" if self.place(path) else {"Err": errno.EINVAL}

    def place(self, path):
        """A card keeps its host's address in the guest (devices/src/pci/vfio_pci.rs, allocate_address). The
        one hot-plug port has the first bus that no card has from the start on
        (create_pure_virtual_pcie_root_port): it announces whatever comes, after its driver is up
        (devices/src/pci/pcie/pcie_rp.rs, hot_plug), and what is not on its bus is not there. Of host bus 0
        is seen what is there before the guest looks."""
        is_first = not self.hot
        self.hot.add(path)
        if not self.guest_ready:
            if bus_of(path) == 0:
                self.seen.add(path)
            return bus_of(path) == 0
        if is_first and bus_of(path) == self.bus:
            self.seen.add(path)
        else:
            self.seen -= self.hot
        return True

    def remove(self, path):
        """remove_hotplug_device: found, and nothing is done about it but that its address is free."""
        if path in self.hot:
            self.removed.add(path)
        return "Ok" if self.mode == "ignore" or path in self.hot else {"Err": errno.EINVAL}


class Unknown(Exception):
    """What crosvm can't deserialize."""


class Server:
    def __init__(self, path, cold=(), has_slots=False):
        self.path = path
        self.hub = Hub()
        self.usb, self.hanging, self.stalled, self.dies, self.dead = "on", False, False, False, False
        self.deaf = self.stall = self.late = None
        self.eof = self.waits_for_ports = False
        self.inner_requests, self.inner_answers = [], []
        self.slot = Slot(cold, has_slots)
        self.clock, self.is_settling, self.told_half = None, False, b""
        self.log = []
        self.clients = []
        self.ignored = set()  # those that wait for an answer in vain
        # base/src/sys/unix/net.rs: bind fails if the path is there, and so does the start.
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(path)
        self.listener.listen(128)

    # ---- one request

    def take(self, client):
        """One packet with its descriptors (base/src/sys/unix/tube.rs)."""
        size = array.array("i").itemsize
        data, ancillary, _, _ = client.recvmsg(65536, socket.CMSG_SPACE(MAX_FDS * size), socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(payload[:len(payload) - len(payload) % size])
        return data, list(fds)

    def parse(self, data, fds):
        """serde's view of a VmRequest: one known variant with all its fields; fields that it does
        not know are skipped. Returns (variant, command, argument); takes its descriptor from FDS."""
        try:
            request = json.loads(data)
            (variant, body), = request.items() if isinstance(request, dict) else [(request, None)]
            if variant == "Exit" and body is None:
                return variant, None, None
            if variant == "HotPlugVfioCommand":
                device = body["device"]
                if not (isinstance(body["add"], bool) and isinstance(device["path"], str)
                        and isinstance(device["hp_interrupt"], bool) and device["device_type"] == "EndPoint"):
                    raise Unknown
                return variant, body["add"], device["path"]
            if variant != "UsbCommand":
                raise Unknown
            (command, arguments), = body.items()
            return variant, command, self.parse_usb(command, arguments, fds)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise Unknown from error

    @staticmethod
    def parse_usb(command, arguments, fds):
        """vm_control/src/lib.rs, UsbControlCommand."""
        if command == "AttachDevice":
            # base/src/descriptor_reflection.rs: a descriptor is its index in the packet's list.
            index = arguments["file"]
            if not is_u8(index) or index >= len(fds):
                raise Unknown
            fd, fds[index] = fds[index], None
            return fd
        if command == "DetachDevice" and is_u8(arguments["port"]):
            return arguments["port"]
        # [u8; USB_CONTROL_MAX_PORTS]: another length is an error.
        if command == "ListDevice" and len(arguments["ports"]) == PORTS and all(map(is_u8, arguments["ports"])):
            return arguments["ports"]
        raise Unknown

    def ask_usb(self, command, argument):
        """VmRequest::execute, UsbCommand: over a socket to the controller's process, with a time
        limit. What is late there is the answer to the next request."""
        if self.usb == "absent":
            return {"Err": errno.ENODEV}
        if self.usb == "off":
            if command == "AttachDevice":
                os.close(argument)
            return {"Err": errno.EIO}
        self.inner_requests.append((command, argument))
        if self.stalled or self.dead:
            self.sleep(INNER_LIMIT)
            return {"Err": errno.EIO}
        # devices/src/utils/event_loop.rs: it looks whether it has failed before it waits, not after that.
        self.dead = self.dies
        self.run_usb()
        return {"UsbResponse": self.inner_answers.pop(0)}

    def run_usb(self):
        while self.inner_requests:
            self.inner_answers.append(self.hub.execute(*self.inner_requests.pop(0)))

    def serve(self, client):
        try:
            data, fds = self.take(client)
        except OSError:
            data, fds = b"", []
        if not data or self.eof:
            self.eof = False if data else self.eof
            self.drop(client, fds)
            return
        text = data.decode(errors="replace")
        self.log.append(text)
        if self.stall and self.stall in text:
            self.stalled = True
        if self.late and self.late[0] in text:
            self.sleep(float(self.late[1]))
            self.late = None
        try:
            if self.deaf and self.deaf in text:
                self.deaf = None
                raise Unknown
            variant, command, argument = self.parse(data, fds)
        except Unknown:
            # src/crosvm/sys/linux.rs, process_vm_control_event: "failed to recv VmRequest" is
            # logged; no answer, and the connection stays.
            print(f"not understood: {data!r}", file=sys.stderr)
            self.ignored.add(client)
            self.close_fds(fds)
            return
        if variant == "Exit":
            answer = "Ok"
        elif variant == "UsbCommand":
            answer = self.ask_usb(command, argument)
        else:
            answer = self.slot.add(argument) if command else self.slot.remove(argument)
        self.close_fds(fds)
        with contextlib.suppress(OSError):  # the client may have left
            client.send(json.dumps(answer, separators=(",", ":")).encode())
        if variant == "Exit":
            raise SystemExit(0)

    @staticmethod
    def close_fds(fds):
        for fd in fds:
            if fd is not None:
                os.close(fd)

    def drop(self, client, fds):
        self.close_fds(fds)
        self.clients.remove(client)
        self.ignored.discard(client)
        client.close()

    # ---- time

    def sleep(self, seconds):
        """Meanwhile its main loop is stuck."""
        if self.clock is None:
            time.sleep(seconds)
            return
        wake = self.clock + 1000 * seconds
        while self.clock < wake:
            if self.is_settling:
                self.has_settled(wake)
            select.select([0], [], [])
            self.hear()

    def has_settled(self, wake=None):
        self.is_settling = False
        hangs = self.hanging or wake is not None or bool(self.ignored)
        print(json.dumps({"wake": wake, "hangs": hangs}), flush=True)

    def settle(self):
        while self.is_settling:
            sockets = [] if self.hanging else [self.listener, *self.clients]
            readable, _, _ = select.select(sockets, [], [], 0)
            self.serve_all(readable)
            if not readable:
                self.has_settled()

    # ---- what happens to it

    def told(self, line):
        word, *rest = line.split()
        if word in ("clock", "settle"):
            self.clock = int(rest[0])
        if word == "settle":
            self.is_settling = True
            return
        if word == "guest":
            self.set_guest(rest[0])
        elif word == "usb":
            self.usb = rest[0]
        elif word in ("hang", "go"):
            self.hanging = word == "hang"
        elif word == "stall":
            self.stall = rest[0]
        elif word == "unstall":
            self.stall, self.stalled = None, False
            self.run_usb()
        elif word == "late":
            self.late = rest
        elif word == "deaf":
            self.deaf = rest[0]
        elif word == "eof":
            self.eof = True
        elif word == "unplug":
            self.hub.pull(int(rest[0]))
        elif word == "foreign":
            self.hub.place(Device(None, int(rest[0], 16), int(rest[1], 16), rest[2] == "3"))
        elif word == "pci":
            self.slot.mode = rest[0]
        print(json.dumps(self.state()), flush=True)

    def set_guest(self, how):
        self.waits_for_ports = how == "free" and bool(self.hub.ports)
        if self.waits_for_ports:
            return
        starts = how != "off" and not self.hub.guest_ready
        self.dies = self.dies or (starts and bool(self.hub.ports))
        self.hub.guest_ready = self.slot.guest_ready = how != "off"

    def state(self):
        return {"ports": {str(port): {"id": f"{d.vendor:04x}:{d.product:04x}", "path": d.path}
                          for port, d in sorted(self.hub.ports.items())},
                "clients": len(self.clients), "pci": sorted(self.slot.opened), "seen": sorted(self.slot.seen), "requests": self.log}

    def check_unplugged(self):
        """A device that has gone is noticed on its descriptor."""
        poll = select.poll()
        files = {device.fd: port for port, device in self.hub.ports.items() if device.fd is not None}
        for fd in files:
            poll.register(fd, 0)
        for fd, events in poll.poll(0):
            # Without transfers usbfs always reports an error; only the hang-up means "gone".
            if events & select.POLLHUP:
                self.hub.pull(files[fd])

    def hear(self):
        """What it is told. Ends it when nobody will tell it anything any more."""
        data = os.read(0, 4096)
        if not data:
            raise SystemExit(0)
        *lines, self.told_half = (self.told_half + data).split(b"\n")
        for line in lines:
            self.told(line.decode())

    def serve_all(self, readable):
        for ready in readable:
            if ready is self.listener:
                self.clients.append(self.listener.accept()[0])
            else:
                self.serve(ready)
                if self.waits_for_ports:
                    self.set_guest("free")

    def run(self):
        while True:
            sockets = [] if self.hanging else [self.listener, *self.clients]
            readable, _, _ = select.select([0, *sockets], [], [], 0.1 if self.hub.ports else None)
            self.check_unplugged()
            if 0 in readable:
                self.hear()  # what it was told comes first
            else:
                self.serve_all(readable)
            self.settle()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("socket")
    parser.add_argument("--vfio", action="append", default=[])
    parser.add_argument("--pci-hotplug-slots", type=int)
    arguments = parser.parse_args()
    cold = [path.partition(",")[0] for path in arguments.vfio]  # behind it are options
    server = Server(arguments.socket, cold, arguments.pci_hotplug_slots is not None)
    print(json.dumps(server.state()), flush=True)
    try:
        server.run()
    finally:
        os.unlink(server.path)  # an orderly exit removes the socket; a signal's end does not


if __name__ == "__main__":
    main()
