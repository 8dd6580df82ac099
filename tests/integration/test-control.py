#!/usr/bin/python3
"""The control sockets and vhotplugctl, with the broker as a program and two stand-ins for crosvm (tests/doubles)
that take what they are given. The one device is that of world.py.

Usage: test-control.py VHOTPLUG_BROKER VHOTPLUGCTL [TEST…]   (the built programs; run as root)
"""

import contextlib
import grp
import json
import os
import pathlib
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sqlite3
import sys
import time

import world as base
from world import PATIENCE, check, takes_long, wait_for

HERE = pathlib.Path(__file__).resolve().parent

# The stand-in for crosvm, which here takes a node without descriptors for a mouse's.
CROSVM = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import crosvm_server
crosvm_server.read_device = lambda fd: crosvm_server.Device(fd, 0x46d, 0xc52b, False)
crosvm_server.main()
"""


class Vm:
    def __init__(self, world, name):
        self.socket = world.path / f"{name}.sock"
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()
        self.process = subprocess.Popen(["/usr/bin/python3", "-BS", "-c", CROSVM, HERE.parent / "doubles",
                                         self.socket], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        world.processes.append(self.process)
        self.process.stdout.readline()  # it is there

    def tell(self, line="state"):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def has_device(self):
        return bool(self.tell().get("ports"))

    def end(self):
        self.process.kill()
        self.process.wait()


class World(base.World):
    def __init__(self, program):
        super().__init__(program)
        self.control = self.path / "runtime" / "control.sock"
        self.api = self.path / "api.sock"
        self.env_path = str(pathlib.Path(program).parent)

    def write_config(self, *vms, extra="", choose="first", group="", tag="t"):
        text = "".join(f"[vm {vm}]\ntype = crosvm\ndelay = 0\nsocket = {self.path}/{vm}.sock\n" for vm in vms)
        self.config.write_text(
            f"{extra}[api]\ntransports = unix\nunixSocket = {self.path}/api.sock\n{text}"
            f"[usb g]\nallowedVms = {', '.join(vms)}\nchoose = {choose}\n{group}tag = {tag}\n"
            f"[allow r]\nvendorId = 046d\n")

    def event(self, action="add", vms="vm1,vm2", serial="S1"):
        """What the helper sends; returns the broker's answer."""
        self.seqnum += 1
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        fields = ["VHOTPLUG=1", f"ACTION={action}", f"DEVPATH={base.DEVICE}", f"SEQNUM={self.seqnum}",
                  f"BOOT_ID={boot}", f"SYSFS_INODE={os.stat('/sys' + base.DEVICE).st_ino}",
                  "SUBSYSTEM=usb", "DEVTYPE=usb_device", f"DEVNAME={base.NODE}", "PRODUCT=46d/c52b/1",
                  "VHOTPLUG_RULE=usb/g/r", f"VHOTPLUG_VM={vms}", f"ID_SERIAL_SHORT={serial}",
                  "ID_VENDOR=Maker", "ID_MODEL=Product", "ID_USB_INTERFACES=:030101:"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            client.settimeout(PATIENCE)
            client.connect(str(self.event_socket))
            client.send(b"".join(field.encode() + b"\0" for field in fields))
            return client.recv(1)

    def state_is(self, *wanted):
        return bool(wait_for(lambda: self.assignment()[:len(wanted)] == wanted))


def ctl(world, *arguments, user=None):
    return subprocess.run([CTL, "--socket", str(world.control), *arguments], capture_output=True, text=True,
                          check=False, timeout=60, user=user, group="nogroup" if user else None,
                          extra_groups=[] if user else None)


class Client:
    """One connection; whatever is given goes out as it is."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.settimeout(PATIENCE)
        self.file = self.socket.makefile("r")

    def ask(self, **request):
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(self.file.readline())

    def event(self):
        return json.loads(self.file.readline())

    def close(self):
        self.file.close()
        self.socket.close()


@contextlib.contextmanager
def running(world, *vms, plugged=True):
    machines = [Vm(world, vm) for vm in vms]
    broker = base.Broker(world).ready()
    for vm in vms:
        broker.says(f"{vm}: up")
    if plugged:
        world.event()
    yield (broker, *machines)
    if broker.process.poll() is None:
        check(broker.end() == 0, "the end")
    for vm in machines:
        vm.end()


# Tests


def test_list_and_status(world):
    with running(world, "vm1", "vm2"):
        check(world.state_is("attached", "vm1"), "attached to the first VM")
        out = ctl(world, "list").stdout
        check(re.search(r"^null +046d:c52b +vm1 +attached +.*Maker Product$", out, re.M), f"list: {out!r}")
        check(max(map(len, out.splitlines())) <= 80, "in 80 columns")
        listed = json.loads(ctl(world, "list", "--json").stdout)[0]
        check(listed["vms"] == ["vm1", "vm2"] and listed["tag"] == "t" and listed["serial"] == "S1", "as JSON")
        check(re.match(r"20..-..-..T..:..:..\.\d{3}Z$", listed["since"]), "times are ISO 8601")
        check("null" in ctl(world, "list", "--tag", "t").stdout, "by tag")
        check("null" not in ctl(world, "list", "--tag", "u").stdout, "not by another tag")
        check("null" not in ctl(world, "list", "--vm", "vm2").stdout, "not of another VM")
        status = ctl(world, "status").stdout
        check(re.search(r"^vm1 +crosvm +up +1$", status, re.M), f"status: {status!r}")
        history = json.loads(ctl(world, "history", "--json").stdout)
        check([row["action"] for row in history] == ["attach"], "history")
        check("attach" in ctl(world, "history", "--device", "Maker", "--since", "1h").stdout, "of one device")
        check("attach" not in ctl(world, "history", "--vm", "vm2").stdout, "and not of another VM")
        check(ctl(world, "history", "--since", "yesterday").returncode == 2, "a time that is none: 2")


def test_rule_and_explain(world):
    with running(world, "vm1", "vm2"):
        check(world.state_is("attached", "vm1"), "attached")
        rule = ctl(world, "rule", "Maker").stdout
        check(rule == "[usb Maker Product]\ntargetVm = vm1\n\n[allow Maker Product]\n"
              "vendorId = 046d\nproductId = c52b\nserial = S1\n", f"rule: {rule!r}")
        check("targetVm = vm2" in ctl(world, "rule", "Maker", "--vm", "vm2").stdout, "for another VM")
        ctl(world, "detach", "null")
        out = ctl(world, "explain", "null").stdout
        check("by the rule usb/g/r" in out and "vhotplugctl attach null" in out and "user" in out,
              f"explain: {out!r}")


def test_choose(world):
    world.write_config("vm1", "vm2", choose="ask")
    with running(world, "vm1", "vm2", plugged=False) as (broker, vm1, vm2):
        listener = Client(world.api)
        listener.ask(action="enable_notifications")
        world.event()
        check(world.state_is("choose"), "nobody has chosen")
        check(listener.event()["event"] == "usb_connected", "usb_connected")
        event = listener.event()
        check(event["event"] == "usb_select_vm" and event["allowed_vms"] == ["vm1", "vm2"], "usb_select_vm")
        listener.close()
        result = ctl(world, "select", "046d:c52b", "vm2")
        check(result.returncode == 0 and vm2.has_device(), f"select: {result.stderr}")
        result = ctl(world, "select", "046d:c52b", "vm3")
        check(result.returncode == 1 and "vm1,vm2" in result.stderr, "a VM that is none of its own is refused")
        check(world.state_is("attached", "vm2"), "and nothing has changed")
        check(ctl(world, "select", "Maker", "vm1").returncode == 0 and vm1.has_device() and not vm2.has_device(),
              "another choice moves it")
        broker.end()
        # A new boot: the instance is another one.
        with contextlib.closing(sqlite3.connect(world.database)) as db:
            db.execute("delete from device")
            db.commit()
        vm1.end()
        broker = base.Broker(world).ready()
        world.event()
        check(world.state_is("waiting", "vm1"), "the choice is remembered, though vm1 is down")
        vm1 = Vm(world, "vm1")
        check(world.state_is("attached", "vm1"), "and goes there")
        world.write_config("vm1", "vm2", choose="ask", extra="[general]\npersistency = no\n")
        broker.end()
        with contextlib.closing(sqlite3.connect(world.database)) as db:
            db.execute("delete from device")
            db.commit()
        broker = base.Broker(world).ready()
        world.event()
        check(world.state_is("choose"), "persistency = no forgets it")
        broker.end()
        vm1.end()


def test_detach(world):
    with running(world, "vm1", "vm2") as (broker, vm1, vm2):
        check(world.state_is("attached", "vm1"), "attached")
        check(ctl(world, "detach", "null").returncode == 0 and not vm1.has_device(), "detach")
        check(world.state_is("detached"), "the state says so")
        check("vhotplugctl attach" in world.assignment()[2], "and what to do")
        vm1.end()
        vm1 = Vm(world, "vm1")
        broker.says("vm1: up")
        world.event()
        check(world.state_is("detached"), "its VM's restart and its event change nothing")
        broker.end()
        broker = base.Broker(world).ready()
        world.event()
        check(world.state_is("detached"), "nor does the broker's")
        check(ctl(world, "attach", "null").returncode == 0 and vm1.has_device(), "attach")
        check(ctl(world, "detach", "null", "--until-replug").returncode == 0, "until it is plugged in again")
        check(not world.query("select 1 from choice where detached"), "is not remembered")
        check(world.state_is("detached"), "but holds")
        check(ctl(world, "attach", "null", "--vm", "vm2").returncode == 0 and vm2.has_device(), "into another VM")
        result = ctl(world, "attach", "no such thing")
        check(result.returncode == 4 and "no such thing" in result.stderr, "who is not there: 4")
        vm2.end()
        result = ctl(world, "attach", "null", "--vm", "vm2")
        check(result.returncode == 1 and "vm2" in result.stderr, f"a VM that does not run: {result.stderr!r}")
        broker.end()
        vm1.end()


def test_suspend(world):
    with running(world, "vm1", "vm2") as (broker, vm1, _):
        check(world.state_is("attached", "vm1"), "attached")
        check(ctl(world, "suspend", "--vm", "vm2").returncode == 0 and vm1.has_device(), "another VM")
        check(ctl(world, "suspend", "--vm", "vm9").returncode == 1, "no such VM")
        check(ctl(world, "suspend").returncode == 0 and not vm1.has_device(), "suspend waits until it is out")
        check(world.state_is("suspended", "vm1"), "the state says so")
        broker.end(signal.SIGKILL)
        broker = base.Broker(world).ready()
        check(world.state_is("suspended", "vm1"), "a broker that was killed knows")
        check(ctl(world, "resume").returncode == 0 and vm1.has_device(), "resume waits until it is back")
        world.write_config("vm1", "vm2", group="skipOnSuspend = yes\n")
        good = world.config.read_text()
        world.config.write_text(good + "[vm]\n")
        result = ctl(world, "reload")
        check(result.returncode == 1 and f"{world.config} has mistakes" in result.stderr, f"mistakes: {result.stderr!r}")
        world.config.write_text(good)
        check(ctl(world, "reload").returncode == 0, "reload")
        check(ctl(world, "suspend").returncode == 0 and vm1.has_device(), "skipOnSuspend: it stays")
        world.write_config("vm1", "vm2")
        ctl(world, "reload")
        check(ctl(world, "suspend").returncode == 0 and not vm1.has_device(), "suspended again")
        vm1.end()
        vm1 = Vm(world, "vm1")
        check(world.state_is("attached", "vm2"), "its VM ends while it is suspended: the next one gets it")
        broker.end()
        vm1.end()


def test_vhotplug_clients(world):
    with running(world, "vm1", "vm2") as (_, vm1, vm2):
        check(world.state_is("attached", "vm1"), "attached")
        client, listener = Client(world.api), Client(world.api)
        check(listener.ask(action="enable_notifications") == {"result": "ok"}, "notifications")
        check(client.ask(action="usb_attach", tag="t") == {"result": "ok"}, "attach by tag what is attached")
        check(listener.event()["event"] == "usb_attached", "is told again")
        check(client.ask(action="usb_detach", tag="t") == {"result": "ok"} and not vm1.has_device(), "detach")
        check(listener.event()["event"] == "usb_detached", "is told")
        answer = client.ask(action="usb_attach", device_node="/dev/bus/usb/001/099", vm="vm1")
        check(answer["error"] == "USB device /dev/bus/usb/001/099 not found in the system", "nobody there")
        check(client.ask(action="list")["result"] == "failed", "our own words are not understood there")
        check("id" not in client.ask(action="usb_list", id=7), "nor are ids")
        client.close()
        listener.close()
        own = Client(world.control)
        check(own.ask(action="usb_list", id=7)["id"] == 7, "on our own socket both are")
        check("allowed" in own.ask(action="list", colour="red")["error"], "a member that is none: what is allowed")
        check("needs" in own.ask(action="attach")["error"], "one that is missing")
        own.close()


@takes_long
def test_on_demand(world):
    """A broker on demand that has [api] stays: when it has ended, nobody listens there."""
    broker = base.Broker(world, arguments=("-d", "--exit-when-idle")).ready()
    check(broker.stays() and is_served(socket.AF_UNIX, str(world.api)), "with [api] it stays")
    base.World.write_config(world, "vm1")
    check(ctl(world, "reload").returncode == 0 and broker.process.wait(PATIENCE) == 0, "without, it ends")


@takes_long
def test_on_demand_without_persistency(world):
    """What is taken out by hand would be back as soon as the next broker starts."""
    world.write_config("vm1", extra="[general]\npersistency = no\n")
    world.config.write_text(re.sub(r"\[api\]\n.*?\n(?=\[)", "", world.config.read_text(), flags=re.S))
    broker = base.Broker(world, arguments=("-d", "--exit-when-idle")).ready()
    world.event(vms="vm1")
    check(ctl(world, "detach", "null").returncode == 0 and world.state_is("detached"), "detached")
    check(broker.stays(), "for that it stays")
    check("vm1 is not running" in ctl(world, "attach", "null").stderr and broker.process.wait(PATIENCE) == 0,
          "no longer than that")


def free_port(family, host):
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def ask_over(family, address, **request):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(PATIENCE)
        client.connect(address)
        client.sendall(json.dumps(request).encode() + b"\n")
        return json.loads(client.makefile().readline())


def is_served(family, address):
    with contextlib.suppress(OSError):
        return ask_over(family, address, action="usb_list")["result"] == "ok"


def listen_on(world, broker, **keys):
    """The [api] section has these keys from now on."""
    text = re.sub(r"\[api\]\n.*?\n(?=\[)", "[api]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items()),
                  world.config.read_text(), flags=re.S)
    world.config.write_text(text)
    broker.forget()
    broker.process.send_signal(signal.SIGHUP)
    check(broker.says("read again"), f"the config says {keys}")


def page_asks(port):
    """What fetch() of a page sends; returns what comes back."""
    body = b'{"action":"usb_detach","tag":"t"}\n'
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as browser:
        browser.sendall(b"POST / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: keep-alive\r\nContent-Length: %d\r\n"
                        b"Content-Type: text/plain;charset=UTF-8\r\nOrigin: http://a.example\r\n\r\n" % (port, len(body)) + body)
        try:
            return browser.recv(4096)
        except ConnectionResetError:  # it has not read all
            return b""


def test_tcp(world):
    with running(world, "vm1", "vm2") as (broker, vm1, _):
        check(world.state_is("attached", "vm1"), "attached")
        for family, host, warns in ((socket.AF_INET, "127.0.0.1", False), (socket.AF_INET6, "::1", False),
                                    (socket.AF_INET, "0.0.0.0", True)):
            try:
                port = free_port(family, host)
            except OSError as error:
                print(f"note: {host}: {error}")
                continue
            listen_on(world, broker, transports="tcp", host=host, port=port)
            address = ("127.0.0.1" if warns else host, port)
            check(wait_for(lambda: is_served(family, address)), f"served on {host}")
            check(bool(broker.says("whoever reaches it may attach", 0)) == warns, f"a warning: {warns}")
            check(ask_over(family, address, action="usb_detach", tag="t") == {"result": "ok"} and not vm1.has_device(),
                  "it may change things")
            check(ask_over(family, address, action="usb_attach", tag="t") == {"result": "ok"} and vm1.has_device(), "and back")
        check(page_asks(port) == b"" and vm1.has_device(), "a page in a browser may not")
        check(not world.api.exists(), "the unix socket has gone")


def test_sockets_that_can_not_be_made_yet(world):
    """At the host's start the broker comes early: before an interface has its address, before others have made a
    directory, before a program that it takes the place of has ended."""
    with socket.socket() as other, running(world, "vm1", "vm2", plugged=False) as (broker, *_):
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        path = world.path / "later" / "api.sock"
        listen_on(world, broker, transports="unix, tcp", unixSocket=path, port=other.getsockname()[1])
        check(broker.says("later/api.sock yet: No such file or directory"), "there is no such directory")
        check(broker.says("yet: Address already in use"), "nor is the port free")
        address = other.getsockname()
        other.close()
        check(wait_for(lambda: is_served(socket.AF_INET, address)), "when it is free, it is listened on")
        path.parent.mkdir()
        check(wait_for(lambda: is_served(socket.AF_UNIX, str(path))), "when the directory is there, too")
        shutil.rmtree(path.parent)
        listen_on(world, broker, transports="tcp", host="192.0.2.1", port=address[1])  # documentation's: nobody's
        check(broker.says("192.0.2.1, TCP port .* yet: Cannot assign"), "an address that no interface has")


def test_sockets_are_made_again(world):
    with running(world, "vm1", "vm2", plugged=False) as (broker, *_):
        for path in (world.control, world.api):
            before = path.stat()
            path.unlink()
            check(wait_for(lambda: is_served(socket.AF_UNIX, str(path))), f"{path.name} is removed and made again")
            check((path.stat().st_mode, path.stat().st_gid) == (before.st_mode, before.st_gid), "for whom it was")
        shutil.rmtree(world.control.parent, ignore_errors=True)
        check(wait_for(lambda: is_served(socket.AF_UNIX, str(world.control))), "so is the whole directory")
        other = socket.socket(socket.AF_UNIX)
        world.api.unlink()
        other.bind(str(world.api))
        other.listen()
        check(broker.says("api.sock: Address already in use"), "somebody else listens there")
        other.close()
        check(wait_for(lambda: is_served(socket.AF_UNIX, str(world.api))), "until he goes")


def test_vsock(world):
    """The host itself is a client here, where the kernel has a loopback for it; the emulated host has one."""
    with running(world, "vm1", "vm2") as (broker, *_):
        def error_of_bind():
            try:
                with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as probe:
                    probe.bind((socket.VMADDR_CID_ANY, port))
            except OSError as error:
                return error
            return None
        port = random.randrange(20000, 40000)  # others run this test, too
        if (error := error_of_bind()):
            print(f"note: no vsock here: {error}")
            return
        listen_on(world, broker, transports="vsock", port=port, allowedCids=1)
        check(wait_for(error_of_bind), "it listens")
        if pathlib.Path("/sys/module/vsock_loopback").exists():
            check(wait_for(lambda: is_served(socket.AF_VSOCK, (1, port))), "served")
        else:
            print("note: no vsock_loopback here: nobody can connect")


def test_schema(world):
    """conf/control.schema.json says what the broker says."""
    wrong = {"string": 7, "integer": "x", "boolean": 7}
    schema = json.loads((HERE.parents[1] / "conf/control.schema.json").read_text())
    with running(world, "vm1", "vm2", plugged=False):
        client = Client(world.control)
        for entry in schema["oneOf"]:
            members = {name: value.get("type") for name, value in entry["properties"].items()
                       if name not in ("action", "id")}
            action = entry["properties"]["action"]["const"]
            needed = [name for name in entry["required"] if name != "action"]
            good = {"action": action, **{name: "x" for name in needed}}
            error = client.ask(**good, colour="red").get("error", "")
            allowed = re.search(r'"id": (.*)', error)[1]
            ours = ", ".join(f"{name} ({kind})" for name, kind in members.items()) or "none"
            check(allowed == ours, f"{action}: {ours}")
            for name in needed:
                answer = client.ask(**{key: value for key, value in good.items() if key != name})
                check(f'needs "{name}"' in answer["error"], f"{action} needs {name}")
            for name, kind in members.items():
                answer = client.ask(**{**good, name: wrong[kind]})
                check(f"must be: {kind}" in answer.get("error", ""), f"{action}: {name} is a {kind}")
        client.close()


def test_permission(world):
    with running(world, "vm1", "vm2") as (broker, vm1, _):
        check(world.state_is("attached", "vm1"), "attached")
        check("null" in ctl(world, "list", user="nobody").stdout, "anybody may look")
        result = ctl(world, "detach", "null", user="nobody")
        check(result.returncode == 5 and "controlGroup" in result.stderr, f"not change: {result.stderr!r}")
        check(vm1.has_device(), "and nothing has happened")
        check(ctl(world, "reload", user="nobody").returncode == 5, "not even reload")
        for name, verb in (("nogroup", "detach"), (str(grp.getgrnam("nogroup").gr_gid), "attach")):
            world.write_config("vm1", "vm2", extra=f"[general]\ncontrolGroup = {name}\n")
            broker.forget()
            broker.process.send_signal(signal.SIGHUP)
            broker.says("read again")
            check(ctl(world, verb, "null", user="nobody").returncode == 0, f"but a member of {name} may")
        failed = False
        try:
            os.seteuid(65534)
            Client(world.api)
        except PermissionError:
            failed = True
        finally:
            os.seteuid(0)
        check(failed, "the other socket is closed to everybody else")


def nobody_connects(path):
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    return subprocess.run(["/usr/bin/python3", "-BSc", script, path], user="nobody", group="nogroup", extra_groups=[],
                          stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_owner_of_the_other_socket(world):
    """By name and by number; where it lies by default only who may open it has a use for the way there."""
    path = world.database.parent / "vhotplug.sock"
    user, group = pwd.getpwnam("nobody").pw_uid, grp.getgrnam("nogroup").gr_gid
    with running(world, "vm1", "vm2", plugged=False) as (broker, *_):
        for key, value, may in (("unixSocketUser", "nobody", True), ("unixSocketUser", user, True),
                                ("unixSocketGroup", "nogroup", True), ("unixSocketGroup", group, True),
                                ("unixSocketGroup", "daemon", False)):
            listen_on(world, broker, transports="unix", unixSocket=path, **{key: value})
            check(wait_for(lambda: is_served(socket.AF_UNIX, str(path))), "root is served")
            check(nobody_connects(path) == may, f"nobody:nogroup may connect: {may}")


def test_group_of_the_history(world):
    """The config's "group" reads the copy of the database, and asks for the history: nobody else."""
    for group, may_read in (("daemon", False), ("nogroup", True)):
        world.write_config("vm1", "vm2", extra=f"[general]\ngroup = {group}\n")
        with running(world, "vm1", "vm2") as (broker, *_):
            check(world.state_is("attached", "vm1"), f"group = {group}")
            result = ctl(world, "history", user="nobody")
            check(result.returncode == (0 if may_read else 5) and ("attach" in result.stdout) == may_read,
                  f"a member of nogroup may ask for the history: {may_read}")
            check("attach" in ctl(world, "history").stdout, "root always")
            check("null" in ctl(world, "list", user="nobody").stdout, "anybody may list")
            result = ctl(world, "--json", "explain", "null", user="nobody")
            check(result.returncode == 0 and bool(json.loads(result.stdout)["history"]) == may_read,
                  "and is told why, without the history where that is not his")
            broker.end()


def test_group_at_reload(world):
    """It may come, and go, while the broker runs."""
    nogroup = grp.getgrnam("nogroup").gr_gid

    def is_for(group):
        mode = 0o640 if group else 0o644
        copy, directory = world.public_copy.stat(), world.database.parent.stat()
        wanted = nogroup if group == str(nogroup) else grp.getgrnam(group or "adm").gr_gid
        return copy.st_mode & 0o777 == mode and directory.st_gid == wanted and (not group or copy.st_gid == wanted)
    with running(world, "vm1", "vm2") as (broker, *_):
        check(world.state_is("attached"), "attached")
        for group, may_read in (("", True), ("daemon", False), ("nogroup", True), (str(nogroup), True), ("", True)):
            world.write_config("vm1", "vm2", extra=f"[general]\ngroup = {group}\n" if group else "")
            check(ctl(world, "reload").returncode == 0, f"group = {group}")
            check(wait_for(lambda: world.public_copy.exists() and is_for(group)), "the copy is for it, or for everybody")
            result = ctl(world, "history", user="nobody")
            check(result.returncode == (0 if may_read else 5), f"a member of nogroup may ask for the history: {may_read}")
            if group == "daemon":  # also the next copy, for which something must have changed
                world.public_copy.unlink()
                ctl(world, "detach", "null")
                check(wait_for(lambda: world.public_copy.exists() and is_for(group)), "and so is the next one")
        broker.end()


@takes_long
def test_clients_that_do_not_read(world):
    with running(world, "vm1", "vm2") as (broker, *_):
        world.state_is("attached", "vm1")
        lazy = Client(world.control)
        lazy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.socket.settimeout(1)
        with contextlib.suppress(OSError):
            while True:
                lazy.socket.sendall(b'{"action": "list"}\n' * 100)
        check(ctl(world, "list").returncode == 0, "the others are served meanwhile")
        check(broker.says("does not read what it has asked for"), "it loses its connection")
        lazy.close()


def wakes_in_two_seconds(broker):
    status, counts = pathlib.Path(f"/proc/{broker.process.pid}/status"), []
    for pause in (2, 0):
        counts.append(int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.M)[1]))
        time.sleep(pause)
    return counts[1] - counts[0]


