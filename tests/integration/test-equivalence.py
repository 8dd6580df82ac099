"""Random configs and random devices: what udevd decides by the generated rules is what the config
means by reference.py, every time.

    test-equivalence.py GEN_RULES MATCHER LIBEXECDIR [ROUNDS [SEED]]

Each round is one config against DEVICES devices, and has a seed of its own. The first and the last are
printed, and the one that fails: give it as SEED, with 1 for ROUNDS, to see the round again. Rounds that once failed are
kept in seeds-equivalence and are always run first."""

import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile

import reference
import udevd

GEN_RULES, MATCHER, LIBEXECDIR = sys.argv[1:4]
ROUNDS = int(sys.argv[4]) if len(sys.argv) > 4 else 60
FIRST_SEED = int(sys.argv[5]) if len(sys.argv) > 5 else None
KEPT_SEEDS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "seeds-equivalence")
DEVICES = 24
BASE_RULES = ["50-udev-default.rules", "60-input-id.rules", "60-persistent-input.rules"]

WORDS = [b"Logitech", b"Unifying", b"Receiver", b"USB", b"Ethernet", b"eth0", b"a|b", b"50%",
         b"$env{ID_MODEL}", b"$$", b"\\", b"a\\b", b'"', b"x\"y", b"'", b"*", b"?", b"[a]", b"]",
         b"-", b"!", b"^", b"{1}", b"(R)", b"a.b", b"..", b"\xc3\xa9t\xc3\xa9", b"\xff\xfe",
         b"\xe4", b",", b";", b"#", b"%k", b"\t", b"_", b"K", b"s", b"0"]
IDS = ["046d", "8000", "ffff", "0001", "c52b", "9abc"]
CLASSES = [0, 1, 2, 3, 6, 8, 9, 14, 0xe0, 0xef, 0xfe, 0xff]
PORTS = ["1", "2", "1.1", "1.2", "11", "12.1", "3.4.1"]
PATTERNS = [b".*", b".+", b"$", b".", b".*e.*", b"[a-f]", b"[^a-z]", b"\\w+\\b", b"(a|e|u).*",
            b".*[|].*", b".*\\|", b"u?n?i", b"\\d{4}$", b"logi.*", b".*receiver$", b".*[!^]",
            b".*\\$", b".*%", b".*\"", b".*\\\\", b"[\\]\\\\\"-]", b".*[[:punct:]]", b"\\S+$",
            b"(?=.*eth).*usb", b"[^\\s]* ", b".*\xc3\xa9", b".{3,5}$", b"(?i)ETH", b".*(.)\\1",
            b"\\W", b"a*b", b".*\\[a\\]", b"\\x41", b"(usb|eth)?$", b"0+$", b".*_"]
MODULES = {b"kernel/drivers/bluetooth/vhp_bt.ko": "usb:v*p*d*dc*dsc*dp*icFFisc01ip01in*",
           b"kernel/drivers/net/usb/vhp_net.ko": "usb:v8000p*d*dc*dsc*dp*ic*isc*ip*in*",
           b"kernel/drivers/misc/vhp_odd.ko": "usb:v*p9ABCd*dc00dsc*dp*icFFisc*ip*in01*"}


# ---- made-up modules for driverPath -------------------------------------------------------------


def make_modules():
    """A module tree with an index: /lib/modules becomes private."""
    directory = tempfile.mkdtemp(prefix="vhp-modules-")
    base = f"{directory}/lib/modules/{os.uname().release}"
    for path, alias in MODULES.items():
        target = os.path.join(base, path.decode())
        os.makedirs(os.path.dirname(target), exist_ok=True)
        source = f'__attribute__((section(".modinfo"), used)) static char a[] = "alias={alias}";'
        subprocess.run(["gcc", "-x", "c", "-c", "-o", target, "-"], input=source.encode(),
                       check=True)
    subprocess.run(["depmod", "-b", directory, os.uname().release], check=True,
                   stderr=subprocess.DEVNULL)
    os.makedirs("/lib/modules", exist_ok=True)
    udevd.mount("--bind", f"{directory}/lib/modules", "/lib/modules")
    return "/lib/modules/" + os.uname().release


