"""What a config means, written down a second time and as plainly as possible: the rules that
vhotplug-gen-rules makes are compared with this. It follows the description of the config in
vhotplug.conf(5), knows nothing of udev rules, and uses PCRE2 for regular expressions."""

import ctypes
import ctypes.util

CASELESS, DOLLAR_ENDONLY, DOTALL, ANCHORED = 0x8, 0x10, 0x20, 0x80000000
NO_MATCH = -1

_pcre2 = ctypes.CDLL(ctypes.util.find_library("pcre2-8") or "libpcre2-8.so.0")
_pcre2.pcre2_compile_8.restype = ctypes.c_void_p
_pcre2.pcre2_compile_8.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint32,
                                   ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_size_t),
                                   ctypes.c_void_p]
_pcre2.pcre2_match_data_create_8.restype = ctypes.c_void_p
_pcre2.pcre2_match_data_create_8.argtypes = [ctypes.c_uint32, ctypes.c_void_p]
_pcre2.pcre2_match_8.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t,
                                 ctypes.c_size_t, ctypes.c_uint32, ctypes.c_void_p,
                                 ctypes.c_void_p]
_pcre2.pcre2_dfa_match_8.argtypes = [*_pcre2.pcre2_match_8.argtypes, ctypes.c_void_p, ctypes.c_size_t]
_pcre2.pcre2_match_context_create_8.restype = ctypes.c_void_p
_pcre2.pcre2_set_match_limit_8.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
_pcre2.pcre2_set_depth_limit_8.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
_match_data = _pcre2.pcre2_match_data_create_8(1, None)
_context = _pcre2.pcre2_match_context_create_8(None)
_pcre2.pcre2_set_match_limit_8(_context, 1000000)
_pcre2.pcre2_set_depth_limit_8(_context, 10000)
_workspace = (ctypes.c_int * 100000)()
_compiled = {}
_assumed = None  # (pattern, subject) to the answer, in meanings()


def regex_compile(pattern):
    """The compiled pattern, or None if it is invalid."""
    if pattern not in _compiled:
        error, offset = ctypes.c_int(), ctypes.c_size_t()
        _compiled[pattern] = _pcre2.pcre2_compile_8(
            pattern, len(pattern), CASELESS | DOLLAR_ENDONLY | DOTALL | ANCHORED,
            ctypes.byref(error), ctypes.byref(offset), None)
    return _compiled[pattern]


class GaveUp(Exception):
    """PCRE2 has, on this pattern and subject."""


def answer_of(result):
    return True if result >= 0 else False if result == NO_MATCH else None


def regex_matches(pattern, subject):
    """Whether PATTERN matches SUBJECT from its start; None if there is no answer."""
    answer = answer_of(_pcre2.pcre2_match_8(regex_compile(pattern), subject, len(subject), 0, 0,
                                            _match_data, _context))
    if answer is not None or _assumed is None:
        return answer
    if (pattern, subject) not in _assumed:
        raise GaveUp(pattern, subject)
    return _assumed[pattern, subject]


def regex_truth(pattern, subject):
    """The same without backtracking, so that there is an answer; None if not even so."""
    return answer_of(_pcre2.pcre2_dfa_match_8(regex_compile(pattern), subject, len(subject), 0, 0, _match_data,
                                              None, _workspace, len(_workspace)))


def looks_like(pattern, subject, deny):
    """The same for a rule: where there is no answer, a deny denies and an allow doesn't take."""
    answer = regex_matches(pattern, subject)
    return deny if answer is None else answer


def parse(text):
    """The sections of a config that is known to be good: (kind, name, {key: value})."""
    sections = []
    for line in text.split(b"\n"):
        line = line.strip(b" \t")
        if not line or line[:1] in b";#":
            continue
        if line.startswith(b"["):
            kind, _, name = line[1:line.index(b"]")].strip().partition(b" ")
            sections.append((kind.decode(), name.strip(), {}))
        else:
            key, _, value = line.partition(b"=")
            value = (b" " + value).split(b" ;")[0]
            sections[-1][2][key.strip().decode()] = value.strip()
    return sections


def class_number(value):
    return int(value, 16) if value.startswith(b"0x") else int(value)


# ---- one rule against one device ----------------------------------------------------------------


