"""What a plug and an unplug cost: this project, the same host without it (the floor), and a peer if there is
one, measured in turns in one boot. Everything is a ratio within the run, or stands beside the floor's value:
emulation makes absolute times meaningless.

Times are the medians of all plugs, from the kernel's own event on. "device_add" and "device_del" are the moment
at which the program's call that carries the command into QEMU's socket returns."""
import json
import os
import pathlib
import statistics
import subprocess
import time

from lib import cgroup, contender
from lib.profile import OWN, profiled
from lib.trace import recording
from lib.uevents import KERNEL, UDEV, Listener
from lib.wait import Failed, wait_until
from lib.world import KEYBOARDS

TURNS, PLUGS = 2, 6
IDLE = 30  # seconds, in the last turn
REST = 15  # seconds before that: who has something to put away has done so
QUIET, BUSY = 0.5, 5  # everybody is through when they have used less than BUSY ms of processor time in QUIET seconds
PATIENCE = 20  # seconds, for that
UNDISTURBED = 2  # seconds after a plug or unplug in which nobody looks: that would be in the way
APPLIED = 4  # times a config that takes a device, and one that does not
SENDS = ("sendmsg", "sendto", "write")
HELPER = "vhotplug-helper"
OURS = ("vhotplug-broker", "vhotplug-worker", HELPER)
LISTED = 10  # system calls of each, those that take most of its time
UNLOADED = pathlib.Path("/etc/modprobe.d/cost.conf")


def sends_of(program):
    """Filters for the kernel's record: what PROGRAM sends, and how long our helper runs."""
    wanted = {f"syscalls__sys_exit_{call}": f'comm == "{program}" && ret > 40' for call in SENDS}
    return {**wanted, "sched__sched_stat_runtime": f'comm == "{HELPER}"'}


def sent_before(lines, program, read):
    """When PROGRAM's last call returned before QEMU had read the command at READ."""
    times = [when for when, who, what in lines if who == program and "sys_" in what and when <= read]
    if not times:
        raise Failed(f"the kernel's record has nothing that {program} sent before {read}")
    return times[-1]


def helper_ms(lines):
    """Processor time of the helper's runs, from the scheduler's own record."""
    words = [what for _, _, what in lines if "sched_stat_runtime" in what and f"comm={HELPER}" in what]
    return sum(int(word.split("runtime=")[1].split()[0]) for word in words) / 1e6


def settle(*groups):
    """Waits until a plug or an unplug is over for everybody."""
    def used():
        return sum(group.milliseconds() for group in groups)
    end, before = time.monotonic() + PATIENCE, used()
    while time.monotonic() < end:
        time.sleep(QUIET)
        now = used()
        if now - before < BUSY:
            return
        before = now


class Measured:
    """What one turn of one contender has come to; lists have an entry for each plug."""

    def __init__(self):
        self.told, self.added, self.deleted = [], [], []
        self.program, self.worker, self.helper, self.system, self.processes = 0.0, 0.0, 0.0, 0.0, 0.0
        self.kilobytes, self.resting, self.wakeups = 0, 0, 0

    def absorb(self, other):
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def one_plug(world, vm, who, udevd, measured, lines, epoch):
    """Plugs a keyboard, waits, pulls it out, waits. EPOCH: time.time() when time.monotonic() was 0."""
    with Listener(KERNEL) as kernel, Listener(UDEV) as udev:
        keyboard = world.host.plug_keyboard()
        path = f"/{keyboard.sys.resolve().relative_to('/sys')}"
        time.sleep(UNDISTURBED)
        if who.takes:
            wait_until(lambda: vm.commands('"device_add"'), 60, f"{who.name} hands it over")
        settle(who.group, udevd)
        keyboard.unplug()
        time.sleep(UNDISTURBED)
        if who.takes:
            wait_until(lambda: vm.commands('"device_del"'), 60, f"{who.name} takes it out")
        settle(who.group, udevd)
    began, gone = (kernel.first(ACTION=action, DEVPATH=path) - epoch for action in ("add", "remove"))
    measured.told.append(1000 * (udev.first(ACTION="add", DEVPATH=path) - epoch - began))
    if who.takes:
        record = lines()
        for word, since, times in (("device_add", began, measured.added), ("device_del", gone, measured.deleted)):
            read = vm.commands(f'"{word}"')[-1][0] - epoch
            times.append(1000 * (sent_before(record, who.program, read) - since))
    vm.trace.write_text("")


