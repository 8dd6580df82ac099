"""The main job: what is plugged in arrives in its VM, what is pulled out is gone."""
import concurrent.futures
import subprocess

from lib.broker import DATABASE
from lib.story import story
from lib.trace import executions
from lib.wait import expect, stays, wait_until
from lib.world import HELPER, KEYBOARDS


@story
def plug_and_unplug(world):
    """A keyboard arrives in vm1, leaves it when pulled out, and the history says both."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    keyboard = world.host.plug_keyboard(serial="K1")
    row = world.wait_attached(keyboard, vm1)
    expect(row["rule"] == "usb/Devices for vm1/keyboards", f"the rule is {row['rule']}")
    expect(row["vid_pid"] == keyboard.vid_pid, f"vid_pid is {row['vid_pid']}")
    expect(row["port"] == keyboard.name.split("-")[1], f"the port is {row['port']}")
    attach, = world.wait_history(keyboard, "attach", "ok")
    expect(attach["cause"] == "plug" and attach["vm"] == "vm1", f"the history says {tuple(attach)}")
    expect(attach["rule"] == row["rule"] and attach["milliseconds"] > 0, f"the history says {tuple(attach)}")
    keyboard.unplug()
    world.wait_gone(keyboard, vm1)
    detach, = world.wait_history(keyboard, "detach", "ok")
    expect(detach["cause"] == "unplug" and detach["vm"] == "vm1", f"the history says {tuple(detach)}")
    wait_until(lambda: world.db.assignment(keyboard) is None, 60, "the keyboard has no row any more")


@story
def two_identical_keyboards(world):
    """Of two keyboards with the same everything, the one that is pulled out goes, the other stays."""
    first, vm1 = world.keyboard_in_vm1()
    second = world.host.plug_keyboard()
    world.wait_attached(second, vm1)
    expect(first.vid_pid == second.vid_pid, "they are alike")
    stayed = vm1.usb_ids(second)
    first.unplug()
    world.wait_gone(first, vm1)
    expect(vm1.usb_ids() == stayed, f"vm1 has {vm1.usb_ids()}, before it had {stayed} of the second")
    expect(not world.db.history(second, "detach"), "the second one never left")
    world.wait_attached(second, vm1)


@story
def ten_replugs(world):
    """In and out ten times: ten clean pairs in the history, and nothing piles up anywhere."""
    keyboard, vm1 = world.keyboard_in_vm1(paused=False)
    port = keyboard.name.split("-")[1]
    keyboard.unplug()
    world.wait_gone(keyboard, vm1)
    descriptors = world.broker.descriptors()
    for count in range(2, 11):
        keyboard = world.host.plug_keyboard(port=port)
        world.wait_attached(keyboard, vm1)
        keyboard.unplug()
        world.wait_gone(keyboard, vm1, count)
    story = [(row["action"], row["result"]) for row in world.db.history(keyboard)]
    expect(story == [("attach", "ok"), ("detach", "ok")] * 10, f"the history says {story}")
    expect(not vm1.usb_ids(), "no id is left in the VM")
    # QEMU 7.2 keeps the empty set of a descriptor that usb-host has closed; it holds nothing.
    wait_until(lambda: not any(fdset["fds"] for fdset in vm1.fdsets()), 60,
               lambda: f"no descriptor is left in a set: {vm1.fdsets()}")
    wait_until(lambda: vm1.descriptors("/dev/bus/usb") == 0, 60, "QEMU holds no device any more")
    wait_until(lambda: world.broker.descriptors() <= descriptors, 60,
               lambda: f"the broker has {world.broker.descriptors()} descriptors, it had {descriptors}")


@story
def behind_a_hub(world):
    """A keyboard behind a hub arrives like any other; the hub itself stays on the host."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), "[usb Everything]", "targetVm = vm1", "[allow all]", "matchAll = yes")
    world.broker.start()
    hub = world.host.plug_hub()
    keyboard = world.host.plug_keyboard(port=hub.name.split("-")[1] + ".2")
    row = world.wait_attached(keyboard, vm1)
    expect(row["port"] == hub.name.split("-")[1] + ".2", f"the port is {row['port']}")
    expect(world.db.assignment(hub) is None, "nobody wants the hub")
    # Hub and all at once: the keyboard goes with it.
    world.host.monitor.command("device_del", id=hub.ident)
    world.host.monitor.wait_deleted(hub.ident)
    world.host.plugged.clear()
    world.wait_gone(keyboard, vm1)


