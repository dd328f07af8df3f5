"""Writing pseudo labels: files keyed by image id, each atomically, so that repeating a bundle is harmless."""

from dataclasses import replace
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.metrics import Metrics

from wsss.common import io
from wsss.data.dataset import format_example
from wsss.data.images import decode_image, encode_mask, voc_palette
from wsss.data.tfrecord import write_records
from wsss.pipeline import progress
from wsss.pipeline.dead_letter import NAMESPACE
from wsss.pipeline.output import Layout, encode_scores
from wsss.pipeline.stages.manifest import RecordFile
from wsss.visualization import heat_map, overlay, side_by_side

_images_labeled = Metrics.counter(NAMESPACE, "images_labeled")


class WriteImages(beam.PTransform):
    """Writes the mask of each `LabeledImage`, and on request scores and picture; passes the image on.

    A file that cannot be written stops the job: that is nothing about the image.

    Args:
        layout: the `Layout`.
        masks: whether masks are written as single PNGs.
        scores: whether scores are written.
    """

    def __init__(self, layout: Layout, *, masks: bool = True, scores: bool = False):
        super().__init__()
        self._layout, self._masks, self._scores = layout, masks, scores

    def expand(self, labeled: beam.PCollection) -> beam.PCollection:
        return labeled | beam.Map(_write_image, self._layout, self._masks, self._scores)


class WriteRecords(beam.PTransform):
    """Writes one TFRecord file a shard, with the pseudo label in the place of the true mask.

    Together with TFDS's metadata the files are a collection like the one that was read: a segmentation
    network trains on it as on any other. Takes `(shards, LabeledImages)`, gives pairs of the
    shard's name and its `RecordFile`.

    Args:
        layout: the `Layout`.
        file_names: dict of the shard's name to the name of the file.
    """

    def __init__(self, layout: Layout, file_names: Any):
        super().__init__()
        self._layout, self._file_names = layout, file_names

    def expand(self, inputs: Any) -> beam.PCollection:
        shards, labeled = inputs
        members = (
            shards | "OpenFile" >> beam.Map(lambda shard: (shard.name, None)),  # a shard may end up empty
            labeled | "FormatRecord" >> beam.Map(_format),
        )
        return (
            members
            | beam.Flatten()
            | "GroupByShard" >> beam.GroupByKey()
            | "WriteFile" >> beam.Map(_write_file, self._layout, self._file_names)
        )


def _write_image(labeled, layout, masks, scores):
    scored = labeled.scored
    image_id = scored.input.record.image_id
    if masks:
        io.write_bytes(layout.free(layout.mask(image_id)), encode_mask(scored.mask, voc_palette()))
    if scores:
        io.write_bytes(layout.free(layout.scores(image_id)), encode_scores(scored.scores, scored.class_ids))
    if scored.input.preview:
        io.write_bytes(layout.free(layout.preview(image_id)), _preview(scored))
    _images_labeled.inc()
    progress.tick()
    return labeled


def _preview(scored):
    record = scored.input.record
    image = decode_image(record.image_bytes, record.orientation)
    strongest = scored.scores.max(axis=0) if len(scored.class_ids) else np.zeros(image.shape[:2], np.float32)
    pictures = [image, heat_map(image, strongest), overlay(image, scored.mask)]
    if record.mask is not None:
        pictures.append(overlay(image, record.mask))
    return side_by_side(pictures)


def _format(labeled):
    scored = labeled.scored
    record = replace(scored.input.record, labels=scored.class_ids, mask_bytes=encode_mask(scored.mask))
    return scored.input.shard, (record.image_id, format_example(record))


def _write_file(shard_and_members, layout, file_names):
    shard, members = shard_and_members
    path = layout.free(layout.path(file_names[shard]))
    records = sorted(member for member in members if member is not None)
    count, size = write_records(path, [serialized for _, serialized in records])
    return shard, RecordFile(count, size, file_names[shard])
