"""Converts published weights to Keras: reads a foreign checkpoint, fills its network, saves it."""

import dataclasses
import os
import tempfile
from pathlib import Path

import numpy as np

from wsss.common import io
from wsss.common.constants import check_class_count
from wsss.common.errors import UserError
from wsss.common.keras_file import save_model

SUFFIXES = (".keras", ".weights.h5")
NETWORKS = (
    *("seam", "pixel2prototype", "affinity", "irn_cam", "irn_edge"),
    *("resnet38", "resnet50", "resnet101"),
)


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Result of `convert_weights`.

    Attributes:
        network: name of the network, one of `NETWORKS`.
        parameters: number of its weights.
        unused: names of the tensors of the checkpoint that the network does not have.
    """

    network: str
    parameters: int
    unused: tuple[str, ...]


def convert_weights(source: str, destination: str, network: str = "auto") -> Conversion:
    """Converts a checkpoint of the authors, of torchvision or of MXNet to a Keras file.

    Example:

        conversion = wsss.convert_weights("resnet38_SEAM.pth", "seam.keras")
        print(conversion.network, conversion.parameters)

    Args:
        source: `.pth` or `.params`, local or `gs://…`; read without PyTorch and MXNet, never executed.
        destination: `.keras` or `.weights.h5`, local or `gs://…`; replaced where it exists.
        network: one of `NETWORKS`; "auto": identified by the names of the tensors.

    Raises:
        UserError: the source is missing, damaged, of another kind, or lacks a tensor; the message names the
            first.
    """
    from wsss.weights.published import build_network, count_classes, identify

    try:
        tensors = read_published_tensors(source)
        name = identify(tensors) if network == "auto" else network
        classes = count_classes(name, tensors)
        model = build_network(name, classes)
        unused = _load_tensors_of(name, model, tensors)
    except UserError as error:
        raise UserError(f"{source}: {error}.") from error
    check_class_count(classes or 0, source)
    _save(model, destination)
    return Conversion(name, model.count_params(), tuple(unused))


def read_published_tensors(path: str) -> dict[str, np.ndarray]:
    """Name -> array of a published file, by its PyTorch names.

    Raises:
        UserError: there is no such file, or it is not one of those kinds.
    """
    from wsss.weights import read_tensors
    from wsss.weights.mxnet import from_mxnet

    try:
        with io.open_read(path) as stream:
            return from_mxnet(read_tensors(stream))
    except FileNotFoundError:
        raise UserError("there is no such file") from None
    except OSError as error:
        raise UserError(f"it cannot be read ({error})") from error


def _load_tensors_of(name, model, tensors):
    """Fills `model` and returns the unused names; a missing tensor is reported with its network."""
    from wsss.weights.mapping import load_tensors

    try:
        return load_tensors(model, tensors)
    except UserError as error:
        raise UserError(f"{error}, in a file of the network {name!r}") from error


def _save(model, destination):
    """Writes a model or its weights, as the suffix of the name says, local or remote."""
    save = save_model if destination.endswith(".keras") else _save_weights
    io.remove_unfinished(*os.path.split(destination))
    try:
        save(model, destination)
    except OSError as error:
        raise UserError(f"{destination} cannot be written ({error}).") from error


def _save_weights(model, destination):
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "model.weights.h5"
        model.save_weights(local)
        io.copy(local, destination)
