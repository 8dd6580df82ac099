"""Counts that are kept in the repository, by release of Debian: instructions depend on its compiler and its
libraries, and on nothing else. More than a twentieth above is a failure; a release of which none are kept is told, and
passed over. The files have lines "RELEASE NAME COUNT"."""
import pathlib
import re

MARGIN = 1.05
RELEASE = re.search(r"^VERSION_CODENAME=(.*)$", pathlib.Path("/etc/os-release").read_text(), re.M)[1]


def read(path):
    lines = (line.split() for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return {(release, name): int(count) for release, name, count in lines}


def keep(path, values):
    """VALUES, by name, take the place of what was kept of this release. Comments stay."""
    comments = [line for line in path.read_text().splitlines() if line.startswith("#")]
    figures = {key: count for key, count in read(path).items() if key[0] != RELEASE}
    figures.update({(RELEASE, str(name)): round(value) for name, value in values.items()})
    path.write_text("\n".join(comments + [f"{release} {name} {count}" for (release, name), count in figures.items()]) + "\n")


def exceeds(path, values, margin=MARGIN):
    """Whether one of VALUES is too high; says so."""
    figures, failed = read(path), False
    for name, value in values.items():
        limit = figures.get((RELEASE, str(name)))
        failed = failed or (limit is not None and value > limit * margin)
        print(f"{name}: {value:.0f}, kept are {limit if limit is not None else 'none for ' + RELEASE}", flush=True)
    if failed:
        print(f"more than {margin} times what is kept; if it must be so: --keep")
    return failed
