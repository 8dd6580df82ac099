#!/usr/bin/python3
"""The broker as a program, with real QEMUs that never run (-S); see world.py for the scene.

Usage: test-broker.py VHOTPLUG_BROKER [TEST…]   (the built program; run as root)
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time

from world import (DEVICE, NODE, PATIENCE, QEMU, Broker, Monitor, Vm, World, as_nobody, check, main,
                   make_node, takes_long, wait_for)

def test_config_mistakes(world):
    world.config.write_text("[vm vm1]\ntype = qemu\nsocket = relative\ncolour = red\n")
    broker = Broker(world)
    check(broker.process.wait(PATIENCE) == 1, "a config with mistakes: exit status 1")
    check(f"{world.config}:3:" in broker.log() and f"{world.config}:4:" in broker.log(),
          "each mistake is named by file and line")
    check(not world.event_socket.exists() and not world.database.exists(), "nothing was begun")
    world.config.unlink()
    broker = Broker(world)
    check(broker.process.wait(PATIENCE) == 1 and str(world.config) in broker.log(),
          "no config at all: exit status 1, and its path")
    world.write_config("vm1")
    result = subprocess.run([world.program, "--nonsense"], capture_output=True, check=False)
    check(result.returncode == 2, "a wrong option: exit status 2")
    result = subprocess.run([world.program, "-c", str(world.config).rjust(300, "/")],
                            capture_output=True, check=False)
    check(result.returncode == 2 and b"the path of the config is too long" in result.stderr,
          "a path that is not taken whole: an error in words")


def test_readiness(world):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.settimeout(PATIENCE)
    listener.bind(str(world.path / "notify"))
    broker = Broker(world, {"NOTIFY_SOCKET": str(world.path / "notify")})
    check(listener.recv(100) == b"READY=1", "readiness is told")
    check(world.event_socket.stat().st_mode & 0o777 == 0o600, "and by then events are taken")
    check(world.event("remove") == b"T", "one is")
    check(broker.end() == 0, "SIGTERM: exit status 0")
    check(listener.recv(100) == b"STOPPING=1", "the end is told too")
    check(not world.event_socket.exists(), "the socket is gone")


def listen_for(world):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(world.event_socket))
    listener.listen(10)
    return listener


def start_by_socket(world, listener, *arguments):
    """LISTEN_PID is the broker's own pid: a shell that becomes it knows that."""
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"', world.program, *arguments],
        env=world.environment, preexec_fn=lambda: os.dup2(listener.fileno(), 3), pass_fds=(3, listener.fileno()),
        stderr=subprocess.DEVNULL)
    world.processes.append(process)
    return process


def test_socket_activation(world):
    listener = listen_for(world)
    process = start_by_socket(world, listener)
    check(world.event("remove") == b"T", "an event on a socket that was passed")
    process.terminate()
    check(process.wait(PATIENCE) == 0 and world.event_socket.exists(), "the socket stays")


def test_started_by_a_plug(world):
    """attachConnected = no: a plug that starts the broker is one, whoever starts it; what came before is held."""
    def states():
        sql = "select device, iif(reason like '%vm1 is not running%', 'for vm1', state) from assignments"
        return dict(world.query(sql))
    world.write_config("vm1", extra="[general]\nattachConnected = no\n")
    world.spool(device=make_node("zero"))
    listener = listen_for(world)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.settimeout(PATIENCE)
        client.connect(str(world.event_socket))
        client.send(world.message())
        process = start_by_socket(world, listener, "--exit-when-idle")
        check(client.recv(1) == b"T", "the event that the broker was started for is taken")
    wanted = {"zero": "held", "null": "for vm1"}
    check(wait_for(lambda: states() == wanted), f"by its socket: {states()} is {wanted}")
    process.terminate()
    process.wait(PATIENCE)
    listener.close()
    world.event_socket.unlink()
    world.spool(device=make_node("full"))
    broker = Broker(world, arguments=("-d", "--exit-when-idle")).ready()
    wanted["full"] = "for vm1"
    check(wait_for(lambda: states() == wanted), f"by mdev, which spools it: {states()} is {wanted}")
    broker.end()
    world.spool(device=make_node("random"))
    broker = Broker(world).ready()
    wanted["random"] = "held"
    check(wait_for(lambda: states() == wanted), f"one that stays is started for no event: {states()} is {wanted}")
    broker.end()


