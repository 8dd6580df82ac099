"""What our rules file costs udevd: ratios of one run, so that they mean the same on any machine. An
event of a USB device that none of 1,000 rules takes may cost 1.5 times as much as without our file,
an event that is not for us 1.1 times, which is the noise. Rules by name alone are the dearest; their
ratio is printed too.

    event-cost.py GEN_RULES LIBEXECDIR"""

import os
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))

import udevd
from rules_configs import config

GEN_RULES, LIBEXECDIR = sys.argv[1:3]
ATTEMPTS, ROUNDS, EVENTS = 4, 8, 120
LIMITS = (("mixed", "USB device", 1.5), ("names", "USB device", None), ("mixed", "other device", 1.1))


def rules(*arguments):
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(config(*arguments))
        file.flush()
        return subprocess.run([GEN_RULES, "-c", file.name, "-o", "-"], stdout=subprocess.PIPE,
                              check=True).stdout


def measure(host, files, events, best):
    """Adds ROUNDS times to each list in BEST: the best of EVENTS, without those that warm up."""
    for _ in range(ROUNDS):
        for name, text in files.items():
            host.write_rules(text)
            host.reload()
            for event, (path, subsystem, properties) in events.items():
                times = []
                for _ in range(EVENTS):
                    start = time.monotonic()
                    found = host.event("add", path, subsystem, **properties)
                    times.append(time.monotonic() - start)
                    if b"VHOTPLUG_RULE" in found:
                        sys.exit("a rule took the device")
                best[name, event].append(min(times[20:]))


def ratios(best):
    for name, event, limit in LIMITS:
        yield name, event, limit, min(best[name, event]) / min(best["without", event])


def main():
    udevd.enter_namespaces()
    host = udevd.Udevd(LIBEXECDIR)
    files = {"without": b"", "mixed": rules(1000), "names": rules(1000, True)}
    host.write_rules(b"")
    host.start()
    usb = host.add_device("pci0000:00/0000:00:14.0/usb1/1-1", "usb", "usb_device", {
        "idVendor": b"fffe\n", "idProduct": b"0001\n", "busnum": b"1\n", "devnum": b"2\n",
        "manufacturer": b"Nobody\n", "product": b"USB Something\n", "bDeviceClass": b"00\n",
        "bDeviceSubClass": b"00\n", "bDeviceProtocol": b"00\n", "bcdDevice": b"0100\n",
        "descriptors": udevd.descriptors((0, 0, 0), [(3, 1, 1), (3, 1, 2)])})
    other = host.add_device("platform/thermal0", "thermal", None, {"temp": b"1\n"})
    events = {"USB device": (usb, "usb", {"DEVTYPE": "usb_device", "PRODUCT": "fffe/1/100"}),
              "other device": (other, "thermal", {})}
    best = {(name, event): [] for name in files for event in events}
    # The best of all, as many of each: where it is over the limit, both sides get more.
    for _ in range(ATTEMPTS):
        measure(host, files, events, best)
        if all(ratio <= limit for *_, limit, ratio in ratios(best) if limit):
            break
    failed = False
    for name, event, limit, ratio in ratios(best):
        without, with_rules = min(best["without", event]), min(best[name, event])
        print(f"{event}: {without * 1e6:.0f} us without, {with_rules * 1e6:.0f} us with 1000 rules"
              f" ({name}): {ratio:.2f} times" + (f", at most {limit}" if limit else ""))
        failed = failed or (limit is not None and ratio > limit)
    sys.exit(failed)


main()
