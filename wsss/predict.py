"""Masks for new images, without any tags, by a trained model.

    python -m wsss.predict --model runs/seam-1 --images photos --output masks

The classes of an image are those that the classifier finds, and the background threshold is the one that the
run was calibrated with by `pseudo_labels --background_threshold auto`. It is the pipeline of pseudo labels
under another name: it resumes, skips what is done, lists what failed, and takes the same flags.
"""

from wsss.common import cli
from wsss.common.errors import program
from wsss.pseudo_labels import label


@program
def main(argv: list[str] | None = None) -> int:
    """Writes a mask for each image of a folder; returns the exit code."""
    from wsss.inference.tiling.malloc_tuning import tune_malloc
    from wsss.pipeline.execution.runner import split_arguments
    from wsss.pipeline.options import options_of_new_images

    tune_malloc()
    namespace, beam_argv = split_arguments(argv, make_parser())
    values = vars(namespace)
    return label(options_of_new_images(data=values.pop("images"), **values), beam_argv)


def make_parser() -> cli.Parser:
    """The parser: the flags of the pseudo labels, with a folder of images in place of a collection."""
    from wsss.pipeline.options import NEW_IMAGES, LabelOptions

    parser = cli.make_parser(
        LabelOptions,
        prog="python -m wsss.predict",
        description="Writes a mask for each image of a folder. Beam's own flags may be added.",
        leave_out=("data", "labels", *NEW_IMAGES),
    )
    help_text = "folder of images, local or gs://, with sub-folders"
    parser.add_argument("--images", required=True, metavar="DIR", help=help_text)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
