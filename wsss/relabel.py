"""Masks with another threshold or refinement, from the scores of pseudo labels, without the model.

    python -m wsss.pseudo_labels --model runs/seam --data shards --output labels --save_scores
    python -m wsss.relabel labels --background_threshold 0.3 --refine crf --output others

A flag that is not given stays as the labels were made. The masks are those that `pseudo_labels` makes with
the same settings; the images are read where they were, and the labels are left as they are.
"""

import argparse
import functools

from wsss.common import cli
from wsss.common.errors import program
from wsss.pseudo_labels import label


@program
def main(argv: list[str] | None = None) -> int:
    """Makes masks anew; returns 1 when more images failed than `--max_error_rate` allows."""
    from wsss.pipeline.execution.runner import split_arguments
    from wsss.pipeline.job.relabeling import make_masks_anew, options_of_relabeling

    namespace, beam_argv = split_arguments(argv, make_parser())
    values = vars(namespace)
    labels = values.pop("labels")
    options = options_of_relabeling(labels, **values)
    return label(options, beam_argv, functools.partial(make_masks_anew, labels))


def make_parser() -> cli.Parser:
    """The parser: the flags of the pseudo labels that change masks and no scores."""
    from wsss.pipeline.job.relabeling import FIXED, INHERITED
    from wsss.pipeline.options import LabelOptions

    parser = cli.make_parser(
        LabelOptions,
        prog="python -m wsss.relabel",
        description="Makes masks anew from the scores that `pseudo_labels --save_scores` stored, without the "
        "model. Beam's own flags may be added.",
        leave_out=("output", "save_scores", "labels", *FIXED),  # of tags, those of the labels stay
        inherit=INHERITED,
        inherit_from="as in LABELS",
    )
    parser.add_argument("labels", metavar="LABELS", help="output of `pseudo_labels --save_scores`")
    help_text = "folder, local or gs://; default: LABELS itself, whose masks `--overwrite` replaces"
    parser.add_argument("--output", default="", metavar="DIR", help=help_text)
    help_text = "also write the scores; default: in LABELS itself, and not to another output"
    parser.add_argument("--save_scores", action=argparse.BooleanOptionalAction, help=help_text)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
