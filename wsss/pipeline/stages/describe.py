"""The row of one image in `images.csv`: what its mask holds, and what is suspicious about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from wsss.common.constants import IGNORE
from wsss.common.schema import Fields
from wsss.pipeline.stages.refine import Background, ScoredImage

COLLAPSED, LOST = "collapsed", "class_lost"
# What is suspicious about a mask, in the order of the table.
FLAGS = {
    "failed": "no mask; the reason stands in errors.jsonl",
    "no_class": "no class is tagged, or predicted",
    "empty": "no pixel of a class, though one is tagged, or the classes are predicted",
    "single_value": "every pixel has the same class; there is no background",
    "class_missing": "a class of the image has no pixel, though another has",
    COLLAPSED: "the refinement left one value in the whole mask, where there were several before",
    LOST: "the refinement removed all pixels of a class",
}
_LEAST_COMPONENT = 0.001  # of the pixels of an image; smaller regions are noise


@dataclass(frozen=True)
class ImageRow:
    """What `images.csv` says about one image.

    Attributes:
        image_id: of the image.
        tags: its classes as tagged, 0-based; empty where no tags are known.
        tag_scores: the classifier's score of each, in [0, 1].
        predicted: the classes that the classifier scores `--label_threshold` at least.
        predicted_scores: its score of each.
        threshold: score of the background, or None where that is no constant.
        fractions: fraction of the pixels by mask value, 255 included; values that do not occur are left out.
        components: connected regions of one class that cover 0.1 % of the image at least.
        flags: names in `FLAGS`.
        changed: fraction of the pixels that the refinement gave another label; None without one.
        entropy: of the mask's labels in bits, before and after the refinement; empty without one.
        agreement: correlation of the CAMs of the image's views, mean over its classes; None of a single view.
        contrast: mean of the strongest class score in the foreground less that in the background.
        class_score: the classifier's mean score of the image's classes.
        iou: mean IoU of the mask over the values that it or the truth holds; None without truth.
        picture: why the report has a picture of it at hand, see `wsss.pipeline.stages.pictures`, or None.
    """

    image_id: str
    tags: tuple[int, ...] = ()
    tag_scores: tuple[float, ...] = ()
    predicted: tuple[int, ...] = ()
    predicted_scores: tuple[float, ...] = ()
    threshold: float | None = None
    fractions: tuple[tuple[int, float], ...] = ()
    components: int | None = None
    flags: tuple[str, ...] = ()
    changed: float | None = None
    entropy: tuple[float, ...] = ()
    agreement: float | None = None
    contrast: float | None = None
    class_score: float | None = None
    iou: float | None = None
    picture: str | None = None

    @property
    def foreground(self) -> float:
        """Fraction of the pixels that are of a class."""
        return round(sum(fraction for value, fraction in self.fractions if value not in (0, IGNORE)), 6)

    def to_json(self) -> dict[str, Any]:
        """Plain values, see `from_json`; what is unknown or empty is left out."""
        values = {name: value for name, value in vars(self).items() if value not in (None, ())}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, value: Any, path: str) -> "ImageRow":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, "Remove it: its shard is then labeled again.")
        try:
            fractions = tuple((int(label), float(part)) for label, part in fields.get("fractions", list, []))
        except (TypeError, ValueError) as error:
            raise fields.error("`fractions` must be pairs of a mask value and a number") from error
        return cls(
            image_id=fields.get("image_id", str),
            tags=tuple(map(int, fields.numbers("tags", ()))),
            tag_scores=fields.numbers("tag_scores", ()),
            predicted=tuple(map(int, fields.numbers("predicted", ()))),
            predicted_scores=fields.numbers("predicted_scores", ()),
            threshold=fields.get("threshold", float, None),
            fractions=fractions,
            components=fields.get("components", int, None),
            flags=fields.texts("flags", ()),
            changed=fields.get("changed", float, None),
            entropy=fields.numbers("entropy", ()),
            agreement=fields.get("agreement", float, None),
            contrast=fields.get("contrast", float, None),
            class_score=fields.get("class_score", float, None),
            iou=fields.get("iou", float, None),
            picture=fields.get("picture", str, None),
        )


@dataclass(frozen=True)
class DescribeSettings:
    """What a row depends on beside the image.

    Attributes:
        label_threshold: least classifier score of a predicted class.
        predicted: whether the classes of an image are those that the classifier predicts.
        background: the rule for the score of the background.
    """

    label_threshold: float
    predicted: bool
    background: Background


def describe_image(scored: ScoredImage, settings: DescribeSettings) -> ImageRow:
    """The `ImageRow` of one image.

    Args:
        scored: `ScoredImage` with a mask.
        settings: `DescribeSettings`.
    """
    mask, scores = scored.mask, scored.classifier_scores
    assert mask is not None  # the stages before give one
    tags = scored.input.record.labels
    predicted = tuple(np.flatnonzero(scores >= settings.label_threshold).tolist())
    threshold = settings.background.threshold_of(scored.scores)
    pixels = np.bincount(mask.ravel(), minlength=256)
    found = np.flatnonzero(pixels).tolist()
    flags = [*_flags(scored.class_ids, found, settings.predicted)]
    changed, entropy = None, ()
    if scored.unrefined is not None:
        before = scored.unrefined.mask
        flags += flags_of_refinement(before, mask)
        changed = round(float(np.mean(before != mask)), 6)
        entropy = _rounded([label_entropy(before), label_entropy(mask)])
    return ImageRow(
        scored.input.record.image_id,
        tags,
        _rounded(scores[list(tags)]),
        predicted,
        _rounded(scores[list(predicted)]),
        None if threshold is None else round(float(threshold), 4),
        tuple((value, round(int(pixels[value]) / mask.size, 6)) for value in found),
        count_components(mask),
        tuple(flags),
        changed,
        entropy,
        *_evidence(scored),
    )


def count_components(mask: np.ndarray) -> int:
    """Number of connected regions (4 neighbors) of one class that cover 0.1 % of the image at least.

    Args:
        mask: uint8 `(height, width)`: 0 background, 1..K class, 255 ignored.
    """
    count, least = 0, _LEAST_COMPONENT * mask.size
    for value in np.unique(mask):
        if value not in (0, IGNORE):
            regions, _ = ndimage.label(mask == value)
            count += int((np.bincount(regions.ravel())[1:] >= least).sum())
    return count


def _flags(class_ids, found, predicted):
    """Names of what is suspicious about a mask that holds the values `found`."""
    classes = {value - 1 for value in found} - {-1, IGNORE - 1}
    if not class_ids:
        yield "no_class"
    if not classes and (class_ids or predicted):
        yield "empty"
    if len(found) == 1 and classes:
        yield "single_value"
    if classes and not classes.issuperset(class_ids):
        yield "class_missing"


def label_entropy(mask: np.ndarray) -> float:
    """Entropy of the labels of a mask's pixels, in bits: 0 where all are alike."""
    counts = np.bincount(mask.ravel())
    probabilities = counts[counts > 0] / mask.size
    return max(0.0, float(-(probabilities * np.log2(probabilities)).sum()))


