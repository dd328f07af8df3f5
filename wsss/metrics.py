"""Metrics of masks and of classifiers: mIoU, its curve over background thresholds, average precision.

Counts are pooled over a collection in 64-bit integers and add up: parts of it may be counted in any order, on
any number of machines. NumPy only.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from wsss.common.constants import IGNORE

THRESHOLDS = np.arange(60) / 100
_CHUNK = 8192  # pixels that are counted at a time: their numbers stay in the nearest cache


class Counts(NamedTuple):
    """Pixels of each class, background first, where the truth is known.

    Attributes:
        true_positives: predicted as the class, and of the class.
        predicted: predicted as the class.
        truth: of the class.
    """

    true_positives: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """Counts pixels by true and predicted label; pixels whose truth is 255 are left out.

    Args:
        truth: uint8, any shape: 0 background, 1..K class, 255 unknown.
        prediction: uint8, same shape; 255 = ignored, no label is predicted.
        classes: number of classes with the background, K + 1.

    Returns:
        int64 `(classes, classes + 1)`: truth in rows, prediction in columns, ignored ones in the last column.

    Raises:
        ValueError: shapes differ, or a label is neither a class nor 255.

    Example:
        >>> truth = np.array([[0, 1], [1, 255]], np.uint8)  # the last pixel is left out
        >>> confusion_matrix(truth, np.array([[0, 1], [0, 1]], np.uint8), classes=2)
        array([[1, 0, 0],
               [1, 1, 0]])
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"Truth and prediction differ in shape: {truth.shape} and {prediction.shape}.")
    pairs = np.bincount((truth.ravel().astype(np.int32) << 8) | prediction.ravel(), minlength=1 << 16)
    pairs = pairs.reshape(256, 256).astype(np.int64)
    for name, labels in (("truth", pairs.sum(axis=1)), ("prediction", pairs.sum(axis=0))):
        if labels[classes:IGNORE].any():
            wrong = classes + int(labels[classes:IGNORE].argmax())
            raise ValueError(f"Label {wrong} in the {name}: must be 0..{classes - 1}, or {IGNORE}.")
    return np.concatenate([pairs[:classes, :classes], pairs[:classes, IGNORE:]], axis=1)


def counts_of(confusion: np.ndarray, ignored: str = "wrong") -> Counts:
    """`Counts` of a confusion matrix.

    Args:
        confusion: int64 `(classes, classes + 1)` from `confusion_matrix`.
        ignored: what predicted 255 counts as: `wrong` (predicted as no class), `skip` (as if the truth were
            unknown) or `background`.

    Raises:
        ValueError: `ignored` is none of these.
    """
    predicted, rest = confusion[:, :-1], confusion[:, -1]
    if ignored not in ("wrong", "skip", "background"):
        raise ValueError(f"`ignored` must be wrong, skip or background. Received: {ignored!r}.")
    if ignored == "background":
        predicted = predicted.copy()
        predicted[:, 0] += rest
    truth = predicted.sum(axis=1) + (rest if ignored == "wrong" else 0)
    return Counts(np.diagonal(predicted).copy(), predicted.sum(axis=0), truth)


def iou(counts: Counts) -> np.ndarray:
    """Intersection over union of each class, float64 in [0, 1]; NaN for a class absent from both counts."""
    union = counts.predicted + counts.truth - counts.true_positives
    return np.divide(
        counts.true_positives, union, out=np.full(np.shape(union), np.nan, np.float64), where=union > 0
    )


def mean_iou(counts: Counts, absent: str = "zero") -> Any:
    """Mean over the classes of their intersection over union, float64, one for each of the leading axes.

    Args:
        counts: `Counts` whose last axis is the class.
        absent: a class absent from both counts is `zero` (as SEAM evaluates) or `skip`ped (as IRN does).

    Example:
        >>> truth = np.array([[0, 1], [1, 255]], np.uint8)
        >>> confusion = confusion_matrix(truth, np.array([[0, 1], [0, 1]], np.uint8), classes=2)
        >>> float(mean_iou(counts_of(confusion)))  # one pixel of two, for both classes
        0.5
    """
    if absent not in ("zero", "skip"):
        raise ValueError(f"`absent` must be zero or skip. Received: {absent!r}.")
    each = iou(counts)
    if absent == "zero":
        return np.nan_to_num(each, nan=0.0).mean(axis=-1)
    known = np.isfinite(each).sum(axis=-1)
    return np.nan_to_num(each, nan=0.0).sum(axis=-1) / np.maximum(known, 1)


