"""The background threshold of a collection, from the CAMs of a sample of its images, without any mask.

The threshold is the mean, over the pixels of all images with a class, of the strongest class score: a pixel
is foreground where it scores above average, which adapts to how wide a network's CAMs are. Of eleven rules
without truth its worst loss on photographs is the least, see benchmarks/background_threshold.py.
"""

from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np

from wsss.common import io
from wsss.common.errors import UserError
from wsss.common.schema import Fields
from wsss.pipeline.stages.predict import CamSettings
from wsss.pipeline.stages.refine import ScoredImage
from wsss.pipeline.stages.scores import ScoreImages, StoredScores

_MICRO = 1_000_000


@dataclass(frozen=True)
class ChosenThreshold:
    """The content of `threshold.json`.

    Attributes:
        threshold: the background's score in [0, 1], or None where no image of the sample has a class.
        pixels: number of pixels that it is the mean of.
    """

    threshold: float | None
    pixels: int

    @classmethod
    def from_json(cls, value: Any, path: str) -> "ChosenThreshold":
        """From parsed JSON.

        Raises:
            UserError: a field is missing or malformed.
        """
        fields = Fields(value, path, "Remove it: the threshold is then chosen anew.")
        return cls(fields.get("threshold", float, None), fields.get("pixels", int))


class ChooseThreshold(beam.PTransform):
    """Mean of the strongest class scores over `InputShard`s, written as a `ChosenThreshold` to a JSON file.

    Images that fail are left out here; they are listed when they are labeled.

    Args:
        source: how scores are computed, or where they are stored.
        path: of the file.
    """

    def __init__(self, source: CamSettings | StoredScores, path: str):
        super().__init__()
        self._source, self._path = source, path
        self.with_resource_hints(**source.resource_hints)

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        scored = shards | ScoreImages(self._source)
        images = scored | "KeepImages" >> beam.Filter(lambda element: isinstance(element, ScoredImage))
        counts = images | "CountScores" >> beam.Map(count_scores)
        total = counts | beam.CombineGlobally(_AddCounts())
        return total | "WriteThreshold" >> beam.Map(_write, self._path)


def count_scores(scored: ScoredImage) -> np.ndarray:
    """int64 `(2,)` of an image: its pixels, and the sum of their strongest scores in millionths.

    Integers, so that the order of addition does not change the sum. An image without classes counts nothing.
    """
    if not scored.class_ids:
        return np.zeros(2, np.int64)
    strongest = scored.scores.max(axis=0)
    return np.array([strongest.size, round(strongest.sum(dtype=np.float64) * _MICRO)], np.int64)


class _AddCounts(beam.CombineFn):
    def create_accumulator(self):
        return np.zeros(2, np.int64)

    def add_input(self, accumulator, counts):
        return accumulator + counts

    def merge_accumulators(self, accumulators):
        return sum(accumulators, self.create_accumulator())

    def extract_output(self, accumulator):
        return accumulator


def _write(counts, path):
    pixels, total = (int(count) for count in counts)
    threshold = round(total / pixels / _MICRO, 4) if pixels else None
    io.write_json(path, {"threshold": threshold, "pixels": pixels})


def read_threshold(path: str) -> float:
    """The threshold in a file that `ChooseThreshold` wrote.

    Raises:
        UserError: no image had a class, or the file is damaged.
    """
    chosen = ChosenThreshold.from_json(io.read_json(path), path)
    if chosen.threshold is None:
        raise UserError(
            "`--background_threshold auto` found no image with a class to choose from; pass a number instead."
        )
    return chosen.threshold
