"""The graph of the pipeline: shards of images to pseudo labels on disk, and a manifest a shard."""

from dataclasses import dataclass
from typing import NamedTuple

import apache_beam as beam

from wsss.pipeline.dead_letter import FAILURES, count_failure, with_dead_letter
from wsss.pipeline.output import Layout
from wsss.pipeline.stages.describe import DescribeSettings, ImageRow, describe_image
from wsss.pipeline.stages.manifest import WriteManifests
from wsss.pipeline.stages.predict import CamSettings, ComputeCAMs
from wsss.pipeline.stages.refine import RefinementSettings, ScoredImage, refinement_stages
from wsss.pipeline.stages.score import Tally, tally_image
from wsss.pipeline.stages.write import WriteImages, WriteRecords


@dataclass(frozen=True)
class WriteSettings:
    """What is written, and where.

    Attributes:
        layout: the `Layout` of the output.
        classes: number of classes with the background.
        record_files: dict of shard to file name, for TFRecord output; None writes PNGs.
        scores: whether class scores are written.
    """

    layout: Layout
    classes: int
    record_files: dict[str, str] | None = None
    scores: bool = False


class LabeledImage(NamedTuple):
    """A `ScoredImage` with a mask, what it adds to the counts, and its row in `images.csv`."""

    scored: ScoredImage
    tally: Tally
    row: ImageRow


class LabelShards(beam.PTransform):
    """Pseudo labels of `InputShard`s, written to disk; gives the names of the shards that are finished.

    Beam binds a transform to the pipeline that it is first applied in: each pipeline takes one of its own.

    Args:
        cams: how CAMs are computed.
        refinement: how they become masks.
        writing: what is written, and where.
        reshuffle: whether inference and CRF run on different workers, with a shuffle of the CAMs between.
    """

    def __init__(
        self,
        cams: CamSettings,
        refinement: RefinementSettings,
        writing: WriteSettings,
        *,
        reshuffle: bool = False,
    ):
        super().__init__()
        self._cams, self._refinement, self._writing = cams, refinement, writing
        self._reshuffle = reshuffle

    def expand(self, shards: beam.PCollection) -> beam.PCollection:
        writing = self._writing
        cams = shards | ComputeCAMs(self._cams)
        elements, failures = cams["image_cams"], [cams[FAILURES]]
        if self._reshuffle:
            elements |= beam.Reshuffle()
        for stage in refinement_stages(self._refinement):
            outputs = elements | stage
            elements = outputs.results
            failures.append(outputs[FAILURES])
        count = with_dead_letter("score", _count, writing.classes, self._describe_settings())
        counted = elements | "CountPixels" >> count
        failures.append(counted[FAILURES])
        as_images = writing.record_files is None
        written = counted.results | WriteImages(writing.layout, masks=as_images, scores=writing.scores)

        inputs = {
            "shards": shards,
            "tallies": (
                failures | beam.Flatten() | "TallyFailures" >> beam.Map(_tally_failure),
                written | "TallyImages" >> beam.Map(lambda image: (image.scored.input.shard, image.tally)),
            )
            | "AllTallies" >> beam.Flatten(),
            "rows": written | "Rows" >> beam.Map(lambda image: (image.scored.input.shard, image.row)),
        }
        if not as_images:
            inputs["records"] = (shards, written) | WriteRecords(writing.layout, writing.record_files)
        return inputs | WriteManifests(writing.layout)

    def _describe_settings(self):
        cams = self._cams
        threshold = self._refinement.background.threshold
        return DescribeSettings(cams.label_threshold, cams.image_labels == "predicted", threshold)


def _count(scored, classes, describe_settings):
    return LabeledImage(scored, tally_image(scored, classes), describe_image(scored, describe_settings))


def _tally_failure(failure):
    count_failure(failure)
    return failure.shard, Tally(failures=(failure,))
