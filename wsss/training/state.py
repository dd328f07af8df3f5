"""The whole state of a training run in one file: a killed run resumes to the same final weights.

Keras' own `BackupAndRestore` keeps weights and optimizer. Here the model's random state, the running means of
an interrupted epoch and the position in the data are kept as well.
"""

import json
from collections.abc import Sequence
from io import BytesIO
from types import NoneType
from typing import Any, NamedTuple

import keras
import numpy as np

from wsss.common import io
from wsss.common.arrays import read_npz
from wsss.common.errors import UserError


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        epoch: whole epochs that are done.
        step: steps of the next epoch that are done.
        restarts: how often the learning rate was lowered and training restarted.
        learned, problem, best_map: of the `LearningMonitor`.
    """

    epoch: int = 0
    step: int = 0
    restarts: int = 0
    learned: bool | None = None
    problem: str | None = None
    best_map: float | None = None

    def is_valid(self) -> bool:
        """Whether each field is of its type; those read from a file may not be."""
        counts = (self.epoch, self.step, self.restarts)
        return (
            all(isinstance(count, int) and count >= 0 for count in counts)
            and isinstance(self.learned, (bool, NoneType))
            and isinstance(self.problem, (str, NoneType))
            and isinstance(self.best_map, (float, NoneType))
        )


def state_variables(model: keras.Model) -> list[keras.Variable]:
    """Every variable that a training step reads or writes: weights, seeds, optimizer, running means."""
    model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables, *model.metrics_variables]


def capture(model: keras.Model) -> list[np.ndarray]:
    """The state as NumPy arrays; under a strategy all replicas must call it."""
    return [np.asarray(variable.numpy()) for variable in state_variables(model)]


def restore(model: keras.Model, arrays: Sequence[np.ndarray]) -> None:
    """Puts back what `capture` returned."""
    for variable, array in zip(state_variables(model), arrays):
        variable.assign(array)


def is_finite(arrays: Sequence[np.ndarray]) -> bool:
    """Whether no number in the state is NaN or infinite."""
    return all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def save(path: str, arrays: Sequence[np.ndarray], progress: Progress) -> None:
    """Writes state and progress to one file, atomically."""
    stream = BytesIO()
    header = np.frombuffer(json.dumps(progress._asdict()).encode(), np.uint8)
    variables: dict[str, Any] = {f"variable_{i}": array for i, array in enumerate(arrays)}
    np.savez(stream, progress=header, **variables)
    io.write_bytes(path, stream.getvalue())


def read_progress(path: str) -> Progress:
    """The `Progress` in a file of `save`.

    Raises:
        UserError: the file is damaged.
    """
    return _read(path)[1]


def load(path: str, model: keras.Model) -> Progress:
    """Reads a file of `save` into the model.

    Returns:
        The `Progress` that was saved.

    Raises:
        UserError: the file is damaged, or holds the state of another model.
    """
    arrays, progress = _read(path)
    shapes = [tuple(variable.shape) for variable in state_variables(model)]
    if shapes != [array.shape for array in arrays]:
        raise UserError(
            f"The checkpoint {path} holds the state of another model. "
            "Train into another folder with --output, or pass --overwrite."
        )
    restore(model, arrays)
    return progress


def _read(path):
    """`(arrays, progress)` of a file of `save`."""
    try:
        data = io.read_bytes(path)
        # `save` compresses nothing, but another program may have; weights shrink little.
        found = read_npz(data, max_bytes=8 * len(data))
        arrays = [found[f"variable_{index}"] for index in range(len(found) - 1)]
        progress = Progress(**json.loads(found["progress"].tobytes()))
        if not progress.is_valid():
            raise ValueError(f"progress {progress}")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(
            f"The checkpoint {path} is damaged ({error}). Remove it, or pass --overwrite, to "
            "train from the start."
        ) from error
    return arrays, progress
