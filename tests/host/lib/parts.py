"""What the emulated host has besides USB: PCI functions and input devices. They have a `name` like
the devices of host.py, which is what the views call them by."""
import contextlib
import fcntl
import os
import pathlib
import subprocess

from .wait import look, wait_until

PCI = pathlib.Path("/sys/bus/pci/devices")
INPUT = pathlib.Path("/sys/class/input")
EVIOCGRAB = 0x40044590


@contextlib.contextmanager
def held_by_sleep(node, take):
    """Meanwhile a process called `sleep`, which is yielded, has NODE open; TAKE was called with its
    descriptor before."""
    fd = os.open(node, os.O_RDWR)
    try:
        take(fd)
        with subprocess.Popen(["sleep", "1000"], stdin=fd) as process:
            os.close(fd)
            fd = -1
            try:
                yield process
            finally:
                process.kill()
    finally:
        if fd >= 0:
            os.close(fd)


class PciFunction:
    """A function by its ADDRESS, like 0000:00:07.0."""

    def __init__(self, address):
        self.name = address
        self.sys = PCI / address

    def __str__(self):
        return self.name

    def driver(self):
        """The driver that holds it, or None."""
        with contextlib.suppress(FileNotFoundError):
            return os.path.basename(os.readlink(self.sys / "driver"))

    def override(self):
        text = (self.sys / "driver_override").read_text().strip()
        return None if text == "(null)" else text

    @property
    def group(self):
        """The number of its IOMMU group."""
        return os.path.basename(os.readlink(self.sys / "iommu_group"))

    @property
    def group_node(self):
        return pathlib.Path(f"/dev/vfio/{self.group}")

    def interface(self):
        """The name of its network interface, or None."""
        with contextlib.suppress(FileNotFoundError):
            return next((path.name for path in (self.sys / "net").iterdir()), None)

    def is_there(self):
        return self.sys.exists()


def functions(vendor, device):
    """All functions with these ids (as in the config), in the order of their addresses."""
    def has_ids(path):
        return ((path / "vendor").read_text().strip(), (path / "device").read_text().strip()) == \
            (f"0x{vendor}", f"0x{device}")
    return look(lambda: [PciFunction(path.name) for path in sorted(PCI.iterdir()) if has_ids(path)])


def give_back_all():
    """Every function that a story has left with vfio-pci goes to its host driver; no VM runs."""
    for path in look(lambda: [path for path in sorted(PCI.iterdir()) if PciFunction(path.name).override() == "vfio-pci"]):
        function = PciFunction(path.name)
        (path / "driver_override").write_text("\n")
        if function.driver() == "vfio-pci":
            (path / "driver/unbind").write_text(path.name)
        pathlib.Path("/sys/bus/pci/drivers_probe").write_text(path.name)


class InputDevice:
    """An event node by the name that its device gives itself."""

    def __init__(self, name):
        # Those of a device that is on its way to a VM are going.
        self.sys = look(lambda: next(path for path in sorted(INPUT.glob("event*"))
                                     if (path / "device/name").read_text().strip() == name))
        self.name = self.sys.name
        self.node = pathlib.Path("/dev/input") / self.name

    def __str__(self):
        return self.name

    def owner(self):
        return self.node.stat().st_uid

    def grabbed(self):
        """Meanwhile a process called `sleep` has it for itself."""
        return held_by_sleep(self.node, lambda fd: fcntl.ioctl(fd, EVIOCGRAB, 1))


def wait_driver(function, driver, seconds=60):
    wait_until(lambda: function.driver() == driver, seconds,
               lambda: f"{function} is held by {driver}; it is held by {function.driver()}")


def take_for_vfio(card):
    """What the broker does with a card before a VM gets it."""
    subprocess.run(["modprobe", "vfio-pci"], check=True)
    (card.sys / "driver_override").write_text("vfio-pci")
    if card.driver():
        (card.sys / "driver/unbind").write_text(card.name)
    pathlib.Path("/sys/bus/pci/drivers_probe").write_text(card.name)
    wait_driver(card, "vfio-pci")
