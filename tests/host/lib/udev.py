"""udevd, the real one, and what its database says."""
import contextlib
import os
import pathlib
import shutil
import subprocess
import sys

from .wait import expect, wait_until

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "doubles"))
import udev_control

RULES = pathlib.Path("/etc/udev/rules.d")
# Two thirds of what is there when the host starts, which no story asks about.
BORING = ("acpi", "event_source", "mem", "memory", "pci_bus", "tty", "vc", "wakeup")


def udevadm(*words):
    result = subprocess.run(["udevadm", *words], capture_output=True, text=True)
    expect(result.returncode == 0, f"udevadm {' '.join(words)}: {result.stderr}")
    return result.stdout


def knows_disk(path):
    """Whether udevd is through with the block device that /sys has at PATH."""
    return pathlib.Path(f"/run/udev/data/b{(path / 'dev').read_text().strip()}").exists()


def lay_eudev(eudev):
    """An eudev that was installed in the folder EUDEV takes the place of systemd's udev: daemon, rules,
    udevadm, and the library by which broker and generator ask. Returns its daemon."""
    shutil.rmtree("/usr/lib/udev/rules.d")
    subprocess.run(["cp", "-a", f"{eudev}/lib/udev/.", "/usr/lib/udev/"], check=True)
    subprocess.run(["cp", f"{eudev}/usr/bin/udevadm", "/usr/bin/udevadm"], check=True)
    library, = pathlib.Path("/usr/lib").glob("*-linux-gnu/libudev.so.1")
    library.unlink()
    subprocess.run(["cp", "-L", f"{eudev}/usr/lib/libudev.so.1", library], check=True)
    return f"{eudev}/usr/sbin/udevd"


class Udev:
    def __init__(self, log):
        self.log_path, self.process = log, None
        eudev = os.environ.get("EUDEV")
        self.daemon = lay_eudev(eudev) if eudev else "/lib/systemd/systemd-udevd"

    def go_on(self):
        """Starts it, without a word about what is there."""
        environment = {**os.environ, "SYSTEMD_LOG_TARGET": "console", "SYSTEMD_LOG_LEVEL": "info"}
        with self.log_path.open("ab") as log:
            self.process = udev_control.start([self.daemon], stderr=log, env=environment)

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=60)

    def start(self):
        RULES.mkdir(parents=True, exist_ok=True)
        self.go_on()
        udevadm("trigger", "--type=subsystems", "--action=add")
        udevadm("trigger", "--type=devices", "--action=add", *(f"--subsystem-nomatch={name}" for name in BORING))
        self.settle()

    def settle(self):
        udevadm("settle", "--timeout=120")

    @contextlib.contextmanager
    def deaf(self):
        """Meanwhile it takes no event in hand."""
        udevadm("control", "--stop-exec-queue")
        try:
            yield
        finally:
            udevadm("control", "--start-exec-queue")

    def wait_disk(self, name):
        """The kernel's disk NAME has a node, and udevd is through with it."""
        wait_until(lambda: knows_disk(pathlib.Path("/sys/class/block") / name), 60, f"udevd knows {name}")
        self.settle()

    def trigger(self, action, device):
        """Replays an event of one device."""
        udevadm("trigger", f"--action={action}", str(device.sys))

    def trigger_usb(self, action):
        """Replays an event of everything that is USB."""
        udevadm("trigger", f"--action={action}", "--subsystem-match=usb")

    def reload(self):
        udevadm("control", "--reload")

    def properties(self, device):
        """What udev's database says about the device, name → value."""
        text = udevadm("info", "-q", "property", "-p", str(device.sys))
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def log(self):
        return self.log_path.read_text(errors="replace")
