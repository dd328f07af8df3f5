"""Masks for new images, without any tags, by a trained model.

    python -m wsss.predict --model runs/seam-1 --images photos --output masks

The classes of an image are those that the classifier finds. It is the pipeline of pseudo labels under
another name: it resumes, skips what is done, lists what failed, and takes the same flags beside its own.
"""

from wsss.common import cli
from wsss.common.errors import program
from wsss.pseudo_labels import main as make_pseudo_labels


@program
def main(argv=None):
    """Writes a mask for each image of a folder; returns the exit code."""
    parser = make_parser()
    options, rest = parser.parse_known_args(argv)
    return make_pseudo_labels(
        [
            *("--model", options.model, "--data", options.images, "--output", options.output),
            *("--split", "all", "--image_labels", "predicted", *rest),
        ]
    )


def make_parser():
    """The parser of the program's own flags."""
    parser = cli.Parser(
        prog="python -m wsss.predict",
        description="Writes a mask for each image of a folder. Every flag of pipelines/pseudo_labels.py may "
        "be added, such as --label_threshold, --refine crf, --save_scores.",
    )
    add = parser.add_argument
    add("--model", default="", help="run directory or .keras file; default: the newest run under ./runs")
    add("--images", required=True, help="folder of images, local or gs://, sub-folders included")
    add("--output", required=True, help="folder, local or gs://")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
