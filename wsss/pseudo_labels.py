"""From a trained model and a collection to pseudo labels: the program behind `pipelines/pseudo_labels.py`.

    python pipelines/pseudo_labels.py --model runs/seam-1 --data shards --output labels

The output folder:

    masks/ID.png       palette PNG, 0 background, 1..K class; or TFRecord shards that are a collection
    scores/ID.npz      with --save_scores: float16 scores of the classes present
    previews/ID.png    a few pictures to look at, gathered in report.html
    options.json       what the labels were made with; other options need another folder, or --overwrite
    manifests/         one file for each finished shard: its content's fingerprint, its images, counts
    errors.jsonl       one line for each image that failed: id, stage, reason, whether another run may succeed
    summary.json       counts, pixels of each class, hash of the model, every option
    metrics.json       where true masks are known: mIoU, IoU of each class, all thresholds
    report.html        all of it on one page

A second run skips finished shards. Shards whose images or tags changed since, or some of whose images failed
for a passing reason, are labeled again; masks of images that are gone are removed.
"""

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wsss.common import io
from wsss.common.errors import program

if TYPE_CHECKING:
    from wsss.pipeline.options import LabelOptions
    from wsss.pipeline.summary import LabelResult


@program
def main(argv: list[str] | None = None) -> int:
    """Makes pseudo labels; returns 1 when more images failed than `--max_error_rate` allows."""
    from wsss.inference.tiling.malloc_tuning import tune_malloc
    from wsss.pipeline.execution.runner import split_arguments
    from wsss.pipeline.options import LabelOptions, make_parser

    tune_malloc()
    namespace, beam_argv = split_arguments(argv, make_parser())
    return label(LabelOptions(**vars(namespace)), beam_argv)


def label(
    options: "LabelOptions", beam_argv: Sequence[str] = (), job: "Callable[..., LabelResult] | None" = None
) -> int:
    """Makes pseudo labels and prints the result; returns the exit code, 130 after an interrupt.

    Args:
        options: `LabelOptions`.
        beam_argv: Beam's flags.
        job: function of the two, and of one that prints a line; None: `make_pseudo_labels`.
    """
    from wsss.pipeline.job import make_pseudo_labels

    try:
        result = (job or make_pseudo_labels)(options, beam_argv, announce=print)
    except KeyboardInterrupt:
        print("Interrupted; finished shards are kept, the same command resumes.")
        return 130
    print(*result.lines(), sep="\n")
    total = result.labeled + result.failed
    if total:
        print(f"Report: {io.join(result.output, 'report.html')}")
    if result.failed:
        print(f"Why images failed stands in {io.join(result.output, 'errors.jsonl')}.")
    if result.failed_fraction > options.max_error_rate:
        print(
            f"error: {result.failed} of {total} images failed, more than --max_error_rate "
            f"{options.max_error_rate:g} allows; see errors.jsonl.",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
