"""From seeds to masks: one thin PTransform a stage around a pure function on one image."""

from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam
import numpy as np

from wsss.seeds import background_scores, mask_from_scores, merge_scales, normalize_scores
from wsss.transforms.failures import FAILURES, Failure, reason
from wsss.transforms.read import Item


class Scored(NamedTuple):
    """What is known about each pixel of one image, at the image's own size.

    Attributes:
        item: the image.
        keys: the classes of `scores`, 0-based, ascending.
        scores: float32 `(len(keys), height, width)` in [0, 1].
        classifier_scores: float32 `(classes,)`.
        refined: float32 `(1 + len(keys), height, width)`, background first, or None before a stage that
            refines background and classes together.
        mask: uint8 `(height, width)`, or None before there is one.
    """

    item: Item
    keys: tuple[int, ...]
    scores: np.ndarray
    classifier_scores: np.ndarray
    refined: np.ndarray | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Background:
    """The rule for the score of the background: a constant or a power, see `wsss.seeds.background_scores`."""

    threshold: float | None = None
    alpha: float | None = None

    def __call__(self, scores):
        return background_scores(scores, self.threshold, self.alpha)


class MergeScales(beam.PTransform):
    """`Seed`s to `Scored`s: the maps of all scales at the size of the image, summed and normalised."""

    def expand(self, seeds):
        return seeds | guarded("refine", _merge_scales)


class LabelPixels(beam.PTransform):
    """Gives each `Scored` its mask, the label of the highest score at each pixel."""

    def __init__(self, background):
        super().__init__()
        self._background = background

    def expand(self, scored):
        return scored | guarded("refine", _label_pixels, self._background)


def guarded(stage, function, *args):
    """Maps elements to `function(element, *args)` (main tag `results`); one that raises becomes a `Failure`.

    Args:
        stage: what `Failure`s name as their stage.
        function: module-level function on an element that has an `item`.
        *args: its further arguments.
    """
    return beam.ParDo(_Guarded(stage, function, args)).with_outputs(FAILURES, main="results")


class _Guarded(beam.DoFn):
    def __init__(self, stage, function, args):
        self._stage, self._function, self._args = stage, function, args

    def process(self, element):
        try:
            yield self._function(element, *self._args)
        except Exception as error:  # a pure function on one image: whatever it raises is about the image
            item = element.item
            failure = Failure(item.shard, item.record.image_id, self._stage, reason(error))
            yield beam.pvalue.TaggedOutput(FAILURES, failure)


def _merge_scales(seed):
    size = (seed.item.record.height, seed.item.record.width)
    scores = normalize_scores(merge_scales(seed.cams, seed.scaled_sizes, size))
    return Scored(seed.item, seed.keys, scores, seed.scores)


def _label_pixels(scored, background):
    if scored.refined is None:
        return scored._replace(mask=mask_from_scores(scored.scores, scored.keys, background(scored.scores)))
    return scored._replace(mask=mask_from_scores(scored.refined[1:], scored.keys, scored.refined[0]))
