"""Choosing the background's score for a collection from a sample of its images, without any mask.

The score is the mean, over the pixels of all images with a class, of the strongest class score: a pixel is
a thing where it scores above average. That adapts to how wide a network's maps are. Of eleven rules without
truth it is the one whose worst loss on photographs is least, see benchmarks/background_threshold.py.
"""

import apache_beam as beam
import numpy as np

from wsss.common import io
from wsss.common.errors import UserError
from wsss.pipeline.stages.predict import PredictCAM
from wsss.pipeline.stages.read import ReadBatches
from wsss.pipeline.stages.refine import MergeScales

_MICRO = 1_000_000


class ChooseThreshold(beam.PTransform):
    """`InputShard`s to a JSON file with `threshold` and the number of `pixels` that it is the mean of.

    Images that fail are left out here; they are listed when they are labelled.

    Args:
        collection: the `Collection` that is read, or None for a folder of images.
        path: of the file.
        handler: a `CamModelHandler`.
        image_labels, label_threshold: see `PredictCAM`.
        batch_size: images in a batch, at most.
    """

    def __init__(self, collection, path, handler, *, image_labels, label_threshold, batch_size):
        super().__init__()
        self._stages = (
            ReadBatches(collection, batch_size),
            PredictCAM(handler, image_labels, label_threshold),
            MergeScales(),
        )
        self._path = path

    def expand(self, shards):
        read, predict, merge = self._stages
        scored = (((shards | read).batches | predict).image_cams | merge).results
        total = scored | "CountScores" >> beam.Map(count_scores) | beam.CombineGlobally(_AddCounts())
        return total | "WriteThreshold" >> beam.Map(_write, self._path)


def count_scores(scored):
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


def read_threshold(path):
    """The threshold in a file that `ChooseThreshold` wrote.

    Raises:
        UserError: no image had a class.
    """
    threshold = io.read_json(path)["threshold"]
    if threshold is None:
        raise UserError(
            "`--background_threshold auto` found no image with a class to choose from; pass a number instead."
        )
    return threshold
