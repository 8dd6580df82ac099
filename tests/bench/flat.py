#!/usr/bin/python3
"""Whether a plug and its unplug take as much beside many devices as beside few: the broker's instructions, by callgrind,
as in plug.py; the copy for everybody is counted apart.

    flat.py VHOTPLUG_BROKER VHOTPLUG_HELPER

The programs must be built without sanitizers. Root is needed. Fails when beside MANY devices a plug takes more than
LIMIT times, or a copy more than COPY_LIMIT times as much as beside FEW."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile

from callgrind import Profile
from stage import Stage, enter
from world import SKIPPED, wait_for

BROKER, HELPER = (os.path.abspath(path) for path in sys.argv[1:3])
FEW, MANY = 10, 1000
AT_ONCE = 4  # each that comes while the worker is at another one's has a process of its own
PLUGS = 6
LIMIT = 1.1
COPY_LIMIT = 3  # how much comes together in one depends on the machine
TRIES = 3
PATIENCE = 900  # seconds, for all of it; a twentieth of that on a machine that has nothing else to do


def attach(stage, have, want):
    for number in range(have, want):
        stage.bring(f"stick{number}")
        if number % AT_ONCE == 0 or number == want - 1:
            wait_for(lambda: stage.query("select count(*) from assignments where state = 'attached'") == [(number + 1,)])


def tell(stage, *words):
    """Valgrind's own way in; callgrind_control is another one, in Perl."""
    subprocess.run(["vgdb", f"--pid={stage.broker.pid}", *words], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)


def plug_and_unplug(stage):
    stage.plug("stick9999")
    stage.unplug("stick9999")


def is_copied(stage):
    return stage.copied("detach") == stage.count("detach")


def measure(stage, profile):
    """The instructions of a plug and its unplug, and of a copy; PROFILE is what callgrind writes next."""
    plug_and_unplug(stage)
    wait_for(lambda: is_copied(stage))
    tell(stage, "instrumentation", "on")
    for _ in range(PLUGS):
        plug_and_unplug(stage)
    wait_for(lambda: is_copied(stage))
    tell(stage, "instrumentation", "off")
    tell(stage, "dump")
    wait_for(lambda: profile.exists() and "\ntotals: " in profile.read_text())
    found = Profile(profile)
    copies, copied = found.calls("write_copy")
    if copies == 0:  # another compiler has made one function of both
        copies, copied = found.calls("its_time")
    return (found.total - copied - found.calls("tidy_up")[1]) / PLUGS, copied / copies


def compare():
    """Whether it is flat."""
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(BROKER, HELPER, lambda who: ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no",
                                                   f"--callgrind-out-file={folder}/%p"] if who == "broker" else [])
        profiles = (pathlib.Path(folder, f"{stage.broker.pid}.{n}") for n in range(1, 3))
        try:
            attach(stage, 0, FEW)
            few = measure(stage, next(profiles))
            attach(stage, FEW, MANY)
            many = measure(stage, next(profiles))
        finally:
            stage.end()
    flat = True
    for what, one, other, limit in zip(("a plug and its unplug", "a copy for everybody"), few, many, (LIMIT, COPY_LIMIT)):
        print(f"{what}: {one:.0f} instructions beside {FEW} devices, {other:.0f} beside {MANY}: {other / one:.2f} times,"
              f" at most {limit}", flush=True)
        flat = flat and other / one <= limit
    return flat


def main():
    if not enter():
        return SKIPPED
    signal.alarm(PATIENCE)
    return 0 if any(compare() for _ in range(TRIES)) else 1


sys.exit(main())
