"""Signs of life of the emulated host's processors, each its own: by them a machine that has lost one is told from a
story that waits. QEMU's emulation of two may lose one or both, and what is left need not complain: it goes on with
what does not need the other, until the story's patience ends."""
import contextlib
import functools
import os
import re
import subprocess
import time

EVERY = 10  # seconds
SILENCE = 120  # so long without one, and the processor is lost: one of ours once had to wait 71
SIGN = re.compile(rb"::alive (\d+)\n")
# What the kernel says of a processor that is lost before there are signs; of one that had to wait for one of ours, too,
# which is nothing.
COMPLAINT = re.compile(r"watchdog: BUG: soft lockup|rcu_preempt self-detected stall")


@contextlib.contextmanager
def shown(port):
    """Meanwhile a process on each processor sends them by PORT, a file. The first ones come from here, so that none is
    missed that is lost at once."""
    processors = os.sched_getaffinity(0)
    print(*(f"::alive {processor}" for processor in processors), sep="\n", file=port, flush=True)
    processes = [
        subprocess.Popen(["sh", "-c", f"while echo ::alive {processor}; do sleep {EVERY}; done"], stdout=port,
                         preexec_fn=functools.partial(os.sched_setaffinity, 0, {processor}))
        for processor in processors]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Listener:
    """To what comes from the inside: the signs, and lines of text."""

    def __init__(self):
        self.began, self.heard = time.monotonic(), {}
        self.rest = b""

    def take(self, data):
        """The lines that are whole now. A sign may stand in the middle of one."""
        text = self.rest + data
        for processor in SIGN.findall(text):
            self.heard[processor] = time.monotonic()
        *lines, self.rest = SIGN.sub(b"", text).split(b"\n")
        return [line.decode(errors="replace").rstrip("\r") for line in lines]

    def silence(self):
        """For how many seconds one of them has given no sign."""
        return time.monotonic() - min(self.heard.values(), default=self.began)

    def has_lost_one(self, console):
        """CONSOLE: what the kernel has said."""
        return self.silence() > SILENCE and bool(self.heard or COMPLAINT.search(console))
