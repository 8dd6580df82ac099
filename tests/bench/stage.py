"""A broker with one honest VM for the benchmarks, in namespaces of its own: devices are directories that are made and
removed, all with the node of the zero device; helpers bring the events, as udevd starts them."""
import contextlib
import os
import pathlib
import signal
import sqlite3
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
sys.dont_write_bytecode = True

import world as worlds

DOUBLE = pathlib.Path(__file__).parent.parent / "doubles" / "hostile_monitor.py"
PLACE = pathlib.Path("/sys/devices/virtual/misc")
RUNTIME = "/run/vhotplug"


def node_of(name):
    """Made when it is first asked for."""
    number = 1 + (int(name[5:]) % 127 if name[5:] else 0)
    node = f"/dev/bus/usb/{90 + (int(name[5:]) // 127 if name[5:] else 0):03}/{number:03}"
    os.makedirs(os.path.dirname(node), exist_ok=True)
    if not os.path.exists(node):
        os.mknod(node, 0o600 | 0o020000, os.makedev(1, 5))
    return node


def enter():
    """False without the rights to it."""
    if os.geteuid() != 0 or not worlds.fake_usb():
        print("root is needed, and mount namespaces")
        return False
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    return True


def first_child(pid):
    return int(pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


class Stage(worlds.World):
    """BROKER and HELPER run under a TOOL each: what TOOL("broker") and TOOL("helper") give as the first words."""

    def __init__(self, broker, helper, tool=lambda who: []):
        super().__init__(broker)
        self.tool, self.helper = tool, helper
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", PLACE], check=True)
        pathlib.Path(RUNTIME).mkdir(exist_ok=True)
        subprocess.run(["mount", "--bind", self.path / "runtime", RUNTIME], check=True)
        self.write_config("good")
        self.double = subprocess.Popen(["/usr/bin/python3", "-B", DOUBLE, "roomy", self.path / "good.sock"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.processes.append(self.double)
        self.double.stdout.readline()
        self.start()

    def start(self):
        with open(self.path / "log", "ab") as log:
            self.broker = subprocess.Popen([*self.tool("broker"), self.program], env=self.environment, stdout=log, stderr=log)
        self.processes.append(self.broker)
        worlds.wait_for(lambda: (self.path / "runtime/control.sock").exists(), 60)

    def help(self, action, name="stick"):
        """What udevd starts."""
        self.seqnum += 1
        environment = {"ACTION": action, "DEVPATH": f"/devices/virtual/misc/{name}", "SEQNUM": str(self.seqnum),
                       "SUBSYSTEM": "usb", "DEVTYPE": "usb_device", "DEVNAME": node_of(name), "VHOTPLUG_RULE": "usb/g/r",
                       "VHOTPLUG_VM": "good", "ID_VENDOR": "Maker", "ID_MODEL": "Stick", "ID_SERIAL_SHORT": "1"}
        subprocess.run([*self.tool("helper"), self.helper], env=environment, check=True, stderr=subprocess.DEVNULL)

    def hears(self, word):
        while not self.double.stdout.readline().startswith(word):
            pass

    def count(self, action):
        return self.query(f"select count(*) from history where action = '{action}' and result = 'ok'")[0][0]

    def copied(self, action):
        """The same in the copy for everybody."""
        if not self.public_copy.exists():
            return 0
        with contextlib.closing(sqlite3.connect(f"file:{self.public_copy}?mode=ro", uri=True)) as db:
            return db.execute("select count(*) from history where action = ? and result = 'ok'", [action]).fetchone()[0]

    @staticmethod
    def make(name):
        """The device itself, as the kernel shows it."""
        (PLACE / name).mkdir()
        (PLACE / name / "dev").write_text("1:5\n")

    def bring(self, name):
        """Plugs it in, with no helper: the event is this program's."""
        self.make(name)
        self.event(device=name, vms="good", place=f"/devices/virtual/misc/{name}", node=node_of(name))

    def plug(self, name="stick"):
        """Plugs it in, and waits until the VM has it."""
        self.make(name)
        before = self.count("attach")
        self.help("add", name)
        self.hears("add")
        worlds.wait_for(lambda: self.count("attach") > before)

    def unplug(self, name="stick"):
        (PLACE / name / "dev").unlink()
        (PLACE / name).rmdir()
        before = self.count("detach")
        self.help("remove", name)
        self.hears("del")
        worlds.wait_for(lambda: self.count("detach") > before)

    def broker_pid(self):
        """Not strace's, which ends when the broker does."""
        return first_child(self.broker.pid) if self.tool("broker")[:1] == ["strace"] else self.broker.pid

    def stop(self):
        os.kill(self.broker_pid(), signal.SIGTERM)
        self.broker.wait(worlds.PATIENCE)

    def end(self):
        self.stop()
        subprocess.run(["umount", "-l", RUNTIME], check=True)
        subprocess.run(["umount", "-l", PLACE], check=True)
        self.close()
