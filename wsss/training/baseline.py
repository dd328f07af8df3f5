"""What a network reaches without looking at the images: the mark that a learning one must pass."""

import dataclasses
import itertools
from typing import ClassVar

import numpy as np

from wsss.common.constants import IGNORE
from wsss.data.dataset import Collection
from wsss.data.images import BadImage

# Part of the way from chance to perfect that the mean average precision must have come.
_LEAST_PROGRESS = 0.05


@dataclasses.dataclass(frozen=True)
class ConstantScores:
    """The best constant scores of a collection, the frequencies of its tags.

    Attributes:
        loss: their binary cross-entropy, mean over the classes.
        average_precision: mean average precision of scores that do not depend on the image.
        logits: log-odds of the frequency of each class, which is bounded by half an image from 0 and 1.
        same_tags: classes that every image has, where no image has any other; empty where tags differ.
    """

    LOSS: ClassVar[str] = "classification_loss"  # the metric that is compared

    loss: float
    average_precision: float
    same_tags: tuple[str, ...] = ()
    logits: tuple[float, ...] = ()

    def find_problem(self, loss: float, average_precision: float | None) -> str | None:
        """Why a classifier of this loss and precision has not learned, in one line; None if it has.

        Args:
            loss: binary cross-entropy, mean over images and classes.
            average_precision: in [0, 1], mean over the classes, or None where it was not measured.
        """
        if not loss < self.loss:
            return f"the classification loss {loss:.3g} is not below {self.loss:.3g}, that of constant scores"
        least = self.average_precision + _LEAST_PROGRESS * (1 - self.average_precision)
        if average_precision is not None and average_precision < least:
            return f"val_map {average_precision:.3g} is at chance, {self.average_precision:.3g}"
        return None


def constant_scores(collection: Collection, split: str, limit: int = 1000) -> ConstantScores:
    """The baseline of a split, from the tags of its first images.

    Args:
        collection: `Collection`.
        split: name of the split.
        limit: images whose tags are read, at most.
    """
    records = itertools.islice(collection.read(split), limit)
    classes = np.arange(len(collection.class_names))
    tags = np.array([np.isin(classes, record.labels) for record in records], np.float64)
    frequency = tags.mean(axis=0)
    inside = np.clip(frequency, 1e-7, 1 - 1e-7)
    entropy = -(inside * np.log(inside) + (1 - inside) * np.log(1 - inside))
    bounded = np.clip(frequency, 0.5 / len(tags), 1 - 0.5 / len(tags))
    present = frequency[frequency > 0]
    everywhere = [name for name, part in zip(collection.class_names, frequency, strict=True) if part == 1]
    return ConstantScores(
        float(entropy.mean()),
        float(present.mean()) if len(present) else 0.0,
        tuple(everywhere) if len(everywhere) == len(present) else (),
        tuple((np.log(bounded) - np.log1p(-bounded)).tolist()),
    )


@dataclasses.dataclass(frozen=True)
class ConstantLabels:
    """The best constant class probabilities of pixels, the frequencies of the labels.

    Attributes:
        loss: their cross-entropy, mean over the labeled pixels.
    """

    LOSS: ClassVar[str] = "segmentation_loss"

    loss: float

    def find_problem(self, loss: float, average_precision: float | None = None) -> str | None:
        """Why a segmentation network of this loss has not learned, in one line; None if it has.

        Args:
            loss: cross-entropy, mean over the labeled pixels.
            average_precision: not used.
        """
        if loss < self.loss:
            return None
        return f"the segmentation loss {loss:.3g} is not below {self.loss:.3g}, that of constant labels"


def constant_labels(collection: Collection, split: str, limit: int = 200) -> ConstantLabels | None:
    """The baseline of a split, from the label maps of its first images; None where these hold one label only.

    Args:
        collection: `Collection` with masks or label maps.
        split: name of the split.
        limit: images whose label maps are read, at most.
    """
    counts = np.zeros(256, np.int64)
    for record in itertools.islice(collection.read(split), limit):
        try:
            maps = collection.label_maps
            label_map = record.mask if maps is None else maps.read(record.image_id)
        except BadImage:  # is skipped, and named, in training
            continue
        if label_map is not None:
            counts += np.bincount(label_map.ravel(), minlength=256)
    counts = counts[:IGNORE][counts[:IGNORE] > 0]
    if len(counts) < 2:
        return None
    frequency = counts / counts.sum()
    return ConstantLabels(float(-(frequency * np.log(frequency)).sum()))
