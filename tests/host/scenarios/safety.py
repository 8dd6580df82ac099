"""What must not be handed over, and what must not get in the way."""
import contextlib
import pathlib
import subprocess
import time

from lib import fakeusb, stranger
from lib.story import story
from lib.uevents import KERNEL, Listener
from lib.wait import expect, stays, wait_until
from lib.world import DISKS, KEYBOARDS, LOGS


def _mounted_disk(world):
    """A stick that the host has taken, before any rule."""
    disk = world.host.plug_disk()
    name = wait_until(disk.block_device, 60, "the host has its disk")
    world.udev.settle()
    return disk, f"/dev/{name}"


@contextlib.contextmanager
def _mounted(node, *namespace):
    """Mounted on a folder; with NAMESPACE = ("unshare", "--mount"), only for a process of its own."""
    folder = LOGS / "stick"
    folder.mkdir(exist_ok=True)
    sign = LOGS / "mounted"
    sign.unlink(missing_ok=True)
    process = subprocess.Popen([*namespace, "sh", "-c", f"mount {node} {folder} && touch {sign} && read -r _; "
                                                        f"umount {folder}"], stdin=subprocess.PIPE)
    try:
        wait_until(sign.exists, 60, "it is mounted")
        yield folder
    finally:
        process.communicate(b"\n")


@story
def mounted_disk_is_refused(world):
    """A mounted USB disk stays where it is, and the reason says where it is mounted. Unmounted, it
    may go."""
    disk, node = _mounted_disk(world)
    vm1 = world.vm("vm1").start()
    with _mounted(node) as folder:
        world.configure(vm1.config(), DISKS)
        world.broker.start()
        world.wait_state(disk, "refused", str(folder))
        world.wait_history(disk, "attach", "refused")
        expect(not vm1.usb_ids(), "the VM has nothing")
        stays(lambda: disk.drivers() == ["usb-storage"], 3, "the host keeps it")
        world.wait_history(disk, "attach", "refused")
    world.wait_attached(disk, vm1)


@story
def mounted_disk_on_a_command_line(world):
    """A mounted disk that a QEMU which has not run yet names on its command line is the host's; unmounted, it goes."""
    disk, node = _mounted_disk(world)
    bus, port = disk.name.split("-")
    vm1 = world.vm("vm1", arguments=("-device", f"usb-host,hostbus={bus},hostport={port}")).start()
    with _mounted(node) as folder:
        world.configure(vm1.config(), DISKS)
        world.broker.start()
        world.wait_state(disk, "attaching", str(folder))
        stays(lambda: disk.drivers() == ["usb-storage"], 3, "the host keeps it")
    wait_until(lambda: not disk.drivers(), 60, lambda: f"the host has let go of it: {disk.drivers()}")


@story
def disk_mounted_elsewhere_is_refused(world):
    """So does one that is mounted only in another mount namespace, where nobody else sees it."""
    disk, node = _mounted_disk(world)
    vm1 = world.vm("vm1").start()
    with _mounted(node, "unshare", "--mount"):
        expect(node not in pathlib.Path("/proc/self/mounts").read_text(), "we do not see it mounted")
        world.configure(vm1.config(), DISKS)
        world.broker.start()
        world.wait_state(disk, "refused", "in use")
        expect(not vm1.usb_ids(), "the VM has nothing")
    world.wait_attached(disk, vm1)


@story
def fenced_disk(world):
    """A disk arrives although its host module was not loaded before, and the host never touches it:
    the module stays unloaded, no block device ever appears."""
    subprocess.run(["modprobe", "-r", "uas", "usb-storage"], check=True)
    expect(not pathlib.Path("/sys/module/usb_storage").exists(), "the host's module is not loaded")
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), DISKS)
    world.broker.start()
    with Listener(KERNEL) as kernel:
        disk = world.host.plug_disk()
        world.wait_attached(disk, vm1)
        world.udev.settle()
        time.sleep(3)
        path = str(disk.sys.resolve()).removeprefix("/sys") + "/"  # what others make of theirs is none of it
        blocks = [event["DEVPATH"] for _, event in list(kernel.events)
                  if event.get("SUBSYSTEM") == "block" and event["DEVPATH"].startswith(path)]
        expect(not blocks, f"the host made no disk of it: {blocks}")
        expect(not pathlib.Path("/sys/module/usb_storage").exists(), "the host's module is still not loaded")
    disk.unplug()
    world.wait_gone(disk, vm1)


