"""What the tests of the broker as a program share: a mount namespace with a made-up USB device node,
a directory with a config, the broker, and real QEMUs that never run (-S).

No USB hardware is needed: in the namespace /dev/bus/usb/099/099 is the null device, which has a
directory in sysfs; QEMU takes its descriptor and then says that it is no USB device.
"""

import contextlib
import ctypes
import functools
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

import apart
from apart import end_with_us

QEMU = "qemu-system-x86_64"
DEVICE = "/devices/virtual/mem/null"
NODE = "/dev/bus/usb/099/099"
SKIPPED = 77
PATIENCE = 60  # seconds; the machine may be busy
QEMU_PATIENCE = 10  # for its own end; then it is killed

failures = []


def check(good, what):
    print("ok    " if good else "FAILED", what, flush=True)
    if not good:
        failures.append(what)


def wait_for(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    return condition()


def fake_usb():
    """A /dev with a USB device node, which only this process and its children see. All of /dev is
    their own: a folder that is made in everybody's takes the mounts of all others on it along when
    it is removed."""
    if not apart.leave() or ctypes.CDLL(None).mount(b"none", b"/dev", b"tmpfs", 0, b"mode=755") < 0:
        return False
    for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)):
        os.mknod("/dev/" + name, 0o666 | 0o020000, os.makedev(1, minor))
        os.chmod("/dev/" + name, 0o666)
    os.symlink("/proc/self/fd", "/dev/fd")
    os.mkdir("/dev/shm", 0o1777)
    os.makedirs(os.path.dirname(NODE))
    os.mknod(NODE, 0o600 | 0o020000, os.makedev(1, 3))
    return True


def make_node(name):
    """The same for another device of the kernel's memory driver: "zero", "full" …; returns NAME."""
    number = {"null": 99, "zero": 98, "full": 97, "random": 96, "urandom": 95}[name]
    node = f"/dev/bus/usb/099/{number:03}"
    if not os.path.exists(node):
        device = pathlib.Path(f"/sys/devices/virtual/mem/{name}/dev").read_text().split(":")
        os.mknod(node, 0o600 | 0o020000, os.makedev(int(device[0]), int(device[1])))
    NODES[name] = node
    return name


NODES = {"null": NODE}


