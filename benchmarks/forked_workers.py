"""Lets the worker processes of Beam's local runner be forks, which saves them the import of everything.

Beam starts each worker as `python -m apache_beam.runners.worker.sdk_worker_main`, which takes seconds. Here a
helper process, forked before the program begins and has threads, forks again for each worker.
"""

import functools
import json
import os
import signal
import socket
import traceback
import types
from collections.abc import Callable

from apache_beam.runners.portability import local_job_service
from apache_beam.runners.worker import sdk_worker_main


def start(prepare: Callable[[], None]) -> None:
    """Starts the helper, and makes Beam ask it for workers. To be called while there are no threads.

    Args:
        prepare: called in each worker before it begins.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if not os.fork():
        ours.close()
        _serve(theirs, prepare)
    theirs.close()
    # In the place of the module `subprocess`.
    local_job_service.subprocess = types.SimpleNamespace(Popen=functools.partial(_Worker, ours))


class _Worker:
    """What Beam uses of a `subprocess.Popen`."""

    def __init__(self, helper, command, shell, env):
        self.returncode = None
        self._pipe, ended = os.pipe()
        socket.send_fds(helper, [json.dumps(env).encode()], [ended])
        os.close(ended)

    def wait(self):
        code = os.read(self._pipe, 1)  # nothing of a worker that was killed
        os.close(self._pipe)
        self.returncode = code[0] if code else -signal.SIGKILL

    def poll(self):
        return self.returncode


def _serve(program, prepare):
    """Forks a worker for each request, until the program ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the workers
    while True:
        environment, files, _, _ = socket.recv_fds(program, 1 << 20, 1)
        if not environment:
            os._exit(0)
        if not os.fork():
            program.close()
            _work(json.loads(environment), files[0], prepare)
        os.close(files[0])


def _work(environment, ended, prepare):
    """Forks a worker, and returns its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environment)
    code = 1
    try:
        prepare()
        sdk_worker_main.main([])
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os.write(ended, bytes([code]))
        os._exit(code)