def test_spool_while_locked(world):
    """What is spooled is tried again and again, and changes nothing any more: another config may have come."""
    broker = Broker(world).ready()
    with contextlib.closing(sqlite3.connect(world.database, isolation_level=None)) as db:
        db.execute("begin immediate")
        world.spool(inode=1)
        acted = "null: add 1 is not about what is there now"
        check(broker.says(acted), "what can't be kept is acted upon")
        broker.forget()
        check(not broker.says(acted, 2), "once")
        db.execute("rollback")
    check(wait_for(lambda: world.query("select 1 from event")), "it is kept when that is possible")
    check(not broker.says(acted, 1), "and not acted upon then, either")
    check(broker.end() == 0, "the end")


def test_two_brokers(world):
    first = Broker(world).ready()
    second = Broker(world)
    check(second.process.wait(PATIENCE) == 1 and second.says("another vhotplug-broker is running"),
          "a second broker is refused, with the reason")
    check(world.event("remove") == b"T", "the first one is not disturbed")
    # A job stuck in the kernel outlives the broker; a worker that is stopped stands for it.
    worker = first.worker()
    os.kill(worker, signal.SIGSTOP)
    first.process.kill()
    first.process.wait()
    third = Broker(world)
    check(third.says("ready: "), "after kill -9 the next one starts, whatever its worker does")
    os.kill(worker, signal.SIGCONT)
    third.end()


def test_worker_that_dies(world):
    vm = Vm(world, "vm1")
    broker = Broker(world).ready()
    broker.says("vm1: up")
    former = broker.worker()
    os.kill(former, signal.SIGKILL)
    check(broker.says("worker process has been killed"), "a worker that dies is told of")
    check(world.event() == b"T" and world.reason_is("QEMU: failed to open") and broker.worker() != former,
          "the next device has another one")
    check(broker.end() == 0, "the end")
    vm.end()


def test_worker_that_is_stuck(world):
    vm = Vm(world, "vm1")
    broker = Broker(world).ready()
    broker.says("vm1: up")
    os.kill(broker.worker(), signal.SIGSTOP)
    check(world.event(device=make_node("zero")) == b"T" and world.event() == b"T", "two devices, the first one's job does not end")

    def state(device, pattern):
        return [row for row in world.query("select device, state || ': ' || reason from assignments")
                if row[0] == device and re.match(pattern, row[1])]
    check(wait_for(lambda: state("null", ".*QEMU: failed to open")), "the second does not wait for it")
    check(len(broker.workers()) == 2 and not state("zero", "attaching"), "which still has its process")
    worker = broker.worker()
    check(broker.end() == 0, "the end")
    os.kill(worker, signal.SIGCONT)  # QEMU would read that node without end
    vm.end()


def test_socket_that_cannot_be_made(world):
    place = world.path / "missing"
    world.write_config("vm1", extra=f"[vm vm3]\nlisten = {place}/qmp.sock\n")
    broker = Broker(world).ready()
    check(broker.says("vm3: can't make the socket .*/missing/qmp.sock: No such file"), "it is said")
    world.event(vms="vm3")
    check(world.reason_is("can't make the socket .*correct \"listen =\""), "and in the view")
    place.mkdir()
    broker.process.send_signal(signal.SIGHUP)
    check(wait_for((place / "qmp.sock").exists), "when it can be made it is")
    check(broker.end() == 0 and not (place / "qmp.sock").exists(), "the end")


