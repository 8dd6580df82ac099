"""What differs between the QEMUs that the stories are told with."""
import functools
import re
import subprocess


@functools.cache
def version():
    said = subprocess.run(["qemu-system-x86_64", "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(int(number) for number in re.search(r"version (\d+)\.(\d+)", said).groups())


def dial_again():
    """The option of a chardev that calls again every second: renamed in 9.2, the old name gone since."""
    return "reconnect-ms=1000" if version() >= (9, 2) else "reconnect=1"
