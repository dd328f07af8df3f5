"""Stops a program at the n-th file that it opens for writing, renames or removes in a folder.

The processes of a program, Beam's workers too, count together: each event appends a byte to a log.
"""

import os
import signal
import sys
import threading

_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def arm(folder: str, log: str, last: int, delay: float, number: int = signal.SIGKILL) -> None:
    """Arms the switch in this process.

    Args:
        folder: real path of the folder whose events are counted.
        log: path of the file of events, outside that folder.
        last: number of the event, from 1, that stops the program; 0 only counts.
        delay: seconds from that event to the signal; with SIGKILL and 0 the event does not happen.
        number: of the signal. SIGTERM goes to the program's first process, as `kill` sends it, the others to
            all of them, as a terminal does.
    """
    events = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def stop():
        send = os.kill if number == signal.SIGTERM else os.killpg
        send(os.getpgrp(), number)

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
                stop()
                return
            timer = threading.Timer(delay, stop)
            timer.daemon = True
            timer.start()

    sys.addaudithook(count)
