#!/usr/bin/python3
"""vhotplug-libvirt with libvirt's own test driver: its answers, whatever the domain is called. Usage:
test-libvirt-program.py VHOTPLUG-LIBVIRT."""
import json
import os
import socket
import subprocess
import sys
import unittest

FD = 3  # of its end (broker/libvirt/words.h)
PATIENCE = 60  # seconds


class Program:
    """With-block: it runs, for DOMAIN."""

    def __init__(self, domain):
        self.domain, self.n = domain, 0

    def __enter__(self):
        self.socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(PATIENCE)
        with its:
            self.process = subprocess.Popen([PROGRAM, "test:///default", self.domain], pass_fds=(FD,),
                                            preexec_fn=lambda: os.dup2(its.fileno(), FD))
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.wait(PATIENCE)

    def ask(self, **words):
        """Its answer, which is the next thing that it says."""
        self.n += 1
        self.socket.send(json.dumps({"id": self.n, **words}).encode())
        answer = json.loads(self.socket.recv(65536))
        assert answer.pop("id") == self.n
        return answer


class LibvirtProgramTest(unittest.TestCase):
    def test_domain_that_runs(self):
        with Program("test") as program:
            self.assertEqual(program.ask(do="look"), {"is": "running", "run": 1, "detail": "", "aliases": []})
        self.assertEqual(program.process.returncode, 0)

    def test_no_such_domain(self):
        with Program("other") as program:
            answer = program.ask(do="look")
            self.assertEqual((answer["is"], answer["run"]), ("absent", -1))
            self.assertIn("libvirt has no domain other (test:///default)", answer["detail"])

    def test_long_name_in_letters_above_ascii(self):
        """What is cut inside of a letter is no JSON; it answers all the same, and goes on."""
        for name in ("ж" * 60, "x" + "ж" * 60):
            with Program(name) as program:
                for _ in range(2):
                    answer = program.ask(do="look")
                    self.assertEqual(answer["is"], "absent")
                    self.assertIn("libvirt has no domain", answer["detail"])
                answer = program.ask(do="attach", alias="ua-vhp-1-2-3", kind="usb", bus=1, device=2, ids="0627:0001")
                self.assertEqual(answer["outcome"], "retry")
                self.assertIn("libvirt", answer["detail"])


if __name__ == "__main__":
    PROGRAM = sys.argv[1]
    unittest.main(argv=sys.argv[:1])
