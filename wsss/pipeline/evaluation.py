"""Evaluation of masks or scores against true masks: mIoU, per-class IoU, the curve of all thresholds."""

import csv
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from typing import Any

import numpy as np
from tqdm import tqdm

from wsss.common import io
from wsss.common.constants import IGNORE
from wsss.common.errors import UserError
from wsss.common.file_names import file_name, image_id_of
from wsss.common.output_folder import OutputFolder, claim
from wsss.data.dataset import open_collection
from wsss.data.images import BadImage, decode_mask
from wsss.data.label_maps import files_by_id
from wsss.data.sources.folder import read_class_names
from wsss.data.sources.mask_coding import check_masks
from wsss.metrics import (
    THRESHOLDS,
    Counts,
    ThresholdSweep,
    confusion_matrix,
    counts_of,
    iou,
    mean_iou,
)
from wsss.pipeline.output import MASKS, LabelSettings, decode_scores

_OWNED = ("metrics.json", "classes.csv", "threshold_curve.csv", "threshold_curve.png")


@dataclass(frozen=True)
class Masks:
    """Masks or scores by image id.

    Attributes:
        by_id: image id -> a function without arguments that reads it: a mask, or `(scores, class_ids)`.
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


def open_masks(path: str, split: str = "train", scores_too: bool = False) -> Masks:
    """The `Masks` in a folder, in the output of the pipeline, or in a split of a collection.

    Args:
        path: folder, local or remote; of the pipeline's output, its masks are taken.
        split: of a collection, or `all`.
        scores_too: whether `.npz` scores are accepted.

    Raises:
        UserError: there is nothing of the kind.
    """
    if io.exists(io.join(path, "dataset_info.json")):
        return _collection_masks(path, split)
    if not io.is_remote(path) and not io.exists(path):  # a store knows no folders
        raise UserError(f"{path} does not exist. Name a folder of masks, of scores, or a collection.")
    if not io.is_remote(path) and os.path.isfile(path):
        raise UserError(f"{path} is a file. Name a folder of masks, of scores, or a collection.")
    settings = _read_settings(path)
    folder = io.join(path, MASKS) if settings else path
    found = {suffix: files_by_id(folder, suffix) for suffix in (".png", ".npz")}
    if found[".png"] or not scores_too:
        by_id = {image_id: _reader(file, decode_mask) for image_id, file in found[".png"].items()}
        return Masks(by_id, class_names=settings.class_names if settings else ())
    if not found[".npz"]:
        raise UserError(
            f"{path} holds no predictions: no ID.png, no ID.npz, no collection with masks. "
            "`wsss pseudo_labels` and `wsss predict` make some."
        )
    settings = settings or _read_settings(str(path).rstrip("/").rpartition("/")[0])
    by_id = {image_id: _reader(file, decode_scores) for image_id, file in found[".npz"].items()}
    return Masks(by_id, are_scores=True, class_names=settings.class_names if settings else ())


def class_names_of(truth: Masks, predictions: Masks, path: str = "") -> tuple[str, ...]:
    """The foreground classes: by a file with one name a line, else as either side knows them.

    Raises:
        UserError: neither side knows them, and there is no file.
    """
    names = read_class_names(path) if path else truth.class_names or predictions.class_names
    if not names:
        raise UserError(
            "Neither side says which classes there are: pass `--classes`, a file with one a line."
        )
    return tuple(names)


def evaluate(
    predictions: Masks,
    truth: Masks,
    classes: int,
    *,
    skip_missing: bool = False,
    background_threshold: float | None = None,
) -> Evaluation:
    """Counts predictions against the truth, image by image in one pass.

    An image without prediction counts as ignored predictions (255; scores: as background), unless skipped.

    Args:
        predictions: `Masks`.
        truth: `Masks` that are no scores.
        classes: number of classes with the background.
        skip_missing: whether images without a prediction are not counted.
        background_threshold: added to those of the sweep; None adds none.

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
    thresholds = _grid(background_threshold)
    sweep = ThresholdSweep(classes, thresholds) if predictions.are_scores else None
    confusion = None if predictions.are_scores else np.zeros((classes, classes + 1), np.int64)
    for image_id in tqdm(sorted(truth.by_id), unit="image", disable=None):
        if image_id not in predictions.by_id and skip_missing:
            continue
        try:
            true_mask = truth.by_id[image_id]()
            predicted = predictions.by_id[image_id]() if image_id in predictions.by_id else None
            if sweep is not None:
                scores, class_ids = predicted or (np.zeros((0, *true_mask.shape), np.float32), ())
                sweep.update(scores, class_ids, true_mask)
            else:
                predicted = np.full_like(true_mask, IGNORE) if predicted is None else predicted
                confusion += confusion_matrix(true_mask, predicted, classes)
        except (ValueError, OSError, KeyError) as error:
            raise UserError(f"Image {image_id}: {error}") from error
    return Evaluation(compared, missing, confusion, sweep)


