#!/usr/bin/python3
"""A broker without libvirt is the same program as one with it: the build makes it by the same commands, of the same
files. Its size and its libraries follow from that; that libvirt's are not among them is looked at. Usage:
test-without-libvirt.py BROKER VHOTPLUG-LIBVIRT."""
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

TOP = pathlib.Path(__file__).resolve().parents[2]


def configure(folder, word):
    subprocess.run(["cmake", "-S", TOP, "-B", folder, "-G", "Ninja", f"-DWITH_LIBVIRT={word}", "-DBUILD_TESTING=OFF"],
                   check=True, stdout=subprocess.DEVNULL)


def commands(folder, target):
    done = subprocess.run(["ninja", "-C", folder, "-t", "commands", target], capture_output=True, text=True)
    return done.stdout.splitlines() if done.returncode == 0 else None


def libraries(program):
    shown = subprocess.run(["readelf", "-d", program], check=True, capture_output=True, text=True).stdout
    return re.findall(r"\(NEEDED\).*\[(.*)\]", shown)


class WithoutLibvirtTest(unittest.TestCase):
    @unittest.skipUnless(shutil.which("ninja"), "ninja tells the commands, and is not here")
    def test_same_program(self):
        built = {}
        for word in ("ON", "OFF"):
            with tempfile.TemporaryDirectory() as top:
                folder = f"{top}/build"
                configure(folder, word)
                built[word] = [line.replace(top, "") for line in commands(folder, "broker/vhotplug-broker")]
                # It is made with ON only: the test looks at what it is about.
                self.assertEqual(commands(folder, "broker/libvirt/vhotplug-libvirt") is not None, word == "ON")
        self.assertGreater(len(built["ON"]), 50)
        self.assertEqual(built["ON"], built["OFF"])

    def test_libraries(self):
        def of_libvirt(program):
            return [name for name in libraries(program) if re.match(r"lib(virt|xml)", name)]
        self.assertEqual(of_libvirt(BROKER), [])
        self.assertEqual(len(of_libvirt(PROGRAM)), 2)


if __name__ == "__main__":
    BROKER, PROGRAM = sys.argv[1:3]
    unittest.main(argv=sys.argv[:1])
