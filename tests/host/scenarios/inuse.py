"""What the host uses is not given away: each kind of use, of real parts."""
import contextlib
import fcntl
import os
import pathlib
import re
import struct
import subprocess

from lib.parts import functions, held_by_sleep, wait_driver
from lib.story import story
from lib.wait import expect, stays, wait_until
from lib.world import DISKS, KEYBOARDS, LOGS

NETWORK = "[usb Network]\ntargetVm = vm1\n[allow adapters]\nvendorId = 0525\n"


def _run(command):
    result = subprocess.run(command.split(), capture_output=True, text=True)
    expect(result.returncode == 0, f"{command}: {result.stderr}")
    return result.stdout


def _run_when_free(command):
    """udevd looks at a disk whenever somebody has written to it; it is busy for that long."""
    wait_until(lambda: subprocess.run(command.split(), capture_output=True).returncode == 0, 60, f"{command} can be done")


def _disk_of_the_host(world, **where):
    """A stick that the host has taken, before any rule."""
    subprocess.run(["modprobe", "-a", "usb-storage", "sd_mod"], check=True)
    disk = world.host.plug_disk(**where)
    name = wait_until(disk.block_device, 60, "the host has its disk")
    world.udev.settle()
    return disk, f"/dev/{name}"


@contextlib.contextmanager
def _held(path, flags):
    """Meanwhile a process called `sleep` has PATH open."""
    fd = os.open(path, flags)
    try:
        process = subprocess.Popen(["sleep", "1000"], stdin=fd)
    finally:
        os.close(fd)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _refused(world, device, vm, words, *config):
    """With CONFIG it is refused with WORDS; afterwards no rule claims it and no broker runs."""
    world.configure(vm.config(), *config)
    world.broker.start()
    world.wait_state(device, "refused", words)
    expect(not vm.host_ids(), f"the VM has {vm.host_ids()}")
    world.broker.stop()
    world.configure(vm.config())


# ---- disks

@contextlib.contextmanager
def _swap_partition(node):
    table = bytearray(512)
    table[446:462] = struct.pack("<B3sB3sII", 0, b"\0\0\0", 0x82, b"\0\0\0", 2048, 16384)
    table[510:] = b"\x55\xaa"
    pathlib.Path(node).write_bytes(table)
    _run_when_free(f"blockdev --rereadpt {node}")
    wait_until(pathlib.Path(f"{node}1").exists, 60, "it has a partition")
    _run("udevadm settle")
    _run_when_free(f"mkswap {node}1")
    _run_when_free(f"swapon {node}1")
    yield "swap space"
    _run_when_free(f"swapoff {node}1")
    pathlib.Path(node).write_bytes(bytes(4096))
    _run_when_free(f"blockdev --rereadpt {node}")


@contextlib.contextmanager
def _lvm(node):
    _run_when_free(f"pvcreate -ff -y {node}")
    _run_when_free(f"vgcreate vhpvg {node}")
    _run("lvcreate -y -Wn -Zn --noudevsync -l 100%FREE -n data vhpvg")
    yield r"part of the LVM volume vhpvg-data \(dm-"
    _run_when_free("vgremove -f vhpvg")
    _run_when_free(f"pvremove {node}")


@contextlib.contextmanager
def _luks(node):
    key = LOGS / "key"
    key.write_text("a key")
    _run_when_free(f"cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 {node} {key}")
    _run_when_free(f"cryptsetup open --key-file {key} {node} vhpluks")
    _run_when_free("mkfs.ext4 -q /dev/mapper/vhpluks")
    folder = LOGS / "luks"
    folder.mkdir(exist_ok=True)
    _run(f"mount /dev/mapper/vhpluks {folder}")
    yield rf"part of the unlocked LUKS device vhpluks \(dm-\d+\), which is mounted on {folder}"
    _run(f"umount {folder}")
    _run_when_free("cryptsetup close vhpluks")


@contextlib.contextmanager
def _md(node):
    _run_when_free(f"mdadm --create /dev/md7 --run --force --level=1 --raid-devices=1 --metadata=1.2 {node}")
    yield "part of the RAID md7"
    _run_when_free("mdadm --stop /dev/md7")
    _run_when_free(f"mdadm --zero-superblock {node}")


def _end_bcache(node):
    for stop in pathlib.Path("/sys/block").glob("*/bcache/stop"):
        with contextlib.suppress(OSError):
            stop.write_text("1")
    return subprocess.run(["wipefs", "-a", node], capture_output=True).returncode == 0


