"""The target VMs: QEMU processes inside the emulated host. Most are paused and need no guest; others run one
that says what it sees (small_guest)."""
import contextlib
import datetime
import os
import pathlib
import pwd
import re
import signal
import subprocess
import threading
import time

from . import qemu, qmp, small_guest
from .wait import Failed, wait_until

RUN = pathlib.Path("/run/vms")
ACPI_PCIHP = 0xcc0  # q35's hotplug registers
BUSES = 8  # more than a VM here has root ports
# Emulated, nested KVM may lose a guest as the emulated host loses a processor (tests/host/run): once in some hundred
# starts it never said a word.
STARTS = 3


@contextlib.contextmanager
def frozen(process):
    """Meanwhile it does not run at all, though its sockets are open."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def trace_time(text):
    """Seconds since the epoch, from 1764366418.396705 or, since QEMU 11, 2026-11-28T22:06:58.396705Z."""
    if "T" not in text:
        return float(text)
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def as_user(name, folder, command):
    """COMMAND, run as the user NAME (None: as root), who owns FOLDER and may use KVM. Who gives the guest's
    memory to a card must have the right to lock it."""
    if not name:
        return command
    account = pwd.getpwnam(name)
    for path in (folder, "/dev/kvm"):
        if os.path.exists(path):
            os.chown(path, account.pw_uid, account.pw_gid)
    return ["prlimit", "--memlock=unlimited", "setpriv", f"--reuid={name}", f"--regid={account.pw_gid}", "--clear-groups",
            *command]


class QemuVm:
    """NAME is the VM's name in the config. USER is who QEMU runs as (root if not said); PAUSED
    VMs are as far as `qemu -S` goes, which is enough for everything USB. With GUEST one runs in it, by KVM:
    `console` has what that says."""

    def __init__(self, name, user=None, paused=True, usb_ports=8, root_ports=2, arguments=(), guest=False):
        self.name, self.user, self.process, self.listen = name, user, None, None
        self.dir = RUN / name
        self.socket = self.dir / "qmp.sock"  # the one the broker is told of
        self.own_socket = self.dir / "test.sock"  # the stories' own monitor
        self.trace = self.dir / "trace.log"
        self.command = [
            "qemu-system-x86_64", *(["-S"] if paused and not guest else []), "-machine", "q35",
            *(["-accel", "kvm", "-cpu", "host"] if guest else ["-accel", "tcg"]), "-m", "64",
            "-nodefaults", "-display", "none",
            "-qmp", f"unix:{self.socket},server=on,wait=off", "-qmp", f"unix:{self.own_socket},server=on,wait=off",
            "-msg", "timestamp=on", "-trace", "handle_qmp_command", "-D", str(self.trace),
            "-device", f"qemu-xhci,id=xhci,p2={usb_ports},p3={usb_ports}"]
        for port in range(1, root_ports + 1):
            self.command += ["-device", f"pcie-root-port,id=rp{port},chassis={port},slot={port}"]
        self.command += arguments
        self.console = None
        if guest:
            self.console = small_guest.Console(self.dir / "serial.log")
            self.command += small_guest.qemu_arguments(self.dir)

    def dial(self, path):
        """Instead of listening, its monitor calls whoever listens at PATH, again and again. Before
        start()."""
        at = self.command.index("-qmp")
        self.command[at:at + 2] = ["-chardev", f"socket,id=broker,path={path},server=off,{qemu.dial_again()}",
                                   "-mon", "chardev=broker,mode=control"]
        self.listen = path
        return self

    def config(self, user=None):
        """Its section in the config."""
        who = user or self.user
        where = f"listen = {self.listen}" if self.listen else f"socket = {self.socket}"
        return f"[vm {self.name}]\ntype = qemu\n{where}\n" + (f"user = {who}\n" if who else "")

    def start(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        if self.console:
            small_guest.load_kvm()
            small_guest.make(self.dir)
        for _ in range(STARTS):
            self._launch()
            if not self.console or self._guest_comes():
                return self
            self.kill9()
        raise Failed(f"{self.name}: its guest has hung {STARTS} times")

    def _launch(self):
        # Left by one that was killed; the broker's may stay, as in life.
        self.own_socket.unlink(missing_ok=True)
        identity = {}
        if self.user:
            account = pwd.getpwnam(self.user)
            os.chown(self.dir, account.pw_uid, account.pw_gid)
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with (self.dir / "qemu.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            **identity)
        wait_until(self._answers, 120, lambda: f"{self.name} is up; it said: {self.log()[-1000:]}")

    def _guest_comes(self):
        """Whether it does; not, where it is lost (STARTS)."""
        try:
            self.console.wait_ready()
            return True
        except Failed as error:
            runs, state = self._look_at_guest()
            if not runs or self.console.text():
                raise Failed(f"{error}; {state}") from None
        print(f"note: the guest of {self.name} has hung without a word, {state}: it is started again", flush=True)
        return False

    def _look_at_guest(self):
        """Whether QEMU runs it, and in words what can be seen of it: where its processor is, three times."""
        if self.process.poll() is not None:
            return False, f"QEMU has ended with {self.process.returncode}; it said: {self.log()[-1000:]}"
        with self.monitor() as monitor:
            status = monitor.command("query-status")["status"]
            seen = []
            for _ in range(3):
                seen += re.findall(r"[ER]IP=.*\S", monitor.hmp("info registers"))
                time.sleep(1)
            return status == "running", f"{status} at {', '.join(seen)}"

    def _answers(self):
        # The socket is there a moment before QEMU listens on it.
        with contextlib.suppress(ConnectionRefusedError), self.monitor() as monitor:
            return monitor.command("query-status")

    def kill9(self):
        """The VMM dies without a word."""
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self):
        """The VMM is told to quit, and does."""
        if self.process:
            self.process.terminate()
            self.process.wait(timeout=60)
            self.process = None

    @contextlib.contextmanager
    def monitor(self):
        """A short session on the stories' own monitor."""
        session = qmp.connect(self.own_socket)
        try:
            yield session.greet(60)
        finally:
            session.close()

    def frozen(self):
        return frozen(self.process)

    @contextlib.contextmanager
    def hold_monitor(self):
        """Somebody else sits on the monitor that the broker needs; it serves one client at a time."""
        session = qmp.connect(self.socket)
        try:
            yield session.greet(60)
        finally:
            session.close()

    def peripherals(self):
        """What is plugged into the VM by name: id → driver."""
        with self.monitor() as monitor:
            entries = monitor.command("qom-list", path="/machine/peripheral")
        found = {entry["name"]: re.fullmatch(r"child<(.*)>", entry["type"]) for entry in entries}
        return {name: match[1] for name, match in found.items() if match}

    def host_ids(self, device=None):
        """The ids of everything that vhotplug gave it; of DEVICE only, if one is given."""
        start = f"vhp-{device.name.replace(':', '.')}-" if device else "vhp-"
        return sorted(name for name in self.peripherals() if name.startswith(start))

    def reset(self):
        """As if its reset button were pressed."""
        with self.monitor() as monitor:
            monitor.command("system_reset", seconds=60)

    def let_go(self):
        """What a guest does that is asked to let go of cards, by the registers that its ACPI code has for it (QEMU,
        docs/specs/acpi_pci_hotplug): of each bus it reads what is to go, and ejects that. A reset does so too, but
        QEMU 10.0 may abort when it lets go of two (resettable_container_child_foreach)."""
        with self.monitor() as monitor:
            for bus in range(BUSES):
                monitor.hmp(f"o /xw {ACPI_PCIHP + 0x10:#x} {bus}")
                asked = int(monitor.hmp(f"i /xw {ACPI_PCIHP + 4:#x}").split("=")[1], 16)
                if asked:
                    monitor.hmp(f"o /xw {ACPI_PCIHP + 8:#x} {asked}")

    @contextlib.contextmanager
    def letting_go(self):
        """Meanwhile, though nobody runs in its guest, that lets go of what it is asked for."""
        end = threading.Event()

        def work():
            while not end.wait(0.5):
                self.let_go()
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def usb_ids(self, device=None):
        """The ids of the host devices it has; of DEVICE only, if one is given."""
        start = f"vhp-{device.name}-" if device else ""
        return sorted(name for name, driver in self.peripherals().items()
                      if driver == "usb-host" and name.startswith(start))

    def holds(self, device):
        """Whether of all that was ever plugged into DEVICE's port it has this instance, and no other."""
        return self.usb_ids(device) == [f"vhp-{device.name}-{device.inode}"]

    def fdsets(self):
        with self.monitor() as monitor:
            return monitor.command("query-fdsets")

    def descriptors(self, target):
        """How many of the process's descriptors are open on something whose path has TARGET."""
        count = 0
        for path in pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                count += target in os.readlink(path)
        return count

    def commands(self, word):
        """What QEMU was told that contains WORD: [(seconds since the epoch, the request)]. From
        QEMU's own trace, so it is when QEMU had understood it."""
        found = []
        for line in self.trace.read_text(errors="replace").splitlines():
            match = re.match(r"(?:\d+@)?(\S+?)[: ]handle_qmp_command \S+ \S+ req: (.*)", line)
            if match and word in match[2]:
                found.append((trace_time(match[1]), match[2]))
        return found

    def log(self):
        """What it said, and what others than the stories told it to do."""
        lines = []
        for path in (self.dir / "qemu.log", self.trace):
            if path.exists():
                lines += path.read_text(errors="replace").splitlines()
        questions = ('"id": "t', '"qom-', '"qmp_capabilities"')
        return "\n".join(line for line in lines if not any(word in line for word in questions))
