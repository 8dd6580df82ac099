"""Configs of any size for the benchmarks, in groups of up to 50 rules: of ten rules four are by ids,
three by interface class, two by port and one by name. None takes a device of vendor fffe."""


def fields(number, names_only):
    kind = number % 10
    if names_only or kind == 9:
        return [f"productName = .*Ethernet Adapter {number}x.*"]
    if kind in (7, 8):
        return [f"portPath = {number % 900 + 1}-{number // 900 + 1}"]
    if kind in (4, 5, 6):
        return [f"interfaceClass = {0x20 + number % 64}", "interfaceProtocol = 1"]
    return [f"vendorId = {number % 0xfff0:04x}", f"productId = {number * 7 % 65536:04x}"]


def config(rules, names_only=False):
    lines = ["[vm vm1]", "socket = /run/vm1.sock"]
    for number in range(rules):
        if number % 50 == 0:
            lines += [f"[usb Group {number // 50}]", "targetVm = vm1"]
        lines.append(f"[{'deny' if number % 7 == 6 else 'allow'} Rule {number}]")
        lines += fields(number, names_only)
    return "\n".join(lines) + "\n"
