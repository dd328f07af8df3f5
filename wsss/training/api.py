"""Training from Python, as `python -m wsss.train` does it: `wsss.train_model`."""

import dataclasses
from collections.abc import Callable
from typing import Any

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.tf_import import import_tensorflow
from wsss.data.dataset import Collection, open_collection
from wsss.data.label_maps import open_label_maps
from wsss.data.sources.mask_coding import check_masks
from wsss.training.options import TrainingOptions, default_values
from wsss.training.recipe import fill_in
from wsss.training.run_dir import RunDirectory, open_run


def train_model(data: str = "", output: str = "", *, preset: str = "", **options: Any) -> RunDirectory:
    """Trains a network on the tags of a collection, or resumes the run in `output`.

    Example:

        run = wsss.train_model("shards", "runs/seam", backbone="MobileNetV2", epochs=8)
        model = wsss.load_model(run.model)

    Args:
        data: folder or `gs://…` of shards, or a TFDS name; empty: a small collection is drawn.
        output: run directory, local or `gs://…`; empty: `runs/MODEL-NUMBER`.
        preset: name of a published protocol, whose values `options` override; see
            `wsss.training.presets.PRESETS`.
        **options: fields of `wsss.training.options.TrainingOptions`.

    Returns:
        `RunDirectory` with the trained model, its configuration and its history.

    Raises:
        UserError: an option, the collection or the output cannot be used, or training was stopped early.
    """
    values = default_values(preset, data, options.get("model", ""))
    resolved = TrainingOptions(data=data, output=output, **{**values, **options})
    run, failure = run_training(resolved)
    if failure:
        raise UserError(failure)
    return run


def run_training(
    options: TrainingOptions, announce: Callable[[str], None] | None = None
) -> tuple[RunDirectory, str | None]:
    """Opens the collection and the run directory, and trains unless the run is finished.

    What the command line and the collection alone can show to be wrong is reported before TensorFlow is
    imported, which takes seconds.

    Args:
        options: all options.
        announce: function that takes a line about what is done; None: nothing is reported.

    Returns:
        The run directory, and why training was stopped early, or None.
    """
    announce = announce or (lambda line: None)
    collection = open_collection(options.data) if options.data else None
    if collection:
        collection.shard_paths(options.split)  # a missing split is reported before TensorFlow starts
        check_masks(collection)
    if collection and options.masks:
        label_maps = open_label_maps(options.masks, collection, options.split)
        collection = dataclasses.replace(collection, label_maps=label_maps)
    options = fill_in(options, collection)
    run = open_run(options, collection)
    if not options.overwrite and run.is_finished():
        announce(f"{run.path} is finished already; --overwrite trains it anew.")
        return run, None
    import_tensorflow(onednn=True)
    from wsss.training.building import set_numerics
    from wsss.training.device import choose_device_settings
    from wsss.training.loop import train
    from wsss.training.strategies import make_strategy

    settings = choose_device_settings(options, run.device_settings)
    set_numerics(options, settings)
    strategy = make_strategy(options.strategy, options.cpu_replicas)
    failure = train(options, settings, run, strategy, collection or _draw_collection(run, announce))
    run = RunDirectory(run.path)  # where an overwritten run was replaced by this one
    if not failure:
        announce(f"Trained: {run.model}")
    return run, failure


def _draw_collection(run: RunDirectory, announce) -> Collection:
    """The built-in collection, drawn into the run directory unless it is there."""
    directory = io.join(run.path, "data")
    if io.exists(io.join(directory, "dataset_info.json")):
        return open_collection(directory)
    from wsss.data.synthetic import write_synthetic_collection

    run.begin()
    announce(f"No --data: drawing a small collection into {directory}.")
    return write_synthetic_collection(directory)
