"""Writing pseudo labels: files keyed by image id, each atomically, so that repeating a bundle is harmless."""

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import apache_beam as beam
import numpy as np

from wsss.common import io
from wsss.data.images import decode_image, encode_mask, voc_palette
from wsss.data.records import format_example
from wsss.data.tfrecord import write_records
from wsss.pipeline.dead_letter import PASSED_ON
from wsss.pipeline.execution import measures, progress
from wsss.pipeline.output import Layout
from wsss.pipeline.stages.describe import ImageRow
from wsss.pipeline.stages.manifest import RecordFile
from wsss.pipeline.stages.refine import ScoredImage
from wsss.pipeline.stages.score import Tally
from wsss.visualization import heat_map, overlay, side_by_side


class LabeledImage(NamedTuple):
    """A `ScoredImage` with a mask, what it adds to the counts, and its row in `images.csv`."""

    scored: ScoredImage
    tally: Tally
    row: ImageRow


class WriteImages(beam.PTransform):
    """Writes the mask of each `LabeledImage`, and on request scores and picture; passes all on.

    A file that cannot be written stops the job: that is nothing about the image.

    Args:
        layout: the `Layout`.
        masks: whether masks are written as single PNGs.
        scores: whether the scores that the model gave are written.
        stored: where they are stored already, to be copied; None encodes them.
    """

    def __init__(
        self, layout: Layout, *, masks: bool = True, scores: bool = False, stored: Layout | None = None
    ):
        super().__init__()
        self._settings = layout, masks, scores, stored

    def expand(self, labeled: beam.PCollection) -> beam.PCollection:
        return labeled | beam.Map(_write_image, *self._settings)


def _write_image(labeled, layout, masks, scores, stored):
    if isinstance(labeled, PASSED_ON):
        return labeled
    scored = labeled.scored
    image_id = scored.input.record.image_id
    with measures.timed("writing"):
        if masks:
            _write(layout, layout.mask(image_id), encode_mask(scored.mask, voc_palette()))
        if scores:
            if stored is None:
                _write(layout, layout.scores(image_id), scored.by_model.encode())
            else:  # to compress them anew takes longer than all else
                io.copy(stored.scores(image_id), layout.free(layout.scores(image_id)))
        if scored.input.preview:
            _write(layout, layout.preview(image_id), _preview(scored))
    measures.count("images_labeled")
    progress.tick()
    return labeled


def _write(layout, path, content):
    io.write_bytes(layout.free(path), content)
    measures.count("bytes_written", len(content))


def _preview(scored):
    record = scored.input.record
    image = decode_image(record.image_bytes, record.orientation)
    strongest = scored.scores.max(axis=0) if len(scored.class_ids) else np.zeros(image.shape[:2], np.float32)
    pictures = [image, heat_map(image, strongest), overlay(image, scored.mask)]
    if record.mask is not None:
        pictures.append(overlay(image, record.mask))
    return side_by_side(pictures)


def format_record(labeled: LabeledImage) -> tuple[str, bytes]:
    """`(image_id, serialized)`: the image's record with the pseudo label in the place of the true mask."""
    scored = labeled.scored
    assert scored.mask is not None  # the stages before give one
    record = replace(scored.input.record, labels=scored.class_ids, mask_bytes=encode_mask(scored.mask))
    return record.image_id, format_example(record)


def write_record_file(layout: Layout, name: str, records: Iterable[tuple[str, bytes]]) -> RecordFile:
    """Writes the TFRecord file of a shard, which may be empty.

    Args:
        layout: the `Layout`.
        name: of the file.
        records: those that `format_record` gave, in any order.
    """
    path = layout.free(layout.path(name))
    with measures.timed("writing"):
        count, size = write_records(path, [serialized for _, serialized in sorted(records)])
    measures.count("bytes_written", size)
    return RecordFile(count, size, name)
