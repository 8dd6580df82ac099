"""The hardware: plugs devices into the emulated host and pulls them out, through the monitor of
the QEMU that emulates it."""
import contextlib
import os
import pathlib

from . import qmp
from .udev import knows_disk
from .wait import Failed, expect, look, wait_until

USB = pathlib.Path("/sys/bus/usb/devices")
PORTS = range(1, 16)


def open_port(name):
    """A virtio serial port by its name; udev's /dev/virtio-ports is not needed for it."""
    for port in pathlib.Path("/sys/class/virtio-ports").iterdir():
        if (port / "name").read_text().strip() == name:
            return os.open(f"/dev/{port.name}", os.O_RDWR)
    raise FileNotFoundError(f"no virtio port is called {name}")


class UsbDevice:
    """A plugged USB device. `name` is the kernel's, like 1-2 or 1-2.3; `inode` is that of its
    directory in /sys, another one after each plug."""

    def __init__(self, host, ident, name):
        self.host, self.ident, self.name = host, ident, name
        self.sys = USB / name
        self.inode = self.sys.stat().st_ino

    def __str__(self):
        return f"{self.ident} ({self.name})"

    def attribute(self, name):
        return (self.sys / name).read_text().strip()

    def is_there(self):
        return self.sys.exists()

    @property
    def vid_pid(self):
        return f"{self.attribute('idVendor')}:{self.attribute('idProduct')}"

    @property
    def node(self):
        return f"/dev/bus/usb/{int(self.attribute('busnum')):03}/{int(self.attribute('devnum')):03}"

    def drivers(self):
        """The host drivers that hold its interfaces, without usbfs (that is the VM)."""
        def names():
            return [os.path.basename(os.readlink(link)) for link in self.sys.glob(f"{self.name}:*/driver")]
        return sorted(name for name in look(names) if name != "usbfs")

    def block_device(self):
        """The name of its disk on the host, like sda, as soon as udevd knows that: the kernel looks for partitions
        on it first, and can't mount it before. Or None."""
        def disk():
            return next((path.name for path in self.sys.glob("*/host*/target*/*/block/*") if knows_disk(path)), None)
        return look(disk)

    def unplug(self):
        self.host.unplug(self)


def _is_configured(path):
    return path.exists() and (path / "bNumInterfaces").read_text().strip() != ""


class Host:
    """What can be done to the hardware."""

    def __init__(self, images):
        self.monitor = qmp.Qmp(open_port("outer-qmp"), "outer QEMU").greet()
        self.images = images
        self.plugged = {}
        self.disks = {}
        self.serial = 0

    def plug(self, driver, name, port=None, **properties):
        """Plugs any USB device QEMU has. PORT is like 3 or 3.1 (port 1 of the hub in port 3); the
        first free one if not said. Returns when the kernel is through with it: it has told udevd of the device and
        of its interfaces, and those drivers that are loaded have been asked. (The device is in /sys before that,
        but to tell how many interfaces it has, the kernel must have begun, and let go of, its lock.)"""
        port = str(port or self.free_port())
        if driver == "usb-audio":  # since QEMU 10 there is no default for it
            properties.setdefault("audiodev", "quiet")
        self.serial += 1
        ident = f"{name}{self.serial}"
        self.monitor.command("device_add", driver=driver, id=ident, bus="xhci.0", port=port, **properties)
        paths = [USB / f"{bus}-{port}" for bus in (1, 2)]
        path = wait_until(lambda: next((path for path in paths if _is_configured(path)), None), 60,
                          f"the kernel sees {ident} in port {port}")
        device = UsbDevice(self, ident, path.name)
        self.plugged[ident] = device
        return device

    def free_port(self):
        taken = {device.name.split("-")[1].split(".")[0] for device in self.plugged.values()}
        return next(port for port in PORTS if str(port) not in taken)

    def plug_keyboard(self, **where):
        return self.plug("usb-kbd", "keyboard", **where)

    def plug_mouse(self, **where):
        return self.plug("usb-mouse", "mouse", **where)

    def click(self):
        """Presses and releases the left button of the mouse that was read last."""
        for down in (True, False):
            self.monitor.command("input-send-event", events=[{"type": "btn", "data": {"button": "left", "down": down}}])

    def plug_hub(self, **where):
        """It does not go to sleep while nothing is plugged into it: what comes in that moment is lost on QEMU's."""
        hub = self.plug("usb-hub", "hub", **where)
        (hub.sys / "power/control").write_text("on")
        return hub

    def plug_disk(self, image=1, **where):
        """A USB stick with an ext4 file system; IMAGE numbers the sticks there are, from 1."""
        node = f"image{image}"
        self.monitor.command("blockdev-add", driver="file", filename=self.images[image - 1], node_name=node)
        try:
            device = self.plug("usb-storage", "disk", drive=node, **where)
        except Exception:
            self.monitor.command("blockdev-del", node_name=node)
            raise
        self.disks[device.ident] = node
        return device

    @contextlib.contextmanager
    def network_behind(self):
        """With-block: there is a network for plug_network(). At its end every device is unplugged."""
        self.monitor.command("netdev_add", type="user", id="usbnet", restrict=True)
        try:
            yield
        finally:
            self.unplug_all()
            self.monitor.command("netdev_del", id="usbnet")

    def plug_network(self):
        return self.plug("usb-net", "net", netdev="usbnet")

    @contextlib.contextmanager
    def line_behind(self):
        """With-block: there is a line for plug_serial(). At its end every device is unplugged."""
        def removed():
            with contextlib.suppress(Failed):  # busy, until QEMU has really done away with the device
                return self.monitor.command("chardev-remove", id="line") == {}
        self.monitor.command("chardev-add", id="line", backend={"type": "null", "data": {}})
        try:
            yield
        finally:
            self.unplug_all()
            wait_until(removed, 60, "the line is free")

    def plug_serial(self):
        return self.plug("usb-serial", "serial", **{"chardev": "line", "always-plugged": True})

    def type_key(self, key):
        """On the keyboard that was plugged last."""
        self.monitor.command("send-key", keys=[{"type": "qcode", "data": key}])

    def unplug(self, device):
        """Pulls it out; returns when the kernel has seen it. That takes 20 s if usbhid was just reading
        its descriptors: QEMU never answers such a request, and usbhid asks four times, 5 s each."""
        del self.plugged[device.ident]
        self.monitor.command("device_del", id=device.ident)
        self.monitor.wait_deleted(device.ident)
        if device.ident in self.disks:
            self.monitor.command("blockdev-del", node_name=self.disks.pop(device.ident))
        wait_until(lambda: not device.is_there(), 60, f"the kernel sees that {device} is gone")

    def count_anew(self):
        """As after a boot: the numbers of USB devices begin anew, in the order of their ports."""
        controller = (USB / "usb1").resolve().parent
        driver = (controller / "driver").resolve()
        for word in ("unbind", "bind"):
            (driver / word).write_text(controller.name)
        for device in self.plugged.values():
            wait_until((device.sys / "bDeviceClass").exists, 60, f"the kernel sees {device} again")
            device.inode = device.sys.stat().st_ino

    def unplug_all(self):
        """Devices behind hubs first."""
        for device in sorted(self.plugged.values(), key=lambda device: -device.name.count(".")):
            self.unplug(device)
        expect(not self.plugged, "every device is unplugged")
