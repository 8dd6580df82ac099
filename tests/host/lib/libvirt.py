"""libvirt in the emulated host: its daemon, and domains that are VMs of the broker. They are started paused, without
a guest: that is enough for a device to come and go. Daemon and domains stay from story to story, since their starts
take a while here."""
import contextlib
import json
import os
import pathlib
import pwd
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import time
import xml.etree.ElementTree as ElementTree

from . import small_guest
from .broker import of_process
from .vm import RUN, frozen
from .wait import Failed, expect, wait_until

PROGRAM = shutil.which("libvirtd", path="/usr/sbin:/usr/bin")
PROGRAM_OF_OURS = "/usr/libexec/vhotplug/vhotplug-libvirt"
LOG = pathlib.Path("/run/test/libvirtd.log")
GUESTS = pathlib.Path("/run/guests")
QEMU_LOGS = pathlib.Path("/var/log/libvirt/qemu")
# Nothing here confines a QEMU; emulation is slow enough. Nor does libvirtd remember who a file belonged to: for that it
# does its work in a forked child, and since there are other threads, a lock of one of these may stay locked in there
# for ever (seen with 9.0: the child waits in g_strerror() of glib for what another thread had at the fork; libvirtd
# waits for the child, and everybody for the domain).
SETTINGS = {
    "libvirtd.conf": 'auth_unix_ro = "none"\nauth_unix_rw = "none"\nunix_sock_group = "root"\n',
    "qemu.conf": 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nstdio_handler = "file"\n'
                 "cgroup_controllers = []\nnamespaces = []\nremember_owner = 0\n"}
DOMAIN = """<domain type='{accel}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>{name}</name><memory unit='MiB'>{memory}</memory><vcpu>1</vcpu>{cpu}
<os><type arch='x86_64' machine='q35'>hvm</type>{boot}</os><features><acpi/></features>
<devices><emulator>{qemu}</emulator>
<controller type='usb' model='qemu-xhci' ports='8'/>
<controller type='pci' index='0' model='pcie-root'/>
<controller type='pci' index='1' model='pcie-root-port'/><controller type='pci' index='2' model='pcie-root-port'/>
<controller type='pci' index='3' model='pcie-root-port'/><controller type='pci' index='4' model='pcie-root-port'/>
<controller type='pci' index='5' model='pcie-root-port'/><controller type='pci' index='6' model='pcie-to-pci-bridge'/>
{devices}<memballoon model='none'/></devices>{rest}</domain>"""
PATIENCE = 300  # seconds; before its first domain it asks QEMU for all that this can do, in minutes


