"""Where the sanitizers in the broker report. What ends at once has none in the stories (tests/host/run)."""
import pathlib

REPORTS = pathlib.Path("/run/sanitizers")


def variables():
    """What tells the sanitizers, in a program's environment."""
    return {name: f"log_path={REPORTS}/report" for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS")}