def drivers_of(base, vendor, product, device_class, interfaces):
    """Which of MODULES are for this device."""
    found = []
    for path in MODULES:
        for number, triple in interfaces:
            if (b"vhp_bt" in path and triple == (0xff, 1, 1)) or \
               (b"vhp_net" in path and vendor == "8000") or \
               (b"vhp_odd" in path and product == "9abc" and device_class[0] == 0
                    and triple[0] == 0xff and number == 1):
                found.append(base.encode() + b"/" + path)
    return found


# ---- random devices -----------------------------------------------------------------------------


def random_text(rng):
    kind = rng.random()
    if kind < 0.1:
        return b""
    if kind < 0.15:
        return bytes(rng.choice(b"ab|$%\"\\ \xff") for _ in range(500))
    if kind < 0.2:
        return bytes(rng.randrange(1, 256) for _ in range(rng.randrange(1, 20)))
    return rng.choice([b" ", b"", b"_"]).join(rng.choice(WORDS) for _ in range(rng.randrange(1, 5)))


def is_text(value):
    """UTF-8 without control characters."""
    try:
        return value.decode().isprintable()
    except UnicodeDecodeError:
        return False


MANY = 280            # udev's list may be cut from here on
MOST_INTERFACES = 1169  # as many as vhotplug-match can say


def random_settings(rng, vendor_specific):
    """A configuration's interfaces: (number, triple, how many endpoints, what else it says)."""
    settings = []
    for number in range(rng.choice([0, 1, 1, 2, 3, 4])):
        for _ in range(rng.choice([1, 1, 1, 2, 3])):  # alternate settings
            triple = (rng.choice([0, 0xff]), 1, 1) if vendor_specific else random_class(rng)
            more = rng.choice([b"", b"", struct.pack("<BB7x", 9, 0x21), struct.pack("<BB3x", 5, 0x24)])
            settings.append((number, triple, rng.choice([0, 0, 1, 2]), more))
    if rng.random() < 0.02:
        kinds = rng.choice([60, 75, 300, MOST_INTERFACES + 1])
        settings += [(9, (0xe, n >> 8, n & 255), 0, b"") for n in range(kinds)]
    return settings


def random_descriptors(rng, device_class, vendor_specific):
    """The bytes of `descriptors`, now and then such as no honest device has."""
    data = struct.pack("<BBHBBBBHHHBBBB", 18, 1, 0x200, *device_class, 64, 0, 0, 0, 0, 0, 0, 1)
    for number in range(rng.choice([1, 1, 1, 2, 3])):
        body = b""
        for interface, triple, endpoints, more in random_settings(rng, vendor_specific):
            body += struct.pack("<BBBBBBBBB", 9, 4, interface, 0, endpoints, *triple, 0) + more
            body += struct.pack("<BBBBHB", 7, 5, 0x81, 3, 8, 10) * endpoints
        data += struct.pack("<BBHBBBBB", 9, 2, (9 + len(body)) & 0xffff, 1, number, 0, 0x80, 50)
        data += body
    lie = rng.random()
    if lie < 0.05:
        return data[:rng.randrange(18, len(data) + 1)]
    if lie < 0.1 and len(data) > 18:
        data = bytearray(data)
        for _ in range(rng.randrange(1, 3)):
            at = rng.randrange(18, len(data))
            data[at] = rng.choice([0, 1, 2, 4, 5, 7, 8, 9, 10, 18, 0x7f, 0xff, rng.randrange(256)])
        return bytes(data)
    return data


def interfaces_of(data):
    """(number, triple) of each interface descriptor, or None when one contradicts itself."""
    found, at = [], 18
    while at < len(data):
        length = data[at]
        if length < 2 or at + length > len(data):
            return None
        if data[at + 1] == 4:
            if length < 9:
                return None
            found.append((data[at + 2], tuple(data[at + 5:at + 8])))
        at += length
    return None if len({triple for _, triple in found}) > MOST_INTERFACES else found


