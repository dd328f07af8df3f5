"""Weights of the published implementations, by the names they have there.

The networks of `resnet38` and `irn` name their layers after the published state dicts, with `-` for the dot
that Keras on PyTorch does not allow, and the heads on them have an entry in `_PUBLISHED_LAYERS`; so a state
dict finds its place by name, in both directions.
"""

import re
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from wsss.common import compat
from wsss.common.errors import UserError

_PUBLISHED_LAYERS = {  # our layer -> its published name, where they differ
    "cam_head": "fc8",
    "correlation_low": "f8_3",
    "correlation_high": "f8_4",
    "correlation_embedding": "f9",
    "projection": "fc_proj",
    "affinity_low": "f8_3",
    "affinity_middle": "f8_4",
    "affinity_high": "f8_5",
    "affinity_embedding": "f9",
}
_PUBLISHED_VARIABLES = {  # the last part of our variable's path -> the last part of the published name
    "kernel": "weight",
    "gamma": "weight",
    "bias": "bias",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Our kernels (height, width, in, out) as PyTorch's (out, in, height, width), by the number of axes.
_AXES = {4: (3, 2, 0, 1), 2: (1, 0)}


def published_variables(model: keras.Model) -> dict:
    """The variables of a model by their published names, in the order of the model's layers.

    Args:
        model: `keras.Model` whose layers bear published names, or those of our heads.

    Returns:
        Name, e.g. `b4_1.conv_branch2a.weight` -> `keras.Variable`, in our layout.
    """
    variables: dict[str, Any] = {}
    for layer in compat.flat_layers(model):
        published_layer = _PUBLISHED_LAYERS.get(layer.name, layer.name.replace("-", "."))
        for variable in compat.own_variables(layer):
            last = _PUBLISHED_VARIABLES.get(variable.name)
            if last:
                variables.setdefault(f"{published_layer}.{last}", variable)
    return variables


def load_tensors(model: keras.Model, tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Fills a model with the tensors of a published state dict.

    Nothing is changed unless every variable of the model has its tensor.

    Args:
        model: see `published_variables`.
        tensors: name -> array in PyTorch's layout; names that the model does not have are left over.

    Returns:
        The names left over, without counters and aliases.

    Raises:
        UserError: names the first missing or mis-shaped tensor.
    """
    variables = published_variables(model)
    values = {}
    for name, variable in variables.items():
        if name not in tensors:
            raise UserError(f"tensor `{name}` is missing{_similar(name, tensors)}")
        expected = _published_shape(variable)
        if tensors[name].shape != expected:
            raise UserError(f"tensor `{name}` has shape {tensors[name].shape}, expected {expected}")
        values[name] = tensors[name]
    for name, variable in variables.items():
        value = np.asarray(values[name], "float32")
        axes = _AXES.get(value.ndim)
        variable.assign(np.transpose(value, np.argsort(axes)) if axes else value)
    return [name for name in tensors if name not in variables and not _ignored(name)]


def published_tensors(model: keras.Model) -> dict[str, np.ndarray]:
    """The weights of a model as a published state dict: NumPy arrays in PyTorch's layout, by name."""
    tensors = {}
    for name, variable in published_variables(model).items():
        value = keras.ops.convert_to_numpy(variable)
        axes = _AXES.get(value.ndim)
        tensors[name] = np.ascontiguousarray(np.transpose(value, axes) if axes else value)
    return tensors


def _published_shape(variable):
    axes = _AXES.get(len(variable.shape))
    return tuple(variable.shape[axis] for axis in axes) if axes else tuple(variable.shape)


def _similar(name, tensors):
    """A hint at the tensor that may be meant: the same name behind a prefix."""
    found = [other for other in tensors if other.endswith(f".{name}")]
    return f" (there is `{found[0]}`)" if found else ""


def _ignored(name):
    """Counters, and IRN's second names of the same tensors."""
    return name.endswith("num_batches_tracked") or re.match(
        r"(stage\d|backbone|edge_layers|dp_layers|newly_added|fc_dp7\.4)\.", name
    )
