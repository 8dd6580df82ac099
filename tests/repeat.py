#!/usr/bin/python3
"""Runs unit and integration tests again and again, to find those that pass by luck.

Usage: repeat.py BUILD_FOLDER N [NAME|NAME…]   (all but the fuzz tests and benchmarks, if none is named)

Each test runs N times alone, with a processor to itself, and N times with others beside it, six at a time,
whatever the number of processors: ROUNDS of each at a time, in turns. A unit test may run beside itself. A test whose answer follows from the sources
alone (static) runs once, first. What fails is shown at once; at the end every test has a line, and the
exit status says whether none has failed. Ctrl-C ends it sooner, with a line for every test too: each has
had about as many runs as the others. Where none was named, the next one goes on from there, unless it is
of other sources.
"""
import collections
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

WORKERS = 6
ROUNDS = 20
CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
LOCKS = collections.defaultdict(threading.Lock)
# By a flag, and not by KeyboardInterrupt: of a thread that it waits for, Python 3.11 then believes that it has ended.
INTERRUPTED = threading.Event()


class Test:
    def __init__(self, entry):
        properties = {item["name"]: item["value"] for item in entry.get("properties", ())}
        self.name, self.command = entry["name"], entry["command"]
        self.labels = properties.get("LABELS", [])
        self.static = "static" in self.labels
        self.fixtures = set(properties.get("FIXTURES_SETUP", ())), set(properties.get("FIXTURES_REQUIRED", ()))
        self.folder = properties.get("WORKING_DIRECTORY")
        self.timeout = properties.get("TIMEOUT", 600)
        # Those that work in a folder of the build's can't run beside themselves, nor beside those that
        # use the same.
        shared = properties.get("RESOURCE_LOCK", [self.name])[0]
        self.lock = None if "unit" in self.labels else LOCKS[shared]

    def run(self):
        """Returns whether it has failed, and the seconds it took."""
        began = time.monotonic()
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       cwd=self.folder, start_new_session=True)
            try:
                status = process.wait(self.timeout)
            except subprocess.TimeoutExpired:
                status = "no end"
            finally:
                if process.poll() is None:  # with all that it has started
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            seconds = time.monotonic() - began
            if status == 0:
                return False, seconds
            log.seek(0)
            text = log.read().decode(errors="replace")
        print(f"--- {self.name} ended with {status}\n{text}\n---", flush=True)
        return True, seconds


def find_tests(build, names):
    shown = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"], check=True,
                           capture_output=True, text=True).stdout
    tests = [Test(entry) for entry in json.loads(shown)["tests"] if entry.get("command")]
    if names:
        wanted = [test for test in tests if test.name in names]
        needed = set().union(*(test.fixtures[1] for test in wanted))
        return [test for test in tests if test in wanted or test.fixtures[0] & needed]
    return [test for test in tests if not {"fuzz", "bench"} & set(test.labels)]


class Tally:
    """How often each test has run, and failed, alone and together; kept in a file, if there is one."""

    def __init__(self, path):
        self.path, self.sources = path, digest() if path else None
        self.modes = {"alone": {}, "together": {}}
        self.slowest = collections.Counter()
        if path and path.exists():
            kept = json.loads(path.read_text())
            if kept["sources"] == self.sources:
                self.modes = kept["modes"]
                self.slowest.update(kept["slowest"])

    def runs(self, mode, test):
        return self.modes[mode].get(test.name, [0, 0])[0]

    def note(self, mode, test, failed, seconds):
        runs, failures = self.modes[mode].get(test.name, [0, 0])
        self.modes[mode][test.name] = [runs + 1, failures + failed]
        self.slowest[test.name] = max(self.slowest[test.name], seconds)
        if self.path:
            fresh = self.path.with_suffix(".new")
            fresh.write_text(json.dumps({"sources": self.sources, "modes": self.modes, "slowest": self.slowest}))
            fresh.replace(self.path)

    def text(self, mode, test):
        runs, failures = self.modes[mode].get(test.name, [0, 0])
        return f"{failures} of {runs}"

    def sums(self):
        """All runs, and all failures."""
        counts = [count for mode in self.modes.values() for count in mode.values()]
        return sum(runs for runs, _ in counts), sum(failures for _, failures in counts)


def digest():
    """Of the sources, whatever is built of them; not of texts about them, nor of the emulated host."""
    whole = hashlib.sha256()
    for folder, folders, names in os.walk(CHECKOUT):
        folders[:] = sorted(name for name in folders if not name.startswith((".build", ".git", "__pyc"))
                            and pathlib.Path(folder, name) != CHECKOUT / "tests/host")
        for path in (pathlib.Path(folder) / name for name in sorted(names) if not name.endswith(".md")):
            whole.update(f"{path.relative_to(CHECKOUT)}\0".encode() + path.read_bytes())
    return whole.hexdigest()


def run_all(mode, tests, count, tally, places):
    """Until each has had COUNT runs in this MODE, in random order: of each of PLACES, sets of processors, a worker
    takes the next one that may run now."""
    left = [test for test in tests for _ in range(count - tally.runs(mode, test))]
    random.shuffle(left)
    guard = threading.Lock()

    def take():
        with guard:
            for at, test in enumerate(left):
                if test.lock is None or test.lock.acquire(blocking=False):
                    return left.pop(at)
        return None

    def work(processors):
        os.sched_setaffinity(0, processors)  # of this thread, and of all that it starts
        while left and not INTERRUPTED.is_set():  # what runs then ends by itself
            test = take()
            if test is None:
                time.sleep(0.1)
                continue
            said = test.run()
            if test.lock:
                test.lock.release()
            with guard:
                tally.note(mode, test, *said)

    workers = [threading.Thread(target=work, args=[place]) for place in places]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def main():
    build, count = sys.argv[1], int(sys.argv[2])
    tests = find_tests(build, [name for name in "".join(sys.argv[3:]).split("|") if name])
    if not tests:
        sys.exit("repeat: no such test")
    signal.signal(signal.SIGINT, lambda *_: INTERRUPTED.set())
    tally = Tally(None if sys.argv[3:] and sys.argv[3] else pathlib.Path(build) / "repeat.json")
    machine = os.sched_getaffinity(0)
    again = [test for test in tests if not test.static]
    run_all("alone", [test for test in tests if test.static], 1, tally, [machine])
    for rounds in [*range(ROUNDS, count, ROUNDS), count]:
        run_all("alone", again, rounds, tally, [{one} for one in machine])
        run_all("together", again, rounds, tally, [machine] * WORKERS)
    whole = not INTERRUPTED.is_set()
    print(f"failures: alone, {WORKERS} at a time; the longest run in seconds")
    for test in tests:
        print(f"{tally.text('alone', test):>12} {tally.text('together', test):>12} "
              f"{tally.slowest[test.name]:8.1f}  {test.name}")
    runs, failures = tally.sums()
    print(f"{failures} failures of {runs}{'' if whole else ', ended before the end'}")
    if whole and tally.path:
        tally.path.unlink()
    return 1 if failures or not whole else 0


if __name__ == "__main__":
    sys.exit(main())