def listed_in(text):
    """The triples of ID_USB_INTERFACES."""
    return [tuple(bytes.fromhex(part.decode())) for part in text.split(b":") if part]


def random_class(rng):
    return (rng.choice(CLASSES), rng.choice([0, 1, 6, 0xff]), rng.choice([0, 1, 2, 0x50]))


class Case:
    """A device in /sys, the event that announces it, and what reference.py is to know."""


def usb_case(host, rng, number, modules):
    case = Case()
    bus, port = rng.randrange(1, 4), rng.choice(PORTS)
    name = f"{bus}-{port}"
    vendor, product = rng.choice(IDS), rng.choice(IDS)
    device_class = rng.choice([(0, 0, 0), (0xef, 2, 1), random_class(rng)])
    vendor_specific = rng.random() < 0.3
    removable = rng.choice([None, "fixed", "removable", "unknown"])
    attributes = {"idVendor": vendor, "idProduct": product, "busnum": str(bus), "devnum": "2",
                  "bcdDevice": "0100", "bDeviceClass": f"{device_class[0]:02x}",
                  "bDeviceSubClass": f"{device_class[1]:02x}",
                  "bDeviceProtocol": f"{device_class[2]:02x}"}
    if removable:
        attributes["removable"] = removable
    files = {key: value.encode() + b"\n" for key, value in attributes.items()}
    for key in ("manufacturer", "product", "serial"):
        if rng.random() < 0.7:
            files[key] = random_text(rng)[:126] + b"\n"
    files["descriptors"] = random_descriptors(rng, device_class, vendor_specific)
    interfaces = interfaces_of(files["descriptors"])
    case.path = host.add_device(f"pci0000:00/n{number}/usb{bus}/{name}", "usb", "usb_device", files)
    case.subsystem, case.sent = "usb", {"DEVTYPE": "usb_device"}
    for key in ("ID_VENDOR_FROM_DATABASE", "ID_MODEL_FROM_DATABASE"):
        if rng.random() < 0.6:
            case.sent[key] = random_text(rng)
    if rng.random() < 0.4:
        case.sent["ID_PATH_TAG"] = random_text(rng)
    if vendor == "046d" and product == "c52b":
        case.sent.clear()
        case.sent["DEVTYPE"] = "usb_device"  # the real hardware database has this one

    def facts(properties):
        for key in ("ID_VENDOR_FROM_DATABASE", "ID_MODEL_FROM_DATABASE"):
            # The hardware database may know better, and a line's end is a property's end for systemd's
            # udev. From 261 on that drops what is no text.
            sent = case.sent.get(key, b"")
            sent = sent if udevd.EUDEV else re.split(b"[\r\n]", sent)[0]
            seen = properties.get(key.encode(), b"")
            if vendor == "8000" and seen != sent and (seen or is_text(sent)):
                raise AssertionError(f"udevd changed {key} from {sent}: {properties}")
        triples = interfaces and [triple for _, triple in interfaces]
        listed = properties.get(b"ID_USB_INTERFACES", b"")
        lost = not listed.endswith(b":") or len(listed) >= MANY
        return reference.UsbDevice(
            listed=triples if lost else listed_in(listed),
            vendor_string=files.get("manufacturer", b"").rstrip(b" \t\r\n"),
            product_string=files.get("product", b"").rstrip(b" \t\r\n"),
            path_tag=properties.get(b"ID_PATH_TAG", b""),
            vendor_id=vendor.encode(), product_id=product.encode(),
            database_vendor=properties.get(b"ID_VENDOR_FROM_DATABASE", b""),
            database_product=properties.get(b"ID_MODEL_FROM_DATABASE", b""),
            own_vendor=properties.get(b"ID_VENDOR", b""),
            own_product=properties.get(b"ID_MODEL", b""),
            serial=properties.get(b"ID_SERIAL_SHORT", b""), bus=bus, name=name.encode(),
            devpath=case.path.encode(), device_class=device_class, interfaces=triples,
            removable=removable and removable.encode(),
            drivers=drivers_of(modules, vendor, product, device_class, interfaces or []))

    case.facts = facts
    return case


