"""PCI functions: into the VM by vfio-pci, and back to their host driver."""
import contextlib
import subprocess

from lib.parts import functions, wait_driver
from lib.story import story
from lib.wait import expect, stays, wait_until

NIC = """
[pci Network for vm1]
targetVm = vm1

[allow nic]
vendorId = 10ec
deviceId = 8139
"""


CARD = """
[pci Sound for vm1]
targetVm = vm1

[allow card]
vendorId = 8086
deviceId = 2415
"""


@contextlib.contextmanager
def sound_card(world, bus, addr="0"):
    """With-block: a sound card, of a kind that the host does not have otherwise, is plugged in."""
    monitor = world.host.monitor
    monitor.command("device_add", driver="AC97", audiodev="quiet", id="ac97", bus=bus, addr=addr)
    try:
        card, = wait_until(lambda: functions("8086", "2415"), 60, "the kernel sees it")
        yield card
    finally:
        for vm in world.vms.values():
            vm.kill9()
        world.broker.stop()
        if functions("8086", "2415"):
            monitor.command("device_del", id="ac97")
            monitor.wait_deleted("ac97", 60)
        world.udev.settle()  # it may be loading the module
        subprocess.run(["modprobe", "-r", "snd-intel8x0"], check=True)


def twins():
    """The two e1000 that share an IOMMU group, which are the host's."""
    first, second = functions("8086", "100e")
    expect(first.group == second.group, "they share a group")
    wait_hosts(first, second)
    return first, second


def wait_hosts(*cards):
    """The host's driver has these e1000."""
    for card in cards:
        wait_driver(card, "e1000")


def rules_for(*cards):
    """Rules that give vm1 these, one for each."""
    rules = [f"[allow {number}]\naddress = {card.name}\n" for number, card in enumerate(cards, 1)]
    return "".join(["[pci Group]\ntargetVm = vm1\n", *rules])


def stay_with_vfio(*cards):
    stays(lambda: all(card.driver() == "vfio-pci" for card in cards), 3, "the host takes none of them")


def stay_with_guest(world, *cards, why=""):
    """The guest of vm1 is asked for these and does not let go: it is waited for (WHY), and the host takes none."""
    for card in cards:
        world.wait_state(card, "releasing", f"waiting for the guest of vm1.*{why}")
    stay_with_vfio(*cards)
    for card in cards:
        row = world.db.assignment(card)
        expect(row and row["state"] == "releasing", lambda: f"{card} is waited for still: {tuple(row or ())}")


def wait_back(world, *cards):
    """The host has these e1000 again, and the broker is through with them."""
    wait_hosts(*cards)
    for card in cards:
        wait_until(lambda card=card: world.db.assignment(card) is None, 60, f"{card} has no row any more")


def wait_kept_by(world, card, other):
    """CARD has left vm1, and is not the host's, since vm1 has OTHER of its group; which it keeps."""
    world.wait_state(card, "waiting", f"not given back to the host yet: {other.name} of its IOMMU group is vm1's")
    stay_with_vfio(card, other)
    world.wait_state(other, "attached")


def _first_unclaimed(world):
    """vm1 has had both e1000 by a rule each, and the rule of the first is withdrawn. Returns vm1 and the two."""
    first, second = twins()
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), rules_for(first, second))
    world.broker.start()
    for function in (first, second):
        world.wait_in(function, vm1, "vfio-pci")
    world.configure(vm1.config(), rules_for(second))
    return vm1, first, second


def _group(rule="", group=""):
    """Rules for the first of the two e1000 that share an IOMMU group."""
    first = functions("8086", "100e")[0]
    return f"[pci Group]\ntargetVm = vm1\n{group}\n[allow first]\naddress = {first.name}\n{rule}\n"


