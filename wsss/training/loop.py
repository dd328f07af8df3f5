"""The training itself, around `Model.fit`: built, gone on with, watched, saved."""

import os
import sys
import tempfile

from wsss.common import io
from wsss.data.loader import steps_per_epoch
from wsss.training import building, callbacks, strategies
from wsss.training.evaluator import Measure
from wsss.training.run_dir import describe
from wsss.training.state import Progress


def train(options, run, strategy, collection):
    """Trains into a run directory, from where a former run of the same options was stopped.

    Args:
        options: `TrainingOptions`.
        run: `RunDirectory`.
        strategy: `tf.distribute` strategy.
        collection: `Collection`.

    Returns:
        Why the run was stopped early, or None.
    """
    building.check_data(options, strategy, collection)
    # Decided before the model is made, for which all workers meet: later, one may see what another wrote.
    resumed = not options.overwrite and io.exists(run.checkpoint)
    steps = steps_per_epoch(collection, options.split, options.batch_size)
    with strategy.scope():
        backbone = building.make_backbone(options)
        model = building.make_model(options, len(collection.class_names), backbone)
        building.compile_model(model, options, backbone, steps * options.epochs)
    strategies.prepare_model(model, strategy, building.batch_shapes(options, collection, strategy))
    chief = strategies.is_chief(strategy)
    keeper = callbacks.SafeKeeping(
        run.checkpoint, steps_per_epoch=steps, save_steps=options.checkpoint_steps, writes=chief
    )
    keeper.set_model(model)
    if resumed:
        keeper.restore()
        print(f"Going on with {run.path} after epoch {keeper.progress.epoch}, step {keeper.progress.step}.")
    else:
        if chief:
            run.clear()
            io.write_json(run.config, describe(options, collection, model, strategy))
        keeper.save()
    listeners = make_callbacks(options, run, collection) if chief else []
    for start, last in spans(keeper.progress, options.epochs):
        model.fit(
            building.make_dataset(options, collection, backbone.pad_value, strategy, start),
            initial_epoch=start.epoch,
            epochs=last,
            steps_per_epoch=steps - start.step,
            callbacks=[*listeners, keeper],
            verbose=1 if chief and on_terminal() else 0,
            shuffle=False,
        )
        if keeper.failure:
            break
    if chief:
        save(run, model, keeper)
    return keeper.failure


def spans(progress, epochs):
    """`(where to begin, epoch to end with)` of the calls of `fit` that are left; a part-done epoch is one."""
    if progress.step:
        yield progress, progress.epoch + 1
        progress = Progress(progress.epoch + 1)
    if progress.epoch < epochs:
        yield progress, epochs


def on_terminal():
    """Whether a person watches, who gets a bar, rather than a log, which gets lines."""
    return sys.stdout.isatty()


def make_callbacks(options, run, collection):
    """The callbacks that record a run, in the order in which they see the logs."""
    measure = None
    if options.measures:
        measure = Measure(
            collection,
            options.val_split,
            limit=options.val_images,
            threshold=options.background_threshold,
            cam="cam" if options.model == "classifier" else "refined_cam",
        )
    return [
        *([callbacks.Validation(measure)] if measure else []),
        callbacks.HistoryFile(run.history),
        callbacks.Summaries(run.tensorboard, measure.pictures if measure else None),
        *([] if on_terminal() else [callbacks.PlainProgress(interval=options.progress_seconds)]),
    ]


def save(run, model, keeper):
    """Writes the model, without its optimizer and strategy, and how the run ended."""
    plain = type(model).from_config(model.get_config())
    plain.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        plain.save(path)
        io.copy(path, run.model)
    rows = callbacks.read_history(run.history)
    io.write_json(
        run.result,
        {
            "status": "stopped" if keeper.failure else "finished",
            "reason": keeper.failure,
            "steps": keeper.progress.epoch * keeper.steps_per_epoch + keeper.progress.step,
            "last_epoch": rows[-1] if rows else {},
        },
    )
