"""The fence: the host's services and drivers stay away from what is claimed, before they see it, and
while its VM is down."""
import pathlib
import subprocess

from lib.parts import wait_driver
from lib.story import story
from lib.uevents import UDEV, Listener
from lib.wait import expect, look, stays, wait_until
from lib.world import DISKS, KEYBOARDS
from scenarios.pci import CARD, sound_card

# The rules keep udevd from loading a module for a claimed device; here all are loaded already.
MODULES = ("usbhid", "hid-generic", "usb-storage", "sd_mod", "snd-usb-audio", "ftdi_sio", "cdc_ether", "rndis_host")
# What is plugged in, what a driver would make of it, and what the host's services must be told about that.
CHILDREN = {
    "usb-kbd": ("input", {"LIBINPUT_IGNORE_DEVICE": "1"}),
    "usb-storage": ("block", {"UDISKS_IGNORE": "1", "SYSTEMD_READY": "0"}),
    "usb-audio": ("sound", {"PULSE_IGNORE": "1", "ACP_IGNORE": "1"}),
    "usb-serial": ("tty", {"ID_MM_PORT_IGNORE": "1", "ID_MM_DEVICE_IGNORE": "1"}),
    "usb-net": ("net", {"NM_UNMANAGED": "1"}),
}


def _plug(world, driver):
    plug = {"usb-storage": world.host.plug_disk, "usb-serial": world.host.plug_serial, "usb-net": world.host.plug_network}
    return plug[driver]() if driver in plug else world.host.plug(driver, driver)


@story
def children_are_fenced(world):
    """While its VM is down, a claimed device whose drivers are loaded already has none of them in the end. What
    a driver that was there first may have made of it, udevd tells with the words: hands off."""
    subprocess.run(["modprobe", "-a", *MODULES], check=True)
    world.configure(world.vm("vm1").config(), "[usb Everything]", "targetVm = vm1", "[allow all]", "matchAll = yes")
    world.broker.start()
    with world.host.line_behind(), world.host.network_behind():
        for driver, (subsystem, wanted) in CHILDREN.items():
            with Listener(UDEV) as told:
                device = _plug(world, driver)
                path = str(device.sys.resolve())[len("/sys"):] + "/"

                def children():
                    return [event for _, event in list(told.events) if event["DEVPATH"].startswith(path)]

                def told_of():
                    return [event for event in children() if event.get("SUBSYSTEM") == subsystem
                            and event["ACTION"] == "add"]
                wait_until(lambda: _is_shut(device), 60, f"the interfaces of {driver} are shut")
                world.udev.settle()
                stays(lambda: _is_shut(device) and not device.drivers(), 2,
                      lambda: f"no driver gets {driver}; {device.drivers()} has")

                def left():
                    return [path for path in device.sys.glob(f"{device.name}:*/**/uevent")
                            if path.parent.parent.name == subsystem]
                wait_until(lambda: not left(), 60, lambda: f"nothing of {driver} is left on the host: {left()}")
                for event in told_of():
                    found = {key: event.get(key) for key in wanted}
                    expect(found == wanted, f"{driver}: udevd told of {event['DEVPATH']} with {found}, not {wanted}")
                expect(not any("power-switch" in event.get("TAGS", "") for event in children()),
                       "logind would take its power key")
            world.wait_state(device, "waiting", "not running")
            device.unplug()


@story
def module_is_not_let_near(world):
    """A claimed sound card is plugged in while its VM is down: driver_override says vfio-pci before udevd
    loads the host's module, which does not get it. Withdrawn, the host has it."""
    vm1 = world.vm("vm1")
    world.configure(vm1.config(), CARD)
    world.broker.start()
    module = pathlib.Path("/sys/module/snd_intel8x0")
    expect(not module.exists(), "no card of the kind was here before")
    with sound_card(world, "rp3") as card:
        wait_until(module.exists, 60, "udevd has begun to load the host's module")
        expect(card.override() == "vfio-pci", f"driver_override is {card.override()}")
        stays(lambda: card.driver() in (None, "vfio-pci"), 3, "the host's driver does not have it")
        world.wait_state(card, "waiting", "not running")
        vm1.start()
        world.wait_in(card, vm1, "vfio-pci")
        vm1.kill9()
        world.configure(vm1.config())
        wait_driver(card, "snd_intel8x0")


@story
def card_that_comes_while_no_broker_runs(world):
    """With attachConnected = no such a card is in no VM, and the host has it, though the rules have kept its driver
    from it."""
    vm1 = world.vm("vm1").start()
    world.configure("[general]\nattachConnected = no", vm1.config(), CARD)
    with sound_card(world, "rp3") as card:
        wait_until(lambda: card.override() == "vfio-pci", 60, "the rules have set it aside")
        world.udev.settle()
        expect(card.driver() is None, f"{card.driver()} has it")
        world.broker.start()
        world.wait_state(card, "held", "attachConnected")
        wait_driver(card, "snd_intel8x0")


