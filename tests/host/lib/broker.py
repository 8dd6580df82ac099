"""The broker under test, and the two views of its database."""
import contextlib
import os
import pathlib
import re
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time

from .wait import Failed, keep

PROGRAM = "/usr/sbin/vhotplug-broker"
UNIT = pathlib.Path("/usr/lib/systemd/system/vhotplug.service")
STATE = pathlib.Path("/var/lib/vhotplug")
DATABASE = STATE / "vhotplug.db"


def rights():
    """What makes a program run with the rights that its unit gives it, and no others."""
    unit = UNIT.read_text()
    names = re.search(r"^CapabilityBoundingSet=(.*)$", unit, re.M)[1].replace("CAP_", "+").lower().split()
    return ["setpriv", "--no-new-privs", "--bounding-set=-all," + ",".join(names)]


def of_process(pid, name):
    """What /proc has about a process under NAME; nothing, if it has ended meanwhile."""
    try:
        return pathlib.Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def number_in(status, name):
    """The number behind NAME in a /proc/PID/status; 0 if the process has ended."""
    match = re.search(rf"^{name}:\s+(\d+)", status, re.M)
    return int(match[1]) if match else 0


class Broker:
    def __init__(self, log):
        self.log_path, self.process = log, None

    def start(self, *arguments, seconds=120):
        """Starts it and waits until it says that it is ready."""
        with tempfile.TemporaryDirectory() as folder, \
             socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, self.log_path.open("ab") as log:
            ready.bind(f"{folder}/notify")
            ready.settimeout(seconds)
            self.process = subprocess.Popen(
                [*rights(), PROGRAM, "-d", *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": f"{folder}/notify"})
            try:
                while b"READY=1" not in ready.recv(4096):
                    pass
            except TimeoutError:
                code = self.process.poll()
                raise Failed("the broker did not say that it is ready; "
                             + (self.kernel_stacks() if code is None else f"it ended with {code}")) from None

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, seconds=60):
        """Ends it in good order; an exit status other than 0 is a failure."""
        if not self.process:
            return
        self.process.terminate()
        code = self.process.wait(timeout=seconds)
        self.process = None
        if code != 0:
            raise Failed(f"the broker ended with {code}")

    def kill9(self):
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def reload(self):
        self.process.send_signal(signal.SIGHUP)

    def freeze(self):
        """Stops it in its tracks, so that something can happen before its next step."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def processes(self):
        """Its own number and those of its children: the worker, and whatever that has started."""
        found, new = [], [self.process.pid]
        while new:
            found.append(new.pop())
            new += [int(pid) for pid in of_process(found[-1], f"task/{found[-1]}/children").split()]
        return found

    def descriptors(self):
        """How many file descriptors it and its worker have open, but for the former copies of the database
        for everybody, of which it keeps the last sixteen."""
        count = 0
        for pid in self.processes():
            for path in pathlib.Path(f"/proc/{pid}/fd").glob("*"):
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    count += not os.readlink(path).endswith("/vhotplug.db (deleted)")
        return count

    def wakeups(self):
        """How often it and its worker have gone to sleep so far."""
        return sum(number_in(of_process(pid, "status"), "voluntary_ctxt_switches") for pid in self.processes())

    def expect_quiet(self, seconds=5):
        """As soon as it has done all that there was to do, it does not wake up once in SECONDS. (The copy of the
        database for everybody is written within five seconds of a change, on a busy machine later.)"""
        for _ in range(6):
            before = self.wakeups()
            time.sleep(seconds)
            woken = self.wakeups() - before
            if woken == 0:
                return
        raise Failed(f"in {seconds} quiet seconds it has woken up {woken} times")

    def kernel_stacks(self):
        """Where it and its worker are in the kernel: says what one that hangs waits for."""
        if not self.is_running():
            return "it does not run"
        return "".join(f"process {pid}\n" + of_process(pid, "stack") for pid in self.processes())

    def memory(self):
        """How many kilobytes it and its worker have of their own in memory, not of files."""
        return sum(number_in(of_process(pid, "status"), "RssAnon") for pid in self.processes())

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


class Reader:
    """A connection to the database, which is asked again only for what has been written since."""

    def __init__(self):
        self.connection = sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True, timeout=10)
        self.connection.row_factory = sqlite3.Row
        self.version, self.answers = None, {}

    def rows(self, query, values):
        version = self.connection.execute("pragma data_version").fetchone()[0]
        if version != self.version:
            self.version, self.answers = version, {}
        if (query, values) not in self.answers:
            self.answers[query, values] = self.connection.execute(query, values).fetchall()
        return self.answers[query, values]

    def close(self):
        self.connection.close()


class Database:
    """The views, as anybody may read them. Every row of assignments that a story sees must have a
    reason, and a failed one must say what to do; `speechless` has those that don't."""

    def __init__(self):
        self.speechless = set()

    def listen(self, rows):
        """Looks at rows of assignments. What to do comes behind a semicolon: "no VM …; run …"."""
        for row in rows:
            if not row["reason"] or (row["state"] == "failed" and not re.search(r"; \w+", row["reason"])):
                self.speechless.add(f"{row['device']} is {row['state']}, reason '{row['reason']}'")
        return rows

    @staticmethod
    def rows(query, *values):
        try:
            # By its inode, since another one may take its place.
            with keep((DATABASE, DATABASE.stat().st_ino), Reader) as reader:
                return reader.rows(query, values)
        except FileNotFoundError:
            return []
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):  # the broker is just making it
                return []
            raise

    def assignment(self, device):
        """The row of one device, or None. While what was in the same port before is still leaving,
        it has a row too, an earlier one."""
        rows = self.listen(self.rows("select * from assignments"))
        rows = [row for row in rows if row["device"] == device.name]
        return rows[-1] if rows else None

    def assignments(self):
        return self.listen(self.rows("select * from assignments"))

    def history(self, device=None, action=None, result=None):
        """In the order in which it happened."""
        rows = self.rows("select * from history")
        return [row for row in rows if (device is None or row["device"] == device.name)
                and action in (None, row["action"]) and result in (None, row["result"])]

    def dump(self):
        lines = []
        for view in ("assignments", "history"):
            lines.append(f"{view}:")
            lines += ["  " + " | ".join(str(value) for value in row) for row in self.rows(f"select * from {view}")]
        return "\n".join(lines)
