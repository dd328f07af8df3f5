"""The run directory: what a training run leaves behind, and how the same command finds it again.

model.keras     the trained model, `keras.models.load_model` reads it
config.json     every option, version and class name needed to repeat the run
history.csv     one row an epoch
result.json     written last: how the run ended, and its last metrics
tensorboard/    scalars and CAM overlays
checkpoint/     the whole state, to go on after a kill
"""

import dataclasses
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.output_folder import OutputFolder, claim
from wsss.common.schema import Fields
from wsss.data.dataset import Collection
from wsss.training.options import NUMBER_FORMATS, TrainingOptions

RUNS = "runs"
_PACKAGES = ("wsss", "tensorflow", "keras", "numpy", "tensorflow-datasets")
_OWNED = (
    *("result.json", "config.json", "model.keras", "history.csv", "checkpoint/*", "tensorboard/*"),
    "calibration.json",  # by `pseudo_labels --background_threshold auto`, of the model that is here
)
_NOT_COMPARED = ("output", "overwrite", "progress_seconds", "on_divergence", "gradient_checkpointing")
# How runs of 0.1.0 were trained, whose config.json lacks the option; it knew no choice by device.
_BEFORE = {
    "clip_norm": 0.0,
    "steps_per_execution": 0,
    "masks": "",
    "head": "deeplabv3plus",
    "train_backbone": "auto",
    "class_prior": False,
}
_BY_DEVICE = {"mixed_precision": "auto", "jit_compile": None}


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """Paths within a run directory.

    Attributes:
        path: where the run is in the end.
        folder: where it is written until it is complete, or None for a run that is only read.
        data: what identifies the data, for `config.json`: class names, fingerprints of shards and label maps.
    """

    path: str
    folder: OutputFolder | None = dataclasses.field(default=None, compare=False)
    data: Mapping = dataclasses.field(default_factory=dict, compare=False)

    @property
    def work(self) -> str:
        return self.folder.work if self.folder else self.path

    @property
    def model(self) -> str:
        return io.join(self.work, "model.keras")

    @property
    def config(self) -> str:
        return io.join(self.work, "config.json")

    @property
    def history(self) -> str:
        return io.join(self.work, "history.csv")

    @property
    def result(self) -> str:
        return io.join(self.work, "result.json")

    @property
    def tensorboard(self) -> str:
        return io.join(self.work, "tensorboard")

    @property
    def checkpoint(self) -> str:
        return io.join(self.work, "checkpoint", "state.npz")

    @property
    def device_settings(self) -> dict[str, Any]:
        """What a run that was begun here chose for its device, as far as recorded; see `DeviceSettings`."""
        if not io.exists(self.config):
            return {}
        config = _read_config(self.config)
        options = config["options"]  # 0.1.0 recorded no more, and chose nothing by device
        return config["device"] or {name: options[name] for name in _BY_DEVICE if name in options}

    def is_finished(self) -> bool:
        """Whether the run ended as it should."""
        return io.exists(self.result) and io.read_object(self.result).get("status") == "finished"

    def begin(self) -> None:
        """Marks the folder as that of a run."""
        self._written().begin()

    def clear(self) -> None:
        """Removes what a former run left, so that nothing of it is mistaken for the new one's."""
        self._written().clear()

    def publish(self) -> None:
        """Puts a finished run in the place of the one that it replaces."""
        self._written().publish()

    def _written(self):
        if self.folder is None:
            raise ValueError(f"{self.path} was opened to be read only.")
        return self.folder


