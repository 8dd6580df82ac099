#!/usr/bin/python3
"""The job comes first: what becomes of the broker's database keeps no device from its VM. Damaged while
it is open, a full file system, a read-only one; the history catches up, or says what it has lost.

Usage: test-state.py VHOTPLUG_BROKER [TEST…]   (the built program; run as root)
"""

import contextlib
import json
import os
import pathlib
import socket
import sqlite3
import subprocess
import sys

from world import PATIENCE, Broker, check, main, make_node, wait_for

DOUBLE = pathlib.Path(__file__).parent.parent / "doubles" / "hostile_monitor.py"


class Vm:
    """An honest monitor, and what it has been told to do."""

    def __init__(self, world, name="good"):
        self.log = world.path / f"{name}.told"
        self.process = subprocess.Popen(["/usr/bin/python3", "-BS", DOUBLE, "honest", f"{world.path}/{name}.sock"],
                                        stdin=subprocess.PIPE, stdout=self.log.open("w"))
        world.processes.append(self.process)

    def has(self, device, added=1, removed=0):
        def count(word):
            return sum(line.startswith(f"{word} vhp-{device}-") for line in self.log.read_text().split("\n"))
        return bool(wait_for(lambda: (count("add"), count("del")) == (added, removed)))


def ask(world, **request):
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(world.path / "runtime/control.sock"))
        client.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(client.makefile("r").readline())


def states(world):
    """By the broker itself, not by the database."""
    return {device["device"]: device["state"] for device in ask(world, action="list")["devices"]}


def plug(world, name):
    return world.event(device=make_node(name), vms="good")


def detach(world, name):
    device, = [d["id"] for d in ask(world, action="list")["devices"] if d["device"] == name]
    ask(world, action="detach", device=device)


def rows(path, sql):
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(sql).fetchall()


def has_rows(path, sql, wanted):
    def holds():
        with contextlib.suppress(sqlite3.Error):
            return rows(path, sql) == wanted
    good = bool(wait_for(holds))
    if not good:
        with contextlib.suppress(sqlite3.Error):
            print("      there is", rows(path, sql))
    return good


def begin(world):
    """A VM that has one device, and one that a person keeps out of it."""
    world.write_config("good")
    vm = Vm(world)
    broker = Broker(world).ready()
    check(plug(world, "zero") == b"T" and vm.has("zero"), "a device is in the VM")
    check(plug(world, "full") == b"T" and vm.has("full"), "and another one")
    detach(world, "full")
    check(vm.has("full", removed=1), "which a person has taken out")
    return vm, broker


@contextlib.contextmanager
def own_file_system(world):
    """For the state's directory."""
    state = world.database.parent
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", state], check=True)
    try:
        yield state
    finally:
        subprocess.run(["umount", "--lazy", state], check=True)


def remount(state, how):
    subprocess.run(["mount", "-o", f"remount,{how}", state], check=True)


