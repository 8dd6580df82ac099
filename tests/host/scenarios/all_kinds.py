"""The life of VMs with devices of all kinds."""
import pathlib
import subprocess

from lib.parts import InputDevice, functions, wait_driver
from lib.story import story
from lib.wait import expect, stays, wait_until
from lib.world import HELPER, KEYBOARDS, RUNTIME
from scenarios.evdev import KEYBOARD as INPUT
from scenarios.isolation import SOUND
from scenarios.pci import NIC

ROUNDS = 20


def _three_kinds(world, **how):
    """vm1 runs and has a USB keyboard, an input device and a network card."""
    vm1 = world.vm("vm1", **how).start()
    world.configure(vm1.config(), KEYBOARDS, INPUT, NIC)
    world.broker.start()
    devices = {world.host.plug_keyboard(): "usb-host", InputDevice("QEMU Virtio Keyboard"): "virtio-input-host-pci",
               functions("10ec", "8139")[0]: "vfio-pci"}
    for device, driver in devices.items():
        world.wait_in(device, vm1, driver)
    return vm1, devices


@story(build="release", seconds=70)
def twenty_crashes(world):
    """QEMU dies by kill -9 and starts again, twenty times: all its devices are back each time, the
    history is complete, and the broker has grown by nothing."""
    vm1, devices = _three_kinds(world)
    descriptors = memory = None
    for count in range(1, ROUNDS + 1):
        vm1.kill9()
        for device in devices:
            world.wait_state(device, "waiting", "not running")
        vm1.start()
        for device, driver in devices.items():
            world.wait_in(device, vm1, driver)
        if count == ROUNDS // 2:  # caches are full by now
            wait_until(lambda: len(world.broker.processes()) == 2, 60, "the worker has no job")
            world.broker.expect_quiet()  # it makes no copy of its database just now
            descriptors, memory = world.broker.descriptors(), world.broker.memory()
    for device in devices:
        actions = [(row["action"], row["result"], row["cause"]) for row in world.db.history(device)]
        expected = [("detach", "ok", "vm-exit"), ("attach", "ok", "vm-start")] * ROUNDS
        expect(actions[1:] == expected, f"{device}: the history says {actions}")
    wait_until(lambda: len(world.broker.processes()) == 2, 60, "the worker has no job")
    wait_until(lambda: world.broker.descriptors() <= descriptors, 60,
               lambda: f"the broker has {world.broker.descriptors()} descriptors, it had {descriptors}")
    world.broker.expect_quiet()
    grown = world.broker.memory() - memory
    print(f"  after {ROUNDS} crashes: {world.broker.descriptors()} descriptors ({descriptors} after {ROUNDS // 2}), "
          f"{grown} kB more memory than after {ROUNDS // 2}")
    expect(grown <= 64, f"the broker has grown by {grown} kB")


@story
def quiet_and_then_an_orderly_end(world):
    """While nothing happens nobody polls: neither the broker nor its worker wakes up once. Then the VM is
    told to quit, does, and starts again: it has all its devices again."""
    vm1, devices = _three_kinds(world)
    world.udev.settle()
    world.broker.expect_quiet()
    vm1.stop()
    for device in devices:
        world.wait_state(device, "waiting", "not running")
    vm1.start()
    for device, driver in devices.items():
        world.wait_in(device, vm1, driver)
        actions = [(row["action"], row["result"], row["cause"]) for row in world.db.history(device)]
        expect(actions[1:] == [("detach", "ok", "vm-exit"), ("attach", "ok", "vm-start")], f"{device}: {actions}")


@story
def reset_of_the_guest(world):
    """A reset of the guest takes nothing away."""
    vm1, devices = _three_kinds(world)
    ids = vm1.host_ids()
    vm1.reset()
    stays(lambda: vm1.host_ids() == ids, 3, "the VM keeps all")
    expect(all(len(world.db.history(device)) == 1 for device in devices), "and nothing is said to have happened")