def test_vm_life(world):
    broker = Broker(world).ready()
    check(broker.says("vm1 is not running: there is no socket"), "no VM")
    for how, word in ((signal.SIGTERM, "SIGTERM"), (signal.SIGKILL, "SIGKILL")):
        broker.forget()
        vm = Vm(world, "vm1")
        check(broker.says(f"vm1: up, process {vm.process.pid}"), "its start is seen")
        check("process" not in "".join(re.findall("vm2.*up.*", broker.log())), "of this one only")
        broker.forget()
        vm.end(how)
        check(broker.says(f"its process {vm.process.pid} has ended"), f"{word} is seen")
        check(broker.says("vm1 is not running"), "and said")
    vm = Vm(world, "vm1")
    check(broker.says(f"up, process {vm.process.pid}"), "a start over a stale socket is seen")
    broker.end()
    vm.end()
    # The VM was there first, its directory comes and goes.
    shutil.rmtree(world.path / "later", ignore_errors=True)
    world.config.write_text(world.config.read_text().replace("vm2.sock", "later/run/vm2.sock"))
    broker = Broker(world).ready()
    (world.path / "later/run").mkdir(parents=True)
    vm = Vm(world, "later/run/vm2")
    check(broker.says("vm2: up"), "a socket in directories that were not there")
    vm.end()
    broker.end()


def test_attach(world):
    vm = Vm(world, "vm1")
    broker = Broker(world).ready()
    broker.says("vm1: up")
    check(world.event() == b"T", "the event is taken")
    check(world.reason_is("QEMU: failed to open host usb device"),
          "QEMU got the descriptor, and says what it thinks of it")
    check(world.assignment()[:2] == ("waiting", "vm1"), "the device waits")
    time.sleep(1)  # it tries again, with another descriptor, which is no news
    history = world.query("select action, cause, vm, rule, result from history")
    check(history == [("attach", "plug", "vm1", "usb/g/r", "failed")], f"history: {history}")
    monitor = vm.monitor()
    names = [entry["name"] for entry in monitor.ask("qom-list", path="/machine/peripheral")["return"]]
    check(not any(name.startswith("vhp-") for name in names), "nothing of it is left in the VM")
    monitor.close()
    check(broker.end() == 0, "the end")
    vm.end()


def test_ports_that_somebody_takes(world):
    """Behind the broker's back. What it believes to be free is tried, one after the other."""
    vm = Vm(world, "vm1")
    broker = Broker(world).ready()
    broker.says("vm1: up")
    monitor = vm.monitor()
    for port in range(1, 5):
        monitor.ask("device_add", driver="usb-kbd", id=f"k{port}", bus="xhci.0", port=str(port))
    world.event()
    check(world.reason_is("no free USB port"), "all are taken, which is said")
    tries = len(re.findall("not found", broker.log()))
    time.sleep(1)
    check(len(re.findall("not found", broker.log())) - tries < 10, "without asking all the time")
    monitor.ask("device_del", id="k3")
    check(world.reason_is("QEMU: failed to open host usb device"), "the one that is free is found")
    monitor.close()
    check(broker.end() == 0, "the end")
    vm.end()


def test_orphan(world):
    """What is in the VM under a name of ours and on no record is taken away."""
    vm = Vm(world, "vm1")
    monitor = vm.monitor()
    monitor.ask("device_add", driver="usb-mouse", id="vhp-9-9-4711", bus="xhci.0", port="3")
    broker = Broker(world).ready()
    check(broker.says("vhp-9-9-4711, which it should not have"), "an orphan is seen")
    check(wait_for(lambda: "DeviceNotFound" in json.dumps(monitor.ask(
        "qom-list", path="/machine/peripheral/vhp-9-9-4711"))), "and taken away")
    monitor.close()
    check(broker.end() == 0, "the end")
    vm.end()


