"""Reads what callgrind has written."""
import re


class Profile:
    """What callgrind has written about a process."""

    def __init__(self, path):
        self.text = path.read_text()
        self.total = int(re.search(r"^totals: (\d+)", self.text, re.M)[1])

    def calls(self, *names):
        """How often these functions were called, and the instructions in there."""
        numbers = {number for number, name in re.findall(r"^c?fn=\((\d+)\) (\S+)", self.text, re.M)
                   if name.split("'")[0] in names}
        found = [(int(count), int(cost)) for number, count, cost in
                 re.findall(r"^cfn=\((\d+)\)[^\n]*\ncalls=(\d+)[^\n]*\n\S+ (\d+)", self.text, re.M)
                 if number in numbers]
        return sum(count for count, _ in found), sum(cost for _, cost in found)
