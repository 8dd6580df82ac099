"""Waiting and expecting, with words for the failure."""
import contextlib
import errno
import threading
import time

# What sysfs and /proc answer about a thing that goes away while it is looked at.
MOVING = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ESRCH)


class Failed(Exception):
    """A story's expectation did not hold; the text says which."""


def expect(holds, what):
    if not holds:
        raise Failed(what() if callable(what) else what)


class _Wait(threading.local):
    kept = None  # by name, while there is a wait


_wait = _Wait()


@contextlib.contextmanager
def _keeping():
    """Meanwhile keep() keeps: until the outermost wait ends."""
    if _wait.kept is not None:
        yield
        return
    _wait.kept = {}
    try:
        yield
    finally:
        kept, _wait.kept = _wait.kept, None
        for thing in kept.values():
            thing.close()


@contextlib.contextmanager
def keep(name, make):
    """What MAKE has made, to be closed: within a wait the same for all who ask for NAME, until its end. So what is
    dear to open is not opened anew for each look; and nothing stays open that a story does not know of."""
    if _wait.kept is None:
        with contextlib.closing(make()) as thing:
            yield thing
        return
    if name not in _wait.kept:
        _wait.kept[name] = make()
    yield _wait.kept[name]


def _ask(condition):
    """What CONDITION returns; the error itself, if what it looked at went away under its eyes."""
    try:
        return condition()
    except OSError as error:
        if error.errno not in MOVING:
            raise
        return error


def look(read, seconds=60):
    """What READ returns, which looks at things that may be moving: what goes away under its eyes is looked at
    again."""
    end = time.monotonic() + seconds
    with _keeping():
        while isinstance(value := _ask(read), OSError):
            if time.monotonic() >= end:
                raise value
            time.sleep(0.02)
    return value


def wait_until(condition, seconds, what):
    """Calls CONDITION until it returns something true, and returns that. What goes away while CONDITION looks
    at it is looked at again. WHAT may be a function, asked only on failure: it can then say what was seen
    instead."""
    end = time.monotonic() + seconds
    pause = 0.02
    with _keeping():
        while True:
            value = _ask(condition)
            if value and not isinstance(value, OSError):
                return value
            if time.monotonic() >= end:
                seen = f" ({value})" if isinstance(value, OSError) else ""
                raise Failed(f"not within {seconds} s: {what() if callable(what) else what}{seen}")
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)


def stays(condition, seconds, what):
    """The opposite: CONDITION must hold all the time. Where it can't be asked because things are moving, it
    is asked again; at the end it must have an answer."""
    end = time.monotonic() + seconds
    with _keeping():
        while True:
            value = _ask(condition)
            if not isinstance(value, OSError):
                expect(value, what)
            if time.monotonic() >= end:
                expect(not isinstance(value, OSError), f"{what} (at the end: {value})")
                return
            time.sleep(0.1)
