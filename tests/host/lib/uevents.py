"""Listens to events as udevd does (the kernel's) and as everybody else does (udevd's)."""
import os
import select
import socket
import struct
import threading
import time

NETLINK_KOBJECT_UEVENT = 15
SO_RCVBUFFORCE = 33
KERNEL, UDEV = 1, 2  # the multicast groups


class Listener:
    """With-block that records events of a group: .events is [(seconds since the epoch, properties)]."""

    def __init__(self, group):
        self.group, self.events = group, []

    def __enter__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)  # the other one stops at 200 kB
        self.socket.bind((0, self.group))
        self.wake_read, self.wake_write = os.pipe()
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()
        return self

    def __exit__(self, *_):
        os.write(self.wake_write, b"x")
        self.thread.join()
        self.socket.close()
        os.close(self.wake_read)
        os.close(self.wake_write)

    def _listen(self):
        while True:
            ready = select.select([self.socket, self.wake_read], [], [])[0]
            if self.wake_read in ready:
                return
            data = self.socket.recv(65536)
            when = time.time()
            if self.group == UDEV:
                offset, length = struct.unpack_from("=II", data, 16)
                data = data[offset:offset + length]
            strings = data.decode(errors="replace").split("\0")
            self.events.append((when, dict(s.split("=", 1) for s in strings if "=" in s)))

    def first(self, **properties):
        """The time of the first event that has these properties, or None."""
        for when, event in self.events:
            if all(event.get(key) == value for key, value in properties.items()):
                return when
        return None
