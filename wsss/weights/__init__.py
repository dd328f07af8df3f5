"""Checkpoints of other frameworks: PyTorch's `.pth` and MXNet's `.params` files."""

import errno
import struct
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

from wsss.common.errors import UserError
from wsss.weights import mxnet, pytorch

# What a reader of numbers from untrusted bytes may raise, wherever they contradict themselves.
_DAMAGED = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError, TypeError),
    *(ValueError, struct.error, zipfile.BadZipFile, zlib.error),
)


def read_tensors(stream: BinaryIO) -> dict[str, np.ndarray]:
    """The named arrays of a PyTorch or MXNet file.

    Args:
        stream: seekable binary stream.

    Returns:
        Name -> array, in the file's order; a leading `module.` (of `DataParallel`) is taken off.

    Raises:
        UserError: the file is of another kind, damaged, or holds something else than tensors.
    """
    start = stream.read(8)
    stream.seek(0)
    try:
        if pytorch.is_state_dict(start):
            tensors = pytorch.read_state_dict(stream)
        elif mxnet.is_parameter_file(start):
            tensors = mxnet.read_parameters(stream)
        else:
            raise UserError("it is neither a PyTorch state dict nor an MXNet parameter file")
    except UserError:
        raise
    except _DAMAGED as error:
        raise UserError(f"the file is damaged or cut off ({error})") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the beginning of the file
            raise
        raise UserError(f"the file is damaged or cut off ({error})") from error
    return {name.removeprefix("module."): array for name, array in tensors.items()}
