"""`wsss COMMAND`, the same as `python -m wsss.COMMAND`."""

import difflib
import importlib
import sys

from wsss import __version__
from wsss.common.errors import program

COMMANDS = {
    "prepare": "images with tags -> shards",
    "run": "shards -> a segmentation network, all steps in one",
    "train": "shards -> a trained model",
    "pseudo_labels": "a trained model and shards -> pseudo labels",
    "relabel": "stored scores -> masks with another threshold or refinement",
    "predict": "a trained model and a folder of images -> masks",
    "evaluate": "masks or scores against the truth",
    "export": "masks -> the formats of annotation tools and frameworks",
    "report": "one page about a folder of pseudo labels",
    "convert": "published weights -> a Keras file",
    "demo": "the whole way on drawn scenes, in minutes",
}


@program
def main(argv: list[str] | None = None) -> int:
    """Runs the command that the first argument names; returns its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("-h", "--help", "help"):
        print("usage: wsss COMMAND [FLAGS]\n\ncommands:")
        print("".join(f"  {command:<15}{text}\n" for command, text in COMMANDS.items()))
        print("`wsss COMMAND --help` lists the flags of a command.")
        return 0
    if name == "--version":
        print(f"wsss {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        remedy = f"Did you mean `{near[0]}`?" if near else f"Commands: {', '.join(COMMANDS)}."
        print(f"error: Unknown command `{name}`. {remedy}", file=sys.stderr)
        return 2
    return importlib.import_module(f"wsss.{name}").main(rest)


if __name__ == "__main__":
    sys.exit(main())
