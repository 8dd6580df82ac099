#!/usr/bin/python3
"""Stands for vhotplug-libvirt: hands packets on between the broker, at descriptor 3, and the test, which listens on the
socket LIBVIRT_DOUBLE and gets the arguments first."""
import json
import os
import select
import socket
import sys

broker = socket.socket(fileno=3)
test = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
test.connect(os.environ["LIBVIRT_DOUBLE"])
test.send(json.dumps({"arguments": sys.argv[1:]}).encode())
while True:
    for source in select.select([broker, test], [], [])[0]:
        packet = source.recv(65536)
        if not packet:
            os._exit(7)  # the socket ends with the process
        (test if source is broker else broker).send(packet)