@story
def nic_into_the_vm_and_back(world):
    """An RTL8139 moves into vm1, and when the rule is withdrawn and the guest has let go, its host
    driver has it again."""
    nic, = functions("10ec", "8139")
    wait_driver(nic, "8139cp")
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), NIC)
    world.broker.start()
    row = world.wait_in(nic, vm1, "vfio-pci")
    expect(row["vid_pid"] == "10ec:8139" and "8139" in row["name"], f"the view says {tuple(row)}")
    expect(nic.driver() == "vfio-pci", "vfio-pci holds it")
    attach, = world.wait_history(nic, "attach", "ok")
    expect(attach["cause"] == "coldplug", f"the cause is {attach['cause']}")
    # Nobody runs in the guest who could let go, until a reset.
    world.configure(vm1.config())
    world.wait_state(nic, "releasing", "waiting for the guest of vm1")
    expect(nic.driver() == "vfio-pci", "the host does not take it from under the VM")
    vm1.reset()
    wait_until(lambda: not vm1.host_ids(nic), 60, "the VM has let go of it")
    wait_driver(nic, "8139cp")
    expect(nic.override() is None, f"driver_override is {nic.override()}")
    detach, = world.wait_history(nic, "detach", "ok")
    expect(detach["cause"] == "config" and detach["vm"] == "vm1", f"the history says {tuple(detach)}")
    wait_until(lambda: world.db.assignment(nic) is None, 60, "it has no row any more")


@story
def nic_into_a_vm_of_nobody(world):
    """The same for a QEMU that runs as nobody: the group's node is his, and nobody else's."""
    nic, = functions("10ec", "8139")
    vm1 = world.vm("vm1", user="nobody").start()
    world.configure(vm1.config(), NIC)
    world.broker.start()
    world.wait_in(nic, vm1, "vfio-pci")
    expect(nic.group_node.stat().st_uid == 65534, f"its node belongs to {nic.group_node.stat().st_uid}")
    vm1.kill9()
    world.wait_state(nic, "waiting", "not running")
    world.configure(vm1.config())
    wait_driver(nic, "8139cp")


@story
def group_is_refused(world):
    """One of two functions that share an IOMMU group: refused, and the reason names the other."""
    first, second = functions("8086", "100e")
    expect(first.group == second.group, "they share a group")
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), _group())
    world.broker.start()
    row = world.wait_state(first, "refused", f"group {first.group} also holds {second.name}")
    expect("e1000" in row["reason"] and "pciIommuAddAll" in row["reason"], f"the reason is {row['reason']}")
    stays(lambda: (first.driver(), second.driver()) == ("e1000", "e1000"), 3, "both stay with the host")
    world.wait_history(first, "attach", "refused")
    expect(not vm1.host_ids(), "the VM has nothing")


@story
def group_is_left_alone(world):
    """With pciIommuSkipIfShared it is left alone, and the reason says so."""
    first, second = functions("8086", "100e")
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), _group("pciIommuSkipIfShared = yes"))
    world.broker.start()
    world.wait_state(first, "refused", rf"left alone \(pciIommuSkipIfShared\).*{second.name}")
    stays(lambda: (first.driver(), second.driver()) == ("e1000", "e1000"), 3, "both stay with the host")


@story
def group_goes_as_a_whole(world):
    """With pciIommuAddAll its neighbour goes with it, and comes back with it."""
    first, second = functions("8086", "100e")
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), _group(group="pciIommuAddAll = yes"))
    world.broker.start()
    world.wait_in(first, vm1, "vfio-pci")
    row = world.wait_in(second, vm1, "vfio-pci")
    expect(row["rule"] == "pci/Group/first", f"its rule is {row['rule']}")
    for function in (first, second):
        expect(len(world.db.history(function)) == 1, f"{function}: {[tuple(r) for r in world.db.history(function)]}")
    world.configure(vm1.config())
    for function in (first, second):
        world.wait_state(function, "releasing")
    with vm1.letting_go():
        for function in (first, second):
            wait_driver(function, "e1000")
            wait_until(lambda: world.db.assignment(function) is None, 60, f"{function} has no row any more")


@story
def group_by_rules(world):
    """Rules for both members do as well."""
    first, second = functions("8086", "100e")
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), "[pci Group]\ntargetVm = vm1\n[allow both]\nvendorId = 8086\ndeviceId = 100e")
    world.broker.start()
    world.wait_in(first, vm1, "vfio-pci")
    world.wait_in(second, vm1, "vfio-pci")


@story
def group_keeps_the_other(world):
    """The rule of one of two is withdrawn: it leaves when the guest has let go, the other one stays, and the host has
    none of them as long as it does. Then both."""
    vm1, first, second = _first_unclaimed(world)
    stay_with_guest(world, first)
    with vm1.letting_go():
        wait_kept_by(world, first, second)
        expect(vm1.host_ids() == vm1.host_ids(second) != [], f"vm1 has {vm1.host_ids()}")
        world.configure(vm1.config())
        wait_back(world, first, second)