@story
def vm_that_dials_in(world):
    """listen: QEMU calls the broker; killed and started again it gets its keyboard again, and nobody
    else may call in its place."""
    vm1 = world.vm("vm1", user="nobody").dial(RUNTIME / "vm1.sock")
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    world.wait_state(keyboard, "waiting", "has not dialled in")
    vm1.start()
    world.wait_attached(keyboard, vm1)
    vm1.kill9()
    world.wait_state(keyboard, "waiting", "not")
    # The socket is its user's alone; who gets to it all the same is asked who he is.
    path = RUNTIME / "vm1.sock"
    knock = ["/usr/bin/python3", "-c", f"import socket; s = socket.socket(socket.AF_UNIX); s.connect('{path}'); "
                                       "print(s.recv(100))"]
    attempt = subprocess.run(knock, user="daemon", group="nogroup", extra_groups=[], capture_output=True, text=True)
    expect("Permission denied" in attempt.stderr, f"a stranger can't even connect: {attempt.stderr}")
    path.chmod(0o777)
    path.parent.chmod(0o755)
    attempt = subprocess.run(knock, user="daemon", group="nogroup", extra_groups=[], capture_output=True, text=True)
    expect(attempt.stdout == "b''\n", f"he is turned away: {attempt.stdout} {attempt.stderr}")
    world.wait_state(keyboard, "waiting", "refused a call of uid 1 ")
    vm1.start()
    world.wait_attached(keyboard, vm1)
    # The broker starts anew: QEMU calls again.
    world.broker.stop()
    world.broker.start()
    wait_until(lambda: world.broker.log().count("vm1: up") >= 3, 60, "it has called")
    world.wait_attached(keyboard, vm1)
    world.wait_history(keyboard, "attach", "ok", 2)


@story
def socket_taken_over(world):
    """A second QEMU puts its socket in the place of the first one's: it is the VM now."""
    keyboard, vm1 = world.keyboard_in_vm1()
    vm1.socket.unlink()
    former, vm1.process = vm1.process, None
    vm1.start()
    try:
        wait_until(lambda: vm1.usb_ids(keyboard), 60, "the new one has the keyboard")
    finally:
        former.kill()
        former.wait()
    world.wait_attached(keyboard, vm1)


@story
def nobody_listens(world):
    """A socket that was left behind: the reason says that nobody listens."""
    vm1 = world.vm("vm1").start()
    vm1.kill9()
    expect(vm1.socket.exists(), "the socket is still there")
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    world.wait_state(keyboard, "waiting", "not running: nobody listens on")
    vm1.start()
    world.wait_attached(keyboard, vm1)


@story
def clock_jumps(world):
    """The clock jumps, as it does when the host wakes up: the broker looks at everything, and finds
    what it has missed."""
    keyboard, vm1 = world.keyboard_in_vm1()
    ident, = vm1.usb_ids(keyboard)
    with vm1.monitor() as monitor:  # behind the broker's back
        monitor.command("device_del", id=ident)
        monitor.wait_deleted(ident)
    subprocess.run(["date", "-s", "+1 hour"], check=True, stdout=subprocess.DEVNULL)
    wait_until(lambda: "the clock has jumped" in world.broker.log(), 60, "the broker has noticed")
    wait_until(lambda: vm1.usb_ids(keyboard), 60, "the keyboard is back")
    world.wait_attached(keyboard, vm1)


@story
def host_driver_takes_it_back(world):
    """A host driver has taken the keyboard from its VM, as after a sleep in which it had no power: when
    the clock has jumped, the broker makes it let go."""
    keyboard, vm1 = world.keyboard_in_vm1()
    interface = next(keyboard.sys.glob(f"{keyboard.name}:*")).name
    with world.udev.deaf():  # which would tell the broker of the driver
        subprocess.run(["modprobe", "usbhid"], check=True)
        if not keyboard.drivers():  # it was loaded before
            pathlib.Path("/sys/bus/usb/drivers/usbhid/bind").write_text(interface)
        expect(keyboard.drivers() == ["usbhid"], f"it is held by {keyboard.drivers()}")
        subprocess.run(["date", "-s", "+1 hour"], check=True, stdout=subprocess.DEVNULL)
        wait_until(lambda: not keyboard.drivers(), 60, "the host has let go")
    world.wait_attached(keyboard, vm1)
    world.wait_history(keyboard, "attach", "ok")


