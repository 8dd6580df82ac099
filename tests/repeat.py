#!/usr/bin/python3
"""Runs unit and integration tests again and again, to find those that pass by luck.

Usage: repeat.py BUILD_FOLDER N [NAME|NAME…]   (all but the fuzz tests and benchmarks, if none is named)

Each test runs N times alone, then N times with others beside it, six at a time, whatever the
number of processors. A unit test may then run beside itself. What fails is shown at once; at the
end every test has a line, and the exit status says whether none has failed. Ctrl-C ends it sooner,
with a line for every test too: each has had about as many runs as the others.
"""
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

WORKERS = 6
LOCKS = collections.defaultdict(threading.Lock)


class Test:
    def __init__(self, entry):
        properties = {item["name"]: item["value"] for item in entry.get("properties", ())}
        self.name, self.command = entry["name"], entry["command"]
        self.labels = properties.get("LABELS", [])
        self.folder = properties.get("WORKING_DIRECTORY")
        self.timeout = properties.get("TIMEOUT", 600)
        self.slowest = 0
        # Those that work in a folder of the build's can't run beside themselves, nor beside those that
        # use the same.
        shared = properties.get("RESOURCE_LOCK", [self.name])[0]
        self.lock = None if "unit" in self.labels else LOCKS[shared]

    def run(self):
        """Returns whether it has failed."""
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
            self.slowest = max(self.slowest, time.monotonic() - began)
            if status == 0:
                return False
            log.seek(0)
            text = log.read().decode(errors="replace")
        print(f"--- {self.name} ended with {status}\n{text}\n---", flush=True)
        return True


def find_tests(build, names):
    shown = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"], check=True,
                           capture_output=True, text=True).stdout
    tests = [Test(entry) for entry in json.loads(shown)["tests"] if entry.get("command")]
    if names:
        return [test for test in tests if test.name in names]
    return [test for test in tests if not {"fuzz", "bench"} & set(test.labels)]


class Tally:
    """How often each test has run, and failed."""

    def __init__(self):
        self.runs, self.failures = collections.Counter(), collections.Counter()

    def note(self, test, failed):
        self.runs[test.name] += 1
        self.failures[test.name] += failed

    def text(self, test):
        return f"{self.failures[test.name]} of {self.runs[test.name]}"


def run_alone(tests, count, tally):
    for _ in range(count):
        for test in tests:
            tally.note(test, test.run())


def run_together(tests, count, tally):
    """COUNT of each, in random order: a worker takes the next one that may run now."""
    left = [test for test in tests for _ in range(count)]
    random.shuffle(left)
    guard = threading.Lock()

    def take():
        with guard:
            for at, test in enumerate(left):
                if test.lock is None or test.lock.acquire(blocking=False):
                    return left.pop(at)
        return None

    def work():
        while left:
            test = take()
            if test is None:
                time.sleep(0.1)
                continue
            failed = test.run()
            if test.lock:
                test.lock.release()
            with guard:
                tally.note(test, failed)

    workers = [threading.Thread(target=work) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except KeyboardInterrupt:
        with guard:
            left.clear()  # what runs now ends by itself
        for worker in workers:
            worker.join()
        raise


def main():
    build, count = sys.argv[1], int(sys.argv[2])
    tests = find_tests(build, [name for name in "".join(sys.argv[3:]).split("|") if name])
    if not tests:
        sys.exit("repeat: no such test")
    alone, together, whole = Tally(), Tally(), True
    try:
        run_alone(tests, count, alone)
        run_together(tests, count, together)
    except KeyboardInterrupt:
        whole = False
    print(f"failures: alone, {WORKERS} at a time; the longest run in seconds")
    for test in tests:
        print(f"{alone.text(test):>12} {together.text(test):>12} {test.slowest:8.1f}  {test.name}")
    total = alone.failures.total() + together.failures.total()
    print(f"{total} failures of {alone.runs.total() + together.runs.total()}{'' if whole else ', ended before the end'}")
    return 1 if total or not whole else 0


if __name__ == "__main__":
    sys.exit(main())
