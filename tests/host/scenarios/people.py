"""What people do: they choose, take out and give back, suspend and resume; and what a VM has had since
its start, they can take out too. By vhotplugctl, as they would."""
import contextlib
import json
import os
import pathlib
import re
import resource
import shutil
import socket
import subprocess
import tempfile
import uuid

from lib.parts import InputDevice, functions, wait_driver
from lib.story import story
from lib.wait import expect, stays, wait_until
from lib.world import CONFIG, KEYBOARDS, RUNTIME, TOP
from scenarios.evdev import KEYBOARD as INPUT
from scenarios.pci import NIC

BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")
CONTROL = RUNTIME / "control.sock"
ASKING = """
[usb Keyboards]
allowedVms = vm1, vm2
choose = ask

[allow keyboards]
interfaceClass = 3
interfaceProtocol = 1
"""
MICE = """
[usb Mice]
targetVm = vm1
skipOnSuspend = yes
tag = pointing

[allow mice]
interfaceClass = 3
interfaceProtocol = 2
"""


def ctl(*words, status=0, **how):
    """vhotplugctl with these WORDS, which ends with STATUS; returns what it has said, on both ways."""
    result = subprocess.run(["vhotplugctl", *map(str, words)], capture_output=True, text=True, timeout=120, **how)
    expect(result.returncode == status, f"vhotplugctl {words} ended with {result.returncode}: {result.stderr}")
    return result.stdout + result.stderr


@contextlib.contextmanager
def another_boot():
    """Within, the kernel says that this is another boot."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(f"{uuid.uuid4()}\n")
        file.flush()
        subprocess.run(["mount", "--bind", file.name, BOOT_ID], check=True)
        try:
            yield
        finally:
            # A helper that udevd has just started reads it.
            wait_until(lambda: subprocess.run(["umount", BOOT_ID], capture_output=True).returncode == 0, 60, "it is unmounted")


def in_vm(world, device, vm):
    """DEVICE is in VM as what VM has had since its start: attached, without a device_add."""
    row = world.wait_state(device, "attached", f"{vm.name} has it since the VM's start")
    expect(row["vm"] == vm.name, f"{device} is said to be in {row['vm']}")


# Choices


@story
def choose_and_again_after_a_reboot(world):
    """Nobody has chosen: it is asked for. The choice holds for the keyboard that comes back, also after a
    reboot: another boot, nothing in /run, another broker and another VM."""
    vm1, vm2 = world.vm("vm1").start(), world.vm("vm2").start()
    world.configure(vm1.config(), vm2.config(), ASKING)
    world.broker.start()
    keyboard = world.host.plug_keyboard(port=3)
    world.wait_state(keyboard, "choose", "vm1,vm2")
    expect("choose" in ctl("list"), "the list says so")
    ctl("select", keyboard.vid_pid, "vm2")
    world.wait_attached(keyboard, vm2)
    world.broker.kill9()
    world.host.unplug_all()
    vm1.kill9()
    vm2.kill9()
    world.udev.settle()  # the helper may be putting something there
    shutil.rmtree(RUNTIME)
    with another_boot():
        world.broker.start()
        keyboard = world.host.plug_keyboard(port=3)
        world.wait_state(keyboard, "waiting", "vm2 is not running")
        vm1.start()
        vm2.start()
        world.wait_attached(keyboard, vm2)
        other = world.host.plug_keyboard(port=4)
        world.wait_state(other, "choose", "vm1,vm2")
        world.host.unplug_all()
        world.broker.stop()


@story
def taken_out_by_hand_for_good(world):
    """What a person takes out stays out: when it is plugged in again, when QEMU starts again, and when the
    broker does. Until he gives it back."""
    keyboard, vm1 = world.keyboard_in_vm1()
    ctl("detach", keyboard.name)
    world.wait_gone(keyboard, vm1)
    keyboard.unplug()
    keyboard = world.host.plug_keyboard(port=keyboard.name.split("-")[1])
    world.wait_state(keyboard, "detached", "vhotplugctl attach")
    vm1.kill9()
    vm1.start()
    wait_until(lambda: world.broker.log().count("vm1: up") >= 2, 60, "the broker has seen it")
    world.wait_state(keyboard, "detached")
    world.broker.kill9()
    world.broker.start()
    world.udev.trigger("add", keyboard)
    world.udev.settle()
    world.wait_state(keyboard, "detached")
    expect(not vm1.usb_ids(), "the VM has nothing")
    ctl("attach", keyboard.name)
    world.wait_attached(keyboard, vm1)


@story
def which_one_is_meant(world):
    """Two of the same make: the words that mean both name both, and change nothing; the place of one does."""
    first, vm1 = world.keyboard_in_vm1()
    second = world.host.plug_keyboard()
    world.wait_attached(second, vm1)
    said = ctl("detach", first.vid_pid, status=4)
    expect(first.name in said and second.name in said, f"both are named: {said}")
    stays(lambda: vm1.holds(first) and vm1.holds(second), 1, "nothing has changed")
    ctl("detach", second.name)
    expect(vm1.holds(first) and not vm1.usb_ids(second), "that one it was")


@story
def a_rule_for_a_place(world):
    """vhotplugctl ports: a keyboard is plugged in, and what is shown, pasted, is a rule for its port that takes
    whatever comes there."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config())
    world.broker.start()
    with subprocess.Popen(["vhotplugctl", "ports", "--limit", "1"], stdout=subprocess.PIPE, text=True) as person:
        expect("Plug something in" in person.stdout.readline(), "it says what to do")
        keyboard = world.host.plug_keyboard(port=4)
        said = person.communicate(timeout=60)[0]
    expect(person.returncode == 0 and f"portPath = {keyboard.name}" in said and keyboard.vid_pid in said, f"it says {said}")
    expect(f"devpath = {os.path.realpath(keyboard.sys).removeprefix('/sys')}\n" in said, f"and where that is: {said}")
    keyboard.unplug()
    world.configure(vm1.config(), said[said.index("[usb Port"):])
    mouse = world.host.plug_mouse(port=4)
    world.wait_attached(mouse, vm1)


