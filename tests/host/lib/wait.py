"""Waiting and expecting, with words for the failure."""
import time


class Failed(Exception):
    """A story's expectation did not hold; the text says which."""


def expect(holds, what):
    if not holds:
        raise Failed(what() if callable(what) else what)


def wait_until(condition, seconds, what):
    """Calls CONDITION until it returns something true, and returns that. WHAT may be a function,
    asked only on failure: it can then say what was seen instead."""
    end = time.monotonic() + seconds
    pause = 0.02
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= end:
            raise Failed(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def stays(condition, seconds, what):
    """The opposite: CONDITION must hold all the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        expect(condition(), what)
        time.sleep(0.1)
