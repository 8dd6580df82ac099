"""The kernel's own record of which programs were started."""
import contextlib
import pathlib

TRACING = pathlib.Path("/sys/kernel/tracing")
EXEC = TRACING / "events/sched/sched_process_exec"


@contextlib.contextmanager
def executions(program):
    """With-block; gives a function that says how often PROGRAM was started since its beginning."""
    (EXEC / "filter").write_text(f'filename == "{program}"')
    (TRACING / "trace").write_text("")
    (EXEC / "enable").write_text("1")
    try:
        yield lambda: (TRACING / "trace").read_text().count("sched_process_exec:")
    finally:
        (EXEC / "enable").write_text("0")
        (EXEC / "filter").write_text("0")
