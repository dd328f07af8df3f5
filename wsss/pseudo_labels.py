"""From a trained model and a collection to pseudo labels: the program behind `pipelines/pseudo_labels.py`.

    python pipelines/pseudo_labels.py --model runs/seam-1 --data shards --output labels

The output folder:

    masks/ID.png       palette PNG, 0 background, 1..K class; or TFRecord shards that are a collection
    scores/ID.npz      with --save_scores: float16 scores of the classes present
    previews/ID.png    a few pictures to look at, gathered in report.html
    options.json       what the labels were made with; other options need another folder, or --overwrite
    manifests/         one file for each shard that is done; a second run skips these shards
    errors.jsonl       one line for each image that failed: id, stage, reason
    summary.json       counts, pixels of each class, hash of the model, every option
    metrics.json       where true masks are known: mIoU, IoU of each class, all thresholds
    report.html        all of it on one page
"""

from wsss.common.errors import program
from wsss.pipeline.job import make_pseudo_labels
from wsss.pipeline.options import Options, make_parser, resolve
from wsss.pipeline.trained_run import open_run


@program
def main(argv=None):
    """Makes pseudo labels; returns 1 when more images failed than `--max_error_rate` allows."""
    from wsss.pipeline.runner import split_arguments

    namespace, beam_argv = split_arguments(argv, make_parser())
    return label(Options(**vars(namespace)), beam_argv)


def label(options, beam_argv=()):
    """Makes pseudo labels; returns the exit code, 130 after an interrupt.

    Args:
        options: `Options`.
        beam_argv: Beam's flags.
    """
    run = open_run(options.model)
    options = resolve(options, run)
    try:
        return make_pseudo_labels(options, run, beam_argv)
    except KeyboardInterrupt:
        print(f"Interrupted; finished shards in {options.output} are kept, the same command resumes.")
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
