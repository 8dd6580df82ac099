"""Signs of life of the emulated host's kernel: by them a machine that hangs is told from a story that waits.
QEMU's emulation of two processors may lose both, with nothing left that could complain."""
import contextlib
import subprocess

SIGN = b"::alive\n"
EVERY = 10  # seconds
SILENCE = 120  # so long without one, and the machine hangs


@contextlib.contextmanager
def shown(port):
    """Meanwhile a process sends them by PORT, a file."""
    process = subprocess.Popen(["sh", "-c", f"while echo {SIGN.decode().strip()}; do sleep {EVERY}; done"], stdout=port)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def split(rest, data):
    """DATA came after REST, the beginning of a line: the lines that are whole now, and what is left. A sign may stand
    in the middle of a line."""
    *lines, rest = (rest + data).replace(SIGN, b"").split(b"\n")
    return [line.decode(errors="replace").rstrip("\r") for line in lines], rest
