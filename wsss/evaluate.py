"""Masks or scores against true masks: mIoU, a table of the classes, the curve of all background thresholds.

python -m wsss.evaluate --predictions labels --truth shards --split train
python -m wsss.evaluate --predictions labels/scores --truth masks --output evaluation
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import StringIO

import numpy as np
from tqdm import tqdm

from wsss.common import cli, io
from wsss.common.constants import IGNORE
from wsss.common.errors import UserError, program
from wsss.data.dataset import open_collection
from wsss.data.images import BadImage, decode_mask
from wsss.data.sources.folder import read_class_names
from wsss.metrics import (
    THRESHOLDS,
    Counts,
    ThresholdSweep,
    confusion_matrix,
    counts_of,
    iou,
    mean_iou,
)
from wsss.pipeline.output import decode_scores, image_id_of

IGNORED_PREDICTION = ("wrong", "skip", "background")


@dataclass(frozen=True)
class Masks:
    """Masks or scores by image id.

    Attributes:
        by_id: image id -> a function without arguments that reads it: a mask, or `(scores, keys)`.
        are_scores: whether they are scores.
        class_names: the foreground classes, empty where not known.
    """

    by_id: Mapping[str, Callable]
    are_scores: bool = False
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """Counts over the images whose truth is known.

    Attributes:
        compared: number of images with a prediction.
        missing: ids of the images without.
        confusion: int64 `(classes, classes + 1)` of masks, else None.
        sweep: `ThresholdSweep` of scores, else None.
    """

    compared: int
    missing: tuple[str, ...]
    confusion: np.ndarray | None
    sweep: ThresholdSweep | None


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """What `python -m wsss.evaluate` can be told."""

    predictions: str = cli.option(
        cli.REQUIRED,
        "output of pseudo_labels.py, a folder of ID.png masks or of ID.npz scores, or a collection",
    )
    truth: str = cli.option(cli.REQUIRED, "folder of ID.png masks, or a collection with masks")
    split: str = cli.option("train", "split of a collection")
    classes: str = cli.option("", "text file, a foreground class a line; default: as the collection says")
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
    output: str = cli.option("", "folder for metrics.json, classes.csv, threshold_curve.csv and .png")


@program
def main(argv=None):
    """Compares predictions with the truth, prints the figures and writes them where `--output` says."""
    options = Options(**vars(make_parser().parse_args(argv)))
    truth = open_masks(options.truth, options.split)
    predictions = open_masks(options.predictions, options.split, scores_too=True)
    if truth.are_scores or not truth.by_id:
        raise UserError(
            f"`--truth` {options.truth} holds no masks: neither ID.png nor a collection with masks."
        )
    names = ("background", *_class_names(options.classes, truth, predictions))
    evaluation = evaluate(
        predictions, truth, len(names), leave_out_missing=options.skip_missing, thresholds=_grid(options)
    )
    figures = make_figures(
        evaluation, names, options.background_threshold, options.ignored_prediction, options.absent
    )
    _print_figures(figures)
    if options.output:
        _write_figures(options.output, figures)
    return 0


def make_parser():
    """The program's parser."""
    return cli.make_parser(Options, prog="python -m wsss.evaluate", description=main.__doc__)


def open_masks(path, split="train", scores_too=False):
    """The `Masks` in a folder, in the output of the pipeline, or in a split of a collection.

    Args:
        path: folder, local or remote; of the pipeline's output, its masks are taken.
        split: of a collection.
        scores_too: whether `.npz` scores are accepted.

    Raises:
        UserError: there is nothing of the kind.
    """
    if io.exists(io.join(path, "dataset_info.json")):
        return _collection_masks(path, split)
    if not io.is_remote(path) and not io.exists(path):  # a store knows no folders
        raise UserError(f"There is no folder {path}.")
    settings = _settings(path)
    folder = io.join(path, "masks") if settings else path
    found = {suffix: _by_id(folder, suffix) for suffix in (".png", ".npz")}
    if found[".png"] or not scores_too:
        by_id = {image_id: _reader(file, decode_mask) for image_id, file in found[".png"].items()}
        return Masks(by_id, class_names=tuple(settings.get("class_names", ())))
    if not found[".npz"]:
        raise UserError(f"{path} holds no predictions: no ID.png, no ID.npz, no collection.")
    settings = settings or _settings(str(path).rstrip("/").rpartition("/")[0])
    by_id = {image_id: _reader(file, decode_scores) for image_id, file in found[".npz"].items()}
    return Masks(by_id, are_scores=True, class_names=tuple(settings.get("class_names", ())))


def evaluate(predictions, truth, classes, *, leave_out_missing=False, thresholds=THRESHOLDS):
    """Counts predictions against the truth, image by image in one pass.

    An image without prediction counts as undecided at every pixel (scores: as background), unless left out.

    Args:
        predictions: `Masks`.
        truth: `Masks` that are no scores.
        classes: number of classes with the background.
        leave_out_missing: whether images without prediction are not counted.
        thresholds: of the sweep over scores.

    Returns:
        `Evaluation`.

    Raises:
        UserError: no image is on both sides, or one pair does not fit together.
    """
    missing = tuple(sorted(set(truth.by_id) - set(predictions.by_id)))
    compared = len(truth.by_id) - len(missing)
    if not compared:
        raise UserError(
            f"No image has both a prediction and a truth, such as {min(predictions.by_id, default='(none)')} "
            f"and {min(truth.by_id)}."
        )
    sweep = ThresholdSweep(classes, thresholds) if predictions.are_scores else None
    confusion = None if predictions.are_scores else np.zeros((classes, classes + 1), np.int64)
    for image_id in tqdm(sorted(truth.by_id), unit="image", disable=None):
        if image_id not in predictions.by_id and leave_out_missing:
            continue
        try:
            true_mask = truth.by_id[image_id]()
            predicted = predictions.by_id[image_id]() if image_id in predictions.by_id else None
            if sweep is not None:
                sweep.update(*(predicted or (np.zeros((0, *true_mask.shape), np.float32), ())), true_mask)
            else:
                predicted = np.full_like(true_mask, IGNORE) if predicted is None else predicted
                confusion += confusion_matrix(true_mask, predicted, classes)
        except (ValueError, OSError, KeyError) as error:
            raise UserError(f"Image {image_id}: {error}") from error
    return Evaluation(compared, missing, confusion, sweep)


