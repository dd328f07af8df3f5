"""Trained models from `.keras` files, and one predictor a process.

Keras and its backend are imported when a model is loaded, not when this module is.
"""

import contextlib
import errno
import json
import os
import struct
import tempfile
import threading
import zipfile
import zlib
from typing import Any

from wsss.common import io
from wsss.common.errors import UserError
from wsss.inference.affinity_predictor import AffinityPredictor
from wsss.inference.predictor import CamPredictor

MAX_UNPACKED_BYTES = 32 << 30  # of a `.keras` file
MAX_COMPRESSION = 20  # bytes unpacked for each byte of the file; weights hardly compress
_SMALL = 64 << 20  # bytes unpacked that are never too many for the file


class _LatestOnly:
    """Keeps what was built last, for one key; threads that ask for it meanwhile wait, and build nothing."""

    def __init__(self):
        self._lock = threading.Lock()
        self._entry = (None, None)

    def get(self, key, build):
        with self._lock:
            if self._entry[0] != key:
                self._entry = (None, None)  # the former one is freed first: two models may not fit
                self._entry = (key, build())
            return self._entry[1]

    def clear(self):
        with self._lock:
            self._entry = (None, None)


_cam_predictors, _affinity_predictors = _LatestOnly(), _LatestOnly()


def load_model(path: str) -> Any:
    """The model in a `.keras` file, local or remote, in little more memory than its weights take.

    Args:
        path: of the file, or of a run directory that holds `model.keras`.

    Returns:
        The `keras.Model`.

    Example:
        >>> from wsss.backbones.tiny import small_backbone
        >>> from wsss.models import SEAM
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     SEAM.from_backbone(small_backbone(width=8), classes=3).save(f"{folder}/model.keras")
        ...     load_model(folder).classes
        3

    Raises:
        UserError: the file is missing or damaged, unpacks to more than it may, names a layer that is not
            imported, or is no model of this package.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    import wsss.models  # noqa: F401  registers the classes that a file names

    path = os.fspath(path)
    if not path.endswith(".keras") and io.exists(io.join(path, "model.keras")):
        path = io.join(path, "model.keras")
    with _unpacked(path) as folder:
        try:
            return keras.models.load_model(folder, compile=False)
        except MemoryError:
            raise
        except Exception as error:  # for a damaged file Keras raises whatever its own code happens to meet
            unknown = _unknown_class(folder)
            if unknown:
                raise UserError(
                    f"`{path}` contains the custom object `{unknown[1]}` of the module `{unknown[0]}`, which "
                    f"is not registered. Run `import {unknown[0]}` before the model is loaded."
                ) from error
            raise UserError(f"`{path}` is no trained model: {_first_line(error)}") from error


def load_predictor(path: str, **options) -> CamPredictor:
    """A `CamPredictor` for a `.keras` file, local or remote; `options` are its keyword arguments.

    Raises:
        UserError: as `load_model` and `CamPredictor`.
    """
    return CamPredictor(load_model(path), **options)


def cached_predictor(path: str, content_hash: str, options: tuple[tuple[str, Any], ...] = ()) -> CamPredictor:
    """`load_predictor`, kept for the process: one model in memory, however many threads and pipelines ask.

    Args:
        path: of the `.keras` file.
        content_hash: of the file, so that a model trained anew at the same path is loaded anew.
        options: `(name, value)` pairs.
    """
    key = (path, content_hash, options)
    return _cam_predictors.get(key, lambda: load_predictor(path, **dict(options)))


def cached_affinity_predictor(path: str, content_hash: str, max_side: int) -> AffinityPredictor:
    """An `AffinityPredictor`, kept for the process; see `cached_predictor`."""
    key = (path, content_hash, max_side)
    return _affinity_predictors.get(key, lambda: AffinityPredictor(load_model(path), max_side))


def forget_cached() -> None:
    """Frees the predictors that are kept for the process."""
    _cam_predictors.clear()
    _affinity_predictors.clear()


# What `zipfile` raises for an archive that contradicts itself; of the system's errors, those about its names.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, LookupError, RuntimeError, ValueError, ArithmeticError),
    *(struct.error, OSError),
)
_DAMAGED_NAMES = (errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


@contextlib.contextmanager
def _unpacked(path):
    """A folder with the contents of a `.keras` file: from it Keras reads one weight at a time, not all."""
    if not io.exists(path):
        raise UserError(f"There is no model at `{path}`.")
    with tempfile.TemporaryDirectory(prefix="wsss-model-") as folder:
        local = path
        if io.is_remote(path):
            local = os.path.join(folder, "model.keras")
            io.copy(path, local)
        unpacked = os.path.join(folder, "model")
        try:
            with zipfile.ZipFile(local) as archive:
                _check_unpacked_bytes(archive, path, os.path.getsize(local))
                archive.extractall(unpacked)
        except UserError:
            raise
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno not in _DAMAGED_NAMES:
                raise
            message = f"`{path}` is not a whole `.keras` file: copy it anew, or train again."
            raise UserError(message) from error
        yield unpacked


def _check_unpacked_bytes(archive, path, packed):
    """Refuses an archive that declares far more than its size; `zipfile` unpacks no more than declared."""
    unpacked = sum(member.file_size for member in archive.infolist())
    most = min(MAX_UNPACKED_BYTES, max(_SMALL, MAX_COMPRESSION * packed))
    if unpacked > most:
        raise UserError(
            f"`{path}` has {packed} bytes and unpacks to {unpacked}, more than the {most} allowed for a "
            "`.keras` file of that size: it is damaged, or no trained model. Copy it anew."
        )


def _unknown_class(folder):
    """`(module, name)` of the first object in a model's configuration that Keras cannot find, or None."""
    import keras

    try:
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
    except (OSError, ValueError):
        return None
    parts = [config]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            name, module = part.get("registered_name"), part.get("module")
            known = not name or keras.saving.get_registered_object(name) is not None
            if isinstance(module, str) and module.split(".")[0] not in ("keras", "builtins") and not known:
                return module, name
            parts.extend(part.values())
        elif isinstance(part, list):
            parts.extend(part)
    return None


def _first_line(error):
    if isinstance(error, NameError) and error.__context__:  # raised by Keras while it handles the true one
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
