"""How good masks and classifiers are: counts pooled over a collection, in 64-bit integers; NumPy only.

Counts add up: a collection may be counted in parts, in any order, on any number of machines.
"""

import functools
from typing import NamedTuple

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


def confusion_matrix(truth, prediction, classes):
    """Counts pixels by true and predicted label; pixels whose truth is 255 are left out.

    Args:
        truth: uint8, any shape: 0 background, 1..K class, 255 unknown.
        prediction: uint8, same shape; 255 = undecided.
        classes: number of classes with the background, K + 1.

    Returns:
        int64 `(classes, classes + 1)`: truth in rows, prediction in columns, the last column undecided.

    Raises:
        ValueError: shapes differ, or a label is neither a class nor 255.
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


def counts_of(confusion, undecided="wrong"):
    """`Counts` of a confusion matrix.

    Args:
        confusion: int64 `(classes, classes + 1)` from `confusion_matrix`.
        undecided: what predicted 255 counts as: `wrong` (predicted as no class), `skip` (as if the truth were
            unknown) or `background`.
    """
    decided, rest = confusion[:, :-1], confusion[:, -1]
    if undecided not in ("wrong", "skip", "background"):
        raise ValueError(f"`undecided` must be wrong, skip or background. Received: {undecided!r}.")
    if undecided == "background":
        decided = decided.copy()
        decided[:, 0] += rest
    truth = decided.sum(axis=1) + (rest if undecided == "wrong" else 0)
    return Counts(np.diagonal(decided).copy(), decided.sum(axis=0), truth)


def iou(counts):
    """Intersection over union of each class, float64 in [0, 1]; NaN for a class absent from both counts."""
    union = counts.predicted + counts.truth - counts.true_positives
    return np.divide(
        counts.true_positives, union, out=np.full(np.shape(union), np.nan, np.float64), where=union > 0
    )


def mean_iou(counts, absent="zero"):
    """Mean over the classes of their intersection over union.

    Args:
        counts: `Counts` whose last axis is the class.
        absent: a class absent from both counts is `zero` (as SEAM evaluates) or `skip`ped (as IRN does).
    """
    if absent not in ("zero", "skip"):
        raise ValueError(f"`absent` must be zero or skip. Received: {absent!r}.")
    each = iou(counts)
    if absent == "zero":
        return np.nan_to_num(each, nan=0.0).mean(axis=-1)
    known = np.isfinite(each).sum(axis=-1)
    return np.nan_to_num(each, nan=0.0).sum(axis=-1) / np.maximum(known, 1)


class ThresholdSweep:
    """Counts for every background threshold at once, in one pass over the pixels.

    At a pixel only the best class and its score matter: the class is predicted at the thresholds below the
    score, the background at the others. So a histogram over (class, number of thresholds below the score)
    holds all that is needed, and its cumulative sums are the counts of every threshold. Sweeps of parts of a
    collection add up with `+`.

    Args:
        classes: number of classes with the background, K + 1.
        thresholds: ascending floats; compared in float32.
    """

    def __init__(self, classes, thresholds=THRESHOLDS):
        self.classes = classes
        self.thresholds = np.asarray(thresholds, np.float64)
        if np.any(np.diff(self.thresholds) <= 0) or not self.thresholds.size:
            raise ValueError("`thresholds` must be ascending, at least one.")
        # Pixels by best class and number of thresholds below its score: [0] all, [1] those of that class,
        # and in row 0 of the latter those of the background, whatever their best class.
        self._histogram = np.zeros((2, classes, self.thresholds.size + 1), np.int64)
        self._truth = np.zeros(classes, np.int64)

    def update(self, scores, keys, truth):
        """Adds one image.

        Args:
            scores: float `(len(keys), height, width)`, of the classes that may be present.
            keys: 0-based class ids of the rows, in any order; of equal scores the smallest class wins.
            truth: uint8 `(height, width)`, 255 = unknown.

        Raises:
            ValueError: shapes differ, scores are not finite, or a label or a class id is out of range or
                given twice.
        """
        if len(scores) != len(keys) or (len(keys) and scores.shape[1:] != truth.shape):
            raise ValueError(
                f"`scores` must be (keys, height, width). Received: {scores.shape} for {len(keys)} keys and "
                f"a truth of shape {truth.shape}."
            )
        if len(set(keys)) != len(keys) or not all(0 <= key < self.classes - 1 for key in keys):
            raise ValueError(
                f"`keys` must be different class ids in 0..{self.classes - 2}. Received: {list(keys)}."
            )
        if truth.dtype != np.uint8:
            raise ValueError(f"The truth must be uint8. Received: {truth.dtype}.")
        scores = np.asarray(scores, np.float32).reshape(len(keys), truth.size)
        if not np.isfinite(scores).all():
            raise ValueError("`scores` must be finite.")
        labels = truth.reshape(-1)
        by_class = sorted((int(key), row) for row, key in enumerate(keys))  # ties go to the smallest
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

    def _rows_of_labels(self):
        """For each uint8 label where its counts begin."""
        rows = np.full(256, self.classes + 1, np.intp)
        rows[: self.classes] = np.arange(self.classes)
        rows[IGNORE] = self.classes
        return rows * (self.classes * (self.thresholds.size + 1))

    def _add_columns(self, scores, classes, cells):
        """Adds to `cells` for each pixel `best class * (thresholds + 1) + thresholds below its score`.

        `classes` are pairs of a class id and its row in `scores`.
        """
        width = self.thresholds.size + 1
        (first, row), *others = classes
        top = scores[row].copy()
        best = np.full(top.shape, (first + 1) * width, np.intp)
        for key, row in others:
            np.copyto(best, (key + 1) * width, where=scores[row] > top)
            np.maximum(top, scores[row], out=top)
        cells += best
        # A table tells how many thresholds lie below the small bucket of the score, a comparison the rest.
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
    def _buckets(self):
        """`(table, float32 thresholds)`; the table is None where two thresholds would share a bucket."""
        thresholds = self.thresholds.astype(np.float32)
        for count in (256, 1024, 4096):
            # the bucket of a threshold, computed just as that of a score: the order of numbers is kept
            places = (np.clip(thresholds, 0, 1) * np.float32(count)).astype(np.int32)
            if np.all(np.diff(places) > 0):
                table = np.searchsorted(places, np.arange(count + 2), side="left")
                return table, np.append(thresholds, np.float32(np.inf))
        return None, thresholds

    def __add__(self, other):
        if self.classes != other.classes or not np.array_equal(self.thresholds, other.thresholds):
            raise ValueError("Only sweeps of the same classes and thresholds add up.")
        total = ThresholdSweep(self.classes, self.thresholds)
        total._histogram = self._histogram + other._histogram
        total._truth = self._truth + other._truth
        return total

    def counts(self):
        """`Counts` of int64 arrays `(thresholds, classes)`."""
        # at threshold i a class is predicted where more than i thresholds lie below its score
        above = self._histogram[:, :, ::-1].cumsum(axis=2)[:, :, ::-1][:, :, 1:]
        predicted, correct = above[0].T.copy(), above[1].T.copy()
        predicted[:, 0] = 0
        predicted[:, 0] = self._truth.sum() - predicted.sum(axis=1)
        correct[:, 0] = self._truth[0] - correct[:, 0]
        return Counts(correct, predicted, np.broadcast_to(self._truth, correct.shape))

    def best(self, absent="zero"):
        """`(threshold, mean_iou)` with the highest mean IoU; the lowest such threshold."""
        values = mean_iou(self.counts(), absent)
        index = int(np.argmax(values))
        return float(self.thresholds[index]), float(values[index])

    def state(self):
        """The sweep as plain lists and numbers, for JSON; see `from_state`."""
        return {
            "thresholds": self.thresholds.tolist(),
            "histogram": self._histogram.tolist(),
            "truth": self._truth.tolist(),
        }

    @classmethod
    def from_state(cls, state):
        """The sweep that `state` described."""
        sweep = cls(len(state["truth"]), state["thresholds"])
        sweep._histogram = np.asarray(state["histogram"], np.int64)
        sweep._truth = np.asarray(state["truth"], np.int64)
        return sweep


def average_precision(scores, labels):
    """Area under the precision-recall curve of each class; equal scores are one step of the curve.

    Args:
        scores: float `(images, classes)`.
        labels: `(images, classes)`, 0 or 1.

    Returns:
        float64 `(classes,)`, in [0, 1]; NaN for a class that no image holds.
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
