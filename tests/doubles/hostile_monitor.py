#!/usr/bin/python3
"""A QEMU monitor that may be hostile; one process stands for one VM.

Usage: hostile_monitor.py BEHAVIOUR SOCKET [SOCKET…]

It listens on every SOCKET. What it is told on stdin: "handles NAME…" are what it says it has. On
stdout it says a line for each device_add and device_del. BEHAVIOUR is one of

honest   a monitor with one USB controller
roomy    the same, with ports for everybody
nothing  answers have neither "return" nor "error"
wrong    every answer has a value of another type than is expected
twice    every answer comes twice, and some that nobody asked for
huge     ids and texts of hundreds of kilobytes
flood    events without end
half     half a message, for ever
trickle  events without end, one byte at a time
endless  one message without end
silent   a greeting and then nothing
close    hangs up after the greeting
ports    a controller with more ports than there are numbers
words    errors full of escape sequences, line feeds and marks that turn the writing round
keeps    answers everything but device_del
hoards   honest, and keeps every descriptor that it was sent
touches  honest, and changes its socket's mode without end
everything  each of these in turn, one a connection; and what can be done to a socket, again and again: its mode,
         a link in its place, its directory gone. The second SOCKET is another VM's, which the link leads to
"""

import itertools
import json
import os
import selectors
import socket
import sys

IN_TURN = ("nothing", "honest", "wrong", "twice", "words", "huge", "flood", "keeps", "trickle", "half", "honest", "endless",
           "ports", "close", "silent", "hoards")
BAD_WORDS = "\033[31mred\033]0;title\007\nline\r\u202eturned\u009b1m \"'%s$(id)"


class Monitor:
    def __init__(self, behaviour):
        self.behaviour = behaviour
        self.handles = []
        self.hoard = []

    def value(self, command, arguments):
        path = arguments.get("path", "")
        if command == "qom-list":
            if path == "/machine/peripheral":
                return ([{"name": "xhci", "type": "child<qemu-xhci>"}] +
                        [{"name": name, "type": "child<usb-host>"} for name in self.handles])
            if path == "/machine/peripheral/xhci":
                return [{"name": "xhci.0", "type": "child<usb-bus>"}]
            return []
        if command == "qom-get":
            return {"ports": 2 ** 63 - 1, "roomy": 2000}.get(self.behaviour, 8)
        if command == "device_add":
            self.handles.append(arguments.get("id"))
            print("add", arguments.get("id"), flush=True)
        if command == "device_del":
            print("del", arguments.get("id"), flush=True)
            if arguments.get("id") in self.handles and self.behaviour != "keeps":
                self.handles.remove(arguments["id"])
        return {}

    def answer(self, message):
        """The bytes that answer one command."""
        command, arguments = message.get("execute"), message.get("arguments", {})
        reply = {"id": message.get("id"), "return": self.value(command, arguments)}
        told = json.dumps(reply) + "\r\n"
        if command == "qmp_capabilities" and self.behaviour != "nothing":
            return told
        if self.behaviour == "nothing":
            return json.dumps({"id": message["id"]}) + "\r\n"
        if self.behaviour == "wrong":
            reply["return"] = [7, "x", None, {"name": 5, "type": []}]
            return json.dumps(reply) + json.dumps({"event": [], "data": 3}) + json.dumps(
                {"event": "DEVICE_DELETED", "data": {"device": {}}}) + "\r\n"
        if self.behaviour == "twice":
            return told * 2 + "".join(json.dumps({"id": f"vhp{n}", "return": {}}) for n in range(99))
        if self.behaviour == "huge":
            return json.dumps({"id": "vhp" + "9" * 300000, "return": "x" * 300000}) + told
        if self.behaviour == "words" and command == "device_add":
            self.handles.pop()
            return json.dumps({"id": message["id"],
                               "error": {"class": BAD_WORDS, "desc": BAD_WORDS}}) + "\r\n"
        if self.behaviour == "keeps" and command == "device_del":
            return ""
        if command == "device_del":
            told += json.dumps({"event": "DEVICE_DELETED",
                                "data": {"device": arguments.get("id"), "path": "/x"}}) + "\r\n"
        return told

    def endless(self):
        """What is said without being asked, again and again; None: nothing."""
        return {"flood": b'{"event": "DEVICE_DELETED", "data": {"device": "vhp-1-1-1", "path": ""}}\r\n'
                         * 500,
                "trickle": b'{"event": "X", "data": {}}\r\n',
                "endless": b"x" * 65536}.get(self.behaviour)