@story
def group_of_a_vm_that_has_ended(world):
    """The rule of one of two is withdrawn, and their VM ends: the host has that one, and not the other one, which waits
    for the VM. It is refused when that is back, since the host has the one, and is the host's then."""
    vm1, first, second = _first_unclaimed(world)
    with vm1.letting_go():
        wait_kept_by(world, first, second)
    vm1.kill9()
    wait_back(world, first)
    world.wait_state(second, "waiting", "vm1 is not running")
    stay_with_vfio(second)
    vm1.start()
    world.wait_state(second, "refused", f"group {first.group} also holds {first.name}")
    wait_hosts(first, second)


@story
def no_port_left(world):
    """A VM with one PCIe port for two cards: the second waits, and the reason says what to do."""
    first, second = functions("8086", "100e")
    vm1 = world.vm("vm1", root_ports=1).start()
    world.configure(vm1.config(), "[pci Group]\ntargetVm = vm1\n[allow both]\nvendorId = 8086\ndeviceId = 100e")
    world.broker.start()
    world.wait_in(first, vm1, "vfio-pci")
    world.wait_state(second, "waiting", "no free PCIe port.*pcie-root-port")


@story
def ports_in_order(world):
    """pciBus names the ports and their order; the view says where a device is."""
    nic, = functions("10ec", "8139")
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config() + "pciBus = rp2, rp1\n", NIC)
    world.broker.start()
    row = world.wait_in(nic, vm1, "vfio-pci")
    expect("on rp2" in row["reason"], f"the reason is {row['reason']}")
    with vm1.monitor() as monitor:
        inside = monitor.command("qom-list", path="/machine/peripheral/rp2/rp2")
    expect(any(entry["name"].startswith("child[") for entry in inside), f"rp2 has {inside}")


@story
def bridge_is_never_given_away(world):
    """A rule that takes everything by its class takes no bridge: the host's buses stay its own."""
    ports = functions("1b36", "000c")
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), f"[pci Bridge]\ntargetVm = vm1\n[allow it]\naddress = {ports[0].name}\nforce = yes")
    world.broker.start()
    stays(lambda: ports[0].driver() == "pcieport" and ports[0].override() is None, 3, "its driver keeps it")
    expect(not world.db.assignments() and not vm1.host_ids(), "nobody wants it")
    answer = subprocess.run(["vhotplug-gen-rules", "--explain", ports[0].sys], capture_output=True, text=True)
    expect("bridges stay with the host" in answer.stdout, f"the reason is told: {answer.stdout} {answer.stderr}")


@story
def card_comes_and_goes(world):
    """A card that is plugged in while its VM runs is in it; pulled out, it leaves the VM when the guest
    lets go, and nothing is left of it."""
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config(), CARD)
    world.broker.start()
    with sound_card(world, "rp3") as card:
        world.wait_in(card, vm1, "vfio-pci")
        attach, = world.wait_history(card, "attach", "ok")
        expect(attach["cause"] == "plug", f"the cause is {attach['cause']}")
        world.host.monitor.command("device_del", id="ac97")
        # The kernel asks QEMU for it, sooner or later, and QEMU its guest.
        with vm1.letting_go():
            world.host.monitor.wait_deleted("ac97", 120)
        wait_until(lambda: world.db.assignment(card) is None, 60, "it has no row any more")
        detach, = world.wait_history(card, "detach", "ok")
        expect(detach["cause"] in ("unplug", "lost"), f"the cause is {detach['cause']}")
        expect(not vm1.host_ids(), "the VM has nothing left")


@story
def refused_card_is_the_hosts(world):
    """A card that the rules have set aside for vfio-pci before its driver came, and that is refused for its
    IOMMU group, is given back to the host's driver."""
    first, _ = functions("8086", "100e")
    vm1 = world.vm("vm1").start()
    world.configure(vm1.config())
    world.broker.start()
    wait_driver(first, "e1000")
    (first.sys / "driver/unbind").write_text(first.name)
    world.configure(vm1.config(), _group("force = yes"))
    world.wait_state(first, "refused", f"group {first.group} also holds")
    wait_driver(first, "e1000")
    stays(lambda: first.driver() == "e1000", 3, "the host keeps it")
