"""The graph of the pipeline: shards of images to pseudo labels on disk, and a manifest a shard."""

from dataclasses import dataclass, replace

import apache_beam as beam

from wsss.common import io
from wsss.pipeline.dead_letter import with_dead_letter
from wsss.pipeline.output import Layout
from wsss.pipeline.stages.describe import DescribeSettings, describe_image
from wsss.pipeline.stages.finish import FinishShards
from wsss.pipeline.stages.predict import CamSettings
from wsss.pipeline.stages.refine import RefinementSettings, refinement_stages
from wsss.pipeline.stages.score import iou_of_image, tally_image
from wsss.pipeline.stages.scores import ScoreImages, StoredScores
from wsss.pipeline.stages.write import LabeledImage, WriteImages


@dataclass(frozen=True)
class WriteSettings:
    """What is written, and where.

    Attributes:
        layout: the `Layout` of the output.
        classes: number of classes with the background.
        record_files: dict of shard to file name, for TFRecord output; None writes PNGs.
        scores: whether class scores are written.
        pictures: how many of the worst and best images of a shard are kept for the report.
        repeats: whether the runner repeats a bundle that raises.
    """

    layout: Layout
    classes: int
    record_files: dict[str, str] | None = None
    scores: bool = False
    pictures: int = 0
    repeats: bool = False


class LabelShards(beam.PTransform):
    """Pseudo labels of `InputShard`s, written to disk; gives the names of the shards that are finished.

    From the reader to the manifest no stage shuffles: a shard is finished as soon as its own images are, and
    not when those of the whole job are.

    Beam binds a transform to the pipeline that it is first applied in: each pipeline takes one of its own.

    Args:
        source: how scores are computed, or where they are stored.
        refinement: how they become masks.
        writing: what is written, and where.
    """

    def __init__(
        self, source: CamSettings | StoredScores, refinement: RefinementSettings, writing: WriteSettings
    ):
        super().__init__()
        self._source, self._refinement, self._writing = source, refinement, writing
        # Of all stages, since they run on the same worker: PAMR and walk use the accelerator too.
        self.with_resource_hints(**source.resource_hints)

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        writing = self._writing
        unfinished = shards | "SkipFinished" >> beam.Filter(_is_unfinished, writing.layout)
        elements = unfinished | ScoreImages(self._source)
        for stage in refinement_stages(self._refinement):
            elements |= stage
        is_segmentation = self._refinement.write == "masks"
        settings = writing.classes, self._describe_settings(), is_segmentation
        count = with_dead_letter("score", _count, *settings)
        elements |= "CountPixels" >> count
        as_images = writing.record_files is None
        stored = self._source.layout if isinstance(self._source, StoredScores) else None
        elements |= WriteImages(writing.layout, masks=as_images, scores=writing.scores, stored=stored)
        return elements | FinishShards(
            writing.layout,
            writing.record_files,
            pictures=writing.pictures,
            scores=writing.scores,
            repeats=writing.repeats,
        )

    def _describe_settings(self):
        source = self._source
        background = self._refinement.background
        return DescribeSettings(source.label_threshold, source.image_labels == "predicted", background)


def _count(scored, classes, describe_settings, is_segmentation):
    tally, row = tally_image(scored, classes), describe_image(scored, describe_settings)
    # Confident labels for a network of affinities leave most pixels open: of them no IoU is given.
    if is_segmentation and tally.confusion is not None:
        row = replace(row, iou=iou_of_image(tally.confusion))
    return LabeledImage(scored, tally, row)


def _is_unfinished(shard, layout):
    """False where an attempt before, by this job, has finished the shard: the plan holds no finished ones."""
    return not io.exists(layout.manifest(shard.name))
