"""Masks or scores against true masks: mIoU, a table of the classes, the curve of all background thresholds.

python -m wsss.evaluate --predictions labels --truth shards --split train
python -m wsss.evaluate --predictions labels/scores --truth masks --output evaluation
"""

from dataclasses import dataclass

from wsss.common import cli
from wsss.common.errors import UserError, program

IGNORED_PREDICTION = ("wrong", "skip", "background")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(cli.Options):
    """Options of `python -m wsss.evaluate`."""

    predictions: str = cli.option(
        cli.REQUIRED,
        "output of pseudo_labels.py, a folder of ID.png masks or of ID.npz scores, or a collection",
        metavar="DIR",
    )
    truth: str = cli.option(cli.REQUIRED, "folder of ID.png masks, or a collection with masks", metavar="DIR")
    split: str = cli.option("train", "split of a collection, or all")
    classes: str = cli.option(
        "", "text file, a foreground class a line; default: as the collection says", metavar="FILE"
    )
    background_threshold: float | None = cli.option(
        None,
        "of scores: score of the background, in [0, 1]; default: the best",
        kind=cli.unit_interval,
        deprecated={"--threshold": None},
    )
    ignored_prediction: str = cli.option(
        "wrong",
        "what a predicted 255 counts as",
        choices=IGNORED_PREDICTION,
        deprecated={"--undecided": None},
    )
    absent: str = cli.option(
        "zero",
        "a class in neither truth nor prediction is zero in the mean (as in SEAM) or skipped (as in IRN)",
        choices=("zero", "skip"),
    )
    skip_missing: bool = cli.option(
        False,
        "skip images without a prediction; default: all their pixels are ignored predictions",
        deprecated={"--leave_out_missing": True},
    )
    output: str = cli.option(
        "", "folder for metrics.json, classes.csv, threshold_curve.csv and .png", metavar="DIR"
    )
    overwrite: bool = cli.option(False, "replace the evaluation in --output, once the new one is complete")


@program
def main(argv: list[str] | None = None) -> int:
    """Compares predictions with the truth, prints the metrics and writes them where `--output` says."""
    options = EvaluationOptions(**vars(make_parser().parse_args(argv)))
    from wsss.pipeline.evaluation import (
        claim_output,
        class_names_of,
        evaluate,
        open_masks,
        summarize,
        write_metrics,
    )

    output = None
    if options.output:
        output = claim_output(options.output, (options.predictions, options.truth), options.overwrite)
    truth = open_masks(options.truth, options.split)
    predictions = open_masks(options.predictions, options.split, scores_too=True)
    if not truth.by_id:
        raise UserError(
            f"`--truth` {options.truth} holds no masks: neither ID.png nor a collection with masks."
        )
    names = ("background", *class_names_of(truth, predictions, options.classes))
    evaluation = evaluate(
        predictions,
        truth,
        len(names),
        skip_missing=options.skip_missing,
        background_threshold=options.background_threshold,
    )
    metrics = summarize(
        evaluation, names, options.background_threshold, options.ignored_prediction, options.absent
    )
    _print_metrics(metrics)
    if output:
        write_metrics(output, metrics)
    return 0


def make_parser() -> cli.Parser:
    """The program's parser."""
    return cli.make_parser(EvaluationOptions, prog="python -m wsss.evaluate", description=main.__doc__)


def _print_metrics(metrics):
    width = max(len(name) for name in metrics["classes"])
    print(f"{'class':{width}}  IoU, %  true pixels")
    for name, row in metrics["classes"].items():
        value = "–" if row["iou"] is None else f"{100 * row['iou']:.1f}"
        print(f"{name:{width}}  {value:>6}  {row['truth']:>11}")
    print(f"{'mean':{width}}  {100 * metrics['miou']:>6.1f}")
    images = metrics["images"]
    print(f"{images['compared']} images, {images['missing']} without prediction", end="")
    if "sweep" in metrics:
        threshold = metrics["background_threshold"]
        origin = "the best one on these very images" if threshold["tuned_on_these_images"] else "as given"
        print(f"; background threshold {threshold['used']:.2f}, {origin}")
    else:
        percent = 100 * metrics["predicted_fraction_of_pixels"]
        rule = metrics["ignored_prediction_counts_as"]
        print(f"; {percent:.2f} % of the pixels predicted, the ignored ones count as {rule}")


if __name__ == "__main__":
    raise SystemExit(main())
