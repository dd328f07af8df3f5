"""`python -m wsss.demo`: the whole way on drawn scenes, from image tags to masks, in a few minutes.

Each step is one call of a program of this package, shown as the command that does the same.
"""

import dataclasses
import json
import shlex
import sys
import time

from wsss.common import cli, io
from wsss.common.errors import UserError, program
from wsss.common.output_folder import claim

MODELS = {
    "classifier": "plain classifier, the baseline: the same network on the classification loss alone",
    "seam": "SEAM: class activation maps that agree between two views of an image",
}


_enough = cli.Number(int, lambda value: value >= 40, "a whole number, at least 40: a batch and a split")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoOptions(cli.Options):
    """Options of `python -m wsss.demo`."""

    output: str = cli.option("demo", "folder for everything", metavar="DIR")
    num_images: int = cli.option(
        240, "scenes drawn, at least 40", kind=_enough, deprecated={"--images": None}
    )
    epochs: int = cli.option(
        0,
        "epochs of each of the two trainings; default: 20, as in the preset built_in",
        kind=cli.non_negative_int,
    )
    overwrite: bool = cli.option(False, "train and label again what --output holds from other options")


@program
def main(argv: list[str] | None = None) -> int:
    """Draws a collection, trains a classifier and SEAM on its tags, and makes masks with both."""
    options = DemoOptions(**vars(make_parser().parse_args(argv)))
    from wsss.pipeline.report.results import read_summary

    started = time.monotonic()
    claim(options.output, "demo", owned=("report.html",)).begin()
    data = io.join(options.output, "data")
    draw(data, options.num_images)
    miou = {}
    for model, title in MODELS.items():
        run, masks = io.join(options.output, model), io.join(options.output, f"{model}_masks")
        print(f"\nTrain: {title}.")
        code = train(data, run, model, options) or make_masks(run, masks, model, options.overwrite)
        if code:
            return code
        metrics = read_summary(masks)[1]
        miou[model] = metrics.miou if metrics else 0.0
    report = io.join(options.output, "report.html")
    io.copy(io.join(masks, "report.html"), report)
    print("\nmIoU of the masks, training images, true tags given, no refinement:")
    print(f"  plain classifier  {100 * miou['classifier']:.1f} %")
    print(f"  SEAM              {100 * miou['seam']:.1f} %")
    print(f"Pictures: {report} ({time.monotonic() - started:.0f} s in all)")
    return 0


def make_parser() -> cli.Parser:
    """The parser of the flags."""
    return cli.make_parser(DemoOptions, prog="python -m wsss.demo", description=__doc__)


def draw(data: str, images: int) -> None:
    """Draws the collection, unless it is there.

    Raises:
        UserError: one with another number of scenes is there.
    """
    from wsss.data.dataset import open_collection
    from wsss.data.synthetic import write_synthetic_collection

    call = f"write_synthetic_collection({json.dumps(data)}, images={images})"  # the shell quotes it by '
    print("Draw scenes of textured objects, with tags and exact masks.")
    show([sys.executable, "-c", f"from wsss.data.synthetic import *; {call}"])
    if not io.exists(io.join(data, "dataset_info.json")):
        write_synthetic_collection(data, images=images)
    drawn = sum(open_collection(data).split_sizes.values())
    if drawn != images:
        raise UserError(f"{data} holds {drawn} scenes, not the {images} asked for. Name another --output.")


def train(data: str, run: str, model: str, options: DemoOptions) -> int:
    """Trains one model; returns the program's exit code."""
    from wsss import train

    arguments = ["--preset", "built_in", "--data", data, "--model", model, "--output", run]
    if options.epochs:
        arguments += ["--epochs", str(options.epochs)]
    if options.overwrite:
        arguments += ["--overwrite"]
    show(["python", "-m", "wsss.train", *arguments])
    return train.main(arguments)


def make_masks(run: str, masks: str, model: str, overwrite: bool) -> int:
    """Makes masks of the training images with a trained model; returns the program's exit code."""
    from wsss import pseudo_labels

    last = io.read_json(io.join(run, "result.json"))["last_epoch"]
    arguments = ["--model", run, "--split", "train", "--output", masks, "--scales", "1,2"]
    arguments += ["--cam", "cam" if model == "classifier" else "refined_cam"]
    arguments += ["--background_threshold", last["val_best_threshold"]]
    if overwrite:
        arguments += ["--overwrite"]
    print("Make masks, at the background threshold that was best on the validation split.")
    show(["python", "pipelines/pseudo_labels.py", *arguments])
    return pseudo_labels.main(arguments)


def show(command: list[str]) -> None:
    """Prints the command that does the same."""
    print("$", shlex.join(["python" if word == sys.executable else word for word in command]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