@story
def triggers_change_nothing(world):
    """`udevadm trigger` in all its forms, also a remove of what is still there, changes nothing."""
    keyboard, vm1 = world.keyboard_in_vm1()
    ids, history = vm1.usb_ids(), len(world.db.history())
    told = len(vm1.commands("device_add")) + len(vm1.commands("device_del"))

    def nothing_changed(form):
        world.udev.settle()
        time.sleep(1)
        expect(vm1.usb_ids() == ids, f"{form}: the VM has {vm1.usb_ids()}, not {ids}")
        expect(len(world.db.history()) == history, f"{form}: the history has grown")
        now = len(vm1.commands("device_add")) + len(vm1.commands("device_del"))
        expect(now == told, f"{form}: QEMU was told something")
        expect(world.db.assignment(keyboard)["state"] == "attached", f"{form}: the view says attached")

    for action in ("add", "change", "remove", "change", "add"):
        world.udev.trigger(action, keyboard)
        nothing_changed(f"{action} of the keyboard")
    for action in ("add", "change", "remove", "add"):
        world.udev.trigger_usb(action)
        nothing_changed(f"{action} of everything USB")
    keyboard.unplug()
    world.wait_gone(keyboard, vm1)


@story
def rule_withdrawn(world):
    """A rule taken out of the config and applied: the host has its keyboard back."""
    keyboard, vm1 = world.keyboard_in_vm1()
    world.configure(vm1.config())
    world.wait_gone(keyboard, vm1)
    detach, = world.wait_history(keyboard, "detach", "ok")
    expect(detach["cause"] == "config", f"the cause is {detach['cause']}")
    wait_until(lambda: keyboard.drivers() == ["usbhid"], 60, "the host's driver holds it again")
    wait_until(lambda: "VHOTPLUG_RULE" not in world.udev.properties(keyboard), 60, "udev knows no rule for it")
    world.configure(vm1.config(), KEYBOARDS)
    world.wait_attached(keyboard, vm1)


@contextlib.contextmanager
def _stranger(folder, owner):
    """A program of OWNER answers where the VM's monitor should be. Gives a function: how many
    connections it had and how many descriptors it got."""
    result = LOGS / "stranger"
    result.unlink(missing_ok=True)
    socket = folder / "qmp.sock"
    process = subprocess.Popen(["/usr/bin/python3", stranger.__file__, socket, result], user=owner, group="nogroup",
                               extra_groups=[])
    try:
        wait_until(result.exists, 60, "the stranger listens")
        yield lambda: tuple(map(int, result.read_text().split()))
    finally:
        process.kill()
        process.wait()
        socket.unlink(missing_ok=True)


@story
def socket_of_a_stranger(world):
    """Who answers at the monitor's path but is not who the config says gets no descriptor."""
    vm1 = world.vm("vm1")
    vm1.dir.mkdir(parents=True)
    keyboard = world.host.plug_keyboard()
    world.udev.settle()
    cases = {"everybody may write in the folder": (0o1777, None), "the config says another user": (0o1777, "daemon")}
    for case, (mode, user) in cases.items():
        vm1.dir.chmod(mode)
        with _stranger(vm1.dir, "nobody") as got:
            world.configure(vm1.config(user=user), KEYBOARDS)
            world.broker.start()
            wait_until(lambda: (row := world.db.assignment(keyboard)) and row["state"] in ("waiting", "refused", "failed")
                       and any(word in row["reason"] for word in ("65534", "nobody", "everybody")), 60,
                       lambda: f"{case}: the reason says whose it is: {tuple(world.db.assignment(keyboard) or ())}")
            stays(lambda: got()[1] == 0, 3, f"{case}: it got a descriptor")
            world.broker.stop()
    # The control: the same program, named in the config, is given one.
    with _stranger(vm1.dir, "nobody") as got:
        world.configure(vm1.config(user="nobody"), KEYBOARDS)
        world.broker.start()
        wait_until(lambda: got()[0] > 0, 60, "who is named in the config is spoken to")


