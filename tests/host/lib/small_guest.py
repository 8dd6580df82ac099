"""A guest that says what it sees and what is typed, for VMMs with KVM (nested, inside the emulated host): Debian's
kernel, and a root of one shell script. Up in some ten seconds. The key F12 makes it reboot itself."""
import fcntl
import lzma
import os
import pathlib
import re
import shutil
import subprocess

from .wait import wait_until

INIT = """#!/bin/busybox sh
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
# The kernel hands on what it does not know itself, and modules ignore what they don't know.
while read -r module; do insmod "/modules/$module" $module_words; done </modules/order
# listen: tells the keys of the keyboard whose events come in.
listen() {
	while set -- $(dd bs=24 count=1 2>/dev/null | od -An -j16 -tu2 2>/dev/null) && [ $# = 4 ]; do
		[ "$1.$3" = 1.1 ] || continue
		echo "guest: key $2" >/dev/ttyS0
		[ "$2" != 88 ] || reboot -f
	done
}
listen_to_new() {
	for node in /dev/input/event*; do
		heard=/heard/${node##*/}
		[ -c "$node" ] && [ ! -e "$heard" ] || continue
		: >"$heard"
		(listen <"$node"; rm "$heard") &
	done
}
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
	listen_to_new
	has=$(look | sort)
	[ "$has" = "$had" ] || echo "guest: has" $has >/dev/ttyS0
	had=$has
	sleep 1
done
"""
TOOLS = ("mount", "insmod", "sleep", "sort", "dd", "od", "rm", "reboot")
MODULES = ("evdev", "virtio_pci", "virtio_input", "nvme", "xhci_pci", "usbhid", "hid_generic", "usb_storage", "uas",
           "sd_mod")
KVM = pathlib.Path("/dev/kvm")
# At its own addresses: where it has hung, the kernel's System.map says what that is.
COMMAND_LINE = "console=ttyS0 quiet panic=-1 nokaslr edd=off"
KERNEL = pathlib.Path(__file__).resolve().parents[3] / ".build-host/kernel/vmlinuz"  # of the emulated host


def make(folder):
    """The initramfs, in FOLDER; returns its path."""
    root = folder / "root"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "dev", "heard", "modules", "sys"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for tool in TOOLS:
        (root / "bin" / tool).symlink_to("busybox")
    paths = {}
    for module in MODULES:
        shown = subprocess.run(["modprobe", "--show-depends", module], check=True, capture_output=True, text=True)
        paths.update({line.split()[1]: None for line in shown.stdout.splitlines() if line.startswith("insmod ")})
    names = [_copy_module(pathlib.Path(path), root / "modules") for path in paths]
    (root / "modules/order").write_text("".join(f"{name}\n" for name in names))
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    with (folder / "initramfs").open("wb") as file:
        subprocess.run("find . | cpio --quiet -o -H newc", shell=True, cwd=root, stdout=file, check=True)
    return folder / "initramfs"


def _copy_module(path, folder):
    """Unpacked, as busybox loads it. Returns its name."""
    if path.suffix != ".xz":
        shutil.copy(path, folder)
        return path.name
    (folder / path.stem).write_bytes(lzma.decompress(path.read_bytes()))
    return path.stem


KVM_CREATE_VM = 0xae01  # linux/kvm.h
_kept = []


def load_kvm():
    for module in ("kvm_amd", "kvm_intel"):
        if subprocess.run(["modprobe", module], capture_output=True).returncode == 0 and KVM.exists():
            KVM.chmod(0o666)
            _keep_a_vm()
            return
    raise RuntimeError("there is no /dev/kvm in the emulated host")


def _keep_a_vm():
    """One that does nothing, as long as the host is up. The kernel rewrites its own code when the first VM comes and
    when the last one goes (kvm_main.c, preempt_notifier_key), and its emulation may lose a processor by that (run)."""
    if not _kept:
        kvm = os.open(KVM, os.O_RDWR | os.O_CLOEXEC)
        _kept.append(fcntl.ioctl(kvm, KVM_CREATE_VM, 0))
        os.close(kvm)


def qemu_arguments(folder):
    """What a QEMU needs to boot it, when it has been made in FOLDER."""
    return ["-kernel", str(KERNEL), "-initrd", str(folder / "initramfs"), "-append", COMMAND_LINE, "-m", "160",
            "-serial", f"file:{folder / 'serial.log'}"]


class Console:
    """What the guest has said, in the file PATH."""

    def __init__(self, path):
        self.path = path

    def text(self):
        return self.path.read_text(errors="replace") if self.path.exists() else ""

    def boots(self):
        return self.text().count("guest: ready")

    def wait_ready(self, boots=1):
        """It is up, for the BOOTSth time since its console's file is there."""
        wait_until(lambda: self.boots() >= boots, 300, lambda: f"the guest is up; it said: {self.text()[-1500:]}")

    def _since_boot(self, pattern):
        """Whole lines only: the console's file grows letter by letter."""
        return re.findall(rf"^guest: {pattern}\r?\n", self.text().rpartition("guest: ready")[2], re.M)

    def has(self):
        """What it sees now: "pci-8086:100e", "usb-0627:0001", "disk-nvme", by the name of its file system."""
        lines = self._since_boot(r"has (.*?)")
        return lines[-1].split() if lines else []

    def wait_has(self, what, seconds=180):
        wait_until(lambda: what in self.has(), seconds, lambda: f"the guest sees {what}; it sees {self.has()}")

    def wait_lost(self, what, seconds=180):
        wait_until(lambda: what not in self.has(), seconds, lambda: f"the guest sees no {what}; it sees {self.has()}")

    def keys(self):
        """The codes of the keys and buttons that were pressed since it is up."""
        return [int(code) for code in self._since_boot(r"key (\d+)")]