def flags_of_refinement(before: np.ndarray, after: np.ndarray) -> Iterator[str]:
    """Names of what is suspicious about a mask, against that without refinement."""
    labels, kept = set(np.unique(before).tolist()), set(np.unique(after).tolist())
    if len(kept) == 1 < len(labels):
        yield COLLAPSED
    if labels - kept - {0, IGNORE}:
        yield LOST


def score_contrast(strongest: np.ndarray, mask: np.ndarray) -> float | None:
    """Mean of the strongest class score in the foreground of a mask less that in the background.

    Args:
        strongest: float `(height, width)`.
        mask: uint8 `(height, width)`.

    Returns:
        The difference; 0 of a mask without background, None of one without foreground.
    """
    inside = np.isin(mask, (0, IGNORE), invert=True)
    if not inside.any():
        return None
    if inside.all():
        return 0.0
    return float(strongest[inside].mean(dtype=np.float64) - strongest[~inside].mean(dtype=np.float64))


def _evidence(scored):
    """`(agreement, contrast, class_score)` of a row."""
    if not scored.class_ids:
        return None, None, None
    contrast = score_contrast(scored.scores.max(axis=0), scored.mask)
    agreement = None if scored.agreement is None else scored.agreement.mean()
    class_score = scored.classifier_scores[list(scored.class_ids)].mean()
    return tuple(
        None if value is None else round(float(value), 4) for value in (agreement, contrast, class_score)
    )


def _rounded(values):
    return tuple(round(float(value), 4) for value in values)
