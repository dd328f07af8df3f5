"""Numbers from a binary file that may be cut off or damaged."""

import io
import struct
from typing import Any, BinaryIO


class BinaryReader:
    """Reads numbers from a stream and notices its end before memory is asked for."""

    def __init__(self, stream: BinaryIO):
        self.stream = stream
        position = stream.tell()
        self.end = stream.seek(0, io.SEEK_END)
        stream.seek(position)

    def read(self, count: int) -> bytes:
        if count < 0 or count > self.end - self.stream.tell():
            raise EOFError(f"{count} bytes expected, {self.end - self.stream.tell()} left")
        return self.stream.read(count)

    def unpack(self, code: str) -> Any:
        (value,) = struct.unpack(f"<{code}", self.read(struct.calcsize(code)))
        return value
