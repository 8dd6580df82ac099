"""How compile time grows with the number of rules, in instructions by callgrind: repeatable on any
machine. Fails when ten times the rules cost more than twelve times the instructions, or when the
count is above what is kept in compile-time.txt (see kept.py).

    compile-time.py GEN_RULES [--keep]

GEN_RULES must be built without sanitizers. --keep writes compile-time.txt anew."""

import pathlib
import re
import subprocess
import sys
import tempfile
import time

import kept
from rules_configs import config

GEN_RULES = sys.argv[1]
KEPT = pathlib.Path(__file__).with_suffix(".txt")
SIZES = [10, 100, 1000, 10000]


def instructions(path):
    done = subprocess.run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
                           GEN_RULES, "-c", path, "-o", "-"],
                          stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, check=True)
    return int(re.search(rb"Collected : (\d+)", done.stderr).group(1))


def seconds(path):
    best = None
    for _ in range(3):
        start = time.monotonic()
        subprocess.run([GEN_RULES, "-c", path, "-o", "-"], stdout=subprocess.DEVNULL, check=True)
        best = min(best or 1e9, time.monotonic() - start)
    return best


def measure():
    found = {}
    for size in SIZES:
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(config(size))
            file.flush()
            found[size] = instructions(file.name)
            print(f"{size:6d} rules: {found[size]:12d} instructions, {seconds(file.name):.3f} s")
    return found


def main():
    found = measure()
    if "--keep" in sys.argv:
        kept.keep(KEPT, found)
        return
    failed = False
    # The first ten rules cost mostly the start of the program.
    for small, large in zip(SIZES[1:], SIZES[2:]):
        ratio = found[large] / found[small]
        print(f"{large} to {small} rules: {ratio:.2f} times the instructions")
        failed = failed or ratio > 12
    failed = kept.exceeds(KEPT, found) or failed
    sys.exit(failed)


main()
