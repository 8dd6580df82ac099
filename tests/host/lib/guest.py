"""An operating system for an inner VM: Debian's kernel, the one the emulated host runs, and a root
of one shell script. ACPI hot-plug is built into it. It boots in minutes. When it gets a sound card, a
program there uses it: then its driver can't let go."""
import pathlib
import shutil
import subprocess

from . import tsc
from .wait import wait_until

INIT = """#!/bin/busybox sh
export PATH=/bin
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </modules/order
echo guest: ready >/dev/ttyS0
while [ ! -e /dev/snd/controlC0 ]; do sleep 1; done
exec 3</dev/snd/controlC0
echo guest: uses the sound card >/dev/ttyS0
exec sleep 1000000
"""
TOOLS = ("mount", "insmod", "sleep")


def arguments(kernel, folder):
    """What a QemuVm needs to boot it; FOLDER is where its files go."""
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "dev", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for tool in TOOLS:
        (root / "bin" / tool).symlink_to("busybox")
    _copy_modules("snd-ens1370", root / "modules")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    with (folder / "initramfs").open("wb") as file:
        subprocess.run("find . | cpio --quiet -o -H newc", shell=True, cwd=root, stdout=file, check=True)
    return ("-kernel", str(kernel), "-initrd", str(folder / "initramfs"), "-m", "160",
            "-append", f"console=ttyS0 quiet edd=off nokaslr mitigations=off {tsc.told()} no_timer_check panic=-1",
            "-serial", f"file:{folder / 'serial.log'}")


def _copy_modules(name, folder):
    """The module and all that it needs, with a list in the order in which they must be loaded."""
    shown = subprocess.run(["modprobe", "--show-depends", name], check=True, capture_output=True, text=True).stdout
    paths = [pathlib.Path(line.split()[1]) for line in shown.splitlines() if line.startswith("insmod ")]
    for path in paths:
        shutil.copy(path, folder)
    (folder / "order").write_text("".join(f"{path.name}\n" for path in paths))


def wait_said(folder, words, seconds=900):
    """Waits until the guest has said these words: "ready", "uses the sound card"."""
    serial = pathlib.Path(folder) / "serial.log"
    wait_until(lambda: serial.exists() and f"guest: {words}" in serial.read_text(errors="replace"), seconds,
               lambda: f"the guest says '{words}'; it said: " + serial.read_text(errors="replace")[-2000:])
