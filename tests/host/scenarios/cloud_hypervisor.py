"""A PCI card into cloud-hypervisor and back: with the real one the guest reads the disk that is on
it; the stand-in really opens its IOMMU group."""
import os

from lib.cloud_hypervisor import CloudHypervisorVm
from lib.kills import Kills
from lib.parts import functions, take_for_vfio, wait_driver
from lib.story import story
from lib.wait import expect, stays, wait_until
from scenarios import pci
from scenarios.people import ctl

IDS, TWINS = "1b36:0010", "8086:100e"
TIMES = int(os.environ.get("VMM_TIMES", "3"))
CARDS = """
[pci Disks]
targetVm = vm1

[allow the NVMe card]
vendorId = 1b36
deviceId = 0010
"""


def wait_hosts(card):
    """The host's driver has the card, and is through with its start: Linux 6.1 crashes when it is taken from
    the driver before."""
    wait_driver(card, "nvme")
    wait_until(lambda: any(card.sys.glob("nvme/nvme*/nvme*n*")), 60, "its disk is there")


def nvme():
    """The host's NVMe card."""
    card, = functions(*IDS.split(":"))
    wait_hosts(card)
    return card


def vm_with_card(world, card, **how):
    world.vms["vm1"] = CloudHypervisorVm("vm1", **how)
    vm1 = world.vms["vm1"].start()
    world.configure(vm1.config(), CARDS)
    world.broker.start()
    wait_has(world, vm1, card)
    return vm1


def wait_has(world, vm1, card):
    world.wait_state(card, "attached", "vm1 has it")
    expect(vm1.functions() == [card.name], f"vm1 has {vm1.functions()}")
    expect(card.driver() == "vfio-pci", f"{card.driver()} holds it")
    vm1.wait_reads("nvme")


def withdraw(world, vm1):
    world.configure(vm1.config())


def wait_back(world, vm1, card):
    wait_hosts(card)
    wait_until(lambda: world.db.assignment(card) is None, 60, "it has no row any more")
    expect(not vm1.functions(), f"vm1 has {vm1.functions()}")
    vm1.wait_lost(IDS)


@story
def cloud_hypervisor_gets_a_card_and_gives_it_back(world):
    """As often as VMM_TIMES says: it moves into the VM, the guest reads the disk on it, and the host's
    driver has it again when the rule is withdrawn. A rebooted guest has it still."""
    card = nvme()
    vm1 = vm_with_card(world, card)
    for _ in range(TIMES - 1):
        withdraw(world, vm1)
        wait_back(world, vm1, card)
        world.configure(vm1.config(), CARDS)
        wait_has(world, vm1, card)
    vm1.reboot()
    wait_has(world, vm1, card)
    withdraw(world, vm1)
    wait_back(world, vm1, card)
    world.wait_history(card, "attach", "ok", TIMES)


@story
def cloud_hypervisor_and_a_restarted_broker(world):
    """Killed and restarted, the broker finds by the VM's own list what it has, and asks for nothing
    again; what is no longer wanted meanwhile leaves."""
    card = nvme()
    vm1 = vm_with_card(world, card)
    world.broker.kill9()
    world.broker.start()
    world.wait_state(card, "attached")
    stays(lambda: vm1.functions() == [card.name], 2, "it stays there")
    expect(len(world.db.history(card, "attach")) == 1, "it was attached once")
    world.broker.kill9()
    withdraw(world, vm1)
    world.broker.start()
    wait_back(world, vm1, card)


@story
def cloud_hypervisor_that_is_paused(world):
    """A paused guest can't let go: the view says so, the host does not take the card from under it,
    and has it when the guest runs again."""
    card = nvme()
    vm1 = vm_with_card(world, card)
    vm1.set_paused(True)
    withdraw(world, vm1)
    world.wait_state(card, "releasing", "waiting for the guest of vm1 to let go of it: the VM is paused")
    stays(lambda: card.driver() == "vfio-pci", 3, "the host does not take it")
    vm1.set_paused(False)
    wait_back(world, vm1, card)


@story
def cloud_hypervisor_killed_and_started_again(world):
    """It dies by kill -9 and is started again: it gets its card back. Its socket file, left behind,
    misleads nobody."""
    card = nvme()
    vm1 = vm_with_card(world, card)
    vm1.kill9()
    world.wait_state(card, "waiting", "not running")
    vm1.start()
    wait_has(world, vm1, card)
    world.wait_history(card, "attach", "ok", 2)


