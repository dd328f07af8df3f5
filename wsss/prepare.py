"""`python -m wsss.prepare`: images with tags, as users have them, to TFRecord shards.

    python -m wsss.prepare --images photos --labels labels.csv --output shards

The output folder is a data set in TFDS's format (`tfds.builder_from_directory` opens it), with beside it:

    errors.jsonl    one line for each image that was refused: id, stage, reason, detail, remedy
    summary.json    counts of images, classes, pixels and refusals

The same images give the same bytes, whatever the runner. A collection that is there already is replaced with
`--overwrite` only, when the new one is complete.
"""

import sys

from wsss.common import cli, io
from wsss.common.errors import program


@program
def main(argv: list[str] | None = None) -> int:
    """Makes shards; returns 1 when more was refused than `--max_error_rate` allows."""
    from wsss.pipeline.execution.runner import split_arguments
    from wsss.pipeline.preparation import PreparationOptions, make_collection

    namespace, beam_argv = split_arguments(argv, make_parser())
    options = PreparationOptions(**vars(namespace))
    try:
        summary = make_collection(options, beam_argv)
    except KeyboardInterrupt:
        print("Interrupted; the same command starts over.")
        return 130
    _print_summary(options.output, summary)
    return 0 if summary["error_rate"] <= options.max_error_rate else 1


def make_parser() -> cli.Parser:
    """The parser of the program's own flags; Beam parses the rest."""
    from wsss.pipeline.preparation import PreparationOptions

    return cli.make_parser(
        PreparationOptions,
        prog="python -m wsss.prepare",
        description="Makes a collection of shards from images with labels. Images that cannot be used are "
        "counted and listed in errors.jsonl. Beam's own flags (--runner, …) may be added.",
    )


def _print_summary(output, summary):
    print(f"{'class':24s} images")
    for name, count in summary["classes"].items():
        print(f"{name:24s} {count:6d}" + ("  (no image shows it)" if not count else ""))
    for note in summary["notes"]:
        print(f"note: {note}")
    if summary.get("images_without_mask"):
        print(f"note: images without a mask, all of it unknown: {summary['images_without_mask']}")
    splits = ", ".join(f"{split} {count}" for split, count in summary["splits"].items())
    refused = ", ".join(f"{reason} {count}" for reason, count in summary["refused"].items())
    print(f"Wrote {summary['images']} images to {output}: {splits}.")
    if refused:
        print(f"Refused: {refused}; see {io.join(output, 'errors.jsonl')}.")


if __name__ == "__main__":
    sys.exit(main())
