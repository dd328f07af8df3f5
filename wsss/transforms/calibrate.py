"""Choosing the background's score for a collection from a sample of its images, without any mask."""

import functools
import operator

import apache_beam as beam

from wsss import files
from wsss.errors import UserError
from wsss.transforms.predict import PredictCAM
from wsss.transforms.read import ReadBatches
from wsss.transforms.refine import MergeScales, guarded, image_of


class ChooseThreshold(beam.PTransform):
    """`InputShard`s to a JSON file with `threshold`, the `rule` that chose it and the `pixels` read.

    The rule is that of `wsss.refine.auto_threshold`. Images that fail are left out here; they are listed when
    they are labelled.

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
        scored = (((shards | read).batches | predict).seeds | merge).results
        agreements = (scored | guarded("calibrate", _agreement)).results
        total = agreements | beam.CombineGlobally(_total)
        return total | "WriteThreshold" >> beam.Map(_write, self._path)


def _agreement(scored):
    from wsss.refine.auto_threshold import ThresholdAgreement

    agreement = ThresholdAgreement()
    agreement.update(image_of(scored), scored.scores)
    return agreement


def _total(agreements):
    from wsss.refine.auto_threshold import ThresholdAgreement

    return functools.reduce(operator.add, agreements, ThresholdAgreement())


def _write(agreement, path):
    threshold, rule = agreement.choose()
    threshold = None if threshold is None else round(threshold, 4)
    files.write_json(path, {"threshold": threshold, "rule": rule, "pixels": agreement.pixels})


def read_threshold(path):
    """The threshold in a file that `ChooseThreshold` wrote.

    Raises:
        UserError: no image had a class.
    """
    threshold = files.read_json(path)["threshold"]
    if threshold is None:
        raise UserError(
            "`--background_threshold auto` found no image with a class to choose from; pass a number instead."
        )
    return threshold
