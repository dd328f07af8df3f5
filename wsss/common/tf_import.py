"""Imports TensorFlow without the notes that it starts with, so that a user's error is the only line.

TensorFlow says on every start that there is no GPU driver, which CPU instructions it uses and that its log is
not set up yet. It does so before it reads `TF_CPP_MIN_LOG_LEVEL`, from C++, past `sys.stderr`. So standard
error goes through a filter for as long as the import takes. The filter is a process of its own (this file run
as a program): should TensorFlow abort, on a CPU without AVX say, its last words still come through.

Whoever sets `TF_CPP_MIN_LOG_LEVEL` to 0 or 1 wants to hear it all, and does.
"""

import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys

# What is logged on every healthy start: all of level "info", and that there is no GPU (303: no driver).
# Lines begin with the level and the day, or before TensorFlow 2.19 with the date and the level.
_INFO, _ERROR = (rb"(?:%s\d{4}|\d{4}-\S+ \S+: %s) " % (level, level) for level in (b"I", b"[EW]"))
_NOTE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog"
    rb"|" + _INFO + rb"|" + _ERROR + rb".*failed call to cuInit.*(UNKNOWN ERROR \(303\)|CUDA_ERROR_NO_DEVICE)"
    rb"|" + _ERROR + rb".*(Unable to register cu\w+ factory|computation placer already registered)"
)


def import_tensorflow(onednn: bool = False, *, memory_growth: bool = False) -> None:
    """Imports TensorFlow, once in a process, and looks for devices; warnings and errors are heard as ever.

    Args:
        onednn: whether CPUs compute with oneDNN, on which TensorFlow by itself insists only where there are
            the newest instructions (VNNI). Elsewhere a training step takes 0.6 to 0.9 of the time with it,
            inference with ResNet-38 longer (`docs/results.md`). The environment variable
            `TF_ENABLE_ONEDNN_OPTS` has the last word.
        memory_growth: whether an accelerator's memory is taken as it is needed, so that other processes can
            use the card too, and not all of it at once. `TF_FORCE_GPU_ALLOW_GROWTH` has the last word.
    """
    if memory_growth:
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # read when the card is first used
    if "tensorflow" in sys.modules:
        return
    if onednn:
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with contextlib.nullcontext() if level in ("0", "1") else _filtered_stderr():
        importlib.import_module("tensorflow").config.list_physical_devices()


@contextlib.contextmanager
def _filtered_stderr():
    """Sends what is written to standard error, also from C++, through `_copy_all_but_notes`."""
    sys.stderr.flush()
    command = [sys.executable, "-I", "-S", __file__]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as reader:
        ours = os.dup(2)
        assert reader.stdin is not None  # a pipe was asked for
        os.dup2(reader.stdin.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(ours, 2)
            os.close(ours)


def _copy_all_but_notes():
    """Copies standard input to standard error, line by line, without the notes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that we listen to
    for line in sys.stdin.buffer:
        if not _NOTE.match(line):
            sys.stderr.buffer.write(line)
            sys.stderr.buffer.flush()


if __name__ == "__main__":
    _copy_all_but_notes()