# Sleep, and tags


@story
def suspended_and_resumed(world):
    """Suspend takes the keyboard out, not the mouse (skipOnSuspend); a broker that is killed meanwhile
    knows, and resume gives it back. A tag means the mouse."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS, MICE)
    world.broker.start()
    keyboard, mouse = world.host.plug_keyboard(), world.host.plug_mouse()
    world.wait_attached(keyboard, vm1)
    world.wait_attached(mouse, vm1)
    ctl("suspend")
    expect(not vm1.usb_ids(keyboard) and vm1.holds(mouse), f"vm1 has {vm1.usb_ids()}")
    world.broker.kill9()
    world.broker.start()
    world.wait_state(keyboard, "suspended", "until resume")
    ctl("resume")
    world.wait_attached(keyboard, vm1)
    expect(mouse.name in (said := ctl("list", "--tag", "pointing")) and keyboard.name not in said, f"by tag: {said}")
    ctl("detach", "tag:pointing")
    expect(not vm1.usb_ids(mouse) and vm1.holds(keyboard), f"vm1 has {vm1.usb_ids()}")
    ctl("attach", "tag:pointing")
    world.wait_attached(mouse, vm1)
    world.wait_attached(keyboard, vm1)


# What a VM has had since its start


def _usb_of_their_own(vm):
    """Has QEMU the USB device that its command line names, without an id?"""
    folder = "/machine/peripheral-anon"
    with vm.monitor() as monitor:
        return any(monitor.command("qom-get", path=f"{folder}/{entry['name']}", property="attached")
                   for entry in monitor.command("qom-list", path=folder) if entry["type"] == "child<usb-host>")


@story
def what_the_command_line_has(world):
    """A keyboard, an event node and a card from QEMU's command line count as attached and are not given
    again; each can be taken out, and stays out when QEMU starts again with the same command line."""
    keyboard, node, nic = world.host.plug_keyboard(), InputDevice("QEMU Virtio Keyboard"), functions("10ec", "8139")[0]
    bus, port = keyboard.name.split("-")
    (nic.sys / "driver_override").write_text("vfio-pci")
    subprocess.run(["modprobe", "vfio-pci"], check=True)
    if nic.driver():
        (nic.sys / "driver/unbind").write_text(nic.name)
    pathlib.Path("/sys/bus/pci/drivers_probe").write_text(nic.name)
    wait_driver(nic, "vfio-pci")
    arguments = ("-device", f"usb-host,hostbus={bus},hostport={port}",
                 "-device", f"virtio-input-host-pci,evdev={node.node},id=theirs,bus=rp1",
                 "-device", f"vfio-pci,host={nic.name},bus=rp2,id=card")
    vm1 = world.vm("vm1", arguments=arguments, root_ports=3).start()
    world.configure(vm1.config(), KEYBOARDS, INPUT, NIC)
    world.broker.start()
    for device in (keyboard, node, nic):
        in_vm(world, device, vm1)
    wait_until(lambda: not keyboard.drivers(), 60, lambda: f"the host has let go of it: {keyboard.drivers()}")
    # QEMU takes the keyboard by itself as soon as its guest runs.
    with vm1.monitor() as monitor:
        monitor.command("cont")
    wait_until(lambda: _usb_of_their_own(vm1), 60, "QEMU has the keyboard")
    stays(lambda: not vm1.commands("device_add"), 2, "nothing is given to it")
    world.broker.kill9()
    world.broker.start()
    for device in (keyboard, node, nic):
        in_vm(world, device, vm1)
    ctl("detach", keyboard.name)
    with contextlib.ExitStack() as stack:
        people = [stack.enter_context(subprocess.Popen(["vhotplugctl", "detach", device.name])) for device in (node, nic)]
        with vm1.letting_go():
            for device in (keyboard, node, nic):
                world.wait_state(device, "detached", "by hand")
        expect([person.wait(60) for person in people] == [0, 0], "they are told")
    expect(not vm1.host_ids() and not {"theirs", "card"} & set(vm1.peripherals()), f"vm1 has {vm1.peripherals()}")
    nic.sys.joinpath("driver_override").write_text("vfio-pci")  # as whoever starts it does
    vm1.kill9()
    if nic.driver() != "vfio-pci":
        (nic.sys / "driver/unbind").write_text(nic.name)
        pathlib.Path("/sys/bus/pci/drivers_probe").write_text(nic.name)
    vm1.start()
    with vm1.letting_go():
        for device in (keyboard, node, nic):
            wait_until(lambda: len(world.db.history(device, "attach", "ok")) == 2, 60, f"{device} was there again")
        for device in (keyboard, node, nic):
            world.wait_state(device, "detached", "by hand")
    expect(not {"theirs", "card"} & set(vm1.peripherals()), f"vm1 has {vm1.peripherals()}")
    expect(not vm1.commands("device_add"), "nothing was given to it")
    for device, driver in ((keyboard, "usb-host"), (node, "virtio-input-host-pci"), (nic, "vfio-pci")):
        ctl("attach", device.name)
        world.wait_in(device, vm1, driver)
    vm1.kill9()


@story
def started_with_its_card(world):
    """vmm-args says how to start QEMU with its card and its event node: it then has them, and nothing is
    given to it."""
    node, nic = InputDevice("QEMU Virtio Keyboard"), functions("10ec", "8139")[0]
    vm1 = world.vm("vm1", root_ports=4)
    world.configure(vm1.config(), INPUT, NIC)
    world.broker.start()
    words = ctl("vmm-args", "vm1", "--require-pci", "--timeout", 30, "--qemu-bus-prefix", "rp",
                "--qemu-bus-start-index", 2).split()
    expect(f"vfio-pci,host={nic.name}" in " ".join(words) and "bus=rp2" in " ".join(words), f"it says {words}")
    expect(nic.driver() == "vfio-pci", "vfio-pci has the card before the answer")
    vm1.command += words
    vm1.start()
    for device in (node, nic):
        in_vm(world, device, vm1)
    expect(vm1.peripherals()["vhp-pci-2"] == "vfio-pci", f"vm1 has {vm1.peripherals()}")
    stays(lambda: not vm1.commands("device_add"), 3, "nothing is given to it")
    expect(json.loads(ctl("list", "--json", "--vm", "vm1"))[0]["state"] == "attached", "the list says so")
    vm1.kill9()


# What the manual shows

def _blocks(path, language=""):
    text = (TOP / path).read_text()
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, re.M | re.S)


@story
def examples_of_the_manual(world):
    """What README and the generator's man page show on a running host, word by word but for the device: every
    command ends well, every query of the database too."""
    keyboard, vm1 = world.keyboard_in_vm1()
    CONFIG.with_suffix(".json").write_text((TOP / "conf/samples/vhotplug.json").read_text())
    lines = [line for block in _blocks("README.md", "sh") for line in block.splitlines()]
    lines = [line.strip().removeprefix("sudo ") for line in lines]
    lines = [line for line in lines if re.match(r"vhotplug|udevadm", line)]
    lines += [line for block in _blocks("rules.d/vhotplug-gen-rules.8.scd") for line in block.splitlines()]
    # The last one writes over the config that the others read.
    expect(len(lines) >= 7 and "--import" in lines[-1], f"these are the commands: {lines}")
    bus, number = map(int, (keyboard.attribute("busnum"), keyboard.attribute("devnum")))
    for line in lines:
        command = line.replace("/dev/bus/usb/001/004", keyboard.node).replace("046d:c52b", keyboard.vid_pid)
        command = command.replace("--explain 1:4", f"--explain {bus}:{number}")
        result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120)
        expect(result.returncode == 0, f"{command} ended with {result.returncode}: {result.stdout} {result.stderr}")
    queries = _blocks("README.md", "sql")
    expect(len(queries) >= 5, f"{len(queries)} queries")
    for query in queries:
        subprocess.run(["sqlite3", "-box", RUNTIME / "vhotplug.db", query], check=True, capture_output=True)
    expect(not vm1.usb_ids(keyboard), "detach was one of them")
    CONFIG.with_suffix(".json").unlink()


# Programs that ask


def _knock():
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(CONTROL))
    client.settimeout(60)
    return client


def _ask(client, **request):
    client.sendall(json.dumps(request).encode() + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        answer += client.recv(65536)
    return json.loads(answer)


@story
def a_thousand_clients(world):
    """A thousand clients are answered; idle, they cost the broker no wake-up; a plug takes its way past
    them, and past one that has stopped reading, who loses his connection."""
    keyboard, vm1 = world.keyboard_in_vm1()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, limits[1]))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
        clients = [stack.enter_context(_knock()) for _ in range(1000)]
        expect(all(_ask(client, action="list")["result"] == "ok" for client in clients), "all are answered")
        world.udev.settle()
        world.broker.expect_quiet()
        lazy = stack.enter_context(_knock())
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(2)
        with contextlib.suppress(OSError):
            while True:
                lazy.sendall(b'{"action": "list"}\n' * 100)
        second = world.host.plug_keyboard()
        world.wait_attached(second, vm1)
        wait_until(lambda: "does not read what it has asked for" in world.broker.log(), 60, "he has lost it")
        expect(_ask(clients[0], action="list")["result"] == "ok", "the others are served")
    expect(vm1.holds(keyboard), "the first keyboard is where it was")


@story
def who_may_not(world):
    """Who is neither root nor in controlGroup may look, and nothing else."""
    keyboard, vm1 = world.keyboard_in_vm1()
    nobody = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    expect(keyboard.name in ctl("list", **nobody), "he may look")
    expect("controlGroup" in ctl("detach", keyboard.name, status=5, **nobody), "he is told who may")
    ctl("suspend", status=5, **nobody)
    stays(lambda: vm1.holds(keyboard), 1, "nothing has happened")
    world.write_config("[general]\ncontrolGroup = nogroup\n", vm1.config(), KEYBOARDS)
    world.apply()
    ctl("detach", keyboard.name, **nobody)
    expect(not vm1.usb_ids(keyboard), "a member of the group may")


@story
def killed_before_the_answer(world):
    """The broker is killed between a person's attach and its answer: he is told so, and the next broker
    does what he wanted, once."""
    keyboard, vm1 = world.keyboard_in_vm1()
    ctl("detach", keyboard.name)
    world.wait_gone(keyboard, vm1)
    with vm1.frozen():
        with subprocess.Popen(["vhotplugctl", "attach", keyboard.name], stderr=subprocess.PIPE, text=True) as person:
            world.wait_state(keyboard, "attaching")
            world.broker.kill9()
            said = person.communicate(timeout=60)[1]
        expect(person.returncode == 3 and said, f"he is told: {person.returncode} {said}")
    world.broker.start()
    world.wait_attached(keyboard, vm1)
    stays(lambda: vm1.holds(keyboard), 1, "once")
    expect(not os.path.exists(f"{CONTROL}.new"), "nothing is left behind")
