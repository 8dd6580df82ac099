"""A host with less: busybox's mdev in the place of udevd, and OpenRC in that of systemd."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess

from .wait import Failed, expect, wait_until

TOP = pathlib.Path(__file__).resolve().parents[3]
UNPACKED = TOP / ".build-host/openrc"
UDEV = pathlib.Path("/run/udev")
MDEV_CONF = pathlib.Path("/etc/mdev.conf")
MDEV = "/usr/libexec/vhotplug/vhotplug-mdev"
RUNLEVELS = ("sysinit", "boot", "default", "shutdown")
# Of the story: one of OpenRC's own kind of script, as Alpine has it.
MDEV_SERVICE = """#!/sbin/openrc-run
command=/bin/busybox
command_args="mdev -df"
command_background=yes
pidfile=/run/mdev.pid
"""


def processes(*names):
    """The processes whose names begin with one of NAMES."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if path.read_text().startswith(names):
                found.append(int(path.parent.name))
    return found


def wait_none(what):
    """Nothing of ours runs."""
    wait_until(lambda: not processes("vhotplug"), 60, lambda: f"nothing of ours runs {what}; there is {processes('vhotplug')}")


# As Alpine has it: it loads the host's drivers.
MODPROBE = '$MODALIAS=.* root:root 0660 @modprobe -q -b "$MODALIAS"\n'


def lines_of_the_manual(*options):
    """What the manual page has for /etc/mdev.conf, and what is there anyway."""
    page = (TOP / "helper/vhotplug-mdev.8.scd").read_text()
    lines = re.search(r"```\n(-SUBSYSTEM.*?)```", page, re.S)[1]
    return lines.replace("/vhotplug-mdev\n", " ".join(("/vhotplug-mdev", *options)) + "\n") + MODPROBE


def decide_all(*options):
    """What an administrator runs after a change of the config, where udev is not."""
    result = subprocess.run([MDEV, "--all", *options], capture_output=True, text=True)
    expect(result.returncode == 0, f"vhotplug-mdev --all ended with {result.returncode}: {result.stderr}")


@contextlib.contextmanager
def without_udevd(world):
    """Meanwhile nothing of systemd runs, and there is no udev database."""
    world.udev.stop()
    aside = UDEV.with_name("udev.aside")
    UDEV.rename(aside)
    try:
        wait_until(lambda: not processes("systemd", "(udev-worker)"), 60,
                   lambda: f"nothing of systemd runs; there is {processes('systemd', '(udev-worker)')}")
        yield
    finally:
        shutil.rmtree(UDEV, ignore_errors=True)
        aside.rename(UDEV)
        MDEV_CONF.unlink(missing_ok=True)
        world.udev.go_on()


@contextlib.contextmanager
def mdev():
    """Meanwhile it runs, as a daemon."""
    process = subprocess.Popen(["busybox", "mdev", "-df"], stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def end_brokers():
    """Whoever has started them."""
    for pid in processes("vhotplug-broker"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    wait_none("afterwards")


def rc(*command, status=0):
    # Not all of our environment: OpenRC cleans it for its services anyway.
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    expect(result.returncode == status, f"{' '.join(command)} ended with {result.returncode}: "
                                        f"{result.stdout[-1500:]}{result.stderr[-1500:]}")
    return result.stdout + result.stderr


@contextlib.contextmanager
def openrc(*services):
    """Meanwhile it is what starts and stops services: SERVICES in the runlevel default, the last of them ours,
    and mdev before them."""
    if not (UNPACKED / ".complete").exists():
        raise Failed("the package openrc is not here")
    # Not cp: /bin may be a link.
    subprocess.run(f"tar -C {UNPACKED} -c . | tar -C / -x --keep-directory-symlink", shell=True, check=True)
    init = pathlib.Path("/etc/init.d")
    ours = (TOP / "conf/vhotplug.openrc").read_text().replace("@CMAKE_INSTALL_FULL_SBINDIR@", "/usr/sbin")
    # Debian's other scripts there are of another init.
    shutil.rmtree(init)
    init.mkdir()
    for name, text in (("vhotplug", ours), ("mdev", MDEV_SERVICE)):
        (init / name).write_text(text)
        (init / name).chmod(0o755)
    shutil.rmtree("/etc/runlevels", ignore_errors=True)
    for level in RUNLEVELS:
        pathlib.Path("/etc/runlevels", level).mkdir(parents=True)
    rc("rc-update", "add", "mdev", "sysinit")
    for service in services:
        rc("rc-update", "add", service, "default")
    try:
        for level in RUNLEVELS[:-1]:
            rc("openrc", level)
        yield
    finally:
        rc("openrc", "shutdown")
        shutil.rmtree("/run/openrc")  # nobody is to take this for a host of its
