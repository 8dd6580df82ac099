"""Parts of a test that run side by side, so that the waits of one are not the waits of all: each in a process of its
own that sees no other processes than its own, has mounts of its own, and takes them all along when it ends.
"""

import ctypes
import os
import signal
import sys
import tempfile
import traceback

AT_ONCE = 6
BROKEN = 200  # what a part returns is less
CLONE_NEWNS, CLONE_NEWPID = 0x20000, 0x20000000
MS_REC, MS_PRIVATE = 0x4000, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def end_with_us():
    """Between fork and exec, or in what was forked: the child is killed when this process ends, also by a time limit.
    What is left of a test has devices open that others are about."""
    pr_set_pdeathsig = 1
    _libc.prctl(pr_set_pdeathsig, signal.SIGKILL)


def leave(namespaces=0):
    """From now on mounts are our own, and NAMESPACES too. Returns whether it has worked."""
    return (_libc.unshare(CLONE_NEWNS | namespaces) == 0
            and _libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None) == 0)


def may_be_apart():
    """A child tries it."""
    return _status_of(lambda: 0 if leave(CLONE_NEWPID) else 1) == 0


def _begin(function):
    """A child that ends with the status that FUNCTION returns."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = BROKEN
    try:
        end_with_us()
        status = function()
    except BaseException:  # pylint: disable=broad-except
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _status_of(function):
    return _wait(_begin(function))


def _as_first_process(function):
    """Collects what its parents have left behind, as any other first process does."""
    if _libc.mount(b"proc", b"/proc", b"proc", 0, None) < 0:
        raise OSError(ctypes.get_errno(), "/proc")
    child = _begin(function)
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status) % 256


def _in_namespaces(function, output):
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    if not leave(CLONE_NEWPID):
        raise OSError(ctypes.get_errno(), "no namespaces")
    return _status_of(lambda: _as_first_process(function)) % 256


def run(functions, at_once=AT_ONCE):
    """Each of FUNCTIONS returns its exit status: a list of these. What one prints is shown in one piece, in the order
    of FUNCTIONS. The first ones begin first."""
    waiting, outputs, under_way, statuses = list(enumerate(functions)), {}, {}, {}
    for shown in range(len(functions)):
        while shown not in statuses:
            while waiting and len(under_way) < at_once:
                number, function = waiting.pop(0)
                outputs[number] = tempfile.TemporaryFile("w+", errors="replace")
                under_way[_begin(lambda f=function, n=number: _in_namespaces(f, outputs[n]))] = number
            pid, status = os.wait()
            statuses[under_way.pop(pid)] = os.waitstatus_to_exitcode(status)
        with outputs.pop(shown) as output:
            output.seek(0)
            print(output.read(), end="", flush=True)
    return [statuses[number] for number in range(len(functions))]
