"""In place of systemd-udevd-control.socket: the socket by which udevadm speaks to udevd, made as systemd makes it.

A udevd that makes its own asks for its writers' credentials (SO_PASSCRED) only after it has taken a
connection. What udevadm writes in between comes from uid 65534, and udevd, which then hangs up, ignores it:
"udevadm control" and "udevadm settle" have done nothing, and end with 0, or with "Broken pipe". Seen of udevd 252;
by hand: strace -e inject=setsockopt:delay_enter=400000 udevd, and inject=sendto:delay_enter=300000 udevadm settle.
From 262 on udevd is asked by Varlink, and makes that socket itself; so does eudev (EUDEV).
"""
import os
import pathlib
import socket
import subprocess
import time

PATH = pathlib.Path("/run/udev/control")
VARLINK = 262
PATIENCE = 300  # seconds; a busy machine has taken one minute


def _start_with_socket(udevd, options):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        control.bind(str(PATH))
        control.listen()
        # As sd_listen_fds(3) wants it: descriptor 3, and the process's own number in the environment.
        shell = ["sh", "-c", 'LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" 3<&0 </dev/null', "sh"]
        return subprocess.Popen([*shell, *udevd], stdin=control, **options)


def _start_alone(udevd, options):
    process = subprocess.Popen(udevd, stdin=subprocess.DEVNULL, **options)
    end = time.monotonic() + PATIENCE
    while not PATH.exists():
        if time.monotonic() > end:
            raise RuntimeError(f"{udevd[0]} makes no {PATH}")
        time.sleep(0.01)
    return process


def start(udevd, **options):
    """Starts the command UDEVD, with the OPTIONS of Popen; returns when it takes events."""
    PATH.parent.mkdir(exist_ok=True)
    PATH.unlink(missing_ok=True)
    if os.environ.get("EUDEV"):
        return _start_alone(udevd, options)
    version = subprocess.run(["udevadm", "--version"], check=True, capture_output=True, text=True).stdout
    process = (_start_with_socket if int(version.split()[0]) < VARLINK else _start_alone)(udevd, options)
    subprocess.run(["udevadm", "control", "--ping", f"--timeout={PATIENCE}"], check=True)
    return process