def test_busy_monitor(world):
    vm = Vm(world, "vm1")
    vm.monitor().close()
    holder = Monitor(vm.socket)
    broker = Broker(world).ready()
    check(world.event() == b"T", "the event is taken")
    check(world.reason_is("another client holds it"), "who is in the way is said")
    holder.close()
    check(world.reason_is("QEMU: failed to open"), "and then it goes on")
    check(broker.end() == 0, "the end")
    vm.end()


@takes_long
def test_on_demand_and_a_busy_monitor(world):
    """A monitor that another client holds has no time limit: whoever ended meanwhile would never hear of its end."""
    vm = Vm(world, "vm1")
    vm.monitor().close()
    holder = Monitor(vm.socket)
    broker = Broker(world, arguments=("-d", "--exit-when-idle")).ready()
    check(broker.says("vm1: .*another client holds it") and broker.stays(), "the broker waits for who is in the way")
    check(world.event() == b"T" and world.reason_is("another client holds it"), "a device does too")
    holder.close()
    check(world.reason_is("QEMU: failed to open"), "and then it goes on")
    check(broker.end() == 0, "the end")
    vm.end()


@takes_long
def test_on_demand_and_a_stuck_worker(world):
    """A fence that is on its way is waited for: it may have to be tried again."""
    broker = Broker(world, arguments=("-d", "--exit-when-idle")).ready()
    worker = broker.worker()
    os.kill(worker, signal.SIGSTOP)
    check(world.event(VHOTPLUG_FENCE="yes") == b"T" and world.reason_is("vm1 is not running"), "a device is to be fenced")
    check(broker.stays(), "the broker stays until it is")
    os.kill(worker, signal.SIGCONT)
    check(broker.process.wait(PATIENCE) == 0, "and then it ends")


def test_untrusted_socket(world):
    """A socket in a directory where everybody may write, made by somebody else."""
    directory = world.path / "tmp"
    directory.mkdir()
    directory.chmod(0o1777)
    world.config.write_text(world.config.read_text().replace("vm1.sock", "tmp/vm1.sock"))
    script = ("import socket, sys, time; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]);"
              "s.listen(1); time.sleep(60)")
    process = subprocess.Popen(["/usr/bin/python3", "-S", "-c", script, str(directory / "vm1.sock")],
                               user="nobody", group="nogroup", extra_groups=[])
    world.processes.append(process)
    broker = Broker(world).ready()
    check(broker.says("vm1: not trusted: .*/tmp/vm1.sock lies where everybody may write"),
          "it is not trusted")
    world.event()
    check(world.reason_is("not trusted"), "and the device says so")
    broker.end()


def test_reload(world):
    world.write_config("vm1")
    vm = Vm(world, "vm1")
    broker = Broker(world).ready()
    broker.says("vm1: up")
    world.config.write_text("[vm vm1]\ntype = qemu\n")
    broker.process.send_signal(signal.SIGHUP)
    check(broker.says("has mistakes: the config stays as it was"), "a broken config is refused")
    broker.forget()
    vm.end()
    check(broker.says("vm1 is not running"), "the VM of the old one is still watched")
    vm = Vm(world, "vm2")
    vm.monitor().close()
    world.write_config("vm1", "vm2")
    broker.process.send_signal(signal.SIGHUP)
    check(broker.says("vm2: up"), "a good one is taken")
    vm.end()
    check(broker.end() == 0, "the end")


@takes_long
def test_rules_that_are_ahead(world):
    """udev decides by a config that the broker has not read yet: nobody moves before it has. One that is in no file is
    no reason to wait."""
    def digest(broker):
        return re.search(r"ready: .* \((\w+)\)", broker.log()).group(1)
    world.write_config("vm1", extra="[general]\nattachConnected = no\n")
    broker = Broker(world).ready()
    new = digest(broker)
    broker.end()
    world.write_config("vm1")
    broker = Broker(world).ready()
    world.write_config("vm1", extra="[general]\nattachConnected = no\n")
    broker.forget()
    check(world.event(SYNTH_UUID="0", VHOTPLUG_CONFIG=new) == b"T", "an event by the new one is taken")
    check(not broker.says("plugged in", 1) and world.assignment() == ("", "", ""), "and nothing is done")
    check(broker.says("vhotplug.conf: read again"), "the file is read")
    broker.forget()
    for _ in range(2):
        check(world.event(SYNTH_UUID="0", VHOTPLUG_CONFIG="0123456789abcdef") == b"T", "one by yet another config")
    check(wait_for(lambda: world.assignment()[0] == "held"), "is done by what the broker has")
    check(broker.log().count("run vhotplug-gen-rules") == 1, "that is said once")
    broker.end()


