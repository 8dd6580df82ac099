"""The world of a story: the hardware, udevd, the broker, the VMs and the config, and the sentences
that need more than one of them. reset() makes it as it was before the story."""
import contextlib
import pathlib
import re
import resource
import shutil
import subprocess
import time

from . import vm as vms
from .broker import STATE, Broker, Database
from .host import Host
from .parts import give_back_all
from .sanitizers import REPORTS
from .udev import RULES, Udev
from .wait import Failed, expect, wait_until

CONFIG = pathlib.Path("/etc/vhotplug/vhotplug.conf")
TOP = pathlib.Path(__file__).resolve().parents[3]
HELPER = "/usr/libexec/vhotplug/vhotplug-helper"
RUNTIME = pathlib.Path("/run/vhotplug")
LOGS = pathlib.Path("/run/test")
PATIENCE = 120  # seconds until something that should happen has failed; emulation is slow, and two hosts may share two cores


class World:
    def __init__(self, request):
        for folder in (LOGS, REPORTS):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)
        # vfio locks all of a guest's memory; a VM of nobody must be allowed to.
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.stage = pathlib.Path(request["stage"])
        self.installed = None
        self.host = Host(request["images"])
        self.udev = Udev(LOGS / "udevd.log")
        self.broker = Broker(LOGS / "broker.log")
        self.db = Database()
        self.vms = {}
        self.mark()

    # ---- the programs

    def install(self, build):
        """Lays a staged build over the root."""
        if self.installed == build:
            return
        staged = self.stage / build
        subprocess.run(["cp", "-a", f"{staged}/.", "/"], check=True)
        shutil.rmtree("/etc/vhotplug", ignore_errors=True)
        (RULES / "66-vhotplug.rules").unlink(missing_ok=True)
        self.installed = build

    def uninstall(self):
        """As a user does it; the next story installs again. The manifest is what scripts/install writes."""
        staged = self.stage / self.installed
        manifest = pathlib.Path("/usr/share/vhotplug/manifest")
        manifest.parent.mkdir(exist_ok=True)
        manifest.write_text("".join(f"/{path.relative_to(staged)}\n" for path in staged.rglob("*") if path.is_file()))
        self.installed = None
        result = subprocess.run([TOP / "scripts/uninstall"], capture_output=True, text=True)
        expect(result.returncode == 0 and not result.stderr, f"scripts/uninstall: {result.stderr}")

    def take_sanitizer_reports(self):
        """What the sanitizers in any of our programs had to say, once."""
        reports = ""
        for path in sorted(REPORTS.iterdir()):
            reports += path.read_text(errors="replace")
            path.unlink()
        return reports

    # ---- the config

    def write_config(self, *parts):
        CONFIG.parent.mkdir(parents=True, exist_ok=True)
        CONFIG.write_text("\n".join(parts))

    def apply(self):
        """vhotplug-gen-rules, as an administrator calls it after an edit."""
        result = subprocess.run(["/usr/bin/vhotplug-gen-rules"], capture_output=True, text=True)
        expect(result.returncode == 0, f"vhotplug-gen-rules ended with {result.returncode}: {result.stderr}")

    def configure(self, *parts):
        self.write_config(*parts)
        self.apply()

    # ---- the VMs

    def vm(self, name="vm1", **how):
        """A VM of that name, not started yet."""
        self.vms[name] = vms.QemuVm(name, **how)
        return self.vms[name]

    # ---- sentences

    def wait_state(self, device, state, reason=None):
        """The view says STATE for the device, and its reason matches the regex REASON."""
        def seen():
            row = self.db.assignment(device)
            return row and row["state"] == state and re.search(reason or "", row["reason"] or "", re.I) and row

        def words():
            row = self.db.assignment(device)
            says = f"{row['state']} ({row['reason']})" if row else "nothing"
            return f"{device} is {state}" + (f" with a reason like '{reason}'" if reason else "") + \
                f"; the view says {says}"
        return wait_until(seen, PATIENCE, words)

    def wait_attached(self, device, vm):
        """The view says attached, QEMU has the device, once, and no host driver holds it."""
        self.wait_state(device, "attached")
        wait_until(lambda: vm.holds(device), PATIENCE, lambda: f"{vm.name} has {device} as {vm.usb_ids(device)}")
        # Again: the first answer may have been about what was in the same port before.
        row = self.wait_state(device, "attached")
        expect(row["vm"] == vm.name, f"{device} is attached to {row['vm']}, not {vm.name}")
        # A host's driver that has come meanwhile is made to let go.
        wait_until(lambda: not device.drivers(), PATIENCE, lambda: f"the host holds {device} by {device.drivers()}")
        return row

    def wait_in(self, device, vm, driver):
        """The view says attached to VM, and QEMU has the device once, as DRIVER. For any kind."""
        row = self.wait_state(device, "attached")
        expect(row["vm"] == vm.name, f"{device} is attached to {row['vm']}, not {vm.name}")
        wait_until(lambda: [vm.peripherals().get(ident) for ident in vm.host_ids(device)] == [driver], PATIENCE,
                   lambda: f"{vm.name} has {device} as {vm.host_ids(device)} in {vm.peripherals()}")
        return row

    def wait_gone(self, device, vm, detached=1):
        """The VM has nothing of the device any more, and the history has DETACHED clean detaches."""
        wait_until(lambda: not vm.usb_ids(device), PATIENCE, lambda: f"{vm.name} still has {vm.usb_ids(device)}")
        self.wait_history(device, "detach", "ok", detached)

    def wait_history(self, device, action, result, count=1):
        """The history has exactly COUNT such lines of the device."""
        def lines():
            return self.db.history(device, action, result)
        wait_until(lambda: len(lines()) >= count, PATIENCE,
                   lambda: f"{count} × {action} {result} of {device} in the history, there are {len(lines())}")
        expect(len(lines()) == count, f"{device} has {len(lines())} × {action} {result} in the history, not {count}")
        return lines()

    def keyboard_in_vm1(self, **how):
        """How many stories begin: vm1 runs, gets all keyboards, and one is plugged in."""
        vm1 = self.vm("vm1", **how).start()
        self.configure(vm1.config(), KEYBOARDS)
        self.broker.start()
        keyboard = self.host.plug_keyboard()
        self.wait_attached(keyboard, vm1)
        return keyboard, vm1

    # ---- between stories

    def mark(self):
        """From here on, logs belong to the next story."""
        self.since = time.clock_gettime(time.CLOCK_MONOTONIC)
        self.udev_mark = len(self.udev.log()) if self.udev.log_path.exists() else 0
        self.broker.log_path.unlink(missing_ok=True)

    def reset(self):
        """Takes everything away again. What goes wrong here fails the story: stopping the broker
        in good order is part of every one of them."""
        problems = []
        steps = [self.db.dump,  # the last states have words too
                 self.broker.thaw if self.broker.is_running() else None, self.host.unplug_all,
                 self.broker.stop, *(vm.kill9 for vm in self.vms.values()),
                 give_back_all]
        for step in filter(None, steps):
            try:
                step()
            except (Failed, OSError, subprocess.SubprocessError) as error:
                problems.append(f"afterwards: {error}")
        self.broker.kill9()
        CONFIG.unlink(missing_ok=True)
        (RULES / "66-vhotplug.rules").unlink(missing_ok=True)
        with contextlib.suppress(subprocess.SubprocessError):
            self.udev.reload()
            self.udev.settle()
        if self.db.speechless:
            problems.append(f"the view had rows without words: {sorted(self.db.speechless)}")
        self.db.speechless = set()
        self.vms = {}
        for folder in (STATE, RUNTIME, vms.RUN):
            shutil.rmtree(folder, ignore_errors=True)
        if problems:
            raise Failed("; ".join(problems))

    def evidence(self):
        """What a person needs to understand a failure."""
        dmesg = subprocess.run(["dmesg"], capture_output=True, text=True).stdout.splitlines()
        recent = [line for line in dmesg if (stamp := re.match(r"\[ *(\d+\.\d+)\]", line))
                  and float(stamp[1]) >= self.since - 1]
        parts = {"broker": self.broker.log(), "broker in the kernel": self.broker.kernel_stacks(), "database": self.db.dump(),
                 "udevd": self.udev.log()[self.udev_mark:], "kernel": "\n".join(recent),
                 **{f"QEMU {vm.name}": vm.log() for vm in self.vms.values() if vm.dir.exists()}}
        return "\n".join(f"--- {name}\n" + "\n".join(text.splitlines()[-60:]) for name, text in parts.items())


KEYBOARDS = """
[usb Devices for vm1]
targetVm = vm1

[allow keyboards]
interfaceClass = 3
interfaceProtocol = 1
"""

DISKS = """
[usb Disks for vm1]
targetVm = vm1

[allow disks]
interfaceClass = 8
"""