def pci_case(host, rng, number, _):
    case = Case()
    domain = rng.choice(["0000", "0000", "10000", "abcdef"])
    address = f"{domain}:{number:02x}:{rng.randrange(32):02x}.{rng.randrange(8)}"
    ids = {name: rng.choice(IDS) for name in
           ("vendor", "device", "subsystem_vendor", "subsystem_device")}
    if rng.random() < 0.3:
        del ids["subsystem_vendor"], ids["subsystem_device"]
    pci_class = (rng.choice([1, 2, 3, 6, 12, 0xff]), rng.choice([0, 1, 3, 0x80]),
                 rng.choice([0, 0x30, 2]))
    files = {name: f"0x{value}\n".encode() for name, value in ids.items()}
    files["class"] = "0x{:02x}{:02x}{:02x}\n".format(*pci_class).encode()
    case.path = host.add_device(f"pci{domain}:{number:02x}/{address}", "pci", None, files)
    case.subsystem, case.sent = "pci", {}

    def facts(_):
        found = {name: value.encode() for name, value in ids.items()}
        return reference.PciDevice(
            address=address.encode(), vendor_id=found["vendor"], device_id=found["device"],
            subsystem_vendor_id=found.get("subsystem_vendor"),
            subsystem_id=found.get("subsystem_device"), pci_class=pci_class)

    case.facts = facts
    return case


def evdev_case(host, rng, number, _):
    case = Case()
    on_usb = rng.random() < 0.3
    parent = f"platform/p{number}"
    if on_usb:
        host.add_device(parent, "usb", "usb_device", {"idVendor": b"1234\n"})
        if rng.random() < 0.5:  # a keyboard on a radio is no USB device
            on_usb = False
            parent += f"/hci{number}"
            host.add_device(parent, "bluetooth")
            parent += f"/hci{number}:11"
            host.add_device(parent, rng.choice(["bluetooth", "hid"]))
    name = random_text(rng).replace(b"\n", b" ")
    missing = rng.random() < 0.15
    files = {"capabilities/ev": b"3\n", "capabilities/key": b"1\n"}
    if not missing:
        files["name"] = name + b"\n"
    host.add_device(f"{parent}/input/input{number}", "input", None, files)
    case.path = host.add_device(f"{parent}/input/input{number}/event{number}", "input")
    os.symlink("..", "/sys" + case.path + "/device")
    case.subsystem = "input"
    case.sent = {"VENDOR_SAID": random_text(rng)}
    if rng.random() < 0.7:
        case.sent["ID_PATH_TAG"] = random_text(rng)

    def facts(properties):
        if b"ID_INPUT_KEY" in properties:  # the fence changes it, after the decision
            properties = {**properties, b"ID_INPUT_KEY": b"1"}
        return reference.EvdevDevice(name=b"" if missing else name.rstrip(b" \t\r\n"),
                                     path_tag=properties.get(b"ID_PATH_TAG", b""),
                                     properties=properties, on_usb=on_usb)

    case.facts = facts
    return case


# ---- random configs -----------------------------------------------------------------------------


def printable(text):
    return bytes(byte for byte in text if byte >= 0x20 and byte != 0x7f)


def random_regex(rng, depth=0):
    """A regular expression from a little grammar, often one that globs can say."""
    parts = []
    for _ in range(rng.randrange(1, 5)):
        kind = rng.randrange(9 if depth < 2 else 7)
        if kind < 3:
            part = bytes([rng.choice(b"aebrstKUSB019_ ")])
        elif kind == 3:
            part = b"."
        elif kind == 4:
            part = b"\\" + bytes([rng.choice(b"dwsDWS.|*?[]\\\"$^-")])
        elif kind == 5:
            inside = bytes(rng.choice(b"abcxyzUSB0_!\".,") for _ in range(rng.randrange(1, 4)))
            part = rng.choice([b"[", b"[^"]) + inside + rng.choice([b"", b"a-f", b"]"[:0]]) + b"]"
        elif kind == 6:
            part = rng.choice([b".*", b".+", b".?"])
        else:
            part = b"(" + b"|".join(random_regex(rng, depth + 1)
                                    for _ in range(rng.randrange(1, 4))) + b")"
        if kind != 6 and rng.random() < 0.3:
            part += rng.choice([b"?", b"*", b"+", b"{2}", b"{1,2}", b"{0,1}", b"{1,}"])
        parts.append(part)
    return b"".join(parts)


