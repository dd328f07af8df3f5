"""The trained model that a job applies, and what its run directory says about it."""

import hashlib
import os
from dataclasses import dataclass
from typing import Any

from wsss.common import io
from wsss.common.constants import check_class_count
from wsss.common.errors import UserError
from wsss.common.schema import Fields
from wsss.inference.predictor import smallest_side


@dataclass(frozen=True)
class TrainedRun:
    """A trained model; what a lone `.keras` file does not say is empty.

    Attributes:
        folder: of the model.
        model_path: the `.keras` file.
        model_hash: of its bytes.
        class_names: the foreground classes.
        data, split: what it was trained on.
        kind: `--model` of its training, such as "seam".
        min_side: the long side to which smaller images are enlarged, pixels; 0: none.
    """

    folder: str
    model_path: str
    model_hash: str
    class_names: tuple[str, ...] = ()
    data: str = ""
    split: str = ""
    kind: str = ""
    min_side: int = 0


@dataclass(frozen=True)
class RunConfig:
    """The part of a run directory's `config.json` that is read here; see `TrainedRun`."""

    class_names: tuple[str, ...] = ()
    data: str = ""
    split: str = ""
    kind: str = ""
    min_side: int = 0

    @classmethod
    def from_json(cls, value: Any, path: str) -> "RunConfig":
        """From parsed JSON.

        Raises:
            UserError: a field is malformed.
        """
        remedy = "Copy it anew, or pass the `.keras` file alone, away from this folder."
        fields = Fields(value, path, remedy)
        options = Fields(fields.get("options", dict, {}), path, remedy)
        return cls(
            fields.texts("class_names", ()),
            fields.get("data", str, options.get("data", str, "")),
            fields.get("split", str, options.get("split", str, "")),
            options.get("model", str, ""),
            _min_side(options),
        )


def _min_side(options):
    """The least long side that a run was trained at; 0 of a config without sizes."""
    image_size = options.get("image_size", int, 0)
    return smallest_side(image_size, tuple(map(int, options.numbers("long_side", ()))))


def open_trained_run(model: str = "") -> TrainedRun:
    """The `TrainedRun` at a run directory or `.keras` file; empty: the newest run under `./runs`.

    Raises:
        UserError: there is none, or its `config.json` is damaged.
    """
    path = str(model) or _newest_run()
    if not path.endswith(".keras"):
        path = io.join(path, "model.keras")
    if not io.exists(path):
        raise UserError(f"There is no model at {path}. `python -m wsss.train` makes one.")
    digest = hashlib.sha256(io.read_bytes(path)).hexdigest()[:16]
    folder = path.rpartition("/")[0] if io.is_remote(path) else os.path.dirname(path) or "."
    config_path = io.join(folder, "config.json")
    config = RunConfig()
    if io.exists(config_path):
        config = RunConfig.from_json(io.read_json(config_path), config_path)
    check_class_count(len(config.class_names), path)
    known = (config.class_names, config.data, config.split, config.kind, config.min_side)
    return TrainedRun(folder, path, digest, *known)


def _newest_run() -> str:
    found = io.list_files(os.path.join("runs", "*", "model.keras"))
    if not found:
        raise UserError(
            "There is no trained run under ./runs. Pass `--model`, or run `python -m wsss.train`."
        )
    return os.path.dirname(max(found, key=lambda path: (os.path.getmtime(path), path)))
