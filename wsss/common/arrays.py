"""Arrays in `.npz` files, read without trusting what a file says about its own size."""

import math
import struct
import zipfile
import zlib
from io import BytesIO
from tokenize import TokenError

import numpy as np

_MAX_BYTES = 4 << 30


def read_npz(data: bytes, max_bytes: int = _MAX_BYTES) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name; nothing in it is executed.

    Args:
        data: content of the file.
        max_bytes: that all its arrays may take together.

    Raises:
        ValueError: the bytes are no such file, are damaged, or unpack to more than `max_bytes`.
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > max_bytes:
                raise ValueError(f"more than {max_bytes} bytes unpacked")
            return {entry.filename.removesuffix(".npy"): _parse(archive.read(entry)) for entry in entries}
    except (zipfile.BadZipFile, zlib.error, struct.error, EOFError, LookupError, MemoryError) as error:
        raise ValueError(f"not a whole .npz file: {error}") from error
    except (TypeError, ArithmeticError, RuntimeError, OSError, SyntaxError, TokenError) as error:
        raise ValueError(f"not a whole .npz file: {error}") from error


def _parse(content):
    """The array in a `.npy` file, without asking for memory that the content does not fill."""
    stream = BytesIO(content)
    major, _ = np.lib.format.read_magic(stream)
    read_header = {
        1: np.lib.format.read_array_header_1_0,
        2: np.lib.format.read_array_header_2_0,
    }
    if major not in read_header:
        raise ValueError(f"an array in version {major} of the format")
    shape, by_columns, dtype = read_header[major](stream)
    numbers = content[stream.tell() :]
    if dtype.hasobject or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(numbers):
        raise ValueError(f"an array of {dtype} {shape} in {len(numbers)} bytes")
    return np.frombuffer(numbers, dtype).reshape(shape, order="F" if by_columns else "C")