def random_pattern(rng):
    while True:
        kind = rng.random()
        if kind < 0.35:
            pattern = rng.choice(PATTERNS)
        elif kind < 0.65:
            pattern = random_regex(rng) + rng.choice([b"", b"$", b".*$"])
        else:
            word = printable(rng.choice(WORDS))
            escaped = b"".join(bytes([byte]) if chr(byte).isalnum() or byte >= 0x80 or byte == 32
                               else b"\\" + bytes([byte]) for byte in word)
            pattern = rng.choice([b"", b".*"]) + escaped + rng.choice([b"", b"$", b".*"])
        pattern = pattern.strip(b" ").replace(b" ;", b"")
        if pattern and len(pattern) < 150 and b";" not in pattern[:1] and \
           reference.regex_compile(pattern):
            return pattern


def random_number(rng, numbers):
    value = rng.choice(numbers)
    return rng.choice([b"%d" % value, b"0x%02x" % value])


def random_fields(rng, kind):
    def identity():
        return rng.choice(IDS).upper().encode() if rng.random() < 0.3 else rng.choice(IDS).encode()

    def serial():
        word = bytes(byte for byte in rng.choice(WORDS) if chr(byte).isalnum() and byte < 0x80)
        return word or b"0"

    usb = {
        "vendorId": identity, "productId": identity, "vendorName": lambda: random_pattern(rng),
        "productName": lambda: random_pattern(rng), "serial": serial,
        "vendorString": lambda: random_pattern(rng), "productString": lambda: random_pattern(rng),
        "pathTag": lambda: random_pattern(rng),
        "bus": lambda: b"%d" % rng.randrange(1, 4),
        "port": lambda: rng.choice([b"1", b"2", b"3", b"11", b"12"]),
        "portPath": lambda: rng.choice([", ", ","]).join(
            rng.sample([f"{rng.randrange(1, 4)}-{port}" for port in PORTS] + PORTS,
                       rng.choice([1, 1, 2, 3]))).encode(),
        "devpath": lambda: f"/devices/pci0000:00/n{rng.randrange(DEVICES)}".encode(),
        "interfaceClass": lambda: random_number(rng, CLASSES),
        "interfaceSubclass": lambda: random_number(rng, [0, 1, 6]),
        "interfaceProtocol": lambda: random_number(rng, [0, 1, 2]),
        "deviceClass": lambda: random_number(rng, CLASSES),
        "deviceSubclass": lambda: random_number(rng, [0, 1, 2]),
        "deviceProtocol": lambda: random_number(rng, [0, 1]),
        "removable": lambda: b", ".join(rng.sample([b"fixed", b"removable", b"unknown"],
                                                   rng.randrange(1, 3))),
        "driverPath": lambda: rng.choice([b".*/bluetooth/.*", b".*/vhp_(net|odd)", b".*\\.ko$",
                                          b"/lib/modules/.*misc", b"nowhere"]),
    }
    pci = {
        "address": lambda: f"{rng.choice(['0000', '10000', 'ABCDEF'])}:{rng.randrange(DEVICES):02X}:{rng.randrange(32):02x}.0".encode(),
        "vendorId": identity, "deviceId": identity, "subsystemVendorId": identity,
        "subsystemId": identity,
        "deviceClass": lambda: random_number(rng, [1, 2, 3, 6, 12, 0xff]),
        "deviceSubclass": lambda: random_number(rng, [0, 1, 3, 0x80]),
        "deviceProgIf": lambda: random_number(rng, [0, 0x30]),
    }
    evdev = {"name": lambda: random_pattern(rng), "pathTag": lambda: random_pattern(rng)}
    keys = {"usb": usb, "pci": pci, "evdev": evdev}[kind]
    if kind == "usb" and rng.random() < 0.85:
        del keys["driverPath"]
    fields = {key: keys[key]() for key in
              rng.sample(sorted(keys), min(len(keys), rng.choice([1, 1, 1, 2, 2, 3])))}
    if kind == "evdev" and rng.random() < 0.4:
        if rng.random() < 0.5:
            fields = {}
        value = rng.choice([b"1", b"0", printable(rng.choice(WORDS)).strip(b" ;") or b"1"])
        fields["property"] = rng.choice([b"ID_INPUT", b"ID_INPUT_KEY", b"VENDOR_SAID", b"ABSENT"])
        fields["value"] = value.swapcase() if value.isalpha() else value
    return fields


