"""What our rules file costs udevd, as ratios: an event of a USB device that none of 1,000 rules takes
may cost 1.2 times as much as without our file, an event that is not for us 1.1 times, which is the
noise. The dearest are rules by name alone that have little in common: 1.5 times.

One udevd runs for each set of rules, all at once, and they are measured in turns of a few
milliseconds: what else the machine does then weighs on all of them alike. A udevd may have an unlucky
place in memory for as long as it runs, so there are new ones several times. The ratio is the median of
all turns'.

    event-cost.py GEN_RULES LIBEXECDIR [SVG]

With SVG, 10 and 100 rules are measured as well, and drawn."""

import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))

import curves
import udevd
from rules_configs import config

TRIES, TURNS, WARM_UP, EVENTS = 5, 60, 10, 5
SIZES = (10, 100, 1000)
USB, OTHER = "USB device", "other device"
CONFIGS = {"mixed": None, "names that are alike": "alike", "names that are different": "different"}
LIMITS = (("mixed", USB, 1.2), ("names that are alike", USB, 1.2), ("names that are different", USB, 1.5),
          ("mixed", OTHER, 1.1))


def rules(gen_rules, *arguments):
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(config(*arguments))
        file.flush()
        return subprocess.run([gen_rules, "-c", file.name, "-o", "-"], stdout=subprocess.PIPE,
                              check=True).stdout


def serve(libexecdir, rules_file):
    """In namespaces with a udevd: for each kind of device on stdin, the seconds of its event."""
    udevd.enter_namespaces()
    host = udevd.Udevd(libexecdir)
    with open(rules_file, "rb") as file:
        text = file.read()
    if text and f'"{libexecdir}/vhotplug-helper"'.encode() not in text:
        sys.exit("these rules do nothing without their helper, which lies elsewhere")
    host.write_rules(text)
    host.start()
    usb = host.add_device("pci0000:00/0000:00:14.0/usb1/1-1", "usb", "usb_device", {
        "idVendor": b"fffe\n", "idProduct": b"0001\n", "busnum": b"1\n", "devnum": b"2\n",
        "manufacturer": b"Nobody\n", "product": b"USB Something\n", "bDeviceClass": b"00\n",
        "bDeviceSubClass": b"00\n", "bDeviceProtocol": b"00\n", "bcdDevice": b"0100\n",
        "descriptors": udevd.descriptors((0, 0, 0), [(3, 1, 1), (3, 1, 2)])})
    other = host.add_device("platform/thermal0", "thermal", None, {"temp": b"1\n"})
    events = {USB: (usb, "usb", {"DEVTYPE": "usb_device", "PRODUCT": "fffe/1/100"}),
              OTHER: (other, "thermal", {})}
    for line in sys.stdin:
        path, subsystem, properties = events[line.rstrip("\n")]
        best = None
        for _ in range(EVENTS):
            start = time.monotonic()
            found = host.event("add", path, subsystem, **properties)
            took = time.monotonic() - start
            best = min(best or took, took)
            if b"VHOTPLUG_RULE" in found:
                sys.exit("a rule took the device")
        print(best, flush=True)


class Contestant:
    def __init__(self, libexecdir, text):
        self._file = tempfile.NamedTemporaryFile(suffix=".rules")
        self._file.write(text)
        self._file.flush()
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve", libexecdir, self._file.name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def measure(self, event):
        self._process.stdin.write(event + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            sys.exit("a udevd has ended")
        return float(answer)

    def end(self):
        self._process.stdin.close()
        self._process.wait()


def compare(texts, libexecdir, times):
    """Adds the times of each turn of new udevds to TIMES, by contestant and event."""
    contestants = {name: Contestant(libexecdir, text) for name, text in texts.items()}
    for turn in range(WARM_UP + TURNS):
        for key in random.sample(sorted(times), len(times)):
            took = contestants[key[0]].measure(key[1])
            if turn >= WARM_UP:
                times[key].append(took)
    for contestant in contestants.values():
        contestant.end()


def report(times):
    failed = False
    for name, event, limit in LIMITS:
        without, with_rules = times["without", event], times[name, event]
        times_more = ratio(times, name, event)
        print(f"{event}: {statistics.median(without) * 1e6:.0f} us without,"
              f" {statistics.median(with_rules) * 1e6:.0f} us with 1000 rules ({name}): {times_more:.2f} times"
              f", at most {limit}", flush=True)
        failed = failed or times_more > limit
    return failed


def ratio(times, name, event):
    return statistics.median(b / a for a, b in zip(times["without", event], times[name, event]))


def draw(times, path):
    curves.draw(path, "An event that no rule takes, times that without rules", "rules", {
        **{f"USB device, {name}": [(0, 1)] + [(n, ratio(times, label(name, n), USB)) for n in SIZES] for name in CONFIGS},
        "other device": [(0, 1)] + [(n, ratio(times, label("mixed", n), OTHER)) for n in SIZES]})


def label(name, size):
    return name if size == SIZES[-1] else f"{name}, {size}"


def main(gen_rules, libexecdir, svg=None):
    texts = {"without": b"", **{label(name, size): rules(gen_rules, size, names) for name, names in CONFIGS.items()
                                for size in (SIZES if svg else SIZES[-1:])}}
    times = {(name, event): [] for name in texts for event in (USB, OTHER)}
    for _ in range(TRIES):
        compare(texts, libexecdir, times)
    failed = report(times)
    if svg:
        draw(times, pathlib.Path(svg))
    sys.exit(failed)


if sys.argv[1] == "--serve":
    serve(*sys.argv[2:])
else:
    main(*sys.argv[1:])