class ThresholdSweep:
    """mIoU at every background threshold, from one pass over the pixels of each image.

    At a pixel only the best class and its score matter: the class is predicted at the thresholds below the
    score, the background at the others. So a histogram over (class, number of thresholds below the score)
    holds all that is needed, and its cumulative sums are the counts of every threshold. Sweeps of parts of a
    collection add up with `+`.

    Args:
        classes: number of classes with the background, K + 1.
        thresholds: ascending floats; compared in float32.

    Example:
        >>> import numpy as np
        >>> from wsss.metrics import ThresholdSweep
        >>> sweep = ThresholdSweep(classes=3)
        >>> scores = np.array([[[0.9, 0.4, 0.1]]], np.float32)  # of class id 1, which masks call 2
        >>> sweep.update(scores, [1], truth=np.array([[2, 2, 0]], np.uint8))
        >>> sweep.best(absent="skip")
        (0.1, 1.0)
    """

    def __init__(self, classes: int, thresholds: Sequence[float] | np.ndarray = THRESHOLDS):
        self.classes = classes
        self.thresholds = np.asarray(thresholds, np.float64)
        if np.any(np.diff(self.thresholds) <= 0) or not self.thresholds.size:
            raise ValueError("`thresholds` must be ascending, at least one.")
        # Pixels by best class and number of thresholds below its score: [0] all, [1] those of that class,
        # and in row 0 of the latter those of the background, whatever their best class.
        self._histogram = np.zeros((2, classes, self.thresholds.size + 1), np.int64)
        self._truth = np.zeros(classes, np.int64)

    def update(self, scores: np.ndarray, class_ids: Sequence[int], truth: np.ndarray) -> None:
        """Adds one image.

        Args:
            scores: float `(len(class_ids), height, width)`, of the classes that may be present.
            class_ids: 0-based class ids of the rows, in any order; of equal scores the smallest class wins.
            truth: uint8 `(height, width)`, 255 = unknown.

        Raises:
            ValueError: shapes differ, scores are not finite, or a label or a class id is out of range or
                given twice.
        """
        count = len(class_ids)
        if len(scores) != count or (count and scores.shape[1:] != truth.shape):
            raise ValueError(
                f"`scores` must be (class ids, height, width). Received: {scores.shape} for {count} class "
                f"ids and a truth of shape {truth.shape}."
            )
        if len(set(class_ids)) != count or not all(0 <= each < self.classes - 1 for each in class_ids):
            raise ValueError(
                f"`class_ids` must be different integers in 0..{self.classes - 2}. "
                f"Received: {list(class_ids)}."
            )
        if truth.dtype != np.uint8:
            raise ValueError(f"The truth must be uint8. Received: {truth.dtype}.")
        scores = np.asarray(scores, np.float32).reshape(count, truth.size)
        if not np.isfinite(scores).all():
            raise ValueError("`scores` must be finite.")
        labels = truth.reshape(-1)
        by_class = sorted((int(each), row) for row, each in enumerate(class_ids))  # ties go to the smallest
        rows = self._rows_of_labels()
        cells = np.empty(labels.size, np.intp)
        for first in range(0, labels.size, _CHUNK):
            part = slice(first, first + _CHUNK)
            rows.take(labels[part], out=cells[part], mode="clip")
            if by_class:
                self._add_columns(scores[:, part], by_class, cells[part])
        classes, size = self.classes, self.classes * (self.thresholds.size + 1)
        counts = np.bincount(cells, minlength=(classes + 2) * size)
        # by truth (the classes, unknown, not a label), best class and number of thresholds below its score
        counts = counts.reshape(classes + 2, classes, -1)
        if counts[-1].any():
            wrong = truth[(truth >= classes) & (truth != IGNORE)].max()
            raise ValueError(f"Label {wrong} in the truth: must be 0..{classes - 1}, or {IGNORE}.")
        counts = counts[:classes]
        self._histogram[0] += counts.sum(axis=0)
        diagonal = counts[np.arange(1, classes), np.arange(1, classes)]
        self._histogram[1, 1:] += diagonal
        self._histogram[1, 0] += counts[0].sum(axis=0)
        self._truth += counts.sum(axis=(1, 2))

    def _rows_of_labels(self) -> np.ndarray:
        """For each uint8 label where its counts begin."""
        rows = np.full(256, self.classes + 1, np.intp)
        rows[: self.classes] = np.arange(self.classes)
        rows[IGNORE] = self.classes
        return rows * (self.classes * (self.thresholds.size + 1))

    def _add_columns(self, scores: np.ndarray, by_class: list[tuple[int, int]], cells: np.ndarray) -> None:
        """Adds to `cells` for each pixel `best class * (thresholds + 1) + thresholds below its score`.

        `by_class` are pairs of a class id and its row in `scores`, ascending.
        """
        width = self.thresholds.size + 1
        (first, row), *others = by_class
        top = scores[row].copy()
        best = np.full(top.shape, (first + 1) * width, np.intp)
        for class_id, row in others:
            np.copyto(best, (class_id + 1) * width, where=scores[row] > top)
            np.maximum(top, scores[row], out=top)
        cells += best
        # A table holds how many thresholds lie below the small bucket of the score, a comparison the rest.
        table, thresholds = self._buckets
        if table is None:
            cells += np.searchsorted(thresholds, top, side="left")
            return
        buckets = np.clip(top, 0, 1)
        buckets *= len(table) - 2
        below = table.take(buckets.astype(np.intp), mode="clip")
        cells += below
        cells += top > thresholds.take(below, mode="clip")

    @functools.cached_property
    def _buckets(self) -> tuple[np.ndarray | None, np.ndarray]:
        """`(table, float32 thresholds)`; no table where two thresholds would lie in one bucket."""
        thresholds = self.thresholds.astype(np.float32)
        for count in (256, 1024, 4096):
            # the bucket of a threshold, computed just as that of a score: the order of numbers is kept
            places = (np.clip(thresholds, 0, 1) * np.float32(count)).astype(np.int32)
            if np.all(np.diff(places) > 0):
                table = np.searchsorted(places, np.arange(count + 2), side="left")
                return table, np.append(thresholds, np.float32(np.inf))
        return None, thresholds

    def __add__(self, other: "ThresholdSweep") -> "ThresholdSweep":
        if self.classes != other.classes or not np.array_equal(self.thresholds, other.thresholds):
            raise ValueError("Only sweeps of the same classes and thresholds add up.")
        total = ThresholdSweep(self.classes, self.thresholds)
        total._histogram = self._histogram + other._histogram
        total._truth = self._truth + other._truth
        return total

    def counts(self) -> Counts:
        """`Counts` of int64 arrays `(thresholds, classes)`."""
        # at threshold i a class is predicted where more than i thresholds lie below its score
        above = self._histogram[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]
        predicted, correct = above[0].T.copy(), above[1].T.copy()
        predicted[:, 0] = 0
        predicted[:, 0] = self._truth.sum() - predicted.sum(axis=1)
        correct[:, 0] = self._truth[0] - correct[:, 0]
        return Counts(correct, predicted, np.broadcast_to(self._truth, correct.shape))

    def best(self, absent: str = "zero") -> tuple[float, float]:
        """`(threshold, mean_iou)` with the highest mean IoU; the lowest such threshold."""
        values = mean_iou(self.counts(), absent)
        index = int(np.argmax(values))
        return float(self.thresholds[index]), float(values[index])

    def state(self) -> dict[str, Any]:
        """The sweep as plain lists and numbers, for JSON; see `from_state`."""
        return {
            "thresholds": self.thresholds.tolist(),
            "histogram": self._histogram.tolist(),
            "truth": self._truth.tolist(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "ThresholdSweep":
        """The sweep whose `state` was saved."""
        sweep = cls(len(state["truth"]), state["thresholds"])
        sweep._histogram = np.asarray(state["histogram"], np.int64)
        sweep._truth = np.asarray(state["truth"], np.int64)
        return sweep


def average_precision(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve of each class; equal scores are one step of the curve.

    Args:
        scores: float `(images, classes)`.
        labels: `(images, classes)`, 0 or 1.

    Returns:
        float64 `(classes,)`, in [0, 1]; NaN for a class that no image holds.

    Example:
        >>> scores = np.array([[0.9, 0.2], [0.8, 0.3], [0.1, 0.4]])
        >>> average_precision(scores, np.array([[1, 0], [0, 0], [1, 0]])).round(3)
        array([0.833,   nan])
    """
    result = np.full(scores.shape[1], np.nan)
    for index in range(scores.shape[1]):
        order = np.argsort(-scores[:, index], kind="stable")
        hits = np.asarray(labels)[order, index] > 0
        if not hits.any():
            continue
        last_of_ties = np.append(np.diff(scores[order, index]) != 0, True)
        found = np.cumsum(hits)[last_of_ties]
        precision = found / (np.flatnonzero(last_of_ties) + 1)
        result[index] = np.sum(precision * np.diff(found, prepend=0)) / hits.sum()
    return result
