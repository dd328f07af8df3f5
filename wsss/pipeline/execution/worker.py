"""What each worker process of a local job imports before it begins: tracebacks stay off the terminal.

Beam's worker prints the traceback of every error, and sends it to the program too, which says in one line
what the user can mend and shows the rest.
"""

import os
import sys
from typing import Any, TextIO

_BEGINNING = "Traceback (most recent call last)"


class WithoutTracebacks:
    """A text stream that passes over what begins as a traceback does.

    Args:
        stream: takes all else.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text, unless it is a traceback; the number of its characters."""
        return len(text) if text.startswith(_BEGINNING) else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


if "WORKER_ID" in os.environ:  # as Beam sets it for a worker
    sys.stderr = WithoutTracebacks(sys.stderr)  # type: ignore[assignment]
