#!/usr/bin/python3
"""How the broker goes on with a history as long as it may become (200,000 rows), and with a million that somebody else
has put there: README's queries on the copy for everybody, a plug and its unplug, its start.

    history.py VHOTPLUG_BROKER VHOTPLUG_HELPER

A release build. Root is needed. What counts are SQLite's steps, system calls and pages that are read; times are told.
Fails when more rows are kept than may be, when a query of README's takes more steps than with a history of 2,000 rows, a
plug 1.3 times the system calls that it takes with none, or when the start reads the database more than twice, as SQLite's
check of it does."""

import contextlib
import os
import pathlib
import re
import sqlite3
import sys
import tempfile
import time

from stage import Stage, enter
from world import SKIPPED, wait_for

BROKER, HELPER = (os.path.abspath(path) for path in sys.argv[1:3])
README = pathlib.Path(__file__).parent.parent.parent / "README.md"
KEPT, COPIED = 200_000, 2_000  # rows: broker/store.c, broker/snapshot.c
LENGTHS = (0, COPIED, KEPT, 1_000_000)
PLUGS = 10
MARGIN = 1.05
STEPS = 100  # of SQLite's, that are counted as one

failed = []


def limit(what, value, most):
    if value > most:
        failed.append(f"{what}: {value:.0f}, at most {most:.0f}")


def queries():
    text = README.read_text().partition("\n## Ask it\n")[2].partition("\n## ")[0]
    return re.findall(r"```sql\n(.*?)```", text, re.S)


def fill(path, rows):
    """ROWS of history, one every half minute, the last one just now."""
    now = int(time.time() * 1000)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("delete from action")
        db.executemany("insert into action (time, device, name, vid_pid, vm, action, cause, rule, result, milliseconds,"
                       " detail) values (?, ?, 'Maker Stick', '046d:c52b', ?, ?, ?, 'usb/g/r', ?, ?, ?)",
                       ((now - (rows - i) * 30_000, f"1-{i % 40}", f"vm{i % 5}", "attach" if i % 2 else "detach",
                         "plug" if i % 2 else "unplug", "failed" if i % 100 == 0 else "ok", i % 300, "on port 3 of ehci.0")
                        for i in range(rows)))


def ask(path):
    """Steps and milliseconds of README's queries, all together."""
    steps = 0

    def count():
        nonlocal steps
        steps += STEPS

    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.set_progress_handler(count, STEPS)
        began = time.monotonic()
        for query in queries():
            db.execute(query).fetchall()
        return steps, (time.monotonic() - began) * 1000


def trace(folder, pid):
    return pathlib.Path(folder, f"broker.{pid}").read_text(errors="replace")


def go_on(stage, folder, rows):
    """With so many rows: returns the figures, by name."""
    database = stage.path / "state/vhotplug.db"
    stage.stop()
    fill(database, rows)
    pages = os.path.getsize(database) // 4096
    began = time.monotonic()
    stage.start()
    up = time.monotonic() - began
    pid = stage.broker_pid()
    read = len(re.findall(r"^pread64\(", trace(folder, pid), re.M))
    wait_for(lambda: stage.public_copy.exists())
    stage.plug()
    stage.unplug()
    before = trace(folder, pid).count("\n")
    for _ in range(PLUGS):
        stage.plug()
        stage.unplug()
    calls = (trace(folder, pid).count("\n") - before) / PLUGS
    wait_for(lambda: stage.copied("detach") >= PLUGS)
    kept = stage.query("select count(*) from action")[0][0]
    steps, ms = ask(stage.public_copy)
    _, ms_of_all = ask(database)
    print(f"{rows} rows: {kept} are kept; README's {len(queries())} queries {steps} steps, {ms:.1f} ms (of the whole"
          f" database, as root: {ms_of_all:.0f} ms); a plug and its unplug {calls:.0f} system calls; up after {up:.2f} s,"
          f" {read} pages read of {pages}", flush=True)
    return {"kept": kept, "steps": steps, "calls": calls, "read": read, "pages": pages}


def main():
    if not enter():
        return SKIPPED
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(BROKER, HELPER, lambda who: ["strace", "-ff", "-qq", "-s0", "-o", f"{folder}/{who}"] if who == "broker" else [])
        try:
            found = {rows: go_on(stage, folder, rows) for rows in LENGTHS}
        finally:
            stage.end()
    for rows in LENGTHS[2:]:
        limit(f"rows kept of {rows}", found[rows]["kept"], KEPT + 4 * PLUGS)
        limit(f"steps of the queries with {rows}", found[rows]["steps"], found[COPIED]["steps"] * MARGIN)
        limit(f"system calls of a plug with {rows}", found[rows]["calls"], found[0]["calls"] * 1.3)
    limit("pages read at a start with as many as are kept", found[KEPT]["read"], 2 * found[KEPT]["pages"] * MARGIN + 200)
    print(*(f"FAILED: {line}\n" for line in failed), end="")
    return int(bool(failed))


sys.exit(main())