def _load_keyboard_drivers():
    subprocess.run(["modprobe", "-a", "usbhid", "hid-generic"], check=True)


def _is_shut(device):
    return {path.read_text().strip() for path in device.sys.glob(f"{device.name}:*/authorized")} == {"0"}


def _is_unusable(device):
    """Nothing of it is to be seen on the host but the device itself."""
    return _is_shut(device) and not device.drivers() and \
        not any(next(device.sys.glob(f"**/{kind}"), None) for kind in ("input*/event*", "hidraw*", "block"))


def _stays_unusable(device):
    wait_until(lambda: _is_unusable(device), 60, "the host can't use it")
    stays(lambda: _is_unusable(device), 3, "the host can't use it")


@story
def keyboard_of_a_vm_that_is_down(world):
    """The host's drivers are loaded, and no broker runs: a claimed keyboard is of no use to the host from
    its first event on. Nor is it after its VM had it, whether the VM or the rule goes first; withdrawn, it
    types on the host."""
    _load_keyboard_drivers()
    vm1 = world.vm("vm1")
    world.configure(vm1.config(), KEYBOARDS)
    keyboard = world.host.plug_keyboard()
    world.udev.settle()
    _stays_unusable(keyboard)
    world.broker.start()
    world.wait_state(keyboard, "waiting", "not running")
    _stays_unusable(keyboard)
    vm1.start()
    world.wait_attached(keyboard, vm1)
    expect(look(lambda: not _is_shut(keyboard)), "the VM can use it")
    world.udev.trigger("add", keyboard)
    world.udev.settle()
    expect(look(lambda: not _is_shut(keyboard)), "a trigger takes nothing from the VM")
    vm1.kill9()
    world.wait_state(keyboard, "waiting", "not running")
    _stays_unusable(keyboard)
    world.configure(vm1.config())
    wait_until(lambda: keyboard.drivers() == ["usbhid"], 60, "the host types on it again")


@story(seconds=20)
def keyboard_of_the_host_becomes_a_vms(world):
    """A keyboard that the host types on is claimed by a rule while its VM is down. The broker dies, the rule
    is withdrawn: the host has it back without a broker. So it is after uninstalling."""
    _load_keyboard_drivers()
    keyboard = world.host.plug_keyboard()
    wait_until(lambda: keyboard.drivers() == ["usbhid"], 60, "the host types on it")
    world.udev.settle()
    vm1 = world.vm("vm1")
    for way_back in (lambda: world.configure(vm1.config()), world.uninstall):
        world.configure(vm1.config(), KEYBOARDS)
        world.broker.start()
        world.wait_state(keyboard, "waiting", "not running")
        _stays_unusable(keyboard)
        world.broker.kill9()
        expect(look(lambda: _is_unusable(keyboard)), "a broker that died has changed nothing")
        way_back()
        wait_until(lambda: keyboard.drivers() == ["usbhid"] and not _is_shut(keyboard), 60, "the host types on it again")


@story
def disk_of_the_host_is_not_fenced(world):
    """A disk that was mounted before the rule came stays the host's while the VM is down; unmounted, it goes
    when the VM starts."""
    subprocess.run(["modprobe", "-a", "usb-storage", "sd_mod"], check=True)
    disk = world.host.plug_disk()
    wait_until(disk.block_device, 60, "the host has its disk")
    world.udev.settle()
    folder = pathlib.Path("/run/test/used")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", f"/dev/{disk.block_device()}", folder], check=True)
    vm1 = world.vm("vm1")
    try:
        world.configure(vm1.config(), DISKS)
        world.broker.start()
        world.wait_state(disk, "waiting", "not running")
        stays(lambda: disk.drivers() == ["usb-storage"] and not _is_shut(disk), 5, "the host keeps it")
        (folder / "file").write_text("still writable")
    finally:
        subprocess.run(["umount", folder], check=True)
    vm1.start()
    world.wait_attached(disk, vm1)


@story
def host_driver_that_comes_later(world):
    """A device that a VM has gets its interfaces anew, and a host driver with them: it is made to let go."""
    _load_keyboard_drivers()
    keyboard, vm1 = world.keyboard_in_vm1()
    with Listener(UDEV) as told:
        for value in ("0", "1"):
            (keyboard.sys / "authorized").write_text(value)
        path = str(keyboard.sys.resolve())[len("/sys"):] + "/"
        wait_until(lambda: [event for _, event in list(told.events) if event["DEVPATH"].startswith(path)
                            and event["ACTION"] == "bind" and event.get("DEVTYPE") == "usb_interface"], 60,
                   "a host driver has got it")
    wait_until(lambda: not keyboard.drivers(), 60,
               lambda: "the host's driver has let go; the broker has heard of "
                       f"{[tuple(row) for row in world.db.rows('select action, devpath from event')]}")
    stays(lambda: not keyboard.drivers() and world.db.assignment(keyboard)["state"] == "attached", 3, "the VM has it")
