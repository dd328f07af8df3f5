"""What was trained: the model that makes the labels, and what its run directory tells about it."""

import hashlib
import os
from dataclasses import dataclass

from wsss.common import io
from wsss.common.errors import UserError


@dataclass(frozen=True)
class Run:
    """What was trained; what a lone `.keras` file does not tell is empty.

    Attributes:
        folder: of the model.
        model_path: the `.keras` file.
        model_hash: of its bytes.
        class_names: the foreground classes.
        data, split: what it was trained on.
    """

    folder: str
    model_path: str
    model_hash: str
    class_names: tuple[str, ...]
    data: str
    split: str


def open_run(model=""):
    """The `Run` at a run directory or `.keras` file; empty: the newest run under `./runs`.

    Raises:
        UserError: there is none.
    """
    path = str(model) or _newest_run()
    if not path.endswith(".keras"):
        path = io.join(path, "model.keras")
    if not io.exists(path):
        raise UserError(f"There is no model at {path}. `python -m wsss.train` makes one.")
    digest = hashlib.sha256(io.read_bytes(path)).hexdigest()[:16]
    folder = path.rpartition("/")[0] if io.is_remote(path) else os.path.dirname(path) or "."
    config_path = io.join(folder, "config.json")
    config = io.read_json(config_path) if io.exists(config_path) else {}
    trained = {**config.get("options", {}), **config}
    names = tuple(trained.get("class_names", ()))
    return Run(folder, path, digest, names, trained.get("data") or "", trained.get("split") or "")


def _newest_run():
    found = io.list_files(os.path.join("runs", "*", "model.keras"))
    if not found:
        raise UserError(
            "There is no trained run under ./runs. Pass `--model`, or run `python -m wsss.train`."
        )
    return os.path.dirname(max(found, key=lambda path: (os.path.getmtime(path), path)))