class UsbDevice:
    """vendor_id product_id (text), database and own names, vendor_string product_string (the
    device's own words), serial, bus (number), name ("1-1.4"), devpath, path_tag, device_class and
    interfaces (triples; None: they can't be read), listed (the interfaces in udev's list, if those
    are others), removable (None: no such attribute), drivers."""

    def __init__(self, **facts):
        self.listed = facts.get("interfaces")
        self.__dict__.update(facts)

    def is_never_taken(self):
        return self.device_class[0] == 9 or self.listed is None or \
            any(i[0] == 9 for i in self.listed)

    def is_unknown(self, rule):
        """Whether RULE, a deny, looks at what can't be read."""
        return self.interfaces is None and any(
            key.startswith("interface") or key == "driverPath" for key in rule)

    def matches(self, rule, deny=False):
        seen = self.interfaces if deny else self.listed
        checks = {
            "vendorId": lambda v: v.lower() == self.vendor_id,
            "productId": lambda v: v.lower() == self.product_id,
            "vendorName": lambda v: looks_like(v, self.database_vendor or self.own_vendor, deny),
            "productName": lambda v: looks_like(v, self.database_product or self.own_product, deny),
            "vendorString": lambda v: looks_like(v, self.vendor_string, deny),
            "productString": lambda v: looks_like(v, self.product_string, deny),
            "pathTag": lambda v: looks_like(v, self.path_tag, deny),
            "serial": lambda v: v == self.serial,
            "bus": lambda v: int(v) == self.bus,
            "port": lambda v: v == self.name.split(b"-")[1].split(b".")[0],
            "portPath": lambda v: any(
                one in (self.name, self.name.split(b"-")[1]) for one in v.replace(b" ", b"").split(b",")),
            "devpath": lambda v: self.devpath == v or self.devpath.startswith(v + b"/"),
            "deviceClass": lambda v: class_number(v) == self.device_class[0],
            "deviceSubclass": lambda v: class_number(v) == self.device_class[1],
            "deviceProtocol": lambda v: class_number(v) == self.device_class[2],
            "removable": lambda v: self.removable in [word.strip() for word in v.split(b",")],
            "driverPath": lambda v: self.has_driver(v, seen, deny),
        }
        interface = [class_number(rule[key]) if key in rule else None for key in
                     ("interfaceClass", "interfaceSubclass", "interfaceProtocol")]
        if any(part is not None for part in interface):
            if not any(all(want in (None, have) for want, have in zip(interface, triple))
                       for triple in seen):
                return False
        return all(checks[key](value) for key, value in rule.items() if key in checks)

    def has_driver(self, pattern, seen, deny):
        if self.interfaces is None or \
                any(triple[0] not in (0, 0xff) for triple in seen + self.interfaces):
            return False
        return any(looks_like(pattern, driver, deny) for driver in self.drivers)


class PciDevice:
    """address, vendor_id device_id subsystem_vendor_id subsystem_id (text; None: missing), pci_class
    (triple)."""

    def __init__(self, **facts):
        self.__dict__.update(facts)

    def is_never_taken(self):
        return self.pci_class[0] == 6

    def is_unknown(self, _):
        return False

    def matches(self, rule, deny=False):
        checks = {
            "address": lambda v: v.lower() == self.address,
            "vendorId": lambda v: v.lower() == self.vendor_id,
            "deviceId": lambda v: v.lower() == self.device_id,
            "subsystemVendorId": lambda v: v.lower() == self.subsystem_vendor_id,
            "subsystemId": lambda v: v.lower() == self.subsystem_id,
            "deviceClass": lambda v: class_number(v) == self.pci_class[0],
            "deviceSubclass": lambda v: class_number(v) == self.pci_class[1],
            "deviceProgIf": lambda v: class_number(v) == self.pci_class[2],
        }
        return all(checks[key](value) for key, value in rule.items() if key in checks)


class EvdevDevice:
    """name, path_tag, properties (bytes to bytes), on_usb."""

    def __init__(self, **facts):
        self.__dict__.update(facts)

    def is_never_taken(self):
        return self.on_usb

    def is_unknown(self, _):
        return False

    def matches(self, rule, deny=False):
        checks = {
            "name": lambda v: looks_like(v, self.name, deny),
            "pathTag": lambda v: looks_like(v, self.path_tag, deny),
            "value": lambda v: ascii_lower(v) == ascii_lower(
                self.properties.get(rule["property"], b"")),
        }
        return all(checks[key](value) for key, value in rule.items() if key in checks)


def ascii_lower(value):
    return bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in value)


KINDS = {"usb": UsbDevice, "pci": PciDevice, "evdev": EvdevDevice}


# ---- the whole config ---------------------------------------------------------------------------


def groups_of(sections):
    groups = []
    for kind, name, keys in sections:
        if kind in KINDS:
            groups.append((kind, name, keys, []))
        elif kind in ("allow", "deny"):
            groups[-1][3].append((kind, name, keys))
    return groups


def decide(sections, device):
    """(kind, group, rule, [VMs], fence) of the group that takes the device, or None."""
    if device.is_never_taken():
        return None
    for kind, group, keys, rules in groups_of(sections):
        if not isinstance(device, KINDS[kind]) or keys.get("disable") == b"yes":
            continue
        rules = [rule for rule in rules if rule[2].get("disable") != b"yes"]
        if any(device.is_unknown(fields) or device.matches(fields, deny=True)
               for verb, _, fields in rules if verb == "deny"):
            continue
        for verb, name, fields in rules:
            if verb == "allow" and device.matches(fields):
                vms = (keys.get("targetVm") or keys["allowedVms"]).split(b",")
                return (kind, group, name, [vm.strip() for vm in vms],
                        keys.get("fence") != b"no")
    return None


def meanings(sections, device, assumed=None):
    """What decide() may say: more than one thing where PCRE2 gives up on a pattern, since udev, which has globs for
    many, may have an answer all the same."""
    global _assumed
    _assumed = assumed or {}
    try:
        return [decide(sections, device)]
    except GaveUp as case:
        return [found for answer in {None, regex_truth(*case.args)}
                for found in meanings(sections, device, {**(assumed or {}), case.args: answer})]
    finally:
        _assumed = None
