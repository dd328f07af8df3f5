"""Choosing the background's score for a collection from a sample of its images, without any mask."""

import apache_beam as beam

from wsss import files
from wsss.contours import ContourContrast
from wsss.data.images import decode_image
from wsss.transforms.predict import PredictCAM
from wsss.transforms.read import ReadBatches
from wsss.transforms.refine import MergeScales, guarded


class ChooseThreshold(beam.PTransform):
    """`InputShard`s to a JSON file with the threshold whose contours have the strongest contrast.

    Images that fail are left out here; they are listed when they are labelled.

    Args:
        collection: the `Collection` that is read, or None for a folder of images.
        path: of the file: `threshold`, `thresholds` and the `contrast` at each.
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
        scored = (((shards | read).batches | predict).seeds | merge).results
        measured = scored | "MeasureContours" >> guarded("calibrate", _measure)
        total = measured.results | beam.CombineGlobally(_AddContrasts())
        return total | "WriteThreshold" >> beam.Map(_write, self._path)


class _AddContrasts(beam.CombineFn):
    def create_accumulator(self):
        return ContourContrast()

    def add_input(self, accumulator, contrast):
        return accumulator + contrast

    def merge_accumulators(self, accumulators):
        return sum(accumulators, ContourContrast())

    def extract_output(self, accumulator):
        return accumulator


def _measure(scored):
    contrast = ContourContrast()
    record = scored.item.record
    contrast.update(decode_image(record.image_bytes, record.orientation), scored.scores)
    return contrast


def _write(contrast, path):
    curve = [float(value) for value in contrast.curve()]
    value = {"threshold": contrast.best(), "thresholds": contrast.thresholds.tolist(), "contrast": curve}
    files.write_json(path, value)
    return value["threshold"]