def random_config(rng):
    lines = [b"[vm vm1]", b"socket = /a", b"[vm vm-2]", b"socket = /b"]
    for group in range(rng.randrange(1, 5)):
        kind = rng.choice(["usb", "usb", "usb", "pci", "evdev"])
        lines.append(b"[%s G%d %s]" % (kind.encode(), group,
                                       rng.choice([b"x", b'"quoted"', b"$env{A} %k", b"a\\b/c"])))
        lines.append(rng.choice([b"targetVm = vm1", b"targetVm = vm-2", b"allowedVms = vm-2, vm1"]))
        lines += rng.choice([[], [], [b"fence = no"], [b"fence = yes"]])
        if rng.random() < 0.05:
            lines.append(b"disable = yes")
        # Many rules are written in another way than few.
        for rule in range(rng.randrange(1, 6) if rng.random() < 0.8 else rng.randrange(9, 80)):
            lines.append(b"[%s R%d]" % (rng.choice([b"allow", b"allow", b"deny"]), rule))
            if rng.random() < 0.04:
                lines.append(b"matchAll = yes")
            else:
                for key, value in random_fields(rng, kind).items():
                    lines.append(key.encode() + b" = " + value)
            if rng.random() < 0.05:
                lines.append(b"disable = yes")
    return b"\n".join(lines) + b"\n"


# ---- one round ----------------------------------------------------------------------------------


def safe(name):
    return bytes(ord("_") if byte in b'"\\$%/' else byte for byte in name)


def expected_of(decision):
    if not decision:
        return None
    kind, group, rule, vms, fence = decision
    return (b"/".join([kind.encode(), safe(group), safe(rule)]), b",".join(vms),
            b"yes" if fence else b"no")


def found_of(properties):
    if b"VHOTPLUG_RULE" not in properties:
        return None
    return tuple(properties.get(key) for key in
                 (b"VHOTPLUG_RULE", b"VHOTPLUG_VM", b"VHOTPLUG_FENCE"))