def open_run(options: TrainingOptions, collection: Collection | None = None) -> RunDirectory:
    """The run directory of a command, new or to be resumed.

    With `--output` it is that folder. Otherwise it is the newest unfinished `runs/MODEL-NUMBER` of the same
    options and data, or the next number.

    Args:
        options: `TrainingOptions`.
        collection: the `Collection` to train on, or None for the built-in one.

    Raises:
        UserError: the folder holds files of others, or a run of other options or on other data.
    """
    data = _data(options, collection)
    if not options.output:
        return _numbered_run(options, data)
    folder = claim(
        options.output,
        "run",
        owned=_OWNED,
        inputs=(options.data, collection and collection.directory, options.masks, options.backbone_weights),
        overwrite=options.overwrite,
    )
    run = RunDirectory(options.output, folder, data)
    if io.exists(run.config):
        difference = _difference(_read_config(run.config), options, data)
        if difference and not folder.replaces:
            raise UserError(
                f"{run.path} holds a run {difference}. Name another --output, or pass --overwrite."
            )
        if difference:  # left by another command with --overwrite that did not finish
            run.clear()
    return run


def describe(
    options: TrainingOptions, settings: Any, collection: Collection, model: Any, strategy: Any
) -> dict[str, Any]:
    """The content of `config.json`; `options` alone, as flags, repeat the run on such a device."""
    return {
        "program": "wsss.train",
        "options": _plain(options),
        "device": dataclasses.asdict(settings),
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


def _data(options, collection):
    """What identifies the data of a run: class names, and the content of shards and label maps."""
    if collection is None:
        return {}
    splits = [options.split]
    if options.val_split != options.split and options.val_split in collection.shard_lengths:
        splits.append(options.val_split)
    found = {"class_names": list(collection.class_names), "data_fingerprint": collection.fingerprint(*splits)}
    if collection.label_maps is not None:
        found["masks_fingerprint"] = collection.label_maps.fingerprint()
    return found


def _numbered_run(options, data):
    name = re.compile(rf"{options.model}-(\d+)")
    found = {}
    for path in io.list_files(io.join(RUNS, "*", "config.json")):
        folder = path.replace("\\", "/").split("/")[-2]
        match = name.fullmatch(folder)
        if match:
            found[int(match[1])] = RunDirectory(io.join(RUNS, folder))
    for _, run in sorted(found.items(), reverse=True):
        same = not _difference(_read_config(run.config), options, data)
        if not options.overwrite and same and not run.is_finished():
            return RunDirectory(run.path, claim(run.path, "run", owned=_OWNED), data)
    path = io.join(RUNS, f"{options.model}-{max(found, default=0) + 1}")
    return RunDirectory(path, claim(path, "run", owned=_OWNED), data)


def _read_config(path):
    """The content of a `config.json`, checked as far as it is used here; `{}` for missing objects."""
    config = io.read_object(path)
    remedy = "Restore it, or name another --output."
    fields = Fields(config, path, remedy)
    found = {name: fields.get(name, dict, {}) for name in ("options", "device")}
    for settings in (Fields(each, path, remedy) for each in found.values()):
        if settings.get("mixed_precision", str, "none") not in NUMBER_FORMATS:
            raise settings.error(f"`mixed_precision` must be one of {', '.join(NUMBER_FORMATS)}")
        settings.get("jit_compile", bool, None)
        settings.get("steps_per_execution", int, None)
    return {**config, **found, "class_names": list(fields.texts("class_names", ()))}


def _difference(config, options, data):
    """In what a recorded run differs from this one, in words; empty where it does not."""
    for name, here in data.items():
        there = config.get(name) or here  # version 0.1.0 recorded no fingerprint
        if there != here and name == "class_names":
            return f"of other classes ({', '.join(map(str, there))} there, {', '.join(here)} here)"
        if there != here:
            path = options.masks if name == "masks_fingerprint" else options.data
            return f"on other data: what is at {path} has changed since"
    recorded, wanted = _BEFORE | config["options"], _plain(options)
    if not config["device"]:
        wanted |= {name: recorded.get(name) for name, auto in _BY_DEVICE.items() if wanted[name] == auto}
    for name in wanted:
        if name not in _NOT_COMPARED and recorded.get(name) != wanted[name]:
            return f"of other options (--{name} {recorded.get(name)} there, {wanted[name]} here)"
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
