"""Counts of a shard: images, failures, pixels of each class, and agreement with the true masks."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsss.metrics import THRESHOLDS, ThresholdSweep, confusion_matrix, counts_of, mean_iou
from wsss.pipeline.dead_letter import Failure
from wsss.pipeline.stages.refine import ScoredImage

_MICRO = 1_000_000
_MOST_COUNTS = 1 << 20  # in an array of a tally; of 255 classes there are 65,280


def _no_counts():
    return np.zeros(2, np.int64)


def _no_label_counts():
    return np.zeros(256, np.int64)


@dataclass(frozen=True)
class Tally:
    """Counts over some images. Everything is an integer: the order of addition does not change the sum.

    Attributes:
        images: number of images with a mask.
        failures: what went wrong with the others.
        class_pixels: int64 `(256,)`, pixels of each label in the masks.
        class_images: int64 `(256,)`, images in whose mask a label is found.
        present_scores: int64 `(2,)`: pairs of image and class that are labeled present, and the sum of the
            classifier's scores for them, in millionths.
        absent_scores: the same for those that are not.
        confusion: int64 `(classes, classes + 1)`, see `wsss.metrics.confusion_matrix`; None without truth.
        sweep: the `ThresholdSweep` of the scores; None as above.
        strongest: int64 `(thresholds + 1,)`, pixels by the number of `THRESHOLDS` below their strongest class
            score, of every fourth row and column; None in counts of version 0.1.0.
        image_bytes: sum of the sizes of the encoded images; 0 in counts of earlier versions.
    """

    images: int = 0
    failures: tuple[Failure, ...] = ()
    class_pixels: np.ndarray = field(default_factory=_no_label_counts)
    class_images: np.ndarray = field(default_factory=_no_label_counts)
    present_scores: np.ndarray = field(default_factory=_no_counts)
    absent_scores: np.ndarray = field(default_factory=_no_counts)
    confusion: np.ndarray | None = None
    sweep: ThresholdSweep | None = None
    strongest: np.ndarray | None = None
    image_bytes: int = 0

    def __add__(self, other):
        pairs = ((getattr(self, each.name), getattr(other, each.name)) for each in dataclasses.fields(self))
        return Tally(*(a if b is None else b if a is None else a + b for a, b in pairs))

    def state(self) -> dict[str, Any]:
        """The counts as plain values for JSON, see `from_state`; of arrays of zeros, what is not zero."""
        state = {each.name: _plain(getattr(self, each.name)) for each in dataclasses.fields(self)}
        state["failures"] = [failure._asdict() for failure in sorted(self.failures)]
        if self.sweep is not None:
            sweep = self.sweep.state()
            state["sweep"] = {**sweep, "histogram": _plain(np.asarray(sweep["histogram"], np.int64))}
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Tally":
        """The counts that `state` described, in this version or an earlier one."""
        values = {key: _counts(value) for key, value in state.items() if key not in ("failures", "sweep")}
        values["failures"] = tuple(Failure(**failure) for failure in state["failures"])
        sweep = state["sweep"]
        if sweep is not None:
            sweep = ThresholdSweep.from_state({**sweep, "histogram": _counts(sweep["histogram"])})
        values["sweep"] = sweep
        return cls(**values)


def tally_image(scored: ScoredImage, classes: int) -> Tally:
    """The `Tally` of one image.

    Args:
        scored: `ScoredImage` with a mask.
        classes: number of classes with the background.
    """
    mask = scored.mask
    assert mask is not None  # the stages before give one
    pixels = np.bincount(mask.ravel(), minlength=256).astype(np.int64)
    present = np.isin(np.arange(len(scored.classifier_scores)), scored.class_ids)
    confusion = sweep = None
    truth = scored.input.record.mask
    if truth is not None:
        confusion = confusion_matrix(truth, mask, classes)
        sweep = ThresholdSweep(classes)
        sweep.update(scored.scores, scored.class_ids, truth)
    return Tally(
        images=1,
        class_pixels=pixels,
        class_images=(pixels > 0).astype(np.int64),
        present_scores=_count_scores(scored.classifier_scores[present]),
        absent_scores=_count_scores(scored.classifier_scores[~present]),
        confusion=confusion,
        sweep=sweep,
        strongest=_count_strongest(scored.scores),
        image_bytes=len(scored.input.record.image_bytes),
    )


def iou_of_image(confusion: np.ndarray) -> float | None:
    """Mean IoU of one mask over the values that it or the truth holds; None where no truth is known.

    Args:
        confusion: int64 `(classes, classes + 1)`, of the image.
    """
    if not confusion.any():
        return None
    return round(float(mean_iou(counts_of(confusion), absent="skip")), 4)


def _count_strongest(scores):
    """Of every fourth row and column: it is a curve over the whole collection that is drawn of them."""
    part = scores[:, ::4, ::4]
    strongest = part.max(axis=0) if len(part) else np.zeros(part.shape[1:], np.float32)
    below = np.searchsorted(THRESHOLDS.astype(np.float32), strongest.ravel(), side="left")
    return np.bincount(below, minlength=len(THRESHOLDS) + 1).astype(np.int64)


def _count_scores(scores):
    return np.array([len(scores), np.round(scores.astype(np.float64) * _MICRO).sum()], np.int64)


def _plain(value):
    """An array as lists, or as its shape and what is not zero by flat position, where that is shorter."""
    if not isinstance(value, np.ndarray):
        return value
    places = np.flatnonzero(value)
    if 2 * len(places) >= value.size:
        return value.tolist()
    return {
        "shape": list(value.shape),
        "counts": dict(zip(map(str, places.tolist()), value.flat[places].tolist(), strict=True)),
    }


def _counts(value):
    if isinstance(value, list):
        return np.asarray(value, np.int64)
    if not isinstance(value, dict):
        return value
    shape, known = tuple(value["shape"]), value["counts"]
    if not isinstance(known, dict):
        raise TypeError(f"counts that are no object: {known!r:.40}")
    places, size = [int(place) for place in known], math.prod(shape)
    if size > _MOST_COUNTS or not all(0 <= place < size for place in places):
        raise ValueError(f"counts of shape {shape}, or outside of it")
    counts = np.zeros(size, np.int64)
    counts[places] = list(known.values())
    return counts.reshape(shape)
