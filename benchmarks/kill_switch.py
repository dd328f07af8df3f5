"""Kills a program at the n-th file that it opens for writing, renames or removes in a folder.

The processes of a program, Beam's workers too, count together: each event appends a byte to a log.
"""

import os
import signal
import sys
import threading

_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
_VARIABLE = "WSSS_KILL_SWITCH"


def arm(folder: str, log: str, last: int, delay: float) -> None:
    """Arms the switch in this process, and in those of Python that it starts.

    Args:
        folder: real path of the folder whose events are counted.
        log: path of the file of events, outside that folder.
        last: number of the event, from 1, that kills the process group; 0 only counts.
        delay: seconds from that event to the kill; at 0 the event does not happen.
    """
    os.environ[_VARIABLE] = "|".join((folder, log, str(last), str(delay)))
    events = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def kill():
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def count(event, arguments):
        if event not in _EVENTS or not isinstance(arguments[0], (str, bytes)):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if not os.path.realpath(os.fsdecode(arguments[0])).startswith(folder):
            return
        os.write(events, b".")
        if os.lseek(events, 0, os.SEEK_CUR) == last:
            if not delay:
                kill()
            timer = threading.Timer(delay, kill)
            timer.daemon = True
            timer.start()

    sys.addaudithook(count)


def arm_from_environment() -> None:
    """Arms the switch in a process that an armed one started."""
    if _VARIABLE in os.environ:
        folder, log, last, delay = os.environ[_VARIABLE].split("|")
        arm(folder, log, int(last), float(delay))
