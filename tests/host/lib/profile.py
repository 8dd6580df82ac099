"""Where programs leave the processor's time: in which system calls, and in their own code, by the kernel's record of
calls and of the scheduler. The record itself takes time too, most of all where calls are short."""
import collections
import pathlib
import re

from .trace import LINE, TRACING, recording

NUMBERS = pathlib.Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
CALL = re.compile(r"sys_(?P<way>enter|exit): NR (?P<number>-?\d+)")
SWITCH = re.compile(r"sched_switch: .*==> next_comm=(?P<who>.+) next_pid=(?P<pid>\d+) next_prio=")
OWN = "its own code"


class _Process:
    """One that the record speaks of: who it is, since when it has the processor (None: it has not), and for what."""

    def __init__(self):
        self.who, self.since, self.bucket = None, None, OWN


class Profile:
    """By program: milliseconds on the processor, and how often, by system call and OWN."""

    def __init__(self):
        self.milliseconds = collections.defaultdict(collections.Counter)
        self.times = collections.defaultdict(collections.Counter)
        self._processes = collections.defaultdict(_Process)

    def _charge(self, process, when):
        if process.who and process.since is not None:
            self.milliseconds[process.who][process.bucket] += 1000 * (when - process.since)
        process.since = when

    def read(self, text, names):
        """All lines of the record; NAMES are those of the calls, by number."""
        for line in map(LINE.match, text.splitlines()):
            if not line:
                continue
            when, process = float(line["when"]), self._processes[line["pid"]]
            call, switch = CALL.match(line["what"]), SWITCH.match(line["what"])
            if call:
                process.who = line["who"].strip()
                self._charge(process, when)
                entered = call["way"] == "enter"
                process.bucket = names.get(call["number"], call["number"]) if entered else OWN
                self.times[process.who][process.bucket] += entered
            elif switch:
                self._charge(process, when)
                process.since = None
                process = self._processes[switch["pid"]]
                process.who, process.since = switch["who"].strip(), when


def call_names():
    return {number: name for name, number in re.findall(r"#define __NR_(\w+) (\d+)", NUMBERS.read_text())}


def profiled(programs, work):
    """Does WORK, and returns the Profile of the PROGRAMS, a pattern of the kernel's (`vhotplug-*`)."""
    of_them = f'comm ~ "{programs}"'
    with recording(raw_syscalls__sys_enter=of_them, raw_syscalls__sys_exit=of_them,
                   sched__sched_switch=f'prev_comm ~ "{programs}" || next_comm ~ "{programs}"'):
        work()
        text = (TRACING / "trace").read_text()
    profile = Profile()
    profile.read(text, call_names())
    return profile
