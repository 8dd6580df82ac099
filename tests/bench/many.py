#!/usr/bin/python3
"""How the broker goes on with many devices and many events: its memory and what a plug costs with 0 to 1,000 devices
attached, as ratios to none; what is on record and the spool of 1,000 at its start; events of one client and of 64 at a
time, each on disk before it is answered.

    many.py VHOTPLUG_BROKER VHOTPLUG_HELPER [SVG]

A release build. Root is needed. What is drawn goes to SVG. Memory is PSS, with the C library shared as a whole system
has it and all other libraries the broker's and the worker's alone (alone.py). At work is behind a plug and the copy for
everybody that follows it, the greater of two looks; at rest is when nothing has happened for a while, and the broker
has let go of code. Fails when the broker at rest takes more than 1 MB with 10 devices or more than 2.3 with 1,000, or at
work more than 2 or 3; the worker, whatever the number, has 0.3 to 0.5."""

import os
import pathlib
import re
import sys
import tempfile
import threading
import time

import alone
import curves
from stage import Stage, enter, node_of
from world import SKIPPED, wait_for

BROKER, HELPER = (os.path.abspath(path) for path in sys.argv[1:3])
NUMBERS = (0, 10, 100, 1000)
PLUGS, EVENTS, CLIENTS = 40, 2000, 64
COPIED = 7  # seconds after which the copy for everybody has been made, and its memory given back
RESTED = 15  # seconds after which it rests
LIMITS = {"at rest": {10: 1.0, 1000: 2.3}, "at work": {10: 2.0, 1000: 3.0}}


def processes(stage):
    return [stage.broker.pid, int(pathlib.Path(f"/proc/{stage.broker.pid}/task/{stage.broker.pid}/children").read_text().split()[0])]


def pss(pid):
    return int(re.search(r"\nPss: +(\d+)", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text())[1]) / 1024


def megabytes(stage):
    """Of the broker and of its worker: at work, and at rest."""
    looks = []
    for _ in range(2):
        stage.plug("stick9999")
        stage.unplug("stick9999")
        time.sleep(COPIED)
        looks.append([pss(pid) for pid in processes(stage)])
    time.sleep(RESTED)
    return {"at work": max(looks, key=sum), "at rest": [pss(pid) for pid in processes(stage)]}


def seconds(stage):
    """Processor time of broker and worker; of the worker's children too."""
    total = 0
    for pid in processes(stage):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def attach(stage, have, want):
    for number in range(have, want):
        stage.bring(f"stick{number}")
    wait_for(lambda: stage.query("select count(*) from assignments where state = 'attached'") == [(want,)], 300)


def cost_of_plugs(stage):
    before = seconds(stage)
    for _ in range(PLUGS):
        stage.plug("stick9999")
        stage.unplug("stick9999")
    return (seconds(stage) - before) / PLUGS


def grow(stage):
    """Memory of broker and worker, at work and at rest, and cost, by number of devices."""
    memory, cost, have = {}, {}, 0
    for number in NUMBERS:
        attach(stage, have, number)
        have = number
        cost[number] = cost_of_plugs(stage)
        memory[number] = megabytes(stage)
        print(f"{number} devices attached:",
              *(f"{sum(both):.2f} MB (PSS) {when}, {both[0]:.2f} of the broker;" for when, both in memory[number].items()),
              f"a plug and unplug {cost[number] / cost[0]:.2f} times that with none", flush=True)
    return memory, cost


def restart(stage):
    """With all that on record, and as many events that wait in the spool."""
    stage.stop()
    for number in range(NUMBERS[-1]):
        stage.help("add", f"stick{number}")
    began = time.monotonic()
    stage.start()
    spool = stage.path / "runtime/spool"
    wait_for(lambda: not any(spool.iterdir()), 120)
    print(f"started with {NUMBERS[-1]} devices on record, and as many events in the spool: all taken in after"
          f" {time.monotonic() - began:.2f} s, {seconds(stage):.2f} s of processor time")


def send(stage, numbers):
    for number in numbers:
        assert stage.event("add", device="stick0", vms="good", place="/devices/virtual/misc/stick0", node=node_of("stick0")) == b"T", "refused"


def rate(stage, clients):
    """Events in a second, and the broker's processor time for one."""
    threads = [threading.Thread(target=send, args=(stage, range(EVENTS // clients))) for _ in range(clients)]
    began, before = time.monotonic(), seconds(stage)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = EVENTS // clients * clients
    return done / (time.monotonic() - began), (seconds(stage) - before) / done * 1000


def main():
    if not enter():
        return SKIPPED
    with tempfile.TemporaryDirectory(dir=os.path.dirname(BROKER)) as folder:
        alone.stand_alone(BROKER, pathlib.Path(folder))
    stage = Stage(BROKER, HELPER)
    try:
        memory, cost = grow(stage)
        rates = {clients: rate(stage, clients) for clients in (1, CLIENTS)}
        for clients, (events, ms) in rates.items():
            print(f"{clients} client{'s' * (clients > 1)}: {events:.0f} events a second, each {ms:.3f} ms of the broker's processor time")
        restart(stage)
    finally:
        stage.end()
    if len(sys.argv) > 3:
        curves.draw(pathlib.Path(sys.argv[3]), "The broker with many devices", "devices attached",
                    {**{f"memory {when}, MB (PSS)": [(number, sum(found[when])) for number, found in memory.items()]
                        for when in LIMITS},
                     "a plug, times that with none": [(number, value / cost[0]) for number, value in cost.items()]})
    failed = [f"with {number} devices the broker takes {memory[number][when][0]:.2f} MB {when}, at most {limit}"
              for when, limits in LIMITS.items() for number, limit in limits.items() if memory[number][when][0] > limit]
    print(*(f"FAILED: {line}\n" for line in failed), end="")
    return int(bool(failed))


sys.exit(main())
