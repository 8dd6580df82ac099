"""Configs of any size for the benchmarks, in groups of up to 50 rules: of ten rules four are by ids,
three by interface class, two by port and one by name. None takes a device of vendor fffe."""

SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "je", "ki", "lo", "mu")


def word(number):
    """One that no other number has, nor much of it."""
    return "".join(SYLLABLES[(number * 7919 // 10 ** place + place) % 10] for place in range(4))


def fields(number, names):
    """NAMES: "alike" or "different" if all rules are by name."""
    kind = number % 10
    if names == "different":
        return [f"productName = .*{word(number)}.*"]
    if names == "alike" or kind == 9:
        return [f"productName = .*Ethernet Adapter {number}x.*"]
    if kind in (7, 8):
        return [f"portPath = {number % 900 + 1}-{number // 900 + 1}"]
    if kind in (4, 5, 6):
        return [f"interfaceClass = {0x20 + number % 64}", "interfaceProtocol = 1"]
    return [f"vendorId = {number % 0xfff0:04x}", f"productId = {number * 7 % 65536:04x}"]


def config(rules, names=None):
    lines = ["[vm vm1]", "socket = /run/vm1.sock"]
    for number in range(rules):
        if number % 50 == 0:
            lines += [f"[usb Group {number // 50}]", "targetVm = vm1"]
        lines.append(f"[{'deny' if number % 7 == 6 else 'allow'} Rule {number}]")
        lines += fields(number, names)
    return "\n".join(lines) + "\n"