@contextlib.contextmanager
def _bcache(node):
    _run("modprobe bcache")
    _run_when_free(f"wipefs -a {node}")
    _run_when_free(f"make-bcache --wipe-bcache -B {node}")
    with contextlib.suppress(OSError):  # udevd may have been first
        pathlib.Path("/sys/fs/bcache/register").write_text(node)
    wait_until(pathlib.Path("/sys/block/bcache0").exists, 60, "there is a bcache0")
    yield "part of (a )?bcache"
    # udevd makes one anew whenever somebody has written to it, of a loop device on it too.
    wait_until(lambda: _end_bcache(node), 60, "bcache has let go of it")


@contextlib.contextmanager
def _loop(node):
    _run("modprobe loop")
    loop = _run(f"losetup --find --show {node}").strip()
    yield f"{loop.removeprefix('/dev/')} is made of it"
    _run(f"losetup -d {loop}")
    # It goes when udevd, too, has closed it.
    wait_until(lambda: not _run(f"losetup --noheadings --associated {node}"), 60, "it is gone")


@contextlib.contextmanager
def _exclusive(node):
    with _held(node, os.O_RDONLY | os.O_EXCL) as process:
        yield rf"sleep \(process {process.pid}\) has it for itself alone"


@contextlib.contextmanager
def _writer(node):
    with _held(node, os.O_RDWR) as process:
        yield rf"sleep \(process {process.pid}\) has it open for writing"


@contextlib.contextmanager
def _reader(node):
    with _held(node, os.O_RDONLY) as process:
        yield rf"sleep \(process {process.pid}\) has it open$"


@contextlib.contextmanager
def _generic(node):
    _run("modprobe sg")
    name = next(pathlib.Path(f"/sys/block/{pathlib.Path(node).name}/device/scsi_generic").iterdir()).name
    wait_until(pathlib.Path(f"/dev/{name}").exists, 60, "there is an sg node")
    with _held(f"/dev/{name}", os.O_RDWR):
        yield f"/dev/{name} is in use on the host: sleep"


@story(seconds=70)
def every_use_of_a_disk(world):
    """A stick is in use in one way after the other: refused each time, and the words say how. Then
    nobody uses it, and it goes."""
    disk, node = _disk_of_the_host(world)
    vm1 = world.vm("vm1").start()
    for use in (_swap_partition, _lvm, _luks, _md, _bcache, _loop, _exclusive, _writer, _reader, _generic):
        with use(node) as words:
            _refused(world, disk, vm1, words, DISKS)
        world.udev.settle()
        expect(disk.drivers() == ["usb-storage"], f"{use.__name__}: the host keeps it")
    _run_when_free(f"wipefs -a {node}")
    _run_when_free(f"mkfs.ext4 -q -L disk1 {node}")  # as other stories expect it
    world.configure(vm1.config(), DISKS)
    world.broker.start()
    world.wait_attached(disk, vm1)


@story(seconds=25)
def raw_disk_of_another_vm(world):
    """A stick that another VM has as its disk, by its command line, for writing or for reading only."""
    disk, node = _disk_of_the_host(world)
    vm1 = world.vm("vm1").start()
    for option in ("", ",read-only=on"):
        vm2 = world.vm("vm2", arguments=("-blockdev", f"host_device,node-name=raw,filename={node}{option}")).start()
        _refused(world, disk, vm1, rf"{node} is in use on the host: qemu-system-x86 \(process {vm2.process.pid}\)",
                 DISKS)
        vm2.kill9()
    world.configure(vm1.config(), DISKS)
    world.broker.start()
    world.wait_attached(disk, vm1)


def _function(vendor, device):
    """Of those, the one that the machine has from the start."""
    return functions(vendor, device)[0]


def _rule(function):
    return f"[pci A function]\ntargetVm = vm1\n[allow it]\naddress = {function.name}"


@contextlib.contextmanager
def _mounted(node):
    folder = LOGS / "in-use"
    folder.mkdir(exist_ok=True)
    _run(f"mount {node} {folder}")
    try:
        yield folder
    finally:
        _run(f"umount {folder}")


@story
def disk_behind_five_hubs(world):
    """A USB controller is not given away while a disk behind five hubs on it is mounted."""
    controller, port = _function("1b36", "000d"), "1"
    for _ in range(5):
        hub = world.host.plug_hub(port=port)
        # What is plugged into a hub whose driver is only starting goes unnoticed now and then.
        wait_until(lambda: list(hub.sys.glob("*:1.0/*-port8")), 60, f"the driver of {hub} has its ports")
        world.udev.settle()
        port += ".1"
    disk, node = _disk_of_the_host(world, port=port)
    vm1 = world.vm("vm1").start()
    with _mounted(node) as folder:
        _refused(world, controller, vm1, f"{node} is in use on the host: mounted on {folder}", _rule(controller))
        expect(controller.driver() == "xhci_hcd" and disk.is_there(), "the host keeps it")


