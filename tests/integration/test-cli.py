"""vhotplug-gen-rules as a person runs it: exit statuses, what is written where, and what is said.

    test-cli.py GEN_RULES"""

import os
import subprocess
import sys
import tempfile
import unittest

GEN_RULES = sys.argv[1]
GOOD = ("[vm vm1]\nsocket = /run/vm1.sock\n[usb G]\ntargetVm = vm1\n[allow Net]\n"
        "productName = .*(ethernet|lan)\\b\nvendorName = logi.*\n")


class CliTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.config = os.path.join(self.directory.name, "vhotplug.conf")
        self.rules = os.path.join(self.directory.name, "66-vhotplug.rules")
        self.write(GOOD)

    def tearDown(self):
        self.directory.cleanup()

    def write(self, text):
        with open(self.config, "w") as file:
            file.write(text)

    def run_it(self, *options, status=0):
        done = subprocess.run([GEN_RULES, "-c", self.config, *options], capture_output=True,
                              text=True, check=False)
        self.assertEqual(done.returncode, status, done)
        return done

    def test_print_and_write_give_the_same(self):
        printed = self.run_it("-o", "-").stdout
        done = self.run_it("-o", self.rules)
        self.assertEqual((done.stdout, done.stderr), ("", ""))
        with open(self.rules) as file:
            self.assertEqual(file.read(), printed)
        self.assertIn(f"from {self.config}.", printed)
        self.assertEqual(os.stat(self.rules).st_mode & 0o777, 0o644)
        self.assertEqual(sorted(os.listdir(self.directory.name)),
                         ["66-vhotplug.rules", "vhotplug.conf"])

    def test_check(self):
        done = self.run_it("-o", self.rules, "--check", status=1)
        self.assertIn("+# Made by vhotplug-gen-rules", done.stdout)
        self.assertFalse(os.path.exists(self.rules))
        self.run_it("-o", self.rules)
        self.assertEqual(self.run_it("-o", self.rules, "--check").stdout, "")
        # What does not change the meaning does not change the rules.
        self.write("; another comment\n\n" + GOOD)
        self.run_it("-o", self.rules, "--check")
        self.write(GOOD.replace("logi", "micro"))
        done = self.run_it("-o", self.rules, "--check", status=1)
        self.assertIn("\n-", done.stdout)
        self.assertIn("\n+", done.stdout)

    def test_mistakes_leave_everything_as_it_is(self):
        self.run_it("-o", self.rules)
        with open(self.rules) as file:
            before = file.read()
        self.write(GOOD + "bus = 0\nfoo = 1\n")
        for options in (["-o", self.rules], ["-o", self.rules, "--check"], ["-o", "-"],
                        ["--lint"], ["--explain", "1:1"]):
            done = self.run_it(*options, status=1)
            self.assertEqual(done.stdout, "")
            self.assertTrue(done.stderr.startswith(
                f"{self.config}:8: bus = 0, allowed here: 1 to 999\n{self.config}:9: foo is no "
                "key of [allow], allowed here: vendorId"), done.stderr)
        with open(self.rules) as file:
            self.assertEqual(file.read(), before)

    def test_verbose_says_how(self):
        said = self.run_it("-o", "-", "-v").stderr.splitlines()
        self.assertEqual(said, [
            "line 6: [allow Net] productName = .*(ethernet|lan)\\b: by vhotplug-match (an escape "
            "that globs don't have)",
            "line 7: [allow Net] vendorName = logi.*: exactly as 1 glob"])

    def test_an_empty_config_gives_rules_that_do_nothing(self):
        for text in ("", "[general]\n", "[vm a]\nsocket = /a\n[usb G]\ntargetVm = a\n",
                     GOOD.replace("targetVm = vm1", "targetVm = vm1\ndisable = yes")):
            self.write(text)
            for line in self.run_it("-o", "-").stdout.splitlines():
                # What another config had shut is opened.
                self.assertTrue(line.startswith(("#", 'SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_interface"')), line)

    def test_lint(self):
        self.assertEqual(self.run_it("--lint").stdout, "")
        self.write(GOOD + "[deny Nothing]\nproductName = .*\n")
        done = self.run_it("--lint", status=1)
        self.assertEqual(done.stdout.count("\n"), 1)
        self.assertTrue(done.stdout.startswith(f"{self.config}:"), done.stdout)

    def test_wrong_use(self):
        self.assertIn("Usage:", self.run_it("--nonsense", status=2).stderr)
        self.assertIn("extra is no option", self.run_it("extra", status=2).stderr)
        self.assertIn("Usage:", self.run_it("--help").stdout)
        self.assertIn("no device", self.run_it("--explain", "/nowhere", status=1).stderr)
        self.run_it("-o", "/nowhere/x.rules", status=1)
        os.unlink(self.config)
        self.assertIn("No such file", self.run_it("-o", "-", status=1).stderr)

    def test_names_cannot_break_out(self):
        """Whatever a name holds, the rules have the same number of lines and no new key."""
        plain = self.run_it("-o", "-").stdout
        for name in ('a", RUN+="/bin/sh', "a$env{X}%k", "a\\", "a{b}", "\u00e9 | *", "#"):
            self.write(GOOD.replace("[usb G]", f"[usb {name}]").replace("[allow Net]",
                                                                        f"[allow {name}]"))
            rules = self.run_it("-o", "-").stdout
            self.assertEqual(rules.count("\n"), plain.count("\n"), name)
            self.assertEqual(rules.count('RUN+="'), plain.count('RUN+="'))
            self.assertEqual(rules.count('"'), plain.count('"'))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