def fill(state):
    with (state / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def overwrite(file):
    file.write(b"\xa5" * os.fstat(file.fileno()).st_size)


def empty(file):
    file.truncate(0)


def spoil(world, how):
    """The database and its log. The broker may see the first one's damage, and put both aside, before the other one's."""
    with open(world.database, "r+b", buffering=0) as file, open(f"{world.database}-wal", "r+b", buffering=0) as log:
        how(file)
        how(log)


ATTACHED = "select device from assignments where state = 'attached' order by device"


def test_damaged_while_it_is_open(world):
    """All of its pages, and those of its log."""
    vm, broker = begin(world)
    spoil(world, overwrite)
    plug(world, "random")
    check(vm.has("random"), "the next device is in the VM")
    check(broker.says("is damaged: it is now"), "the damage is found, and said")
    check(has_rows(world.database, ATTACHED, [("random",), ("zero",)]), "the new database knows where devices are")
    check(has_rows(world.database, "select action, result from history where device = ''", [("history", "lost")]),
          "the history says that there is none from before")
    check(pathlib.Path(f"{world.database}.damaged").exists(), "the damaged one is kept")
    check(plug(world, "random") == b"T", "events are kept again")
    check(has_rows(world.public_copy, ATTACHED, [("random",), ("zero",)]), "the copy for everybody is one of the new one")
    check(broker.end() == 0, "the end")
    broker = Broker(world).ready()
    plug(world, "full")
    check(wait_for(lambda: states(world).get("full") == "detached"), "what a person has chosen still holds")
    check(vm.has("full", removed=1) and vm.has("zero"), "nothing was given or taken twice")
    check(broker.end() == 0, "the end")


def test_truncated_while_it_is_open(world):
    vm, broker = begin(world)
    spoil(world, empty)
    plug(world, "random")
    check(vm.has("random"), "the next device is in the VM")
    check(has_rows(world.database, ATTACHED, [("random",), ("zero",)]), "the database knows where devices are")
    check(broker.end() == 0, "the end")


def until_refused(world):
    """Room that SQLite has already is used up first."""
    for _ in range(3000):
        if plug(world, "zero") == b"R":
            return True
    return False


def test_in_memory(world):
    """/var may be in memory: everything works, and it is said that nothing will be kept."""
    with own_file_system(world):
        _, broker = begin(world)
        check(broker.says("is in memory: choices and history end with the host"), "it is said")
        check(broker.end() == 0, "the end")


def test_full(world):
    with own_file_system(world) as state:
        vm, broker = begin(world)
        fill(state)
        check(until_refused(world), "in the end an event can't be kept: it is refused, and goes to the spool")
        plug(world, "random")
        check(vm.has("random"), "the next device is in the VM all the same")
        check(wait_for(lambda: states(world).get("random") == "attached"), "and is said to be there")
        check(not has_row(world.database, "random"), "the database does not know of it")
        (state / "ballast").unlink()
        check(broker.says("the database can be written again"), "there is room again")
        check(has_rows(world.database, "select result from history where device = 'random'", [("ok",)]),
              "the history has caught up")
        check(plug(world, "random") == b"T", "events are kept again")
        check(vm.has("random") and vm.has("zero"), "nothing was given twice")
        check(broker.end() == 0, "the end")


def has_row(path, device):
    return bool(rows(path, f"select 1 from assignments where device = '{device}'"))


def test_full_until_the_end(world):
    """What could not be written by its end the broker leaves in its other place."""
    with own_file_system(world) as state:
        vm, broker = begin(world)
        fill(state)
        check(until_refused(world), "the file system is full")
        plug(world, "random")
        check(vm.has("random"), "a device is in the VM")
        check(broker.end() == 0, "the end")
        broker = Broker(world).ready()
        plug(world, "urandom")
        check(vm.has("urandom") and vm.has("random") and vm.has("zero"), "a broker starts, and does its work")
        check(states(world).get("full") == "detached", "what a person has chosen still holds")
        check(broker.end() == 0, "the end")
        (state / "ballast").unlink()
        broker = Broker(world).ready()
        wanted = [("zero",), ("full",), ("full",), ("random",), ("urandom",)]
        check(has_rows(world.database, "select device from history where device <> ''", wanted),
              "with room again the history has caught up")
        check(not (world.path / "runtime/state.db").exists(), "and the other place is empty")
        check(broker.end() == 0, "the end")


def test_read_only(world):
    with own_file_system(world) as state:
        vm, broker = begin(world)
        check(broker.end() == 0, "the end")
        remount(state, "ro")
        broker = Broker(world).ready()
        check(broker.says("can't use the database .*(readonly|read-only).*the state is kept in .*/state.db"),
              "where the state is kept, and why, is said")
        plug(world, "random")
        check(vm.has("random") and vm.has("zero"), "a device is in the VM")
        check(states(world).get("full") == "detached", "what a person has chosen still holds")
        ask(world, action="attach", device=[d["id"] for d in ask(world, action="list")["devices"]
                                            if d["device"] == "full"][0])
        check(vm.has("full", added=2, removed=1), "until he chooses something else")
        check(has_rows(world.public_copy, "select device from history", [("random",), ("full",)]), "people see the history")
        check(broker.end() == 0, "the end")
        broker = Broker(world).ready()
        check(wait_for(lambda: states(world) == {"zero": "attached", "full": "attached", "random": "attached"}),
              "the next one goes on from there")
        check(broker.end() == 0, "the end")
        remount(state, "rw")
        broker = Broker(world).ready()
        check(broker.says("the state is in .* again"), "writable again")
        check(has_rows(world.database, "select device from history", [("zero",), ("full",), ("full",), ("random",), ("full",)]),
              "the history has caught up")
        check(wait_for(lambda: set(states(world).values()) == {"attached"}), "all is as it was")
        check(broker.end() == 0, "the end")


def test_directory_that_cannot_be_made(world):
    with own_file_system(world) as state:
        remount(state, "ro")
        world.write_config("good")
        vm = Vm(world)
        broker = Broker(world, {"STATE_DIRECTORY": str(state / "vhotplug")}).ready()
        plug(world, "zero")
        check(vm.has("zero"), "a device is in the VM")
        check(broker.says("can't make .*/vhotplug: Read-only file system"), "what is missing is said")
        second = Broker(world, {"STATE_DIRECTORY": str(state / "vhotplug")})
        check(second.process.wait(PATIENCE) == 1, "a second broker is kept out all the same")
        check(broker.end() == 0, "the end")


if __name__ == "__main__":
    sys.exit(main(globals()))
