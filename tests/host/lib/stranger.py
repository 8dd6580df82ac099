#!/usr/bin/python3
"""Run as some unprivileged user: listens on a socket as if it were QEMU's monitor, and writes down
how many file descriptors whoever connects hands over. Usage: stranger.py SOCKET RESULT"""
import os
import socket
import sys

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\r\n'


def main(path, result):
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(4)
    connections = received = 0
    while True:
        with open(result + ".new", "w") as file:
            file.write(f"{connections} {received}")
        os.rename(result + ".new", result)
        client, _ = server.accept()
        connections += 1
        with client:
            client.settimeout(10)
            try:
                client.sendall(GREETING)
                while True:
                    data, fds, _, _ = socket.recv_fds(client, 65536, 32)
                    received += len(fds)
                    with open(result + ".new", "w") as file:
                        file.write(f"{connections} {received}")
                    os.rename(result + ".new", result)
                    if not data:
                        break
            except OSError:
                pass


if __name__ == "__main__":
    main(*sys.argv[1:])
