"""A real systemd-udevd over a made-up /sys, in namespaces of its own.

Devices are directories in a tmpfs that is mounted on /sys; events are injected through the kernel
(a uevent written to NETLINK_KOBJECT_UEVENT is broadcast in this network namespace as if the kernel
had sent it), and what udevd makes of them is read from its own broadcast. Nothing of the machine
is touched: /sys, /run, /dev, /etc/udev and the rules directory are private.

EUDEV=FOLDER names an eudev that was installed there (make install DESTDIR=FOLDER, with --prefix=/usr
and --with-rootlibexecdir=/lib/udev): its daemon and its rules take part in place of systemd's.
"""

import contextlib
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../doubles"))
import udev_control

NETLINK_KOBJECT_UEVENT = 15
SO_RCVBUFFORCE = 33
EUDEV = os.environ.get("EUDEV")
UDEVD = f"{EUDEV}/usr/sbin/udevd" if EUDEV else "/lib/systemd/systemd-udevd"
RULES = "/usr/lib/udev/rules.d"
SYSTEM_RULES = f"{EUDEV}/lib/udev/rules.d" if EUDEV else RULES
if EUDEV:
    os.environ["PATH"] = f"{EUDEV}/usr/bin:{os.environ['PATH']}"


def enter_namespaces():
    """Starts this program again inside new namespaces; all its processes end with it."""
    if os.environ.get("VHP_IN_NAMESPACES"):
        return
    os.environ["VHP_IN_NAMESPACES"] = "1"
    command = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.getuid() != 0:
        command += ["--user", "--map-root-user"]
    os.execvp(command[0], command + [sys.executable] + sys.argv)


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


