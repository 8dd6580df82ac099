"""The rate of this machine's time stamps (TSC), which QEMU's emulation hands through to the kernel in it.

That kernel would find it out by the PIT, and on a busy machine now and then finds another: of 17 starts, 12 of them at
once, one took 2,596 MHz for 360. Its clock then runs seven times as fast, and nothing in it comes in time."""
import ctypes
import functools
import mmap
import platform
import time

RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl $32, %rdx; or %rdx, %rax; ret
LONG = 0.2  # seconds
TRIES = 5


def _make_reader():
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(RDTSC)
    read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    read.page = page  # lives as long
    return read


def _look(read):
    """The stamp and the time in ns that belong together, of TRIES the two that were read closest."""
    looks = []
    for _ in range(TRIES):
        before = time.monotonic_ns()
        stamp = read()
        after = time.monotonic_ns()
        looks.append((after - before, stamp, (before + after) // 2))
    return min(looks)[1:]


@functools.cache
def khz():
    """Time stamps in a millisecond, measured once."""
    read = _make_reader()
    stamp, began = _look(read)
    time.sleep(LONG)
    later, ended = _look(read)
    return round((later - stamp) * 1_000_000 / (ended - began))


def told():
    """The kernel's parameters by which an emulated processor's clock is its time stamps, at their rate."""
    return "tsc=reliable" + (f" tsc_early_khz={khz()}" if platform.machine() == "x86_64" else "")
