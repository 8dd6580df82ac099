#!/usr/bin/python3
"""What the code looks like in the large: who calls whom, who includes whom, and how long things are.

usage: test-structure.py SOURCES BUILD

The call graph is the compiler's own (gcc -fcallgraph-info), made anew from BUILD's compile commands.
"""
import concurrent.futures
import json
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import tempfile

FOLDERS = ["broker", "conf", "helper", "rules.d"]
# One device's way: an edge marks, the pass decides and takes steps. No part of it calls back up.
MACHINE = ["adopt", "arrival", "decide", "device", "edition", "group", "handback", "handover", "job", "look", "manager", "properties", "reconcile", "record",
           "registry", "attempt", "tidings"]
MAX_LINES = 550
MAX_RECONCILE = 200
MAX_MEDIAN, MAX_90TH, MAX_FUNCTION = 13, 26, 50
# A function's name says what it is about; but for these.
ONE_WORD = {"main", "decide", "closedirp"}

failures = 0


def check(what, wrong):
    """WRONG: what speaks against it, one thing a line."""
    global failures
    print(f"{'FAILED' if wrong else 'ok':6} {what}")
    for line in wrong:
        print(f"         {line}")
    failures += bool(wrong)


def rings(graph):
    """The sets of nodes that reach each other, with more than one member (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph.get(node, ()):
            if target not in index:
                visit(target)
            if target in stack:
                low[node] = min(low[node], low[target])
        if low[node] == index[node]:
            ring = []
            while not ring or ring[-1] != node:
                ring.append(stack.pop())
            if len(ring) > 1:
                found.append(sorted(ring))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


# Calls

def calls_of(command, folder):
    """Compiles one file once more. Returns pairs (caller, callee); a static function has its file in front."""
    words = [word for word in shlex.split(command["command"]) if word.startswith(("-D", "-I", "-std"))]
    output = pathlib.Path(folder) / pathlib.Path(command["file"]).with_suffix(".s").name
    subprocess.run(["gcc", *words, "-O0", "-fcallgraph-info", "-S", command["file"], "-o", output],
                   cwd=command["directory"], check=True)
    edges = re.findall(r'edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"', output.with_suffix(".ci").read_text())
    return [tuple(name.rpartition("/")[2] for name in edge) for edge in edges]


def call_graph(sources, build):
    """Returns {caller: {callees}} and {function: the file that defines it}, of the broker."""
    commands = json.loads((build / "compile_commands.json").read_text())
    commands = [c for c in commands if pathlib.Path(c["file"]).parent == sources / "broker"]
    graph, homes = {}, {}
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(2) as pool:
        for command, pairs in zip(commands, pool.map(lambda c: calls_of(c, folder), commands)):
            file = pathlib.Path(command["file"]).name
            for caller, callee in pairs:
                homes[caller] = file
                if callee != "__indirect_call":
                    graph.setdefault(caller, set()).add(callee)
    return graph, homes


def test_calls(sources, build):
    graph, homes = call_graph(sources, build)
    check("the compiler tells who calls whom", [] if len(graph) > 500 else [f"only {len(graph)} functions call others"])
    in_machine = {name for name, file in homes.items() if file.removesuffix(".c") in MACHINE}
    check("there is no call ring through the machine",
          [" ↔ ".join(ring) for ring in rings(graph) if in_machine & set(ring)])

    def callers(name):
        return sorted(f"{homes[caller]}: {caller}" for caller, callees in graph.items() if name in callees)

    check("the end of a pass alone calls reconcile_pass",
          [c for c in callers("reconcile_pass") if not c.startswith("main.c:")] or
          ([] if callers("reconcile_pass") else ["nobody does"]))
    check("reconcile alone calls decide",
          [c for c in callers("decide") if not c.startswith("reconcile.c:")] or
          ([] if callers("decide") else ["nobody does"]))
    steps = [f"{homes[caller]}: {caller} calls {callee}" for caller, callees in graph.items() for callee in callees
             if re.fullmatch(r"(?:handover_(look|refuse|open|abandon|give|end|verify|take|repeat|drop)|adopt_cold)", callee) and
             homes[caller] != "reconcile.c"]
    check("reconcile alone takes steps", steps)
    allowed = re.compile(r"(decide\.c:|group\.c:|group_|\w+\.c:streq$)\w*|registry_find\w*|device_(may_\w+|candidates)|str\w+|v?snprintf|"
                         r"abort|mem(set|cpy)|\*?__\w+")
    impure = [f"{homes[caller]}: {caller} calls {callee}" for caller, callees in graph.items()
              if homes[caller] in ("decide.c", "group.c") for callee in callees if not allowed.fullmatch(callee)]
    check("decide looks at nothing but facts", impure)


# Includes

def test_includes(sources):
    files, pairs = {}, {}
    for folder in FOLDERS:
        for file in sorted((sources / folder).glob("*.[ch]")):
            for name in re.findall(r'^#include "([^"]+)"', file.read_text(), re.MULTILINE):
                files.setdefault(f"{folder}/{file.name}", set()).add(name)
                if folder == "broker" and file.stem in MACHINE and name != f"broker/{file.stem}.h":
                    pairs.setdefault(f"broker/{file.stem}", set()).add(name.removesuffix(".h"))
    check("includes were found", [] if len(files) > 50 else [f"of {len(files)} files only"])
    check("no file includes one that includes it back", [" ↔ ".join(ring) for ring in rings(files)])
    check("in the machine no header and its source either", [" ↔ ".join(ring) for ring in rings(pairs)])


# Lengths

def function_lengths(file):
    """Lines between the braces of each function, both counted."""
    start, name, lengths = None, "", []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        if line.startswith("{"):
            start = number
        elif line == "}" and start:
            lengths.append((number - start + 1, f"{file.parent.name}/{file.name}: {name}"))
            start = None
        elif start is None and (match := re.match(r"[a-z].*?(\w+)\(", line)):
            name = match.group(1)
    return lengths


def test_lengths(sources):
    broker = sorted((sources / "broker").glob("*.[ch]"))
    lines = {file.name: len(file.read_text().splitlines()) for file in broker}
    check(f"no file of broker/ has more than {MAX_LINES} lines",
          [f"{name}: {n}" for name, n in lines.items() if n > MAX_LINES])
    check(f"reconcile.c has at most {MAX_RECONCILE}", [] if lines["reconcile.c"] <= MAX_RECONCILE
          else [str(lines["reconcile.c"])])
    lengths = sorted(length for folder in FOLDERS for file in (sources / folder).glob("*.c")
                     for length in function_lengths(file))
    numbers = [length for length, _ in lengths]
    median, tenth = statistics.median(numbers), statistics.quantiles(numbers, n=10)[-1]
    print(f"       {len(numbers)} functions: median {median:.0f} lines, 90th percentile {tenth:.0f}, longest "
          f"{numbers[-1]}")
    check(f"functions: median at most {MAX_MEDIAN}, 90th percentile at most {MAX_90TH}",
          [] if median <= MAX_MEDIAN and tenth <= MAX_90TH else ["see above"])
    check("every function says its noun", [name for _, name in lengths if "_" not in name.split(": ")[1] and
                                           name.split(": ")[1] not in ONE_WORD])
    check(f"no function has more than {MAX_FUNCTION} lines",
          [f"{name}: {length}" for length, name in lengths if length > MAX_FUNCTION])


def main():
    sources, build = (pathlib.Path(argument).resolve() for argument in sys.argv[1:])
    sys.setrecursionlimit(10000)
    test_calls(sources, build)
    test_includes(sources)
    test_lengths(sources)
    print(f"{failures} failed")
    return 1 if failures else 0


sys.exit(main())
