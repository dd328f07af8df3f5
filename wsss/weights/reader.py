"""Numbers from a binary file that may be cut off or damaged."""

import io
import struct


class BinaryReader:
    """Reads numbers from a stream and notices its end before memory is asked for."""

    def __init__(self, stream):
        self.stream = stream
        position = stream.tell()
        self.end = stream.seek(0, io.SEEK_END)
        stream.seek(position)

    def bytes(self, count):
        if count < 0 or count > self.end - self.stream.tell():
            raise EOFError(f"{count} bytes expected, {self.end - self.stream.tell()} left")
        return self.stream.read(count)

    def unpack(self, code):
        (value,) = struct.unpack(f"<{code}", self.bytes(struct.calcsize(code)))
        return value
