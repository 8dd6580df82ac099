"""Where the sanitizers in our programs report, and what they look for."""
import pathlib

REPORTS = pathlib.Path("/run/sanitizers")
ALL = f"log_path={REPORTS}/report"
# For programs that end at once, like the helper: no search for leaks at their end. Emulated it takes longer than all
# that they do; unit and integration tests search there.
BRIEF = f"{ALL}:detect_leaks=0"


def variables(options):
    """What tells them, in a program's environment."""
    return {"ASAN_OPTIONS": options, "UBSAN_OPTIONS": options}
