"""What --import makes of other tools' configs: the samples in conf/samples give what is kept beside
them, and random vhotplug configs decide the same before and after, for random devices.

    test-import.py GEN_RULES SAMPLES"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import unittest

import reference

GEN_RULES, SAMPLES = sys.argv[1:3]
SAMPLE_NAMES = ["vhotplug.json", "hotplugger.yaml", "libvirt-usb-hotplug.conf"]
ROUNDS, DEVICES = 60, 60  # others each time
TOGETHER = 20  # configs in one run of the program, whose start is what takes time


def run_import(path, *options):
    return subprocess.run([GEN_RULES, "--import", path, *options], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, check=False)


def import_text(text, *options):
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        return run_import(file.name, *options)


def parts_of(output):
    """What is in front of the groups, and the text of each group."""
    start, *groups = re.split(rb"\n(?=\[(?:usb|pci|evdev) )", output)
    return start, groups


# ---- what a vhotplug config means, from its documentation and source ----------------------------


def is_disabled(node):
    if "disable" in node:
        return bool(node["disable"])
    return not node["enable"] if "enable" in node else False


def class_fits(rule, keys, triple):
    wanted = [rule.get(key) for key in keys]
    return bool(wanted[0]) and all(not want or want == have for want, have in zip(wanted, triple))


def name_fits(pattern, name):
    return bool(pattern) and re.match(pattern, name, re.IGNORECASE) is not None


def usb_fits(rule, device):
    if "removable" in rule:
        words = [word.lower() for word in rule["removable"]]
        if not device.removable or device.removable.decode() not in words:
            return False
    alternatives = [
        rule.get("vendorId", "").lower() == device.vendor_id.decode()
        and rule.get("productId", "").lower() == device.product_id.decode(),
        name_fits(rule.get("vendorName"), (device.database_vendor or device.own_vendor).decode()),
        name_fits(rule.get("productName"),
                  (device.database_product or device.own_product).decode()),
        rule.get("bus") == device.bus
        and rule.get("port") == int(device.name.split(b"-")[1].split(b".")[0]),
        class_fits(rule, ["deviceClass", "deviceSubclass", "deviceProtocol"], device.device_class),
        any(class_fits(rule, ["interfaceClass", "interfaceSubclass", "interfaceProtocol"], triple)
            for triple in device.interfaces),
        all(triple[0] in (0, 0xff) for triple in device.interfaces)
        and any(name_fits(rule.get("driverPath"), driver.decode()) for driver in device.drivers),
    ]
    return not is_disabled(rule) and any(alternatives)


def pci_fits(rule, device):
    def number(key):
        try:
            return int(rule[key], 16) if rule.get(key) else 0
        except ValueError:
            return 0

    alternatives = [
        rule.get("address", "").lower() == device.address.decode(),
        bool(number("vendorId") and number("deviceId"))
        and number("vendorId") == int(device.vendor_id, 16)
        and number("deviceId") == int(device.device_id, 16),
        class_fits(rule, ["deviceClass", "deviceSubclass", "deviceProgIf"], device.pci_class),
    ]
    return not is_disabled(rule) and any(alternatives)


def evdev_fits(rule, device):
    value = device.properties.get(rule.get("property", "").encode(), b"").decode()
    alternatives = [
        name_fits(rule.get("name"), device.name.decode()),
        name_fits(rule.get("pathTag"), device.path_tag.decode()),
        bool(rule.get("property") and rule.get("value") and value)
        and value.lower() == rule["value"].lower(),
    ]
    return not is_disabled(rule) and any(alternatives)


PARTS = {reference.UsbDevice: ("usbPassthrough", usb_fits),
         reference.PciDevice: ("pciPassthrough", pci_fits),
         reference.EvdevDevice: ("evdevPassthrough", evdev_fits)}


def decide_theirs(config, device):
    """The VMs, or None."""
    part, fits = PARTS[type(device)]
    for group in config.get(part, []):
        if is_disabled(group):
            continue
        if any(fits(rule, device) for rule in group.get("allow", [])) and \
                not any(fits(rule, device) for rule in group.get("deny", [])):
            return [group["targetVm"]] if "targetVm" in group else group["allowedVms"]
    return None


# ---- random configs and devices -----------------------------------------------------------------

IDS = ["046d", "8000", "ffff", "1d6b", "c52b"]
ODD_IDS = ["0x8000", "0", " 46d", "+46d", "80_00 ", "-8000", "8000_"]
NAMES = ["Logitech", "USB Ethernet", "ethernet 10", "", "a|b", "Mouse; big", "x"]
PATTERNS = [".*ethernet.*", "logi", "[a-m].*", " ?usb", "x ;|.*big", ".*e$", "(a|u).*", ".+; b"]
CLASSES = [0, 1, 2, 3, 8, 14, 224, 255]


def random_rule(rng, kind):
    keys = {
        "usb": {"vendorId": lambda: rng.choice(IDS + ODD_IDS).upper(), "productId": lambda: rng.choice(IDS),
                "vendorName": lambda: rng.choice(PATTERNS),
                "productName": lambda: rng.choice(PATTERNS),
                "bus": lambda: rng.randrange(3), "port": lambda: rng.randrange(4),
                "deviceClass": lambda: rng.choice(CLASSES),
                "deviceSubclass": lambda: rng.choice([0, 1, 2]),
                "deviceProtocol": lambda: rng.choice([0, 1]),
                "interfaceClass": lambda: rng.choice(CLASSES),
                "interfaceSubclass": lambda: rng.choice([0, 1, 6]),
                "interfaceProtocol": lambda: rng.choice([0, 1, 2]),
                "driverPath": lambda: rng.choice([".*/bluetooth/.*", "/lib.*misc"])},
        "pci": {"address": lambda: f"0000:00:{rng.randrange(4):02X}.0",
                "vendorId": lambda: rng.choice(IDS + ODD_IDS),
                "deviceId": lambda: rng.choice(IDS),
                "deviceClass": lambda: rng.choice([0, 1, 2, 3]),
                "deviceSubclass": lambda: rng.choice([0, 1, 128]),
                "deviceProgIf": lambda: rng.choice([0, 2])},
        "evdev": {"name": lambda: rng.choice(PATTERNS), "pathTag": lambda: rng.choice(PATTERNS),
                  "property": lambda: rng.choice(["ID_INPUT_KEY", "OTHER"]),
                  "value": lambda: rng.choice(["1", "ON"])},
    }[kind]
    rule = {key: keys[key]() for key in rng.sample(sorted(keys), rng.choice([1, 2, 2, 3, 4]))}
    if kind == "usb" and rng.random() < 0.3:
        rule["removable"] = rng.sample(["fixed", "Removable", "unknown", "odd"],
                                       rng.randrange(0, 3))
    if rng.random() < 0.1:
        rule[rng.choice(["disable", "enable"])] = rng.choice([True, False])
    if rng.random() < 0.7:
        rule["description"] = rng.choice(["Same", "[odd]; name", "A very long name for a rule that "
                                          "does not fit into a header", "\u00e9t\u00e9 " * 12])
    return rule


def random_vhotplug(rng):
    config = {"vms": [{"name": "vm1", "type": "qemu", "socket": "/a"},
                      {"name": "vm2", "type": "crosvm", "socket": "/b"}]}
    for kind in ("usb", "pci", "evdev"):
        groups = config[kind + "Passthrough"] = []
        for _ in range(rng.randrange(3)):
            group = {verb: [random_rule(rng, kind) for _ in range(rng.randrange(4))]
                     for verb in ("allow", "deny")}
            if kind == "usb" and rng.random() < 0.3:
                group["allowedVms"] = ["vm2", "vm1"]
            else:
                group["targetVm"] = rng.choice(["vm1", "vm2"])
            if rng.random() < 0.1:
                group["disable"] = True
            groups.append(group)
    return config


def random_device(rng):
    kind = rng.randrange(3)
    if kind == 0:
        triples = [(rng.choice(CLASSES), rng.choice([0, 1, 6]), rng.choice([0, 1, 2]))
                   for _ in range(rng.randrange(4))]
        return reference.UsbDevice(
            vendor_id=rng.choice(IDS).encode(), product_id=rng.choice(IDS).encode(),
            database_vendor=rng.choice(NAMES).encode(), own_vendor=rng.choice(NAMES).encode(),
            database_product=rng.choice(NAMES).encode(), own_product=rng.choice(NAMES).encode(),
            serial=b"1", bus=rng.randrange(1, 3), name=b"1-%d.4" % rng.randrange(1, 4),
            devpath=b"/devices/x", interfaces=triples,
            device_class=(rng.choice(CLASSES), rng.choice([0, 1, 2]), rng.choice([0, 1])),
            removable=rng.choice([None, b"fixed", b"removable", b"unknown"]),
            drivers=rng.sample([b"/lib/modules/1/kernel/drivers/bluetooth/b.ko",
                                b"/lib/modules/1/kernel/drivers/misc/m.ko"], rng.randrange(3)))
    if kind == 1:
        return reference.PciDevice(
            address=b"0000:00:%02x.0" % rng.randrange(4), vendor_id=rng.choice(IDS).encode(),
            device_id=rng.choice(IDS).encode(), subsystem_vendor_id=None, subsystem_id=None,
            pci_class=(rng.choice([0, 1, 2, 3]), rng.choice([0, 1, 128]), rng.choice([0, 2])))
    return reference.EvdevDevice(name=rng.choice(NAMES).encode(),
                                 path_tag=rng.choice(NAMES).encode(), on_usb=False,
                                 properties={b"ID_INPUT_KEY": rng.choice([b"1", b"0"]),
                                             b"OTHER": rng.choice([b"on", b"off"])})


class ImportTest(unittest.TestCase):
    def test_samples(self):
        for name in SAMPLE_NAMES:
            done = run_import(os.path.join(SAMPLES, name))
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(f"{SAMPLES}/from-{os.path.splitext(name)[0]}.conf", "rb") as file:
                self.assertEqual(done.stdout, file.read(), name)
            # What is a comment in the output is a line on stderr.
            comments = [line[2:] for line in done.stdout.split(b"\n")
                        if line.startswith(b"; not carried over")]
            self.assertEqual(comments, done.stderr.splitlines())

    def test_meaning_is_kept(self):
        taken = 0
        for _ in range(ROUNDS // TOGETHER):
            seeds = random.sample(range(1 << 30), TOGETHER)
            configs = [random_vhotplug(random.Random(seed)) for seed in seeds]
            together = {part: [group for config in configs for group in config[part]] for part, _ in PARTS.values()}
            done = import_text(json.dumps({"vms": configs[0]["vms"], **together}))
            self.assertEqual(done.returncode, 0, (seeds, done.stderr, done.stdout))
            start, groups = parts_of(done.stdout)
            ours = [start for _ in seeds]
            for part, _ in PARTS.values():
                for number, config in enumerate(configs):
                    ours[number] = b"\n".join([ours[number]] + [groups.pop(0) for _ in config[part]])
            self.assertEqual(groups, [])
            for seed, theirs, text in zip(seeds, configs, ours):
                taken += self.compare(seed, theirs, text)
        self.assertGreater(taken, ROUNDS)

    def compare(self, seed, theirs, text):
        """How many of many devices both take."""
        rng, ours, taken = random.Random(~seed), reference.parse(text), 0
        for _ in range(DEVICES):
            device = random_device(rng)
            expected = decide_theirs(theirs, device)
            decision = reference.decide(ours, device)
            found = [vm.decode() for vm in decision[3]] if decision else None
            self.assertEqual(found, expected, f"seed {seed}: {vars(device)}\n{text.decode()}")
            taken += expected is not None
        return taken

    def test_attach_connected(self):
        for option, expected in (((), b"no"), (("-a",), b"yes")):
            done = import_text('{"vms": []}', *option)
            self.assertIn(b"attachConnected = " + expected + b"\n", done.stdout)

    def test_older_evdev_forms(self):
        vm = {"name": "vm1", "type": "qemu", "socket": "/a"}
        for config in ({"vms": [vm], "evdevPassthrough": {"targetVm": "vm1"}},
                       {"vms": [{**vm, "evdevPassthrough": {"enable": True,
                                                            "pcieBusPrefix": "ep"}}]}):
            ours = reference.parse(import_text(json.dumps(config)).stdout)
            mouse = reference.EvdevDevice(name=b"", path_tag=b"", on_usb=False,
                                          properties={b"ID_INPUT_MOUSE": b"1"})
            self.assertEqual(reference.decide(ours, mouse)[3], [b"vm1"])
            mouse.properties = {b"ID_INPUT_SWITCH": b"1"}
            self.assertIsNone(reference.decide(ours, mouse))

    def test_what_is_no_config(self):
        for text in ("{", "[]", "", "x=y", "{\"a\": 1, \"a\": 2}"):
            done = import_text(text)
            self.assertEqual(done.returncode, 1, text)
            self.assertNotEqual(done.stderr, b"")
        self.assertEqual(run_import("/nowhere").returncode, 1)

    def test_libvirt_modes(self):
        listed = reference.UsbDevice(vendor_id=b"046d", product_id=b"c52b", device_class=(0, 0, 0),
                                     interfaces=[])
        other = reference.UsbDevice(vendor_id=b"1234", product_id=b"c52b", device_class=(0, 0, 0),
                                    interfaces=[])
        for mode, expected in (("whitelist", (True, False)), ("blacklist", (False, True)),
                               ("matchall", (True, True))):
            done = import_text(f"domain=vm\nmode={mode}\ndevlist=( '046d:C52B' )\n")
            self.assertEqual(done.returncode, 0, done.stderr)
            ours = reference.parse(done.stdout)
            found = tuple(reference.decide(ours, device) is not None for device in (listed, other))
            self.assertEqual(found, expected, mode)


VMS = [{"name": "vm1", "type": "qemu", "socket": "/a"},
       {"name": "vm2", "type": "crosvm", "socket": "/b"}]


def usb_device(**facts):
    device = reference.UsbDevice(vendor_id=b"046d", product_id=b"c52b", device_class=(0, 0, 0),
                                 interfaces=[(3, 1, 2)], database_vendor=b"", own_vendor=b"",
                                 database_product=b"", own_product=b"", serial=b"", bus=1,
                                 name=b"1-1", devpath=b"/devices/x", removable=None, drivers=[])
    device.__dict__.update(facts)
    return device


class BashTest(unittest.TestCase):
    """libvirt-usb-hotplug.conf, however it is written."""

    def carry(self, text, mode="blacklist", status=0):
        done = import_text(f"domain=vm\nmode={mode}\n{text}\n")
        self.assertEqual(done.returncode, status, (text, done.stderr, done.stdout))
        self.sections = reference.parse(done.stdout)
        return done.stderr.decode()

    def listed(self):
        return [(keys.get("vendorId", b"").decode(), keys.get("productId", b"").decode())
                for kind, _, keys in self.sections if kind == "deny"]

    def test_ways_to_write_a_list(self):
        ids = [("046d", "c52b"), ("0b05", ""), ("", "1872")]
        for text in ("devlist=(046d:c52b 0b05: :1872)", "devlist=( 046D:C52B '0b05:' \":1872\" )",
                     "devlist=(\n\t046d:c52b # a comment )\n  0b05:\n\n:1872\n)",
                     'declare -a devlist=("046d:c52b" "0b05:" ":1872") # end',
                     'export devlist="046d:c52b 0b05: :1872"', "A=(046d:c52b) # x\n# y\nA+=(0b05: :1872)",
                     "devlist=('046d:c52b,0b05:' :1872)", "devlist=([0]=046d:c52b [2]=0b05: :1872)",
                     "devlist=(0x046d:0xc52b \\\n 0b05: :1872); other=word",
                     'devlist=("046d":c52b 0b0""5: \\:1872 046d:c52b)', "devlist+=(046d:c52b 0b05:)\ndevlist+=(:1872)",
                     "devlist=()\ndevlist+=(046d:c52b)\ndevlist+=(0b05: :1872)",
                     "devlist[0]=046d:c52b\ndevlist[1]='0b05:'\ndevlist[7]=:1872",
                     "devlist=([2]=046d:c52b [3]=0b05:)\ndevlist[4]=:1872", "devlist=(046d:c52b 0b05: [5]= :1872) #"):
            self.carry(text)
            self.assertEqual(self.listed(), ids, text)

    def test_half_ids_match(self):
        self.carry("devlist=(0b05: :1872)", "whitelist")
        for vendor, product, taken in ((b"0b05", b"0001", True), (b"1234", b"1872", True),
                                       (b"1234", b"0001", False)):
            device = usb_device(vendor_id=vendor, product_id=product)
            self.assertEqual(reference.decide(self.sections, device) is not None, taken)

    def test_what_is_not_understood_is_refused_by_line(self):
        """A device that is missing in a blacklist would be given away."""
        for text in ("devlist=(046d:c52b\nnonsense)", "devlist=(046d:c52)", "devlist=(:)",
                     "devlist=($LIST)", "devlist=(`cat list`)", "devlist=(046d:*)", "devlist=(",
                     "devlist=('046d:c52b)", "source other.conf",
                     "if true; then devlist=(046d:c52b); fi", "devlist=(046d:c52b) command",
                     "devlist=\"046d:c52b nonsense\"", "devlist=(046d:c52b:1)", "mode2=other",
                     "domain2=another", "domain2='a b'", "mode2=whitelist", "devlist=([a]=046d:c52b)",
                     "devlist=(046g:c52b)", "devlist=(\n046d:c52b\n" + "x" * 300 + "\n)"):
            said = self.carry(text, status=1)
            self.assertRegex(said, r"^line \d+: .*, allowed here: ", text)
            self.assertEqual(self.sections, [])
        self.assertIn("line 5:", self.carry("A=(046d:c52b)\n\ndevlist=(\n:)", status=1)
                      .replace("line 6:", "line 5:"))

    def test_a_list_that_changes(self):
        """The one that Bash has in the end is not all that was ever in it."""
        for text in ("devlist=(046d:c52b)\ndevlist=(0b05:)", "devlist='046d:c52b'\ndevlist='0b05:'",
                     "devlist=(046d:c52b)\ndevlist[0]=0b05:", "devlist=([1]=046d:c52b [0]=0b05: :1872)",
                     "devlist=([1]=046d:c52b [1]=0b05:)", "devlist=(046d:c52b)\ndevlist+=([0]=0b05:)",
                     "devlist[1]=046d:c52b\ndevlist[1]=0b05:", "devlist=046d:c52b\ndevlist+=0b05:", "mode=blacklist",
                     "devlist[x]=046d:c52b", "devlist[]=046d:c52b", "devlist[010]=046d:c52b", "devlist[-1]=046d:c52b",
                     "devlist[$i]=046d:c52b", "devlist[99999999999999999999]=046d:c52b", "devlist[0]=(046d:c52b)",
                     "devlist[0]+=046d:c52b", "devlist[0=046d:c52b", "devlist[", "devlist+", "devlist+=", "devlist",
                     "devlist=(046d:c52b)x", "devlist=(046d:c52b)#c52b", "devlist=(046d:c52b; 0b05:)"):
            self.assertRegex(self.carry(text, status=1), r"^line \d+: .*, allowed here: ", text)

    def test_which_list_counts_is_refused(self):
        """What one list allows another one may deny: nobody but the script knows which of them it reads."""
        for text in ("whitelist=(046d:c52b)\nblacklist=(1050:0407)", "A=(046d:c52b)\nB=(046d:c52b)", "A=()\nB=(046d:c52b)",
                     "A=046d:c52b\nB='1050:0407'", "A=(046d:c52b)\nB=1050:0407", "A[0]=046d:c52b\nB[1]=1050:0407",
                     "A=(046d:c52b)\nB+=(1050:0407)", "whitelist=''\nblacklist=(1050:0407)"):
            self.assertRegex(self.carry(text, "whitelist", status=1), r"^line 4: a second list of ids: [ABb]", text)
            self.assertEqual(self.sections, [])
        for mode, name in (("whitelist", "blacklist"), ("blacklist", "usb_WhiteList")):
            self.assertIn(f"{name} is no {mode}", self.carry(f"{name}=(046d:c52b)", mode, status=1))
            self.carry(f"{mode}=(046d:c52b)\n{mode}+=(0b05:)", mode)
        # What is called a list is one, and holds ids.
        self.carry("devlist=nonsense", status=1)
        self.carry("devlist=")
        self.assertEqual(self.listed(), [])

    def test_uri(self):
        for uri, key in (("qemu:///system", None), ("qemu:///session", b"qemu:///session")):
            self.carry(f"LIBVIRT_DEFAULT_URI={uri}")
            self.assertEqual(self.sections[1][2].get("uri"), key)
        for uri in ("qemu+ssh://host/system", "xen:///system", "'qemu:///a ; b'", "'qemu:///system a'\nb=qemu:///session"):
            self.carry(f"uri={uri}", status=1)

    def test_domains(self):
        for name, vm in (("win10", "win10"), ("Windows 10 (work)", "Windows-10--work-"), ("x" * 60, "x" * 40),
                         ("6e2c8f1e-3a57-4a4e-9c41-0c1a7e4b6d55", "6e2c8f1e-3a57-4a4e-9c41-0c1a7e4b6d55")):
            done = import_text(f"domain='{name}'\nmode=matchall\n")
            self.assertEqual(done.returncode, 0, done.stderr)
            section = next(section for section in reference.parse(done.stdout) if section[0] == "vm")
            self.assertEqual(section[1], vm.encode())
            self.assertEqual(section[2].get("type"), b"libvirt")
            self.assertEqual(section[2].get("domain", vm.encode()), name.encode())
        for name in ("a/b", "a;b", " a", "", "a=b", "x" * 101, "[a]"):
            self.assertEqual(import_text(f"domain='{name}'\nmode=matchall\n").returncode, 1, name)

    def test_other_words_are_noted(self):
        self.assertIn("not carried over: URI=qemu///system", self.carry("URI='qemu///system'"))


class CarefulTest(unittest.TestCase):
    """What a config can hold that must not get lost, or become something else, on the way."""

    def carry(self, *groups, kind="usb", vms=None, **more):
        """Our sections for these groups, and what is said of what is left behind."""
        done = import_text(json.dumps({"vms": VMS if vms is None else vms, **more,
                                       kind + "Passthrough": list(groups)}))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.sections = reference.parse(done.stdout)
        return done.stderr.decode()

    def carry_each(self, cases, kind="usb"):
        """carry() for each list of groups of CASES, one after the other, but in one run of the program."""
        done = import_text(json.dumps({"vms": VMS, kind + "Passthrough": [group for groups in cases for group in groups]}))
        self.assertEqual(done.returncode, 0, done.stderr)
        start, parts = parts_of(done.stdout)
        self.assertEqual(len(parts), sum(map(len, cases)))
        for groups in cases:
            mine = [parts.pop(0) for _ in groups]
            self.sections = reference.parse(b"\n".join([start, *mine]))
            yield "\n".join(re.findall("^; not carried over: .*", b"\n".join(mine).decode(), re.MULTILINE))

    def vm_of(self, device):
        decision = reference.decide(self.sections, device)
        return decision[3] if decision else None

    def test_words_never_become_config(self):
        evil = "mouse\n\n[allow evil]\nmatchAll = yes\n"
        rule = {"description": evil, "vendorId": "ffff", "productId": "0001", evil: evil,
                "productName": evil, "driverPath": evil}
        group = {"description": evil, "targetVm": "vm1", "tag": evil, "allow": [rule], evil: 1}
        for kind, fields in (("usb", {}), ("pci", {"address": evil}),
                             ("evdev", {"name": evil, "property": evil, "value": "1"}),
                             ("evdev", {"property": "A", "value": evil})):
            self.carry({**group, "allow": [{**rule, **fields}]}, {**group, "targetVm": evil},
                       {**group, "allowedVms": [evil, "vm1"], "targetVm": None}, kind=kind,
                       general={"crosvm": "/x" + evil, evil: evil},
                       vms=VMS + [{"name": evil, "type": evil, "socket": evil},
                                  {"name": "vm3", "type": "qemu", "socket": "/c" + evil}])
            for _, _, keys in self.sections:
                self.assertNotIn("matchAll", keys)
            self.assertNotIn(("allow", b"evil"), [section[:2] for section in self.sections])
        for text in (f"virtual_machines:\n  vm1:\n    socket: /a\n    ports:\n      - {evil}",
                     f"domain=vm1\nmode=whitelist\ndevlist=({evil})\n"):
            done = import_text(text)
            self.assertNotIn((b"[allow evil]"), done.stdout.split(b"\n"))

    def test_a_deny_is_never_lost(self):
        keyboard = usb_device(own_product=b"USB keyboard")
        allow = [{"interfaceClass": 3}]
        denies = ({"productName": "x" * 300}, {"productName": "(?R)"}, {"productName": "("},
                  {"productName": "\\N{DIGIT ONE}"}, {"vendorName": "caf\u00e9"}, "nonsense",
                  {"productName": "\\Qx\\E"}, {"productName": "(*FAIL)"},
                  {"productName": "a\tb"}, {"driverPath": "["},
                  {"vendorId": "1234", "productId": "0001", "vendorName": "("})
        for deny, said in zip(denies, self.carry_each([[{"targetVm": "vm1", "allow": allow, "deny": [deny]},
                                                        {"targetVm": "vm2", "allow": allow}] for deny in denies])):
            self.assertEqual(self.vm_of(keyboard), [b"vm2"], deny)
            self.assertIn("takes nothing, until you say", said)
        # An allow that is lost is a note, and takes nothing.
        for deny, said in zip(denies, self.carry_each([[{"targetVm": "vm1", "allow": [deny]}] for deny in denies])):
            self.assertNotEqual(said, "")
            self.assertIsNone(self.vm_of(keyboard), deny)
        # Switched off, it was none there either.
        for _ in self.carry_each([[{"targetVm": "vm1", "allow": allow, "deny": [{**deny, "disable": True}]}]
                                  for deny in denies if isinstance(deny, dict)]):
            self.assertEqual(self.vm_of(keyboard), [b"vm1"])
        self.carry({"targetVm": "vm1", "allow": allow, "deny": {"vendorName": "x"}})
        self.assertIsNone(self.vm_of(keyboard))

    def test_values_of_other_types(self):
        """Numbers and flags are Python's; what equals none there matches nothing here, and a deny of it is closed."""
        keys = {"interfaceClass": 3, "interfaceSubclass": 1, "interfaceProtocol": 2, "deviceClass": 255, "bus": 1,
                "port": 1, "disable": 0, "enable": 1}
        devices = [usb_device(bus=bus, device_class=(device_class, 0, 0), interfaces=[triple], listed=[triple])
                   for bus, device_class, triple in ((1, 0, (3, 1, 2)), (1, 0, (3, 0, 0)), (2, 0, (2, 1, 2)),
                                                     (2, 0, (3, 1, 1)), (2, 255, (1, 0, 0)), (2, 1, (1, 0, 0)))]
        starts = {"bus": {"port": 1}, "port": {"bus": 1}, "deviceClass": {}}
        rules = [({**starts.get(key, {"interfaceClass": 3}), key: value}, key, key not in ("disable", "enable") and
                  (isinstance(value, list) or value in (good + 0.5, str(good), "no")))
                 for key, good in keys.items()
                 for value in (good, float(good), good + 0.5, str(good), True, False, None, "", 0, 0.0, "no", [good])]
        for (rule, key, odd), said in zip(rules, self.carry_each([[{"targetVm": "vm1", "allow": [rule]}] for rule, _, _ in rules])):
            self.assertEqual(f"{key} of" in said, odd, (rule, said))
            for device in devices:
                self.assertEqual(self.vm_of(device), [b"vm1"] if usb_fits(rule, device) else None, rule)
        allow = {"vendorId": "046d", "productId": "c52b"}
        for (rule, _, odd), _ in zip(rules, self.carry_each([[{"targetVm": "vm1", "allow": [allow], "deny": [rule]}]
                                                             for rule, _, _ in rules])):
            for device in devices:
                self.assertEqual(self.vm_of(device), None if usb_fits(rule, device) or odd else [b"vm1"], rule)

    def test_ids_are_read_as_python_reads_them(self):
        """For cards what int(text, 16) makes of it, for USB devices the text itself; nothing that it may mean is lost."""
        card = reference.PciDevice(address=b"0000:00:01.0", pci_class=(2, 0, 0), vendor_id=b"8086", device_id=b"a7a1")
        mouse = usb_device(vendor_id=b"8086", product_id=b"a7a1")
        texts = ("8086", "8086 ", "\t\r\n\x0b\x0c8086\n", "\x1c8086", "8086\x1f", "+8086", "-8086", "-0", "0x8086", "0X8086",
                 "0x_8086", "+0x8086", "8_0_8_6", "8__086", "8086_", "_8086", "0_8086", "0_x8086", "0x", "+ 8086", "0x 8086",
                 "80 86", "+", "_", " ", "x8086", "0" * 40 + "8086", "1" * 40, "18086", "\uff18\uff10\uff18\uff16", "8086\xa0",
                 "8086\x85", "\u00e9", "\ufb00")
        for kind, device, key, fits in (("pci", card, "deviceId", pci_fits), ("usb", mouse, "productId", usb_fits)):
            rules = [{"vendorId": text, key: "A7A1"} for text in texts]
            cases = [[{"targetVm": "vm1", "allow": [rule]}] for rule in rules]
            for text, rule, said in zip(texts, rules, self.carry_each(cases, kind)):
                taken = [b"vm1"] if fits(rule, device) and text.isascii() else None
                self.assertEqual(self.vm_of(device), taken, (kind, text))
                self.assertEqual(said == "", taken is not None, (kind, text))
            cases = [[{"targetVm": "vm1", "deny": [rule], "allow": [{"deviceClass": 2}, {"interfaceClass": 3}]}] for rule in rules]
            for text, rule, _ in zip(texts, rules, self.carry_each(cases, kind)):
                denied = fits(rule, device) or not text.isascii()
                self.assertEqual(self.vm_of(device), None if denied else [b"vm1"], (kind, text))

    def test_letters_beyond_ascii_close_a_deny(self):
        """There upper and lower case are the same for all letters."""
        key, card = (reference.EvdevDevice(name=b"n", path_tag=b"", on_usb=False, properties={b"A": "\u00e9".encode()}),
                     reference.PciDevice(address=b"ff000:00:01.0", pci_class=(2, 0, 0), vendor_id=b"8086", device_id=b"1"))
        for kind, device, allow, deny in (("evdev", key, {"name": "n"}, {"property": "A", "value": "\u00c9"}),
                                          ("pci", card, {"deviceClass": 2}, {"address": "\ufb00000:00:01.0"})):
            said = self.carry({"targetVm": "vm1", "allow": [allow], "deny": [deny]}, kind=kind)
            self.assertIn("letters beyond ASCII", said)
            self.assertIsNone(self.vm_of(device), deny)
        self.assertIn("letters beyond ASCII", self.carry({"targetVm": "vm1", "allow": [
            {"property": "A", "value": "\u00e9"}]}, kind="evdev"))
        self.assertEqual(self.vm_of(key), [b"vm1"])

    def test_no_text_closes_a_deny(self):
        """There it is an error, and the device gets no VM."""
        key, card = (reference.EvdevDevice(name=b"n", path_tag=b"", on_usb=False, properties={b"A": b"1"}),
                     reference.PciDevice(address=b"0000:00:01.0", pci_class=(2, 0, 0), vendor_id=b"8086", device_id=b"1"))
        for kind, device, allow, deny in (
                ("usb", usb_device(), {"interfaceClass": 3}, {"productName": 5}),
                ("usb", usb_device(), {"interfaceClass": 3}, {"vendorId": 1133, "productId": "c52b"}),
                ("pci", card, {"deviceClass": 2}, {"address": ["0000:00:01.0"]}),
                ("evdev", key, {"name": "n"}, {"property": "A", "value": 1})):
            group = {"targetVm": "vm1", "allow": [allow]}
            self.carry({**group, "deny": []}, kind=kind)
            self.assertEqual(self.vm_of(device), [b"vm1"])
            self.assertIn("no text", self.carry({**group, "deny": [deny]}, kind=kind))
            self.assertIsNone(self.vm_of(device), deny)

    def test_what_only_python_means(self):
        """The same devices as Python's re.match takes, or a note."""
        names = ["US", "UUS", "UUUUS", "USB", "U{,3}S", "x", "aab", "a[:b", ":", "[", "a\x0bb", "]",
                 "a-b", "a b", "", "A", "{,}", "a{,2}", "aa", "USB Key", "USB;Key", "Foo ;Bar", "Foo[ ];Bar", "x ", "x",
                 " x", ";x", "a\\ ;b", "a\\\\ ;b", "] ;", "x\\ ", " ;", " ;" * 70]
        patterns = ("U{,3}S", "U{,}S", "a{,2}$", "[{,3}]", "[[:a]", "[[:alpha:]]", "[]a]",
                    "[^]]$", "a\\Z", "a$", "[\\w-]+$", "\\x41", "(?P<n>a)(?P=n)", "(?i:u)s",
                    "[a\\]]", "\\[:", "(a|b){,1}$", "a??$", "(?#x)a", "(?<!x)a", "\\{,3}",
                    "USB[ ;]Key", "[^ ;]SB", "[] ;]", "[ ;]x", "(?: ;)?x", " x", "x +$", "x ", "x\\ ", "x\\\\ ", ";x",
                    " ;", "; x", "[;]x", "\\;x", re.escape("Foo ;Bar"), re.escape("a\\ ;b"), "a\\\\ ;b", "a[\\ ;]b",
                    "a[^\\ ;]b", "[\\\\ ;]+x", "[x ]$", "(Foo ;)*Bar", " ;" * 30)
        for deny in (False, True):
            cases = [[{"targetVm": "vm1", "deny": [{"productName": pattern}] if deny else [],
                       "allow": [{"interfaceClass": 3} if deny else {"productName": pattern}]}] for pattern in patterns]
            for pattern, _ in zip(patterns, self.carry_each(cases)):
                for name in names:
                    matches = re.match(pattern, name, re.IGNORECASE) is not None
                    found = self.vm_of(usb_device(own_product=name.encode()))
                    self.assertEqual(found is not None, matches != deny, (pattern, name))

    def test_absent_vms_keep_their_devices(self):
        everything = [{"interfaceClass": 3}]
        rest = {"targetVm": "vm2", "allow": everything}
        vms = VMS + [{"name": "odd name", "type": "qemu", "socket": "/c"},
                     {"name": "vbox", "type": "virtualbox", "socket": "/d"},
                     {"name": "far", "type": "qemu", "socket": "relative"},
                     {"name": "long", "type": "qemu", "socket": "/" + "x" * 120}]
        for target in ("nowhere", "odd name", "vbox", "far", "long", "x" * 300, "\u00e9"):
            for group in ({"targetVm": target}, {"allowedVms": [target]}):
                said = self.carry({**group, "allow": everything}, rest, vms=vms)
                (found,) = self.vm_of(usb_device())
                self.assertNotIn(found, (b"vm1", b"vm2"), target)
                self.assertIn((True, False), [(name == found, keys.get("fence") == b"yes")
                                              for kind, name, keys in self.sections])
                self.assertIn("its devices wait", said)
        self.carry({"allowedVms": ["nowhere", "vm1"], "allow": everything}, rest)
        self.assertEqual(self.vm_of(usb_device()), [b"vm1"])
        for kind, device in (("pci", reference.PciDevice(
                address=b"0000:00:01.0", pci_class=(2, 0, 0), vendor_id=b"", device_id=b"")),
                             ("evdev", reference.EvdevDevice(name=b"n", path_tag=b"", on_usb=False,
                                                             properties={}))):
            rule = {"deviceClass": 2} if kind == "pci" else {"name": "n"}
            self.carry({"targetVm": "nowhere", "allow": [rule]},
                       {"targetVm": "vm2", "allow": [rule]}, kind=kind)
            self.assertEqual(self.vm_of(device), [b"nowhere"])

    def test_a_group_without_a_vm_takes_nothing(self):
        """There the next group decides; and for cards and input devices allowedVms names none."""
        pci = reference.PciDevice(address=b"0000:00:01.0", pci_class=(2, 0, 0), vendor_id=b"", device_id=b"")
        evdev = reference.EvdevDevice(name=b"n", path_tag=b"", on_usb=False, properties={})
        for kind, device, rule, lists in (("usb", usb_device(), {"interfaceClass": 3}, [{}, {"allowedVms": []}]),
                                          ("pci", pci, {"deviceClass": 2}, [{}, {"allowedVms": ["vm1"]}]),
                                          ("evdev", evdev, {"name": "n"}, [{"targetVm": ""}, {"allowedVms": ["vm1"]}])):
            for target in lists:
                said = self.carry({**target, "allow": [rule]}, {"targetVm": "vm2", "allow": [rule]}, kind=kind)
                self.assertEqual(self.vm_of(device), [b"vm2"], (kind, target))
                self.assertIn("takes nothing: it has no targetVm", said)

    def test_allowed_vms_means_ask(self):
        for target, expected in (({"allowedVms": ["vm1", "vm2"]}, b"ask"),
                                 ({"targetVm": "vm1"}, None), ({"allowedVms": ["no"]}, None)):
            self.carry({**target, "allow": [{"interfaceClass": 3}], "skipOnSuspend": True})
            group = next(keys for kind, _, keys in self.sections if kind == "usb")
            self.assertEqual(group.get("choose"), expected)
            self.assertEqual(group.get("skipOnSuspend"), b"yes")

    def test_values_are_not_cut(self):
        for value in ("a ; b", " a", "a ", ";a", "x" * 300, "a\tb"):
            rule = {"property": "A", "value": value}
            said = self.carry({"targetVm": "vm1", "allow": [{"name": "n"}], "deny": [rule]},
                              kind="evdev")
            self.assertIn("value", said)
            device = reference.EvdevDevice(name=b"n", path_tag=b"", on_usb=False, properties={})
            self.assertIsNone(self.vm_of(device), value)
        self.carry({"targetVm": "vm1", "allow": [{"property": "A", "value": "a;b #c"}]}, kind="evdev")
        device.properties = {b"A": b"a;b #c"}
        self.assertEqual(self.vm_of(device), [b"vm1"])
        self.carry({"targetVm": "vm1", "allow": [{"productName": " ?a ;b"}]})
        self.assertEqual(self.vm_of(usb_device(own_product=b"a ;b")), [b"vm1"])

    def test_unknown_keys_are_noted(self):
        said = self.carry({"targetVm": "vm1", "colour": "red",
                           "allow": [{"interfaceClass": 3, "weight": 5}]},
                          shape={"round": 1}, general={"size": 3},
                          vms=[{**VMS[0], "memory": 4}, VMS[1]])
        for key in ("colour", "weight", "shape", "size", "memory"):
            self.assertIn(f"not carried over: {key} of ", said)
        self.assertEqual(self.carry({"targetVm": "vm1", "colour": False, "shape": None,
                                     "allow": [{"interfaceClass": 3}]}), "")

    def test_addresses_of_any_domain(self):
        self.carry({"targetVm": "vm1", "allow": [{"address": "10000:e1:00.0"}]}, kind="pci")
        self.assertEqual(self.vm_of(reference.PciDevice(
            address=b"10000:e1:00.0", pci_class=(1, 8, 2), vendor_id=b"", device_id=b"")), [b"vm1"])

    def keys_of(self, wanted, name=b""):
        return next((keys for kind, called, keys in self.sections if (kind, called) == (wanted, name)), None)

    def test_listeners(self):
        rule = {"targetVm": "vm1", "allow": [{"interfaceClass": 3}]}
        api = {"enable": True, "transports": ["unix", "tcp", "vsock"], "unixSocket": "/run/a.sock", "unixSocketUser": "u",
               "unixSocketGroup": "g", "unixSocketMode": "0660", "host": "::1", "port": 2001, "allowedCids": [3, 4]}
        self.assertEqual(self.carry(rule, general={"api": api}), "")
        self.assertEqual(self.keys_of("api"), {
            "transports": b"unix, tcp, vsock", "unixSocket": b"/run/a.sock", "unixSocketUser": b"u",
            "unixSocketGroup": b"g", "unixSocketMode": b"0660", "host": b"::1", "port": b"2001", "allowedCids": b"3, 4"})
        # Who may come by vsock is not said: nobody may.
        said = self.carry(rule, general={"api": {"transports": ["vsock", "unix"]}})
        self.assertIn("which guests may come", said)
        self.assertEqual(self.keys_of("api"), {"transports": b"unix"})
        for none in ({"transports": ["vsock"]}, {"transports": ["carrier pigeon"]}, {"transports": []},
                     {"transports": ["unix"], "enable": False}, {"transports": ["tcp"], "disable": True}):
            self.carry(rule, general={"api": none})
            self.assertIsNone(self.keys_of("api"), none)
        said = self.carry(rule, general={"api": {"transports": ["tcp"], "host": "localhost", "port": 99999, "size": 1}})
        self.assertEqual(self.keys_of("api"), {"transports": b"tcp"})
        for key in ("host", "port", "size"):
            self.assertIn(f"not carried over: {key} of api", said)

    def test_what_a_vm_is_started_with(self):
        rule = {"targetVm": "vm1", "allow": [{"deviceClass": 3}], "autoOvmf": True, "qemuUseRootBus": True,
                "crosvmUseRootBus": True}
        firmware = {"ovmfCode": "/ovmf/code.fd", "ovmfVars": "/ovmf/vars.fd"}
        self.assertEqual(self.carry(rule, kind="pci", general=firmware), "")
        group = next(keys for kind, _, keys in self.sections if kind == "pci")
        self.assertEqual([group.get(key) for key in ("autoOvmf", "qemuUseRootBus", "crosvmUseRootBus")], [b"yes"] * 3)
        self.assertEqual(self.keys_of("general")["ovmfCode"], b"/ovmf/code.fd")
        said = self.carry(rule, kind="pci", general={"ovmfCode": "/with blank/code.fd", "ovmfVars": "/v"})
        self.assertIn("autoOvmf of ", said)
        tables = [{"targetVm": "vm1", "allow": [{"acpiTable": "/acpi/A"}, {"acpiTable": "/acpi/B", "setUser": "q"},
                                                {"acpiTable": "/off", "disable": True}, {"acpiTable": "relative"}]},
                  {"targetVm": "vm1", "disable": True, "allow": [{"acpiTable": "/off"}]}]
        said = self.carry({"targetVm": "vm1", "allow": [{"interfaceClass": 3}]}, acpiPassthrough=tables)
        self.assertEqual(self.keys_of("vm", b"vm1")["acpiTable"], b"/acpi/A, /acpi/B")
        for words in ("acpiTable relative", "setUser and setGroup of acpiTable /acpi/B"):
            self.assertIn(words, said)

    def test_a_property_that_udev_sets_too_late(self):
        """Ours would never see it: an allow takes nothing, and a deny everything, until a person has looked."""
        switch = reference.EvdevDevice(name=b"", path_tag=b"", on_usb=False, properties={b"ID_SEAT": b"seat1", b"A": b"1"})
        late, other = {"property": "ID_SEAT", "value": "seat1"}, {"property": "A", "value": "1"}
        for name in ("ID_SEAT", "LIBINPUT_DEVICE_GROUP", "ID_INPUT_TOUCHPAD_INTEGRATION", "ID_INPUT_TRACKBALL"):
            said = self.carry({"targetVm": "vm1", "allow": [other], "deny": [{**late, "property": name}]}, kind="evdev")
            self.assertIn("takes nothing, until you say", said)
            self.assertIsNone(self.vm_of(switch))
        self.assertIn("behind 66-vhotplug.rules", self.carry({"targetVm": "vm1", "allow": [late]}, kind="evdev"))
        self.assertIsNone(self.vm_of(switch))

    def ports_of(self, text):
        """The ports that each VM gets of a config of hotplugger's, and what is said of what is left behind."""
        done = import_text(text)
        self.assertEqual(done.returncode, 0, done.stderr)
        ports, group = {}, None
        for kind, _, keys in reference.parse(done.stdout):
            group = keys["targetVm"].decode() if kind == "usb" else group
            if kind == "allow":
                ports.setdefault(group, []).append(keys["devpath"].decode().removeprefix("/devices/"))
        return ports, done.stderr.decode()

    def test_hotpluggers_vms_keep_what_is_theirs(self):
        """Whatever a VM is called there, none gets the port of another one; and no port is left behind without a word."""
        other = "  linux:\n    socket: /b\n    ports:\n      - /devices/x/3-1\n"
        theirs = "    socket: /a\n    ports:\n      - /devices/x/3-3\n"
        for name, ours in (("windows 10", "windows-10"), ('"windows 10"', "windows-10"), ("m\u00fcller", "m--ller"),
                           ("a:b", "a-b"), ("x" * 50, "x" * 40)):
            self.assertEqual(self.ports_of(f"virtual_machines:\n  {name}:\n{theirs}{other}"),
                             ({ours: ["x/3-3"], "linux": ["x/3-1"]}, ""), name)
        for name in ("linux", '""', "''"):
            ports, said = self.ports_of(f"virtual_machines:\n{other}  {name}:\n{theirs}")
            self.assertEqual(ports, {"linux": ["x/3-1"]}, name)
            self.assertRegex(said, "VM linux: another one|a VM without a name")
        ports, said = self.ports_of(f"virtual_machines:\n  a:\n{theirs.replace('socket', 'other')}{other}")
        self.assertEqual(ports, {"linux": ["x/3-1"]})
        self.assertIn("VM a: it has no socket", said)
        ports, _ = self.ports_of(f"virtual_machines:\n{other}more:\n  - /devices/x/3-9\n  b:\n{theirs}")
        self.assertEqual(ports, {"linux": ["x/3-1"]})

    def test_hotpluggers_vms_of_long_names_alike(self):
        """Each has a group, of a name of its own."""
        machines = "".join(f"  {'x' * 35}{end}:\n    socket: /{end}\n    ports:\n      - /devices/x/{end}\n" for end in "abc")
        ports, said = self.ports_of("virtual_machines:\n" + machines)
        self.assertEqual((ports, said), ({"x" * 35 + end: [f"x/{end}"] for end in "abc"}, ""))

    def test_hotpluggers_lists(self):
        start = "virtual_machines:\n  a:\n    socket: /a\n"
        for text in ("    ports: [/devices/x/3-3, '/devices/x/3-4' ]\n    hubs: [b, c]\n",
                     "    ports:\n    - /devices/x/3-3\n    - /devices/x/3-4\n    hubs: [ 'b','c' ]\n"):
            self.assertEqual(self.ports_of(start + text), ({"a": ["x/3-3", "x/3-4"]}, ""), text)
        for text in ("    ports: /devices/x/3-3\n", "    ports: [/devices/x/3-3\n", "    more:\n      ports:\n        - /devices/x/3-3\n",
                     "    ports: [/devices/x/3 ;3]\n", "    ports: {/devices/x/3-3}\n"):
            ports, said = self.ports_of(start + text)
            self.assertEqual(ports, {}, text)
            self.assertIn(" of a: ", said)

    def test_hotpluggers_delay_is_not_ours(self):
        done = import_text("virtual_machines:\n  vm1:\n    socket: /a\n    delay: 3\n")
        self.assertNotIn(b"\ndelay", done.stdout)
        self.assertIn(b"delay of vm1: there it is waited after each plug", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[3:])
