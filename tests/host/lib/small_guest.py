"""A guest that says what it sees, for VMMs with KVM (nested, inside the emulated host): Debian's
kernel, and a root of one shell script. Up in some ten seconds."""
import pathlib
import re
import shutil
import subprocess

from .wait import wait_until

INIT = """#!/bin/busybox sh
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
while read -r module; do insmod "/modules/$module"; done </modules/order
look() {
	for device in /sys/bus/pci/devices/*; do
		read -r vendor <"$device/vendor"; read -r id <"$device/device"
		echo "pci-${vendor#0x}:${id#0x}"
	done
	for device in /sys/bus/usb/devices/*/idVendor; do
		[ -e "$device" ] || continue
		read -r vendor <"$device"; read -r id <"${device%Vendor}Product"
		echo "usb-$vendor:$id"
	done
	for disk in /dev/nvme?n1 /dev/sd?; do
		[ -b "$disk" ] || continue
		# Past the page cache, so that the device really works.
		# The name of its file system.
		echo "disk-$(dd if="$disk" bs=4096 count=1 iflag=direct 2>/dev/null | dd bs=1 skip=1144 count=8 2>/dev/null)"
	done
}
echo "guest: ready" >/dev/ttyS0
while :; do
	has=$(look | sort)
	[ "$has" = "$had" ] || echo "guest: has" $has >/dev/ttyS0
	had=$has
	sleep 1
done
"""
TOOLS = ("mount", "insmod", "sleep", "sort", "dd")
MODULES = ("nvme", "xhci_pci", "usbhid", "hid_generic", "usb_storage", "uas", "sd_mod")
COMMAND_LINE = "console=ttyS0 quiet panic=-1"
KERNEL = pathlib.Path(__file__).resolve().parents[3] / ".build-host/kernel/vmlinuz"  # of the emulated host


def make(folder):
    """The initramfs, in FOLDER; returns its path."""
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "dev", "modules", "sys"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for tool in TOOLS:
        (root / "bin" / tool).symlink_to("busybox")
    paths = {}
    for module in MODULES:
        shown = subprocess.run(["modprobe", "--show-depends", module], check=True, capture_output=True, text=True)
        paths.update({line.split()[1]: None for line in shown.stdout.splitlines() if line.startswith("insmod ")})
    for path in paths:
        shutil.copy(path, root / "modules")
    (root / "modules/order").write_text("".join(f"{pathlib.Path(path).name}\n" for path in paths))
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    with (folder / "initramfs").open("wb") as file:
        subprocess.run("find . | cpio --quiet -o -H newc", shell=True, cwd=root, stdout=file, check=True)
    return folder / "initramfs"


def load_kvm():
    for module in ("kvm_amd", "kvm_intel"):
        if subprocess.run(["modprobe", module], capture_output=True).returncode == 0 and pathlib.Path("/dev/kvm").exists():
            return
    raise RuntimeError("there is no /dev/kvm in the emulated host")


class Console:
    """What the guest has said, in the file PATH."""

    def __init__(self, path):
        self.path = path

    def text(self):
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def wait_ready(self):
        wait_until(lambda: "guest: ready" in self.text(), 120,
                   lambda: f"the guest is up; it said: {self.text()[-1500:]}")

    def has(self):
        """What it sees now: "pci-8086:100e", "usb-0627:0001", "disk-nvme", by the name of its file system."""
        lines = re.findall(r"^guest: has (.*)$", self.text(), re.M)
        return lines[-1].split() if lines else []