@story
def made_up_device(world):
    """The made-up USB device itself: the kernel configures it, and sees it go."""
    with fakeusb.FakeUsbDevice(0xdead, 0xbeef) as fake:
        wait_until(lambda: (fake.sys / f"{fake.name}:1.0").exists(), 60, "it is configured")
        world.udev.settle()
        expect(world.udev.properties(fake)["PRODUCT"] == "dead/beef/100", "udev knows it")
    expect(not fake.is_there(), "it is gone")


def _vm_with_mouse(world):
    """A VM that has a USB device already: QEMU's libusb looks at all devices when the first one is
    attached, and a stuck one would block QEMU itself in that."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS, "[allow mice]\ninterfaceClass = 3\ninterfaceProtocol = 2",
                    "[allow the stuck one]\nvendorId = dead")
    world.broker.start()
    world.wait_attached(world.host.plug_mouse(), vm1)
    return vm1


@story
def device_stuck_at_its_plug(world):
    """A device never completes its first SET_CONFIGURATION. Its own event waits in udevd, which reads
    what the kernel has locked; a keyboard arrives meanwhile."""
    vm1 = _vm_with_mouse(world)
    with fakeusb.FakeUsbDevice(0xdead, 0xbeef, stuck=True) as fake:
        expect(fake.reached.wait(60), "the kernel waits for SET_CONFIGURATION")
        keyboard = world.host.plug_keyboard()
        world.wait_attached(keyboard, vm1)
        expect(not vm1.usb_ids(fake), "the stuck one is not attached")


@story
def device_stuck_when_it_is_opened(world):
    """A device waits for its VM and gets stuck: the broker's attempt to open it blocks. A keyboard of
    another VM arrives meanwhile."""
    vm1, vm2 = _vm_with_mouse(world), world.vm("vm2")
    world.configure(vm1.config(), vm2.config(), KEYBOARDS, "[usb For vm2]\ntargetVm = vm2",
                    "[allow the stuck one]\nvendorId = dead")
    world.broker.reload()
    with fakeusb.FakeUsbDevice(0xdead, 0xbeef) as fake:
        world.wait_state(fake, "waiting")
        fake.get_stuck()
        vm2.start()
        wait_until(lambda: vm2.commands('"qom-list"'), 60, "the broker has seen vm2")
        keyboard = world.host.plug_keyboard()
        world.wait_attached(keyboard, vm1)
        expect(not vm2.usb_ids(), "the stuck one is not attached")
        row = world.db.assignment(fake)
        expect(row["state"] not in ("attached", "failed") and row["reason"], f"the view says {tuple(row)}")
    wait_until(lambda: world.db.assignment(fake) is None, 60, "the stuck one has no row any more")


@story
def broker_started_while_a_device_is_stuck(world):
    """A device of ours is stuck while the broker starts: it gets ready, and a keyboard arrives."""
    vm1 = _vm_with_mouse(world)
    world.broker.stop()
    with fakeusb.FakeUsbDevice(0xdead, 0xbeef) as fake:
        world.udev.settle()
        expect("VHOTPLUG_RULE" in world.udev.properties(fake), "a rule wants it")
        fake.get_stuck()
        world.broker.start()
        keyboard = world.host.plug_keyboard()
        world.wait_attached(keyboard, vm1)
