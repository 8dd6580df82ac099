#!/usr/bin/python3
"""What a durable event costs the broker's processor, beside a row that SQLite alone makes durable in the same folder.

    durable-event.py VHOTPLUG_BROKER [FOLDER]

A release build; FOLDER is where the database's folder is made (on a disk: in memory nothing is made durable). Root is
needed, as for the broker. 0.15 ms, which is the limit on a machine that has nothing else to do, is what some 1.5 such
rows cost there; a row is what is compared with, since the machine's own speed says nothing. Events that come together
are committed together, and cost less than one row each; one alone has its commit to itself.
"""

import os
import pathlib
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

BROKER = sys.argv[1]
ROUNDS, ROWS = 5, 300
TOGETHER, ALONE = 20, 1
EVENTS = {TOGETHER: 3000, ALONE: 300}
LIMITS = {TOGETHER: 1.0, ALONE: 3.0}  # of a row
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


def main():
    if os.geteuid() != 0:
        print("root is needed")
        return SKIPPED
    costs = {TOGETHER: [], ALONE: [], "row": []}
    with tempfile.TemporaryDirectory(dir=sys.argv[2] if len(sys.argv) > 2 else None) as name:
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
    print(f"a row that SQLite makes durable: {row * 1e3:.3f} ms of processor")
    for at_once, limit in LIMITS.items():
        cost = min(costs[at_once])
        print(f"an event, {at_once} at once: {cost * 1e3:.3f} ms, {cost / row:.2f} rows (at most {limit})")
    if any(min(costs[at_once]) > limit * row for at_once, limit in LIMITS.items()):
        print("FAILED: more than that is too much")
        return 1
    return 0


sys.exit(main())
