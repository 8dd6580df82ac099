"""What differs between the QEMUs that the stories are told with, and what they do wrong."""
import functools
import re
import subprocess

from . import tsc

# What makes the emulated host cheap, as fast() does. Page tables have four levels, not five. Without erms, nothing clears
# and copies memory by rep movsb and rep stosb, of which each byte is a turn of a loop here: a tenth of all processor time.
CPU = "max,-la57,-erms"


def fast(kvm=False):
    """The kernel's parameters for that. Emulated, it is to trust the processors' time stamps, which QEMU has from one
    clock: else each look at the time is one at a register of the HPET, a way out of the emulated code and a lock that all
    processors share. KVM tells of its clock by itself. Programs lie at the same addresses each time: QEMU translates
    code anew for each address that it is seen at, and looks a translation up among all there are (1.3 million after a
    minute and a half, 0.4 without): a fifth of the rest, more in a long run."""
    return f"no_timer_check {'tsc=reliable' if kvm else tsc.told()} norandmaps"


@functools.cache
def version():
    said = subprocess.run(["qemu-system-x86_64", "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(int(number) for number in re.search(r"version (\d+)\.(\d+)", said).groups())


def dial_again():
    """The option of a chardev that calls again every second: renamed in 9.2, the old name gone since."""
    return "reconnect-ms=1000" if version() >= (9, 2) else "reconnect=1"