@story
def a_rule_that_denies(world):
    """A deny rule keeps one keyboard out of the group that takes all others."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS, "[deny that one]", "serial = SECRET")
    world.broker.start()
    denied = world.host.plug_keyboard(serial="SECRET")
    allowed = world.host.plug_keyboard(serial="OTHER")
    world.wait_attached(allowed, vm1)
    world.udev.settle()
    expect("VHOTPLUG_RULE" not in world.udev.properties(denied), "udev knows no rule for it")
    expect(not vm1.usb_ids(denied) and not world.db.history(denied), "it never went anywhere")
    wait_until(lambda: denied.drivers() == ["usbhid"], 60, "the host has it")


@story
def nobody_wants_it(world):
    """For a device that no rule wants udevd does not even start the helper."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    with executions(HELPER) as helper_starts:
        mouse = world.host.plug_mouse()
        world.udev.settle()
        mouse.unplug()
        world.udev.settle()
        expect(helper_starts() == 0, "the helper was not started")
        expect(not world.db.history(), "the history knows nothing of the mouse")
        keyboard = world.host.plug_keyboard()
        world.wait_attached(keyboard, vm1)
        world.udev.settle()
        # The host's driver may have been faster than QEMU: it has lost it by the time udevd tells of it.
        expect(helper_starts() == 1, f"for the keyboard it was started {helper_starts()} times")


@story
def qemu_without_permission(world):
    """QEMU runs as nobody and may not open the device's node; the keyboard arrives all the same."""
    vm1 = world.vm("vm1", user="nobody", paused=False).start()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    world.wait_attached(keyboard, vm1)
    open_it = ["/usr/bin/python3", "-c", f"open({keyboard.node!r}, 'r+b')"]
    attempt = subprocess.run(open_it, user="nobody", group="nogroup", extra_groups=[], capture_output=True, text=True)
    expect("Permission denied" in attempt.stderr, f"nobody may not open {keyboard.node}: {attempt.stderr}")
    keyboard.unplug()
    world.wait_gone(keyboard, vm1)


@story
def already_plugged_in(world):
    """A keyboard that was there before vhotplug is taken when the broker starts (attachConnected)."""
    keyboard = world.host.plug_keyboard()
    world.udev.settle()
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    world.wait_attached(keyboard, vm1)
    world.broker.stop()
    world.broker.start()
    stays(lambda: len(vm1.usb_ids(keyboard)) == 1, 3, "a restart of the broker changes nothing in the VM")
    world.wait_history(keyboard, "attach", "ok")
    expect(not world.db.history(keyboard, "detach"), "it never left")


def _goes_when_it_comes_again(world, keyboard, vm):
    port = keyboard.name.split("-")[1]
    keyboard.unplug()
    world.wait_attached(world.host.plug_keyboard(port=port), vm)


@story
def already_plugged_in_stays_out(world):
    """With attachConnected = no it is left alone until it is plugged in again."""
    keyboard = world.host.plug_keyboard()
    world.udev.settle()
    vm1 = world.vm("vm1").start()
    world.configure("[general]\nattachConnected = no", vm1.config(), KEYBOARDS)
    # The rules were applied while no broker ran: what they told the helper is not a plug.
    world.broker.start()
    world.wait_state(keyboard, "held", "attachConnected")
    expect(not vm1.usb_ids(), "vm1 has nothing")
    _goes_when_it_comes_again(world, keyboard, vm1)


@story
def plugged_in_while_no_broker_runs(world):
    """attachConnected = no, and a keyboard that comes while no broker runs: it is in no VM, and the host can use it
    as if there were no rules. Plugged in again it goes to the VM."""
    subprocess.run(["modprobe", "-a", "usbhid", "hid-generic"], check=True)
    vm1 = world.vm("vm1").start()
    world.configure("[general]\nattachConnected = no", vm1.config(), KEYBOARDS)
    keyboard = world.host.plug_keyboard()

    def is_shut():
        return {path.read_text().strip() for path in keyboard.sys.glob(f"{keyboard.name}:*/authorized")} == {"0"}
    wait_until(is_shut, 60, "the rules have set it aside")
    world.udev.settle()
    world.broker.start()
    world.wait_state(keyboard, "held", "attachConnected")
    wait_until(keyboard.drivers, 60, "the host has it back")
    expect(not is_shut() and not vm1.usb_ids(), "and vm1 has nothing")
    _goes_when_it_comes_again(world, keyboard, vm1)


@story
def reading_while_writing(world):
    """sqlite3 reads both views while the broker writes them, and after it has ended."""
    keyboard, vm1 = world.keyboard_in_vm1()
    port = keyboard.name.split("-")[1]

    def replug():
        device = keyboard
        for _ in range(4):
            device.unplug()
            device = world.host.plug_keyboard(port=port)
        return device

    with concurrent.futures.ThreadPoolExecutor() as pool:
        writer = pool.submit(replug)
        reads = 0
        while not writer.done() or reads < 5:
            _sqlite3("select * from assignments; select * from history")
            reads += 1
        device = writer.result()
    wait_until(lambda: vm1.holds(device), 60, "the last one is attached in the end, and no other")
    world.wait_attached(device, vm1)
    world.broker.stop()
    expect("attach" in _sqlite3("select action from history"), "it can be read without the broker too")


def _sqlite3(query):
    result = subprocess.run(["sqlite3", DATABASE, query], capture_output=True, text=True)
    expect(result.returncode == 0 and not result.stderr, f"sqlite3 said {result.stderr}")
    return result.stdout
