"""The memory that a process takes, for the benchmarks."""

import contextlib
import resource
import sys
from pathlib import Path


def peak_megabytes():
    """Largest resident memory of this process so far.

    From `/proc` where there is one: `ru_maxrss` is never below that of the process which started this one.
    """
    try:
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    except OSError:
        unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def growth_megabytes(call):
    """By how much the resident memory of this process grows at most while `call()` runs.

    Where the system cannot forget an earlier peak, what hides below that one is not seen.
    """
    forget_peak()
    before = peak_megabytes()
    call()
    return peak_megabytes() - before


def forget_peak():
    """Makes what is resident now the peak, where the system can do that."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
