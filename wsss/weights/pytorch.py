"""Reads the named arrays of PyTorch's `.pth` files without PyTorch and without unpickling.

A `.pth` file is a pickle, and unpickling a stranger's file runs what the stranger likes. Here nothing is
unpickled: `_read_pickle` interprets the few opcodes that a dictionary of tensors consists of, takes the names
of functions and classes as text, and refuses every name but those of tensors. That is stricter than
`torch.load(weights_only=True)` and needs no torch.
"""

import collections
import functools
import io
import math
import pickletools
import zipfile
from typing import Any, BinaryIO, NamedTuple

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
        Exception: the file is cut off or damaged; `wsss.weights.read_tensors` catches what may come.
    """
    is_zip = stream.read(4) == _ZIP_MAGIC
    stream.seek(0)
    return (_read_zip if is_zip else _read_legacy)(stream)


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
    """The name of a function or class; never the object itself."""

    name: str


class _Mark:
    """Where the items of a tuple, list or dictionary begin on the stack."""


def _state_dict(tree, load):
    """The named tensors of a tree as arrays; `load` gives the bytes of a storage, once for each."""
    for wrapper in _WRAPPERS:
        if isinstance(tree, dict) and isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
    tensors = tree if isinstance(tree, dict) else {}
    tensors = {
        name: value for name, value in tensors.items() if isinstance(name, str) and isinstance(value, _Tensor)
    }
    if not tensors:
        raise UserError("it holds no named tensors; write it with `torch.save(model.state_dict(), …)`")
    load_once = functools.cache(load)
    return {name: _as_array(tensor, load_once(tensor.storage)) for name, tensor in tensors.items()}


def _read_zip(stream):
    archive = zipfile.ZipFile(stream)
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    if "constants.pkl" in names:
        raise UserError("it is a TorchScript program; write it with `torch.save(model.state_dict(), …)`")
    if "data.pkl" not in names:
        raise UserError("it is a zip archive, but not one of PyTorch's")

    def read(name):
        entry = archive.getinfo(names.get(name, name))
        if entry.compress_type or entry.file_size != entry.compress_size:  # PyTorch never compresses
            raise UserError(f"the file is damaged: {name} is compressed")
        return archive.read(entry)

    if "byteorder" in names and read("byteorder") != b"little":
        raise UserError("it was written on a big-endian machine")
    tree, _ = _read_pickle(io.BytesIO(read("data.pkl")))

    def load(storage):
        data = read(f"data/{storage.key}")
        if len(data) != storage.length * _item_size(storage):
            raise UserError(f"the file is damaged: storage {storage.key!r} has another size than announced")
        return data

    return _state_dict(tree, load)


def _read_legacy(stream):
    if any(_read_pickle(stream)[0] != number for number in (_LEGACY_MAGIC, _LEGACY_PROTOCOL)):
        raise UserError("it is a pickle, but not one of PyTorch's")
    system, _ = _read_pickle(stream)
    if not isinstance(system, dict):
        raise UserError("the file is damaged: it does not describe the machine that wrote it")
    if not system.get("little_endian", True):
        raise UserError("it was written on a big-endian machine")
    tree, storages = _read_pickle(stream)
    item_sizes = {storage.key: _item_size(storage) for storage in storages}
    reader, data = BinaryReader(stream), {}
    keys, _ = _read_pickle(stream)
    for key in map(_checked_key, keys):
        if key not in item_sizes:
            raise UserError(f"the file is damaged: storage {key!r} belongs to no tensor")
        data[key] = reader.read(reader.unpack("q") * item_sizes[key])

    def load(storage):
        if len(data.get(storage.key, b"")) != storage.length * _item_size(storage):
            raise UserError(f"the file is damaged: storage {storage.key!r} has another size than announced")
        return data[storage.key]

    return _state_dict(tree, load)


def _as_array(tensor, data):
    storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
    count = math.prod(shape)
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
    inside = last < storage.length and count <= storage.length
    if count and not inside:
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
    """`(value, storages)` of a pickle that consists of plain data and tensors, which come as `_Tensor`."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    storages: list[Any] = []
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name == "STOP":
                return stack.pop(), storages
            _interpret(name, argument, stack, memo)
            if name == "BINPERSID":
                storages.append(stack[-1])
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
        stack[-1][_checked_key(key)] = value
    elif name == "SETITEMS":
        items = _pop_to_mark(stack)
        stack[-1].update(zip(map(_checked_key, items[::2]), items[1::2], strict=True))
    elif name == "APPEND":
        value = stack.pop()
        stack[-1].append(value)
    elif name == "APPENDS":
        items = _pop_to_mark(stack)
        stack[-1].extend(items)
    elif name == "GLOBAL":
        stack.append(_named(argument))
    elif name == "STACK_GLOBAL":
        attribute, module = _checked_key(stack.pop()), _checked_key(stack.pop())
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
    start = len(stack) - 1
    while stack[start] is not _Mark:
        start -= 1
        if start < 0:
            raise UserError("the file is damaged: a list without a beginning")
    items = stack[start + 1 :]
    del stack[start:]
    return items


def _checked_key(key):
    """A key or name, which is plain: a nest of tuples within tuples takes for ever to hash or to print."""
    if not isinstance(key, (str, int)):
        raise UserError("the file is damaged: a name that is no text")
    return key


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
        (pairs,) = arguments or ((),)
        return collections.OrderedDict((_checked_key(key), value) for key, value in pairs)
    if function == "_rebuild_parameter":
        return arguments[0]
    if function in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        storage, offset, shape, strides = arguments[:4]
        numbers = (offset, *shape, *strides)
        if len(shape) != len(strides) or not all(isinstance(n, int) and 0 <= n < 2**63 for n in numbers):
            raise UserError("the file is damaged: a tensor without a shape")
        if not isinstance(storage, _Storage):
            raise UserError("the file is damaged: a tensor without a storage")
        return _Tensor(storage, offset, shape, strides)
    raise UserError(f"the file is damaged: `{name}` is no function")


def _storage(identity):
    kind, storage_type, key, _, length = identity[:5]
    if kind != "storage" or not isinstance(length, int) or length < 0:
        raise UserError("the file is damaged: a tensor without a storage")
    return _Storage(str(_checked_key(key)), _STORAGES[storage_type.name.split()[-1]], length)
