"""A story is a function with one argument, the world; its name and its one-line doc are the test's."""

STORIES = {}


def story(function=None, *, build="dev", alone=False, guest=False, needs=None, fetches=(), seconds=10):
    """Registers a story. BUILD "release" runs it on the programs without sanitizers: to compare what they
    need. ALONE runs it with no other host beside this one: to compare times. GUEST has a VM with a guest that runs: its
    host has two processors. NEEDS names a variable without
    which it can't be told. FETCHES are a folder's name in .build-host, and packages that are unpacked there.
    SECONDS it takes, where far from ten."""
    def register(function):
        name = function.__name__.replace("_", "-")
        if name in STORIES:
            raise ValueError(f"two stories are called {name}")
        function.build, function.alone, function.needs, function.fetches = build, alone, needs, fetches
        function.guest, function.seconds = guest, seconds
        STORIES[name] = function
        return function
    return register(function) if function else register


def has_guest(names):
    return any(STORIES[name].guest for name in names)


def share_out(names, hosts):
    """Shares NAMES out among so many hosts, all stories of a file to one, and all files with guests to half of them,
    so that each has about as much to do. They keep their order."""
    files = {}
    for name in names:
        files.setdefault(STORIES[name].__module__, []).append(name)
    parts = [[] for _ in range(hosts)]

    def seconds(part):
        return sum(STORIES[name].seconds for name in part)

    for file in sorted(files.values(), key=lambda file: (has_guest(file), seconds(file)), reverse=True):
        min(parts[:(hosts + 1) // 2] if has_guest(file) else parts, key=seconds).extend(file)
    return [sorted(part, key=names.index) for part in parts if part]
