"""A QMP client of a few lines, for sockets and for the virtio port of the outer monitor."""
import json
import os
import select
import socket
import time

from .wait import Failed


class QmpError(Failed):
    """QEMU answered with an error; the text is QEMU's."""


class Qmp:
    """One session on a file descriptor that carries QMP. Not thread safe."""

    def __init__(self, fd, name):
        self.fd, self.name = fd, name
        self.poll = select.poll()  # not select(): the descriptor may be above a thousand
        self.poll.register(fd, select.POLLIN)
        self.rest, self.serial = b"", 0
        self.events = []

    def close(self):
        os.close(self.fd)

    def greet(self, seconds=20):
        """Negotiates. A port that was used before sends no greeting and says that it is complete."""
        try:
            self.command("qmp_capabilities", seconds=seconds)
        except QmpError as error:
            if "already complete" not in str(error):
                raise
        return self

    def message(self, seconds):
        """The next message, or None when none came in time."""
        end = time.monotonic() + seconds
        while b"\n" not in self.rest:
            if not self.poll.poll(max(0, 1000 * (end - time.monotonic()))):
                return None
            data = os.read(self.fd, 65536)
            if not data:
                raise Failed(f"{self.name}: the monitor closed the connection")
            self.rest += data
        line, self.rest = self.rest.split(b"\n", 1)
        return json.loads(line)

    def command(self, command, seconds=60, **arguments):
        """Sends COMMAND and returns its answer; events that come first are kept in self.events.
        An underscore in an argument's name stands for a dash, as QMP's own names want it."""
        self.serial += 1
        request = {"execute": command, "id": f"t{self.serial}"}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        os.write(self.fd, json.dumps(request).encode() + b"\n")
        end = time.monotonic() + seconds
        while True:
            answer = self.message(end - time.monotonic())
            if answer is None:
                raise Failed(f"{self.name}: no answer to {command} within {seconds} s")
            if "event" in answer:
                self.events.append(answer)
            elif answer.get("id") == request["id"]:
                if "error" in answer:
                    raise QmpError(f"{command}: {answer['error']['desc']}")
                return answer["return"]

    def hmp(self, line):
        """A command for people, and what is said to it."""
        return self.command("human-monitor-command", **{"command-line": line})

    def wait_deleted(self, device, seconds=60):
        """Waits for the DEVICE_DELETED that names DEVICE."""
        def is_it(event):
            return event["event"] == "DEVICE_DELETED" and event["data"].get("device") == device
        end = time.monotonic() + seconds
        while not any(is_it(event) for event in self.events):
            message = self.message(end - time.monotonic())
            if message is None:
                raise Failed(f"{self.name}: {device} was not deleted within {seconds} s")
            if "event" in message:
                self.events.append(message)
        self.events = [event for event in self.events if not is_it(event)]


def connect(path, seconds=20):
    """A session on the monitor socket at PATH."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(seconds)
        sock.connect(str(path))
        sock.settimeout(None)
        return Qmp(sock.detach(), str(path))
