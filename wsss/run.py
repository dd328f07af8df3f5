"""`python -m wsss.run`: from tagged images to a segmentation network in one command; see `wsss.project`."""

import sys

from wsss.common import cli
from wsss.common.errors import program


@program
def main(argv: list[str] | None = None) -> int:
    """Trains, labels and trains again; returns 130 after an interrupt."""
    from wsss.project import ProjectOptions, carry_out_project

    options = ProjectOptions(**vars(make_parser().parse_args(argv)))
    try:
        result = carry_out_project(options, print)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on.", file=sys.stderr)
        return 130
    print(f"\nPseudo labels: {result.labels}{_percent(result.label_miou, 'train')}")
    print(f"Segmentation network: {result.segmentation}{_percent(result.val_miou, 'val')}")
    return 0


def make_parser() -> cli.Parser:
    """The parser of the flags."""
    from wsss.project import ProjectOptions

    return cli.make_parser(
        ProjectOptions,
        prog="python -m wsss.run",
        description="From tagged images to a segmentation network in one command, step by step.",
    )


def _percent(miou, split):
    return "" if miou is None else f" ({100 * miou:.1f} % mIoU on {split})"


if __name__ == "__main__":
    sys.exit(main())
