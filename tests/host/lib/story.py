"""A story is a function with one argument, the world; its name and its one-line doc are the test's."""

STORIES = {}


def story(function=None, *, build="dev", needs=None):
    """Registers a story. BUILD "release" runs it on the programs without sanitizers (to measure). NEEDS
    names a variable without which it can't be told."""
    def register(function):
        name = function.__name__.replace("_", "-")
        if name in STORIES:
            raise ValueError(f"two stories are called {name}")
        function.build, function.needs = build, needs
        STORIES[name] = function
        return function
    return register(function) if function else register
