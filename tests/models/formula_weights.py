"""The weights of the recorded networks, made from their names by a formula (golden README, section c)."""

import functools
import zlib

import numpy as np


def read_names(path):
    """Name -> shape of the tensors in a list of state-dict keys; aliases and counters left out."""
    shapes = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, shape, _ = line.split("\t")
            if not name.endswith("num_batches_tracked"):
                shapes[name] = tuple(int(size) for size in shape.strip("()").split(",") if size)
    return shapes


def formula_tensors(shapes, salt=""):
    """Name -> float32 array in PyTorch's layout."""
    return {name: formula_tensor(name, shape, salt) for name, shape in shapes.items()}


@functools.lru_cache(maxsize=1024)
def formula_tensor(name, shape, salt=""):
    """One tensor; the networks share most, so they are kept."""
    random = np.random.RandomState(zlib.crc32((salt + name).encode())).randn(*shape)
    if len(shape) == 4:
        random *= np.sqrt(1.5 / np.prod(shape[1:]))
    elif name.endswith("running_var"):
        random = 1 + 0.25 * np.abs(random)
    elif name.endswith(".weight"):
        random = 1 + 0.1 * random
    else:
        random *= 0.1
    return random.astype("float32")


def salt_of(case):
    """The string put before every name of a case's weights."""
    salt = str(case["weights_salt"])
    return "" if salt == "none" else salt
