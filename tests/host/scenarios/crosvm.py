"""Real devices into a stand-in for crosvm: what has no name but a port must not be mixed up."""
from lib.crosvm import CrosvmVm
from lib.story import story
from lib.wait import expect, stays, wait_until
from lib.world import KEYBOARDS

MICE = """
[usb Mice for vm2]
targetVm = vm2

[allow mice]
interfaceClass = 3
interfaceProtocol = 2
"""


def crosvm(world, name="vm1"):
    world.vms[name] = CrosvmVm(name)
    return world.vms[name].start()


def two_keyboards(world):
    vm1 = crosvm(world)
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    left, right = world.host.plug_keyboard(), world.host.plug_keyboard()
    world.wait_attached(left, vm1)
    world.wait_attached(right, vm1)
    return vm1, left, right


@story
def crosvm_keeps_twins_apart(world):
    """Two identical keyboards get two ports; when one is pulled out, the other stays, and the port
    is given to the next."""
    vm1, left, right = two_keyboards(world)
    expect(left.vid_pid == right.vid_pid, "they are twins")
    expect(sorted(vm1.ports()) == [1, 2], f"two ports are taken: {vm1.ports()}")
    row = world.db.assignment(right)
    port, = vm1.usb_ids(right)
    expect(f"port {port} " in row["reason"], f"the view says which port it has: {row['reason']}")
    left.unplug()
    wait_until(lambda: world.db.assignment(left) is None, 60, "it has no row any more")
    world.wait_history(left, "detach", "ok")
    expect(vm1.ports() == {port: right.node}, f"the other one stays: {vm1.ports()}")
    world.wait_state(right, "attached")
    third = world.host.plug_keyboard()
    world.wait_attached(third, vm1)
    expect(sorted(vm1.ports()) == [1, 2], f"the free port is used again: {vm1.ports()}")
    world.wait_history(right, "attach", "ok")
    expect(not world.db.history(right, "detach"), "nothing has happened to the one that stayed")


@story
def crosvm_and_a_restarted_broker(world):
    """Killed and restarted, the broker finds its devices on their ports, and leaves alone what is
    not on record; one that was pulled out meanwhile is gone."""
    vm1, left, right = two_keyboards(world)
    vm1.tell(f"foreign {left.attribute('idVendor')} {left.attribute('idProduct')} 2")
    before = vm1.ports()
    expect(before[3] == "foreign", f"somebody else has attached a twin: {before}")
    world.broker.kill9()
    world.broker.start()
    world.wait_attached(left, vm1)
    world.wait_attached(right, vm1)
    stays(lambda: vm1.ports() == before, 3, "every device stays where it was")
    expect(len(vm1.requests("AttachDevice")) == 2, "nothing is attached again")
    expect(not vm1.requests("DetachDevice"), "nothing is detached")
    world.broker.kill9()
    left.unplug()
    world.udev.settle()
    world.broker.start()
    wait_until(lambda: world.db.assignment(left) is None, 60, "it has no row any more")
    world.wait_attached(right, vm1)
    expect(sorted(vm1.ports().values()) == sorted(["foreign", right.node]),
           f"the other ones stay: {vm1.ports()}")


@story
def crosvm_answer_that_nobody_heard(world):
    """The broker is killed while crosvm carries out an attach. The next one finds the port that was
    taken, and the keyboard ends up in one."""
    vm1, left, right = two_keyboards(world)
    vm1.tell("late AttachDevice 3")
    third = world.host.plug_keyboard()
    wait_until(lambda: (row := world.db.rows("select handle from device where device = ?", third.name))
               and row[0]["handle"].startswith("crosvm-after-"), 60, "the attach is on record before its answer")
    world.broker.kill9()
    world.broker.start()
    world.wait_attached(third, vm1)
    world.wait_attached(left, vm1)
    world.wait_attached(right, vm1)
    expect(sorted(vm1.ports()) == [1, 2, 3], f"three ports are taken: {vm1.ports()}")


@story
def crosvm_guest_without_usb_driver(world):
    """Until the guest has a USB driver, the port that each attempt loses is freed, and no other; then
    the keyboard arrives by itself."""
    vm1 = crosvm(world)
    world.configure(vm1.config(), KEYBOARDS)
    world.broker.start()
    keyboard = world.host.plug_keyboard()
    world.wait_attached(keyboard, vm1)
    world.wait_history(keyboard, "attach", "ok")
    vm1.tell("guest off")
    other = world.host.plug_keyboard()
    world.wait_state(other, "waiting", "has not started its USB driver")
    wait_until(lambda: len(vm1.requests("AttachDevice")) >= 4, 60, "it is tried again and again")
    wait_until(lambda: vm1.ports() == {1: keyboard.node}, 20,
               lambda: f"no port is lost, and none too many freed: {vm1.ports()}")
    world.wait_history(other, "attach", "failed")
    vm1.tell("guest on")
    world.wait_attached(other, vm1)
    world.wait_attached(keyboard, vm1)
    expect(not world.db.history(keyboard, "detach"), "nothing has happened to the first one")


@story
def crosvm_killed_and_started_again(world):
    """crosvm dies by kill -9 and is started again: it gets its keyboards back."""
    vm1, left, right = two_keyboards(world)
    vm1.kill9()
    world.wait_state(left, "waiting", "vm1")
    world.wait_state(right, "waiting", "vm1")
    vm1.start()
    world.wait_attached(left, vm1)
    world.wait_attached(right, vm1)
    world.wait_history(left, "attach", "ok", 2)


@story(build="release")
def crosvm_that_hangs_delays_nobody_else(world):
    """While a crosvm does not answer, the view says so, and QEMU gets its mice as fast as before;
    when it answers again, nothing is lost or doubled."""
    vm1 = crosvm(world)
    vm2 = world.vm("vm2").start()
    world.configure(vm1.config(), vm2.config(), KEYBOARDS, MICE)
    world.broker.start()

    ports = iter(range(3, 15))

    def one_mouse():
        # Every port once, so that the history has each mouse's lines alone.
        mouse = world.host.plug_mouse(port=next(ports))
        world.wait_attached(mouse, vm2)
        attach, = world.wait_history(mouse, "attach", "ok")
        mouse.unplug()
        wait_until(lambda: world.db.assignment(mouse) is None, 60, "it has no row any more")
        return attach["milliseconds"]

    without = min(one_mouse() for _ in range(3))
    vm1.tell("hang")
    keyboard = world.host.plug_keyboard(port=1)
    world.wait_state(keyboard, "attaching", "does not answer")
    # A broker that waited for crosvm would be late each time; what else is late is the emulation.
    during = one_mouse()
    for _ in range(8):
        if during <= 1.2 * without:
            break
        during = min(during, one_mouse())
    print(f"a mouse's attach to QEMU: {without} ms, while crosvm hangs {during} ms")
    expect(during <= 1.2 * without, f"it took {without} ms before, and takes {during} ms now")
    vm1.tell("go")
    world.wait_attached(keyboard, vm1)
    expect(len(vm1.requests("AttachDevice")) == 1, "it was asked once")
