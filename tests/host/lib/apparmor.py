"""AppArmor in the emulated host, with the profiles that Debian has for libvirt: loaded, libvirtd and every QEMU
that it starts are confined."""
import contextlib
import pathlib
import shutil
import subprocess

from . import libvirt
from .wait import expect

PACKAGES = pathlib.Path("/checkout/.build-host/apparmor")  # unpacked: tests/host/others
PROFILES = pathlib.Path("/etc/apparmor.d")
NAMES = ("usr.sbin.libvirtd", "usr.lib.libvirt.virt-aa-helper")
LOCAL = PROFILES / "local/abstractions/libvirt-qemu"
KERNEL = pathlib.Path("/sys/kernel/security/apparmor")
# As Debian has it: QEMU is nobody of importance, has a /dev of its own, and its profile. What is not remembered:
# libvirt.SETTINGS.
SETTINGS = ('user = "libvirt-qemu"\ngroup = "libvirt-qemu"\nsecurity_driver = "apparmor"\n'
            'stdio_handler = "file"\ncgroup_controllers = []\nremember_owner = 0\n')


def load(*profiles):
    done = subprocess.run(["apparmor_parser", "--replace", "--skip-cache", *profiles], capture_output=True, text=True)
    expect(done.returncode == 0, f"apparmor_parser: {done.stdout}{done.stderr}")


def _install():
    expect((PACKAGES / ".complete").exists(), "the packages of AppArmor could be fetched: see to the network")
    for folder in ("etc/apparmor.d", "etc/apparmor", "usr/share/apparmor-features"):
        shutil.copytree(PACKAGES / folder, f"/{folder}", dirs_exist_ok=True, symlinks=True)
    parser = next(path for path in (PACKAGES / "sbin", PACKAGES / "usr/sbin") if (path / "apparmor_parser").exists())
    shutil.copy(parser / "apparmor_parser", "/usr/sbin")
    for name in NAMES:  # as their packages' scripts do
        (PROFILES / "local" / name).touch()
    allow(())
    if not KERNEL.exists():
        subprocess.run(["mount", "-t", "securityfs", "securityfs", KERNEL.parent], check=True)
    expect(KERNEL.exists(), "the kernel has AppArmor")


@contextlib.contextmanager
def confining(settings=""):
    """Meanwhile libvirtd, started anew, and its domains are confined. They end with it. SETTINGS go to QEMU's."""
    _install()
    libvirt.DAEMON.end()
    load(*(PROFILES / name for name in NAMES))
    libvirt.DAEMON.settings = {"qemu.conf": SETTINGS + settings}
    try:
        yield libvirt.DAEMON.start()
    finally:
        libvirt.DAEMON.end()
        libvirt.DAEMON.settings = {}
        for name in ("libvirtd", "virt-aa-helper"):
            (KERNEL / ".remove").write_text(name)


def allow(lines):
    """What every QEMU of libvirt may besides, from its next start or load on."""
    LOCAL.parent.mkdir(parents=True, exist_ok=True)
    LOCAL.write_text("".join(f"{line}\n" for line in lines))


def label(pid):
    return pathlib.Path(f"/proc/{pid}/attr/current").read_text().strip("\n\0")