class Mischief:
    """What a VM's user can do to its socket, one thing after the other; each is undone by the next call."""

    def __init__(self, path, victim):
        self.path, self.victim, self.n, self.undo = path, victim, 0, None

    def next(self):
        if self.undo:
            self.undo()
            self.undo = None
            return
        self.n += 1
        if self.n % 3 == 0:
            self.away(self.path)
            os.symlink(self.victim, self.path)
        elif self.n % 3 == 1:
            self.away(os.path.dirname(self.path))
        else:
            os.chmod(self.path, 0o600 if self.n % 2 else 0o666)

    def away(self, path):
        os.rename(path, path + ".away")

        def back():
            if os.path.islink(path):
                os.unlink(path)
            os.rename(path + ".away", path)
        self.undo = back


class Client:
    def __init__(self, monitor, connection):
        self.monitor, self.connection = monitor, connection
        self.text, self.out = "", b'{"QMP": {"version": {}, "capabilities": []}}\r\n'
        self.out += {"half": b'{"return": {}, "id"', "endless": b'{"return": "'}.get(
            monitor.behaviour, b"")

    def readable(self):
        """False at the end of the connection."""
        try:
            data, fds, _, _ = socket.recv_fds(self.connection, 65536, 4)
        except ConnectionError:
            return False
        if self.monitor.behaviour == "hoards":
            self.monitor.hoard += fds
        else:
            for fd in fds:
                os.close(fd)
        if not data:
            return False
        self.text += data.decode()
        while "\n" in self.text:
            line, self.text = self.text.split("\n", 1)
            if self.monitor.behaviour not in ("half", "endless", "silent"):
                self.out += self.monitor.answer(json.loads(line)).encode()
        return True

    def writable(self):
        if not self.out and self.monitor.endless():
            self.out = self.monitor.endless()
        if self.out:
            try:
                n = 1 if self.monitor.behaviour == "trickle" else len(self.out)
                self.out = self.out[self.connection.send(self.out[:n]):]
            except BlockingIOError:
                return True
            except OSError:
                return False
        return self.out or self.monitor.behaviour != "close"


def listen(path):
    listener = socket.socket(socket.AF_UNIX)
    if os.path.lexists(path):
        os.unlink(path)
    listener.bind(path)
    listener.listen(1)
    listener.setblocking(False)
    return listener


def main():
    behaviour, paths = sys.argv[1], sys.argv[2:]
    monitor, selector = Monitor(behaviour), selectors.DefaultSelector()
    os.set_blocking(0, False)
    selector.register(0, selectors.EVENT_READ, "stdin")
    mischief, turns = None, None
    if behaviour == "everything":
        mischief, turns = Mischief(*paths), itertools.cycle(IN_TURN)
        paths = paths[:1]
    for path in paths:
        selector.register(listen(path), selectors.EVENT_READ, None)
    print("ready", flush=True)
    while True:
        for key, events in selector.select({"touches": 0.001, "everything": 0.02}.get(behaviour)):
            client = key.data
            if client == "stdin":
                words = (os.read(0, 65536) or b"").decode().split()
                if not words:
                    return
                monitor.handles = words[1:]
                print("told", flush=True)
                continue
            if client is None:
                connection, _ = key.fileobj.accept()
                if turns:
                    monitor.behaviour = next(turns)
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE,
                                  Client(monitor, connection))
                continue
            good = not events & selectors.EVENT_READ or client.readable()
            if not good or not client.writable():
                selector.unregister(key.fileobj)
                key.fileobj.close()
            elif not client.out and not monitor.endless():
                selector.modify(key.fileobj, selectors.EVENT_READ, client)
            else:
                selector.modify(key.fileobj, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
        if behaviour == "touches":
            os.chmod(paths[0], 0o600)
            os.chmod(paths[0], 0o666)
        if mischief:
            mischief.next()


if __name__ == "__main__":
    main()
