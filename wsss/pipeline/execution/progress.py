"""Progress of a pipeline: images done are counted in its process and shown to the user.

Workers in other processes have no listener: there, progress shows when a wave of shards ends.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10
_listener = None


def tick() -> None:
    """One more image is done."""
    if _listener is not None:
        _listener()


@contextlib.contextmanager
def listen(listener: Callable[[], Any]) -> Iterator[None]:
    """While the block runs, `listener()` is called for each image that is done in this process."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


@contextlib.contextmanager
def shown(images: int) -> Iterator[Any]:
    """Yields what shows progress: on standard error a bar, or in a log a line now and then.

    Args:
        images: number of images in all.

    Yields:
        An object with `n`, the images done, and `update(count=1)`.
    """
    if sys.stderr.isatty():
        with tqdm(total=images, unit="image") as bar:
            yield bar
    else:
        yield _Lines(images)


class _Lines:
    """Progress for a log file."""

    def __init__(self, images):
        self.n, self._images, self._last = 0, images, time.monotonic()

    def update(self, count=1):
        self.n += count
        if time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(f"{self.n} of {self._images} images", file=sys.stderr, flush=True)
