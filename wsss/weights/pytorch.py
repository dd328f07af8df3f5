"""Reads the named arrays of PyTorch's `.pth` files without PyTorch and without unpickling.

A `.pth` file is a pickle, and unpickling a stranger's file runs what the stranger likes. Here nothing is
unpickled: `_read_pickle` interprets the few opcodes that a dictionary of tensors consists of, takes the names
of functions and classes as text, and refuses every name but those of tensors. That is stricter than
`torch.load(weights_only=True)` and needs no torch.
"""

import collections
import io
import math
import pickletools
import zipfile
from typing import BinaryIO, NamedTuple

import numpy as np

from wsss.common.errors import UserError
from wsss.weights.reader import BinaryReader

_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_ALLOWED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {name}" for name in _STORAGES),
}
_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")  # where training scripts put the weights


def is_state_dict(start: bytes) -> bool:
    """Whether a file with these first bytes is a zip archive, or a pickle as before PyTorch 1.6."""
    return start[:4] == _ZIP_MAGIC or start[:1] == b"\x80"


def read_state_dict(stream: BinaryIO) -> dict[str, np.ndarray]:
    """The named arrays of a `.pth` file, in the file's order.

    Args:
        stream: seekable binary stream.

    Raises:
        UserError: the file holds something else than tensors, or contradicts itself.
        BadZipFile, EOFError, RuntimeError: the file is cut off, encrypted, or a tree that contains itself.
    """
    is_zip = stream.read(4) == _ZIP_MAGIC
    stream.seek(0)
    return _state_dict((_read_zip if is_zip else _read_legacy)(stream))


class _Tensor(NamedTuple):
    """A tensor as the pickle describes it, before its numbers are read."""

    storage: "_Storage"
    offset: int
    shape: tuple
    strides: tuple


class _Storage(NamedTuple):
    """A one-dimensional array somewhere in the file."""

    key: str
    dtype: str
    length: int


class _Global(NamedTuple):
    """The name of a function or class; never the thing itself."""

    name: str


class _Mark:
    """Where the items of a tuple, list or dictionary begin on the stack."""


def _state_dict(tree):
    for wrapper in _WRAPPERS:
        if isinstance(tree, dict) and isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
    tensors = tree if isinstance(tree, dict) else {}
    tensors = {
        name: value
        for name, value in tensors.items()
        if isinstance(name, str) and isinstance(value, np.ndarray)
    }
    if not tensors:
        raise UserError("it holds no named tensors; write it with `torch.save(model.state_dict(), …)`")
    return tensors


def _read_zip(stream):
    archive = zipfile.ZipFile(stream)
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    if "constants.pkl" in names:
        raise UserError("it is a TorchScript program; write it with `torch.save(model.state_dict(), …)`")
    if "data.pkl" not in names:
        raise UserError("it is a zip archive, but not one of PyTorch's")
    if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
        raise UserError("it was written on a big-endian machine")
    tree = _read_pickle(io.BytesIO(archive.read(names["data.pkl"])))

    def load(storage):
        entry = archive.getinfo(names.get(f"data/{storage.key}", f"data/{storage.key}"))
        if entry.file_size != storage.length * _item_size(storage) or entry.compress_type:
            raise UserError(f"the file is damaged: storage {storage.key!r} has another size than announced")
        return archive.read(entry)

    try:
        return _fill(tree, load)
    except KeyError as error:
        raise UserError(f"the file is damaged: {error.args[0]}") from None


def _read_legacy(stream):
    if _read_pickle(stream) != _LEGACY_MAGIC or _read_pickle(stream) != _LEGACY_PROTOCOL:
        raise UserError("it is a pickle, but not one of PyTorch's")
    if not _read_pickle(stream).get("little_endian", True):
        raise UserError("it was written on a big-endian machine")
    tree = _read_pickle(stream)
    item_sizes = {storage.key: _item_size(storage) for storage in _storages(tree)}
    reader, data = BinaryReader(stream), {}
    for key in _read_pickle(stream):
        if key not in item_sizes:
            raise UserError(f"the file is damaged: storage {key!r} belongs to no tensor")
        data[key] = reader.bytes(reader.unpack("q") * item_sizes[key])

    def load(storage):
        if len(data.get(storage.key, b"")) != storage.length * _item_size(storage):
            raise UserError(f"the file is damaged: storage {storage.key!r} has another size than announced")
        return data[storage.key]

    return _fill(tree, load)


