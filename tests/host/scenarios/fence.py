"""The fence: the host's services and drivers stay away from what is claimed, before they see it, and
while its VM is down."""
import subprocess

from lib.parts import functions
from lib.story import story
from lib.uevents import UDEV, Listener
from lib.wait import expect, stays, wait_until

MODULES = ("usbhid", "hid-generic", "usb-storage", "snd-usb-audio", "ftdi_sio", "cdc_ether", "rndis_host")
# What is plugged in, what becomes of it on the host, and what its services must be told about that.
CHILDREN = {
    "usb-kbd": ("input", {"LIBINPUT_IGNORE_DEVICE": "1"}),
    "usb-storage": ("block", {"UDISKS_IGNORE": "1", "SYSTEMD_READY": "0"}),
    "usb-audio": ("sound", {"PULSE_IGNORE": "1", "ACP_IGNORE": "1"}),
    "usb-serial": ("tty", {"ID_MM_PORT_IGNORE": "1", "ID_MM_DEVICE_IGNORE": "1"}),
    "usb-net": ("net", {"NM_UNMANAGED": "1"}),
}


@story
def children_are_fenced(world):
    """Whatever the host makes of a claimed device while its VM is down (its modules are loaded
    already), the first that anybody hears of it from udevd says: hands off."""
    subprocess.run(["modprobe", "-a", *MODULES], check=True)
    world.configure(world.vm("vm1").config(), "[usb Everything]", "targetVm = vm1", "[allow all]", "matchAll = yes")
    world.broker.start()
    world.host.monitor.command("chardev-add", id="line", backend={"type": "null", "data": {}})
    world.host.monitor.command("netdev_add", type="user", id="usbnet", restrict=True)
    more = {"usb-serial": {"chardev": "line"}, "usb-net": {"netdev": "usbnet"}}
    try:
        for driver, (subsystem, wanted) in CHILDREN.items():
            with Listener(UDEV) as told:
                device = world.host.plug_disk() if driver == "usb-storage" else \
                    world.host.plug(driver, driver, **more.get(driver, {}))
                path = str(device.sys.resolve())[len("/sys"):]

                def first():
                    return next((event for _, event in list(told.events) if event.get("SUBSYSTEM") == subsystem
                                 and event["ACTION"] == "add" and event["DEVPATH"].startswith(path + "/")), None)
                event = wait_until(first, 60, f"the host makes a {subsystem} of {driver}")
                found = {key: event.get(key) for key in wanted}
                expect(found == wanted, f"{driver}: udevd told of {event['DEVPATH']} with {found}, not {wanted}")
                expect(not any(event.get("ID_INPUT_KEY") == "1" for _, event in told.events
                               if event["DEVPATH"].startswith(path + "/")), "logind would take its power key")
            world.wait_state(device, "waiting", "not running")
            device.unplug()
    finally:
        world.host.unplug_all()
        world.host.monitor.command("netdev_del", id="usbnet")
        world.host.monitor.command("chardev-remove", id="line")


@story
def pci_module_is_not_let_near(world):
    """A claimed USB controller is plugged in while its VM is down: vfio-pci is set as its driver before the
    host's is asked, which never gets it. When the VM starts, it arrives."""
    vm1 = world.vm("vm1")
    world.configure(vm1.config(), "[pci USB]\ntargetVm = vm1\n[allow card]\nvendorId = 1033\ndeviceId = 0194")
    world.broker.start()
    world.host.monitor.command("device_add", driver="nec-usb-xhci", id="usb2", bus="rp3", addr="0")
    try:
        card, = wait_until(lambda: functions("1033", "0194"), 30, "the kernel sees it")
        world.udev.settle()
        expect(card.override() == "vfio-pci", f"driver_override is {card.override()}")
        subprocess.run(["modprobe", "xhci-pci"], check=True)
        stays(lambda: card.driver() in (None, "vfio-pci"), 3, "the host's driver does not have it")
        world.wait_state(card, "waiting", "not running")
        vm1.start()
        world.wait_in(card, vm1, "vfio-pci")
        vm1.kill9()
        world.configure(vm1.config())
        wait_until(lambda: card.driver() == "xhci_hcd", 60, "withdrawn, the host's driver has it")
    finally:
        vm1.kill9()
        world.host.monitor.command("device_del", id="usb2")
        world.host.monitor.wait_deleted("usb2", 60)
