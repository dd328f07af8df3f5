"""`python -m wsss.train`: trains a network on image tags; see `--help` and `wsss.training`."""

import sys

from wsss.common.errors import program


@program
def main(argv: list[str] | None = None) -> int:
    """Trains as the command line says.

    Returns:
        0; 1 where training was stopped early, with the last good weights; 130 after an interrupt.
    """
    from wsss.training.api import run_training
    from wsss.training.options import parse_options

    options = parse_options(argv)
    try:
        _, failure = run_training(options, announce=print)
    except KeyboardInterrupt:
        where = f" with {options.output}" if options.output else ""
        print(f"Interrupted; the same command resumes{where}.", file=sys.stderr)
        return 130
    if failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
