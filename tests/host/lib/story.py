"""A story is a function with one argument, the world; its name and its one-line doc are the test's."""

STORIES = {}


def story(function=None, *, build="dev", needs=None, fetches=()):
    """Registers a story. BUILD "release" runs it on the programs without sanitizers (to measure). NEEDS
    names a variable without which it can't be told. FETCHES are a folder's name in .build-host, and packages
    that are unpacked there."""
    def register(function):
        name = function.__name__.replace("_", "-")
        if name in STORIES:
            raise ValueError(f"two stories are called {name}")
        function.build, function.needs, function.fetches = build, needs, fetches
        STORIES[name] = function
        return function
    return register(function) if function else register