class Shell:
    """One virsh for all that is asked: to start one takes seconds in the emulated host."""

    def __init__(self):
        self.process, self.number, self.rest = None, 0, b""

    def ask(self, words):
        """The lines that virsh answers, its errors among them. Failed, and the end of libvirtd, where it does not."""
        if not self.process or self.process.poll() is not None:
            self.process = subprocess.Popen(["stdbuf", "-oL", "virsh", "-q", "-c", "qemu:///system"], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            self.rest = b""
        self.number += 1
        word, lines, end = f"end-{self.number}", [], time.monotonic() + PATIENCE
        try:
            self.process.stdin.write(f"{shlex.join(words)}\necho {word}\n\n".encode())
            self.process.stdin.flush()
            # It shows its prompt and our words, as on a terminal.
            while not (line := self._line(end)).startswith(word):
                if not line.startswith("virsh #"):
                    lines.append(line.strip())
        except (BrokenPipeError, EOFError):
            return [*lines, "error: virsh has ended"]
        except TimeoutError:
            self.process.kill()
            raise Failed(f"virsh {' '.join(words)}: no answer within {PATIENCE} s; {DAEMON.give_up()}") from None
        return lines

    def _line(self, end):
        """The next one, which comes before END."""
        while b"\n" not in self.rest:
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                raise TimeoutError
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise EOFError
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return line.decode(errors="replace")


SHELL = Shell()


def virsh(*words):
    """What virsh says, or Failed."""
    lines = SHELL.ask(words)
    errors = [line for line in lines if line.startswith("error: ")]
    if errors:
        raise Failed(f"virsh {' '.join(words)}: {'; '.join(errors)}")
    return "\n".join(lines)


def refusal(*words):
    """What virsh says against it."""
    try:
        said = virsh(*words)
    except Failed as error:
        return str(error)
    raise Failed(f"virsh {' '.join(words)} is refused; it says '{said}'")


def _prepare(settings):
    folder = pathlib.Path("/etc/libvirt")
    folder.mkdir(exist_ok=True)
    for name, text in {**SETTINGS, **settings}.items():
        (folder / name).write_text(text)
    try:
        pwd.getpwnam("libvirt-qemu")  # libvirt looks for it, whatever the settings say
    except KeyError:
        subprocess.run(["useradd", "--system", "--user-group", "--groups", "kvm", "libvirt-qemu"], check=True)


class Daemon:
    def __init__(self):
        self.process, self.settings = None, {}

    def start(self):
        """Starts it if it does not run; returns when it answers."""
        if self.process and self.process.poll() is None:
            return self
        _prepare(self.settings)
        with LOG.open("ab") as log:
            self.process = subprocess.Popen([PROGRAM], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self.answers, PATIENCE, lambda: f"libvirtd answers; it says {self.log()}")
        return self

    def answers(self):
        with contextlib.suppress(Failed):
            virsh("list")
            return True
        return False

    def kill9(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def give_up(self):
        """It is killed, with all that it has started but its domains. Says what these waited for in the kernel."""
        said = [f"libvirtd has ended with {self.process.returncode}"] if self.process.poll() is not None else []
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        for pid in [str(self.process.pid), *children]:
            for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
                said.append(f"{pid} {of_process(pid, f'task/{task.name}/comm').strip()}: "
                            f"{of_process(pid, f'task/{task.name}/wchan')}")
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)
        self.kill9()
        return "\n".join(["libvirtd and its children:", *said])

    def stop(self):
        """It and its domains end: the stories to come have the host to themselves."""
        for domain in virsh("list", "--name").split():
            with contextlib.suppress(Failed):  # it may just end by itself
                virsh("destroy", domain)
        self.process.terminate()
        self.process.wait(timeout=PATIENCE)
        self.process = None

    def end(self):
        """The same, if it runs."""
        if self.process:
            self.start().stop()

    def frozen(self):
        return frozen(self.process)

    @staticmethod
    def log():
        return LOG.read_text(errors="replace")[-3000:] if LOG.exists() else ""


DAEMON = Daemon()


class OtherHost:
    """With-block: libvirtd of another host, as far as that goes on this one: it has its own name and files, and no USB
    device."""

    FOLDER = pathlib.Path("/run/other")
    URI = f"qemu+unix:///system?socket={FOLDER}/libvirt-sock"
    SCRIPT = ("hostname other; for folder in /run/libvirt /var/lib/libvirt /dev/bus/usb /sys/bus/usb/devices; do"
              ' mount -t tmpfs none $folder || exit; done; mount --bind "$1" /etc/libvirt; exec "$2" --pid-file "$1/pid"')

    def virsh(self, *words):
        done = subprocess.run(["virsh", "-c", self.URI, *words], capture_output=True, text=True)
        expect(done.returncode == 0, f"virsh {' '.join(words)} of the other host: {done.stderr}")
        return done.stdout

    def answers(self):
        expect(self.process.poll() is None, f"the other libvirtd runs; it says {self.log()}")
        with contextlib.suppress(Failed):
            return self.virsh("uri")

    def __enter__(self):
        settings = self.FOLDER / "etc"
        settings.mkdir(parents=True)
        own = f'unix_sock_dir = "{self.FOLDER}"\nhost_uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f"\n'
        for name, text in {**SETTINGS, "libvirtd.conf": SETTINGS["libvirtd.conf"] + own}.items():
            (settings / name).write_text(text)
        with (self.FOLDER / "log").open("wb") as log:
            self.process = subprocess.Popen(["unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c",
                                             self.SCRIPT, "sh", settings, PROGRAM], stdout=log, stderr=log)
        try:
            wait_until(self.answers, PATIENCE, lambda: f"the other libvirtd answers; it says {self.log()}")
        except Failed:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Failed):
            for domain in self.virsh("list", "--name").split():
                self.virsh("destroy", domain)
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.FOLDER)

    def log(self):
        return (self.FOLDER / "log").read_text(errors="replace")[-3000:]

    def fetch(self, domain):
        """DOMAIN moves there."""
        virsh("migrate", "--live", "--p2p", "--migrateuri", f"unix:{self.FOLDER}/migration", domain, self.URI)

    def xml(self, domain):
        return ElementTree.fromstring(self.virsh("dumpxml", domain))


