"""How much processor time a set of processes takes, children that have ended included: a control group each.
A name with a slash is a group in another one, and counts there too."""
import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path("/sys/fs/cgroup")


class Group:
    """A control group; its processes' children are born into it."""

    def __init__(self, name):
        if not (ROOT / "cgroup.procs").exists():
            ROOT.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "-t", "cgroup2", "cgroup2", ROOT], check=True)
        self.path = ROOT / name
        self.path.mkdir(exist_ok=True)

    def add(self, pid):
        (self.path / "cgroup.procs").write_text(str(pid))

    def milliseconds(self):
        """Processor time that it has had so far."""
        return int(re.search(r"usage_usec (\d+)", (self.path / "cpu.stat").read_text())[1]) / 1000

    def _pids(self):
        """Of its processes, those in groups below it included."""
        return [pid for path in self.path.rglob("cgroup.procs") for pid in path.read_text().split()]

    def kilobytes(self):
        """What its processes have in memory, pages that are shared divided by who shares them (PSS)."""
        total = 0
        for pid in self._pids():
            total += int(re.search(r"\nPss: +(\d+)", pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text())[1])
        return total

    def wakeups(self):
        """How often its threads have gone to sleep so far."""
        total = 0
        for pid in self._pids():
            for thread in os.listdir(f"/proc/{pid}/task"):
                status = pathlib.Path(f"/proc/{pid}/task/{thread}/status").read_text()
                total += int(re.search(r"\nvoluntary_ctxt_switches:\s+(\d+)", status)[1])
        return total


def processes_made():
    """How many processes and threads the kernel has made since it was started."""
    return int(re.search(r"\nprocesses (\d+)", pathlib.Path("/proc/stat").read_text())[1])