def _storages(tree):
    if isinstance(tree, _Tensor):
        yield tree.storage
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from _storages(value)


def _fill(tree, load):
    """The tree with arrays in place of `_Tensor`s."""
    if isinstance(tree, _Tensor):
        return _as_array(tree, load(tree.storage))
    if isinstance(tree, dict):
        return {key: _fill(value, load) for key, value in tree.items()}
    return tree


def _as_array(tensor, data):
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    count = math.prod(shape)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    inside = tensor.offset >= 0 and last < storage.length and count <= storage.length
    if count and not (inside and min((0, *strides)) >= 0):
        raise UserError(f"the file is damaged: a tensor of shape {shape} reaches beyond its storage")
    if storage.dtype == "bfloat16":
        flat = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        flat = np.frombuffer(data, storage.dtype)
    if not count:
        return np.zeros(shape, flat.dtype)
    byte_strides = [stride * flat.itemsize for stride in strides]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], shape, byte_strides, writeable=False)


def _item_size(storage):
    return 2 if storage.dtype == "bfloat16" else np.dtype(storage.dtype).itemsize


def _read_pickle(stream):
    """The value of a pickle that consists of plain data and tensors; tensors come as `_Tensor`."""
    stack, memo = [], {}
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name == "STOP":
                return stack.pop()
            _interpret(name, argument, stack, memo)
    except UserError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"the file is damaged or cut off ({error})") from error
    raise UserError("the file is cut off")


_LITERALS = {
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"),
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def _interpret(name, argument, stack, memo):
    """One opcode of the pickle language; those that could run code do not exist here."""
    if name in _LITERALS:
        stack.append(argument)
    elif name in _CONSTANTS:
        stack.append(_CONSTANTS[name])
    elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
        stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
    elif name == "MARK":
        stack.append(_Mark)
    elif name == "TUPLE":
        stack.append(tuple(_pop_to_mark(stack)))
    elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
        count = int(name[-1])
        stack[-count:] = [tuple(stack[-count:])]
    elif name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = stack[-1]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in ("BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
    elif name == "SETITEM":
        value, key = stack.pop(), stack.pop()
        stack[-1][key] = value
    elif name == "SETITEMS":
        items = _pop_to_mark(stack)
        stack[-1].update(zip(items[::2], items[1::2], strict=True))
    elif name == "APPEND":
        value = stack.pop()
        stack[-1].append(value)
    elif name == "APPENDS":
        items = _pop_to_mark(stack)
        stack[-1].extend(items)
    elif name == "GLOBAL":
        stack.append(_named(argument))
    elif name == "STACK_GLOBAL":
        attribute, module = stack.pop(), stack.pop()
        stack.append(_named(f"{module} {attribute}"))
    elif name == "REDUCE":
        arguments, function = stack.pop(), stack.pop()
        stack.append(_apply(function.name, arguments))
    elif name == "BINPERSID":
        stack.append(_storage(stack.pop()))
    elif name == "BUILD":
        stack.pop()  # attributes, such as the `_metadata` of a state dict: not needed
    elif name not in ("PROTO", "FRAME"):
        raise UserError(f"it contains something else than tensors (pickle opcode {name})")


def _pop_to_mark(stack):
    start = len(stack) - 1 - stack[::-1].index(_Mark)
    items = stack[start + 1 :]
    del stack[start:]
    return items


def _named(name):
    if name not in _ALLOWED:
        raise UserError(
            f"it names `{name.replace(' ', '.')}`, which is no tensor and is not loaded; write it with "
            "`torch.save(model.state_dict(), …)`"
        )
    return _Global(name)


def _apply(name, arguments):
    function = name.split()[-1]
    if function == "OrderedDict":
        return collections.OrderedDict(*arguments)
    if function == "_rebuild_parameter":
        return arguments[0]
    if function in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        storage, offset, shape, strides = arguments[:4]
        if len(shape) != len(strides) or not all(isinstance(n, int) for n in (offset, *shape, *strides)):
            raise UserError("the file is damaged: a tensor without a shape")
        return _Tensor(storage, offset, shape, strides)
    raise UserError(f"the file is damaged: `{name}` is no function")


def _storage(identity):
    kind, storage_type, key, _, length = identity[:5]
    if kind != "storage" or not isinstance(length, int) or length < 0:
        raise UserError("the file is damaged: a tensor without a storage")
    return _Storage(str(key), _STORAGES[storage_type.name.split()[-1]], length)