@story
def cloud_hypervisor_with_a_card_from_its_start(world):
    """A card from its command line counts as attached, and leaves it when its rule is withdrawn."""
    card = nvme()
    take_for_vfio(card)
    world.vms["vm1"] = vm1 = CloudHypervisorVm("vm1", card=card).start()
    world.configure(vm1.config(), CARDS)
    world.broker.start()
    world.wait_state(card, "attached", "since the VM's start")
    vm1.wait_reads("nvme")
    withdraw(world, vm1)
    wait_back(world, vm1, card)


@story
def cloud_hypervisor_of_another_user(world):
    """It runs as nobody, who has no right on what vfio-pci has: the broker gives it the one group."""
    card = nvme()
    vm1 = vm_with_card(world, card, user="nobody")
    withdraw(world, vm1)
    wait_back(world, vm1, card)


def vm_with_twins(world):
    """A VM that has two cards which share an IOMMU group; returns it and them."""
    twins = pci.twins()
    world.vms["vm1"] = vm1 = CloudHypervisorVm("vm1").start()
    world.configure(vm1.config(), pci.rules_for(*twins))
    world.broker.start()
    wait_has_all(world, vm1, *twins)
    return vm1, *twins


def wait_has_all(world, vm1, *cards):
    for card in cards:
        world.wait_state(card, "attached", "vm1 has it")
    expect(sorted(vm1.functions()) == sorted(card.name for card in cards), f"vm1 has {vm1.functions()}")
    pci.stay_with_vfio(*cards)


@story
def cloud_hypervisor_gets_a_group_and_gives_it_back(world):
    """Two cards that share an IOMMU group, by a rule for each. Both rules are withdrawn: as long as the guest is paused
    and has them the host has none. It has both when the guest has let go, and when the VM has died instead."""
    vm1, *twins = vm_with_twins(world)
    for end in (lambda: vm1.set_paused(False), vm1.kill9):
        world.configure(vm1.config(), pci.rules_for(*twins))
        wait_has_all(world, vm1, *twins)
        vm1.set_paused(True)
        withdraw(world, vm1)
        pci.stay_with_guest(world, *twins, why="the VM is paused")
        end()
        pci.wait_back(world, *twins)


@story
def cloud_hypervisor_keeps_the_other_of_a_group(world):
    """The rule of one of two cards that share an IOMMU group is withdrawn: it leaves, the other one stays, and the host
    has none of them as long as it does. With its rule it comes back; without any, both are the host's."""
    vm1, first, second = vm_with_twins(world)
    world.configure(vm1.config(), pci.rules_for(second))
    pci.wait_kept_by(world, first, second)
    expect(vm1.functions() == [second.name] and vm1.opened(second), f"vm1 has {vm1.functions()}")
    world.configure(vm1.config(), pci.rules_for(first, second))
    wait_has_all(world, vm1, first, second)
    world.wait_history(second, "attach", "ok", 1)
    world.configure(vm1.config(), pci.rules_for(first))
    pci.wait_kept_by(world, second, first)
    withdraw(world, vm1)
    pci.wait_back(world, first, second)
    vm1.wait_lost(TWINS)


@story
def cloud_hypervisor_and_one_of_a_group_by_hand(world):
    """One of two cards that share an IOMMU group is taken out by hand, and the other one goes with it. It comes back by
    hand, and so does the first."""
    vm1, first, second = vm_with_twins(world)
    ctl("detach", first.name)
    for card in (first, second):
        world.wait_state(card, "detached", "taken out by hand; vhotplugctl attach gives it back")
    expect(not vm1.functions() and not vm1.opened(first), f"vm1 has {vm1.functions()}")
    vm1.wait_lost(TWINS)
    ctl("attach", second.name)
    wait_has_all(world, vm1, first, second)


@story(seconds=40)
def cloud_hypervisor_or_the_broker_killed_at_any_point(world):
    """Before a card comes or goes, while it does or after that, the broker dies by kill -9, or the VM does, or both,
    as often as VMM_TIMES says: when they are there again, the card is where its rule says."""
    card = nvme()
    vm1 = vm_with_card(world, card)
    attach, = world.db.history(card, "attach", "ok")
    kills = Kills(world, vm1, attach["milliseconds"] / 1000)
    for _ in range(TIMES):
        kills.around(card, lambda: withdraw(world, vm1))
        wait_back(world, vm1, card)
        kills.around(card, lambda: world.configure(vm1.config(), CARDS))
        # "attached" may be what a broker that has died knew of a VM that has died.
        wait_until(lambda: vm1.functions() == [card.name], 60, lambda: f"vm1 has it; it has {vm1.functions()}")
        wait_has(world, vm1, card)
    kills.tell()
