#!/usr/bin/python3
"""Nothing hostile gets through: a VM's monitor, a local user, or whoever clears the broker's
directories, against the broker as a program. The monitors are tests/doubles/hostile_monitor.py.

Usage: test-hostile.py VHOTPLUG_BROKER [TEST…]   (the built program; run as root)
"""

import contextlib
import fcntl
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time

from apart import AT_ONCE
from world import PATIENCE, Broker, check, end_with_us, main, make_node, takes_long, wait_for

DOUBLE = pathlib.Path(__file__).parent.parent / "doubles" / "hostile_monitor.py"
UNASKED = ("nothing", "wrong", "twice", "huge", "flood", "half", "trickle", "endless", "silent", "close",
           "ports", "touches")
SECONDS = int(os.environ.get("HOSTILE_SECONDS", "3"))  # of each long test
NOBODY = 65534


class Double:
    def __init__(self, world, behaviour, name, *more):
        self.process = subprocess.Popen(
            ["/usr/bin/python3", "-BS", DOUBLE, behaviour, *(f"{world.path}/{n}.sock" for n in (name, *more))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=end_with_us)
        world.processes.append(self.process)
        self.process.stdout.readline()
        self.lines, self.rest = [], ""

    def has(self, *handles):
        print("handles", *handles, file=self.process.stdin, flush=True)
        self.process.stdout.readline()

    def _read(self):
        data = os.read(self.process.stdout.fileno(), 65536).decode()
        lines = (self.rest + data).split("\n")
        self.lines += lines[:-1]
        self.rest = lines[-1]

    def hears(self, line, seconds=PATIENCE):
        """Waits until it was asked for that."""
        end = time.monotonic() + seconds
        while line not in self.lines:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return False
            self._read()
        return True

    def heard(self, line):
        while select.select([self.process.stdout], [], [], 0)[0]:
            self._read()
        return line in self.lines

    def said(self):
        """Everything that it was asked to do so far; it ends with that."""
        self.process.terminate()
        return self.process.stdout.read().split("\n")


def attached(world, vm):
    return wait_for(lambda: world.query(
        f"select count(*) from assignments where state = 'attached' and vm = '{vm}'") == [(1,)])


def check_quietly(good, what):
    """For what is tried very often: only failures are worth a line."""
    if not good:
        check(False, what)


def is_clean(text):
    return all(c.isprintable() for c in text)


def size_of(world):
    return sum(path.stat().st_size for path in world.database.parent.iterdir())


def cpu_of(broker):
    """Seconds."""
    fields = pathlib.Path(f"/proc/{broker.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def median_answer(world, name, n=60):
    """How long a helper waits for its answer about a device that is where it should be."""
    times = []
    for _ in range(n):
        start = time.monotonic()
        answer = world.event(device=name, vms="good")
        if answer != b"T":
            check(False, f"an event is answered by {answer}")
        times.append(time.monotonic() - start)
    return statistics.median(times)


@takes_long
def test_monitors(world):
    """One VM of each kind and one that is honest: with all of them at once, and quiet."""
    world.write_config("good")
    zero = make_node("zero")
    good = Double(world, "honest", "good")
    broker = Broker(world, arguments=()).ready()
    world.event(device=zero, vms="good")
    check(attached(world, "good"), "a device is in the honest VM")
    quiet = median_answer(world, zero)
    check(broker.end() == 0, "the end")
    world.write_config("good", *UNASKED)
    hostile = [Double(world, behaviour, behaviour) for behaviour in UNASKED]
    broker = Broker(world, arguments=()).ready()
    for device, vm in (("null", "nothing"), ("full", "wrong"), ("random", "twice"), ("urandom", "flood")):
        check(world.event(device=make_node(device), vms=vm) == b"T", f"a device for {vm}")
    descriptors = pathlib.Path(f"/proc/{broker.process.pid}/fd")
    busy, start, cpu = [], time.monotonic(), cpu_of(broker)
    while time.monotonic() < start + SECONDS:
        busy.append(median_answer(world, zero, 20))
        time.sleep(0.2)
    share = (cpu_of(broker) - cpu) / (time.monotonic() - start)
    print(f"      an answer takes {quiet * 1000:.2f} ms, with {len(UNASKED)} hostile VMs "
          f"{statistics.median(busy) / quiet:.2f} times as long; the broker uses {share:.0%} of a core")
    check(share < 0.3, f"hostile VMs cost little ({share:.0%} of a core)")
    check(statistics.median(busy) < 0.2, "the honest VM's events are answered")
    check(broker.process.poll() is None, "the broker lives")
    check(world.query("select vm from assignments where device = 'zero' and state = 'attached'")
          == [("good",)], "no device was lost or moved")
    check(len(list(descriptors.iterdir())) < 100, "few descriptors are open")
    before, rows = size_of(world), world.query("select count(*) from history")[0][0]
    time.sleep(SECONDS / 2)
    grown = size_of(world) - before + (world.query("select count(*) from history")[0][0] - rows) * 4096
    check(grown < 1 << 18, f"what they do fills no database ({grown} bytes)")
    check(len(broker.log()) < 1 << 18, f"nor the log ({len(broker.log())} bytes)")
    check(is_clean(broker.log().replace("\n", "")), "the log is clean")
    check(broker.end() == 0, "the end")
    check(not any(line.startswith("del") for line in good.said()), "the honest VM was asked to drop nothing")
    for double in hostile:
        double.process.kill()


MADE_UP = pathlib.Path("/sys/devices/virtual/misc")


@contextlib.contextmanager
def made_up_sysfs():
    """A directory of /sys that is ours: devices can go and come there."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", MADE_UP], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", MADE_UP], check=True)


class Stick:
    """A device that can be plugged in again and again; its node is the zero device's."""

    def __init__(self, world, name, number):
        self.world, self.path, self.inode = world, MADE_UP / name, None
        self.node = f"/dev/bus/usb/099/{number:03}"
        os.mknod(self.node, 0o600 | 0o020000, os.makedev(1, 5))

    def _event(self, action):
        answer = self.world.event(action, vms="good", place=str(self.path).removeprefix("/sys"), inode=self.inode,
                                  node=self.node)
        check_quietly(answer == b"T", f"{action} of {self.path.name} is answered by {answer}")

    def handle(self):
        return f"vhp-{self.path.name}-{self.inode}"

    def plug(self):
        self.path.mkdir()
        (self.path / "dev").write_text("1:5\n")
        self.inode = self.path.stat().st_ino
        self._event("add")

    def unplug(self):
        shutil.rmtree(self.path)
        self._event("remove")


def measure_plugs(stick, good, seconds, pause):
    """How long it takes from the event of a plug until the VM is asked to add it, for SECONDS."""
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end or len(times) < 3:
        start = time.monotonic()
        stick.plug()
        check_quietly(good.hears(f"add {stick.handle()}"), "a plug does not reach the VM")
        times.append(time.monotonic() - start)
        stick.unplug()
        check_quietly(good.hears(f"del {stick.handle()}"), "an unplug does not reach the VM")
        time.sleep(pause)
    return times[1:]  # the first one may see the change


def is_let_run(processes, run):
    for process in processes:
        process.send_signal(signal.SIGCONT if run else signal.SIGSTOP)


def state_size(world):
    """The WAL is used again and again, and cut after a silence (test_local_user)."""
    return sum(path.stat().st_size for path in (world.database, world.public_copy) if path.exists())


@takes_long
def test_side_by_side(world):
    """Two VMs: one does everything that a VM can do, and users without rights whatever they can, in phases; the
    other one's device is plugged in again and again all the time. As long as HOSTILE_SECONDS says; for a
    minute and more it is also measured what that costs the other."""
    (world.path / "evil").mkdir()
    world.config.write_text(
        f"[vm good]\ntype = qemu\nsocket = {world.path}/good.sock\n"
        f"[vm evil]\ntype = qemu\nsocket = {world.path}/evil/evil.sock\n"
        "[usb g]\ntargetVm = good\n[allow r]\nvendorId = 046d\n")
    good, evil = Double(world, "honest", "good"), Double(world, "everything", "evil/evil", "good")
    there = [evil.process, *strangers(world, "nogroup", "games")]
    for process in there:  # what their own processor time costs is the scheduler's business
        os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
    broker = Broker(world, arguments=()).ready()
    with made_up_sysfs():
        stays, stick = Stick(world, "stays", 90), Stick(world, "stick", 91)
        stays.plug()
        check(good.hears(f"add {stays.handle()}"), "a device is in the honest VM")
        evil.has(stays.handle())
        for device in ("null", "full", "random", "urandom"):
            world.event(device=make_node(device), vms="evil")
        size, times = state_size(world), {True: [], False: []}
        phase = max(2, min(10, SECONDS / 10))
        for n in range(round(SECONDS / phase / 2) or 1):
            for run in (True, False):
                is_let_run(there, run)
                times[run].append(statistics.median(measure_plugs(stick, good, phase, 0.02 if SECONDS < 60 else 0.5)))
        is_let_run(there, True)
        ratio = statistics.median(times[True]) / statistics.median(times[False])
        grown, log = state_size(world) - size, len(broker.log())
        print(f"      from the plug to device_add {statistics.median(times[False]) * 1000:.2f} ms, attacked {ratio:.2f} "
              f"times as long ({len(times[True])} phases of {phase:.0f} s each way); the database has grown by "
              f"{grown} bytes, the log has {log}")
        check(SECONDS < 60 or ratio <= 1.2, f"the other VM's devices come as fast as ever ({ratio:.2f})")
        check(grown < 1 << 20, f"the database grows by less than 1 MB ({grown})")
        check(log < 1 << 20, f"and so does the log ({log})")
        check(is_clean(broker.log().replace("\n", "")), "which is clean")
        check(world.query("select vm from assignments where device = 'stays' and state = 'attached'") == [("good",)],
              "no device was lost or moved")
        check(not good.heard(f"del {stays.handle()}"), "nor taken out meanwhile")
        check(broker.process.poll() is None and all(p.poll() is None for p in there), "all were there to the end")
        check(broker.end() == 0, "the end")


def test_words(world):
    world.write_config("vm1")
    Double(world, "words", "vm1")
    broker = Broker(world).ready()
    world.event()
    check(world.reason_is("QEMU: .*red"), "the reason quotes QEMU")
    texts = world.query("select reason from assignments union all select detail from history")
    check(all(is_clean(text) for (text,) in texts if text), "without what steers a terminal")
    check(is_clean(broker.log().replace("\n", "")), "and so does the log")
    check(broker.end() == 0, "the end")


def test_link_to_another_vm(world):
    """vm1's user makes its socket a link to vm2's."""
    good = Double(world, "honest", "vm2")
    os.symlink(world.path / "vm2.sock", world.path / "vm1.sock")
    os.lchown(world.path / "vm1.sock", NOBODY, NOBODY)
    broker = Broker(world).ready()
    check(broker.says("vm1: not trusted: a link"), "a link that is not root's is not followed")
    world.event(vms="vm1")
    check(world.reason_is("not trusted"), "the device waits, and says why")
    check(broker.end() == 0, "the end")
    check(not any(line.startswith(("add", "del")) for line in good.said()), "vm2 was left alone")


def test_one_process_is_one_vm(world):
    Double(world, "honest", "vm1", "vm2")
    broker = Broker(world).ready()
    check(broker.says("not trusted: process [0-9]+, which answers on .*, is the VM vm[12]"),
          "a process that is another VM already is not trusted")
    first = re.search("is the VM (vm[12])", broker.log())[1]
    Double(world, "honest", "vm3")
    os.rename(world.path / "vm3.sock", world.path / f"{first}.sock")
    check(broker.says(f"{'vm2' if first == 'vm1' else 'vm1'}: up"), "it is, when that one is another process after all")
    check(broker.end() == 0, "the end")


def test_claimed_handle(world):
    """vm1 says that it has the device that is to go to vm2, and never lets go of it."""
    zero = make_node("zero")
    inode = os.stat("/sys/devices/virtual/mem/zero").st_ino
    Double(world, "keeps", "vm1").has(f"vhp-zero-{inode}")
    good = Double(world, "honest", "vm2")
    broker = Broker(world).ready()
    check(broker.says("vm1: up") and broker.says("vm2: up"), "both run")
    world.event(device=zero, vms="vm2")
    check(attached(world, "vm2"), "the device goes to vm2")
    (world.path / "vm1.sock").chmod(0o600)  # is looked at again, while the device is in vm2
    check(broker.says("vm1: says that it has vhp-zero-[0-9]+, which is in vm2: left alone"),
          "what is on record elsewhere is left alone")
    check(broker.end() == 0, "the end")
    check(good.said().count(f"del vhp-zero-{inode}") == 0, "vm2 kept it")


def test_keeps_it_open(world):
    """vm1 lets go of a device and keeps its node open, which the kernel can't take from it."""
    full = make_node("full")
    hoarder = Double(world, "hoards", "vm1")
    Double(world, "honest", "vm2")
    broker = Broker(world).ready()
    check(broker.says("vm1: up") and broker.says("vm2: up"), "both run")
    world.event(device=full, vms="vm1")
    check(attached(world, "vm1"), "the device goes to vm1")
    world.event(device=full, vms="vm2")
    check(attached(world, "vm2"), "and then to vm2")
    told = wait_for(lambda: world.query("select vm, detail from history where result = 'open'"))
    pid = hoarder.process.pid
    check(told and told[0][0] == "vm1" and f"(process {pid}) still has it open" in told[0][1],
          f"the history says that vm1 still has it open ({told})")
    check(world.reason_is(f"vm2 has it.*process {pid}.*still has it open"), "and so does the reason")
    check(broker.end() == 0, "the end")


READS = """
import select, socket, sys, time
clients, n, end = [], 0, time.monotonic() + float(sys.argv[2])
for _ in range(100):
    client = socket.socket(socket.AF_UNIX)
    client.connect(sys.argv[1])
    client.setblocking(False)
    clients.append(client)
while (left := end - time.monotonic()) > 0:
    readable, writable, _ = select.select(clients, clients, [], left)
    for client in writable:
        try:
            client.send(sys.argv[3].encode() * 50)
        except OSError:
            pass
    for client in readable:
        try:
            n += client.recv(1 << 20).count(b"\\n")
        except OSError:
            pass
print(n)
"""


def ask_without_end(world, question):
    """Returns the number of answers, and how long an event takes meanwhile, in ms."""
    world.write_config("good")
    Double(world, "honest", "good")
    zero = make_node("zero")
    broker = Broker(world, arguments=()).ready()
    world.event(device=zero, vms="good")
    check(attached(world, "good"), "a device is in the honest VM")
    asker = subprocess.Popen(["/usr/bin/python3", "-S", "-c", READS, f"{world.event_socket.parent}/control.sock", str(SECONDS),
                              question + "\n"],
                             user="nobody", group="nogroup", extra_groups=[], stdout=subprocess.PIPE, text=True)
    world.processes.append(asker)
    times = []
    while asker.poll() is None:
        start = time.monotonic()
        check_quietly(world.event(device=zero, vms="good") == b"T", "an event is refused")
        times.append(time.monotonic() - start)
        time.sleep(0.05)
    answers, took = int(asker.stdout.read()), statistics.median(times) * 1000
    print(f"      {answers} answers; an event takes {took:.2f} ms")
    check(broker.end() == 0, "the end")
    return answers, took


@takes_long
def test_questions_without_end(world):
    """A user without rights asks over the control socket, with many clients, without end."""
    answers, _ = ask_without_end(world, '{"action": "list"}')
    check(0 < answers < 3000 + 300 * SECONDS, f"they are answered at a pace that costs little ({answers})")


@takes_long
def test_long_searches_without_end(world):
    """The same, with questions that are short, as their answers are, and take long."""
    world.write_config("good")
    check(Broker(world, arguments=()).ready().end() == 0, "there is a database")
    with contextlib.closing(sqlite3.connect(world.database)) as db:
        db.execute("with recursive n(i) as (select 1 union all select i + 1 from n where i < 200000)"
                   " insert into action select i, unixepoch() * 1000, '1-3', 'A', '046d:c52b', 'vm1', 'attach', 'plug',"
                   " 'usb/g/r', 'ok', 1, '' from n")
        db.commit()
    answers, took = ask_without_end(world, '{"action": "history", "device": "x"}')
    check(answers > 0 and took < 100, f"they leave the broker time ({answers} answers, an event takes {took:.0f} ms)")


CALLS = """
import socket, sys, time
last, n, end = None, 0, time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    call = socket.socket(socket.AF_UNIX)
    call.settimeout(1)
    try:
        call.connect(sys.argv[1])
        call.send(b'{"QMP": {"version": {}, "capabilities": []}}')
        while last and last.recv(4096):
            pass
        n += last is not None  # the new call was taken, and so the last one hung up on
    except ConnectionError:
        n += 1
    except OSError:
        continue
    last = call
print(n)
"""


@takes_long
def test_calls_without_end(world):
    """A VM's user dials again and again."""
    world.write_config("good")
    with open(world.config, "a") as file:
        file.write(f"[vm caller]\ntype = qemu\nlisten = {world.path}/caller.sock\nuser = nobody\n")
    Double(world, "honest", "good")
    broker = Broker(world, arguments=()).ready()
    zero = make_node("zero")
    world.event(device=zero, vms="good")
    check(attached(world, "good"), "a device is in the honest VM")
    caller = subprocess.Popen(["/usr/bin/python3", "-S", "-c", CALLS, f"{world.path}/caller.sock", str(SECONDS)],
                              user="nobody", group="nogroup", extra_groups=[], stdout=subprocess.PIPE, text=True)
    world.processes.append(caller)
    while caller.poll() is None:
        check_quietly(world.event(device=zero, vms="good") == b"T", "an event is refused")
        time.sleep(0.05)
    calls = int(caller.stdout.read())
    check(0 < calls < 30 + 4 * SECONDS, f"few calls are taken ({calls})")
    check(len(broker.log()) < 1 << 15, f"and little is said about them ({len(broker.log())} bytes)")
    check(broker.end() == 0, "the end")


LOCKS = """
import fcntl, os, sqlite3, sys, time
held, transactions = [], []
while True:
    for root in sys.argv[1:]:
        try:
            names = [root] + [os.path.join(root, name) for name in os.listdir(root)]
        except OSError:
            names = [root, root + "/vhotplug.db", root + "/vhotplug.db-shm", root + "/broker.lock"]
        for name in names:
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK)
            except OSError:
                continue
            held.append(fd)
            for lock in (lambda: fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB),
                         lambda: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 8, 120)):
                try:
                    lock()
                except OSError:
                    pass
            if name.endswith(".db") and len(transactions) < 50:
                try:
                    db = sqlite3.connect(f"file:{name}?mode=ro", uri=True, isolation_level=None)
                    db.execute("begin")
                    db.execute("select count(*) from sqlite_master").fetchall()
                    transactions.append(db)
                except sqlite3.Error:
                    pass
    while len(held) > 500:
        os.close(held.pop(0))
    time.sleep(0.01)  # what is locked stays locked; mere work can be done without vhotplug
"""


def strangers(world, *groups):
    """Users without rights, of each of GROUPS, who lock whatever they can open, all the time, and
    keep the transactions in which they read it."""
    found = []
    for group in groups:
        found.append(subprocess.Popen(
            ["/usr/bin/python3", "-S", "-c", LOCKS, str(world.database.parent),
             str(world.event_socket.parent), "/sys/kernel/iommu_groups"],
            user="nobody", group=group, extra_groups=[]))
    world.processes.extend(found)
    return found


def wal_size(world):
    return os.stat(f"{world.database}-wal").st_size


def wal_begins_anew(world, event):
    """After a silence, which is when it may."""
    end = time.monotonic() + 60
    while wal_size(world) > 1 << 20 and time.monotonic() < end:
        time.sleep(2.5)
        event()
    return wal_size(world) <= 1 << 20


@takes_long
def test_local_user(world):
    """Users without rights lock whatever they can open, and read it without end: everybody, and
    members of the group that the config names."""
    world.write_config("good", extra="[general]\ngroup = games\n")
    Double(world, "honest", "good")
    zero = make_node("zero")
    broker = Broker(world).ready()
    world.event(device=zero, vms="good")
    there = strangers(world, "nogroup", "games")
    answers, n = set(), 0
    end = time.monotonic() + SECONDS
    while time.monotonic() < end or (wal_size(world) < 3 << 19 and n < 1000):
        answers.add(world.event(device=zero, vms="good"))
        n += 1
        time.sleep(0.01)
    check(answers == {b"T"}, f"no event is refused ({answers} of {n})")
    check(wal_begins_anew(world, lambda: world.event(device=zero, vms="good")),
          f"the database's log does not grow for a reader ({wal_size(world)} bytes)")
    check(broker.end() == 0, "the end")
    broker = Broker(world).ready()
    check(world.event(device=zero, vms="good") == b"T", "a new broker starts meanwhile")
    check(all(stranger.poll() is None for stranger in there), "they were at it all the time")
    check(broker.end() == 0, "the end")


def answers_people(world):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        if client.connect_ex(str(world.path / "runtime" / "control.sock")) != 0:
            return False
        client.sendall(b'{"action": "status"}\n')
        return b'"ok"' in client.makefile("rb").readline()


def test_runtime_directory_cleared(world):
    broker = Broker(world).ready()
    for _ in range(3):
        for path in world.event_socket.parent.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)  # it may be at work there
        check(wait_for(world.takes_events), "the socket is made again")
        check(wait_for((world.event_socket.parent / "broker.lock").exists), "and the lock")
        check(wait_for(lambda: answers_people(world)), "and that for people")
        check(world.event("remove") == b"T", "events are taken")
    second = Broker(world)
    check(second.process.wait(PATIENCE) == 1, "a second broker does not start beside it")
    check(broker.end() == 0, "the end")


def test_database_deleted(world):
    broker = Broker(world).ready()
    check(world.event("remove") == b"T", "an event is taken")
    world.database.unlink()
    with contextlib.suppress(OSError):
        check(world.event("remove") != b"T", "what can't be kept is not acknowledged")
    check(broker.process.wait(PATIENCE) == 1 and broker.says("the database was removed"),
          "the broker ends, and says why")
    broker = Broker(world).ready()
    check(world.event("remove") == b"T", "the next one begins a new database")
    check(broker.end() == 0, "the end")


def test_nobody_reads_the_log(world):
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    broker = subprocess.Popen([world.program, "-d"], stderr=writer, env=world.environment)
    world.processes.append(broker)
    os.close(writer)
    wait_for(world.takes_events)
    with contextlib.suppress(BlockingIOError):  # the pipe is full before the events come
        filler = os.open(f"/proc/{broker.pid}/fd/2", os.O_WRONLY | os.O_NONBLOCK)
        while True:
            os.write(filler, b"x" * 4096)
    check(all(world.event("remove") == b"T" for _ in range(20)), "events are taken while nobody reads")
    world.config.write_text("[vm\n" * 100)
    broker.send_signal(signal.SIGHUP)  # each line is a mistake
    check(all(world.event("remove") == b"T" for _ in range(20)), "and of the config's mistakes neither")
    os.close(filler)
    os.close(reader)
    broker.send_signal(signal.SIGHUP)  # says something
    check(all(world.event("remove") == b"T" for _ in range(20)), "and when the reader has gone")
    broker.terminate()
    check(broker.wait(PATIENCE) == 0, "the end")


def test_killed_and_started_at_once(world):
    started = 0
    broker = Broker(world).ready()
    for _ in range(10):
        broker.process.kill()
        broker.process.wait()
        broker = Broker(world)
        started += bool(broker.says("ready: "))
    check(started == 10, f"a killed broker's successor starts at once ({started} of 10)")
    check(broker.end() == 0, "the end")


def test_lock_of_one_that_is_just_ending(world):
    """What is left of a killed broker may hold the lock for a moment more."""
    check(Broker(world).ready().end() == 0, "there are locks")
    locks = [open(path / "broker.lock", "w") for path in (world.database.parent, world.event_socket.parent)
             if (path / "broker.lock").exists()]
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_EX)
    broker = Broker(world)
    with contextlib.suppress(subprocess.TimeoutExpired):  # it tries for two seconds
        broker.process.wait(0.2)
    for lock in locks:
        lock.close()
    check(broker.says("ready: "), "and gets it")
    check(broker.end() == 0, "the end")


if __name__ == "__main__":
    # Figures are only worth something when nothing else runs.
    sys.exit(main(globals(), at_once=1 if SECONDS >= 60 else AT_ONCE))
