"""Every file here holds stories; load() finds them."""
import importlib
import pathlib

from lib.story import STORIES


def load():
    """Imports all files, in the order of their names. Returns name → story."""
    for path in sorted(pathlib.Path(__file__).parent.glob("[a-z]*.py")):
        importlib.import_module(f"scenarios.{path.stem}")
    return STORIES
