#!/usr/bin/python3
"""Runs inside the emulated host: brings up udevd, then runs what was asked for, and tells the
outside by the virtio port "results", line by line; the last line carries the exit status, and for how many seconds the host
has been up, by its own clock."""
import faulthandler
import importlib
import json
import os
import pathlib
import sys
import time
import traceback

from lib import alive, sanitizers
from lib.host import open_port
from lib.wait import Failed
from lib.world import World


# Seconds of a story, of which the longest takes three minutes, more where it repeats something: then it says where it
# is, and all ends.
HANGS = 1200


def since_power_on():
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def run_story(world, story):
    """Returns what went wrong, in words, or nothing."""
    world.mark()
    faulthandler.dump_traceback_later(HANGS * int(os.environ.get("VMM_TIMES", 1)), exit=True, file=sys.stdout)
    problems = []
    try:
        world.install(story.build)
        story(world)
    except Failed as error:
        frame = next((frame for frame in reversed(traceback.extract_tb(error.__traceback__))
                      if "/scenarios/" in frame.filename), None)
        where = f" ({os.path.basename(frame.filename)}:{frame.lineno}: {frame.line})" if frame else ""
        problems.append(f"{error}{where}")
    except Exception as error:  # a mistake in the story itself, or a program that is not there
        problems.append(f"{error!r}\n{traceback.format_exc()}")
    evidence = world.evidence() if problems else ""
    try:
        world.reset()
    except Failed as error:
        problems.append(str(error))
    except Exception:  # the stories to come are told all the same
        problems.append(traceback.format_exc())
    reports = world.take_sanitizer_reports()
    if reports:
        problems.append(f"the sanitizers reported:\n{reports}")
    faulthandler.cancel_dump_traceback_later()
    # Where only the end went wrong, what is left.
    return "\n".join(problems), evidence or (world.evidence() if problems else "")


def run_stories(world, names):
    import scenarios
    known = scenarios.load()
    failed = 0
    chosen = names or list(known)
    for name in chosen:
        start = time.monotonic()
        problem, evidence = run_story(world, known[name])
        seconds = f"({time.monotonic() - start:.1f} s)"
        if problem:
            failed += 1
            print(f"FAIL {name} {seconds}\n{problem}\n{evidence}\n--- end of {name}")
        else:
            print(f"ok {name} {seconds}")
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return 1 if failed else 0


def run(request):
    started = since_power_on()
    world = World(request)
    world.install("dev")
    world.udev.start()
    print(f"emulated host: kernel and root up after {started:.0f} s, udevd settled after {since_power_on():.0f} s")
    if request["program"] == "stories":
        return run_stories(world, request["names"])
    return importlib.import_module(request["program"]).main(world)


def main():
    os.environ["VHP_RUN"] = sys.argv[1]
    request = json.loads((pathlib.Path(sys.argv[1]) / "request.json").read_text())
    os.environ.update(request["named"])
    # Line by line, so that the outside sees things as they happen.
    sys.stdout = os.fdopen(open_port("results"), "w", buffering=1)
    os.environ.update(sanitizers.variables())  # whoever starts a broker
    status = 1
    try:
        with alive.shown(sys.stdout):
            status = run(request)
    except Exception as error:  # none of a story's
        print(f"FAIL the emulated host: {error!r}\n{traceback.format_exc()}--- end of the emulated host")
    print(f"::exit {status} {since_power_on():.0f}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