@story
def last_way_to_the_network(world):
    """The card with the only default route is refused, unless its rule says force."""
    nic, = functions("10ec", "8139")
    wait_driver(nic, "8139cp")
    interface = wait_until(nic.interface, 60, "the driver has made its interface")
    for words in (f"link set {interface} up", f"addr add 10.0.2.15/24 dev {interface}",
                  f"route add default via 10.0.2.2 dev {interface}"):
        subprocess.run(["ip", *words.split()], check=True)
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), NIC)
    world.broker.start()
    world.wait_state(nic, "refused", "only default route.*force = yes")
    stays(lambda: nic.driver() == "8139cp", 2, "the host keeps it")
    world.configure(vm1.config(), NIC + "force = yes\n")
    world.wait_in(nic, vm1, "vfio-pci")
    vm1.kill9()


@story
def disk_below_a_controller(world):
    """An NVMe controller whose disk is mounted is refused, and the reason says where."""
    there = [function.name for function in functions("1b36", "0010")]
    world.host.monitor.command("blockdev-add", driver="file", filename=world.host.images[2], node_name="nvme")
    world.host.monitor.command("device_add", driver="nvme", id="nvme1", serial="N1", drive="nvme", bus="rp2")
    vm1 = world.vm("vm1").start()
    folder = pathlib.Path("/run/test/nvme")
    folder.mkdir(exist_ok=True)
    try:
        subprocess.run(["modprobe", "nvme"], check=True)
        controller = wait_until(lambda: [function for function in functions("1b36", "0010")
                                         if function.name not in there], 60, "the kernel sees it")[0]
        disk = wait_until(lambda: next(controller.sys.glob("nvme/nvme*/nvme*n1"), None), 60, "the host has its disk").name
        world.udev.wait_disk(disk)
        subprocess.run(["mount", f"/dev/{disk}", folder], check=True)
        world.configure(vm1.config(), f"[pci Disk]\ntargetVm = vm1\n[allow it]\naddress = {controller.name}")
        world.broker.start()
        world.wait_state(controller, "refused", f"{disk} is in use on the host: mounted on {folder}")
        expect(controller.driver() == "nvme", "the host keeps it")
        subprocess.run(["umount", folder], check=True)
        world.wait_in(controller, vm1, "vfio-pci")
    finally:
        subprocess.run(["umount", folder], capture_output=True)
        vm1.kill9()
        world.broker.stop()
        world.host.monitor.command("device_del", id="nvme1")
        world.host.monitor.wait_deleted("nvme1", 60)
        world.host.monitor.command("blockdev-del", node_name="nvme")


@story
def uninstall(world):
    """scripts/uninstall gives the host back what the rules kept from it. What a VM has stays there."""
    nic, = functions("10ec", "8139")
    sound, = functions("1274", "5000")
    vm1, vm2 = world.vm("vm1").start(), world.vm("vm2").start()
    world.configure(vm1.config(), NIC, vm2.config(), SOUND.replace("vm1", "vm2"), KEYBOARDS)
    world.broker.start()
    # As on most hosts; a module that comes now would look for devices by itself.
    subprocess.run(["modprobe", "usbhid"], check=True)
    keyboard = world.host.plug_keyboard()
    for device, driver, vm in ((nic, "vfio-pci", vm1), (sound, "vfio-pci", vm2), (keyboard, "usb-host", vm1)):
        world.wait_in(device, vm, driver)
    vm1.kill9()
    world.wait_state(nic, "waiting", "not running")
    world.wait_state(keyboard, "waiting", "not running")
    expect(nic.driver() == "vfio-pci" and not keyboard.drivers(), "the host keeps away from both")
    world.broker.stop()
    world.uninstall()
    wait_driver(nic, "8139cp")
    wait_until(lambda: keyboard.drivers() == ["usbhid"], 60, "the host has the keyboard")
    expect(sound.driver() == "vfio-pci" and vm2.host_ids(sound), "vm2 keeps its card")
    expect(not pathlib.Path(HELPER).exists(), "the programs are gone")
    vm2.kill9()