def summarize(
    evaluation: Evaluation,
    names: Sequence[str],
    background_threshold: float | None = None,
    ignored_prediction: str = "wrong",
    absent: str = "zero",
) -> dict[str, Any]:
    """The metrics of an `Evaluation` as plain values, for JSON.

    Args:
        evaluation: `Evaluation`.
        names: of the classes, the background's first.
        background_threshold: of scores; None takes the best one.
        ignored_prediction: what predicted 255 counts as: `wrong`, `skip` or `background`.
        absent: how a class counts that is on neither side: `zero` or `skip`.
    """
    metrics: dict[str, Any] = {
        "images": {"compared": evaluation.compared, "missing": len(evaluation.missing)},
        "missing": list(evaluation.missing),
        "ignored_prediction_counts_as": ignored_prediction,
        "absent_class_counts_as": absent,
    }
    sweep, confusion = evaluation.sweep, evaluation.confusion
    if confusion is not None:
        counts, predicted = counts_of(confusion, ignored_prediction), confusion[:, :-1].sum()
        metrics["predicted_fraction_of_pixels"] = float(predicted / max(1, confusion.sum()))
    elif sweep is not None:
        all_counts, (best, best_miou) = sweep.counts(), sweep.best(absent)
        used = best if background_threshold is None else background_threshold
        counts = Counts(*(part[int(np.argmin(np.abs(sweep.thresholds - used)))] for part in all_counts))
        metrics["background_threshold"] = {
            "used": used,
            "tuned_on_these_images": background_threshold is None,
            "best": best,
            "best_miou": best_miou,
        }
        curve = mean_iou(all_counts, absent).tolist()
        metrics["sweep"] = {"thresholds": sweep.thresholds.tolist(), "miou": curve}
    each = iou(counts)
    metrics["miou"] = float(mean_iou(counts, absent))
    metrics["classes"] = {
        name: {
            "iou": None if np.isnan(each[index]) else float(each[index]),
            **{part: int(getattr(counts, part)[index]) for part in Counts._fields},
        }
        for index, name in enumerate(names)
    }
    return metrics


def _grid(background_threshold):
    """The thresholds of the sweep."""
    if background_threshold is None:
        return THRESHOLDS
    return np.union1d(THRESHOLDS, [background_threshold])


def _collection_masks(path, split):
    collection = open_collection(path)
    if not collection.has_masks:
        raise UserError(
            f"The collection {path} has no masks, without which nothing can be compared. Prepare it with "
            "true masks (`wsss prepare --masks DIR`), or name a folder of ID.png masks."
        )
    collection.check_ids(split)
    check_masks(collection)
    by_id = {}
    for record in itertools.chain.from_iterable(map(collection.read, collection.splits_in(split))):
        data = record.mask_bytes  # the photographs are not kept, and long ids are compared as files are named
        by_id[image_id_of(file_name(record.image_id))] = lambda data=data: decode_mask(data)
    return Masks(by_id, class_names=tuple(collection.class_names))


def _reader(path, decode):
    def read():
        try:
            return decode(io.read_bytes(path))
        except BadImage as error:
            raise UserError(f"{path}: {error}") from error

    return read


def _read_settings(folder: str) -> LabelSettings | None:
    """What the labels in a folder were made with, or None where it is no output of the pipeline."""
    path = io.join(folder, "options.json")
    return LabelSettings.from_json(io.read_json(path), path) if io.exists(path) else None


def claim_output(folder: str, inputs: Sequence[str], overwrite: bool = False) -> OutputFolder:
    """Checks that an evaluation may be written to a folder, which holds nothing else.

    Args:
        folder: local or remote.
        inputs: paths of predictions and truth.
        overwrite: whether an evaluation that is there is replaced.

    Raises:
        UserError: the folder is an input, or holds other files or a finished evaluation.
    """
    return claim(
        folder,
        "evaluation",
        owned=_OWNED,
        inputs=inputs,
        overwrite=overwrite,
        resumes=False,
        complete=_OWNED[0],
    )


def write_metrics(output: OutputFolder, metrics: Mapping[str, Any]) -> None:
    """Writes `metrics.json`, `classes.csv` and, of scores, the threshold curve as `.csv` and `.png`.

    Args:
        output: from `claim_output`.
        metrics: from `summarize`.
    """
    output.begin(clear=True)
    folder = output.work
    rows = [("class", "iou", *Counts._fields)]
    rows += [(name, *row.values()) for name, row in metrics["classes"].items()]
    io.write_text(io.join(folder, "classes.csv"), _csv(rows))
    if "sweep" in metrics:
        sweep = metrics["sweep"]
        points = list(zip(sweep["thresholds"], sweep["miou"], strict=True))
        io.write_text(io.join(folder, "threshold_curve.csv"), _csv([("threshold", "miou"), *points]))
        picture = plot_curve(sweep["thresholds"], sweep["miou"], metrics["background_threshold"]["used"])
        io.write_bytes(io.join(folder, "threshold_curve.png"), picture)
    io.write_json(io.join(folder, "metrics.json"), metrics)  # last: with it the evaluation is complete
    output.publish()


def plot_curve(thresholds: Sequence[float], miou: Sequence[float], used: float | None = None) -> bytes:
    """PNG bytes of mean IoU over the background threshold.

    Args:
        thresholds: of the background's score, ascending.
        miou: mean IoU at each, in [0, 1].
        used: the threshold of the masks, or None.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    percent = [100 * value for value in miou]
    best = max(range(len(percent)), key=percent.__getitem__)
    axes.plot(thresholds, percent, color="#4878a8")
    axes.plot(thresholds[best], percent[best], "o", color="#4878a8")
    axes.annotate(
        f"best {percent[best]:.1f} at {thresholds[best]:.2f}",
        (thresholds[best], percent[best]),
        xytext=(0, 7),
        textcoords="offset points",
        ha="center",
    )
    axes.margins(y=0.15)
    if used is not None:
        axes.axvline(used, color="#c05020", linestyle="--", linewidth=1, label=f"used: {used:g}")
        axes.legend(frameon=False, loc="lower right")
    axes.set(xlabel="background threshold", ylabel="mean IoU, %")
    axes.spines[["top", "right"]].set_visible(False)
    stream = BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def _csv(rows):
    stream = StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
