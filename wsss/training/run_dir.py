"""The run directory: what a training run leaves behind, and how the same command finds it again.

model.keras     the trained model, `keras.models.load_model` reads it
config.json     every option, version and class name needed to repeat the run
history.csv     one row an epoch
result.json     written last: how the run ended, and its last figures
tensorboard/    scalars and CAM overlays
checkpoint/     the whole state, to go on after a kill
"""

import dataclasses
import platform
import re
from importlib import metadata

from wsss.common import io
from wsss.common.errors import UserError

RUNS = "runs"
_PACKAGES = ("wsss", "tensorflow", "keras", "numpy", "tensorflow-datasets")
_NOT_COMPARED = ("output", "overwrite", "progress_seconds", "on_divergence")
_BEFORE = {"clip_norm": 0.0}  # how runs were trained whose config.json lacks the option: by 0.1.0


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths within a run directory."""

    path: str

    @property
    def model(self):
        return io.join(self.path, "model.keras")

    @property
    def config(self):
        return io.join(self.path, "config.json")

    @property
    def history(self):
        return io.join(self.path, "history.csv")

    @property
    def result(self):
        return io.join(self.path, "result.json")

    @property
    def tensorboard(self):
        return io.join(self.path, "tensorboard")

    @property
    def checkpoint(self):
        return io.join(self.path, "checkpoint", "state.npz")

    def is_finished(self):
        """Whether the run ended as it should."""
        return io.exists(self.result) and io.read_json(self.result).get("status") == "finished"

    def clear(self):
        """Removes what a former run left, so that nothing of it is mistaken for the new one's."""
        events = io.list_files(io.join(io.escape(self.tensorboard), "*"))
        for path in (self.result, self.checkpoint, self.model, self.history, self.config, *events):
            io.remove(path)


def open_run(options):
    """The run directory of a command, new or to be gone on with.

    With `--output` it is that folder. Otherwise it is the newest unfinished `runs/MODEL-NUMBER` of the same
    options, or the next number.

    Raises:
        UserError: the folder holds a run of other options.
    """
    if not options.output:
        return _numbered_run(options)
    run = RunDirectory(options.output)
    if not options.overwrite and io.exists(run.config):
        difference = _difference(io.read_json(run.config), options)
        if difference:
            raise UserError(
                f"{run.path} holds a run of other options ({difference}). "
                "Name another --output, or pass --overwrite."
            )
    return run


def describe(options, collection, model, strategy):
    """The content of `config.json`; `options` alone, as flags, repeat the run."""
    return {
        "program": "wsss.train",
        "options": _plain(options),
        "data": collection.directory,
        "replicas": strategy.num_replicas_in_sync,
        "class_names": list(collection.class_names),
        "collection": {
            "name": collection.name,
            "split_sizes": dict(collection.split_sizes),
            "has_masks": collection.has_masks,
        },
        "parameters": model.count_params(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _numbered_run(options):
    name = re.compile(rf"{options.model}-(\d+)")
    found = {}
    for path in io.list_files(io.join(RUNS, "*", "config.json")):
        folder = path.replace("\\", "/").split("/")[-2]
        if name.fullmatch(folder):
            found[int(name.fullmatch(folder)[1])] = RunDirectory(io.join(RUNS, folder))
    for _, run in sorted(found.items(), reverse=True):
        same = not _difference(io.read_json(run.config), options)
        if not options.overwrite and same and not run.is_finished():
            return run
    return RunDirectory(io.join(RUNS, f"{options.model}-{max(found, default=0) + 1}"))


def _difference(config, options):
    """The first option in which a recorded run differs from this one, in words; empty where none does."""
    recorded, wanted = _BEFORE | config.get("options", {}), _plain(options)
    for name in wanted:
        if name not in _NOT_COMPARED and recorded.get(name) != wanted[name]:
            return f"--{name} {recorded.get(name)} there, {wanted[name]} here"
    return ""


def _plain(options):
    """Options as JSON gives them back: tuples are lists."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(options).items()
    }


def _versions():
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # the worker's copy of this package has no metadata
            found[package] = "unknown"
    return found