class Monitor:
    """One client of a QEMU monitor."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rw")
        json.loads(self.file.readline())
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            if "event" not in reply:
                return reply

    def close(self):
        self.file.close()
        self.socket.close()


class Vm:
    """A QEMU with two monitors: NAME.sock for the broker, NAME.test for the test."""

    def __init__(self, world, name, *arguments):
        self.socket = world.path / f"{name}.sock"
        self.test = world.path / f"{name}.test"
        self.process = subprocess.Popen(
            [QEMU, "-S", "-machine", "q35", "-accel", "tcg", "-m", "64", "-nodefaults",
             "-display", "none", "-qmp", f"unix:{self.socket},server=on,wait=off",
             "-qmp", f"unix:{self.test},server=on,wait=off",
             "-device", "qemu-xhci,id=xhci,p2=4,p3=4", *arguments], stderr=subprocess.DEVNULL, preexec_fn=end_with_us)
        world.processes.append(self.process)

    def monitor(self):
        def connect():
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return Monitor(self.test)
        return wait_for(connect)

    def end(self, how=signal.SIGKILL):
        """A QEMU that is told to end (SIGTERM) while a client of its monitor comes or goes now and then waits for
        itself for ever (7.2, monitor_cleanup)."""
        self.process.send_signal(how)
        try:
            self.process.wait(QEMU_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Broker:
    def __init__(self, world, environment=None, pass_fds=(), preexec_fn=None, arguments=("-d",)):
        self.world = world
        self.log_path = world.path / "log"
        self.log_file = open(self.log_path, "ab")
        self.start = self.log_file.tell()

        def begin():
            end_with_us()
            if preexec_fn:
                preexec_fn()
        self.process = subprocess.Popen(
            [world.program, *arguments], stderr=self.log_file, stdout=self.log_file,
            env={**world.environment, **(environment or {})}, pass_fds=pass_fds,
            preexec_fn=begin)
        world.processes.append(self.process)

    def log(self):
        with open(self.log_path, "rb") as file:
            file.seek(self.start)
            return file.read().decode(errors="replace")

    def says(self, pattern, seconds=PATIENCE):
        return wait_for(lambda: re.search(pattern, self.log()), seconds)

    def forget(self):
        """What was said before does not count any more."""
        self.start = self.log_path.stat().st_size

    def ready(self):
        if not self.says("ready: "):
            print(self.log())
            raise RuntimeError("the broker does not become ready")
        return self

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        status = self.process.wait(PATIENCE)
        self.log_file.close()
        if "Sanitizer" in self.log() or "runtime error" in self.log():
            print(self.log())
            check(False, "a sanitizer has something to say")
        return status

    def stays(self):
        """Though it is to end when idle (--exit-when-idle), which it is after three seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(6)
        return self.process.poll() is None

    def workers(self):
        """The oldest first."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def worker(self):
        return self.workers()[0]


class World:
    """A directory for everything, with a config for vm1 and vm2."""

    def __init__(self, program):
        self.program = program
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="vhp-"))
        self.path.chmod(0o755)
        self.processes = []
        self.seqnum = 0
        suppressions = pathlib.Path(__file__).parent / "lsan-suppressions"
        self.environment = {"PATH": os.environ["PATH"],
                            "LSAN_OPTIONS": f"suppressions={suppressions}:print_suppressions=0"}
        for name in ("RUNTIME", "STATE", "CONFIGURATION"):
            directory = self.path / name.lower()
            directory.mkdir(mode=0o755)
            self.environment[f"{name}_DIRECTORY"] = str(directory)
        self.config = self.path / "configuration" / "vhotplug.conf"
        self.database = self.path / "state" / "vhotplug.db"
        self.public_copy = self.path / "runtime" / "vhotplug.db"
        self.event_socket = self.path / "runtime" / "event.sock"
        self.write_config("vm1", "vm2")

    def write_config(self, *vms, extra=""):
        text = "".join(f"[vm {vm}]\ntype = qemu\nsocket = {self.path}/{vm}.sock\n" for vm in vms)
        self.config.write_text(
            f"{extra}{text}[usb g]\ntargetVm = {vms[0]}\n[allow r]\nvendorId = 046d\n")

    def message(self, action="add", vms="vm1", device="null", place=None, inode=None, node=None, **more):
        """What the helper sends. DEVICE is one of the memory driver, or else it is at PLACE below /sys, with INODE
        and NODE. MORE are properties."""
        place = place or f"/devices/virtual/mem/{device}"
        self.seqnum += 1
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = ["VHOTPLUG=1", f"ACTION={action}", f"DEVPATH={place}", f"SEQNUM={self.seqnum}",
                  f"BOOT_ID={boot}", f"SYSFS_INODE={inode or os.stat('/sys' + place).st_ino}",
                  "SUBSYSTEM=usb", "DEVTYPE=usb_device", f"DEVNAME={node or NODES[device]}",
                  "VHOTPLUG_RULE=usb/g/r", f"VHOTPLUG_VM={vms}", *(f"{key}={value}" for key, value in more.items())]
        return b"".join(field.encode() + b"\0" for field in fields)

    def event(self, *what, **more):
        """Sends a message; returns the broker's answer."""
        message = self.message(*what, **more)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(PATIENCE)
            client.connect(str(self.event_socket))
            client.send(message)
            return client.recv(1)

    def spool(self, *what, **more):
        """The same where no broker takes it."""
        place = self.path / "runtime" / "spool"
        place.mkdir(mode=0o700, exist_ok=True)
        message = self.message(*what, **more)
        (place / ".new").write_bytes(message)
        (place / ".new").rename(place / f"{self.seqnum:020}")

    def takes_events(self):
        """Whether the broker listens. Its socket is there a moment before it does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            return client.connect_ex(str(self.event_socket)) == 0

    def query(self, sql):
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as db:
            return db.execute(sql).fetchall()

    def assignment(self):
        rows = self.query("select state, vm, reason from assignments")
        return rows[0] if rows else ("", "", "")

    def reason_is(self, pattern):
        return bool(wait_for(lambda: re.search(pattern, self.assignment()[2])))

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()
        # A worker whose broker has ended may be at its last job, with a lock there.
        wait_for(self.remove)

    def remove(self):
        with contextlib.suppress(OSError):
            shutil.rmtree(self.path)
        return not os.path.exists(self.path)


def as_nobody(database, sql):
    return subprocess.run(["sqlite3", str(database), sql], capture_output=True, text=True,
                          user="nobody", group="nogroup", extra_groups=[])


def takes_long(test):
    """It begins before the others."""
    test.takes_long = True
    return test


def run(name, test, make_world):
    """One test; returns how many of its checks have failed."""
    print(f"# {name}", flush=True)
    if not fake_usb():
        raise OSError("no /dev of our own")
    world = make_world(sys.argv[1])
    try:
        test(world)
    except Exception as error:  # what the broker has said is worth reading
        check(False, f"{name}: {error!r}")
        if (world.path / "log").exists():
            print((world.path / "log").read_text(errors="replace"))
    finally:
        world.close()
    return len(failures)


def main(tests, make_world=World, programs=1, needs=(QEMU,), at_once=apart.AT_ONCE):
    """Runs the functions called test_… in TESTS, or those named on the command line behind PROGRAMS
    programs, each in a world of its own: AT_ONCE side by side."""
    if os.geteuid() != 0 or not all(map(shutil.which, needs)) or not apart.may_be_apart():
        print(" ".join(["needs root, mount namespaces", *needs]))
        return SKIPPED
    wanted = sys.argv[1 + programs:]
    names = [name for name in tests if name.startswith("test_") and (not wanted or name in wanted)]
    if not names:
        sys.exit(f"no such test: {' '.join(wanted)}")
    names.sort(key=lambda name: not hasattr(tests[name], "takes_long"))
    statuses = apart.run([functools.partial(run, name, tests[name], make_world) for name in names], at_once)
    for name, status in zip(names, statuses):
        if not 0 <= status < apart.BROKEN:
            check(False, f"{name}: ended with {status}")
    print(f"{len(failures) + sum(status for status in statuses if 0 <= status < apart.BROKEN)} failed")
    return 1 if any(statuses) else 0