@story
def nvme_of_several_paths(world):
    """An NVMe controller that is one way of several to its disk: mounted it stays, idle it goes."""
    controller = _function("1b36", "0010")
    wait_driver(controller, "nvme")
    path = wait_until(lambda: next(controller.sys.glob("nvme/nvme*/nvme*c*n*"), None), 60,
                      "its disk is one of several paths")
    expect(not (path / "dev").exists(), "the path has no node")
    head = pathlib.Path("/dev") / re.sub(r"c\d+", "", path.name)
    vm1 = world.vm("vm1").start()
    world.udev.wait_disk(head.name)
    with _mounted(head) as folder:
        _refused(world, controller, vm1, f"{head} is in use on the host: mounted on {folder}", _rule(controller))
        expect(controller.driver() == "nvme", "the host keeps it")
    world.configure(vm1.config(), _rule(controller))
    world.broker.start()
    world.wait_in(controller, vm1, "vfio-pci")
    vm1.kill9()
    world.configure(vm1.config())
    wait_driver(controller, "nvme")


# ---- PCI

@story
def physical_function_with_virtual_ones(world):
    """A function whose virtual functions exist is refused before anything is unbound; the reason names
    them and who has them."""
    controller = _function("1b36", "0010")
    wait_driver(controller, "nvme")
    vm1 = world.vm("vm1").start()
    (controller.sys / "sriov_drivers_autoprobe").write_text("0")
    (controller.sys / "sriov_numvfs").write_text("2")
    try:
        first, second = (os.path.basename(os.readlink(controller.sys / f"virtfn{i}")) for i in (0, 1))
        vf = pathlib.Path("/sys/bus/pci/devices") / first
        _run("modprobe vfio-pci")
        (vf / "driver_override").write_text("vfio-pci")
        pathlib.Path("/sys/bus/pci/drivers_probe").write_text(first)
        group = pathlib.Path("/dev/vfio") / os.path.basename(os.readlink(vf / "iommu_group"))
        wait_until(group.exists, 60, "the virtual function's group has a node")
        with _held(group, os.O_RDWR) as process:
            _refused(world, controller, vm1,
                     rf"{controller.name} has 2 virtual function\(s\): {first} \(sleep \(process {process.pid}\)\),"
                     rf" {second} \(no driver\)", _rule(controller))
        expect(controller.driver() == "nvme", "its driver was never let go of")
    finally:
        (controller.sys / "sriov_numvfs").write_text("0")


# ---- network

@contextlib.contextmanager
def _adapter(world):
    """With-block: a USB network adapter is plugged in. What is done to its interface is undone by its end."""
    with world.host.network_behind():
        adapter = world.host.plug_network()
        wait_until(lambda: list(adapter.sys.glob("*/net/*")), 60, "the host has its interface")
        world.udev.settle()  # which gives it another name
        interface, = adapter.sys.glob("*/net/*")
        try:
            yield adapter, interface.name
        finally:
            for interface in ("vhpbr", "vhpvlan", "vhptun", "vhpvrf"):
                subprocess.run(["ip", "link", "del", interface], capture_output=True)
            subprocess.run(["ip", "route", "flush", "table", "100"], capture_output=True)


@story(seconds=25)
def usb_adapter_with_the_only_default_route(world):
    """A USB network adapter that the host's only default route goes through, IPv4 or IPv6, alone or below
    a bridge on a VLAN: refused. With force it goes."""
    words = r"the host's only default route goes through it \({}\); force = yes"
    with _adapter(world) as (adapter, name):
        vm1 = world.vm("vm1").start()
        _run(f"ip link set {name} up")
        _run(f"ip addr add 10.0.9.15/24 dev {name}")
        _run(f"ip route add default via 10.0.9.2 dev {name}")
        _refused(world, adapter, vm1, words.format(name), NETWORK)
        _run("ip route del default")
        _run(f"ip -6 addr add fd00:9::2/64 dev {name} nodad")
        _run(f"ip -6 route replace default dev {name}")
        _refused(world, adapter, vm1, words.format(name), NETWORK)
        _run(f"ip addr flush dev {name}")
        _run(f"ip link add link {name} name vhpvlan type vlan id 5")
        _run("ip link add vhpbr type bridge")
        _run("ip link set vhpvlan master vhpbr")
        for interface in ("vhpvlan", "vhpbr"):
            _run(f"ip link set {interface} up")
        _run("ip addr add 10.0.9.15/24 dev vhpbr")
        _run("ip route add default via 10.0.9.2 dev vhpbr")
        _refused(world, adapter, vm1, words.format("vhpbr"), NETWORK)
        stays(pathlib.Path(f"/sys/class/net/{name}").exists, 2, "the host keeps it")
        world.configure(vm1.config(), NETWORK + "force = yes\n")
        world.broker.start()
        world.wait_attached(adapter, vm1)


