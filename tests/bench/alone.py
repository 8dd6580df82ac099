"""Makes the kernel count a program's memory as on a whole system, whatever else runs here: PSS divides a page by those who
have it mapped.

The C library and its loader are those of every program: they are mapped some twenty times, which is what a small system
has. The other libraries hardly anybody has; here this Python does, SQLite's above all, and other tests. So the program gets
copies of them, in a mount namespace of its own."""

import mmap
import pathlib
import re
import shutil
import subprocess

PROGRAMS = 20
EVERYBODYS = re.compile(r"(libc|ld-linux-[\w-]+|ld64)\.so")

crowd = []  # what is mapped for those who are not there


def libraries(program):
    words = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout.split()
    return {pathlib.Path(word).resolve() for word in words if word.startswith("/")}


def join_crowd(library):
    with open(library, "rb") as file:
        crowd.extend(mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, mmap.PROT_READ) for _ in range(PROGRAMS))


def stand_alone(program, folder):
    """From now on, for what is started in this namespace. The copies are in FOLDER, which may be removed afterwards."""
    for library in libraries(program):
        if EVERYBODYS.match(library.name):
            join_crowd(library)
            continue
        copy = folder / library.name
        shutil.copy(library, copy)
        subprocess.run(["mount", "--bind", copy, library], check=True)
