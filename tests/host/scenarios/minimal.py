"""Hosts with less: busybox's mdev instead of udevd, OpenRC instead of systemd, and no process of ours between
one event and the next. A guest runs, and uses what it gets."""
import os
import pathlib
import signal

from lib.broker import number_in, of_process
from lib.minimal import (MDEV_CONF, decide_all, end_brokers, lines_of_the_manual, mdev, openrc, processes, rc, wait_none,
                         without_udevd)
from lib.story import story
from lib.wait import expect, wait_until
from scenarios.guests import MICE, click_arrives

OPENRC = ("openrc", "openrc", "insserv", "librc1", "libeinfo1")
ORPHAN = """
[usb Never]
targetVm = vm1

[allow a make that nobody has]
vendorId = ffff
"""


def plug_mouse(world, vm1):
    """It is plugged in, and the guest sees it and a click on it."""
    mouse = world.host.plug_mouse()
    world.wait_attached(mouse, vm1)
    vm1.console.wait_has(f"usb-{mouse.vid_pid}")
    click_arrives(world, vm1)
    return mouse


def unplug(world, mouse, vm1, times=1):
    ids = mouse.vid_pid
    mouse.unplug()
    world.wait_gone(mouse, vm1, times)
    vm1.console.wait_lost(f"usb-{ids}")


@story(guest=True, seconds=45)
def mdev_instead_of_udevd(world):
    """What mdev is told by the lines of the manual page is enough: plugged, the guest uses it; unplugged, gone;
    and after an edit of the config what is there moves."""
    vm1 = world.vm("vm1", guest=True)
    with without_udevd(world):
        vm1.start()
        MDEV_CONF.write_text(lines_of_the_manual())
        world.write_config(vm1.config(), MICE)
        world.broker.start()
        with mdev():
            mouse = plug_mouse(world, vm1)
            world.write_config(vm1.config(), ORPHAN)
            decide_all()
            world.broker.reload()
            world.wait_gone(mouse, vm1)
            wait_until(mouse.drivers, 60, "the host has it again")
            world.write_config(vm1.config(), MICE)
            decide_all()
            world.broker.reload()
            world.wait_attached(mouse, vm1)
            unplug(world, mouse, vm1, 2)
            again = plug_mouse(world, vm1)
            unplug(world, again, vm1, 3)


@story(guest=True, seconds=50)
def nothing_resident_and_no_service_manager(world):
    """mdev starts the broker for an event, and it ends: while a mouse is in the guest, and before and after, no
    process of ours runs. What starts the VM has it looked after with one line, and it has its mouse again."""
    vm1 = world.vm("vm1", guest=True)
    with without_udevd(world):
        vm1.start()
        MDEV_CONF.write_text(lines_of_the_manual("--start-broker"))
        world.write_config(vm1.config(), MICE)
        try:
            with mdev():
                wait_none("at first")
                mouse = plug_mouse(world, vm1)
                wait_none("while the guest has the mouse")
                click_arrives(world, vm1)
                vm1.kill9()
                vm1.start()
                decide_all("--start-broker")
                world.wait_attached(mouse, vm1)
                click_arrives(world, vm1)
                wait_none("after the VM's restart")
                unplug(world, mouse, vm1, 2)
                wait_none("after the unplug")
                expect(len(world.db.history(mouse, "attach", "ok")) == 2, world.db.dump)
        finally:
            end_brokers()


def broker_pid():
    """Not its worker's, nor of whatever that has started. (Numbers begin anew some time.)"""
    found = processes("vhotplug-broker")
    return next((pid for pid in found if number_in(of_process(pid, "status"), "PPid") not in found), 0)


@story(guest=True, fetches=OPENRC, seconds=50)
def openrc_and_mdev(world):
    """OpenRC starts mdev and the broker, restarts and reloads it, and starts it again when it is killed: the guest
    keeps its mouse throughout. It ends with the runlevel."""
    vm1 = world.vm("vm1", guest=True)
    with without_udevd(world):
        vm1.start()
        MDEV_CONF.write_text(lines_of_the_manual())
        world.write_config(vm1.config(), MICE)
        with openrc("vhotplug"):
            expect("started" in rc("rc-service", "vhotplug", "status"), "it is started")
            wait_until(pathlib.Path("/run/vhotplug/event.sock").exists, 60, "the broker listens")
            mouse = plug_mouse(world, vm1)
            ids = vm1.usb_ids(mouse)
            for change in ("restart", "reload", "kill"):
                before = broker_pid()
                if change == "kill":
                    os.kill(before, signal.SIGKILL)
                else:
                    rc("rc-service", "vhotplug", change)
                if change != "reload":
                    wait_until(lambda: broker_pid() not in (0, before), 60, f"another broker runs after the {change}")
                world.wait_attached(mouse, vm1)
                click_arrives(world, vm1)
                expect(vm1.usb_ids(mouse) == ids, f"the guest has kept it: {vm1.usb_ids(mouse)}, before: {ids}")
            expect(not world.db.history(mouse, "detach"), world.db.dump)
            unplug(world, mouse, vm1)
        wait_none("when OpenRC has stopped it")