class Udevd:
    def __init__(self, libexecdir, base_rules=None):
        """BASE_RULES: which of the system's own rule files take part (default: all)."""
        self.root = tempfile.mkdtemp(prefix="vhp-udevd-")
        mount("-t", "tmpfs", "tmpfs", self.root)
        self.libexecdir = libexecdir
        self.daemon = None
        self._private_directories(base_rules)
        self._uevents = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
        self._monitor = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
        self._monitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        with contextlib.suppress(PermissionError):  # beyond the limit for everybody: a busy machine reads late
            self._monitor.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self._monitor.bind((0, 2))
        self._monitor.settimeout(120)

    def _directory(self, name, target):
        path = os.path.join(self.root, name)
        os.makedirs(path)
        mount("--bind", path, target)

    def _layer(self, name, target):
        """What is in TARGET stays: a compiler may have its parts there."""
        upper, work = os.path.join(self.root, name), os.path.join(self.root, name + ".work")
        os.makedirs(upper)
        os.makedirs(work)
        mount("-t", "overlay", "overlay", "-o", f"lowerdir={target},upperdir={upper},workdir={work}", target)

    def _private_directories(self, base_rules):
        kept = {}
        for name in os.listdir(SYSTEM_RULES):
            if base_rules is None or name in base_rules:
                with open(os.path.join(SYSTEM_RULES, name), "rb") as file:
                    kept[name] = file.read()
        self._directory("rules", RULES)
        for name, text in kept.items():
            with open(os.path.join(RULES, name), "wb") as file:
                file.write(text)
        self._directory("etc", "/etc/udev")
        os.makedirs("/etc/udev/rules.d")
        self._directory("run", "/run")
        os.makedirs("/run/helper")
        self._private_dev()
        self._directory("sys", "/sys")
        for name in ("devices", "bus", "class", "module"):
            os.makedirs("/sys/" + name)
        self._private_libexec()

    def _private_dev(self):
        dev = os.path.join(self.root, "dev")
        os.makedirs(dev)
        for name in ("null", "zero", "urandom", "kmsg"):
            if os.path.exists("/dev/" + name):
                open(os.path.join(dev, name), "w").close()
                mount("--bind", "/dev/" + name, os.path.join(dev, name))
        mount("--rbind", dev, "/dev")

    def _private_libexec(self):
        """A recorder stands in for the helper: one file of the environment per event."""
        if os.path.isdir(self.libexecdir):
            self._directory("libexec", self.libexecdir)
        else:
            parent = os.path.dirname(self.libexecdir)
            while not os.path.isdir(parent):
                parent = os.path.dirname(parent)
            self._layer("libexec", parent)
        os.makedirs(self.libexecdir, exist_ok=True)
        self.install_program("vhotplug-helper", "#!/bin/sh\nenv > /run/helper/$SEQNUM\n")

    def install_program(self, name, text_or_path):
        path = os.path.join(self.libexecdir, name)
        if text_or_path.startswith("#!"):
            with open(path, "w") as file:
                file.write(text_or_path)
        else:
            shutil.copy(text_or_path, path)
        os.chmod(path, 0o755)

    # ---- the daemon --------------------------------------------------------------------------

    def write_rules(self, text, name="66-vhotplug.rules"):
        path = "/etc/udev/rules.d/" + name
        with open(path + ".new", "wb") as file:
            file.write(text)
        os.rename(path + ".new", path)

    def start(self):
        environment = {"PATH": os.environ["PATH"], "SYSTEMD_DEVICE_VERIFY_SYSFS": "0"}
        self.log = open(os.path.join(self.root, "log"), "w+b")
        self.daemon = udev_control.start([UDEVD, "--resolve-names=never"], env=environment, stdout=self.log,
                                         stderr=self.log)

    def log_text(self):
        with open(os.path.join(self.root, "log"), "rb") as file:
            return file.read().decode("utf-8", "replace")

    def reload(self):
        subprocess.run(["udevadm", "control", "--reload"], check=True)

    # ---- devices -----------------------------------------------------------------------------

    def add_device(self, path, subsystem, devtype=None, attributes=None, uevent=None):
        """Makes /sys/devices/PATH. Attributes are bytes. Returns the devpath."""
        devpath = "/devices/" + path
        directory = "/sys" + devpath
        os.makedirs(directory, exist_ok=True)
        lines = dict(uevent or {})
        if devtype:
            lines["DEVTYPE"] = devtype
        with open(directory + "/uevent", "wb") as file:
            for key, value in lines.items():
                file.write(key.encode() + b"=" + as_bytes(value) + b"\n")
            if not lines:
                file.write(b"X=1\n")
        os.makedirs("/sys/bus/" + subsystem, exist_ok=True)
        if not os.path.islink(directory + "/subsystem"):
            os.symlink("/sys/bus/" + subsystem, directory + "/subsystem")
        listed = f"/sys/bus/{subsystem}/devices/{os.path.basename(path)}"
        os.makedirs(os.path.dirname(listed), exist_ok=True)
        if os.path.islink(listed):
            os.unlink(listed)
        os.symlink(directory, listed)
        for name, value in (attributes or {}).items():
            os.makedirs(os.path.dirname(os.path.join(directory, name)), exist_ok=True)
            with open(os.path.join(directory, name), "wb") as file:
                file.write(value)
        return devpath

    def remove_device(self, devpath):
        shutil.rmtree("/sys" + devpath)

    # ---- events ------------------------------------------------------------------------------

    def send(self, action, devpath, subsystem, **properties):
        """Injects one uevent; properties are those the kernel would send."""
        fields = [f"{action}@{devpath}".encode(), b"ACTION=" + action.encode(),
                  b"DEVPATH=" + devpath.encode(), b"SUBSYSTEM=" + subsystem.encode()]
        fields += [key.encode() + b"=" + as_bytes(value) for key, value in properties.items()]
        body = b"\0".join(fields) + b"\0"
        header = struct.pack("=IHHII", 16 + len(body), 0x10, 1, 0, 0)
        self._uevents.sendto(header + body, (0, 0))

    def wait(self, devpath):
        """What udevd says about the next event of DEVPATH: its properties, as bytes."""
        return self.wait_all([devpath])[devpath]

    def wait_all(self, devpaths):
        """The same for several devices, each of which has one event under way: a dict."""
        result = {}
        while len(result) < len(devpaths):
            data = self._monitor.recv(1 << 16)
            if not data.startswith(b"libudev\0"):
                continue
            offset, length = struct.unpack_from("=II", data, 16)
            fields = data[offset:offset + length].split(b"\0")
            found = dict(field.split(b"=", 1) for field in fields if b"=" in field)
            devpath = found.get(b"DEVPATH", b"").decode()
            if devpath in devpaths:
                result[devpath] = found
        return result

    def event(self, action, devpath, subsystem, **properties):
        self.send(action, devpath, subsystem, **properties)
        return self.wait(devpath)

    def helper_runs(self):
        """The environments that the helper was run with since the last call, in order."""
        runs = []
        for name in sorted(os.listdir("/run/helper"), key=int):
            with open("/run/helper/" + name, "rb") as file:
                lines = file.read().split(b"\n")
            runs.append(dict(line.split(b"=", 1) for line in lines if b"=" in line))
            os.unlink("/run/helper/" + name)
        return runs


def tags(found):
    """What an event's rules have tagged it with: eudev has no other tags than these."""
    return found.get(b"TAGS" if EUDEV else b"CURRENT_TAGS", b"")


def as_bytes(value):
    return value if isinstance(value, bytes) else str(value).encode()


def descriptors(device_class, interfaces):
    """What the kernel shows in `descriptors`: a device, one configuration, one endpoint each."""
    device = struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x200, *device_class, 64, 0, 0, 0, 0, 0, 0, 1)
    body = b""
    for number, (cls, sub, proto) in enumerate(interfaces):
        body += struct.pack("<BBBBBBBBB", 9, 4, number & 0xff, 0, 1, cls, sub, proto, 0)
        body += struct.pack("<BBBBHB", 7, 5, 0x81, 3, 8, 10)
    config = struct.pack("<BBHBBBBB", 9, 2, (9 + len(body)) & 0xffff, len(interfaces) & 0xff, 1, 0, 0x80, 50)
    return device + config + body