@takes_long
def test_many_clients(world):
    with running(world, "vm1", "vm2") as (broker, *_):
        world.state_is("attached", "vm1")
        clients = [Client(world.control) for _ in range(1000)]
        check(all(client.ask(action="list")["result"] == "ok" for client in clients), "1,000 clients are answered")
        # Once it has written the copy of its database, which it does within some seconds of a change.
        check(wait_for(lambda: wakes_in_two_seconds(broker) <= 2), "and cost nothing while they are idle")
        for client in clients:
            client.close()


def test_killed_before_the_answer(world):
    with running(world, "vm1", "vm2") as (broker, vm1, vm2):
        world.state_is("attached", "vm1")
        vm2.tell("hang")
        process = subprocess.Popen([CTL, "--socket", str(world.control), "select", "null", "vm2"],
                                   stderr=subprocess.PIPE, text=True)
        check(wait_for(lambda: world.query("select 1 from choice where vm = 'vm2'")), "the choice is on record")
        broker.end(signal.SIGKILL)
        check(process.wait(PATIENCE) == 3, "who has asked is told: 3")
        process.stderr.close()
        vm2.tell("go")
        broker = base.Broker(world).ready()
        check(world.state_is("attached", "vm2"), "and the next broker does it")
        check(vm2.has_device() and not vm1.has_device(), "once")
        broker.end()


def test_no_broker(world):
    result = ctl(world, "list")
    check(result.returncode == 3 and "does not run" in result.stderr, "no broker: 3")
    check(ctl(world, "lost").returncode == 2, "no such command: 2")
    check(ctl(world, "list", "--follow").returncode == 2, "no such option: 2")


if __name__ == "__main__":
    CTL = sys.argv[2]
    sys.exit(base.main(globals(), World, programs=2, needs=()))
