#!/usr/bin/python3
"""The completion of vhotplugctl, typed into a real bash, and into a real zsh where there is one: a line, the
tabulator key, and what has become of the line.

    test-completion.py VHOTPLUGCTL API_SERVER   (the built programs; the last one a stand-in for the broker)"""
import grp
import json
import os
import pathlib
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
CTL, SERVER = (pathlib.Path(argument).resolve() for argument in sys.argv[1:3])
PATIENCE = 60
DEVICES = [
    {"sys_name": "1-3", "vid": "046d", "pid": "c52b", "vendor_name": "Receiver", "busnum": 1, "portnum": 3,
     "vms": "vm1,vm2", "vm": "vm1"},
    {"sys_name": "2-7.1", "vid": "046d", "pid": "c52b", "vendor_name": "Unclaimed", "busnum": 2, "portnum": 7, "vms": ""},
    {"address": "0000:00:14.3", "vid": "8086", "did": "02F0", "vendor_name": "Wireless", "vms": "vm1", "vm": "vm1"}]
# Before the key, and after it.
CASES = [("det", "detach "), ("vmm", "vmm-args "), ("list --a", "list --all "), ("detach 1", "detach 1-3 "),
         ("--json detach 1", "--json detach 1-3 "), ("explain 2", "explain 2-7.1 "), ("detach 2", "detach 2"),
         ("select 1-3 left", "select 1-3 left "), ("attach 1-3 --vm ri", "attach 1-3 --vm right "),
         ("history --device 1", "history --device 1-3 "), ("vmm-args vm", "vmm-args vm"), ("nonsense x", "nonsense x"),
         ("attach 0000:00:1", "attach 0000:00:14.3 "), ("attach 0", "attach 0000:00:14.3 ")]
failures = []


def check(good, what):
    print("ok    " if good else "FAILED", what, flush=True)
    if not good:
        failures.append(what)


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, command, environment):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment,
                                        start_new_session=True)
        os.close(slave)
        self.said, self.number = "", 0

    def type(self, text):
        os.write(self.master, text.encode())

    def wait(self, pattern):
        end = time.monotonic() + PATIENCE
        while not (match := re.search(pattern, self.said, re.S)):
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"no {pattern} in {self.said!r}")
            if select.select([self.master], [], [], 1)[0]:
                self.said += os.read(self.master, 65536).decode(errors="replace")
        return match

    def complete(self, words):
        """What the tabulator key makes of the line. It is not run, but said."""
        self.number += 1
        self.type(f"vhotplugctl {words}\t\x01echo \"R{self.number}[\x05]\"\r")
        return self.wait(rf"\nR{self.number}\[vhotplugctl ([^\r\n]*)\]")[1]

    def end(self):
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def try_shell(shell, setup, folder, cases):
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "TERM": "dumb", "INPUTRC": "/dev/null", "HOME": str(folder),
                   "COLUMNS": "200", "LC_ALL": "C"}
    running = Shell(shell, environment)
    try:
        running.type(f"{setup}; echo se''t\r")
        running.wait(r"\nset\r")
        for before, after in cases:
            found = running.complete(before)
            # zsh takes the blank back when something else than a word comes.
            good = found.rstrip() == after.rstrip() if shell[0] == "zsh" else found == after
            check(good, f"{shell[0]}: {before!r} becomes {found!r}" + ("" if good else f", not {after!r}"))
    finally:
        running.end()


def try_all(folder):
    wrapper = folder / "vhotplugctl"
    wrapper.write_text(f"#!/bin/sh\nexec '{CTL}' --socket '{folder}/own' \"$@\"\n")
    wrapper.chmod(0o755)
    (folder / "_vhotplugctl").write_text((TOP / "helper/vhotplugctl.zsh").read_text())
    try_shell(["bash", "--norc", "--noprofile", "-i"], f"source '{TOP}/helper/vhotplugctl.bash'", folder, CASES)
    if shutil.which("zsh"):
        try_shell(["zsh", "-f", "-i"], f"bindkey -e; unsetopt zle_bracketed_paste; fpath=('{folder}' $fpath); "
                                       "autoload -U compinit; compinit -u -D", folder, CASES)
    else:
        print("note: zsh is not here")


def main():
    try:
        os.close(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        print(f"note: there are no terminals here: {error}")
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "devices").write_text("".join(json.dumps(device) + "\n" for device in DEVICES))
        group = grp.getgrgid(os.getgid()).gr_name
        server = subprocess.Popen([SERVER, folder / "own", folder / "api", group, folder / "devices"],
                                  stdout=subprocess.PIPE, text=True)
        server.stdout.readline()
        try:
            try_all(folder)
        finally:
            server.kill()
            server.wait()
    print(f"{len(failures)} failed")
    return 1 if failures else 0


sys.exit(main())