@story
def usb_adapter_with_a_default_route_of_its_own(world):
    """One that only a rule's table, or a VRF, goes through; or a tunnel that is itself the default route, since
    nobody can tell what that goes through: refused, also when there is no route any more. With force it goes."""
    words = r"the host's only default route goes through it \({}\); force = yes"
    with _adapter(world) as (adapter, name):
        vm1 = world.vm("vm1").start()
        pathlib.Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        _run(f"ip link set {name} up")
        _run(f"ip addr add 10.0.9.15/24 dev {name}")
        _run(f"ip route add default via 10.0.9.2 dev {name} table 100")
        _refused(world, adapter, vm1, words.format(name), NETWORK)
        _run("ip route flush table 100")
        _run("ip link add vhpvrf type vrf table 77")
        _run("ip link set vhpvrf up")
        _run(f"ip link set {name} master vhpvrf")
        _run(f"ip route add default via 10.0.9.2 dev {name} table 77")
        _refused(world, adapter, vm1, words.format(name), NETWORK)
        _run("ip link del vhpvrf")
        _run("modprobe ipip")
        _run("ip link add vhptun type ipip remote 10.1.1.1 local 10.0.9.15")
        _run("ip link set vhptun up")
        _run("ip route add default dev vhptun")
        _run(f"ip route add 10.1.1.1 via 10.0.9.2 dev {name}")
        _refused(world, adapter, vm1, rf"default route goes through vhptun, and that perhaps through it \({name}\)", NETWORK)
        _run("ip link del vhptun")
        _refused(world, adapter, vm1, r"it has no default route just now; force = yes", NETWORK)
        world.configure(vm1.config(), NETWORK + "force = yes\n")
        world.broker.start()
        world.wait_attached(adapter, vm1)


# ---- USB

@story
def serial_line_that_a_program_has_open(world):
    """A serial adapter, and before it came under a rule a program has begun to listen to it: refused, and it is
    named. It goes when the program has ended."""
    _run("modprobe ftdi_sio")
    with world.host.line_behind():
        adapter = world.host.plug_serial()
        vm1 = world.vm("vm1").start()
        path = wait_until(lambda: next(adapter.sys.glob("*/ttyUSB*"), None), 60, "the host has its line")
        world.udev.settle()
        wait_until(pathlib.Path(f"/dev/{path.name}").exists, 60, "the line has a node")
        program = subprocess.Popen(["sleep", "600"], stdin=open(f"/dev/{path.name}", "rb", buffering=0))
        config = ("[usb Lines]", "targetVm = vm1", "[allow All]", "matchAll = yes")
        try:
            words = rf"/dev/{path.name} is in use on the host: sleep \(process {program.pid}\) has it open"
            _refused(world, adapter, vm1, words, *config)
            world.configure(vm1.config(), *config)
            world.broker.start()
            world.wait_state(adapter, "refused", "sleep")
        finally:
            program.kill()
            program.wait()
        world.wait_attached(adapter, vm1)


DISCONNECT = 0x5516
IOCTL = 0xc0105512
CLAIM = 0x8004550f


def _claim(fd):
    with contextlib.suppress(OSError):  # no driver
        fcntl.ioctl(fd, IOCTL, struct.pack("iiP", 0, DISCONNECT, 0))
    fcntl.ioctl(fd, CLAIM, struct.pack("I", 0))


def _claimed(device):
    """Meanwhile a process called `sleep` has claimed the device's first interface by usbfs."""
    return held_by_sleep(device.node, _claim)


@story
def claimed_by_a_program(world):
    """A program has claimed an interface before the rule came: refused, and the reason names it. It ends,
    and the device goes."""
    keyboard = world.host.plug_keyboard()
    world.udev.settle()
    vm1 = world.vm("vm1").start()
    with _claimed(keyboard) as process:
        world.configure(vm1.config(), KEYBOARDS)
        world.broker.start()
        world.wait_state(keyboard, "refused", rf"{keyboard.name} is held by sleep \(process {process.pid}\)")
        expect(not vm1.usb_ids(), "the VM has nothing")
        stays(lambda: process.poll() is None, 2, "the program keeps it")
    world.wait_attached(keyboard, vm1)


@story
def not_authorized_by_the_host(world):
    """A device that the host has not authorized waits for that, and then goes."""
    keyboard = world.host.plug_keyboard()
    world.udev.settle()
    (keyboard.sys / "authorized").write_text("0")
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    world.wait_state(keyboard, "waiting", "the host has not authorized it")
    expect(not vm1.usb_ids(), "the VM has nothing")
    (keyboard.sys / "authorized").write_text("1")
    world.wait_attached(keyboard, vm1)
