"""`python -m wsss.train`: trains a network on image tags; see `--help`.

What is made of the options stands in `wsss.training`; the training itself is `Model.fit`.
"""

import os
import sys
import tempfile

os.environ.setdefault(
    "TF_CPP_MIN_LOG_LEVEL", "2"
)  # before TensorFlow: its start-up notes are no user's concern

from wsss import files
from wsss.data.input_pipeline import steps_per_epoch
from wsss.data.records import open_collection
from wsss.errors import program
from wsss.training import building, callbacks, strategies
from wsss.training.checkpoint import Progress
from wsss.training.measure import Measure
from wsss.training.options import parse_options
from wsss.training.run_directory import describe, open_run


@program
def main(argv=None):
    """Trains as the command line says.

    Returns:
        0, or 1 where the loss was not finite and the last good weights were kept.
    """
    options = parse_options(argv)
    run = open_run(options)
    if run.is_finished():
        print(f"{run.path} is finished already; --resume never trains it anew.")
        return 0
    building.set_numerics(options)
    strategy = strategies.make_strategy(options.strategy, options.cpu_replicas)
    building.check_batch(options, strategy)
    collection = open_training_collection(options, run)
    failure = train(options, run, strategy, collection)
    if failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    print(f"Trained: {run.model}")
    return 0


def open_training_collection(options, run):
    """The collection to train on, drawn into the run directory where none is named."""
    if options.data:
        return open_collection(options.data)
    directory = files.join(run.path, "data")
    if not files.exists(files.join(directory, "dataset_info.json")):
        print(f"No --data: drawing a small collection into {directory}.")
        from wsss.data.synthetic import write_synthetic_collection

        write_synthetic_collection(directory)
    return open_collection(directory)


def train(options, run, strategy, collection):
    """Trains into a run directory, from where a former run of the same options was stopped.

    Returns:
        Why the run was stopped early, or None.
    """
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
    if files.exists(run.checkpoint):
        keeper.restore()
        print(f"Going on with {run.path} after epoch {keeper.progress.epoch}, step {keeper.progress.step}.")
    elif chief:
        files.write_json(run.config, describe(options, collection, model, strategy))
        keeper.save()
    fit(model, options, run, strategy, collection, backbone.pad_value, keeper)
    if chief:
        save(run, model, keeper)
    return keeper.failure


def fit(model, options, run, strategy, collection, pad_value, keeper):
    """`Model.fit` over the epochs that are left; a part-done epoch comes first, on its own."""
    listeners, verbose = make_callbacks(options, run, strategy, collection, keeper)
    for start, last in spans(keeper.progress, options.epochs):
        dataset = building.make_dataset(options, collection, pad_value, strategy, start)
        model.fit(
            dataset,
            initial_epoch=start.epoch,
            epochs=last,
            steps_per_epoch=keeper.steps_per_epoch - start.step,
            callbacks=listeners,
            verbose=verbose,
            shuffle=False,
        )
        if keeper.failure:
            break


def spans(progress, epochs):
    """`(where to begin, epoch to end with)` of the calls of `fit` that are left."""
    if progress.step:
        yield progress, progress.epoch + 1
        progress = Progress(progress.epoch + 1)
    if progress.epoch < epochs:
        yield progress, epochs


def make_callbacks(options, run, strategy, collection, keeper):
    """The callbacks in the order in which they see the logs, and `verbose` for `fit`."""
    if not strategies.is_chief(strategy):
        return [keeper], 0
    measure = draw = None
    if options.val_split != "none":
        measure = Measure(
            collection,
            options.val_split,
            limit=options.val_images,
            threshold=options.background_threshold,
            cam="cam" if options.model == "classifier" else "refined_cam",
        )
        draw = measure.pictures
    on_terminal = sys.stdout.isatty()
    listeners = [
        measure and callbacks.Validation(measure),
        callbacks.HistoryFile(run.history, finished_epochs=keeper.progress.epoch),
        callbacks.Summaries(run.tensorboard, draw),
        None if on_terminal else callbacks.PlainProgress(),
        keeper,
    ]
    return [listener for listener in listeners if listener], 1 if on_terminal else 0


def save(run, model, keeper):
    """The model without its optimizer, which needs this package's model classes alone to be read."""
    plain = type(model).from_config(model.get_config())
    plain.set_weights(model.get_weights())
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        plain.save(path)
        files.copy(path, run.model)
    rows = callbacks.read_history(run.history)
    files.write_json(
        run.result,
        {
            "status": "stopped" if keeper.failure else "finished",
            "reason": keeper.failure,
            "steps": keeper.progress.epoch * keeper.steps_per_epoch + keeper.progress.step,
            "last_epoch": rows[-1] if rows else {},
        },
    )


if __name__ == "__main__":
    sys.exit(main())