def spent(who, groups, lines):
    """What has been used so far: milliseconds of program, its worker, helpers, the whole system; processes made."""
    program = who.group.milliseconds()
    system = program + groups["udevd"].milliseconds() + groups["vm"].milliseconds()
    return program, who.worker.milliseconds() if who.worker else 0, helper_ms(lines()), system, cgroup.processes_made()


def one_turn(world, who, groups, idle):
    """A fresh VM, the contender started, PLUGS plugs; then nothing for REST and IDLE seconds, unless IDLE is 0."""
    vm = world.vm("vm1").start()
    groups["vm"].add(vm.process.pid)
    who.start(world, vm)
    settle(who.group, groups["udevd"])
    measured = Measured()
    epoch = time.time() - time.monotonic()
    try:
        with recording(**sends_of(who.program or "nobody")) as lines:
            one_plug(world, vm, who, groups["udevd"], Measured(), lines, epoch)  # the first one finds everything cold
            before = spent(who, groups, lines)
            for _ in range(PLUGS):
                one_plug(world, vm, who, groups["udevd"], measured, lines, epoch)
            after = spent(who, groups, lines)
        measured.program, measured.worker, measured.helper, measured.system, measured.processes = \
            ((new - old) / PLUGS for new, old in zip(after, before))
        measured.kilobytes = who.group.kilobytes()
        if idle:
            time.sleep(REST)
            measured.resting, wakeups = who.group.kilobytes(), who.group.wakeups()
            time.sleep(idle)
            measured.wakeups = who.group.wakeups() - wakeups
    finally:
        who.stop(world)
        world.host.unplug_all()
        vm.kill9()
    return measured


def middle(values):
    return statistics.median(values) if values else None


def figures(measured, floor, turns):
    """The table's numbers of one contender, after so many turns: name → value."""
    told, base = middle(measured.told), middle(floor.told)
    found = {"udevd's broadcast ÷ the floor's": told / base}
    if measured.added:
        found = {"device_add ÷ udevd's broadcast": middle([a / t for a, t in zip(measured.added, measured.told)]),
                 "device_add ÷ the floor's broadcast": middle(measured.added) / base, **found,
                 "device_del after the kernel's remove (ms)": middle(measured.deleted),
                 "device_del ÷ the floor's broadcast of a plug": middle(measured.deleted) / base}
    return {**found,
            "processor time of program and helpers (ms)": (measured.program + measured.helper) / turns,
            "– program (ms)": measured.program / turns,
            "– of it the worker, in which the host's driver lets go (ms)": measured.worker / turns,
            "– helpers (ms)": measured.helper / turns,
            "program, helpers, udevd and the VM's QEMU, above the floor (ms)": (measured.system - floor.system) / turns,
            "processes made above the floor": (measured.processes - floor.processes) / turns,
            "memory behind the last plug, PSS (MB)": measured.kilobytes / 1024 / turns,
            f"memory {REST} s later, PSS (MB)": measured.resting / 1024,
            f"wake-ups in {IDLE} s idle": measured.wakeups}


def once(command):
    """Milliseconds that it takes, and processes that are made for it."""
    made, began = cgroup.processes_made(), time.monotonic()
    command()
    return 1000 * (time.monotonic() - began), cgroup.processes_made() - made


