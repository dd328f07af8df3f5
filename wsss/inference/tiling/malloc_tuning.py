"""How much freed memory glibc keeps; for programs, never for a library user's process."""

import ctypes
import os

# Of glibc's <malloc.h>, with the environment variable that sets the same in processes started later.
_ARENA_MAX = (-8, "MALLOC_ARENA_MAX")
_MMAP_THRESHOLD = (-3, "MALLOC_MMAP_THRESHOLD_")
_TRIM_THRESHOLD = (-1, "MALLOC_TRIM_THRESHOLD_")
_LARGEST_OF_OLD_GLIBC = 1 << 25  # bytes: older versions refuse a larger threshold for mmap


def tune_malloc() -> None:
    """Makes freed activation maps stay with this process, and those of its children, up to 256 MiB.

    By itself glibc returns a map of 32 MiB or more to the system as soon as it is freed, and every page of
    the next one is cleared again; and it keeps a heap for every few threads. With this, pieces of 64 MiB and
    more are returned at once, of smaller ones 256 MiB are kept, in one heap. The variables that a user has
    set have the last word. Does nothing where the C library is another one.

    `pipelines/Dockerfile` sets the same variables for Beam's workers.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc; no such library; not Unix
        return
    for (parameter, variable), value in (
        (_ARENA_MAX, 1),
        (_MMAP_THRESHOLD, 1 << 26),
        (_TRIM_THRESHOLD, 1 << 28),
    ):
        if variable not in os.environ:
            os.environ[variable] = str(value)
            mallopt(parameter, min(value, _LARGEST_OF_OLD_GLIBC))
            mallopt(parameter, value)