class Domain:
    """NAME is the VM's name in the config, DOMAIN libvirt's."""

    def __init__(self, name, domain):
        self.name, self.domain = name, domain
        self.dir = RUN / name

    def config(self):
        """Its section in the config."""
        return f"[vm {self.name}]\ntype = libvirt\ndomain = {self.domain}\n"

    def state(self):
        """What virsh calls it; None if there is no such domain."""
        with contextlib.suppress(Failed):
            return virsh("domstate", self.domain)

    def define(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        if not self.state():
            path = self.dir / "domain.xml"
            path.write_text(DOMAIN.format(name=self.domain, qemu=shutil.which("qemu-system-x86_64"), **self.traits()))
            virsh("define", str(path))
        return self

    def traits(self):
        """What of its XML is its own."""
        return {"accel": "qemu", "memory": 64, "cpu": "", "boot": "", "devices": "", "rest": ""}

    def start(self):
        """It runs, as far as `virsh start --paused` goes."""
        if self.state() == "shut off":
            virsh("start", self.domain, "--paused")
        return self

    def destroy(self):
        virsh("destroy", self.domain)

    def reset(self):
        """As if its reset button were pressed."""
        virsh("reset", self.domain)

    def remove(self):
        """It is not even defined."""
        for word in ("destroy", "undefine"):
            with contextlib.suppress(Failed):
                virsh(word, self.domain)

    def kill9(self):
        """Between stories: it has nothing of theirs."""
        if not DAEMON.process:
            return  # stopped, and all domains with it
        DAEMON.start()
        if self.state() in (None, "shut off"):
            return
        with contextlib.suppress(Failed):
            for alias in self.xml().findall("devices/hostdev/alias"):
                virsh("detach-device-alias", self.domain, alias.get("name"), "--live")
            wait_until(lambda: self.xml().find("devices/hostdev") is None, 5, "it has let go")
            if not self.written():
                return
        self.destroy()

    def crash(self):
        """Its QEMU is killed."""
        os.kill(self.pid(), signal.SIGKILL)

    def pid(self):
        """Its QEMU's."""
        return int(pathlib.Path(f"/run/libvirt/qemu/{self.domain}.pid").read_text())

    def xml(self, *words):
        return ElementTree.fromstring(virsh("dumpxml", self.domain, *words))

    def written(self):
        """The aliases of host devices that libvirtd believes it has when it is started again."""
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            status = ElementTree.parse(f"/run/libvirt/qemu/{self.domain}.xml")
            return [alias.get("name") for alias in status.findall("domain/devices/hostdev/alias")]
        return []

    def aliases(self, device=None):
        """What vhotplug gave it, by the running domain's XML; of DEVICE only, if one is given."""
        name = device.name.replace(":", "_").replace(".", "_") if device else ""
        start = f"ua-vhp-{name}-" if device else "ua-vhp-"
        found = [alias.get("name") for alias in self.xml().findall("devices/*/alias")]
        return sorted(alias for alias in found if alias.startswith(start))

    def addresses(self):
        """The USB devices that it has, as (bus, device); not those that libvirt calls missing."""
        sources = self.xml().findall("devices/hostdev[@type='usb']/source")
        found = [source.find("address") for source in sources if source.get("missing") != "yes"]
        return sorted((int(address.get("bus")), int(address.get("device"))) for address in found)

    usb_ids = aliases

    def holds(self, device):
        """Whether of all that was ever plugged into DEVICE's port it has this instance, and no other."""
        if self.aliases(device) != [f"ua-vhp-{device.name.replace('.', '_')}-{device.inode}"]:
            return False
        where = (int(device.attribute("busnum")), int(device.attribute("devnum")))
        return self.addresses().count(where) == 1

    def expect_definition_untouched(self):
        expect(self.xml("--inactive").find("devices/hostdev") is None, "its definition is as it was")

    def log(self):
        path = QEMU_LOGS / f"{self.domain}.log"
        said = path.read_text(errors="replace")[-3000:] if path.exists() else ""
        return f"{said}\nlibvirtd:\n{DAEMON.log()}"


def ask_program(domain, **words):
    """Starts vhotplug-libvirt as the broker does, and returns its answer."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        ours.settimeout(PATIENCE)
        with subprocess.Popen([PROGRAM_OF_OURS, "qemu:///system", domain], pass_fds=(3,), close_fds=True,
                              preexec_fn=lambda: os.dup2(its.fileno(), 3)):
            its.close()
            ours.send(json.dumps({"id": 1, **words}).encode())
            answer = json.loads(ours.recv(65536))
            ours.close()
    return answer


class DiskDomain(Domain):
    """One with a disk that can have snapshots."""

    def traits(self):
        disk = self.dir / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "4M"], check=True)
        return {**super().traits(), "devices": "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/>"
                                               f"<source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"}

    def kill9(self):
        """Its disk goes with the story."""
        if DAEMON.process:
            self.remove()

    def remove(self):
        for name in virsh("snapshot-list", self.domain, "--name").split():
            virsh("snapshot-delete", self.domain, name)
        super().remove()


class GuestDomain(Domain):
    """One with a guest that runs and says what it sees. It goes on from story to story, too."""

    def __init__(self, name, domain):
        super().__init__(name, domain)
        self.folder = GUESTS / domain
        self.console = small_guest.Console(self.folder / "serial.log")

    def traits(self):
        small_guest.load_kvm()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.console.path.touch()
        self.console.path.chmod(0o666)  # its QEMU may be anybody
        return {**super().traits(), "accel": "kvm", "memory": 192, "cpu": "<cpu mode='host-passthrough'/>",
                "boot": f"<kernel>{small_guest.KERNEL}</kernel><initrd>{small_guest.make(self.folder)}</initrd>"
                        f"<cmdline>{small_guest.COMMAND_LINE}</cmdline>",
                "devices": f"<serial type='file'><source path='{self.console.path}'/></serial>"}

    def start(self):
        if self.state() == "shut off":
            virsh("start", self.domain)
            self.console.wait_ready()
        return self

    def log(self):
        return f"{super().log()}\nconsole:\n{self.console.text()[-2000:]}"


class MonitorDomain(GuestDomain):
    """One whose QEMU has a second monitor, COMMANDLINE in its XML, for a VM of type = qemu that is called NAME."""

    def __init__(self, name, domain, commandline):
        super().__init__(name, domain)
        self.commandline = commandline
        self.socket = self.dir / "qmp.sock"

    def traits(self):
        return {**super().traits(), "rest": self.commandline}

    def define(self):
        self.dir.mkdir(parents=True, exist_ok=True)
        shutil.chown(self.dir, "libvirt-qemu", "libvirt-qemu")
        return super().define()

    def config(self):
        return f"[vm {self.name}]\ntype = qemu\nsocket = {self.socket}\nuser = libvirt-qemu\n"

    def usb_ids(self, device=None):
        """What its QEMU has of ours, of DEVICE only, if one is given."""
        start = f"vhp-{device.name}-" if device else "vhp-"
        said = virsh("qemu-monitor-command", self.domain, "--hmp", "info qtree")
        return sorted(name for name in re.findall(r'id "(vhp-[^"]*)"', said) if name.startswith(start))

    def holds(self, device):
        return self.usb_ids(device) == [f"vhp-{device.name}-{device.inode}"]

    def kill9(self):
        """Nobody else uses it."""
        if DAEMON.process:
            self.remove()
