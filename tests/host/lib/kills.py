"""Who dies by kill -9 while something goes on: the broker, a VM, or both, each time at another point of it."""
import collections
import time

VICTIMS = (("broker",), ("vm",), ("broker", "vm"))
EVEN = 0.618  # its multiples, without their whole part, fill a range evenly, however many there are
BEFORE = 0.15  # of all kills


class Kills:
    """SECONDS is how long what goes on takes where nobody dies."""

    def __init__(self, world, vm, seconds):
        self.world, self.vm, self.seconds = world, vm, seconds
        self.count, self.found = 0, collections.Counter()

    def around(self, device, act):
        """ACT begins something with DEVICE. The next victims die before that or at some point of what follows,
        or after it, and run again when this returns."""
        victims = VICTIMS[self.count % len(VICTIMS)]
        point = self.count * EVEN % 1 - BEFORE
        self.count += 1
        if point >= 0:
            act()
            time.sleep(1.5 * self.seconds * point ** 2)  # more of them early, when the short steps are
        self._kill(victims, device)
        if point < 0:
            act()
        if "vm" in victims:
            self.vm.start()
        if "broker" in victims:
            self.world.broker.start()

    def _kill(self, victims, device):
        """What the broker was at then is counted."""
        if "broker" in victims:
            self.world.broker.kill9()
        row = self.world.db.assignment(device)
        self.found[row["state"] if row else "the host's"] += 1
        if "vm" in victims:
            self.vm.kill9()

    def tell(self):
        found = ", ".join(f"{count} {state}" for state, count in sorted(self.found.items()))
        print(f"  {self.count} kills within {1.5 * self.seconds:.1f} s, found {found}")
