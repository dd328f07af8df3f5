"""Reads MXNet's `.params` files without MXNet, and renames ResNet-38d's parameters as PyTorch's."""

import math
import re
import struct
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from wsss.common.errors import UserError
from wsss.weights.reader import BinaryReader

_LIST_MAGIC = 0x112
_VERSIONS = {0xF993FAC8: 1, 0xF993FAC9: 2, 0xF993FACA: 3}
_TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")
_MAX_DIMENSIONS = 32


def is_parameter_file(start: bytes) -> bool:
    """Whether a file with these first 8 bytes is MXNet's list of arrays."""
    return len(start) == 8 and struct.unpack("<Q", start)[0] == _LIST_MAGIC


def read_parameters(stream: BinaryIO) -> dict[str, np.ndarray]:
    """The named arrays of a `.params` file, in the file's order: header, arrays, names (`arg:conv1a_weight`).

    Args:
        stream: seekable binary stream.

    Raises:
        UserError: the file holds sparse arrays or contradicts itself.
        EOFError: the file is cut off.
    """
    reader = BinaryReader(stream)
    reader.read(16)
    count = reader.unpack("Q")
    arrays = [_read_array(reader) for _ in range(count)]
    names = [reader.read(reader.unpack("Q")).decode() for _ in range(reader.unpack("Q"))]
    if len(names) != len(arrays):
        raise UserError(f"the file is damaged: {len(arrays)} arrays but {len(names)} names")
    return dict(zip(names, arrays))


def from_mxnet(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """ResNet-38d's parameters under their PyTorch names.

    `arg:res4b3_branch2b1_weight` becomes `b4_3.conv_branch2b1.weight`, `aux:bn7_moving_var` becomes
    `bn7.running_var`; the classifier of ImageNet is left out. Other names are kept, so that a state dict
    passes unchanged.
    """
    last_names = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_var": "running_var",
    }
    renamed = {}
    for name, array in tensors.items():
        plain = re.sub(r"^(arg|aux):", "", name)
        block = re.fullmatch(r"(res|bn)(\d)(?:a|b(\d+))_(branch\w+?)_(weight|gamma|beta|moving_\w+)", plain)
        if block:
            kind, stage, number, branch, last = block.groups()
            layer = f"b{stage}_{number}" if number else f"b{stage}"
            kind = "conv" if kind == "res" else "bn"
            renamed[f"{layer}.{kind}_{branch}.{last_names.get(last, last)}"] = array
        elif plain == "conv1a_weight":
            renamed["conv1a.weight"] = array
        elif plain.startswith("bn7_"):
            renamed[f"bn7.{last_names.get(plain[4:], plain[4:])}"] = array
        elif not plain.startswith("linear1000_"):
            renamed[name] = array
    return renamed


def _read_array(reader):
    first = reader.unpack("I")
    version = _VERSIONS.get(first, 0)
    if version >= 2 and reader.unpack("i") != 0:
        raise UserError("it holds sparse arrays, which no network here has")
    dimensions = reader.unpack("I") if version else first  # the oldest format begins with the shape
    if dimensions > _MAX_DIMENSIONS:
        raise UserError(f"the file is damaged: an array of {dimensions} dimensions")
    shape = tuple(reader.unpack("q" if version else "I") for _ in range(dimensions))
    if not shape:
        return np.zeros((), "<f4")
    reader.read(8)  # device kind and number
    kind = reader.unpack("i")
    if min(shape) < 0 or not 0 <= kind < len(_TYPES):
        raise UserError(f"the file is damaged: an array of shape {shape} and type {kind}")
    data = reader.read(math.prod(shape) * np.dtype(_TYPES[kind]).itemsize)
    return np.frombuffer(data, _TYPES[kind]).reshape(shape)
