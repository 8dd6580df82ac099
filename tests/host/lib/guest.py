"""An operating system for an inner VM: Debian's kernel, the one the emulated host runs, and a root
of one shell script. ACPI hot-plug is built into it; no module is needed. It boots in minutes."""
import pathlib
import shutil
import subprocess

from .wait import wait_until

INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox echo guest: ready >/dev/ttyS0
exec /bin/busybox sleep 1000000
"""


def arguments(kernel, folder):
    """What a QemuVm needs to boot it; FOLDER is where its files go."""
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    with (folder / "initramfs").open("wb") as file:
        subprocess.run("find . | cpio --quiet -o -H newc", shell=True, cwd=root, stdout=file, check=True)
    return ("-kernel", str(kernel), "-initrd", str(folder / "initramfs"), "-m", "160",
            "-append", "console=ttyS0 quiet edd=off nokaslr mitigations=off tsc=reliable no_timer_check panic=-1",
            "-serial", f"file:{folder / 'serial.log'}")


def wait_ready(folder, seconds=900):
    serial = pathlib.Path(folder) / "serial.log"
    wait_until(lambda: serial.exists() and "guest: ready" in serial.read_text(errors="replace"), seconds,
               lambda: "the guest is up; it said: " + serial.read_text(errors="replace")[-2000:])