def test_readers(world):
    vm = Vm(world, "vm1")
    broker = Broker(world, preexec_fn=lambda: os.umask(0o077)).ready()
    broker.says("vm1: up")
    world.event()
    world.reason_is("QEMU")
    expected = "select state || '|' || vm from assignments"
    sql = f"{expected}; select count(*) > 0 from history;"
    wanted = "waiting|vm1\n1\n"
    for when in ("while it runs", "after it has ended"):
        good = wait_for(lambda: as_nobody(world.public_copy, sql).stdout == wanted)
        check(good, f"nobody reads both views {when}, in the copy")
        check(as_nobody(world.public_copy, "delete from history").returncode != 0, "and can't write")
        check(as_nobody(world.database, expected).returncode != 0, "but not the database itself")
        check(world.database.parent.stat().st_mode & 0o777 == 0o751 and
              all(path.stat().st_mode & 0o777 == 0o600 for path in world.database.parent.glob("*.db*")),
              "which is root's alone")
        if when == "while it runs":
            check(broker.end() == 0, "the end")
            # It may have been trying again.
            wanted = subprocess.run(["sqlite3", world.database, sql], capture_output=True, text=True).stdout
            check(wanted in ("waiting|vm1\n1\n", "attaching|vm1\n1\n"), f"as the database has it: {wanted!r}")
    vm.end()


def timed_event(world, **what):
    """The answer, and the seconds until it. Of several the least counts: the others had to wait for a processor."""
    start = time.monotonic()
    return world.event(**what), time.monotonic() - start


def test_locked_database(world):
    broker = Broker(world).ready()
    with contextlib.closing(sqlite3.connect(world.database, isolation_level=None)) as db:
        db.execute("begin immediate")
        answers = [timed_event(world) for _ in range(5)]
        check({answer for answer, _ in answers} == {b"R"}, "an event is refused while another process holds the lock")
        check(min(seconds for _, seconds in answers) < 1, "at once")
        db.execute("rollback")
    check(world.event() == b"T", "and taken afterwards")
    check(world.reason_is("vm1 is not running"), "what it waits for is on record")
    check(broker.end() == 0, "the end")


def test_stop_while_a_helper_waits(world):
    vm = Vm(world, "vm1")
    broker = Broker(world).ready()
    broker.says("vm1: up")
    worker = broker.worker()
    os.kill(worker, signal.SIGSTOP)  # opening the node takes its time
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(OSError):
            world.event()
        os._exit(0)
    wait_for(lambda: world.query("select 1 from event"))
    check(broker.end() == 0, "a broker that is stopped while a node is being opened")
    os.waitpid(pid, 0)
    os.kill(worker, signal.SIGCONT)
    vm.end()


def test_helper_is_not_kept(world):
    vm = Vm(world, "vm1")
    for _ in range(5):
        broker = Broker(world).ready()
        broker.says("vm1: up")
        worker = broker.worker()
        os.kill(worker, signal.SIGSTOP)
        answer, seconds = timed_event(world)
        os.kill(worker, signal.SIGCONT)
        if seconds < 0.9:
            break
        broker.end()
    check(answer == b"T" and seconds < 0.9, "a node that can't be opened keeps udevd less than a second")
    check(world.reason_is("QEMU: failed to open"), "and goes on when it can")
    check(broker.end() == 0, "the end")
    vm.end()


if __name__ == "__main__":
    sys.exit(main(globals()))
