#!/usr/bin/python3
"""What a durable event costs the broker's processor, beside a row that SQLite alone writes in the same folder.

    durable-event.py VHOTPLUG_BROKER [FOLDER]

A release build; root is needed, as for the broker. In memory (/dev/shm) the broker's own work is measured: what a
commit costs the kernel depends on the disk and its file system, and how many there are is counted by plug.py. With a
FOLDER on a disk that is measured too. Events that come together are committed together; one alone has its commit to
itself. Milliseconds say nothing on another machine, so rows are what is compared with: 0.15 ms on a disk, which is
the limit on a machine that has nothing else to do, is what some two rows cost there.
"""

import os
import pathlib
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

BROKER = pathlib.Path(sys.argv[1]).resolve()
ROUNDS, ROWS = 5, 300
TOGETHER, ALONE = 20, 1
EVENTS = {TOGETHER: 3000, ALONE: 300}
# Of a row: in memory 2.8 to 3.2 and 4.9 to 8.9 were measured, on a disk 0.4 and 2.
IN_MEMORY, ON_DISK = {TOGETHER: 6.0, ALONE: 15.0}, {TOGETHER: 1.0, ALONE: 3.0}
DEVICE = pathlib.Path("/sys/devices/virtual/mem/null")
BOOT = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
SKIPPED = 77


def message(number):
    fields = ["VHOTPLUG=1", "ACTION=add", f"DEVPATH={str(DEVICE).removeprefix('/sys')}", f"SEQNUM={number}",
              f"BOOT_ID={BOOT}", f"SYSFS_INODE={DEVICE.stat().st_ino}", "SUBSYSTEM=usb", "DEVTYPE=usb_device",
              "DEVNAME=/dev/bus/usb/001/001", "PRODUCT=46d/c52b/1", "VHOTPLUG_RULE=usb/g/r", "VHOTPLUG_VM=vm1",
              "ID_SERIAL_SHORT=S1", "ID_VENDOR=Maker", "ID_MODEL=Some_product_with_a_name"]
    return b"".join(field.encode() + b"\0" for field in fields)


def send(path, numbers):
    """At once; returns when all are acknowledged as kept."""
    clients = []
    for number in numbers:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.settimeout(60)
        client.connect(path)
        client.send(message(number))
        clients.append(client)
    for client in clients:
        if client.recv(1) != b"T":
            raise RuntimeError("an event was not kept")
        client.close()


class Broker:
    def __init__(self, folder):
        environment = {"PATH": os.environ["PATH"]}
        for name in ("RUNTIME", "STATE", "CONFIGURATION"):
            (folder / name.lower()).mkdir()
            environment[f"{name}_DIRECTORY"] = str(folder / name.lower())
        (folder / "configuration/vhotplug.conf").write_text(
            "[vm vm1]\ntype = qemu\nsocket = /nowhere/s\n[usb g]\ntargetVm = vm1\n[allow r]\nvendorId = 046d\n")
        self.socket, self.number = str(folder / "runtime/event.sock"), 0
        self.process = subprocess.Popen([BROKER], env=environment, stderr=subprocess.DEVNULL)
        while not (folder / "runtime/control.sock").exists():
            if self.process.poll() is not None:
                raise RuntimeError("the broker has ended")
            time.sleep(0.02)

    def seconds(self):
        """What it has had of the processor: it has one thread."""
        return int(pathlib.Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) / 1e9

    def cost(self, n, at_once):
        """Seconds of the processor per event."""
        before = self.seconds()
        for _ in range(n // at_once):
            send(self.socket, range(self.number + 1, self.number + 1 + at_once))
            self.number += at_once
        return (self.seconds() - before) / n


def row_cost(folder, n):
    """The same for a row in a transaction of its own."""
    database = sqlite3.connect(folder / "rows.db", isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = full")
    database.execute("create table if not exists event (id integer primary key, words text)")
    before = time.process_time()
    for _ in range(n):
        database.execute("insert into event (words) values (?)", ("x" * 400,))
    used = time.process_time() - before
    database.close()
    return used / n


def measure(parent, limits):
    """Returns whether all went well."""
    costs = {TOGETHER: [], ALONE: [], "row": []}
    with tempfile.TemporaryDirectory(dir=parent) as name:
        broker = Broker(pathlib.Path(name))
        try:
            for _ in range(ROUNDS):
                for at_once, n in EVENTS.items():
                    costs[at_once].append(broker.cost(n, at_once))
                costs["row"].append(row_cost(pathlib.Path(name), ROWS))
        finally:
            broker.process.kill()
            broker.process.wait()
    row = min(costs["row"])
    print(f"{parent}: a row {row * 1e3:.3f} ms of processor")
    for at_once, limit in limits.items():
        cost = min(costs[at_once])
        print(f"    an event, {at_once} at once: {cost * 1e3:.3f} ms, {cost / row:.2f} rows (at most {limit})")
    return all(min(costs[at_once]) <= limit * row for at_once, limit in limits.items())


def main():
    if os.geteuid() != 0:
        print("root is needed")
        return SKIPPED
    if not os.path.ismount("/dev/shm"):
        print("there is no folder in memory")
        return SKIPPED
    good = measure("/dev/shm", IN_MEMORY)
    if len(sys.argv) > 2:
        good &= measure(pathlib.Path(sys.argv[2]).resolve(), ON_DISK)
    if not good:
        print("FAILED: more than that is too much")
    return 0 if good else 1


sys.exit(main())