def print_applying(world):
    """What it takes to apply a config, beside a call of udevadm, which it needs two of."""
    vm, keyboard = world.vm("vm1").config(), world.host.plug_keyboard()
    takes_none, takes_it = (vm,), (vm, KEYBOARDS)
    world.configure(*takes_none)
    world.udev.settle()
    reload, same, changed = [], [], []
    for parts in APPLIED * (takes_it, takes_none):
        reload.append(once(world.udev.reload))
        world.write_config(*parts)
        changed.append(once(world.apply))
        world.udev.settle()
        same.append(once(world.apply))
    keyboard.unplug()
    base = middle([milliseconds for milliseconds, _ in reload])
    for words, runs in (("that changes the answer for a device", changed), ("that changes nothing", same)):
        times, processes = zip(*runs)
        print(f"a config is applied {words}: {middle(times) / base:.1f} times udevadm control --reload, "
              f"{middle(processes):.0f} processes")


def print_table(results, turns):
    floor = results["floor"]
    columns = {name: figures(measured, floor, turns) for name, measured in results.items() if name != "floor"}
    rows = list(next(iter(columns.values())))
    print("| per plug and unplug | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for row in rows:
        print(f"| {row} | " + " | ".join(f"{column[row]:.2f}" for column in columns.values()) + " |")
    print("::figures " + json.dumps(columns))


def take_turns(world, contenders, groups, turns):
    """Measures them one after the other, TURNS times, and prints the table."""
    results = {who.name: Measured() for who in contenders}
    for turn in range(turns):
        for who in contenders:
            turned = one_turn(world, who, groups, IDLE if turn == turns - 1 else 0)
            results[who.name].absorb(turned)
            print(f"  turn {turn + 1}, {who.name}: broadcast {middle(turned.told):.0f} ms"
                  + (f", device_add {middle(turned.added):.0f} ms, device_del {middle(turned.deleted):.0f} ms"
                     if turned.added else "")
                  + f", processor time {turned.program + turned.helper:.0f} ms")
    print_table(results, turns)


def print_profile(world, ours, udevd):
    """Of each of our programs, in which system calls its processor time goes; of plugs that nothing else is asked about."""
    def plug():
        for _ in range(PLUGS):
            keyboard = world.host.plug_keyboard()
            time.sleep(UNDISTURBED)
            settle(ours.group, udevd)
            keyboard.unplug()
            time.sleep(UNDISTURBED)
            settle(ours.group, udevd)
    vm = world.vm("vm1").start()
    ours.start(world, vm)
    settle(ours.group, udevd)
    try:
        profile = profiled("vhotplug-*", plug)
    finally:
        ours.stop(world)
        world.host.unplug_all()
        vm.kill9()
    for name in OURS:
        took = profile.milliseconds[name]
        own, calls = took.pop(OWN, 0), sum(profile.times[name].values())
        listed = (f"{profile.times[name][call] / PLUGS:.0f} {call} {milliseconds / PLUGS:.1f}"
                  for call, milliseconds in took.most_common(LISTED))
        print(f"{name}: {(own + sum(took.values())) / PLUGS:.0f} ms, its own code {own / PLUGS:.0f},"
              f" {calls / PLUGS:.0f} system calls {sum(took.values()) / PLUGS:.0f}: {', '.join(listed)}")


def main(world):
    world.install("release")
    request = json.loads((pathlib.Path(os.environ["VHP_RUN"]) / "request.json").read_text())
    contenders = [contender.Floor(), contender.Ours()]
    if request.get("peer"):
        contenders.append(contender.Peer(request["peer"]))
    groups = {"udevd": cgroup.Group("udevd"), "vm": cgroup.Group("vm")}
    groups["udevd"].add(world.udev.process.pid)
    UNLOADED.write_text("blacklist usbhid\n")
    world.udev.reload()
    print("a keyboard, and no driver on the host")
    take_turns(world, contenders, groups, 1)
    UNLOADED.unlink()
    world.udev.reload()
    subprocess.run(["modprobe", "-a", "usbhid", "hid_generic"], check=True)
    print("a keyboard that the host's driver takes at once, as most do")
    take_turns(world, contenders, groups, TURNS)
    print("of which, by the kernel's record (which takes time itself):")
    print_profile(world, contenders[1], groups["udevd"])
    print_applying(world)
    return 0
