"""Made-up USB devices: the kernel's vhci_hcd is given one end of a socket pair, and this speaks
USB/IP at the other end. Whatever a device can answer, or fail to answer, can be told here.

Source: kernel, Documentation/usb/usbip_protocol.rst and drivers/usb/usbip/usbip_common.h (the
48-byte header that every message begins with, in network byte order)."""
import contextlib
import pathlib
import select
import socket
import struct
import subprocess
import threading

from .host import USB
from .wait import expect, wait_until

VHCI = pathlib.Path("/sys/devices/platform/vhci_hcd.0")
CMD_SUBMIT, CMD_UNLINK, RET_SUBMIT, RET_UNLINK = 1, 2, 3, 4
HEADER = struct.Struct(">IIIII 28x")  # command, seqnum, devid, direction, endpoint
SUBMIT = struct.Struct(">20x IiIII 8s")  # flags, length, start frame, packets, interval, setup
RESULT = struct.Struct(">IIIII iiiii 8x")  # …, status, length, start frame, packets, errors
OUT, IN = 0, 1
GET_DESCRIPTOR, SET_CONFIGURATION = 6, 9
DEVICE, CONFIGURATION, STRING = 1, 2, 3
EPIPE, ECONNRESET = -32, -104
FULL_SPEED, HIGH_SPEED = 2, 3
FREE = "004"  # VDEV_ST_NULL


def device_descriptor(vendor, product, device_class=0):
    """Has no strings: the kernel would make who reads them wait for a stuck device."""
    return struct.pack("<BBHBBBBHHHBBBB", 18, DEVICE, 0x0200, device_class, 0, 0, 64, vendor, product,
                       0x0100, 0, 0, 0, 1)


def configuration_descriptor(interface=(0xff, 0, 0), isochronous=False):
    """One interface with one endpoint: for interrupts, or for a stream of packets with 1024 bytes."""
    interface = struct.pack("<BBBBBBBBB", 9, 4, 0, 0, 1, *interface, 0)
    endpoint = struct.pack("<BBBBHB", 7, 5, 0x81, 1, 1024, 1) if isochronous else \
        struct.pack("<BBBBHB", 7, 5, 0x81, 3, 8, 10)
    body = interface + endpoint
    return struct.pack("<BBHBBBBB", 9, CONFIGURATION, 9 + len(body), 1, 1, 0, 0x80, 50) + body


def _is_port_free():
    """The kernel may be a moment longer at the end of what was plugged in there before."""
    first = (VHCI / "status").read_text().splitlines()[1]  # below the titles: hs  0000 004 …
    return first.split()[2] == FREE


class FakeUsbDevice:
    """With-block: plugged in inside it, gone after it. While STUCK, SET_CONFIGURATION is never
    answered, nor is the kernel's wish to give it up. A CAMERA is fast and wants a stream.
    INTERFACE is the class, subclass and protocol of the only one."""

    def __init__(self, vendor, product, stuck=False, camera=False, interface=(0xff, 0, 0)):
        self.speed = HIGH_SPEED if camera else FULL_SPEED
        self.descriptors = {DEVICE: device_descriptor(vendor, product),
                            CONFIGURATION: configuration_descriptor(interface, isochronous=camera)}
        self.vid_pid = f"{vendor:04x}:{product:04x}"
        self.stuck = stuck
        self.reached = threading.Event()  # SET_CONFIGURATION has come
        self.pending = set()

    def __enter__(self):
        subprocess.run(["modprobe", "vhci_hcd"], check=True)
        wait_until(_is_port_free, 60, "the made-up device that was there before is done away with")
        before = set(USB.iterdir())
        kernel_end, self.socket = socket.socketpair()
        with kernel_end:
            (VHCI / "attach").write_text(f"0 {kernel_end.fileno()} 1 {self.speed}")
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

        def appeared():
            return next((path for path in set(USB.iterdir()) - before
                         if ":" not in path.name and (path / "bDeviceClass").exists()), None)
        try:
            self.sys = wait_until(appeared, 60, f"the kernel sees the made-up device {self.vid_pid}")
        except Exception:
            self.__exit__()
            raise
        self.name = self.sys.name
        self.inode = self.sys.stat().st_ino
        return self

    def __exit__(self, *_):
        # The kernel takes it for a pulled cable and gives up whatever it waits for.
        self.socket.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.socket.close()
        wait_until(lambda: not self.is_there(), 60, "the kernel sees that the made-up device is gone")

    def get_stuck(self):
        """From now on it does not answer, and the kernel is made to ask: whoever needs the
        device's lock waits until its end."""
        self.reached.clear()
        self.stuck = True
        threading.Thread(target=self._configure, daemon=True).start()
        expect(self.reached.wait(60), "the kernel waits for SET_CONFIGURATION")

    def _configure(self):
        with contextlib.suppress(OSError):
            (self.sys / "bConfigurationValue").write_text("1")

    def __str__(self):
        return f"made-up {self.vid_pid} ({getattr(self, 'name', 'not plugged in')})"

    def is_there(self):
        return hasattr(self, "sys") and self.sys.exists()

    def _receive(self, size):
        data = b""
        while len(data) < size:
            select.select([self.socket], [], [])
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def _serve(self):
        try:
            while True:
                self._answer(self._receive(48))
        except (EOFError, OSError):
            pass

    def _answer(self, message):
        command, seqnum, _, direction, endpoint = HEADER.unpack(message)
        if command == CMD_UNLINK:
            victim = struct.unpack_from(">I", message, 20)[0]
            if self.stuck:
                return
            status = ECONNRESET if victim in self.pending else 0
            self.pending.discard(victim)
            self.socket.sendall(RESULT.pack(RET_UNLINK, seqnum, 0, 0, 0, status, 0, 0, 0, 0))
            return
        _, length, _, _, _, setup = SUBMIT.unpack(message)
        if direction == OUT and length:
            self._receive(length)
        if endpoint != 0:
            self.pending.add(seqnum)  # an interrupt that never comes
            return
        status, data = self._control(setup)
        if status is None:
            self.pending.add(seqnum)
            return
        data = data[:length] if direction == IN else b""
        self.socket.sendall(RESULT.pack(RET_SUBMIT, seqnum, 0, 0, 0, status, len(data), 0, 0, 0) + data)

    def _control(self, setup):
        """Answers a control transfer: (status, data); status None is silence."""
        _, request, value, _, _ = struct.unpack("<BBHHH", setup)
        if request == GET_DESCRIPTOR:
            data = self.descriptors.get(value >> 8)
            return (0, data) if data else (EPIPE, b"")
        if request == SET_CONFIGURATION:
            self.reached.set()
            return (None, b"") if self.stuck else (0, b"")
        return 0, b"\0\0"