def generate(config):
    with tempfile.NamedTemporaryFile(suffix=".conf") as file:
        file.write(config)
        file.flush()
        done = subprocess.run([GEN_RULES, "-c", file.name, "-o", "-"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)
    if done.returncode != 0:
        raise AssertionError("refused: " + done.stderr.decode("utf-8", "replace"))
    return done.stdout


def write_uevent(case):
    """Lets sysfs say what the event said. False if it can't be said in lines."""
    values = [udevd.as_bytes(value) for value in case.sent.values()]
    with open("/sys" + case.path + "/uevent", "wb") as file:
        for key, value in zip(case.sent, values):
            file.write(key.encode() + b"=" + value + b"\n")
    return all(value == printable(value).strip() for value in values)


def check_explanation(config, case, expected):
    """--explain comes to the same decision as udevd."""
    with tempfile.NamedTemporaryFile(suffix=".conf") as file:
        file.write(config)
        file.flush()
        done = subprocess.run([GEN_RULES, "-c", file.name, "--explain", case.path],
                              stdout=subprocess.PIPE, check=True)
    decision = re.search(rb"^Decision: (.*)$", done.stdout, re.M).group(1)
    stored = re.search(rb"^udev's database has: (.*)$", done.stdout, re.M).group(1)
    if expected:
        vms = b"to " + b" or ".join(expected[1].split(b",")) + b"."
        good = decision.endswith(vms) and stored == expected[0]
        # The safe name in the database is that of the rule in the decision.
        rule = re.match(rb"\[allow (.*?)\] of \[(\S+) (.*?)\] gives", decision)
        good = good and rule and expected[0] == b"/".join([rule[2], safe(rule[3]), safe(rule[1])])
    else:
        good = decision == b"it stays with the host." and stored == b"no decision"
    if not good:
        raise AssertionError(f"--explain {case.path} disagrees, {expected}:\n{done.stdout}")


def evaluate(host, cases, seed, count):
    """What udevd says about each case, by the rules of this round. Now and then udevd 252 loses a
    request to reload, so a file in front of ours says whose round it was."""
    results, left = {}, [case.path for case in cases]
    for _ in range(5):
        for case in cases:
            if case.path in left:
                host.send("add", case.path, case.subsystem, **case.sent)
        results.update(host.wait_all(left))
        left = [path for path in left if results[path].get(b"ROUND") != b"%d" % seed]
        if not left:
            return results
        count["late"] += len(left)
        host.reload()
    raise AssertionError("udevd does not take the new rules")


def run_round(host, seed, modules, count):
    rng = random.Random(seed)
    config = random_config(rng)
    sections = reference.parse(config)
    try:
        host.write_rules(b'ENV{ROUND}="%d"\n' % seed, "65-round.rules")
        host.write_rules(generate(config))
        host.reload()
        makers = [usb_case, usb_case, usb_case, pci_case, evdev_case]
        cases = [rng.choice(makers)(host, rng, number, modules) for number in range(DEVICES)]
        results = evaluate(host, cases, seed, count)
        names = [os.path.basename(case.path) for case in cases]
        for case in cases:
            properties = results[case.path]
            device = case.facts(properties)
            meant = [expected_of(meaning) for meaning in reference.meanings(sections, device)]
            expected = found_of(properties)
            if expected not in meant:
                raise AssertionError(f"{case.path}: udevd says {expected}, the config "
                                     f"means {meant}\n{vars(device)}\n{properties}")
            count[expected is not None] += 1
            # udev's database has one entry for each name, and what only an event said is not in it.
            if case in cases[:3] and names.count(os.path.basename(case.path)) == 1 and \
                    write_uevent(case):
                check_explanation(config, case, expected)
    except Exception:
        print(f"seed {seed} fails; its config is\n{config.decode('utf-8', 'backslashreplace')}")
        raise
    for case in cases:
        host.remove_device("/".join(case.path.split("/")[:4]))
    for name in os.listdir("/run/udev/data"):
        os.unlink("/run/udev/data/" + name)


def main():
    udevd.enter_namespaces()
    os.environ["SYSTEMD_DEVICE_VERIFY_SYSFS"] = "0"  # for --explain, by libudev
    host = udevd.Udevd(LIBEXECDIR, BASE_RULES)
    host.install_program("vhotplug-match", MATCHER)
    host.install_program("vhotplug-helper", shutil.which("true"))  # what it is told is another test's matter
    modules = make_modules()
    host.write_rules(b"")
    host.start()
    with open(KEPT_SEEDS) as file:
        seeds = [int(line) for line in file if not line.startswith("#")]
    if FIRST_SEED is not None:
        seeds = list(range(FIRST_SEED, FIRST_SEED + ROUNDS))
    else:
        start = random.SystemRandom().randrange(1 << 32)
        seeds += list(range(start, start + ROUNDS))
    count = {True: 0, False: 0, "late": 0}
    print(f"seeds {seeds[0]} to {seeds[-1]}" if FIRST_SEED is not None else
          f"the kept seeds, and {start} to {start + ROUNDS - 1}", flush=True)
    for seed in seeds:
        run_round(host, seed, modules, count)
    decisions = count[True] + count[False]
    print(f"{len(seeds)} configs, {decisions} decisions, {count[True]} of them to take the device: "
          f"no difference ({count['late']} events again, since udevd used the old rules)")
    if count[True] * 20 < decisions:
        sys.exit("too few devices were taken for this to mean much")


main()
