"""A story is a function with one argument, the world; its name and its one-line doc are the test's."""

STORIES = {}


def story(function=None, *, build="dev"):
    """Registers a story. BUILD "release" runs it on the programs without sanitizers (to measure)."""
    def register(function):
        name = function.__name__.replace("_", "-")
        if name in STORIES:
            raise ValueError(f"two stories are called {name}")
        function.build = build
        STORIES[name] = function
        return function
    return register(function) if function else register
