"""The emulated host itself: hardware, kernel and udevd, before any part of vhotplug takes part."""
from lib.story import story
from lib.wait import expect, wait_until


@story
def hardware_comes_and_goes(world):
    """A keyboard plugged in is in /sys and in udev's database; unplugged it is gone from both."""
    keyboard = world.host.plug_keyboard(serial="KBD-1")
    world.udev.settle()
    properties = world.udev.properties(keyboard)
    expect(properties["ID_SERIAL_SHORT"] == "KBD-1", f"udev has its serial number: {properties}")
    expect(":030101:" in properties["ID_USB_INTERFACES"], f"udev has its interfaces: {properties}")
    wait_until(lambda: keyboard.drivers() == ["usbhid"], 60, "the host's driver holds it")
    keyboard.unplug()
    expect(not keyboard.is_there(), "it is gone")
