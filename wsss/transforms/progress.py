"""Tells the program in whose process a pipeline runs how many images are done.

Workers in other processes have no listener: there, progress shows when a wave of shards ends.
"""

import contextlib

_listener = None


def tick():
    """One more image is done."""
    if _listener is not None:
        _listener()


@contextlib.contextmanager
def listen(listener):
    """While the block runs, `listener()` is called for each image that is done in this process."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