def make_figures(evaluation, names, threshold=None, undecided="wrong", absent="zero"):
    """The figures of an `Evaluation` as plain values, for JSON.

    Args:
        evaluation: `Evaluation`.
        names: of the classes, the background's first.
        threshold: of scores, the background's; None takes the best one.
        undecided: what predicted 255 counts as: `wrong`, `skip` or `background`.
        absent: how a class counts that is on neither side: `zero` or `skip`.
    """
    figures = {
        "images": {"compared": evaluation.compared, "missing": len(evaluation.missing)},
        "missing": list(evaluation.missing),
        "undecided_counts_as": undecided,
        "absent_class_counts_as": absent,
    }
    if evaluation.sweep is None:
        counts, decided = counts_of(evaluation.confusion, undecided), evaluation.confusion[:, :-1].sum()
        figures["decided_share_of_pixels"] = float(decided / max(1, evaluation.confusion.sum()))
    else:
        sweep = evaluation.sweep
        all_counts, (best, best_miou) = sweep.counts(), sweep.best(absent)
        used = best if threshold is None else threshold
        counts = Counts(*(part[int(np.argmin(np.abs(sweep.thresholds - used)))] for part in all_counts))
        figures["background_threshold"] = {
            "used": used,
            "tuned_on_these_images": threshold is None,
            "best": best,
            "best_miou": best_miou,
        }
        curve = mean_iou(all_counts, absent).tolist()
        figures["sweep"] = {"thresholds": sweep.thresholds.tolist(), "miou": curve}
    each = iou(counts)
    figures["miou"] = float(mean_iou(counts, absent))
    figures["classes"] = {
        name: {
            "iou": None if np.isnan(each[index]) else float(each[index]),
            **{part: int(getattr(counts, part)[index]) for part in Counts._fields},
        }
        for index, name in enumerate(names)
    }
    return figures


def _collection_masks(path, split):
    collection = open_collection(path)
    if not collection.has_masks:
        raise UserError(f"{path} has no masks.")
    by_id = {}
    for record in collection.read(split):
        data = record.mask_bytes  # the photographs are not kept
        by_id[record.image_id] = lambda data=data: decode_mask(data)
    return Masks(by_id, class_names=tuple(collection.class_names))


def _by_id(folder, suffix):
    """Image id -> path of the files with a suffix, in sub-folders too."""
    prefix = len(str(folder).rstrip("/")) + 1
    found = io.list_files(io.join(io.escape(folder), "**"))
    return {image_id_of(path[prefix : -len(suffix)]): path for path in found if path.endswith(suffix)}


def _reader(path, decode):
    def read():
        try:
            return decode(io.read_bytes(path))
        except BadImage as error:
            raise UserError(f"{path}: {error}") from error

    return read


def _settings(folder):
    path = io.join(folder, "options.json")
    return io.read_json(path) if io.exists(path) else {}


def _class_names(path, truth, predictions):
    if path:
        return read_class_names(path)
    names = truth.class_names or predictions.class_names
    if not names:
        raise UserError(
            "Neither side says which classes there are: pass `--classes`, a file with one a line."
        )
    return names


def _grid(options):
    used = options.background_threshold
    return THRESHOLDS if used is None else np.union1d(THRESHOLDS, [used])


def _print_figures(figures):
    width = max(len(name) for name in figures["classes"])
    print(f"{'class':{width}}  IoU, %  true pixels")
    for name, row in figures["classes"].items():
        value = "–" if row["iou"] is None else f"{100 * row['iou']:.1f}"
        print(f"{name:{width}}  {value:>6}  {row['truth']:>11}")
    print(f"{'mean':{width}}  {100 * figures['miou']:>6.1f}")
    images = figures["images"]
    print(f"{images['compared']} images, {images['missing']} without prediction", end="")
    if "sweep" in figures:
        threshold = figures["background_threshold"]
        origin = "the best one on these very images" if threshold["tuned_on_these_images"] else "as given"
        print(f"; background threshold {threshold['used']:.2f}, {origin}")
    else:
        share = 100 * figures["decided_share_of_pixels"]
        print(f"; {share:.2f} % of the pixels decided, the others count as {figures['undecided_counts_as']}")


def _write_figures(folder, figures):
    io.write_json(io.join(folder, "metrics.json"), figures)
    rows = [("class", "iou", *Counts._fields)]
    rows += [(name, *row.values()) for name, row in figures["classes"].items()]
    io.write_text(io.join(folder, "classes.csv"), _csv(rows))
    if "sweep" in figures:
        from wsss.report import plot_curve

        sweep = figures["sweep"]
        points = list(zip(sweep["thresholds"], sweep["miou"], strict=True))
        io.write_text(io.join(folder, "threshold_curve.csv"), _csv([("threshold", "miou"), *points]))
        picture = plot_curve(sweep["thresholds"], sweep["miou"], figures["background_threshold"]["used"])
        io.write_bytes(io.join(folder, "threshold_curve.png"), picture)


def _csv(rows):
    stream = StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


if __name__ == "__main__":
    raise SystemExit(main())
