#!/usr/bin/python3
"""What `vhotplugctl list` costs with 100 devices, beside /bin/true: at most twice its time. In turns, each by its
fastest runs: what else the machine does makes both slower, never faster. Its instructions (callgrind) are nearly the
same everywhere: see kept.py.

    list.py VHOTPLUG_BROKER VHOTPLUGCTL [--keep | --instructions]

Both built for release; with --instructions, which looks at nothing else, the broker may be another one. --keep writes
list.txt anew. Root is needed, as for the broker."""

import os
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import kept

BROKER, CTL = sys.argv[1:3]
KEPT = pathlib.Path(__file__).with_suffix(".txt")
DEVICES, RUNS, BATCHES, SKIPPED = 100, 150, 6, 77
LIMIT = 2.0
MARGIN = 1.1  # the names of the machine's devices are in it


def devices():
    """Paths below /sys of 100 devices that every kernel has: the broker looks only whether they are there."""
    found = sorted(path.parent for path in pathlib.Path("/sys/devices/virtual").glob("*/*/dev"))
    found += sorted(path for path in pathlib.Path("/sys/devices").glob("*/*") if path.is_dir() and path not in found)
    return found[:DEVICES]


def add(event_socket, number, path):
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    fields = ["VHOTPLUG=1", "ACTION=add", f"DEVPATH={str(path).removeprefix('/sys')}", f"SEQNUM={number}",
              f"BOOT_ID={boot}", f"SYSFS_INODE={path.stat().st_ino}", "SUBSYSTEM=usb", "DEVTYPE=usb_device",
              f"DEVNAME=/dev/bus/usb/001/{number:03}", "PRODUCT=46d/c52b/1", "VHOTPLUG_RULE=usb/g/r", "VHOTPLUG_VM=vm1",
              f"ID_SERIAL_SHORT=S{number}", "ID_VENDOR=Maker", "ID_MODEL=Some_product_with_a_name"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(60)
        client.connect(str(event_socket))
        client.send(b"".join(field.encode() + b"\0" for field in fields))
        client.recv(1)


def start_broker(folder):
    environment = {"PATH": os.environ["PATH"]}
    for name in ("RUNTIME", "STATE", "CONFIGURATION"):
        (folder / name.lower()).mkdir()
        environment[f"{name}_DIRECTORY"] = str(folder / name.lower())
    (folder / "configuration/vhotplug.conf").write_text(
        "[vm vm1]\ntype = qemu\nsocket = /nowhere/s\n[usb g]\ntargetVm = vm1\n[allow r]\nvendorId = 046d\n")
    process = subprocess.Popen([BROKER], env=environment, stderr=subprocess.DEVNULL)
    while not (folder / "runtime/control.sock").exists():
        time.sleep(0.02)
    for number, path in enumerate(devices(), 1):
        add(folder / "runtime/event.sock", number, path)
    return process


def seconds(command):
    start = time.perf_counter()
    pid = os.posix_spawn(command[0], command, {}, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)])
    os.waitpid(pid, 0)
    return time.perf_counter() - start


def ratio(command):
    """Of the fastest tenths, in turns."""
    ours, true = [], []
    for _ in range(RUNS):
        true.append(seconds(["/bin/true"]))
        ours.append(seconds(command))
    fastest = [statistics.median(sorted(times)[:RUNS // 10]) for times in (ours, true)]
    return fastest[0] / fastest[1], fastest


def instructions(command):
    done = subprocess.run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    return int(re.search(rb"Collected : (\d+)", done.stderr).group(1))


def main():
    if os.geteuid() != 0:
        print("root is needed")
        return SKIPPED
    with tempfile.TemporaryDirectory() as name:
        broker = start_broker(pathlib.Path(name))
        command = [CTL, "--socket", f"{name}/runtime/control.sock", "list"]
        try:
            lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.count("\n")
            if lines != DEVICES + 1:
                print(f"FAILED: {lines} lines")
                return 1
            found = instructions(command)
            best = 0 if "--instructions" in sys.argv else 9.9
            for _ in range(0 if "--instructions" in sys.argv else BATCHES):
                now, (ours, true) = ratio(command)
                best = min(best, now)
                print(f"{ours * 1e6:.0f} µs, /bin/true {true * 1e6:.0f} µs: {now:.2f} times")
                if best <= LIMIT:
                    break
        finally:
            broker.kill()
            broker.wait()
    if "--keep" in sys.argv:
        kept.keep(KEPT, {"list": found})
    if kept.exceeds(KEPT, {"list": found}, MARGIN) or best > LIMIT:
        print("FAILED: more than that is too much")
        return 1
    return 0


sys.exit(main())
