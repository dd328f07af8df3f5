"""`python -m wsss.export LABELS --format FORMAT --output DIR`: masks for annotation tools and frameworks.

    python -m wsss.export labels --format coco --output coco
    python -m wsss.export labels --format voc --images photos --output voc

LABELS is the output of `wsss.pseudo_labels` or `wsss.predict`, or a collection with masks. The images are
those that were labeled; `--images` or `--data` names another place. `wsss.prepare` reads the formats back.
Beside the files of the format:

    summary.json    format, counts of images, splits and of what was left out
    files.txt       names of the files: others that lie among them are never removed
    errors.jsonl    one line for each image that was left out: id, stage, reason, detail, remedy
"""

from wsss.common import cli, io
from wsss.common.errors import program


@program
def main(argv: list[str] | None = None) -> int:
    """Writes masks and images in the format of another program."""
    from wsss.pipeline.export import ExportOptions, export

    options = cli.parse(ExportOptions, argv, prog="python -m wsss.export", description=main.__doc__)
    summary = export(options)
    splits = ", ".join(f"{split} {count}" for split, count in summary["splits"].items())
    print(f"Wrote {summary['images']} images to {options.output} as {options.format}: {splits}.")
    left_out = ", ".join(f"{reason} {count}" for reason, count in summary["left_out"].items())
    if left_out:
        print(f"Left out: {left_out}; see {io.join(options.output, 'errors.jsonl')}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
