"""`python -m wsss.train`: trains a network on image tags; see `--help`.

What is made of the options stands in `wsss.training`; the training itself is `Model.fit`. What can be told
from the command line and the collection alone is checked before TensorFlow is imported, which takes seconds.
"""

import sys

from wsss.common import io
from wsss.common.errors import program
from wsss.common.tf_import import import_tensorflow
from wsss.data.dataset import open_collection
from wsss.training.options import parse_options
from wsss.training.run_dir import open_run


@program
def main(argv=None):
    """Trains as the command line says.

    Returns:
        0; 1 where the loss was not finite and the last good weights were kept; 130 after an interrupt.
    """
    options = parse_options(argv)
    collection = open_collection(options.data) if options.data else None
    if collection:
        collection.shard_paths(options.split)  # a missing split is reported before TensorFlow starts
    run = open_run(options, collection)
    if not options.overwrite and run.is_finished():
        print(f"{run.path} is finished already; --overwrite trains it anew.")
        return 0
    try:
        failure = _train(options, run, collection)
    except KeyboardInterrupt:
        print(f"Interrupted; the same command goes on with {run.path}.", file=sys.stderr)
        return 130
    if failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    print(f"Trained: {io.join(run.path, 'model.keras')}")
    return 0


def _train(options, run, collection):
    """Why the run was stopped early, or None."""
    import_tensorflow(onednn=True)
    from wsss.training.building import set_numerics
    from wsss.training.loop import train
    from wsss.training.strategies import make_strategy

    set_numerics(options)
    strategy = make_strategy(options.strategy, options.cpu_replicas)
    return train(options, run, strategy, collection or _draw_collection(run))


def _draw_collection(run):
    """The built-in collection, drawn into the run directory unless it is there."""
    directory = io.join(run.path, "data")
    if io.exists(io.join(directory, "dataset_info.json")):
        return open_collection(directory)
    from wsss.data.synthetic import write_synthetic_collection

    run.begin()
    print(f"No --data: drawing a small collection into {directory}.")
    return write_synthetic_collection(directory)


if __name__ == "__main__":
    sys.exit(main())
