"""How soon this process gives memory that it has freed back to the system."""

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of glibc's <malloc.h>
_LOADING = 1 << 20  # bytes: while loading, pieces of so many are given back at once
_LARGE = 1 << 26  # afterwards of so many
_KEPT = 1 << 28  # and of smaller ones so much together is kept


def _mallopt():
    """The function of that name of the C library, or one that does nothing where there is none."""
    try:
        return ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc; no such library; not Unix
        return lambda parameter, value: 0


@contextlib.contextmanager
def freed_memory_returned():
    """What is freed inside goes back to the system at once, and afterwards large pieces of memory still do.

    By itself glibc keeps more and more of it: each large piece that is freed raises the size up to which
    pieces are kept, and there is a heap for every few threads. With large maps that come and go that is over
    100 MB. Pieces of 64 MiB and more are given back at once; of smaller ones 256 MiB are kept for the maps
    to come: each page that is given back and taken again is cleared again, which can be a tenth of the time
    of a forward pass. The setting holds for the process.

    Does nothing where the C library is another one.
    """
    mallopt = _mallopt()
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_THRESHOLD, _LOADING)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _LARGE // 2)  # the most that older versions of glibc accept
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
