#!/usr/bin/python3
"""What one plug and its unplug take: system calls, bytes, fsyncs, SQL statements, looks into /sys, processes,
instructions; of the broker, its worker and the helper. The VM is tests/doubles/hostile_monitor.py at its most
honest, the device a directory that is made and removed.

    plug.py VHOTPLUG_BROKER VHOTPLUG_HELPER [--keep | --check]

Without an option: the table, by strace and callgrind. --check: instructions, fsyncs and processes, against those kept in
plug.txt (see kept.py), and a copy for everybody against COPY_LIMIT. --keep writes them anew. The programs must be built
without sanitizers. Root is needed.

All figures are those of MANY plugs less those of FEW, by plug: start and end do not count."""

import os
import pathlib
import re
import signal
import sys
import tempfile

import kept
from callgrind import Profile
from stage import Stage, enter, first_child
from world import SKIPPED, wait_for

BROKER, HELPER = (os.path.abspath(path) for path in sys.argv[1:3])
KEPT = pathlib.Path(__file__).with_suffix(".txt")
FEW, MANY = 3, 23
COPIES = 4
COPY_LIMIT = 150_000  # thrice what it takes, as it depends on what comes together in one; with SQL that is read anew 600,000
TRIES = 3
PATIENCE = 1500  # seconds, for all of it; a tenth of that on a machine that has nothing else to do


def run(plugs, tool):
    """Returns the numbers of the broker's process and of its worker's. (Numbers begin anew some time.)"""
    stage = Stage(BROKER, HELPER, tool)
    pids = stage.broker_pid(), first_child(stage.broker_pid())
    try:
        for _ in range(plugs):
            stage.plug()
            stage.unplug()
    finally:
        stage.end()
    return pids


# ---- system calls --------------------------------------------------------------------------------

CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)|\+\+\+ exited")
LOOKS = re.compile(r'^(?:AT_FDCWD, |\d+, )?"/sys/')
FSYNCS, WRITES = ("fsync", "fdatasync"), ("write", "pwrite64", "writev", "sendmsg", "sendto")
MADE = ("clone", "clone3", "fork", "vfork")
ROWS = ("system calls", "bytes written and sent", "fsyncs", "looks into /sys", "processes")


def count_calls(path):
    """By pid, each of ROWS."""
    found = dict.fromkeys(ROWS, 0)
    for line in path.read_text(errors="replace").splitlines():
        match = CALL.search(line)
        if not match or not match[1]:
            continue
        name, arguments, result = match[1], match[2], int(match[3])
        found["system calls"] += 1
        found["fsyncs"] += name in FSYNCS
        found["processes"] += name in MADE and result > 0
        found["looks into /sys"] += bool(LOOKS.match(arguments))
        found["bytes written and sent"] += result if name in WRITES and result > 0 else 0
    return found


def calls(plugs):
    """Of broker, worker and helper: worker are all that the broker has made."""
    with tempfile.TemporaryDirectory() as folder:
        pid, _ = run(plugs, lambda who: ["strace", "-ff", "-qq", "-s0", "-o", f"{folder}/{who}"])
        totals = {who: dict.fromkeys(ROWS, 0) for who in ("broker", "worker", "helper")}
        for path in pathlib.Path(folder).iterdir():
            who = "helper" if path.name.startswith("helper") else "broker" if path.name == f"broker.{pid}" else "worker"
            for row, value in count_calls(path).items():
                totals[who][row] += value
        return totals


# ---- instructions --------------------------------------------------------------------------------

# What the broker does now and then, some time after an event: the copy for everybody, a checkpoint; and when it ends, both
# of all that has come since the last one.
LATER = ("its_time", "tidy_up", "snapshot_free", "store_close")


def instructions(plugs):
    """Of each; and how often SQLite was asked."""
    with tempfile.TemporaryDirectory() as folder:
        pids = run(plugs, lambda who: ["valgrind", "-q", "--tool=callgrind", "--trace-children=yes",
                                f"--callgrind-out-file={folder}/{who}.%p"])
        wait_for(lambda: all("\ntotals: " in path.read_text() for path in pathlib.Path(folder).iterdir()))
        files = list(pathlib.Path(folder).iterdir())
        broker, worker = (Profile(pathlib.Path(folder, f"broker.{pid}")) for pid in pids)
        # Where two jobs have met there is one more process, which goes on with the broker's counts: not this one's.
        totals = {"broker": broker.total - broker.calls(*LATER)[1],
                  "worker": worker.total,
                  "helper": sum(Profile(path).total for path in files if path.name.startswith("helper"))}
        return totals, broker.calls("sqlite3_step")[0]


def copies(plugs):
    """How many copies for everybody there were with so many plugs, each of which a copy follows, and what they took."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(BROKER, HELPER, lambda who: ["valgrind", "-q", "--tool=callgrind",
                                                   f"--callgrind-out-file={folder}/{who}.%p"] if who == "broker" else [])
        pid = stage.broker_pid()
        try:
            wait_for(stage.public_copy.exists)
            for n in range(1, plugs + 1):
                stage.plug()
                stage.unplug()
                wait_for(lambda: stage.copied("detach") == n)
        finally:
            stage.end()
        return Profile(pathlib.Path(folder, f"broker.{pid}")).calls("its_time")


def by_copy():
    """There is at most one in five seconds, so these are few. The first one makes the tables."""
    (few, few_instructions), (many, many_instructions) = copies(1), copies(COPIES)
    return (many_instructions - few_instructions) / (many - few)


def by_plug(few, many):
    return {who: (many[who] - few[who]) / (MANY - FEW) for who in few}


def print_table():
    few, many = calls(FEW), calls(MANY)
    (few_instructions, few_steps), (many_instructions, steps) = instructions(FEW), instructions(MANY)
    print("| per plug and unplug | " + " | ".join(few) + " |\n|---" + "|---" * len(few) + "|")
    for row in ROWS:
        values = [(many[who][row] - few[who][row]) / (MANY - FEW) for who in few]
        print(f"| {row} | " + " | ".join(f"{value:.1f}" for value in values) + " |")
    print(f"| SQL statements | {(steps - few_steps) / (MANY - FEW):.1f} | | |")
    values = by_plug(few_instructions, many_instructions)
    print("| instructions | " + " | ".join(f"{values[who]:.0f}" for who in few) + " |")
    print(f"A copy of the state for everybody, at most one in five seconds: {by_copy():.0f} instructions")


def counts():
    """What is kept, by name."""
    values = {f"{who}-instructions": value for who, value in by_plug(instructions(FEW)[0], instructions(MANY)[0]).items()}
    few, many = calls(FEW), calls(MANY)
    # Where two jobs have met there is one more.
    for who, row in (("broker", "fsyncs"), ("broker", "processes"), ("worker", "processes")):
        values[f"{who}-{row}"] = round((many[who][row] - few[who][row]) / (MANY - FEW))
    return values


def check():
    """Returns the exit status. What disturbs only adds, so the best of some tries counts."""
    copy, best = by_copy(), None
    print(f"a copy for everybody: {copy:.0f}, at most {COPY_LIMIT}")
    if copy > COPY_LIMIT:
        return 1
    for _ in range(TRIES):
        values = counts()
        best = {name: min(value, best[name]) if best else value for name, value in values.items()}
        if not kept.exceeds(KEPT, best):
            return 0
    return 1


def main():
    if not enter():
        return SKIPPED
    signal.alarm(PATIENCE)
    if not {"--keep", "--check"} & set(sys.argv):
        print_table()
        return 0
    if "--check" in sys.argv:
        return check()
    kept.keep(KEPT, counts())
    return 0


sys.exit(main())
